//! Owns a year of a salon's traffic as the store gets to see it: contacts, messages, ratchets that turn, rows that expire.
//! It has a calendar of its own, which upstream and its stores read: there is room for one such year in a process.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use whatsapp_rust::traits::{
    Backend, DeviceInfo, DeviceListRecord, LidPnMappingEntry, MsgSecretEntry, PendingInboundRow,
};
use whatsapp_rust::wacore::appstate::hash::HashState;
use whatsapp_rust::wacore::appstate::processor::AppStateMutationMAC;
use whatsapp_rust::wacore::time::TimeProvider;

use crate::store_support::{NOW, long, seed};

const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;
/// How long upstream keeps what it has sent, what it has received and not told yet, and a contact's token; and what its
/// users commonly take for a message's secret.
const SENT: i64 = 2 * HOUR;
const PENDING: i64 = 7 * DAY;
const TOKENS: i64 = 28 * DAY;
const SECRETS: i64 = 30 * DAY;
const GROUPS: u32 = 20;
const PREKEYS: u32 = 800;
/// In days.
pub const MONTH: u32 = 30;

/// How much happens.
#[derive(Clone, Copy)]
pub struct Scale {
    contacts: u32,
    messages: u32,
    pub days: u32,
}

impl Scale {
    pub fn get() -> Self {
        if long() {
            Self {
                contacts: 1_000,
                messages: 200,
                days: 365,
            }
        } else {
            Self {
                contacts: 100,
                messages: 14,
                days: 180,
            }
        }
    }
}

/// Unix seconds, as upstream and its stores read them.
static CALENDAR: AtomicI64 = AtomicI64::new(NOW / 1000);

pub struct Calendar;

impl TimeProvider for Calendar {
    fn now_millis(&self) -> i64 {
        CALENDAR.load(Ordering::SeqCst) * 1000
    }
}

fn now() -> i64 {
    CALENDAR.load(Ordering::SeqCst)
}

/// A salon's link, and whatever its year brings.
pub struct Year {
    scale: Scale,
    rng: StdRng,
    pub rows: Arc<dyn Backend>,
    messages: u32,
    next_prekey: u32,
}

impl Year {
    pub fn new(scale: Scale, rows: Arc<dyn Backend>) -> Self {
        Self {
            scale,
            rng: StdRng::seed_from_u64(seed()),
            rows,
            messages: 0,
            next_prekey: 1,
        }
    }

    fn bytes(&mut self, least: usize, most: usize) -> Bytes {
        let mut bytes = vec![0; self.rng.random_range(least..=most)];
        self.rng.fill(&mut bytes[..]);
        Bytes::from(bytes)
    }

    /// Some write every day, most now and then.
    fn contact(&mut self) -> u32 {
        let (one, other) = (self.any_contact(), self.any_contact());
        one.min(other)
    }

    fn any_contact(&mut self) -> u32 {
        self.rng.random_range(0..self.scale.contacts)
    }

    /// The account with everybody it knows: what is kept of a contact for good is there from the beginning.
    pub async fn link(&mut self) {
        self.rows.create().await.expect("written");
        self.upload_prekeys(PREKEYS).await;
        for contact in 0..self.scale.contacts {
            let mapping = LidPnMappingEntry {
                lid: lid(contact),
                phone_number: number(contact),
                created_at: now(),
                updated_at: now(),
                learning_source: "usync".to_owned(),
            };
            let put = self.rows.put_lid_mapping(&mapping).await;
            put.expect("written");
            self.new_phone(contact).await;
            self.group_keys(contact).await;
            self.app_state(contact, 0).await;
        }
    }

    async fn upload_prekeys(&mut self, how_many: u32) {
        let keys: Vec<(u32, Bytes)> = (0..how_many)
            .map(|key| (self.next_prekey + key, self.bytes(76, 76)))
            .collect();
        self.next_prekey += how_many;
        let ids: Vec<u32> = keys.iter().map(|(id, _)| *id).collect();
        let stored = self.rows.store_prekeys_batch(&keys, false).await;
        stored.expect("written");
        let marked = self.rows.mark_prekeys_uploaded(&ids).await;
        marked.expect("written");
    }

    /// A contact's ratchet turns.
    async fn ratchet(&mut self, contact: u32) {
        let address = Arc::from(format!("{}:0@lid", lid(contact)));
        let session = self.bytes(300, 900);
        let put = self.rows.put_sessions_batch(&[(address, session)]).await;
        put.expect("written");
    }

    /// A contact has a new phone: its session is made anew, and takes one of our pre-keys.
    async fn new_phone(&mut self, contact: u32) {
        let address = Arc::from(format!("{}:0@lid", lid(contact)));
        let identity = [(address, self.rng.random())];
        let put = self.rows.put_identities_batch(&identity).await;
        put.expect("written");
        let oldest = self.next_prekey - PREKEYS;
        self.rows.remove_prekey(oldest).await.expect("written");
        self.upload_prekeys(1).await;
        self.ratchet(contact).await;
        let list = DeviceListRecord {
            user: lid(contact),
            devices: vec![DeviceInfo::new(0, None), DeviceInfo::new(7, None)],
            timestamp: now(),
            phash: Some(format!("2:{contact:08}")),
            raw_id: None,
        };
        let updated = self.rows.update_device_list(list).await;
        updated.expect("written");
    }

