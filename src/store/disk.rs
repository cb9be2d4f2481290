//! Owns what the store asks of its disk: a folder with a few files, and the syncs that make them last.
//! A seam for tests, which cut the power and break calls here; the program itself always runs on [`Folder`].

use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use tracing::warn;

pub use redb::StorageBackend as DiskFile;

use super::aside::{self, Occupied};
use super::error::OpenError;

/// The folder that holds the store's files. What is done to names is durable once the folder is synced;
/// what is done to a file, once the file is.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Where it is, for people.
    fn folder(&self) -> &Path;

    /// Makes the folder if it is missing and wanted, durably; nobody else may look into it.
    ///
    /// # Errors
    /// When it is not there afterwards.
    fn prepare(&self, create: bool) -> io::Result<()>;

    /// Keeps whoever works on the files as a whole out of the folder while what this gives lives, and finishes what
    /// one of them was cut short in. Nothing where nobody else can come in.
    ///
    /// # Errors
    /// When somebody else is in there.
    fn enter(&self) -> Result<Option<Occupied>, OpenError> {
        Ok(None)
    }

    /// How long a file is; none when there is no such file.
    ///
    /// # Errors
    /// When that cannot be said.
    fn size(&self, name: &str) -> io::Result<Option<u64>>;

    /// Opens a file that is there, for reading and writing.
    ///
    /// # Errors
    /// When it is not there, or cannot be opened.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Makes a file that is not there yet, readable by its owner only.
    ///
    /// # Errors
    /// When it is there, or cannot be made.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, in one step.
    ///
    /// # Errors
    /// When it keeps the one it has.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Takes a file away; one that is not there is fine.
    ///
    /// # Errors
    /// When it stays.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes durable what was done to names.
    ///
    /// # Errors
    /// When that is not certain.
    fn sync(&self) -> io::Result<()>;
}

/// What a file in front of another leaves to that one, its field `file`: the end, and the locks against other processes.
macro_rules! close_and_lock_the_file {
    () => {
        fn close(&self) -> std::io::Result<()> {
            self.file.close()
        }

        fn try_lock_range(
            &self,
            start: std::ops::Bound<u64>,
            end: std::ops::Bound<u64>,
        ) -> Result<bool, redb::BackendError> {
            self.file.try_lock_range(start, end)
        }

        fn try_lock_shared_range(
            &self,
            start: std::ops::Bound<u64>,
            end: std::ops::Bound<u64>,
        ) -> Result<bool, redb::BackendError> {
            self.file.try_lock_shared_range(start, end)
        }

        fn lock_range(
            &self,
            start: std::ops::Bound<u64>,
            end: std::ops::Bound<u64>,
        ) -> Result<(), redb::BackendError> {
            self.file.lock_range(start, end)
        }

        fn lock_shared_range(
            &self,
            start: std::ops::Bound<u64>,
            end: std::ops::Bound<u64>,
        ) -> Result<(), redb::BackendError> {
            self.file.lock_shared_range(start, end)
        }

        fn unlock_range(
            &self,
            start: std::ops::Bound<u64>,
            end: std::ops::Bound<u64>,
        ) -> Result<(), redb::BackendError> {
            self.file.unlock_range(start, end)
        }

        fn query_lock_range(
            &self,
            start: std::ops::Bound<u64>,
            end: std::ops::Bound<u64>,
        ) -> Result<bool, redb::BackendError> {
            self.file.query_lock_range(start, end)
        }
    };
}
pub(super) use close_and_lock_the_file;

/// A folder of the file system.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at a path.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

impl Disk for Folder {
    fn folder(&self) -> &Path {
        &self.0
    }

    fn prepare(&self, create: bool) -> io::Result<()> {
        if create && !self.0.is_dir() {
            let mut missing: Vec<&Path> =
                self.0.ancestors().take_while(|at| !at.is_dir()).collect();
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.0)?;
            // A folder's name lies in the one above it.
            missing.retain(|at| !at.as_os_str().is_empty());
            for made in missing {
                let above = made
                    .parent()
                    .filter(|above| !above.as_os_str().is_empty())
                    .unwrap_or(Path::new("."));
                File::open(above)?.sync_all()?;
            }
        }
        tighten(&self.0, 0o700)?;
        // Also what is not opened: keys that were set aside, a certificate's key, backups.
        for file in fs::read_dir(&self.0)? {
            let file = file?;
            if file.file_type()?.is_file()
                && let Err(error) = tighten(&file.path(), 0o600)
            {
                warn!(path = %file.path().display(), %error, "others can read this, and it cannot be changed");
            }
        }
        Ok(())
    }

    fn enter(&self) -> Result<Option<Occupied>, OpenError> {
        let occupied = Occupied::take(&self.0)?;
        aside::settle(&self.0)?;
        Ok(Some(occupied))
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        match fs::metadata(self.0.join(name)) {
            Ok(file) => Ok(Some(file.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let path = self.0.join(name);
        tighten(&path, 0o600)?;
        backend(OpenOptions::new().read(true).write(true).open(path)?)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        backend(
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(self.0.join(name))?,
        )
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.0.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

/// redb's own backend: it locks the file against other processes once redb opens it.
fn backend(file: File) -> io::Result<Box<dyn DiskFile>> {
    let backend = FileBackend::new(file).map_err(io::Error::other)?;
    Ok(Box::new(backend))
}

/// Takes away what others may do with a file or folder; says so when there was something to take.
fn tighten(path: &Path, mode: u32) -> io::Result<()> {
    let present = fs::metadata(path)?.mode() & 0o777;
    if present & !mode != 0 {
        warn!(path = %path.display(), was = format!("{present:o}"), now = format!("{mode:o}"), "others could read this; tightened");
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_and_its_files_are_their_owners_alone() {
        let above = tempfile::tempdir().expect("a folder");
        let disk = Folder::new(&above.path().join("one/two"));
        assert!(disk.prepare(false).is_err(), "nobody asked for it");
        disk.prepare(true).expect("made");
        let mode = |path: &Path| fs::metadata(path).expect("there").mode() & 0o777;
        assert_eq!(mode(disk.folder()), 0o700);
        disk.create("a").expect("made");
        assert_eq!(mode(&disk.folder().join("a")), 0o600);
        assert!(disk.create("a").is_err(), "never over another");
        fs::set_permissions(disk.folder().join("a"), Permissions::from_mode(0o644)).expect("set");
        disk.open("a").expect("opened");
        assert_eq!(mode(&disk.folder().join("a")), 0o600);
        assert_eq!(disk.size("b").expect("asked"), None);
        disk.remove("b").expect("nothing to do");
        assert!(disk.open("b").is_err(), "opening makes nothing");
    }
}
