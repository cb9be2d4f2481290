//! Owns a thief: he has both files and every key in them, knows the layout, and has noted where every row of a link lay
//! while it was alive. And the link that he is after, with a canary in every kind of row.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use bytes::Bytes;
use hairpin::store::{Epoch, LinkRow, Linked, NewLink, Store};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use tempfile::TempDir;
use whatsapp_rust::traits::{
    AppStateSyncKey, Backend, DeviceInfo, DeviceListRecord, LidPnMappingEntry, MsgSecretEntry,
    TcTokenEntry,
};
use whatsapp_rust::wacore::appstate::hash::HashState;
use whatsapp_rust::wacore::appstate::processor::AppStateMutationMAC;

use crate::rig::PATIENCE;
use crate::store_small::tables;
use crate::store_support::{NOW, SALON, backend, copy, folder, new_link, open, tables_of};

pub const STORE: &str = "hairpin.redb";
pub const KEYS: &str = "hairpin.keys";
pub const BLOCK: usize = 4096;
/// The number of the link that is wiped; no other link of these tests has it.
pub const NUMBER: &str = "79005550101";
pub const LID: &str = "100000055501";
/// Is in every secret of that link.
pub const CANARY: &[u8] = b"CANARY";
pub const CANARY_32: [u8; 32] = *b"CANARY.of.thirty-two.bytes.long.";
pub const CONTACT: &str = "79005550202";
pub const GROUP: &str = "120363000005550303@g.us";
pub const MESSAGE: &str = "3EB0CANARYCANARY";
/// Whatever of this is found was not sealed, or not gone.
pub const TRACES: [&[u8]; 6] = [
    CANARY,
    NUMBER.as_bytes(),
    LID.as_bytes(),
    CONTACT.as_bytes(),
    b"120363000005550303",
    b"registration_id",
];

pub type Secret = (u64, [u8; 32]);

/// A row as it lies in the file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sealed {
    pub table: String,
    pub row: Vec<u8>,
    pub value: Vec<u8>,
}

pub fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

pub fn read(folder: &Path, file: &str) -> Vec<u8> {
    std::fs::read(folder.join(file)).expect("readable")
}

/// The secrets in a key file that is not wrapped.
pub fn secrets(keys: &[u8]) -> Vec<Secret> {
    keys.chunks(BLOCK)
        .filter(|block| block.starts_with(b"HPK1"))
        .map(|block| {
            let epoch = block[5..13].try_into().expect("eight bytes");
            (
                u64::from_be_bytes(epoch),
                block[25..57].try_into().expect("a secret"),
            )
        })
        .collect()
}

/// What the store derives from a secret, by the label.
pub fn derived(secret: &[u8; 32], label: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("any length");
    mac.update(&(label.len() as u64).to_be_bytes());
    mac.update(label);
    mac.finalize().into_bytes().into()
}

pub fn unseal(
    secret: &[u8; 32],
    epoch: u64,
    table: &str,
    row: &[u8],
    sealed: &[u8],
) -> Option<Vec<u8>> {
    let (nonce, sealed) = sealed.split_first_chunk::<12>()?;
    let aad = [
        &[1][..],
        &epoch.to_be_bytes(),
        &(table.len() as u64).to_be_bytes(),
        table.as_bytes(),
        row,
    ]
    .concat();
    Aes256Gcm::new(&derived(secret, b"hairpin seal v1").into())
        .decrypt(
            &Nonce::from(*nonce),
            Payload {
                msg: sealed,
                aad: &aad,
            },
        )
        .ok()
}

/// All rows in the file, as they lie there.
pub fn sealed(folder: &Path) -> HashSet<Sealed> {
    sealed_in(&read(folder, STORE))
}

/// The rows of a store's bytes.
pub fn sealed_in(store: &[u8]) -> HashSet<Sealed> {
    let mut all = HashSet::new();
    for (table, rows) in tables(store) {
        for (row, value) in rows {
            let table = table.clone();
            all.insert(Sealed { table, row, value });
        }
    }
    all
}

