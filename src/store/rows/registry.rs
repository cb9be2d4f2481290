//! Owns what is remembered of others' devices: base keys, device lists, group metadata.

use whatsapp_rust::traits::{DeviceInfo, DeviceListRecord};

use super::Result;
use crate::store::record;
use crate::store::tables::Family;
use crate::store::tx::{Rows, Scope, Writer};

pub(in crate::store) fn save_base_key(
    writer: &Writer<'_>,
    scope: &Scope,
    address: &str,
    message: &str,
    key: &[u8],
) -> Result<()> {
    writer.put(
        scope.table(Family::BaseKeys),
        &base_key_row(scope, address, message),
        key,
    )
}

pub(in crate::store) fn has_base_key(
    rows: &impl Rows,
    scope: &Scope,
    address: &str,
    message: &str,
    key: &[u8],
) -> Result<bool> {
    let kept = rows.get(
        scope.table(Family::BaseKeys),
        &base_key_row(scope, address, message),
    )?;
    Ok(kept.is_some_and(|kept| kept == key))
}

pub(in crate::store) fn delete_base_key(
    writer: &Writer<'_>,
    scope: &Scope,
    address: &str,
    message: &str,
) -> Result<()> {
    writer.delete(
        scope.table(Family::BaseKeys),
        &base_key_row(scope, address, message),
    )?;
    Ok(())
}

pub(in crate::store) fn put_devices(
    writer: &Writer<'_>,
    scope: &Scope,
    lists: &[DeviceListRecord],
) -> Result<()> {
    let rows = lists
        .iter()
        .map(|list| {
            let record = record::encode(&record::DeviceListRecord {
                user: list.user.clone(),
                devices: list
                    .devices
                    .iter()
                    .map(|device| (device.device_id, device.key_index, device.is_hosted))
                    .collect(),
                timestamp: list.timestamp,
                phash: list.phash.clone(),
                raw_id: list.raw_id,
            })?;
            Ok((hash(scope, &list.user), record))
        })
        .collect::<Result<Vec<_>>>()?;
    writer.put_all(scope.table(Family::DeviceLists), rows)
}

pub(in crate::store) fn devices(
    rows: &impl Rows,
    scope: &Scope,
    user: &str,
) -> Result<Option<DeviceListRecord>> {
    rows.get(scope.table(Family::DeviceLists), &hash(scope, user))?
        .map(|bytes| {
            let record: record::DeviceListRecord = record::decode(&bytes)?;
            Ok(DeviceListRecord {
                user: record.user,
                devices: record
                    .devices
                    .into_iter()
                    .map(|(id, key_index, hosted)| {
                        DeviceInfo::new(id, key_index).with_hosting(hosted)
                    })
                    .collect(),
                timestamp: record.timestamp,
                phash: record.phash,
                raw_id: record.raw_id,
            })
        })
        .transpose()
}

pub(in crate::store) fn delete_devices(
    writer: &Writer<'_>,
    scope: &Scope,
    user: &str,
) -> Result<()> {
    writer.delete(scope.table(Family::DeviceLists), &hash(scope, user))?;
    Ok(())
}

pub(in crate::store) fn group(
    rows: &impl Rows,
    scope: &Scope,
    group: &str,
) -> Result<Option<Vec<u8>>> {
    rows.get(scope.table(Family::Groups), &hash(scope, group))
}

pub(in crate::store) fn put_group(
    writer: &Writer<'_>,
    scope: &Scope,
    group: &str,
    blob: &[u8],
) -> Result<()> {
    writer.put(scope.table(Family::Groups), &hash(scope, group), blob)
}

pub(in crate::store) fn delete_group(
    writer: &Writer<'_>,
    scope: &Scope,
    group: &str,
) -> Result<()> {
    writer.delete(scope.table(Family::Groups), &hash(scope, group))?;
    Ok(())
}

fn hash(scope: &Scope, id: &str) -> [u8; 32] {
    scope.name(&[id.as_bytes()])
}

fn base_key_row(scope: &Scope, address: &str, message: &str) -> [u8; 32] {
    scope.name(&[address.as_bytes(), message.as_bytes()])
}
