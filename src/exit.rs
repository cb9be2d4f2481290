//! Owns how the program ends: the exit codes of contract section 1, each with one line that says what, and the mend.

use std::path::Path;

use crate::config::ConfigError;
use crate::store::{Flaw, OpenError, StoreError};

/// Why the program ends without having done what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExitError {
    /// 1 failed, 2 wrong use or settings, 3 the store is in use, 4 it is damaged, 5 the appliance is not running.
    pub code: u8,
    /// One line: what, and the mend. Empty where everything has been said already.
    pub message: String,
}

impl ExitError {
    /// Failed.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self::with(1, message)
    }

    /// Wrong use, bad input or bad settings.
    #[must_use]
    pub fn wrong_use(message: impl Into<String>) -> Self {
        Self::with(2, message)
    }

    /// The store is in use by another process.
    #[must_use]
    pub fn in_use(message: impl Into<String>) -> Self {
        Self::with(3, message)
    }

    /// The store is damaged, newer, or without its keys.
    #[must_use]
    pub fn damaged(message: impl Into<String>) -> Self {
        Self::with(4, message)
    }

    /// The appliance is not running.
    #[must_use]
    pub fn not_running(message: impl Into<String>) -> Self {
        Self::with(5, message)
    }

    fn with(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// Why the store in a folder cannot be opened.
    #[must_use]
    pub fn of_store(folder: &Path, error: &OpenError) -> Self {
        match error {
            OpenError::InUse => Self::in_use(format!(
                "the store in {} is in use by another process; stop that one first",
                folder.display()
            )),
            OpenError::Damaged(_) | OpenError::Newer(_) | OpenError::KeysMissing => {
                Self::damaged(error.to_string())
            }
            OpenError::KeysWrong => Self::failed(error.to_string()),
            OpenError::Io(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                Self::failed(format!(
                    "the store in {} may not be read; run this as root, or as the user the appliance runs as",
                    folder.display()
                ))
            }
            OpenError::Io(_) => Self::failed(error.to_string()),
        }
    }
}

impl From<Flaw> for ExitError {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Store(error) => Self::failed(format!("the store cannot be read: {error}")),
            flaw @ Flaw::Row { .. } => Self::damaged(flaw.to_string()),
        }
    }
}

/// Why an open store gives no answer.
impl From<StoreError> for ExitError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Damaged | StoreError::StaleEpoch => Self::damaged(
                "the store is damaged: a row of it does not open; see `hairpin check`, restore a backup with `hairpin restore`, or set it aside with `hairpin start-over`",
            ),
            error => Self::failed(format!("the store cannot be read: {error}")),
        }
    }
}

impl From<ConfigError> for ExitError {
    fn from(error: ConfigError) -> Self {
        Self::wrong_use(error.to_string())
    }
}