/// What these keys open of the rows, and of what is sealed once more inside.
pub fn opened(rows: &HashSet<Sealed>, keys: &[Secret]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for sealed in rows {
        for (epoch, secret) in keys {
            let open = |value: &[u8]| unseal(secret, *epoch, &sealed.table, &sealed.row, value);
            let Some(plain) = open(&sealed.value) else {
                continue;
            };
            for (epoch, secret) in keys {
                let inside = plain.get(8..).unwrap_or_default();
                all.extend(unseal(secret, *epoch, &sealed.table, &sealed.row, inside));
            }
            all.push(plain);
        }
    }
    all
}

/// The traces that are in any of these.
pub fn traces<'t>(found: impl IntoIterator<Item = &'t Vec<u8>>) -> BTreeSet<&'static [u8]> {
    found
        .into_iter()
        .flat_map(|bytes| {
            TRACES
                .into_iter()
                .filter(|trace| contains(bytes, trace))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// One row of every kind that a link can have, with a trace in each.
pub async fn plant(rows: &Arc<dyn Backend>) {
    let address = format!("{CONTACT}:1@s.whatsapp.net");
    let user = format!("{CONTACT}@s.whatsapp.net");
    let written = "written";
    rows.create().await.expect(written);
    let device = rows.load().await.expect("readable").expect("a device");
    rows.save(&device).await.expect(written);
    rows.put_identity(&address, CANARY_32).await.expect(written);
    rows.put_session(&address, CANARY).await.expect(written);
    let session = Bytes::from([CANARY; 60].concat());
    let many: Vec<_> = (0..500)
        .map(|number| (Arc::from(format!("{number}@lid")), session.clone()))
        .collect();
    rows.put_sessions_batch(&many).await.expect(written);
    rows.put_sender_key(&format!("{GROUP}::{address}"), CANARY)
        .await
        .expect(written);
    rows.store_prekey(7, CANARY, false).await.expect(written);
    rows.store_signed_prekey(7, CANARY).await.expect(written);
    let key = AppStateSyncKey {
        key_data: CANARY.to_vec(),
        fingerprint: CANARY.to_vec(),
        timestamp: 7,
    };
    rows.set_sync_key(&[0, 0, 7], key).await.expect(written);
    let mut state = HashState::default();
    state.hash[..32].copy_from_slice(&CANARY_32);
    rows.set_version("regular_high", state)
        .await
        .expect(written);
    let mac = AppStateMutationMAC {
        index_mac: CANARY_32.to_vec(),
        value_mac: CANARY_32.to_vec(),
    };
    rows.put_mutation_macs("regular_high", 1, &[mac])
        .await
        .expect(written);
    rows.set_sender_key_status(GROUP, &[(address.as_str(), true)])
        .await
        .expect(written);
    rows.put_lid_mapping(&LidPnMappingEntry {
        lid: LID.to_owned(),
        phone_number: CONTACT.to_owned(),
        created_at: 7,
        updated_at: 7,
        learning_source: "usync".to_owned(),
    })
    .await
    .expect(written);
    rows.save_base_key(&address, MESSAGE, CANARY)
        .await
        .expect(written);
    rows.update_device_list(DeviceListRecord {
        user: CONTACT.to_owned(),
        devices: vec![DeviceInfo::new(1, None)],
        timestamp: 7,
        phash: Some("2:CANARY".to_owned()),
        raw_id: None,
    })
    .await
    .expect(written);
    rows.put_group_metadata(GROUP, GROUP.as_bytes())
        .await
        .expect(written);
    rows.put_tc_token(
        &user,
        &TcTokenEntry {
            token: CANARY.to_vec(),
            token_timestamp: 7,
            sender_timestamp: None,
        },
    )
    .await
    .expect(written);
    rows.store_sent_message(&user, MESSAGE, CANARY)
        .await
        .expect(written);
    rows.store_pending_inbound(GROUP, &user, MESSAGE, CANARY)
        .await
        .expect(written);
    rows.put_msg_secrets(vec![MsgSecretEntry {
        chat: Arc::from(GROUP),
        sender: Arc::from(&*user),
        msg_id: Arc::from(MESSAGE),
        secret: CANARY_32,
        expires_at: 9,
        message_ts: 7,
    }])
    .await
    .expect(written);
}

/// A store with a link that is full of canaries, and a neighbour who stays.
pub struct Salon {
    pub folder: TempDir,
    pub store: Store,
    pub life: Life,
}

/// What a thief notes of the canary's link while it is alive.
pub struct Life {
    pub epoch: Epoch,
    /// Every row that it ever had, as it lay in the file.
    pub rows: HashSet<Sealed>,
    /// Every key meanwhile.
    pub keys: Vec<Secret>,
}

impl Life {
    /// Links the canary's number in the place of whatever was linked, and fills its rows.
    pub async fn begin(folder: &Path, store: &Store) -> Self {
        let present = store.link(SALON).expect("readable");
        let next = NewLink {
            line: NUMBER.into(),
            intended: NUMBER.into(),
            now: NOW,
        };
        let epoch = store
            .replace_link(SALON, present.map(|row| row.epoch), Some(next), Vec::new())
            .await
            .expect("a link")
            .link
            .expect("a link")
            .epoch;
        let mut rows = sealed(folder);
        let linked = Linked {
            at: NOW,
            phone: NUMBER.into(),
            jid: format!("{NUMBER}:9@s.whatsapp.net").into(),
            lid: Some(LID.into()),
        };
        let change = move |row: &mut LinkRow| row.linked = Some(linked.clone());
        store
            .update_link(SALON, epoch, Box::new(change), Vec::new())
            .await
            .expect("linked");
        let all: Arc<dyn Backend> = Arc::new(store.backend(SALON, epoch));
        plant(&all).await;
        rows.extend(sealed(folder));
        Self {
            epoch,
            rows,
            keys: secrets(&read(folder, KEYS)),
        }
    }

    /// The rows of this link alone, and what the house had of it.
    pub fn own(&self) -> HashSet<Sealed> {
        let tables = format!("{}.", tables_of(self.epoch));
        let own = self.rows.iter().filter(|sealed| {
            sealed.table.starts_with(&tables)
                || sealed.table == "links" && sealed.row == SALON.as_bytes()
        });
        own.cloned().collect()
    }
}

impl Salon {
    pub async fn new() -> Self {
        let folder = folder();
        let store = open(folder.path());
        let neighbour = backend(&store, "branch").await;
        neighbour
            .put_session("79001234567@c.us", b"stays")
            .await
            .expect("written");
        store
            .put_session(SALON, "Salon", NOW)
            .await
            .expect("a slot");
        let life = Life::begin(folder.path(), &store).await;
        Self {
            folder,
            store,
            life,
        }
    }

    /// Wipes the link; both files as they are when that is acknowledged.
    pub async fn wipe(&self) -> TempDir {
        self.store
            .replace_link(SALON, Some(self.life.epoch), Some(new_link()), Vec::new())
            .await
            .expect("wiped");
        copy(self.folder.path())
    }
}

/// How much of these rows is anywhere in the file: sealed values, and names that are hashes.
pub fn left(folder: &Path, rows: &HashSet<Sealed>) -> usize {
    let mut wanted: HashSet<[u8; 12]> = HashSet::new();
    for sealed in rows {
        wanted.extend(sealed.value.first_chunk::<12>());
        wanted.extend(
            sealed
                .row
                .last_chunk::<12>()
                .filter(|_| sealed.row.len() >= 32),
        );
    }
    // Most of what lies in a file begins like none of them.
    let mut begins = vec![false; 1 << 16];
    for bytes in &wanted {
        begins[usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))] = true;
    }
    let file = read(folder, STORE);
    let mut found = 0;
    for at in 0..file.len().saturating_sub(11) {
        if begins[usize::from(u16::from_be_bytes([file[at], file[at + 1]]))] {
            found += usize::from(wanted.contains(&file[at..at + 12]));
        }
    }
    found
}

/// Waits until nothing of the rows is in the file any more; how long that took.
pub async fn swept(folder: &Path, rows: &HashSet<Sealed>) -> Duration {
    let started = Instant::now();
    while left(folder, rows) > 0 {
        assert!(
            started.elapsed() < PATIENCE,
            "{} pieces are left",
            left(folder, rows)
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    started.elapsed()
}
