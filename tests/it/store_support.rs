//! Owns what the store's tests stand on: seeds, folders without syncs, and links to write under.

use std::path::Path;
use std::sync::Arc;

use hairpin::store::{Epoch, NewLink, Options, Store};
use tempfile::TempDir;
use whatsapp_rust::traits::Backend;

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
        line: LINE.to_owned(),
        intended: LINE.to_owned(),
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

/// A session's slot with a link, and the rows of that link.
pub async fn backend(store: &Store, session: &str) -> Arc<dyn Backend> {
    store
        .put_session(session, "Salon", NOW)
        .await
        .expect("a slot");
    let epoch = next_epoch(store, session).await;
    Arc::new(store.backend(session, epoch))
}
