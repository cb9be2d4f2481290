//! Owns app state: its keys, the version of each collection, and the MACs of its entries.

use whatsapp_rust::traits::AppStateSyncKey;
use whatsapp_rust::wacore::appstate::hash::HashState;
use whatsapp_rust::wacore::appstate::processor::AppStateMutationMAC;

use super::Result;
use crate::store::error::StoreError;
use crate::store::record::{self, SyncKeyRecord};
use crate::store::tables::Family;
use crate::store::tx::{Rows, Scope, Writer};

/// Names the key that was set last; no key id is this long.
pub(in crate::store) const LATEST: &[u8] = b"the key that was set last, by its id";

pub(in crate::store) fn key(
    rows: &impl Rows,
    scope: &Scope,
    key_id: &[u8],
) -> Result<Option<AppStateSyncKey>> {
    rows.get(scope.table(Family::SyncKeys), &scope.name(&[key_id]))?
        .map(|bytes| decode_key(&bytes).map(|(_, key)| key))
        .transpose()
}

/// All keys, each with its id.
pub(in crate::store) fn all_keys(
    rows: &impl Rows,
    scope: &Scope,
) -> Result<Vec<(Vec<u8>, AppStateSyncKey)>> {
    rows.all(scope.table(Family::SyncKeys))?
        .into_iter()
        .filter(|(name, _)| name != LATEST)
        .map(|(_, bytes)| decode_key(&bytes))
        .collect()
}

/// A key as it is stored, and its id.
pub(in crate::store) fn decode_key(bytes: &[u8]) -> Result<(Vec<u8>, AppStateSyncKey)> {
    let record: SyncKeyRecord = record::decode(bytes)?;
    let key = AppStateSyncKey {
        key_data: record.key_data,
        fingerprint: record.fingerprint,
        timestamp: record.timestamp,
    };
    Ok((record.key_id, key))
}

pub(in crate::store) fn encode_key(key_id: &[u8], key: &AppStateSyncKey) -> Result<Vec<u8>> {
    record::encode(&SyncKeyRecord {
        key_id: key_id.to_vec(),
        key_data: key.key_data.clone(),
        fingerprint: key.fingerprint.clone(),
        timestamp: key.timestamp,
    })
}

pub(in crate::store) fn set_key(
    writer: &Writer<'_>,
    scope: &Scope,
    key_id: &[u8],
    key: &AppStateSyncKey,
) -> Result<()> {
    let record = encode_key(key_id, key)?;
    let table = scope.table(Family::SyncKeys);
    writer.put(table, &scope.name(&[key_id]), &record)?;
    set_latest(writer, scope, key_id)
}

pub(in crate::store) fn set_latest(
    writer: &Writer<'_>,
    scope: &Scope,
    key_id: &[u8],
) -> Result<()> {
    writer.put(scope.table(Family::SyncKeys), LATEST, key_id)
}

pub(in crate::store) fn latest_key_id(rows: &impl Rows, scope: &Scope) -> Result<Option<Vec<u8>>> {
    rows.get(scope.table(Family::SyncKeys), LATEST)
}

/// Upstream's own form: it grows fields that older records lack, which its serde defaults fill in.
pub(in crate::store) fn version(rows: &impl Rows, scope: &Scope, name: &str) -> Result<HashState> {
    match rows.get(
        scope.table(Family::SyncVersions),
        &scope.name(&[name.as_bytes()]),
    )? {
        None => Ok(HashState::default()),
        Some(json) => serde_json::from_slice(&json).map_err(|_| StoreError::Damaged),
    }
}

pub(in crate::store) fn set_version(
    writer: &Writer<'_>,
    scope: &Scope,
    name: &str,
    state: &HashState,
) -> Result<()> {
    let json = serde_json::to_vec(state).map_err(|_| StoreError::TooLarge)?;
    writer.put(
        scope.table(Family::SyncVersions),
        &scope.name(&[name.as_bytes()]),
        &json,
    )
}

pub(in crate::store) fn put_macs(
    writer: &Writer<'_>,
    scope: &Scope,
    name: &str,
    mutations: &[AppStateMutationMAC],
) -> Result<()> {
    writer.put_all(
        scope.table(Family::MutationMacs),
        mutations
            .iter()
            .map(|mac| (mac_row(scope, name, &mac.index_mac), &mac.value_mac)),
    )
}

pub(in crate::store) fn mac(
    rows: &impl Rows,
    scope: &Scope,
    name: &str,
    index: &[u8],
) -> Result<Option<Vec<u8>>> {
    rows.get(
        scope.table(Family::MutationMacs),
        &mac_row(scope, name, index),
    )
}

pub(in crate::store) fn delete_macs(
    writer: &Writer<'_>,
    scope: &Scope,
    name: &str,
    indices: &[Vec<u8>],
) -> Result<()> {
    writer.delete_all(
        scope.table(Family::MutationMacs),
        indices.iter().map(|index| mac_row(scope, name, index)),
    )?;
    Ok(())
}

pub(in crate::store) fn clear_macs(writer: &Writer<'_>, scope: &Scope, name: &str) -> Result<()> {
    super::delete_prefixed(
        writer,
        scope,
        Family::MutationMacs,
        &scope.name(&[name.as_bytes()]),
    )?;
    Ok(())
}

fn mac_row(scope: &Scope, name: &str, index: &[u8]) -> Vec<u8> {
    [scope.name(&[name.as_bytes()]), scope.name(&[index])].concat()
}
