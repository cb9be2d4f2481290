//! Owns the access key (its file, its comparison, its replacement) and who is logged in with it.
//! It must never log a key or a token, nor compare either in a time that depends on what is right about it.

mod logins;

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::durable;
use crate::secret::SecretText;
use logins::{Kept, Logins, Moment};

/// The file in the data folder.
pub const KEY_FILE: &str = "access-key";

/// Letters and digits nobody confuses: no I, L, O and U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Six groups of five carry 150 bits.
const LETTERS: usize = 30;
const GROUP: usize = 5;
const PREFIX: &str = "hp-";

/// Why there is no key to be had.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The file cannot be read or written.
    #[error("the access key file {} cannot be used: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("the access key file {} holds no access key; write a new one with `hairpin access-key --rotate`", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// The key that opens the page, and the logins made with it.
#[derive(Debug)]
pub struct Access {
    dir: PathBuf,
    /// Read by every request, written by a rotation; never held while waiting.
    key: RwLock<Key>,
    logins: Logins,
    /// Counts what happened to the logins, and wakes whoever keeps them.
    changes: watch::Sender<u64>,
    /// How many of these changes are kept; nothing while nobody keeps any.
    kept: watch::Sender<Option<u64>>,
}

/// The logins as they are kept across a restart: hashes of tokens, good only with the key they were made with.
#[derive(Serialize, Deserialize)]
struct KeptLogins {
    key: [u8; 32],
    logins: Vec<Kept>,
}

#[derive(Debug)]
struct Key {
    text: SecretText,
    digest: [u8; 32],
    /// Its drop tells everything that was opened with this key that it is over.
    alive: watch::Sender<()>,
}

/// Proof that a request carried the key or a login; it ends when they do.
#[derive(Debug, Clone)]
pub struct Pass {
    alive: watch::Receiver<()>,
    login: Option<[u8; 32]>,
}

impl Pass {
    /// Whether it came with a cookie, and so from a browser.
    #[must_use]
    pub fn is_cookie(&self) -> bool {
        self.login.is_some()
    }

    /// Whether the login or the key it rests on is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.alive.has_changed().is_err()
    }

    /// Returns once the login or the key it rests on is over.
    pub async fn ended(&mut self) {
        while self.alive.changed().await.is_ok() {}
    }
}

impl Access {
    /// Opens the key of a data folder and makes one if there is none.
    ///
    /// # Errors
    /// The file cannot be read, written or understood.
    pub fn open(dir: &Path) -> Result<Self, AccessError> {
        let text = match Self::read(dir)? {
            Some(text) => text,
            None => Self::replace(dir)?,
        };
        Ok(Self {
            dir: dir.to_owned(),
            key: RwLock::new(Key::new(text)),
            logins: Logins::default(),
            changes: watch::channel(0).0,
            kept: watch::channel(None).0,
        })
    }

