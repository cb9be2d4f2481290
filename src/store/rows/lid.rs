//! Owns the mapping between hidden ids and numbers, in both directions.

use whatsapp_rust::traits::LidPnMappingEntry;

use super::Result;
use crate::store::record::{self, LidRecord};
use crate::store::tables::Family;
use crate::store::tx::{Rows, Scope, Writer};

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
    match rows.get(scope.table(Family::PnMappings), &hash(scope, number))? {
        None => Ok(None),
        Some(name) => by_name(rows, scope, &name),
    }
}

pub(in crate::store) fn put(
    writer: &Writer<'_>,
    scope: &Scope,
    entries: &[LidPnMappingEntry],
) -> Result<()> {
    for entry in entries {
        let name = hash(scope, &entry.lid);
        let numbers = scope.table(Family::PnMappings);
        if let Some(old) = by_name(writer, scope, &name)?
            && old.phone_number != entry.phone_number
        {
            let old = hash(scope, &old.phone_number);
            // The old number may belong to another hidden id by now: that one keeps it.
            if writer.get(numbers, &old)?.as_deref() == Some(&name[..]) {
                writer.delete(numbers, &old)?;
            }
        }
        writer.put(numbers, &hash(scope, &entry.phone_number), &name)?;
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

fn hash(scope: &Scope, id: &str) -> [u8; 32] {
    scope.name(&[id.as_bytes()])
}
