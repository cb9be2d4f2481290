//! Owns the mapping between hidden ids and numbers, in both directions.
//! A number may have had several hidden ids: the one updated last counts, whatever order they were told in.

use whatsapp_rust::traits::LidPnMappingEntry;

use super::Result;
use crate::store::error::StoreError;
use crate::store::record::{self, LidRecord};
use crate::store::tables::Family;
use crate::store::tx::{Rows, Scope, Writer};

/// A row's name: the hash of a hidden id or of a number.
type Name = [u8; 32];

pub(in crate::store) fn by_lid(
    rows: &impl Rows,
    scope: &Scope,
    lid: &str,
) -> Result<Option<LidPnMappingEntry>> {
    by_name(rows, scope, &hash(scope, lid))
}

pub(in crate::store) fn by_number(
    rows: &impl Rows,
    scope: &Scope,
    number: &str,
) -> Result<Option<LidPnMappingEntry>> {
    let mut newest: Option<LidPnMappingEntry> = None;
    for name in names(rows, scope, &hash(scope, number))? {
        let entry = by_name(rows, scope, &name)?.ok_or(StoreError::Damaged)?;
        // Of two updated in the same second the one that was put last.
        if newest
            .as_ref()
            .is_none_or(|newest| newest.updated_at <= entry.updated_at)
        {
            newest = Some(entry);
        }
    }
    Ok(newest)
}

pub(in crate::store) fn put(
    writer: &Writer<'_>,
    scope: &Scope,
    entries: &[LidPnMappingEntry],
) -> Result<()> {
    for entry in entries {
        let name = hash(scope, &entry.lid);
        if let Some(old) = by_name(writer, scope, &name)? {
            let number = hash(scope, &old.phone_number);
            let mut others = names(writer, scope, &number)?;
            others.retain(|other| *other != name);
            put_names(writer, scope, &number, &others)?;
        }
        let number = hash(scope, &entry.phone_number);
        let mut all = names(writer, scope, &number)?;
        all.push(name);
        put_names(writer, scope, &number, &all)?;
        writer.put(scope.table(Family::LidMappings), &name, &encode(entry)?)?;
    }
    Ok(())
}

pub(in crate::store) fn all(rows: &impl Rows, scope: &Scope) -> Result<Vec<LidPnMappingEntry>> {
    Ok(
        super::decode_all::<LidRecord>(rows, scope, Family::LidMappings)?
            .into_iter()
            .map(entry)
            .collect(),
    )
}

/// All of them, those of one number in the order they were put.
pub(in crate::store) fn all_in_order(
    rows: &impl Rows,
    scope: &Scope,
) -> Result<Vec<LidPnMappingEntry>> {
    let mut all = Vec::new();
    for (number, _) in rows.all(scope.table(Family::PnMappings))? {
        for name in names(rows, scope, &number)? {
            all.push(by_name(rows, scope, &name)?.ok_or(StoreError::Damaged)?);
        }
    }
    Ok(all)
}

/// The hidden ids of a number, by name, in the order they were put.
fn names(rows: &impl Rows, scope: &Scope, number: &[u8]) -> Result<Vec<Name>> {
    let bytes = rows
        .get(scope.table(Family::PnMappings), number)?
        .unwrap_or_default();
    let (names, rest) = bytes.as_chunks();
    if rest.is_empty() {
        Ok(names.to_vec())
    } else {
        Err(StoreError::Damaged)
    }
}

fn put_names(writer: &Writer<'_>, scope: &Scope, number: &[u8], names: &[Name]) -> Result<()> {
    let table = scope.table(Family::PnMappings);
    if names.is_empty() {
        return writer.delete(table, number).map(|_| ());
    }
    writer.put(table, number, names.as_flattened())
}

fn by_name(rows: &impl Rows, scope: &Scope, name: &[u8]) -> Result<Option<LidPnMappingEntry>> {
    rows.get(scope.table(Family::LidMappings), name)?
        .map(|bytes| decode(&bytes))
        .transpose()
}

/// A mapping as it is stored.
pub(in crate::store) fn encode(entry: &LidPnMappingEntry) -> Result<Vec<u8>> {
    record::encode(&LidRecord {
        lid: entry.lid.clone(),
        phone_number: entry.phone_number.clone(),
        created_at: entry.created_at,
        updated_at: entry.updated_at,
        learning_source: entry.learning_source.clone(),
    })
}

pub(in crate::store) fn decode(bytes: &[u8]) -> Result<LidPnMappingEntry> {
    record::decode(bytes).map(entry)
}

fn entry(record: LidRecord) -> LidPnMappingEntry {
    LidPnMappingEntry {
        lid: record.lid,
        phone_number: record.phone_number,
        created_at: record.created_at,
        updated_at: record.updated_at,
        learning_source: record.learning_source,
    }
}

fn hash(scope: &Scope, id: &str) -> Name {
    scope.name(&[id.as_bytes()])
}
