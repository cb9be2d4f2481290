//! Owns `MsgSecretStore` over the rows of one link.

use std::sync::Arc;

use async_trait::async_trait;
use whatsapp_rust::traits::{MsgSecretEntry, MsgSecretStore};

use super::{EpochBackend, Result};
use crate::store::rows::secrets;

#[async_trait]
impl MsgSecretStore for EpochBackend {
    async fn put_msg_secret(
        &self,
        chat: &str,
        sender: &str,
        msg_id: &str,
        secret: &[u8; 32],
    ) -> Result<()> {
        let entries = [MsgSecretEntry {
            chat: Arc::from(chat),
            sender: Arc::from(sender),
            msg_id: Arc::from(msg_id),
            secret: *secret,
            expires_at: 0,
            message_ts: 0,
        }];
        self.write(move |w, s| secrets::put(w, s, &entries).map(|_| ()))
            .await
    }

    async fn put_msg_secrets(&self, entries: Vec<MsgSecretEntry>) -> Result<usize> {
        self.write(move |w, s| secrets::put(w, s, &entries)).await
    }

    async fn get_msg_secret(
        &self,
        chat: &str,
        sender: &str,
        msg_id: &str,
    ) -> Result<Option<Vec<u8>>> {
        self.read(|r, s| Ok(secrets::get(r, s, chat, sender, msg_id)?.map(|(secret, _)| secret)))
    }

    async fn get_msg_secret_with_ts(
        &self,
        chat: &str,
        sender: &str,
        msg_id: &str,
    ) -> Result<Option<(Vec<u8>, i64)>> {
        self.read(|r, s| secrets::get(r, s, chat, sender, msg_id))
    }

    async fn delete_expired_msg_secrets(&self, cutoff_timestamp: i64) -> Result<u32> {
        self.write(move |w, s| secrets::delete_expired(w, s, cutoff_timestamp))
            .await
    }
}
