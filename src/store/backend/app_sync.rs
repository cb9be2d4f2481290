//! Owns `AppSyncStore` over the rows of one link.

use std::collections::HashMap;

use async_trait::async_trait;
use whatsapp_rust::traits::{AppStateSyncKey, AppSyncStore};
use whatsapp_rust::wacore::appstate::hash::HashState;
use whatsapp_rust::wacore::appstate::processor::AppStateMutationMAC;

use super::{EpochBackend, Result};
use crate::store::rows::app_sync;

#[async_trait]
impl AppSyncStore for EpochBackend {
    async fn get_sync_key(&self, key_id: &[u8]) -> Result<Option<AppStateSyncKey>> {
        self.read(|r, s| app_sync::key(r, s, key_id))
    }

    async fn set_sync_key(&self, key_id: &[u8], key: AppStateSyncKey) -> Result<()> {
        let key_id = key_id.to_vec();
        self.write(move |w, s| app_sync::set_key(w, s, &key_id, &key))
            .await
    }

    async fn get_version(&self, name: &str) -> Result<HashState> {
        self.read(|r, s| app_sync::version(r, s, name))
    }

    async fn set_version(&self, name: &str, state: HashState) -> Result<()> {
        let name = name.to_owned();
        self.write(move |w, s| app_sync::set_version(w, s, &name, &state))
            .await
    }

    async fn put_mutation_macs(
        &self,
        name: &str,
        _version: u64,
        mutations: &[AppStateMutationMAC],
    ) -> Result<()> {
        let (name, mutations) = (name.to_owned(), mutations.to_vec());
        self.write(move |w, s| app_sync::put_macs(w, s, &name, &mutations))
            .await
    }

    async fn get_mutation_mac(&self, name: &str, index_mac: &[u8]) -> Result<Option<Vec<u8>>> {
        self.read(|r, s| app_sync::mac(r, s, name, index_mac))
    }

    async fn get_mutation_macs(
        &self,
        name: &str,
        index_macs: &[[u8; 32]],
    ) -> Result<HashMap<[u8; 32], Vec<u8>>> {
        self.read(|r, s| {
            let mut found = HashMap::with_capacity(index_macs.len());
            for index in index_macs {
                if let Some(mac) = app_sync::mac(r, s, name, index)? {
                    found.insert(*index, mac);
                }
            }
            Ok(found)
        })
    }

    async fn delete_mutation_macs(&self, name: &str, index_macs: &[Vec<u8>]) -> Result<()> {
        let (name, indices) = (name.to_owned(), index_macs.to_vec());
        self.write(move |w, s| app_sync::delete_macs(w, s, &name, &indices))
            .await
    }

    async fn clear_mutation_macs(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.write(move |w, s| app_sync::clear_macs(w, s, &name))
            .await
    }

    async fn get_latest_sync_key_id(&self) -> Result<Option<Vec<u8>>> {
        self.read(|r, s| app_sync::latest_key_id(r, s))
    }
}
