//! Owns what is promised of everything that is read from outside, whatever it is: a module per kind of input, each
//! with a `run` that panics where a promise is broken.
//!
//! libFuzzer calls them with input of its own (`fuzz/run`), the tests with every file under `fuzz/corpus`.

pub mod backup;
pub mod head;
pub mod message;
pub mod phone;
pub mod record;
pub mod settings;
pub mod store;

/// Cuts a line off; what has no end is a line as well.
fn line(text: &str) -> (&str, &str) {
    text.split_once('\n').unwrap_or((text, ""))
}

/// One line that a terminal may be shown.
fn is_one_plain_line(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control)
}
