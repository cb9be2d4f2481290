//! Owns what is done to the store's files as a whole: putting a restored pair in the place of another, and setting
//! files aside under a dated name. Nothing is ever deleted here but what was never anybody's store.
//!
//! A store and its keys belong together, and two files cannot be renamed at once. So a restored pair is made whole in
//! a folder of its own, beside a second name of the old pair, and one rename decides:
//!
//! ```text
//! hairpin.restore.new/                being made: nothing has happened yet
//! hairpin.restore/ with hairpin.redb  ready: nothing has happened yet
//! hairpin.restore/ without it         decided: hairpin.redb is the restored one; its keys, and the old pair under
//!                                     its dated names, may still be in here
//! ```
//!
//! Whoever opens the store next finishes what was decided and forgets what was not. `hairpin.redb` is never missing in
//! between: a missing one would mean an empty start.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::birth;
use super::error::OpenError;
use super::keys;

const BUILDING: &str = "hairpin.restore.new";
const READY: &str = "hairpin.restore";
/// The store's files.
const PAIR: [&str; 2] = [keys::FILE, birth::FILE];

/// While this lives, no other command works on the folder's files as a whole, and no store in it is opened.
#[derive(Debug)]
pub struct Occupied {
    _folder: Option<Locked>,
}

impl Occupied {
    /// Takes a folder. One that is missing cannot be taken, and needs not be.
    ///
    /// # Errors
    /// [`OpenError::InUse`] when somebody else has it.
    pub fn take(folder: &Path) -> Result<Self, OpenError> {
        let file = match File::open(folder) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Self { _folder: None });
            }
            Err(error) => return Err(error.into()),
        };
        match file.try_lock() {
            Ok(()) => Ok(Self {
                _folder: Some(Locked(file)),
            }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse),
            // A file system that locks no folders: the store's own lock must do.
            Err(TryLockError::Error(_)) => Ok(Self { _folder: None }),
        }
    }
}

/// A file or folder under a lock.
#[derive(Debug)]
pub(super) struct Locked(pub(super) File);

impl Drop for Locked {
    fn drop(&mut self) {
        // Closing alone would leave it locked for as long as a process that was just being started has a copy.
        let _ = self.0.unlock();
    }
}

/// A folder whose store nobody has open, and nobody can open while this lives.
#[derive(Debug)]
pub(super) struct Alone {
    _folder: Occupied,
    /// None where there is no store.
    store: Option<Locked>,
}

impl Alone {
    pub(super) fn take(folder: &Path) -> Result<Self, OpenError> {
        let occupied = Occupied::take(folder)?;
        settle(folder)?;
        Ok(Self {
            _folder: occupied,
            store: lock(&folder.join(birth::FILE))?,
        })
    }
}

/// Locks a store as redb does, or says that there is none.
fn lock(path: &Path) -> Result<Option<Locked>, OpenError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(Locked(file))),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// The key file that belongs to the store of a folder as it is now.
pub(super) fn key_file(folder: &Path) -> PathBuf {
    let waiting = folder.join(READY).join(keys::FILE);
    if is_decided(folder) && waiting.exists() {
        waiting
    } else {
        folder.join(keys::FILE)
    }
}

fn is_decided(folder: &Path) -> bool {
    let ready = folder.join(READY);
    ready.is_dir() && fs::symlink_metadata(ready.join(birth::FILE)).is_err()
}

/// Finishes a restore that was decided, forgets one that was not. Only for whoever has the folder.
pub(super) fn settle(folder: &Path) -> io::Result<()> {
    let (building, ready) = (folder.join(BUILDING), folder.join(READY));
    if ready.is_dir() && !is_decided(folder) {
        // Under the other name first: taken apart under this one it would look decided.
        forget(&building)?;
        fs::rename(&ready, &building)?;
        sync(folder)?;
    }
    forget(&building)?;
    if is_decided(folder) {
        finish(folder, &mut |_| {})?;
    }
    Ok(())
}

fn forget(building: &Path) -> io::Result<()> {
    match fs::remove_dir_all(building) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A folder in which a restored pair is made.
pub(super) fn build_in(folder: &Path) -> io::Result<PathBuf> {
    let building = folder.join(BUILDING);
    forget(&building)?;
    DirBuilder::new().mode(0o700).create(&building)?;
    Ok(building)
}

/// What has become durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The old pair has its second names.
    Kept,
    /// The restored pair is ready.
    Ready,
    /// The store is the restored one: there is no way back.
    Decided,
    /// Its keys are in their place as well.
    Paired,
    /// One of the old pair has its dated name.
    Dated,
    /// Nothing is left to do.
    Finished,
}

/// Puts the pair made in [`build_in`]'s folder in the place of the one that is there; what that one is called now.
pub(super) fn put_in_place(
    folder: &Path,
    alone: &Alone,
    at: i64,
    after: &mut dyn FnMut(Step),
) -> io::Result<Vec<PathBuf>> {
    let (building, ready) = (folder.join(BUILDING), folder.join(READY));
    let suffix = free_suffix(folder, at);
    for name in PAIR {
        keep(
            &folder.join(name),
            &building.join(format!("{name}.{suffix}")),
        )?;
    }
    give_to_owner_of(folder, &building)?;
    sync(&building)?;
    after(Step::Kept);
    fs::rename(&building, &ready)?;
    sync(folder)?;
    after(Step::Ready);
    // Nobody opens the restored store before its keys are in their place.
    let _locked = lock(&ready.join(birth::FILE)).map_err(io::Error::other)?;
    let (from, to) = (ready.join(birth::FILE), folder.join(birth::FILE));
    if alone.store.is_some() {
        fs::rename(from, to)?;
    } else {
        rename_to_new(&from, &to)?;
    }
    sync(folder)?;
    sync(&ready)?;
    after(Step::Decided);
    finish(folder, after)
}

