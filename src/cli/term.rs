//! Owns what the terminal is told and asked: lines, moments, questions.
//! Whatever comes from elsewhere loses its control characters here, so that no name can paint over a line.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use zeroize::Zeroizing;

use crate::exit::ExitError;

/// The longest line that is read from standard input, in bytes.
const LONGEST: u16 = 4096;

/// Prints one line. When nobody reads any more, the program ends quietly: it was that reader's own wish.
pub(super) fn say(line: &str) -> Result<(), ExitError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|error| unwritten(&error))
}

/// Why a line could not be printed; nothing to complain of when its reader has gone.
pub(super) fn unwritten(error: &io::Error) -> ExitError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return ExitError {
            code: 0,
            message: String::new(),
        };
    }
    ExitError::failed(format!(
        "the answer cannot be written: {error}; check where standard output goes"
    ))
}

/// One line on standard error. A closed one is nobody's to complain to.
pub(super) fn complain(message: &str) {
    let _ = writeln!(io::stderr().lock(), "hairpin: {}", clean(message));
}

/// The text without control characters.
pub(super) fn clean(text: &str) -> String {
    text.chars()
        .map(|sign| if sign.is_control() { '?' } else { sign })
        .collect()
}

/// Asks for a number: with a prompt at a terminal, else one line of standard input.
pub(super) fn ask_for_number() -> Result<Zeroizing<String>, ExitError> {
    if io::stdin().is_terminal() {
        prompt("Phone number: ");
    }
    read_line()
}

/// Asks without ending the line. It goes to standard error: standard output holds answers.
pub(super) fn prompt(question: &str) {
    let mut err = io::stderr().lock();
    // Whoever closed it sees no question, and answers none.
    let _ = write!(err, "{question}").and_then(|()| err.flush());
}

/// One line of standard input, without its end.
pub(super) fn read_line() -> Result<Zeroizing<String>, ExitError> {
    let mut line = Zeroizing::new(Vec::with_capacity(usize::from(LONGEST)));
    io::stdin()
        .lock()
        .take(u64::from(LONGEST))
        .read_until(b'\n', &mut line)
        .map_err(|error| ExitError::failed(format!("standard input cannot be read: {error}")))?;
    let text = String::from_utf8_lossy(&line);
    Ok(Zeroizing::new(
        text.trim_end_matches(['\r', '\n']).to_owned(),
    ))
}

/// The present moment, in Unix milliseconds.
pub(super) fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}

/// A moment in Unix milliseconds: `2025-11-25 04:55:01 UTC`.
pub(super) fn moment(at: i64) -> String {
    let seconds = at.div_euclid(1000);
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

/// The Gregorian date of a day since 1970, counted in eras of 400 years that begin with a March.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_based = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_based + 2) / 5 + 1;
    let month = if march_based < 10 {
        march_based + 3
    } else {
        march_based - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// A length of time in its two largest units: `3 d 4 h`, `2 min 50 s`.
pub(super) fn span(seconds: u64) -> String {
    let units = [("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)];
    let mut left = seconds;
    let parts: Vec<String> = units
        .into_iter()
        .filter_map(|(name, length)| {
            let count = left / length;
            left %= length;
            (count > 0).then(|| format!("{count} {name}"))
        })
        .take(2)
        .collect();
    if parts.is_empty() {
        "0 s".to_owned()
    } else {
        parts.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates() {
        for (at, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (-1, "1969-12-31 23:59:59 UTC"),
            (951_782_400_000, "2000-02-29 00:00:00 UTC"),
            (1_709_251_199_999, "2024-02-29 23:59:59 UTC"),
            (1_740_787_200_000, "2025-03-01 00:00:00 UTC"),
            (1_764_046_501_000, "2025-11-25 04:55:01 UTC"),
            (4_107_542_400_000, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(moment(at), text);
        }
    }

    #[test]
    fn spans_name_two_units() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (170, "2 min 50 s"),
            (3600, "1 h"),
            (90_061, "1 d 1 h"),
            (86_401, "1 d 1 s"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn nothing_paints_over_a_line() {
        assert_eq!(clean("Салон\u{1b}[2K\r\u{9b}x\n"), "Салон?[2K??x?");
    }
}
