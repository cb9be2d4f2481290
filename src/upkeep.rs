//! Owns the commands that change files as a whole: `restore` and `start-over`, and where a backup goes (contract
//! sections 1 and 7).
//! They must never print a number unmasked, a key or a passphrase, nor take one from the command line.

mod file;
pub(crate) mod passphrase;

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::app;
use crate::config::Settings;
use crate::exit::ExitError;
use crate::store::{Backup, BackupKey, BackupWay, Hold, Occupied, OpenError, RestoreError, Store};
use file::Target;

/// Standard input or output instead of a file.
const STANDARD: &str = "-";
/// No backup is larger than this.
const LARGEST: u64 = 1 << 30;

/// Writes a small file as a whole, mode 0600, for whoever owns its folder.
///
/// # Errors
/// When it is not there afterwards; a file that was there is then as it was.
pub fn write(path: &Path, data_dir: &Path, bytes: &[u8]) -> Result<(), ExitError> {
    Target::at(path, data_dir)?.write(bytes)
}

/// Where a backup goes: a file, or (none) standard output.
#[derive(Debug)]
pub struct Destination(Option<Target>);

impl Destination {
    /// Looks at what is there before anything is made.
    ///
    /// # Errors
    /// When no backup can go there.
    pub fn of(file: &Path, data_dir: &Path) -> Result<Self, ExitError> {
        if file != Path::new(STANDARD) {
            return Ok(Self(Some(Target::at(file, data_dir)?)));
        }
        if std::io::stdout().is_terminal() {
            return Err(ExitError::wrong_use(
                "a backup is no text for a terminal; name a file, or send it into a pipe",
            ));
        }
        Ok(Self(None))
    }

    /// Takes a whole backup; `opener` is what opens it.
    ///
    /// # Errors
    /// When there is no backup afterwards; a file that was there is then as it was.
    pub fn take(&self, sealed: &[u8], opener: &str) -> Result<(), ExitError> {
        let Some(target) = &self.0 else {
            let mut out = std::io::stdout().lock();
            return out
                .write_all(sealed)
                .and_then(|()| out.flush())
                .map_err(|error| {
                    ExitError::failed(format!("the backup cannot be written: {error}"))
                });
        };
        target.write(sealed)?;
        say(&format!(
            "Wrote {} ({} bytes). Only {opener} opens it.",
            target.path().display(),
            sealed.len()
        ))
    }
}

/// Puts a backup in the place of the store; the old one is set aside.
///
/// # Errors
/// When the store is in use, or the file is not a whole backup that the key opens; nothing is changed then.
pub fn restore(settings: &Settings, file: &Path) -> Result<(), ExitError> {
    let folder = &settings.data_dir;
    let credential = app::wrapping_key()?;
    let bytes = read_backup(file)?;
    let way = Backup::way(&bytes).map_err(|error| ExitError::wrong_use(error.to_string()))?;
    // Said before anybody types a passphrase in vain; it is held later.
    Occupied::take(folder)
        .and_then(|_| Hold::on(folder))
        .map_err(|error| ExitError::of_store(folder, &error))?;
    let key = match way {
        BackupWay::Passphrase => passphrase::of_backup()?,
        BackupWay::Credential => BackupKey::Credential(credential.clone().ok_or_else(|| {
            ExitError::wrong_use(crate::store::BackupError::WantsCredential.to_string())
        })?),
    };
    let refused = |error: RestoreError| match error {
        RestoreError::Backup(error) => ExitError::wrong_use(error.to_string()),
        RestoreError::Store(OpenError::Io(error)) => ExitError::failed(format!(
            "the backup cannot be restored into {}: {error}; nothing was changed",
            folder.display()
        )),
        RestoreError::Store(error) => ExitError::of_store(folder, &error),
    };
    let backup = Backup::open(&bytes, &key).map_err(|error| refused(error.into()))?;
    let (made, program) = (moment(backup.made_at()), backup.program().to_owned());
    let restored = block_on(backup.restore(folder, credential, now()))?.map_err(refused)?;
    say(&format!(
        "Restored the backup of {made} (made by hairpin {program}): {}, {}. Conversations start anew.",
        counted(restored.sessions, "session"),
        counted(restored.links, "link"),
    ))?;
    say_aside(&restored.aside)?;
    say("Start the appliance: it connects by itself.")
}

