//! Owns `DeviceStore` over the rows of one link.

use async_trait::async_trait;
use whatsapp_rust::traits::DeviceStore;
use whatsapp_rust::wacore::stats::StorageResourceReport;
use whatsapp_rust::wacore::store::Device;

use super::{EpochBackend, Result};
use crate::store::rows::device;

#[async_trait]
impl DeviceStore for EpochBackend {
    async fn save(&self, device: &Device) -> Result<()> {
        let encoded = device::encode(device)?;
        self.write(move |w, s| device::save(w, s, &encoded)).await
    }

    async fn load(&self) -> Result<Option<Device>> {
        self.read(|r, s| device::load(r, s))
    }

    async fn exists(&self) -> Result<bool> {
        self.read(|r, s| device::exists(r, s))
    }

    /// There is one device per epoch, so its id says nothing.
    async fn create(&self) -> Result<i32> {
        let encoded = device::encode(&Device::new())?;
        self.write(move |w, s| device::create(w, s, &encoded))
            .await?;
        Ok(1)
    }

    /// Snapshots would be plain copies of secrets outside the store: none are made.
    async fn snapshot_db(&self, _name: &str, _extra_content: Option<&[u8]>) -> Result<()> {
        self.read(|_, _| Ok(()))
    }

    async fn resource_report(&self) -> StorageResourceReport {
        StorageResourceReport::default()
    }
}
