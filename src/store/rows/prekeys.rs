//! Owns pre-keys and signed pre-keys, by their numbers.

use std::ops::Bound;

use super::Result;
use crate::store::error::StoreError;
use crate::store::tables::Family;
use crate::store::tx::{Rows, Scope, Writer};

pub(in crate::store) fn put<V: AsRef<[u8]>>(
    writer: &Writer<'_>,
    scope: &Scope,
    keys: &[(u32, V)],
    uploaded: bool,
) -> Result<()> {
    writer.put_all(
        scope.table(Family::PreKeys),
        keys.iter()
            .map(|(id, record)| (id.to_be_bytes(), marked(uploaded, record.as_ref()))),
    )
}

pub(in crate::store) fn load(rows: &impl Rows, scope: &Scope, id: u32) -> Result<Option<Vec<u8>>> {
    rows.get(scope.table(Family::PreKeys), &id.to_be_bytes())?
        .map(|value| match value.split_first() {
            Some((_, record)) => Ok(record.to_vec()),
            None => Err(StoreError::Damaged),
        })
        .transpose()
}

/// Marks those that are there; one that was consumed meanwhile stays gone.
pub(in crate::store) fn mark_uploaded(
    writer: &Writer<'_>,
    scope: &Scope,
    ids: &[u32],
) -> Result<()> {
    let mut marks = Vec::new();
    for &id in ids {
        if let Some(record) = load(writer, scope, id)? {
            marks.push((id, record));
        }
    }
    put(writer, scope, &marks, true)
}

pub(in crate::store) fn remove(writer: &Writer<'_>, scope: &Scope, id: u32) -> Result<()> {
    writer.delete(scope.table(Family::PreKeys), &id.to_be_bytes())?;
    Ok(())
}

pub(in crate::store) fn highest(rows: &impl Rows, scope: &Scope) -> Result<u32> {
    let last = rows.raw_range(
        &scope.table(Family::PreKeys).name(),
        (Bound::Unbounded, Bound::Unbounded),
        1,
        true,
    )?;
    last.first().map_or(Ok(0), |(key, _)| number(key))
}

pub(in crate::store) fn put_signed(
    writer: &Writer<'_>,
    scope: &Scope,
    id: u32,
    record: &[u8],
) -> Result<()> {
    writer.put(
        scope.table(Family::SignedPreKeys),
        &id.to_be_bytes(),
        record,
    )
}

pub(in crate::store) fn load_signed(
    rows: &impl Rows,
    scope: &Scope,
    id: u32,
) -> Result<Option<Vec<u8>>> {
    rows.get(scope.table(Family::SignedPreKeys), &id.to_be_bytes())
}

pub(in crate::store) fn all_signed(rows: &impl Rows, scope: &Scope) -> Result<Vec<(u32, Vec<u8>)>> {
    rows.all(scope.table(Family::SignedPreKeys))?
        .into_iter()
        .map(|(key, record)| Ok((number(&key)?, record)))
        .collect()
}

pub(in crate::store) fn remove_signed(writer: &Writer<'_>, scope: &Scope, id: u32) -> Result<()> {
    writer.delete(scope.table(Family::SignedPreKeys), &id.to_be_bytes())?;
    Ok(())
}

fn marked(uploaded: bool, record: &[u8]) -> Vec<u8> {
    [&[u8::from(uploaded)][..], record].concat()
}

fn number(key: &[u8]) -> Result<u32> {
    key.try_into()
        .map(u32::from_be_bytes)
        .map_err(|_| StoreError::Damaged)
}