    /// The key of a data folder, if there is one: for whoever must not make one. A file that others could read
    /// is closed to them.
    ///
    /// # Errors
    /// The file cannot be read or understood.
    pub fn read(dir: &Path) -> Result<Option<SecretText>, AccessError> {
        let path = dir.join(KEY_FILE);
        let fail = |source| AccessError::Io {
            path: path.clone(),
            source,
        };
        let raw = match fs::read_to_string(&path) {
            Ok(raw) => Zeroizing::new(raw),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                return Err(AccessError::Malformed { path });
            }
            Err(e) => return Err(fail(e)),
        };
        let mode = fs::metadata(&path).map_err(fail)?.mode();
        if mode & 0o077 != 0 {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(fail)?;
            tracing::warn!(
                mode = format!("{:o}", mode & 0o777),
                "the access key file was open to others; closed it"
            );
        }
        let letters = normalise(&raw).ok_or(AccessError::Malformed { path })?;
        Ok(Some(grouped(&letters)))
    }

    /// Writes a new key into a data folder that no running appliance uses.
    ///
    /// # Errors
    /// The file cannot be written, or there are no random numbers.
    pub fn replace(dir: &Path) -> Result<SecretText, AccessError> {
        let text = generate()?;
        let path = dir.join(KEY_FILE);
        write_durably(dir, &path, &text).map_err(|source| AccessError::Io { path, source })?;
        Ok(text)
    }

    /// The key itself, for the terminal.
    #[must_use]
    pub fn key(&self) -> SecretText {
        self.read_key(|key| key.text.clone())
    }

    /// Makes a new key. Every login, and everything opened with the old key, ends at once.
    ///
    /// # Errors
    /// The file cannot be written; then the old key stays.
    pub fn rotate(&self) -> Result<SecretText, AccessError> {
        // The lock is held over the write so that two rotations cannot leave file and memory at odds.
        let mut key = self.key.write().unwrap_or_else(PoisonError::into_inner);
        let text = Self::replace(&self.dir)?;
        *key = Key::new(text.clone());
        self.logins.clear();
        self.count_change();
        Ok(text)
    }

    /// Lets in whoever carries the key.
    #[must_use]
    pub fn by_key(&self, presented: &str) -> Option<Pass> {
        let digest = normalise(presented).map(|letters| digest(&letters));
        self.read_key(|key| {
            bool::from(digest?.ct_eq(&key.digest)).then(|| Pass {
                alive: key.alive.subscribe(),
                login: None,
            })
        })
    }

    /// Lets in whoever carries the token of a login that is still good, and counts this as use of it.
    #[must_use]
    pub fn by_token(&self, token: &str) -> Option<Pass> {
        let id = digest(token.as_bytes());
        let alive = self.logins.touch(&id, Instant::now())?;
        Some(Pass {
            alive,
            login: Some(id),
        })
    }

    /// Turns the key into a login; the answer is its token.
    ///
    /// # Errors
    /// There are no random numbers.
    pub fn login(&self, presented: &str) -> Result<Option<SecretText>, AccessError> {
        let mut raw = Zeroizing::new([0_u8; 32]);
        getrandom::fill(&mut *raw).map_err(|_| AccessError::Random)?;
        let token =
            base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, raw.as_slice());
        let token = SecretText::new(token);
        // Under the key's lock, so that a rotation cannot slip between the comparison and the login.
        let key = self.key.read().unwrap_or_else(PoisonError::into_inner);
        let right = normalise(presented)
            .is_some_and(|letters| bool::from(digest(&letters).ct_eq(&key.digest)));
        if !right {
            return Ok(None);
        }
        self.logins
            .add(digest(token.reveal().as_bytes()), Instant::now());
        self.count_change();
        Ok(Some(token))
    }

    /// Ends the login behind a pass; a pass by key has none.
    pub fn logout(&self, pass: &Pass) {
        if let Some(id) = &pass.login {
            self.logins.remove(id);
            self.count_change();
        }
    }

    /// Says that somebody keeps the logins from now on; what comes back hears of each change.
    pub fn keep_logins(&self) -> watch::Receiver<u64> {
        self.kept.send_replace(Some(0));
        self.changes.subscribe()
    }

    /// The logins for a later process, so that a restart sends nobody back to the door, and which change they are of.
    #[must_use]
    pub fn kept_logins(&self) -> (u64, Vec<u8>) {
        // Counted first: what happens meanwhile is kept once more, never missed.
        let change = *self.changes.borrow();
        let kept = KeptLogins {
            key: self.read_key(Key::mark),
            logins: self.logins.kept(Moment::now()),
        };
        // Numbers in lists: nothing in it can fail, so the fallback is never taken.
        (change, serde_json::to_vec(&kept).unwrap_or_default())
    }

    /// Says that the logins of a change are kept, or never will be.
    pub fn logins_were_kept(&self, change: u64) {
        self.kept.send_replace(Some(change));
    }

    /// Returns once all that has happened to the logins will hold for a later process as well.
    pub async fn settled(&self) {
        let change = *self.changes.borrow();
        let mut kept = self.kept.subscribe();
        // It fails when nobody is left to wait for.
        let _ = kept
            .wait_for(|kept| kept.is_none_or(|kept| kept >= change))
            .await;
    }

    /// The logins of an earlier process; those of another key, and what is no such list, are left behind.
    pub fn take_logins_back(&self, kept: &[u8]) {
        if let Ok(kept) = serde_json::from_slice::<KeptLogins>(kept)
            && kept.key == self.read_key(Key::mark)
        {
            self.logins.take_back(kept.logins, Moment::now());
        }
    }

    /// Counts an open page as use of its login.
    pub fn touch(&self, pass: &Pass) {
        if let Some(id) = &pass.login {
            self.logins.touch(id, Instant::now());
        }
    }

    /// Ends the logins whose time is over; whoever serves calls it now and then.
    pub fn sweep(&self) {
        self.logins.sweep(Instant::now());
    }

    fn count_change(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn read_key<T>(&self, look: impl FnOnce(&Key) -> T) -> T {
        look(&self.key.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Key {
    fn new(text: SecretText) -> Self {
        // A key that we made or read has all its letters, so the fallback is never taken.
        let letters = normalise(text.reveal()).unwrap_or_default();
        Self {
            digest: digest(&letters),
            text,
            alive: watch::channel(()).0,
        }
    }

    /// Tells keys apart without telling them.
    fn mark(&self) -> [u8; 32] {
        digest(&[&self.digest[..], b"logins"].concat())
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn generate() -> Result<SecretText, AccessError> {
    let mut raw = Zeroizing::new([0_u8; LETTERS]);
    getrandom::fill(&mut *raw).map_err(|_| AccessError::Random)?;
    // 256 is a multiple of 32, so every letter is equally likely.
    let letters: Zeroizing<Vec<u8>> =
        Zeroizing::new(raw.iter().map(|b| ALPHABET[usize::from(b % 32)]).collect());
    Ok(grouped(&letters))
}

/// The key as people see it: `hp-XXXXX-XXXXX-XXXXX-XXXXX-XXXXX-XXXXX`.
fn grouped(letters: &[u8]) -> SecretText {
    let mut text = String::with_capacity(PREFIX.len() + LETTERS + LETTERS / GROUP);
    text.push_str(PREFIX);
    for (i, letter) in letters.iter().enumerate() {
        if i > 0 && i % GROUP == 0 {
            text.push('-');
        }
        text.push(char::from(*letter));
    }
    SecretText::new(text)
}

/// The letters of a key however it was typed: any case, with or without prefix and dashes, with look-alikes.
fn normalise(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let text = text.trim();
    if text.len() > 128 {
        return None;
    }
    let text = match text.get(..PREFIX.len()) {
        Some(start) if start.eq_ignore_ascii_case(PREFIX) => &text[PREFIX.len()..],
        _ => text,
    };
    let mut letters = Zeroizing::new(Vec::with_capacity(128));
    for b in text.bytes() {
        match b.to_ascii_uppercase() {
            b'-' | b' ' => {}
            b'O' => letters.push(b'0'),
            b'I' | b'L' => letters.push(b'1'),
            b if ALPHABET.contains(&b) => letters.push(b),
            _ => return None,
        }
    }
    (letters.len() == LETTERS).then_some(letters)
}

/// Under a temporary name first: a power cut leaves the old key or the new one, never half of one.
fn write_durably(dir: &Path, path: &Path, text: &SecretText) -> io::Result<()> {
    let temporary = dir.join(format!("{KEY_FILE}.new"));
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let parts = [text.reveal().as_bytes(), b"\n"];
    durable::replace(dir, &temporary, path, &parts)
}

#[cfg(test)]
mod tests;
