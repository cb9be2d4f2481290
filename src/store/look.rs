//! Owns looking into a store that no appliance runs on: for clients, which must never make or change one.
//! The file is read into memory under the lock and opened there, so that even a repair touches no disk.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};

use redb::StorageBackend as _;
use redb::backends::InMemoryBackend;

use super::aside::{self, Locked};
use super::birth::{self, Place};
use super::disk::Folder;
use super::error::OpenError;
use super::keys::{Keys, WrappingKey};
use super::settle::census;
use super::writer::Shared;
use super::{Options, Store};

/// While this lives no appliance can start on the store.
#[derive(Debug)]
pub struct Hold {
    file: Locked,
}

impl Hold {
    /// Keeps appliances off a folder's store; none where there is no store. Several clients may do so at once.
    ///
    /// # Errors
    /// [`OpenError::InUse`] when an appliance runs on it, or the file cannot be opened.
    pub fn on(folder: &Path) -> Result<Option<Self>, OpenError> {
        let file = match File::open(folder.join(birth::FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // The lock that redb takes for itself alone when it opens a file for writing.
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(Self { file: Locked(file) })),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }
}

impl Store {
    /// Looks into the store of a folder as it is now. Every write to what comes back fails as if it were closed.
    ///
    /// # Errors
    /// Why it cannot be looked into; without a store an [`OpenError::Io`] of kind `NotFound`.
    pub fn look(folder: &Path, wrapping: Option<WrappingKey>) -> Result<Self, OpenError> {
        let place = Place {
            disk: Arc::new(Folder::new(folder)),
            cache_bytes: Options::default().cache_bytes,
            wrapping: wrapping.clone(),
            header: Arc::default(),
        };
        let mut hold = Hold::on(folder)?.ok_or(io::Error::from(io::ErrorKind::NotFound))?;
        let store = in_memory(&mut hold.file.0)?;
        if store.len()? == 0 {
            return Err(OpenError::Damaged("the file is empty"));
        }
        let keys = match File::open(aside::key_file(folder)) {
            Ok(mut file) => Keys::open(Box::new(in_memory(&mut file)?), wrapping)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OpenError::KeysMissing);
            }
            Err(error) => return Err(error.into()),
        };
        drop(hold);
        let database = birth::open_backend(&place, store)?;
        census(&database, &keys)?;
        Ok(Self {
            shared: Arc::new(Shared::new(database, keys.ring(), place, None)),
            jobs: Arc::new(RwLock::new(None)),
            thread: Arc::new(Mutex::new(None)),
        })
    }

    /// Which process has a folder's store open for writing, where the kernel says so.
    #[must_use]
    pub fn holder(folder: &Path) -> Option<u32> {
        let file = std::fs::metadata(folder.join(birth::FILE)).ok()?;
        let locks = std::fs::read_to_string("/proc/locks").ok()?;
        holder_in(&locks, file.dev(), file.ino())
    }
}

/// A copy that may be changed.
fn in_memory(file: &mut File) -> io::Result<InMemoryBackend> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let memory = InMemoryBackend::new();
    memory.set_len(bytes.len() as u64)?;
    memory.write(0, &bytes)?;
    Ok(memory)
}

