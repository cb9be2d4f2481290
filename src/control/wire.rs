//! Owns the words of the control socket: one JSON object a line, one request a connection, then answers up to the last.
//! Lines are bounded, and whatever may hold a number, a code or a key is zeroed when dropped and never shows itself.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};
use zeroize::Zeroizing;

use crate::secret::{self, SecretText};
use crate::session::Status;

/// The version of everything in this file. Both sides are one program, so only an appliance that has not been
/// restarted since an update speaks another one.
pub(super) const VERSION: u32 = 1;
/// The longest request, in bytes: a passphrase may be long.
pub(super) const LONGEST_REQUEST: usize = 32 * 1024;
/// The longest line of an answer, in bytes.
pub(super) const LONGEST_ANSWER: usize = 64 * 1024;

/// Text that shows itself to the other side only.
#[derive(Clone, PartialEq, Eq)]
pub struct Text(SecretText);

impl Text {
    /// Takes the text over.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(SecretText::new(text))
    }

    /// The text itself: only for whoever is meant to see it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }
}

impl From<Text> for SecretText {
    fn from(text: Text) -> Self {
        text.0
    }
}

impl From<SecretText> for Text {
    fn from(text: SecretText) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.reveal())
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        SecretText::deserialize(deserializer).map(Self)
    }
}

/// What the terminal wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ask {
    /// The status of every session.
    Status {},
    /// The journal, newest first.
    Audit {},
    /// A pairing code, and what becomes of it.
    Link {
        /// Which slot.
        session: String,
        /// The number, E.164 with its `+`.
        phone: Text,
        /// The live link that may be replaced.
        replace: Option<String>,
    },
    /// WhatsApp told, then a wipe.
    Unlink {
        /// Which slot.
        session: String,
    },
    /// The access key.
    AccessKey {
        /// A new one; whoever is logged in with the old one is out.
        rotate: bool,
    },
    /// The store verified.
    Check {},
    /// A backup.
    Backup {
        /// What opens it; none asks for the credential that systemd gives the appliance.
        passphrase: Option<Text>,
    },
}

/// What the terminal may say after a [`Ask::Link`], while its code is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Word {
    /// End the code.
    Cancel,
}

/// One line to the terminal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "event",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase"
)]
pub enum Answer {
    /// A session's status; after a [`Ask::Link`] whenever it changes.
    Status(StatusLine),
    /// A code.
    Code {
        /// `ABCD-EFGH`.
        code: Text,
        /// The masked number it is for.
        phone: String,
        /// Whole seconds it is to be shown.
        expires_in: u64,
        /// What was wiped to make room.
        replaced: Option<Replaced>,
    },
    /// The code is over, for a reason of contract section 3. The last line.
    Ended {
        /// `linked`, `expired`, …
        reason: String,
    },
    /// A journal entry, as the HTTP API gives it.
    Entry {
        /// The entry.
        entry: Value,
    },
    /// Unlinked and wiped. The last line.
    Unlinked {
        /// The masked number; none when there was nothing to unlink.
        phone: Option<String>,
        /// Whether WhatsApp was told; none when it knew of no link.
        told: Option<bool>,
    },
    /// The access key. The last line.
    Key {
        /// The key.
        key: Text,
    },
    /// The store is sound. The last line.
    Checked {
        /// What it holds, in lines for people, without secrets.
        report: String,
    },
    /// A piece of a backup; all of them together are it.
    Piece {
        /// Sealed bytes, in base64.
        bytes: String,
    },
    /// There is no credential to seal a backup with. The last line.
    WantsPassphrase,
    /// It was refused or it failed. The last line.
    Failed(Failure),
    /// The last line of a list.
    End,
}

/// Why something was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The exit code.
    pub exit: u8,
    /// A code of contract section 5.
    pub code: String,
    /// One line, in English.
    pub message: String,
    /// Seconds until it is worth asking again.
    pub retry_after: Option<u64>,
    /// The masked number of the live link.
    pub old_phone: Option<String>,
    /// The live link's id.
    pub link_id: Option<String>,
}

