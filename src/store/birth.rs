//! Owns how the store's files come to be and are opened.
//! A kill inside redb's creation leaves a file that never opens again, so the file gets its name only when it is whole;
//! the keys are durable before that.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, StorageBackend, StorageError, TableDefinition};
use tracing::warn;

use super::Epoch;
use super::error::OpenError;
use super::keys::{self, Keys, WrappingKey};
use super::tables::{House, Table};
use super::tx::{KeyRing, Writer};

/// The store's name in the data folder.
pub(crate) const FILE: &str = "hairpin.redb";
/// The layout of everything in the file. A newer one is refused untouched.
pub(super) const LAYOUT: u32 = 1;
const BORN: &str = "hairpin.redb.new";

/// Which store, and how it is opened.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) folder: PathBuf,
    pub(super) cache_bytes: usize,
}

impl Place {
    fn file(&self) -> PathBuf {
        self.folder.join(FILE)
    }
}

/// Opens the store, or makes it where there is none.
pub(super) fn open(
    place: &Place,
    wrapping: Option<WrappingKey>,
    create: bool,
) -> Result<(Database, Keys), OpenError> {
    if create {
        fs::create_dir_all(&place.folder)?;
    }
    tighten(&place.folder, 0o700)?;
    let key_file = place.folder.join(keys::FILE);
    if !place.file().try_exists()? {
        if !create {
            return Err(OpenError::Io(io::ErrorKind::NotFound.into()));
        }
        // Without the store its keys open nothing; a birth that was cut short leaves them behind.
        for stale in [place.folder.join(BORN), key_file.clone()] {
            match fs::remove_file(stale) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        return bear(place, &key_file, wrapping);
    }
    tighten(&place.file(), 0o600)?;
    let database = open_database(place)?;
    if key_file.try_exists()? {
        tighten(&key_file, 0o600)?;
    }
    let keys = Keys::open(&key_file, wrapping)?;
    Ok((database, keys))
}

fn bear(
    place: &Place,
    key_file: &Path,
    wrapping: Option<WrappingKey>,
) -> Result<(Database, Keys), OpenError> {
    let mut keys = Keys::create(key_file, wrapping)?;
    keys.add(Epoch::HOUSE)?;
    keys.sync()?;
    let born = place.folder.join(BORN);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&born)?;
    let database = builder(place)
        .create_with_backend(FileBackend::new(file).map_err(database_error)?)
        .map_err(database_error)?;
    first_commit(&database, &keys)?;
    database.close().map_err(database_error)?;
    File::open(&born)?.sync_all()?;
    sync_folder(&place.folder)?;
    fs::rename(&born, place.file())?;
    sync_folder(&place.folder)?;
    Ok((open_database(place)?, keys))
}

/// The layout's number is in the clear: a file of any later layout must be able to say so.
const LAYOUT_TABLE: TableDefinition<&str, u32> = TableDefinition::new("layout");

fn first_commit(database: &Database, keys: &Keys) -> Result<(), OpenError> {
    let io = |_| OpenError::Io(io::Error::other("the first commit failed"));
    let transaction = database
        .begin_write()
        .map_err(|error| io(redb::Error::from(error)))?;
    {
        let mut layout = transaction
            .open_table(LAYOUT_TABLE)
            .map_err(|error| io(redb::Error::from(error)))?;
        layout
            .insert("layout", LAYOUT)
            .map_err(|error| io(redb::Error::from(error)))?;
    }
    let ring: KeyRing = keys
        .get(Epoch::HOUSE)
        .into_iter()
        .map(|key| (Epoch::HOUSE, key))
        .collect();
    Writer::new(&transaction, &ring)
        .put(
            Table::House(House::Meta),
            b"next_epoch",
            &1u64.to_be_bytes(),
        )
        .map_err(|error| OpenError::Io(io::Error::other(error)))?;
    transaction
        .commit()
        .map_err(|error| io(redb::Error::from(error)))
}

/// Opens an existing file: checked, with a small cache, and never made anew.
pub(super) fn open_database(place: &Place) -> Result<Database, OpenError> {
    // redb would create what is missing: never an empty start.
    let path = place.file();
    if fs::metadata(&path)?.len() == 0 {
        return Err(OpenError::Damaged("the file is empty"));
    }
    known(builder(place).open(&path).map_err(database_error)?)
}

/// Opens what a backend holds, in the same way.
pub(super) fn open_backend(
    place: &Place,
    backend: impl StorageBackend,
) -> Result<Database, OpenError> {
    if !backend.len().is_ok_and(|length| length > 0) {
        return Err(OpenError::Damaged("the file is empty"));
    }
    // redb asserts in places what a damaged file does not keep to.
    let database = catch_unwind(AssertUnwindSafe(|| {
        builder(place).create_with_backend(backend)
    }))
    .map_err(|_| OpenError::Damaged("the file's checks fail"))?;
    known(database.map_err(database_error)?)
}

/// A layout that this version knows.
fn known(database: Database) -> Result<Database, OpenError> {
    let layout = layout(&database)?;
    if layout > LAYOUT {
        return Err(OpenError::Newer(layout));
    }
    Ok(database)
}

fn layout(database: &Database) -> Result<u32, OpenError> {
    use redb::ReadableDatabase as _;
    let damaged = |_| OpenError::Damaged("its layout cannot be read");
    let transaction = database
        .begin_read()
        .map_err(|error| damaged(redb::Error::from(error)))?;
    let table = transaction
        .open_table(LAYOUT_TABLE)
        .map_err(|error| damaged(redb::Error::from(error)))?;
    table
        .get("layout")
        .map_err(|error| damaged(redb::Error::from(error)))?
        .map(|layout| layout.value())
        .ok_or(OpenError::Damaged("it names no layout"))
}

fn builder(place: &Place) -> Builder {
    let mut builder = Builder::new();
    builder
        .set_cache_size(place.cache_bytes)
        .set_check_integrity_on_open(true);
    builder
}

fn database_error(error: DatabaseError) -> OpenError {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            OpenError::InUse
        }
        DatabaseError::UpgradeRequired(_) => OpenError::Damaged("the file is of a foreign format"),
        DatabaseError::Storage(StorageError::Io(error))
            if matches!(
                error.kind(),
                // No magic number, or the file ends before its own tables do.
                io::ErrorKind::InvalidData
                    | io::ErrorKind::InvalidInput
                    | io::ErrorKind::UnexpectedEof
            ) =>
        {
            OpenError::Damaged("the file is not a store")
        }
        DatabaseError::Storage(StorageError::Io(error)) => OpenError::Io(error),
        DatabaseError::Storage(_) | DatabaseError::RepairAborted => {
            OpenError::Damaged("the file's checks fail")
        }
        _ => OpenError::Damaged("the file cannot be opened"),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Takes away what others may do with a file or folder; says so when there was something to take.
pub(super) fn tighten(path: &Path, mode: u32) -> io::Result<()> {
    let present = fs::metadata(path)?.mode() & 0o777;
    if present & !mode != 0 {
        warn!(path = %path.display(), was = format!("{present:o}"), now = format!("{mode:o}"), "others could read this; tightened");
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok(())
}
