//! Owns messages that are kept for a while: sent ones for a retry, received ones until they are committed.

use super::{Result, before, count, timed};
use crate::store::record::{self, TimedRecord};
use crate::store::tables::Family;
use crate::store::tx::{Rows, Scope, Writer};

/// One of the two kinds.
#[derive(Clone, Copy)]
pub(in crate::store) enum Kind {
    /// For a retry.
    Sent,
    /// Until it is committed.
    Pending,
}

impl Kind {
    const fn rows(self) -> Family {
        match self {
            Self::Sent => Family::SentMessages,
            Self::Pending => Family::PendingInbound,
        }
    }

    const fn by_time(self) -> Family {
        match self {
            Self::Sent => Family::SentMessagesByTime,
            Self::Pending => Family::PendingInboundByTime,
        }
    }
}

/// A message's name: chat and id, or chat, sender and id.
pub(in crate::store) type Key = Vec<String>;

pub(in crate::store) fn put(
    writer: &Writer<'_>,
    scope: &Scope,
    kind: Kind,
    rows: &[(Key, Vec<u8>)],
    now: i64,
) -> Result<()> {
    for (key, bytes) in rows {
        let name = hash(scope, key);
        remove(writer, scope, kind, &name)?;
        let record = record::encode(&TimedRecord {
            at: now,
            bytes: bytes.clone(),
        })?;
        writer.put(scope.table(kind.rows()), &name, &record)?;
        writer.put(scope.table(kind.by_time()), &timed(now, &name), &[])?;
    }
    Ok(())
}

pub(in crate::store) fn get(
    rows: &impl Rows,
    scope: &Scope,
    kind: Kind,
    key: &Key,
) -> Result<Option<Vec<u8>>> {
    rows.get(scope.table(kind.rows()), &hash(scope, key))?
        .map(|bytes| record::decode(&bytes).map(|record: TimedRecord| record.bytes))
        .transpose()
}

/// Gives a message out and forgets it.
pub(in crate::store) fn take(
    writer: &Writer<'_>,
    scope: &Scope,
    kind: Kind,
    key: &Key,
) -> Result<Option<Vec<u8>>> {
    remove(writer, scope, kind, &hash(scope, key))
}

pub(in crate::store) fn delete(
    writer: &Writer<'_>,
    scope: &Scope,
    kind: Kind,
    keys: &[Key],
) -> Result<()> {
    for key in keys {
        remove(writer, scope, kind, &hash(scope, key))?;
    }
    Ok(())
}

pub(in crate::store) fn delete_before(
    writer: &Writer<'_>,
    scope: &Scope,
    kind: Kind,
    cutoff: i64,
) -> Result<u32> {
    let names = super::take(writer, scope, kind.by_time(), &before(cutoff))?;
    writer
        .delete_all(scope.table(kind.rows()), &names)
        .map(count)
}

fn remove(writer: &Writer<'_>, scope: &Scope, kind: Kind, name: &[u8]) -> Result<Option<Vec<u8>>> {
    let Some(bytes) = writer.get(scope.table(kind.rows()), name)? else {
        return Ok(None);
    };
    let old: TimedRecord = record::decode(&bytes)?;
    writer.delete(scope.table(kind.by_time()), &timed(old.at, name))?;
    writer.delete(scope.table(kind.rows()), name)?;
    Ok(Some(old.bytes))
}

fn hash(scope: &Scope, key: &Key) -> [u8; 32] {
    let parts: Vec<&[u8]> = key.iter().map(String::as_bytes).collect();
    scope.name(&parts)
}
