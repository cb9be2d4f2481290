//! Owns `SignalStore` over the rows of one link.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use whatsapp_rust::traits::SignalStore;

use super::{EpochBackend, Result};
use crate::store::rows::{prekeys, signal};

#[async_trait]
impl SignalStore for EpochBackend {
    async fn put_identity(&self, address: &str, key: [u8; 32]) -> Result<()> {
        let row = [(address.to_owned(), key)];
        self.write(move |w, s| signal::put_identities(w, s, &row))
            .await
    }

    async fn put_identities_batch(&self, identities: &[(Arc<str>, [u8; 32])]) -> Result<()> {
        let rows = identities.to_vec();
        self.write(move |w, s| signal::put_identities(w, s, &rows))
            .await
    }

    async fn load_identity(&self, address: &str) -> Result<Option<[u8; 32]>> {
        self.read(|r, s| signal::identity(r, s, address))
    }

    async fn delete_identity(&self, address: &str) -> Result<()> {
        let address = address.to_owned();
        self.write(move |w, s| signal::delete_identity(w, s, &address))
            .await
    }

    async fn get_session(&self, address: &str) -> Result<Option<Bytes>> {
        self.read(|r, s| Ok(signal::session(r, s, address)?.map(Bytes::from)))
    }

    async fn put_session(&self, address: &str, session: &[u8]) -> Result<()> {
        let row = [(address.to_owned(), session.to_vec())];
        self.write(move |w, s| signal::put_sessions(w, s, &row))
            .await
    }

    async fn put_sessions_batch(&self, sessions: &[(Arc<str>, Bytes)]) -> Result<()> {
        let rows = sessions.to_vec();
        self.write(move |w, s| signal::put_sessions(w, s, &rows))
            .await
    }

    async fn delete_session(&self, address: &str) -> Result<()> {
        let address = address.to_owned();
        self.write(move |w, s| signal::delete_session(w, s, &address))
            .await
    }

    async fn has_session(&self, address: &str) -> Result<bool> {
        self.read(|r, s| signal::has_session(r, s, address))
    }

    async fn has_signal_state_for_user(&self, user: &str) -> Result<bool> {
        self.read(|r, s| signal::has_state_for_user(r, s, user))
    }

    async fn store_prekey(&self, id: u32, record: &[u8], uploaded: bool) -> Result<()> {
        let row = [(id, record.to_vec())];
        self.write(move |w, s| prekeys::put(w, s, &row, uploaded))
            .await
    }

    async fn store_prekeys_batch(&self, keys: &[(u32, Bytes)], uploaded: bool) -> Result<()> {
        let rows = keys.to_vec();
        self.write(move |w, s| prekeys::put(w, s, &rows, uploaded))
            .await
    }

    async fn load_prekey(&self, id: u32) -> Result<Option<Bytes>> {
        self.read(|r, s| Ok(prekeys::load(r, s, id)?.map(Bytes::from)))
    }

    async fn load_prekeys_batch(&self, ids: &[u32]) -> Result<Vec<(u32, Bytes)>> {
        self.read(|r, s| {
            let mut found = Vec::with_capacity(ids.len());
            for &id in ids {
                if let Some(record) = prekeys::load(r, s, id)? {
                    found.push((id, Bytes::from(record)));
                }
            }
            Ok(found)
        })
    }

    async fn mark_prekeys_uploaded(&self, ids: &[u32]) -> Result<()> {
        let ids = ids.to_vec();
        self.write(move |w, s| prekeys::mark_uploaded(w, s, &ids))
            .await
    }

    async fn remove_prekey(&self, id: u32) -> Result<()> {
        self.write(move |w, s| prekeys::remove(w, s, id)).await
    }

    async fn get_max_prekey_id(&self) -> Result<u32> {
        self.read(|r, s| prekeys::highest(r, s))
    }

    async fn store_signed_prekey(&self, id: u32, record: &[u8]) -> Result<()> {
        let record = record.to_vec();
        self.write(move |w, s| prekeys::put_signed(w, s, id, &record))
            .await
    }

    async fn load_signed_prekey(&self, id: u32) -> Result<Option<Vec<u8>>> {
        self.read(|r, s| prekeys::load_signed(r, s, id))
    }

    async fn load_all_signed_prekeys(&self) -> Result<Vec<(u32, Vec<u8>)>> {
        self.read(|r, s| prekeys::all_signed(r, s))
    }

    async fn remove_signed_prekey(&self, id: u32) -> Result<()> {
        self.write(move |w, s| prekeys::remove_signed(w, s, id))
            .await
    }

    async fn put_sender_key(&self, address: &str, record: &[u8]) -> Result<()> {
        let row = [(address.to_owned(), record.to_vec())];
        self.write(move |w, s| signal::put_sender_keys(w, s, &row))
            .await
    }

    async fn put_sender_keys_batch(&self, sender_keys: &[(Arc<str>, Bytes)]) -> Result<()> {
        let rows = sender_keys.to_vec();
        self.write(move |w, s| signal::put_sender_keys(w, s, &rows))
            .await
    }

    async fn get_sender_key(&self, address: &str) -> Result<Option<Vec<u8>>> {
        self.read(|r, s| signal::sender_key(r, s, address))
    }

    async fn delete_sender_key(&self, address: &str) -> Result<()> {
        let address = address.to_owned();
        self.write(move |w, s| signal::delete_sender_key(w, s, &address))
            .await
    }
}