/// What was wiped to make room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replaced {
    /// The masked number of the old link.
    pub old_phone: Option<String>,
    /// Whether it was ever linked.
    pub was_linked: bool,
}

/// A status of contract section 3, as it is read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusLine {
    /// The slot's id.
    pub session: String,
    /// Where the link stands.
    pub state: String,
    /// What people call the slot.
    pub name: String,
    /// The masked number.
    pub phone: Option<String>,
    /// When the state began, in Unix milliseconds.
    pub since: i64,
    /// When the link was last connected, in Unix milliseconds.
    pub last_connected: Option<i64>,
    /// The end of a ban, or the next try, in Unix milliseconds.
    pub until: Option<i64>,
    /// Why, where the state alone does not say it.
    pub reason: Option<String>,
}

impl From<Status> for StatusLine {
    fn from(status: Status) -> Self {
        Self {
            session: status.session,
            state: status.state.as_str().to_owned(),
            name: status.name,
            phone: status.phone,
            since: status.since,
            last_connected: status.last_connected,
            until: status.until,
            reason: status.reason.map(|reason| reason.as_str().to_owned()),
        }
    }
}

/// Why a line is no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRequest {
    /// Another version of the program wrote it.
    Version,
    /// It asks for something that there is not.
    Unknown,
    /// Not the shape asked for.
    Shape,
}

/// Writes a request down.
pub(super) fn request(ask: &Ask) -> Zeroizing<String> {
    #[derive(Serialize)]
    struct Request<'a> {
        v: u32,
        #[serde(flatten)]
        ask: &'a Ask,
    }
    line(&Request { v: VERSION, ask })
}

/// Reads a request.
pub(super) fn read_request(line: &[u8]) -> Result<Ask, NoRequest> {
    let mut value: Value = serde_json::from_slice(line).map_err(|_| NoRequest::Shape)?;
    let fields = value.as_object_mut().ok_or(NoRequest::Shape)?;
    let version = fields
        .remove("v")
        .and_then(|version| version.as_u64())
        .ok_or(NoRequest::Shape)?;
    if version != u64::from(VERSION) {
        return Err(NoRequest::Version);
    }
    let known = [
        "status",
        "audit",
        "link",
        "unlink",
        "access-key",
        "check",
        "backup",
    ];
    match fields.get("ask").and_then(Value::as_str) {
        None => return Err(NoRequest::Shape),
        Some(ask) if !known.contains(&ask) => return Err(NoRequest::Unknown),
        Some(_) => {}
    }
    serde_json::from_value(value).map_err(|_| NoRequest::Shape)
}

/// One line, with its end.
pub(super) fn line(value: &impl Serialize) -> Zeroizing<String> {
    let mut text = secret::json(value);
    text.push('\n');
    text
}

/// Why there is no further line.
#[derive(Debug)]
pub(super) enum NoLine {
    /// The other side has said everything, or is gone.
    Over,
    /// It says more than any line may hold.
    TooLong,
}

/// Reads lines of bounded length. Dropping a read loses nothing: what has arrived waits here.
pub(super) struct Lines<R> {
    reader: R,
    most: usize,
    begun: Zeroizing<Vec<u8>>,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    pub(super) fn new(reader: R, most: usize) -> Self {
        Self {
            reader,
            most,
            // Never grown, so that nothing is left behind in memory that was given back.
            begun: Zeroizing::new(Vec::with_capacity(most)),
        }
    }

