//! Owns what the rows of a link mean, one file per family. Every function works inside one transaction, behind the fence.

pub(super) mod app_sync;
pub(super) mod device;
pub(super) mod lid;
pub(super) mod messages;
pub(super) mod prekeys;
pub(super) mod registry;
pub(super) mod secrets;
pub(super) mod sender_key_devices;
pub(super) mod signal;
pub(super) mod tc_tokens;

use super::error::StoreError;
use super::tables::Family;
use super::tx::{Rows, Scope, Writer};
use std::ops::Bound;

type Result<T> = std::result::Result<T, StoreError>;

/// Unix seconds as eight bytes that sort like the numbers, negative ones included.
fn sortable(seconds: i64) -> [u8; 8] {
    (seconds.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

/// A row's place in an index by time.
fn timed(seconds: i64, name: &[u8]) -> Vec<u8> {
    [&sortable(seconds)[..], name].concat()
}

/// The end of an index before the moment: whatever is of it comes after.
fn before(seconds: i64) -> Vec<u8> {
    sortable(seconds).to_vec()
}

/// The end of an index after the moment: no name is longer than a hash.
fn through(seconds: i64) -> Vec<u8> {
    timed(seconds, &[u8::MAX; 33])
}

/// Names in an index that come before `end`; they are taken out of the index.
fn take(writer: &Writer<'_>, scope: &Scope, index: Family, end: &[u8]) -> Result<Vec<Vec<u8>>> {
    let keys = writer.delete_range(scope.table(index), (Bound::Unbounded, Bound::Excluded(end)))?;
    Ok(keys
        .into_iter()
        .filter_map(|key| key.get(8..).map(<[u8]>::to_vec))
        .collect())
}

/// How many rows went, as upstream counts them.
fn count(removed: usize) -> u32 {
    u32::try_from(removed).unwrap_or(u32::MAX)
}

fn decode_all<T: bincode_record::Decode>(
    rows: &impl Rows,
    scope: &Scope,
    family: Family,
) -> Result<Vec<T>> {
    rows.all(scope.table(family))?
        .into_iter()
        .map(|(_, value)| T::from_bytes(&value))
        .collect()
}

/// Keeps bincode out of this folder: a record knows how to read itself.
mod bincode_record {
    use super::super::record;
    use super::Result;

    pub(super) trait Decode: Sized {
        fn from_bytes(bytes: &[u8]) -> Result<Self>;
    }

    macro_rules! decodes {
        ($($record:ty),*) => {$(
            impl Decode for $record {
                fn from_bytes(bytes: &[u8]) -> Result<Self> {
                    record::decode(bytes)
                }
            }
        )*};
    }

    decodes!(record::LidRecord, record::TcTokenRecord);
}

/// Removes every row whose name begins with `prefix`; their names.
fn delete_prefixed(
    writer: &Writer<'_>,
    scope: &Scope,
    family: Family,
    prefix: &[u8],
) -> Result<Vec<Vec<u8>>> {
    let names: Vec<Vec<u8>> = writer
        .prefixed(scope.table(family), prefix)?
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    writer.delete_all(scope.table(family), &names)?;
    Ok(names)
}
