//! Owns `ProtocolStore` over the rows of one link.

use async_trait::async_trait;
use whatsapp_rust::traits::{
    DeviceListRecord, LidPnMappingEntry, PendingInboundKey, PendingInboundRow, ProtocolStore,
    TcTokenEntry,
};

use super::{EpochBackend, Result};
use crate::store::rows::messages::{self, Kind};
use crate::store::rows::{lid, registry, sender_key_devices, tc_tokens};

/// The clock upstream's own stores read.
fn now() -> i64 {
    whatsapp_rust::wacore::time::now_secs()
}

fn key(parts: &[&str]) -> messages::Key {
    parts.iter().map(|&part| part.to_owned()).collect()
}

#[async_trait]
impl ProtocolStore for EpochBackend {
    async fn get_sender_key_devices(&self, group_jid: &str) -> Result<Vec<(String, bool)>> {
        self.read(|r, s| sender_key_devices::of_group(r, s, group_jid))
    }

    async fn set_sender_key_status(&self, group_jid: &str, entries: &[(&str, bool)]) -> Result<()> {
        let group = group_jid.to_owned();
        let entries: Vec<(String, bool)> = entries
            .iter()
            .map(|&(device, has_key)| (device.to_owned(), has_key))
            .collect();
        self.write(move |w, s| sender_key_devices::set(w, s, &group, &entries))
            .await
    }

    async fn clear_sender_key_devices(&self, group_jid: &str) -> Result<()> {
        let group = group_jid.to_owned();
        self.write(move |w, s| sender_key_devices::clear_group(w, s, &group))
            .await
    }

    async fn delete_sender_key_device_rows(&self, device_jids: &[&str]) -> Result<()> {
        let devices: Vec<String> = device_jids
            .iter()
            .map(|&device| device.to_owned())
            .collect();
        self.write(move |w, s| sender_key_devices::delete_devices(w, s, &devices))
            .await
    }

    async fn clear_all_sender_key_devices(&self) -> Result<()> {
        self.write(|w, s| sender_key_devices::clear_all(w, s)).await
    }

    async fn get_lid_mapping(&self, lid: &str) -> Result<Option<LidPnMappingEntry>> {
        self.read(|r, s| lid::by_lid(r, s, lid))
    }

    async fn get_pn_mapping(&self, phone: &str) -> Result<Option<LidPnMappingEntry>> {
        self.read(|r, s| lid::by_number(r, s, phone))
    }

    async fn put_lid_mapping(&self, entry: &LidPnMappingEntry) -> Result<()> {
        let entries = [entry.clone()];
        self.write(move |w, s| lid::put(w, s, &entries)).await
    }

    async fn put_lid_mappings(&self, entries: &[LidPnMappingEntry]) -> Result<()> {
        let entries = entries.to_vec();
        self.write(move |w, s| lid::put(w, s, &entries)).await
    }

    async fn get_all_lid_mappings(&self) -> Result<Vec<LidPnMappingEntry>> {
        self.read(|r, s| lid::all(r, s))
    }

    async fn save_base_key(&self, address: &str, message_id: &str, base_key: &[u8]) -> Result<()> {
        let (address, message, base) =
            (address.to_owned(), message_id.to_owned(), base_key.to_vec());
        self.write(move |w, s| registry::save_base_key(w, s, &address, &message, &base))
            .await
    }

    async fn has_same_base_key(
        &self,
        address: &str,
        message_id: &str,
        current_base_key: &[u8],
    ) -> Result<bool> {
        self.read(|r, s| registry::has_base_key(r, s, address, message_id, current_base_key))
    }

    async fn delete_base_key(&self, address: &str, message_id: &str) -> Result<()> {
        let (address, message) = (address.to_owned(), message_id.to_owned());
        self.write(move |w, s| registry::delete_base_key(w, s, &address, &message))
            .await
    }

    async fn update_device_list(&self, record: DeviceListRecord) -> Result<()> {
        let lists = [record];
        self.write(move |w, s| registry::put_devices(w, s, &lists))
            .await
    }

    async fn update_device_lists(&self, records: Vec<DeviceListRecord>) -> Result<()> {
        self.write(move |w, s| registry::put_devices(w, s, &records))
            .await
    }

    async fn get_devices(&self, user: &str) -> Result<Option<DeviceListRecord>> {
        self.read(|r, s| registry::devices(r, s, user))
    }

    async fn delete_devices(&self, user: &str) -> Result<()> {
        let user = user.to_owned();
        self.write(move |w, s| registry::delete_devices(w, s, &user))
            .await
    }

    async fn get_group_metadata(&self, group_jid: &str) -> Result<Option<Vec<u8>>> {
        self.read(|r, s| registry::group(r, s, group_jid))
    }

