//! Owns what the store's tests stand on: seeds, folders without syncs, links to write under, and a plain copy of what the files hold.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hairpin::store::{Epoch, NewLink, Options, Store, StoreError};
use redb::{ReadableDatabase, ReadableTable, TableDefinition, TableHandle};
use tempfile::TempDir;
use whatsapp_rust::traits::Backend;

use crate::rig::PATIENCE;

pub const SALON: &str = "salon";
/// What links of these tests were asked for.
pub const LINE: &str = "79001234567";
/// A moment in 2025, in Unix milliseconds.
pub const NOW: i64 = 1_750_000_000_000;

/// Where randomness begins: always the same, or `HAIRPIN_SEED`. A failure names it.
pub fn seed() -> u64 {
    match std::env::var("HAIRPIN_SEED") {
        Ok(seed) => seed.parse().expect("HAIRPIN_SEED is a number"),
        Err(_) => 20_250_615,
    }
}

/// Whether there is time for everything (`HAIRPIN_LONG`).
pub fn long() -> bool {
    std::env::var_os("HAIRPIN_LONG").is_some()
}

/// Whether a method of upstream's traits only looks.
pub fn reads(method: &str) -> bool {
    ["get_", "load", "has_", "exists"]
        .iter()
        .any(|beginning| method.starts_with(beginning))
}

/// A folder in memory where there is such a place: what is not about syncs need not wait for them.
pub fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a folder")
}

pub fn open(folder: &Path) -> Store {
    Store::open(folder, Options::default()).expect("opened")
}

pub fn new_link() -> NewLink {
    NewLink {
        line: LINE.into(),
        intended: LINE.into(),
        now: NOW,
    }
}

/// Ends whatever link the session has, and opens the next one.
pub async fn next_epoch(store: &Store, session: &str) -> Epoch {
    let present = store.link(session).expect("readable").map(|row| row.epoch);
    let wiped = store
        .replace_link(session, present, Some(new_link()), Vec::new())
        .await
        .expect("wiped");
    wiped.link.expect("a new link").epoch
}

/// How the tables of an epoch begin.
pub fn tables_of(epoch: Epoch) -> String {
    format!("e{:016x}", number_of(epoch))
}

/// An epoch's number, as the files have it.
pub fn number_of(epoch: Epoch) -> u64 {
    let shown = format!("{epoch:?}");
    let digits = shown.trim_matches(|sign: char| !sign.is_ascii_digit());
    digits.parse().expect("a number")
}

/// A session's slot with a link, and the rows of that link.
pub async fn backend(store: &Store, session: &str) -> Arc<dyn Backend> {
    store
        .put_session(session, "Salon", NOW)
        .await
        .expect("a slot");
    let epoch = next_epoch(store, session).await;
    Arc::new(store.backend(session, epoch))
}

/// What the store said, from inside upstream's error.
pub fn cause(error: &(dyn Error + 'static)) -> Option<StoreError> {
    let mut layer = Some(error);
    while let Some(error) = layer {
        if let Some(&cause) = error.downcast_ref::<StoreError>() {
            return Some(cause);
        }
        layer = error.source();
    }
    None
}

/// Everything the files hold, as it lies there: sealed rows by table, and the key file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub tables: BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>,
    pub keys: Vec<u8>,
}

impl Held {
    /// Looks at a copy: the store itself may be open, but must not be writing.
    pub fn of(folder: &Path) -> Self {
        let copy = copy(folder);
        let database = redb::Database::open(copy.path().join("hairpin.redb")).expect("a store");
        let transaction = database.begin_read().expect("readable");
        let mut tables = BTreeMap::new();
        for handle in transaction.list_tables().expect("readable") {
            // The layout's number, in the clear and of another type.
            if handle.name() == "layout" {
                continue;
            }
            let definition = TableDefinition::<&[u8], &[u8]>::new(handle.name());
            let table = transaction.open_table(definition).expect("readable");
            let rows = table
                .iter()
                .expect("readable")
                .map(|row| {
                    let (key, value) = row.expect("readable");
                    (key.value().to_vec(), value.value().to_vec())
                })
                .collect();
            tables.insert(handle.name().to_owned(), rows);
        }
        Self {
            tables,
            keys: std::fs::read(copy.path().join("hairpin.keys")).expect("the key file"),
        }
    }
}

/// Whether the bytes are anywhere in a file.
pub fn holds(file: &Path, bytes: &[u8]) -> bool {
    let content = std::fs::read(file).expect("readable");
    content.windows(bytes.len()).any(|window| window == bytes)
}

/// Waits until what wipes left is out of the file, and nothing moves in it any more.
pub async fn swept(store: &Store, bytes: &[u8]) {
    let swept = async {
        while !store.is_swept().expect("readable") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, swept)
        .await
        .expect("swept out of the file");
    // Whatever was under way is over once a later write is.
    let next = store.put_setting("later", Vec::new()).await;
    next.expect("written");
    assert!(
        !holds(&store.file(), bytes),
        "something is left in the file"
    );
}

/// Both files, copied elsewhere.
pub fn copy(folder: &Path) -> TempDir {
    let copy = self::folder();
    for name in ["hairpin.redb", "hairpin.keys"] {
        std::fs::copy(folder.join(name), copy.path().join(name)).expect("copied");
    }
    copy
}

/// How many bytes of the file are in use, in whole pages.
pub fn in_use(folder: &Path) -> u64 {
    let copy = copy(folder);
    let database = redb::Database::open(copy.path().join("hairpin.redb")).expect("a store");
    let transaction = database.begin_write().expect("writable");
    let stats = transaction.stats().expect("counted");
    transaction.abort().expect("left alone");
    stats.allocated_pages() * u64::try_from(stats.page_size()).expect("small")
}
