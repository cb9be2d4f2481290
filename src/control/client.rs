//! Owns the terminal's side of the control socket: one request, then the answers to it.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::wire::{self, Answer, Ask, LONGEST_ANSWER, Lines, Word};

/// Why no appliance was asked.
#[derive(Debug)]
pub enum CallError {
    /// Nobody answers there.
    NotRunning,
    /// It is another user's.
    Forbidden,
    /// Something else.
    Io(io::Error),
}

/// Why an answer did not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TalkError {
    /// The appliance says nothing.
    Silent,
    /// The appliance has gone.
    Gone,
    /// The appliance says what nobody understands.
    Strange,
}

/// A request that is being answered.
pub struct Conversation {
    lines: Lines<BufReader<OwnedReadHalf>>,
    write: OwnedWriteHalf,
}

/// Asks the appliance that answers at `path`.
///
/// # Errors
/// When none was asked.
pub async fn call(path: &Path, ask: &Ask) -> Result<Conversation, CallError> {
    let stream = UnixStream::connect(path)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NotADirectory => CallError::NotRunning,
            io::ErrorKind::PermissionDenied => CallError::Forbidden,
            _ => CallError::Io(error),
        })?;
    let (read, mut write) = stream.into_split();
    let line = wire::request(ask);
    // It may refuse before it has read anything: what it says then is waited for all the same.
    let _ = write.write_all(line.as_bytes()).await;
    Ok(Conversation {
        lines: Lines::new(BufReader::new(read), LONGEST_ANSWER),
        write,
    })
}

impl Conversation {
    /// The next line. Dropping this loses nothing.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn next(&mut self) -> Result<Answer, TalkError> {
        let line = self.lines.next().await.map_err(|error| match error {
            wire::NoLine::Over => TalkError::Gone,
            wire::NoLine::TooLong => TalkError::Strange,
        })?;
        serde_json::from_slice(&line).map_err(|_| TalkError::Strange)
    }

    /// The next line, if it comes in time.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn next_within(&mut self, time: Duration) -> Result<Answer, TalkError> {
        tokio::time::timeout(time, self.next())
            .await
            .unwrap_or(Err(TalkError::Silent))
    }

    /// Ends the code that was asked for.
    pub async fn cancel(&mut self) {
        // Whether it arrived is seen in the answers.
        let _ = self
            .write
            .write_all(wire::line(&Word::Cancel).as_bytes())
            .await;
    }
}