/// What came to be under the name meanwhile is not replaced.
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            // A file system that knows no such rename.
            if to.exists() {
                return Err(ErrorKind::AlreadyExists.into());
            }
            fs::rename(from, to)
        }
        renamed => Ok(renamed?),
    }
}

/// The steps that follow once it is decided; each may have been done before.
fn finish(folder: &Path, after: &mut dyn FnMut(Step)) -> io::Result<Vec<PathBuf>> {
    let ready = folder.join(READY);
    if rename_if_there(&ready.join(keys::FILE), &folder.join(keys::FILE))? {
        sync(folder)?;
        sync(&ready)?;
    }
    after(Step::Paired);
    let mut kept: Vec<_> = fs::read_dir(&ready)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<io::Result<_>>()?;
    kept.sort();
    let mut aside = Vec::new();
    for name in kept {
        let dated = folder.join(&name);
        rename_to_new(&ready.join(&name), &dated)?;
        aside.push(dated);
        after(Step::Dated);
    }
    sync(folder)?;
    sync(&ready)?;
    fs::remove_dir(&ready)?;
    sync(folder)?;
    after(Step::Finished);
    Ok(aside)
}

/// Gives the store and its keys dated names; what they are called now. The keys go first: a store without keys says
/// so, while keys without a store would be an empty start.
pub(super) fn set_aside(folder: &Path, at: i64) -> Result<Vec<PathBuf>, OpenError> {
    let _alone = Alone::take(folder)?;
    let suffix = free_suffix(folder, at);
    let mut aside = Vec::new();
    for name in PAIR {
        let dated = folder.join(format!("{name}.{suffix}"));
        if rename_if_there(&folder.join(name), &dated)? {
            sync(folder)?;
            aside.push(dated);
        }
    }
    if aside.is_empty() {
        return Err(io::Error::from(ErrorKind::NotFound).into());
    }
    Ok(aside)
}

/// A second name for a file, or a copy where a file can have but one. Nothing for a file that is not there.
fn keep(file: &Path, kept: &Path) -> io::Result<()> {
    match fs::hard_link(file, kept) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(_) => {
            fs::copy(file, kept)?;
            File::open(kept)?.sync_all()
        }
    }
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<bool> {
    match fs::rename(from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Files made by root belong to whom the folder belongs to.
fn give_to_owner_of(folder: &Path, made: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = fs::metadata(folder)?;
    let give = |path: &Path| std::os::unix::fs::lchown(path, Some(owner.uid()), Some(owner.gid()));
    give(made)?;
    for name in [birth::FILE, keys::FILE] {
        give(&made.join(name))?;
    }
    Ok(())
}

pub(super) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// `2026-11-25-073918`, or a later second when that one is taken.
fn free_suffix(folder: &Path, at: i64) -> String {
    let mut second = at.div_euclid(1000);
    loop {
        let suffix = dated(second);
        let taken = PAIR
            .iter()
            .any(|name| fs::symlink_metadata(folder.join(format!("{name}.{suffix}"))).is_ok());
        if !taken {
            return suffix;
        }
        second += 1;
    }
}

/// A second since 1970 as a date that sorts. Days are counted in eras of 400 years that begin with a March.
pub(crate) fn dated(second: i64) -> String {
    let (days, of_day) = (second.div_euclid(86_400), second.rem_euclid(86_400));
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_based = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_based + 2) / 5 + 1;
    let month = if march_based < 10 {
        march_based + 3
    } else {
        march_based - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}-{:02}{:02}{:02}",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_sort_and_are_never_given_twice() {
        for (second, text) in [
            (0, "1970-01-01-000000"),
            (951_782_400, "2000-02-29-000000"),
            (1_764_046_501, "2025-11-25-045501"),
            (4_107_542_399, "2100-02-28-235959"),
        ] {
            assert_eq!(dated(second), text);
        }
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str| fs::write(folder.path().join(name), name).expect("written");
        let mut names = Vec::new();
        for _ in 0..3 {
            write(birth::FILE);
            write(keys::FILE);
            names.extend(set_aside(folder.path(), 1_764_046_501_000).expect("set aside"));
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 6);
        assert!(names.iter().all(|name| name.is_file()));
        assert!(matches!(
            set_aside(folder.path(), 0),
            Err(OpenError::Io(error)) if error.kind() == ErrorKind::NotFound
        ));
    }

    #[test]
    fn whoever_has_a_folder_keeps_others_out_until_it_lets_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let taken = Occupied::take(folder.path()).expect("free");
        assert!(matches!(Alone::take(folder.path()), Err(OpenError::InUse)));
        drop(taken);
        assert!(Alone::take(folder.path()).is_ok());
        assert!(Occupied::take(&folder.path().join("missing")).is_ok());
    }
}
