//! Owns contacts' privacy tokens. A row's place in the index is its last sign of life.

use std::ops::Bound;

use whatsapp_rust::traits::TcTokenEntry;

use super::{Result, through, timed};
use crate::store::record::{self, TcTokenRecord};
use crate::store::tables::Family;
use crate::store::tx::{Rows, Scope, Writer};

pub(in crate::store) fn get(
    rows: &impl Rows,
    scope: &Scope,
    jid: &str,
) -> Result<Option<TcTokenEntry>> {
    Ok(
        by_name(rows, scope, &scope.name(&[jid.as_bytes()]))?.map(|record| TcTokenEntry {
            token: record.token,
            token_timestamp: record.token_timestamp,
            sender_timestamp: record.sender_timestamp,
        }),
    )
}

pub(in crate::store) fn put(
    writer: &Writer<'_>,
    scope: &Scope,
    jid: &str,
    entry: &TcTokenEntry,
) -> Result<()> {
    delete(writer, scope, jid)?;
    let name = scope.name(&[jid.as_bytes()]);
    let record = TcTokenRecord {
        jid: jid.to_owned(),
        token: entry.token.clone(),
        token_timestamp: entry.token_timestamp,
        sender_timestamp: entry.sender_timestamp,
    };
    writer.put(
        scope.table(Family::TcTokensByTime),
        &timed(last_sign(&record), &name),
        &[],
    )?;
    writer.put(
        scope.table(Family::TcTokens),
        &name,
        &record::encode(&record)?,
    )
}

pub(in crate::store) fn delete(writer: &Writer<'_>, scope: &Scope, jid: &str) -> Result<()> {
    let name = scope.name(&[jid.as_bytes()]);
    if let Some(old) = by_name(writer, scope, &name)? {
        remove(writer, scope, &name, &old)?;
    }
    Ok(())
}

pub(in crate::store) fn jids(rows: &impl Rows, scope: &Scope) -> Result<Vec<String>> {
    Ok(
        super::decode_all::<TcTokenRecord>(rows, scope, Family::TcTokens)?
            .into_iter()
            .map(|record| record.jid)
            .collect(),
    )
}

/// Removes what has neither a live token nor a live sender bucket.
pub(in crate::store) fn delete_expired(
    writer: &Writer<'_>,
    scope: &Scope,
    token_cutoff: i64,
    sender_cutoff: i64,
) -> Result<u32> {
    // Whatever shows a sign of life after both is live for certain.
    let end = through(token_cutoff.max(sender_cutoff));
    let candidates = writer.raw_range(
        &scope.table(Family::TcTokensByTime).name(),
        (Bound::Unbounded, Bound::Excluded(&end[..])),
        usize::MAX,
        false,
    )?;
    let mut removed = 0;
    for (key, _) in candidates {
        let name = key.get(8..).unwrap_or_default();
        let Some(record) = by_name(writer, scope, name)? else {
            continue;
        };
        let token = !record.token.is_empty() && record.token_timestamp >= token_cutoff;
        let sender = record
            .sender_timestamp
            .is_some_and(|at| at >= sender_cutoff);
        if !token && !sender {
            remove(writer, scope, name, &record)?;
            removed += 1;
        }
    }
    Ok(super::count(removed))
}

/// Moves the sender bucket forward, never back; without a row it makes one that has no token.
pub(in crate::store) fn touch_sender(
    writer: &Writer<'_>,
    scope: &Scope,
    jid: &str,
    at: i64,
) -> Result<()> {
    let entry = match get(writer, scope, jid)? {
        Some(entry) => TcTokenEntry {
            sender_timestamp: Some(entry.sender_timestamp.map_or(at, |old| old.max(at))),
            ..entry
        },
        None => TcTokenEntry {
            token: Vec::new(),
            token_timestamp: at,
            sender_timestamp: Some(at),
        },
    };
    put(writer, scope, jid, &entry)
}

/// Keeps the newer of two real tokens, and the sender bucket in any case.
pub(in crate::store) fn receive(
    writer: &Writer<'_>,
    scope: &Scope,
    jid: &str,
    token: &[u8],
    at: i64,
) -> Result<()> {
    let old = get(writer, scope, jid)?;
    if old
        .as_ref()
        .is_some_and(|old| !old.token.is_empty() && at < old.token_timestamp)
    {
        return Ok(());
    }
    put(
        writer,
        scope,
        jid,
        &TcTokenEntry {
            token: token.to_vec(),
            token_timestamp: at,
            sender_timestamp: old.and_then(|old| old.sender_timestamp),
        },
    )
}

fn by_name(rows: &impl Rows, scope: &Scope, name: &[u8]) -> Result<Option<TcTokenRecord>> {
    rows.get(scope.table(Family::TcTokens), name)?
        .map(|bytes| record::decode(&bytes))
        .transpose()
}

fn remove(writer: &Writer<'_>, scope: &Scope, name: &[u8], old: &TcTokenRecord) -> Result<()> {
    writer.delete(
        scope.table(Family::TcTokensByTime),
        &timed(last_sign(old), name),
    )?;
    writer.delete(scope.table(Family::TcTokens), name)?;
    Ok(())
}

fn last_sign(record: &TcTokenRecord) -> i64 {
    let token = if record.token.is_empty() {
        i64::MIN
    } else {
        record.token_timestamp
    };
    token.max(record.sender_timestamp.unwrap_or(i64::MIN))
}
