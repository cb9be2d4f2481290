//! Owns how the page's text files leave: without indentation, comments and idle line ends, which only their authors read.
//! Shared with the build, which gzips the same bytes. It knows no grammar: what it takes is safe by the house's own style.

/// The text as browsers get it, or nothing where the file leaves as it is.
pub fn slim(name: &str, text: &[u8]) -> Option<Vec<u8>> {
    let (comment, end) = match name.rsplit_once('.')?.1 {
        "js" => ("//", ""),
        "css" => ("/*", "*/"),
        "html" => ("<!--", "-->"),
        _ => return None,
    };
    let is_script = comment == "//";
    let mut slim = String::with_capacity(text.len());
    for line in std::str::from_utf8(text).ok()?.lines().map(str::trim) {
        let is_comment = line.starts_with(comment) && line.ends_with(end);
        let line = if is_script { uncommented(line) } else { line };
        if line.is_empty() || is_comment {
            continue;
        }
        slim.push_str(line);
        // A statement, a block or a list goes on anyway; a comment that is left must end with its line.
        let goes_on = line.ends_with(['{', ';', ',', '(', '[']);
        if !(is_script && goes_on && !line.contains("//")) {
            slim.push('\n');
        }
    }
    Some(slim.into_bytes())
}

/// A line of script without the comment behind it, where that cannot be part of a text.
fn uncommented(line: &str) -> &str {
    match line.split_once(" // ") {
        Some((code, comment)) if !comment.contains(['\'', '"', '`']) => code.trim_end(),
        _ => line,
    }
}