    /// The next line, without its end.
    pub(super) async fn next(&mut self) -> Result<Zeroizing<Vec<u8>>, NoLine> {
        loop {
            let arrived = self.reader.fill_buf().await.map_err(|_| NoLine::Over)?;
            if arrived.is_empty() {
                return Err(NoLine::Over);
            }
            let end = arrived.iter().position(|&byte| byte == b'\n');
            let piece = &arrived[..end.unwrap_or(arrived.len())];
            if self.begun.len() + piece.len() > self.most {
                return Err(NoLine::TooLong);
            }
            self.begun.extend_from_slice(piece);
            let used = piece.len() + usize::from(end.is_some());
            self.reader.consume(used);
            if end.is_some() {
                let line = Zeroizing::new(self.begun.to_vec());
                self.begun.clear();
                return Ok(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_they_were_written() {
        for ask in [
            Ask::Status {},
            Ask::Audit {},
            Ask::Link {
                session: "salon".into(),
                phone: Text::new("+79001234567".into()),
                replace: Some("id".into()),
            },
            Ask::Unlink {
                session: "salon".into(),
            },
            Ask::AccessKey { rotate: true },
            Ask::Check {},
            Ask::Backup { passphrase: None },
            Ask::Backup {
                passphrase: Some(Text::new("long enough".into())),
            },
        ] {
            let line = request(&ask);
            assert!(line.ends_with('\n') && line.len() < LONGEST_REQUEST);
            assert_eq!(read_request(line.trim_end().as_bytes()), Ok(ask));
        }
    }

    #[test]
    fn what_is_no_request_is_told_apart() {
        for (line, why) in [
            ("", NoRequest::Shape),
            ("null", NoRequest::Shape),
            ("[1]", NoRequest::Shape),
            ("GET / HTTP/1.1", NoRequest::Shape),
            (r#"{"ask":"status"}"#, NoRequest::Shape),
            (r#"{"v":"1","ask":"status"}"#, NoRequest::Shape),
            (r#"{"v":1}"#, NoRequest::Shape),
            (r#"{"v":1,"ask":7}"#, NoRequest::Shape),
            (r#"{"v":1,"ask":"status","more":1}"#, NoRequest::Shape),
            (r#"{"v":1,"ask":"unlink"}"#, NoRequest::Shape),
            (
                r#"{"v":1,"ask":"link","session":"salon","phone":79001234567}"#,
                NoRequest::Shape,
            ),
            (r#"{"v":1,"ask":"wipe"}"#, NoRequest::Unknown),
            (r#"{"v":2,"ask":"status"}"#, NoRequest::Version),
            (r#"{"v":2,"ask":"new thing"}"#, NoRequest::Version),
        ] {
            assert_eq!(read_request(line.as_bytes()), Err(why), "{line}");
        }
    }

    #[test]
    fn nothing_secret_shows_itself() {
        let ask = Ask::Link {
            session: "salon".into(),
            phone: Text::new("+79001234567".into()),
            replace: None,
        };
        let code = Answer::Code {
            code: Text::new("ABCD-EFGH".into()),
            phone: "79001***567".into(),
            expires_in: 170,
            replaced: None,
        };
        let key = Answer::Key {
            key: Text::new("hp-AAAAA".into()),
        };
        let backup = Ask::Backup {
            passphrase: Some(Text::new("swordfish".into())),
        };
        let shown = format!("{ask:?} {code:?} {key:?} {backup:?}");
        for secret in ["79001234567", "ABCD", "hp-", "swordfish"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        let back: Answer = serde_json::from_str(&line(&code)).expect("an answer");
        assert_eq!(back, code);
    }

    #[tokio::test]
    async fn lines_are_bounded_and_survive_a_dropped_read() {
        let (mut write, read) = tokio::io::duplex(64);
        let mut lines = Lines::new(tokio::io::BufReader::new(read), 8);
        tokio::io::AsyncWriteExt::write_all(&mut write, b"on")
            .await
            .expect("written");
        let early = tokio::time::timeout(std::time::Duration::from_millis(1), lines.next()).await;
        assert!(early.is_err(), "half a line is none");
        tokio::io::AsyncWriteExt::write_all(&mut write, b"e\n\n12345678\n123456789\n")
            .await
            .expect("written");
        drop(write);
        for line in [&b"one"[..], b"", b"12345678"] {
            assert_eq!(lines.next().await.expect("a line").as_slice(), line);
        }
        assert!(matches!(lines.next().await, Err(NoLine::TooLong)));
        let mut lines = Lines::new(&b"no end"[..], 8);
        assert!(matches!(lines.next().await, Err(NoLine::Over)));
    }
}
