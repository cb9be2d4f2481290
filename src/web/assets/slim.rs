//! Owns how the page's text files leave: without indentation, comments and idle spaces, which only their authors read.
//! Shared with the build, which gzips the same bytes. It knows no grammar: what it takes is safe in the house's own style
//! (statements end with a semicolon, no text goes over a line or holds a quote of its own kind,
//! in the page no words go over a line).

/// How a kind of file is written.
struct Kind {
    /// What a comment that fills a line begins and ends with.
    comment: (&'static str, &'static str),
    /// After these a line's end says nothing.
    goes_on: &'static [char],
    /// Before these neither.
    closes: &'static [char],
    /// Beside these a space says nothing.
    idle: &'static [char],
}

const SCRIPT: Kind = Kind {
    comment: ("//", ""),
    goes_on: &['{', '}', ';', ',', '(', '['],
    closes: &['}', ')', ']', '.'],
    idle: &[
        '=', '<', '>', '&', '|', '?', ':', ',', ';', '{', '}', '(', ')',
    ],
};

const STYLE: Kind = Kind {
    comment: ("/*", "*/"),
    goes_on: &['{', '}', ';', ','],
    closes: &['}'],
    idle: &[',', '{', '}'],
};

const TEXTS: Kind = Kind {
    comment: ("\0", ""),
    goes_on: &['{', ','],
    closes: &['}'],
    idle: &[],
};

const PAGE: Kind = Kind {
    comment: ("<!--", "-->"),
    goes_on: &['>'],
    closes: &[],
    idle: &[],
};

/// The text as browsers get it, or nothing where the file leaves as it is.
pub fn slim(name: &str, text: &[u8]) -> Option<Vec<u8>> {
    let kind = match name.rsplit_once('.')?.1 {
        "js" => SCRIPT,
        "css" => STYLE,
        "json" => TEXTS,
        "html" => PAGE,
        _ => return None,
    };
    let mut slim = String::with_capacity(text.len());
    for line in std::str::from_utf8(text).ok()?.lines().map(str::trim) {
        let (starts, ends) = kind.comment;
        if line.is_empty() || line.starts_with(starts) && line.ends_with(ends) {
            continue;
        }
        if slim.ends_with('\n') && line.starts_with(kind.closes) && !last_line(&slim).contains("//")
        {
            slim.pop();
        }
        let line = if starts == "//" {
            uncommented(line)
        } else {
            line
        };
        tighten(line, kind.idle, &mut slim);
        // A comment that is left must end with its line.
        if !line.ends_with(kind.goes_on) || starts == "//" && line.contains("//") {
            slim.push('\n');
        }
    }
    Some(slim.into_bytes())
}

fn last_line(text: &str) -> &str {
    let text = text.trim_end();
    text.rsplit_once('\n').map_or(text, |(_, last)| last)
}

/// A line of script without the comment behind it, where that cannot be part of a text.
fn uncommented(line: &str) -> &str {
    match line.split_once(" // ") {
        Some((code, comment)) if !comment.contains(['\'', '"', '`']) => code.trim_end(),
        _ => line,
    }
}

/// Takes the idle spaces between texts; a line with a pattern or a template in it stays as it is.
fn tighten(line: &str, idle: &[char], slim: &mut String) {
    if line.contains(['`', '/']) {
        slim.push_str(line);
        return;
    }
    let mut quote = None;
    let mut signs = line.chars().peekable();
    while let Some(sign) = signs.next() {
        if matches!(sign, '\'' | '"') && quote.is_none_or(|quote| quote == sign) {
            quote = if quote.is_none() { Some(sign) } else { None };
        }
        let is_idle = sign == ' '
            && quote.is_none()
            && (slim.ends_with(idle) || signs.peek().is_some_and(|next| idle.contains(next)));
        if !is_idle {
            slim.push(sign);
        }
    }
}