/// Sets the store and its keys aside, after a question.
///
/// # Errors
/// When it is in use, not there, or nobody agreed; nothing is changed then.
pub fn start_over(settings: &Settings, yes: bool) -> Result<(), ExitError> {
    let folder = &settings.data_dir;
    let occupied = Occupied::take(folder).map_err(|error| ExitError::of_store(folder, &error))?;
    let wrapping = app::wrapping_key()?;
    let state = match quietly(|| Store::look(folder, wrapping)) {
        Ok(store) => match store.verify() {
            Ok(report) => {
                let links = report.sessions.iter().filter(|slot| slot.link.is_some());
                format!(
                    "The store in {} is not damaged: it holds {}, which will be lost here while the phone still lists it.",
                    folder.display(),
                    counted(links.count(), "link")
                )
            }
            Err(flaw) => format!("{}: {flaw}.", folder.display()),
        },
        Err(error @ OpenError::InUse) => return Err(ExitError::of_store(folder, &error)),
        Err(error) => format!("{}: {error}.", folder.display()),
    };
    drop(occupied);
    if !yes {
        if !std::io::stdin().is_terminal() {
            return Err(ExitError::wrong_use(
                "nobody is there to be asked; say --yes to set the store aside and start empty",
            ));
        }
        eprint!("{state}\nSet it aside and start empty? [y/N] ");
        let mut answer = String::new();
        std::io::stdin()
            .read_line(&mut answer)
            .map_err(|error| ExitError::failed(format!("the answer cannot be read: {error}")))?;
        if !["y", "yes", "д", "да"].contains(&answer.trim().to_lowercase().as_str()) {
            return Err(ExitError::failed("nothing was changed"));
        }
    }
    let aside = Store::set_aside(folder, now()).map_err(|error| match error {
        OpenError::Io(error) if error.kind() == std::io::ErrorKind::NotFound => {
            ExitError::failed(format!(
                "there is no store in {}: nothing to set aside",
                folder.display()
            ))
        }
        error => ExitError::of_store(folder, &error),
    })?;
    say_aside(&aside)?;
    say("The next start begins empty; remove these files once nobody misses them.")
}

/// redb asserts in places what a damaged file does not keep to; that is caught, and said in one line of our own.
pub(crate) fn quietly<T>(work: impl FnOnce() -> T) -> T {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let done = work();
    std::panic::set_hook(hook);
    done
}

fn read_backup(file: &Path) -> Result<Vec<u8>, ExitError> {
    let unreadable = |error: std::io::Error| {
        let message = format!("{} cannot be read: {error}", file.display());
        if error.kind() == std::io::ErrorKind::NotFound {
            ExitError::wrong_use(message)
        } else {
            ExitError::failed(message)
        }
    };
    let mut bytes = Vec::new();
    if file == Path::new(STANDARD) {
        if std::io::stdin().is_terminal() {
            return Err(ExitError::wrong_use(
                "a backup is not typed; name a file, or send it through a pipe",
            ));
        }
        std::io::stdin()
            .lock()
            .take(LARGEST + 1)
            .read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file)
            .map_err(unreadable)?
            .take(LARGEST + 1)
            .read_to_end(&mut bytes)
    }
    .map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST {
        return Err(ExitError::wrong_use(format!(
            "{} is larger than any backup",
            file.display()
        )));
    }
    Ok(bytes)
}

fn say_aside(aside: &[PathBuf]) -> Result<(), ExitError> {
    for path in aside {
        say(&format!("Set aside: {}", path.display()))?;
    }
    Ok(())
}

fn say(line: &str) -> Result<(), ExitError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|error| ExitError::failed(format!("the answer cannot be written: {error}")))
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 {
        format!("1 {what}")
    } else {
        format!("{count} {what}s")
    }
}

/// A moment in Unix milliseconds, for people.
fn moment(at: i64) -> String {
    let text = crate::store::dated(at.div_euclid(1000));
    // `2025-11-25-045501`, as files set aside are called.
    match (text.get(..10), text.get(11..13), text.get(13..15)) {
        (Some(day), Some(hour), Some(minute)) => format!("{day} {hour}:{minute} UTC"),
        _ => text,
    }
}

fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T, ExitError> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|error| ExitError::failed(format!("the program cannot start: {error}")))?
        .block_on(work))
}