    async fn put_group_metadata(&self, group_jid: &str, blob: &[u8]) -> Result<()> {
        let (group, blob) = (group_jid.to_owned(), blob.to_vec());
        self.write(move |w, s| registry::put_group(w, s, &group, &blob))
            .await
    }

    async fn delete_group_metadata(&self, group_jid: &str) -> Result<()> {
        let group = group_jid.to_owned();
        self.write(move |w, s| registry::delete_group(w, s, &group))
            .await
    }

    async fn get_tc_token(&self, jid: &str) -> Result<Option<TcTokenEntry>> {
        self.read(|r, s| tc_tokens::get(r, s, jid))
    }

    async fn put_tc_token(&self, jid: &str, entry: &TcTokenEntry) -> Result<()> {
        let (jid, entry) = (jid.to_owned(), entry.clone());
        self.write(move |w, s| tc_tokens::put(w, s, &jid, &entry))
            .await
    }

    async fn delete_tc_token(&self, jid: &str) -> Result<()> {
        let jid = jid.to_owned();
        self.write(move |w, s| tc_tokens::delete(w, s, &jid)).await
    }

    async fn get_all_tc_token_jids(&self) -> Result<Vec<String>> {
        self.read(|r, s| tc_tokens::jids(r, s))
    }

    async fn delete_expired_tc_tokens(&self, token_cutoff: i64, sender_cutoff: i64) -> Result<u32> {
        self.write(move |w, s| tc_tokens::delete_expired(w, s, token_cutoff, sender_cutoff))
            .await
    }

    async fn touch_tc_token_sender_timestamp(
        &self,
        jid: &str,
        sender_timestamp: i64,
    ) -> Result<()> {
        let jid = jid.to_owned();
        self.write(move |w, s| tc_tokens::touch_sender(w, s, &jid, sender_timestamp))
            .await
    }

    async fn store_received_tc_token(
        &self,
        jid: &str,
        token: &[u8],
        token_timestamp: i64,
    ) -> Result<()> {
        let (jid, token) = (jid.to_owned(), token.to_vec());
        self.write(move |w, s| tc_tokens::receive(w, s, &jid, &token, token_timestamp))
            .await
    }

    async fn store_sent_message(
        &self,
        chat_jid: &str,
        message_id: &str,
        payload: &[u8],
    ) -> Result<()> {
        let rows = [(key(&[chat_jid, message_id]), payload.to_vec())];
        let now = now();
        self.write(move |w, s| messages::put(w, s, Kind::Sent, &rows, now))
            .await
    }

    async fn take_sent_message(&self, chat_jid: &str, message_id: &str) -> Result<Option<Vec<u8>>> {
        let key = key(&[chat_jid, message_id]);
        self.write(move |w, s| messages::take(w, s, Kind::Sent, &key))
            .await
    }

    async fn delete_expired_sent_messages(&self, cutoff_timestamp: i64) -> Result<u32> {
        self.write(move |w, s| messages::delete_before(w, s, Kind::Sent, cutoff_timestamp))
            .await
    }

    async fn store_pending_inbound(
        &self,
        chat: &str,
        sender: &str,
        id: &str,
        message: &[u8],
    ) -> Result<()> {
        let rows = [(key(&[chat, sender, id]), message.to_vec())];
        let now = now();
        self.write(move |w, s| messages::put(w, s, Kind::Pending, &rows, now))
            .await
    }

    async fn get_pending_inbound(
        &self,
        chat: &str,
        sender: &str,
        id: &str,
    ) -> Result<Option<Vec<u8>>> {
        self.read(|r, s| messages::get(r, s, Kind::Pending, &key(&[chat, sender, id])))
    }

    async fn delete_pending_inbound(&self, chat: &str, sender: &str, id: &str) -> Result<()> {
        let keys = [key(&[chat, sender, id])];
        self.write(move |w, s| messages::delete(w, s, Kind::Pending, &keys))
            .await
    }

    async fn delete_expired_pending_inbound(&self, cutoff_timestamp: i64) -> Result<u32> {
        self.write(move |w, s| messages::delete_before(w, s, Kind::Pending, cutoff_timestamp))
            .await
    }

    async fn store_pending_inbound_batch(&self, rows: &[PendingInboundRow<'_>]) -> Result<()> {
        let rows: Vec<(messages::Key, Vec<u8>)> = rows
            .iter()
            .map(|row| (key(&[row.chat, row.sender, row.id]), row.message.to_vec()))
            .collect();
        let now = now();
        self.write(move |w, s| messages::put(w, s, Kind::Pending, &rows, now))
            .await
    }

    async fn delete_pending_inbound_batch(&self, keys: &[PendingInboundKey<'_>]) -> Result<()> {
        let keys: Vec<messages::Key> = keys
            .iter()
            .map(|row| key(&[row.chat, row.sender, row.id]))
            .collect();
        self.write(move |w, s| messages::delete(w, s, Kind::Pending, &keys))
            .await
    }
}
