//! Owns what can go wrong with the store, and what to do about it. No error holds a number or a key.

use std::io;

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the store is in use by another process; stop that one first")]
    InUse,
    /// The file is not what was written.
    #[error(
        "the store is damaged ({0}); restore a backup with `hairpin restore`, or set it aside with `hairpin start-over`"
    )]
    Damaged(&'static str),
    /// A newer version of the program wrote it.
    #[error("the store was written by a newer version (layout {0}); install that version again")]
    Newer(u32),
    /// The keys beside it are missing.
    #[error(
        "the store's keys (hairpin.keys) are missing; put them back, or restore a backup with `hairpin restore`"
    )]
    KeysMissing,
    /// The keys are wrapped under a key that is not at hand.
    #[error(
        "the store's keys cannot be unwrapped; give the credential `hairpin-key` that wrapped them"
    )]
    KeysWrong,
    /// The disk says no.
    #[error("the store cannot be opened: {0}; free space or make the folder writable")]
    Io(#[from] io::Error),
}

/// Why a backup cannot be read. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// It is something else.
    #[error("the file is no backup made by hairpin")]
    Foreign,
    /// A newer version of the program made it.
    #[error(
        "the backup was made by a newer version (format {0}); install that version and restore it there"
    )]
    Newer(u32),
    /// Its end is missing.
    #[error("the backup is cut short; use another copy of it")]
    Cut,
    /// It is not what was written.
    #[error("the backup is damaged; use another copy of it")]
    Damaged,
    /// The passphrase is another.
    #[error("the passphrase is not the one this backup was made with")]
    WrongPassphrase,
    /// The credential is another.
    #[error(
        "the credential `hairpin-key` is not the one this backup was made with; give that one, or name it `hairpin-key-old`"
    )]
    WrongCredential,
    /// It was made with a passphrase.
    #[error(
        "this backup was made with a passphrase; type it at a terminal, or set HAIRPIN_BACKUP_PASSPHRASE"
    )]
    WantsPassphrase,
    /// It was made with the key that systemd gives.
    #[error(
        "this backup was made with the credential `hairpin-key`; run this where systemd gives that one"
    )]
    WantsCredential,
}

/// Why a backup was not restored. The store that was there is still there.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backup cannot be read.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The store of the folder cannot be replaced.
    #[error(transparent)]
    Store(#[from] OpenError),
}

/// What is wrong with a store that can be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It cannot be read at all.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What it says of itself is not so.
    #[error(
        "the store is damaged ({what} in {table}); restore a backup with `hairpin restore`, or set it aside with `hairpin start-over`"
    )]
    Row {
        /// Which table, by its name in the file.
        table: String,
        /// What is wrong there.
        what: &'static str,
    },
}

/// Why an operation on an open store failed. Nothing was changed, but for [`StoreError::NotErased`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The link this belongs to has been wiped or replaced.
    #[error("this link has been wiped; nothing of it is written any more")]
    StaleEpoch,
    /// The disk is full, read-only or broken.
    #[error("the disk does not take or give the data")]
    Disk,
    /// A row is not what was written.
    #[error("a stored row is damaged")]
    Damaged,
    /// A value is larger than any record may be.
    #[error("a value is too large to be stored")]
    TooLarge,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The link is wiped for good, but its old key still lies on the disk; that is tried again until it works.
    #[error("the link is wiped, but its old key is not overwritten yet")]
    NotErased,
    /// A fault of ours.
    #[error("a fault of the program kept the store from doing this")]
    Fault,
}

/// What a store that cannot be opened again answers.
impl From<&OpenError> for StoreError {
    fn from(error: &OpenError) -> Self {
        match error {
            OpenError::InUse | OpenError::Io(_) => Self::Disk,
            OpenError::Damaged(_)
            | OpenError::Newer(_)
            | OpenError::KeysMissing
            | OpenError::KeysWrong => Self::Damaged,
        }
    }
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                redb::Error::from(error).into()
            }
        }
    )*};
}

from_redb!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError
);

impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Corrupted(_) | redb::Error::TableTypeMismatch { .. } => Self::Damaged,
            redb::Error::ValueTooLarge(_) => Self::TooLarge,
            _ => Self::Disk,
        }
    }
}

/// For whatsapp-rust, which knows its own kind of error only.
impl From<StoreError> for whatsapp_rust::wacore::store::error::StoreError {
    fn from(error: StoreError) -> Self {
        Self::Database(Box::new(error))
    }
}
