//! Owns how a code is shown: on one line that is kept up to date at a terminal, on plain lines otherwise.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::time::Instant;

use super::term;
use crate::exit::ExitError;

/// Seconds left at which a plain line is written.
const MARKS: [u64; 4] = [120, 60, 30, 10];

/// A code and the moment it stops being shown.
pub(super) struct Countdown {
    code: zeroize::Zeroizing<String>,
    deadline: Instant,
    shown: Option<u64>,
}

impl Countdown {
    pub(super) fn new(code: &str, seconds: u64) -> Self {
        Self {
            code: zeroize::Zeroizing::new(term::clean(code)),
            deadline: Instant::now() + Duration::from_secs(seconds),
            shown: None,
        }
    }

    fn left(&self, now: Instant) -> u64 {
        // Rounded up, so that the first second is the one that was told.
        self.deadline
            .saturating_duration_since(now)
            .as_millis()
            .div_ceil(1000)
            .try_into()
            .unwrap_or(u64::MAX)
    }

    /// When there is something new to show; none once the time is over.
    pub(super) fn next(&self) -> Option<Instant> {
        match self.shown {
            None => Some(Instant::now()),
            Some(0) => None,
            Some(left) => self.deadline.checked_sub(Duration::from_secs(left - 1)),
        }
    }
}

/// Standard output while a code is open.
pub(super) struct Screen {
    terminal: bool,
    /// There is an unfinished line.
    open: bool,
    /// Nobody reads any more; the linking goes on.
    closed: bool,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self {
            terminal: io::stdout().is_terminal(),
            open: false,
            closed: false,
        }
    }

    /// A whole line.
    pub(super) fn line(&mut self, text: &str) -> Result<(), ExitError> {
        self.finish()?;
        self.write(&format!("{text}\n"))
    }

    /// Ends the line that was kept up to date.
    pub(super) fn finish(&mut self) -> Result<(), ExitError> {
        if std::mem::take(&mut self.open) {
            self.write("\n")?;
        }
        Ok(())
    }

    /// Shows the time that is left.
    pub(super) fn tick(&mut self, countdown: &mut Countdown) -> Result<(), ExitError> {
        let left = countdown.left(Instant::now());
        if countdown.shown == Some(left) {
            return Ok(());
        }
        let before = countdown.shown.replace(left);
        if self.terminal {
            self.open = true;
            return self.write(&format!("\r\u{1b}[2K{}", running(&countdown.code, left)));
        }
        match plain(&countdown.code, before, left) {
            Some(line) => self.line(&line),
            None => Ok(()),
        }
    }

    fn write(&mut self, text: &str) -> Result<(), ExitError> {
        if self.closed {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            other => other.map_err(|error| term::unwritten(&error)),
        }
    }
}

/// The line that is kept up to date.
fn running(code: &str, left: u64) -> String {
    if left == 0 {
        return format!("{code}   its time is over; a phone that was quick enough still links");
    }
    format!("{code}   {}:{:02} left", left / 60, left % 60)
}

/// What a plain line says when the time left has changed, if it says anything.
fn plain(code: &str, before: Option<u64>, left: u64) -> Option<String> {
    match before {
        None => Some(format!("{code}   {left} s left")),
        Some(_) if left == 0 => {
            Some("Its time is over; a phone that was quick enough still links.".to_owned())
        }
        Some(before) => MARKS
            .iter()
            .any(|&mark| left <= mark && mark < before)
            .then(|| format!("{left} s left")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_line_counts_minutes_and_seconds() {
        assert_eq!(running("ABCD-EFGH", 170), "ABCD-EFGH   2:50 left");
        assert_eq!(running("ABCD-EFGH", 9), "ABCD-EFGH   0:09 left");
        assert!(running("ABCD-EFGH", 0).contains("over"));
    }

    #[test]
    fn plain_lines_come_at_the_marks_only() {
        assert_eq!(
            plain("ABCD-EFGH", None, 170).as_deref(),
            Some("ABCD-EFGH   170 s left")
        );
        let mut before = 170;
        let mut lines = Vec::new();
        for left in (0..170).rev() {
            lines.extend(plain("ABCD-EFGH", Some(before), left));
            before = left;
        }
        assert_eq!(
            lines,
            [
                "120 s left",
                "60 s left",
                "30 s left",
                "10 s left",
                "Its time is over; a phone that was quick enough still links."
            ]
        );
        // A machine that slept over a mark says the one it finds.
        assert_eq!(
            plain("ABCD-EFGH", Some(125), 40).as_deref(),
            Some("40 s left")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn every_second_is_a_new_one_until_the_last() {
        let mut countdown = Countdown::new("ABCD-EFGH", 3);
        let mut seen = Vec::new();
        while let Some(next) = countdown.next() {
            tokio::time::sleep_until(next).await;
            let left = countdown.left(Instant::now());
            countdown.shown = Some(left);
            seen.push(left);
        }
        assert_eq!(seen, [3, 2, 1, 0]);
    }
}
