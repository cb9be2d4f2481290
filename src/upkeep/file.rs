//! Owns the file a backup is written to: whole and durable under its name, or not there; and never one of the store's.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::exit::ExitError;

/// Where a backup goes.
#[derive(Debug)]
pub(super) struct Target {
    path: PathBuf,
    folder: PathBuf,
}

impl Target {
    /// Looks at what is there before anything is made.
    pub(super) fn at(path: &Path, data_dir: &Path) -> Result<Self, ExitError> {
        let shown = path.display();
        let path = match fs::metadata(path) {
            Ok(there) if there.is_dir() => {
                return Err(ExitError::wrong_use(format!(
                    "{shown} is a folder; name a file in it"
                )));
            }
            Ok(there) if !there.is_file() => {
                return Err(ExitError::wrong_use(format!(
                    "{shown} is no file; name one, or `-` for standard output"
                )));
            }
            // What a link names is replaced, not the link.
            Ok(_) => fs::canonicalize(path).map_err(|error| unusable(path, &error))?,
            Err(error) if error.kind() == ErrorKind::NotFound => path.to_owned(),
            Err(error) => return Err(unusable(path, &error)),
        };
        let above = match path.parent() {
            Some(above) if !above.as_os_str().is_empty() => above,
            _ => Path::new("."),
        };
        let folder = fs::canonicalize(above).map_err(|error| unusable(above, &error))?;
        let Some(name) = path.file_name() else {
            return Err(ExitError::wrong_use(format!("{shown} names no file")));
        };
        let path = folder.join(name);
        if is_the_appliances(&path, data_dir) {
            return Err(ExitError::wrong_use(format!(
                "{shown} is one of the appliance's own files; name another"
            )));
        }
        Ok(Self { path, folder })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes it under a name of its own first: a file that was there stays until this one is durable.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<(), ExitError> {
        self.replace(bytes)
            .map_err(|error| unusable(&self.path, &error))
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let unfinished = self
            .folder
            .join(format!(".{name}.{:08x}.part", u32::from_le_bytes(random)));
        durable::replace(&self.folder, &unfinished, &self.path, &[bytes])
    }
}

/// By name, and by what the name leads to.
fn is_the_appliances(path: &Path, data_dir: &Path) -> bool {
    let own = [
        crate::store::FILE,
        crate::store::KEY_FILE,
        crate::access::KEY_FILE,
    ];
    let there = fs::metadata(path).ok();
    own.iter().map(|name| data_dir.join(name)).any(|own| {
        let same_name = own.file_name() == path.file_name()
            && fs::canonicalize(data_dir).ok().as_deref() == path.parent();
        let same_file = match (&there, fs::metadata(&own)) {
            (Some(there), Ok(own)) => (there.dev(), there.ino()) == (own.dev(), own.ino()),
            _ => false,
        };
        same_name || same_file
    })
}

fn unusable(path: &Path, error: &io::Error) -> ExitError {
    let message = format!("{} cannot be written: {error}", path.display());
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            ExitError::wrong_use(format!("{message}; name a file in a folder that is there"))
        }
        _ => ExitError::failed(message),
    }
}
