//! Owns the way in for tests that read stored bytes at random, without a store around them.
//! It must decide nothing itself: whatever it reads is read by what reads it in a store.

use super::envelope::{self, BackupKey};
use super::error::StoreError;
use super::journal::JournalEntry;
use super::{links, record};

/// How many kinds of records there are.
pub const KINDS: u8 = 14;
/// The kind that is not written as it was read: a user agent that is too long is shortened.
pub const JOURNAL: u8 = 13;

/// Reads a record of a kind, and writes it again.
///
/// # Errors
/// When it is no such record.
pub fn record(kind: u8, bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
    match kind % KINDS {
        0 => record::again::<record::SessionRecord>(bytes),
        1 => record::again::<record::LinkRecord>(bytes),
        2 => record::again::<record::JournalRecord>(bytes),
        3 => record::again::<record::SyncKeyRecord>(bytes),
        4 => record::again::<record::LidRecord>(bytes),
        5 => record::again::<record::DeviceListRecord>(bytes),
        6 => record::again::<record::TcTokenRecord>(bytes),
        7 => record::again::<record::SenderKeyDeviceRecord>(bytes),
        8 => record::again::<record::TimedRecord>(bytes),
        9 => record::again::<record::MsgSecretRecord>(bytes),
        10 => record::again::<record::BackupHeadRecord>(bytes),
        11 => record::again::<record::BackupPartRecord>(bytes),
        12 => links::encode(&links::decode(bytes)?),
        _ => JournalEntry::decode(bytes)?.encode(),
    }
}

/// Seals what a backup carries.
///
/// # Errors
/// When there are no random numbers.
pub fn sealed(key: &BackupKey, plain: &[u8]) -> Result<Vec<u8>, StoreError> {
    envelope::seal(key, plain)
}
