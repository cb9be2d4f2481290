//! Owns the log: text or JSON on standard error, journald's levels under systemd.
//! An allow-list of our own targets: the library logs numbers and codes at info, so nothing of it passes, whatever is asked for.

use std::fmt::{self, Write as _};
use std::io::IsTerminal;
use std::panic::PanicHookInfo;

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry, filter};

use crate::mask;

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// For people.
    Text {
        /// With colours.
        colours: bool,
    },
    /// With journald's level before each line.
    Journal,
    /// One JSON object a line.
    Json,
}

/// Whether standard error is the journal.
#[must_use]
pub fn stderr_is_journal() -> bool {
    is_journal(std::io::stderr())
}

/// Whether standard output is the journal.
#[must_use]
pub fn stdout_is_journal() -> bool {
    is_journal(std::io::stdout())
}

/// `JOURNAL_STREAM` names device and inode of the journal's socket.
fn is_journal(stream: impl std::os::fd::AsFd) -> bool {
    let Some((device, inode)) = std::env::var("JOURNAL_STREAM").ok().and_then(|stream| {
        let (device, inode) = stream.split_once(':')?;
        Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?))
    }) else {
        return false;
    };
    rustix::fs::fstat(stream).is_ok_and(|stat| stat.st_dev == device && stat.st_ino == inode)
}

/// Sets the log up for the whole process; a second call changes nothing.
pub fn init(json: bool) {
    let style = if json {
        Style::Json
    } else if stderr_is_journal() {
        Style::Journal
    } else {
        Style::Text {
            colours: std::io::stderr().is_terminal(),
        }
    };
    let level = level(
        std::env::var("HAIRPIN_LOG")
            .or_else(|_| std::env::var("RUST_LOG"))
            .ok()
            .as_deref(),
    );
    // Fails only when a log is set up already, as in tests.
    let _ = tracing::subscriber::set_global_default(subscriber(style, level, std::io::stderr));
    std::panic::set_hook(Box::new(|panic| tell_panic(panic)));
}

/// A bare level word sets the level of our own lines; anything else is read as `info`.
fn level(asked: Option<&str>) -> Level {
    asked
        .and_then(|word| word.trim().parse().ok())
        .unwrap_or(Level::INFO)
}

/// Whether a line may be written.
fn is_ours(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    target == "hairpin" || target.starts_with("hairpin::")
}

/// The subscriber that [`init`] installs, for a writer of one's own.
pub fn subscriber<W>(style: Style, level: Level, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let allowed =
        filter::filter_fn(move |metadata| is_ours(metadata) && *metadata.level() <= level);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match style {
        Style::Json => tracing_subscriber::fmt::layer()
            .json()
            .with_writer(writer)
            .boxed(),
        Style::Text { colours } => tracing_subscriber::fmt::layer()
            .with_ansi(colours)
            .with_target(false)
            .with_writer(writer)
            .boxed(),
        Style::Journal => tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .event_format(Journal)
            .with_writer(writer)
            .boxed(),
    };
    Registry::default().with(layer.with_filter(allowed))
}

/// journald adds the time itself.
struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: format::Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{level}>")?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// A panic is told by its place; of its words every longer run of digits is masked.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    let words = panic
        .payload()
        .downcast_ref::<&str>()
        .map(|words| (*words).to_owned())
        .or_else(|| panic.payload().downcast_ref::<String>().cloned())
        .unwrap_or_default();
    let place = panic.location().map_or_else(String::new, |place| {
        format!(
            "{}:{}",
            place.file().rsplit('/').next().unwrap_or(""),
            place.line()
        )
    });
    tracing::error!(%place, words = %without_numbers(&words), "a fault of ours");
}

/// The text with every run of six digits or more masked.
fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    let mut run = String::new();
    let flush = |run: &mut String, out: &mut String| {
        if run.len() >= 6 {
            out.push_str(&mask::digits(run));
        } else {
            out.push_str(run);
        }
        run.clear();
    };
    for sign in text.chars() {
        if sign.is_ascii_digit() {
            run.push(sign);
        } else {
            flush(&mut run, &mut out);
            // Writing into a String does not fail.
            let _ = out.write_char(sign);
        }
    }
    flush(&mut run, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex, PoisonError};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Sink {
        fn text(&self) -> String {
            String::from_utf8(
                self.0
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone(),
            )
            .expect("text")
        }
    }

    fn logged(style: Style, level: Level, log: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        tracing::subscriber::with_default(subscriber(style, level, move || writer.clone()), log);
        sink.text()
    }

    fn everything() {
        tracing::error!(target: "whatsapp_rust::client", "79001234567");
        tracing::info!(target: "Client/PairCode", "ABCD-EFGH");
        tracing::error!(target: "hairpinned", "not ours either");
        tracing::warn!(target: "hairpin::session", phone = "79001***567", "ours");
        tracing::trace!(target: "hairpin::link", "a detail");
    }

    #[test]
    fn only_our_own_targets_are_written_however_verbose() {
        let text = logged(Style::Text { colours: false }, Level::TRACE, everything);
        assert!(text.contains("ours") && text.contains("a detail"), "{text}");
        assert!(
            !text.contains("79001234567")
                && !text.contains("ABCD-EFGH")
                && !text.contains("either"),
            "{text}"
        );
        let text = logged(Style::Text { colours: false }, Level::INFO, everything);
        assert!(!text.contains("a detail"), "{text}");
    }

    #[test]
    fn json_lines_parse_and_journal_lines_carry_their_level() {
        let text = logged(Style::Json, Level::INFO, everything);
        let line: serde_json::Value = serde_json::from_str(text.trim()).expect("one JSON line");
        assert_eq!(line["level"], "WARN");
        let text = logged(Style::Journal, Level::INFO, everything);
        assert!(text.starts_with("<4>ours"), "{text}");
    }

    #[test]
    fn the_level_is_a_bare_word() {
        assert_eq!(level(Some("debug")), Level::DEBUG);
        assert_eq!(level(Some("whatsapp_rust=trace")), Level::INFO);
        assert_eq!(level(None), Level::INFO);
    }

    #[test]
    fn a_panics_words_lose_their_numbers() {
        assert_eq!(without_numbers("no 79001234567, 42"), "no 79001***567, 42");
    }
}
