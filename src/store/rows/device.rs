//! Owns the device: identity, keys and account of this companion. One row per epoch.

use whatsapp_rust::wacore::store::Device;
use zeroize::Zeroizing;

use super::Result;
use crate::store::error::StoreError;
use crate::store::tables::Family;
use crate::store::tx::{Rows, Scope, Writer};

const ROW: &[u8] = b"device";

/// Upstream's own form: its device grows fields that older records lack, which its serde defaults fill in.
/// A positional encoding would lose such a link at the next update.
pub(in crate::store) fn encode(device: &Device) -> Result<Zeroizing<Vec<u8>>> {
    serde_json::to_vec(device)
        .map(Zeroizing::new)
        .map_err(|_| StoreError::TooLarge)
}

pub(in crate::store) fn save(writer: &Writer<'_>, scope: &Scope, encoded: &[u8]) -> Result<()> {
    writer.put(scope.table(Family::Device), ROW, encoded)
}

pub(in crate::store) fn load(rows: &impl Rows, scope: &Scope) -> Result<Option<Device>> {
    rows.get(scope.table(Family::Device), ROW)?
        .map(|json| decode(&Zeroizing::new(json)))
        .transpose()
}

pub(in crate::store) fn decode(json: &[u8]) -> Result<Device> {
    serde_json::from_slice(json).map_err(|_| StoreError::Damaged)
}

pub(in crate::store) fn exists(rows: &impl Rows, scope: &Scope) -> Result<bool> {
    rows.has(scope.table(Family::Device), ROW)
}

/// Saves it only where there is none yet.
pub(in crate::store) fn create(writer: &Writer<'_>, scope: &Scope, encoded: &[u8]) -> Result<()> {
    if exists(writer, scope)? {
        return Ok(());
    }
    save(writer, scope, encoded)
}
