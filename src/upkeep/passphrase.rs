//! Owns where a backup's key comes from: the environment, systemd, or somebody at a terminal who types unseen.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::exit::ExitError;
use crate::secret::SecretText;
use crate::store::{BackupError, BackupKey, WrappingKey};

const VARIABLE: &str = "HAIRPIN_BACKUP_PASSPHRASE";
/// The longest line that is read, in bytes.
const LONGEST: u16 = 4096;

/// What a new backup is sealed with. A passphrase that somebody set goes before the credential, which opens the
/// backup on this machine only.
pub(crate) fn for_backup(credential: Option<WrappingKey>) -> Result<BackupKey, ExitError> {
    if let Some(passphrase) = from_environment()? {
        return Ok(BackupKey::Passphrase(passphrase));
    }
    if let Some(credential) = credential {
        return Ok(BackupKey::Credential(credential));
    }
    typed_twice().map(BackupKey::Passphrase)
}

/// A passphrase for a new backup, from whoever is there to be asked.
pub(crate) fn typed_twice() -> Result<SecretText, ExitError> {
    if !io::stdin().is_terminal() {
        return Err(ExitError::wrong_use(format!(
            "a backup needs a passphrase; run this at a terminal, or set {VARIABLE}"
        )));
    }
    let first = ask("Passphrase for the backup: ")?;
    if first.reveal().is_empty() {
        return Err(empty());
    }
    if ask("The same once more: ")? != first {
        return Err(ExitError::wrong_use(
            "the two passphrases differ; nothing was written",
        ));
    }
    Ok(first)
}

/// What opens a backup that was made with a passphrase.
pub(super) fn of_backup() -> Result<BackupKey, ExitError> {
    if let Some(passphrase) = from_environment()? {
        return Ok(BackupKey::Passphrase(passphrase));
    }
    if !io::stdin().is_terminal() {
        return Err(ExitError::wrong_use(
            BackupError::WantsPassphrase.to_string(),
        ));
    }
    ask("Passphrase of the backup: ").map(BackupKey::Passphrase)
}

/// The passphrase that somebody set.
pub(crate) fn from_environment() -> Result<Option<SecretText>, ExitError> {
    match std::env::var(VARIABLE) {
        Ok(text) if text.is_empty() => Err(empty()),
        Ok(text) => Ok(Some(SecretText::new(text))),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(ExitError::wrong_use(format!(
            "{VARIABLE} is not UTF-8 text; choose another passphrase"
        ))),
    }
}

fn empty() -> ExitError {
    ExitError::wrong_use("an empty passphrase protects nothing; choose one")
}

/// Asks on standard error, and reads a line that the terminal does not show.
fn ask(question: &str) -> Result<SecretText, ExitError> {
    let unread =
        |error: io::Error| ExitError::failed(format!("the passphrase cannot be read: {error}"));
    // First: what is typed from the question on is not shown.
    let _unseen = Unseen::begin().map_err(unread)?;
    let mut err = io::stderr().lock();
    write!(err, "{question}")
        .and_then(|()| err.flush())
        .map_err(unread)?;
    let mut line = Zeroizing::new(Vec::with_capacity(usize::from(LONGEST)));
    io::stdin()
        .lock()
        .take(u64::from(LONGEST))
        .read_until(b'\n', &mut line)
        .map_err(unread)?;
    while matches!(line.last(), Some(b'\n' | b'\r')) {
        line.pop();
    }
    let text = std::str::from_utf8(&line)
        .map_err(|_| ExitError::wrong_use("the passphrase is not UTF-8 text; choose another"))?;
    Ok(SecretText::new(text.to_owned()))
}

/// While this lives the terminal shows nothing of what is typed but the end of the line.
struct Unseen(Termios);

impl Unseen {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut unseen = before.clone();
        unseen.local_modes.remove(LocalModes::ECHO);
        unseen.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(io::stdin(), OptionalActions::Flush, &unseen)?;
        Ok(Self(before))
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        // A terminal that has gone needs no mending.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}
