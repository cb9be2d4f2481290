//! Owns which devices have a group's sender key, by group and by device.

use super::Result;
use crate::store::record::{self, SenderKeyDeviceRecord};
use crate::store::tables::Family;
use crate::store::tx::{Rows, Scope, Writer};

pub(in crate::store) fn of_group(
    rows: &impl Rows,
    scope: &Scope,
    group: &str,
) -> Result<Vec<(String, bool)>> {
    rows.prefixed(scope.table(Family::SenderKeyDevices), &hash(scope, group))?
        .into_iter()
        .map(|(_, value)| {
            let record: SenderKeyDeviceRecord = record::decode(&value)?;
            Ok((record.device, record.has_key))
        })
        .collect()
}

pub(in crate::store) fn set(
    writer: &Writer<'_>,
    scope: &Scope,
    group: &str,
    entries: &[(String, bool)],
) -> Result<()> {
    let group = hash(scope, group);
    let mut rows = Vec::with_capacity(entries.len());
    let mut index = Vec::with_capacity(entries.len());
    for (device, has_key) in entries {
        let hashed = hash(scope, device);
        rows.push((
            [group, hashed].concat(),
            record::encode(&SenderKeyDeviceRecord {
                device: device.clone(),
                has_key: *has_key,
            })?,
        ));
        index.push(([hashed, group].concat(), []));
    }
    writer.put_all(scope.table(Family::SenderKeyDevices), rows)?;
    writer.put_all(scope.table(Family::SenderKeyDevicesByDevice), index)
}

pub(in crate::store) fn clear_group(writer: &Writer<'_>, scope: &Scope, group: &str) -> Result<()> {
    let names =
        super::delete_prefixed(writer, scope, Family::SenderKeyDevices, &hash(scope, group))?;
    writer.delete_all(
        scope.table(Family::SenderKeyDevicesByDevice),
        names.iter().map(|name| turned(name)),
    )?;
    Ok(())
}

pub(in crate::store) fn clear_all(writer: &Writer<'_>, scope: &Scope) -> Result<()> {
    writer.drop_table(scope.table(Family::SenderKeyDevices))?;
    writer.drop_table(scope.table(Family::SenderKeyDevicesByDevice))
}

pub(in crate::store) fn delete_devices(
    writer: &Writer<'_>,
    scope: &Scope,
    devices: &[String],
) -> Result<()> {
    for device in devices {
        let names = super::delete_prefixed(
            writer,
            scope,
            Family::SenderKeyDevicesByDevice,
            &hash(scope, device),
        )?;
        writer.delete_all(
            scope.table(Family::SenderKeyDevices),
            names.iter().map(|name| turned(name)),
        )?;
    }
    Ok(())
}

fn hash(scope: &Scope, jid: &str) -> [u8; 32] {
    scope.name(&[jid.as_bytes()])
}

/// Group then device, device then group: each is the other turned round.
fn turned(name: &[u8]) -> Vec<u8> {
    let (first, second) = name.split_at(name.len() / 2);
    [second, first].concat()
}
