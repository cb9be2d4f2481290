//! Owns how the store's files come to be and are opened.
//! A kill inside redb's creation leaves a file that never opens again, so the file gets its name only when it is whole;
//! the keys are durable before that.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use redb::{Builder, Database, DatabaseError, StorageBackend, TableDefinition};

use super::Epoch;
use super::disk::Disk;
use super::error::OpenError;
use super::keys::{self, Keys, WrappingKey};
use super::overlay::Overlay;
use super::settle::{Settled, census, settle};
use super::tables::{House, Table};
use super::tx::Writer;
use super::undo::{Header, Undoing};

/// The store's name in the data folder.
pub(crate) const FILE: &str = "hairpin.redb";
/// The layout of everything in the file. A newer one is refused untouched.
pub(super) const LAYOUT: u32 = 1;
const BORN: &str = "hairpin.redb.new";

/// Which store, and how it is opened.
pub(super) struct Place {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) cache_bytes: usize,
    pub(super) wrapping: Option<WrappingKey>,
    /// What the file's first page was when it was last durable.
    pub(super) header: Arc<Header>,
}

/// An open store: checked, and nothing left half-done.
pub(super) struct Opened {
    pub(super) database: Database,
    pub(super) keys: Keys,
    pub(super) settled: Settled,
}

/// Opens the store, or makes it where there is none.
pub(super) fn open(place: &Place, create: bool) -> Result<Opened, OpenError> {
    if place.disk.size(FILE)?.is_none() {
        if !create {
            return Err(OpenError::Io(io::ErrorKind::NotFound.into()));
        }
        // A birth writes one key; more of them belonged to links, and their store may yet be put back.
        if place
            .disk
            .size(keys::FILE)?
            .is_some_and(|length| length > keys::BLOCK)
        {
            return Err(OpenError::Damaged(
                "hairpin.redb is missing, but its keys are there",
            ));
        }
        // A birth that was cut short leaves these behind; the key opens nothing.
        place.disk.remove(BORN)?;
        place.disk.remove(keys::FILE)?;
        bear(place)?;
    }
    open_again(place, 0)
}

/// Opens the store that is there: checked, with a small cache, and never made anew; epochs below `least` were given out
/// before. Refused, for whatever reason, it stays as it was: redb commits whenever it opens a file, and this one may be another program's or another machine's.
pub(super) fn open_again(place: &Place, least: u64) -> Result<Opened, OpenError> {
    // A name that a crash left in doubt is not in doubt any more when something is stored under it.
    place.disk.sync()?;
    let file = Undoing::new(place.disk.open(FILE)?, Arc::clone(&place.header));
    let overlay = Overlay::over(Arc::new(file));
    let database = open_backend(place, overlay.clone())?;
    let mut keys = open_keys(place)?;
    let census = census(&database, &keys)?;
    overlay.release()?;
    let settled = settle(&census, &mut keys, least);
    Ok(Opened {
        database,
        keys,
        settled,
    })
}

/// Opens the keys beside the store.
pub(super) fn open_keys(place: &Place) -> Result<Keys, OpenError> {
    match place.disk.open(keys::FILE) {
        Ok(file) => Keys::open(file, place.wrapping.clone()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(OpenError::KeysMissing),
        Err(error) => Err(error.into()),
    }
}

fn bear(place: &Place) -> Result<(), OpenError> {
    let mut keys = Keys::create(place.disk.create(keys::FILE)?, place.wrapping.clone());
    keys.add(&[Epoch::HOUSE])?;
    let file = place.disk.create(BORN)?;
    let database = builder(place)
        .create_with_backend(Undoing::born(file))
        .map_err(database_error)?;
    first_commit(&database, &keys)?;
    database.close().map_err(database_error)?;
    // The key file's name, and this one's, before the store has its own.
    place.disk.sync()?;
    place.disk.rename(BORN, FILE)?;
    place.disk.sync()?;
    Ok(())
}

/// The layout's number is in the clear: a file of any later layout must be able to say so.
const LAYOUT_TABLE: TableDefinition<&str, u32> = TableDefinition::new("layout");

fn first_commit(database: &Database, keys: &Keys) -> Result<(), OpenError> {
    let transaction = database.begin_write().map_err(redb_error)?;
    transaction
        .open_table(LAYOUT_TABLE)
        .map_err(redb_error)?
        .insert("layout", LAYOUT)
        .map_err(redb_error)?;
    let ring = keys.ring();
    Writer::new(&transaction, &ring)
        .put(
            Table::House(House::Meta),
            b"next_epoch",
            &1u64.to_be_bytes(),
        )
        .map_err(|error| OpenError::Io(io::Error::other(error)))?;
    transaction.commit().map_err(redb_error)
}

/// Opens what a backend holds. redb would make a new store of an empty one: never an empty start.
pub(super) fn open_backend(
    place: &Place,
    backend: impl StorageBackend,
) -> Result<Database, OpenError> {
    // redb asserts in places what a damaged file does not keep to.
    let database = catch_unwind(AssertUnwindSafe(|| {
        builder(place).create_with_backend(backend)
    }))
    .map_err(|_| OpenError::Damaged("the file's checks fail"))?
    .map_err(database_error)?;
    let layout = layout(&database)?;
    if layout > LAYOUT {
        return Err(OpenError::Newer(layout));
    }
    Ok(database)
}

fn layout(database: &Database) -> Result<u32, OpenError> {
    use redb::ReadableDatabase as _;
    let transaction = database.begin_read().map_err(redb_error)?;
    let table = transaction.open_table(LAYOUT_TABLE).map_err(redb_error)?;
    table
        .get("layout")
        .map_err(redb_error)?
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
        DatabaseError::RepairAborted => OpenError::Damaged("the file's checks fail"),
        error => redb_error(error),
    }
}

/// Whose fault it is: the disk's, for now, or the file's, for good.
fn redb_error(error: impl Into<redb::Error>) -> OpenError {
    match error.into() {
        redb::Error::Io(error)
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
        redb::Error::Io(error) => OpenError::Io(error),
        error @ (redb::Error::PreviousIo
        | redb::Error::Backend(_)
        | redb::Error::DatabaseClosed
        | redb::Error::LockPoisoned(_)) => OpenError::Io(io::Error::other(error)),
        _ => OpenError::Damaged("the file's checks fail"),
    }
}
