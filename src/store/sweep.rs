//! Owns sweeping: after a wipe, even the sealed bytes of the old link leave the file.
//! Compaction alone does not do it: pages that stay free between others keep what was in them. So every free page
//! is filled once with zeros, and the file compacted again.

use redb::{Database, Durability, TableDefinition};

use super::birth::{FILE, Place};
use super::error::StoreError;

/// There only while a sweep is under way, or after one that was cut short.
pub(super) const FILLER_NAME: &str = "filler";
const FILLER: TableDefinition<u64, &[u8]> = TableDefinition::new(FILLER_NAME);
/// With its overhead a little less than a page: one row a page, and no page of its own size is left out.
const ROW: usize = 4032;
/// How many rows are filled in before the file is looked at again.
const STEP: u64 = 8;

/// Empties every free page of the file, and makes it as small as it can be. Needs the file alone; done again after
/// a failure.
pub(super) fn sweep(database: &mut Database, place: &Place) -> Result<(), StoreError> {
    compact(database)?;
    fill(database, place)?;
    let transaction = database.begin_write()?;
    transaction.delete_table(FILLER)?;
    transaction.commit()?;
    compact(database)
}

fn compact(database: &mut Database) -> Result<(), StoreError> {
    match database.compact() {
        Ok(_) => Ok(()),
        Err(redb::CompactionError::Storage(error)) => Err(error.into()),
        // Nobody reads meanwhile, and there are no savepoints.
        Err(_) => Err(StoreError::Fault),
    }
}

/// The smallest page that redb has: no file has more of them than it is long.
const PAGE: u64 = 4096;

/// Takes pages until there was none left: redb makes the file longer only then. No more than the file can have, so
/// that a file that somebody exchanged under its name fills no disk.
fn fill(database: &Database, place: &Place) -> Result<(), StoreError> {
    let size = || {
        let size = place.disk.size(FILE).map_err(|_| StoreError::Disk)?;
        Ok::<u64, StoreError>(size.unwrap_or(0))
    };
    let mut transaction = database.begin_write()?;
    transaction
        .set_durability(Durability::Immediate)
        .map_err(|_| StoreError::Fault)?;
    // What a sweep that was cut short has left is in the way.
    transaction.delete_table(FILLER)?;
    {
        let mut filler = transaction.open_table(FILLER)?;
        let before = size()?;
        let mut row = 0;
        let most = before / PAGE + STEP;
        while row < most && size()? <= before {
            for _ in 0..STEP {
                filler.insert(row, [0; ROW].as_slice())?;
                row += 1;
            }
        }
    }
    Ok(transaction.commit()?)
}
