//! Owns how the page's text files leave: without indentation and lines of comment, which only their authors read.
//! Shared with the build, which gzips the same bytes.

/// The text as browsers get it, or nothing where the file leaves as it is.
pub fn slim(name: &str, text: &[u8]) -> Option<Vec<u8>> {
    let (comment, end) = match name.rsplit_once('.')?.1 {
        "js" => ("//", ""),
        "css" => ("/*", "*/"),
        "html" => ("<!--", "-->"),
        _ => return None,
    };
    let mut slim = String::with_capacity(text.len());
    for line in std::str::from_utf8(text).ok()?.lines().map(str::trim) {
        let is_comment = line.starts_with(comment) && line.ends_with(end);
        if !line.is_empty() && !is_comment {
            slim.push_str(line);
            slim.push('\n');
        }
    }
    Some(slim.into_bytes())
}
