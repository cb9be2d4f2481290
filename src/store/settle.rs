//! Owns what every opening does before anybody reads: the store and its keys are held against each other,
//! and what a crash left half-done is finished.

use redb::Database;
use tracing::error;

use super::Epoch;
use super::error::{OpenError, StoreError};
use super::keys::Keys;
use super::tables::{House, Table};
use super::tx::{Reader, Rows};

/// What the store says of its epochs.
pub(super) struct Census {
    /// What the store thinks is next.
    pub(super) next: u64,
    /// Every epoch that must have a key, the house included.
    pub(super) named: Vec<Epoch>,
    /// A wipe's sealed bytes are not swept out of the file yet.
    pub(super) sweep: bool,
}

/// What an opening leaves to do.
pub(super) struct Settled {
    /// Never given out before.
    pub(super) next_epoch: u64,
    pub(super) sweep: bool,
    /// Whether every key that the store does not name is overwritten.
    pub(super) tidy: bool,
}

/// Clears key blocks that the store does not name: a crash in between a wipe's steps ends here. Numbers below `least`
/// were given out before.
pub(super) fn settle(census: &Census, keys: &mut Keys, least: u64) -> Settled {
    let spare = keys
        .epochs()
        .iter()
        .map(|epoch| epoch.0 + 1)
        .fold(census.next.max(least), u64::max);
    let tidied = keys.keep_only(&census.named, Epoch(spare));
    if let Err(error) = &tidied {
        error!(%error, "an old key is not overwritten yet; it is tried again");
    }
    Settled {
        next_epoch: spare + 1,
        sweep: census.sweep,
        tidy: tidied.is_ok(),
    }
}

/// The next epoch and those that the store names, each of which has its key.
pub(super) fn census(database: &Database, keys: &Keys) -> Result<Census, OpenError> {
    let ring = keys.ring();
    if !ring.contains_key(&Epoch::HOUSE) {
        return Err(keys.without(Epoch::HOUSE));
    }
    let rows = Reader::new(database, &ring).map_err(unreadable)?;
    let next = rows
        .get(Table::House(House::Meta), b"next_epoch")
        .map_err(unreadable)?
        .and_then(|bytes| bytes.try_into().ok())
        .map(u64::from_be_bytes)
        .ok_or(OpenError::Damaged("it names no epoch"))?;
    let mut named = vec![Epoch::HOUSE];
    for (_, epoch) in rows.all(Table::House(House::Epochs)).map_err(unreadable)? {
        let epoch = epoch
            .try_into()
            .map(|bytes| Epoch(u64::from_be_bytes(bytes)))
            .map_err(|_| OpenError::Damaged("it names no epoch"))?;
        named.push(epoch);
    }
    if let Some(epoch) = named.iter().find(|epoch| !ring.contains_key(epoch)) {
        return Err(keys.without(*epoch));
    }
    let sweep = rows.wants_sweep().map_err(unreadable)?;
    Ok(Census { next, named, sweep })
}

fn unreadable(error: StoreError) -> OpenError {
    match error {
        StoreError::Disk => OpenError::Io(std::io::Error::other("the disk does not give the data")),
        StoreError::Damaged | StoreError::StaleEpoch => OpenError::Damaged("a row does not open"),
        _ => OpenError::Damaged("it cannot be read"),
    }
}