    /// In a group the contact's own key is told to us, and ours to it.
    async fn group_keys(&mut self, contact: u32) {
        let key = self.bytes(200, 400);
        let name = format!("{}::{}", group(contact), jid(contact));
        let put = self.rows.put_sender_key(&name, &key).await;
        put.expect("written");
        let (group, device) = (group(contact), jid(contact));
        let status = self
            .rows
            .set_sender_key_status(&group, &[(&device, true)])
            .await;
        status.expect("written");
    }

    /// A chat is archived, or read: its entry replaces the one before.
    async fn app_state(&mut self, contact: u32, version: u32) {
        let mac = AppStateMutationMAC {
            index_mac: contact.to_be_bytes().to_vec(),
            value_mac: self.bytes(32, 32).to_vec(),
        };
        let macs = [mac];
        let put = self
            .rows
            .put_mutation_macs("regular_low", version.into(), &macs)
            .await;
        put.expect("written");
        let state = HashState {
            version: version.into(),
            ..HashState::default()
        };
        let set = self.rows.set_version("regular_low", state).await;
        set.expect("written");
    }

    async fn receive(&mut self, contact: u32) {
        let id = format!("3EB0{:016}", self.messages);
        let (chat, sender) = if self.rng.random_ratio(1, 5) {
            (group(contact), jid(contact))
        } else {
            (jid(contact), jid(contact))
        };
        self.ratchet(contact).await;
        let message = self.bytes(100, 600);
        let row = PendingInboundRow {
            chat: &chat,
            sender: &sender,
            id: &id,
            message: &message,
        };
        let put = self.rows.store_pending_inbound_batch(&[row]).await;
        put.expect("written");
        if chat != sender {
            self.group_keys(contact).await;
        }
        let secret = MsgSecretEntry {
            chat: Arc::from(&*chat),
            sender: Arc::from(&*sender),
            msg_id: Arc::from(&*id),
            secret: [7; 32],
            expires_at: now() + SECRETS,
            message_ts: now(),
        };
        self.rows
            .put_msg_secrets(vec![secret])
            .await
            .expect("written");
        let token = self.bytes(16, 32);
        let received = self
            .rows
            .store_received_tc_token(&sender, &token, now())
            .await;
        received.expect("written");
        // One in a hundred is never told to anybody, and expires.
        if !self.rng.random_ratio(1, 100) {
            let told = self.rows.delete_pending_inbound(&chat, &sender, &id).await;
            told.expect("written");
        }
    }

    async fn send(&mut self, contact: u32) {
        let id = format!("3EB1{:016}", self.messages);
        self.ratchet(contact).await;
        let message = self.bytes(100, 600);
        let stored = self
            .rows
            .store_sent_message(&jid(contact), &id, &message)
            .await;
        stored.expect("written");
        let touched = self
            .rows
            .touch_tc_token_sender_timestamp(&jid(contact), now())
            .await;
        touched.expect("written");
        if self.rng.random_ratio(1, 20) {
            // Somebody could not read it: it is sent once more.
            let address = format!("{}:0@lid", lid(contact));
            let key = self.rows.save_base_key(&address, &id, &[7; 33]).await;
            key.expect("written");
            let taken = self.rows.take_sent_message(&jid(contact), &id).await;
            assert!(taken.expect("written").is_some(), "it was just sent");
            let forgotten = self.rows.delete_base_key(&address, &id).await;
            forgotten.expect("written");
        }
    }

    /// What upstream does when it looks after its rows.
    async fn sweep(&mut self) {
        let sent = self.rows.delete_expired_sent_messages(now() - SENT).await;
        sent.expect("swept");
        let pending = self
            .rows
            .delete_expired_pending_inbound(now() - PENDING)
            .await;
        pending.expect("swept");
        let secrets = self.rows.delete_expired_msg_secrets(now()).await;
        secrets.expect("swept");
        let cutoff = now() - TOKENS;
        let tokens = self.rows.delete_expired_tc_tokens(cutoff, cutoff).await;
        tokens.expect("swept");
    }

    /// What is not about single messages.
    async fn household(&mut self, day: u32) {
        for _ in 0..self.scale.messages.div_ceil(20) {
            let contact = self.any_contact();
            self.new_phone(contact).await;
            let contact = self.any_contact();
            self.app_state(contact, day).await;
        }
        if day.is_multiple_of(MONTH) {
            let id = day / MONTH;
            let signed = self.bytes(140, 140);
            let stored = self.rows.store_signed_prekey(id, &signed).await;
            stored.expect("written");
            let removed = self.rows.remove_signed_prekey(id.saturating_sub(2)).await;
            removed.expect("written");
        }
    }

    pub async fn day(&mut self, day: u32) {
        let step = DAY / i64::from(self.scale.messages);
        for message in 0..self.scale.messages {
            let contact = self.contact();
            if message % 2 == 0 {
                self.receive(contact).await;
            } else {
                self.send(contact).await;
            }
            self.messages += 1;
            if message.is_multiple_of(self.scale.messages.div_ceil(8)) {
                self.sweep().await;
            }
            CALENDAR.fetch_add(step, Ordering::SeqCst);
        }
        self.household(day).await;
    }
}

fn lid(contact: u32) -> String {
    format!("1000000{contact:08}")
}

fn number(contact: u32) -> String {
    format!("7900{contact:07}")
}

fn jid(contact: u32) -> String {
    format!("{}@s.whatsapp.net", number(contact))
}

/// The group that a contact is in.
fn group(contact: u32) -> String {
    format!("1203630000{:08}@g.us", contact % GROUPS)
}