/// Reads lines as in `4: FLOCK  ADVISORY  WRITE 4711 fe:01:1234567 0 EOF`.
fn holder_in(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let wanted = format!(
        "{:02x}:{:02x}:{inode}",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    );
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let is_ours = words.next() == Some("FLOCK")
            && words.nth(1) == Some("WRITE")
            && line.split_whitespace().any(|word| word == wanted);
        // Processes that this one cannot see are 0.
        let process = line.split_whitespace().nth(4)?.parse().ok()?;
        (is_ours && process != 0).then_some(process)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::NewLink;
    use crate::store::keys;

    async fn a_store(folder: &Path) {
        let store = Store::open(folder, Options::default()).expect("opened");
        store
            .put_session("salon", "Salon", 7)
            .await
            .expect("written");
        let next = NewLink {
            line: "79001234567".into(),
            intended: "79001234567".into(),
            now: 7,
        };
        store
            .replace_link("salon", None, Some(next), vec![])
            .await
            .expect("written");
        store.close().await;
    }

    fn contents(folder: &Path) -> Vec<(String, Vec<u8>, std::time::SystemTime)> {
        let mut all: Vec<_> = std::fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| {
                let entry = entry.expect("an entry");
                (
                    entry.file_name().to_string_lossy().into_owned(),
                    std::fs::read(entry.path()).expect("read"),
                    entry
                        .metadata()
                        .expect("metadata")
                        .modified()
                        .expect("a time"),
                )
            })
            .collect();
        all.sort();
        all
    }

    #[tokio::test]
    async fn looking_shows_what_is_stored_and_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        a_store(folder.path()).await;
        let before = contents(folder.path());
        let looked = Store::look(folder.path(), None).expect("looked");
        assert_eq!(looked.sessions().expect("read")[0].name, "Salon");
        let row = looked.link("salon").expect("read").expect("a link");
        assert_eq!(row.masked(), "79001***567");
        assert!(
            looked.put_session("two", "Two", 8).await.is_err(),
            "nothing can be written"
        );
        looked.close().await;
        assert_eq!(contents(folder.path()), before);
    }

    #[tokio::test]
    async fn a_store_whose_appliance_was_killed_is_looked_into_without_repairing_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path(), Options::default()).expect("opened");
        store
            .put_session("salon", "Salon", 7)
            .await
            .expect("written");
        // What a kill leaves: the files as they are while the store is open.
        let copy = tempfile::tempdir().expect("a folder");
        for (name, bytes, _) in contents(folder.path()) {
            std::fs::write(copy.path().join(name), bytes).expect("copied");
        }
        let before = contents(copy.path());
        let looked = Store::look(copy.path(), None).expect("looked");
        assert_eq!(looked.sessions().expect("read").len(), 1);
        assert_eq!(contents(copy.path()), before);
        store.close().await;
    }

    #[tokio::test]
    async fn lookers_and_appliances_keep_each_other_out() {
        let folder = tempfile::tempdir().expect("a folder");
        a_store(folder.path()).await;
        let store = Store::open(folder.path(), Options::default()).expect("opened");
        assert!(matches!(
            Store::look(folder.path(), None),
            Err(OpenError::InUse)
        ));
        assert_eq!(Store::holder(folder.path()), Some(std::process::id()));
        store.close().await;
        assert_eq!(Store::holder(folder.path()), None);
        let hold = Hold::on(folder.path()).expect("held").expect("a store");
        assert!(Store::look(folder.path(), None).is_ok(), "clients share");
        assert!(matches!(
            Store::open(folder.path(), Options::default()),
            Err(OpenError::InUse)
        ));
        drop(hold);
        let store = Store::open(folder.path(), Options::default()).expect("free again");
        store.close().await;
    }

    #[tokio::test]
    async fn what_is_no_store_is_named_and_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let nothing = Store::look(folder.path(), None).err();
        assert!(
            matches!(&nothing, Some(OpenError::Io(error)) if error.kind() == io::ErrorKind::NotFound)
        );
        assert!(Hold::on(folder.path()).expect("no store").is_none());
        assert_eq!(
            contents(folder.path()).len(),
            0,
            "a client makes no store and no keys"
        );
        a_store(folder.path()).await;
        let file = folder.path().join(birth::FILE);
        let whole = std::fs::read(&file).expect("read");
        for length in [0, 1, 9, 63, 320, 511, 4096, whole.len() / 2] {
            std::fs::write(&file, &whole[..length]).expect("cut");
            let cut = Store::look(folder.path(), None).err();
            assert!(
                matches!(cut, Some(OpenError::Damaged(_))),
                "{length}: {cut:?}"
            );
            let cut = Store::open(folder.path(), Options::default()).err();
            assert!(
                matches!(cut, Some(OpenError::Damaged(_))),
                "{length}, opened: {cut:?}"
            );
        }
        for at in (0..whole.len()).step_by(whole.len() / 64) {
            let mut flipped = whole.clone();
            for byte in flipped.iter_mut().skip(at).take(64) {
                *byte ^= 0x5a;
            }
            std::fs::write(&file, &flipped).expect("flipped");
            // Free pages may hold anything; whatever is refused is refused as damage.
            match Store::look(folder.path(), None) {
                Ok(_) | Err(OpenError::Damaged(_)) => {}
                Err(other) => panic!("{at}: {other}"),
            }
        }
        std::fs::write(&file, &whole).expect("whole");
        std::fs::remove_file(folder.path().join(keys::FILE)).expect("removed");
        assert!(matches!(
            Store::look(folder.path(), None),
            Err(OpenError::KeysMissing)
        ));
    }

    #[test]
    fn the_holder_is_read_from_the_kernels_list() {
        let locks = "\
1: POSIX  ADVISORY  WRITE 10 fe:01:77 0 EOF
2: FLOCK  ADVISORY  READ 11 fe:01:77 0 EOF
3: OFDLCK ADVISORY  WRITE -1 fe:01:77 0 EOF
4: FLOCK  ADVISORY  WRITE 12 fe:01:778 0 EOF
5: FLOCK  ADVISORY  WRITE 13 fe:01:77 0 EOF
6: FLOCK  ADVISORY  WRITE 0 fe:01:79 0 EOF
";
        let device = rustix::fs::makedev(0xfe, 1);
        assert_eq!(holder_in(locks, device, 77), Some(13));
        assert_eq!(holder_in(locks, device, 78), None);
        assert_eq!(holder_in(locks, device, 79), None);
        assert_eq!(holder_in("", device, 77), None);
    }
}
