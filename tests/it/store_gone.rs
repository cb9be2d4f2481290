//! Gone is gone: what a thief finds in both files, with every key in hand, of a link that was wiped. He knows the layout,
//! and has noted where every row lay while the link was alive.

use std::collections::{BTreeSet, HashSet};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use bytes::Bytes;
use hairpin::store::{Epoch, LinkRow, Linked, NewLink, OpenError, Options, Store};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use whatsapp_rust::traits::{
    AppStateSyncKey, Backend, DeviceInfo, DeviceListRecord, LidPnMappingEntry, MsgSecretEntry,
    SignalStore, TcTokenEntry,
};
use whatsapp_rust::wacore::appstate::hash::HashState;
use whatsapp_rust::wacore::appstate::processor::AppStateMutationMAC;

use crate::rig::PATIENCE;
use crate::store_calls::{Draw, traits};
use crate::store_small::tables;
use crate::store_support::{
    NOW, SALON, backend, copy, folder, in_use, new_link, next_epoch, open, seed,
};

const STORE: &str = "hairpin.redb";
const KEYS: &str = "hairpin.keys";
const BLOCK: usize = 4096;
/// What a wipe promises, the answer not counted.
const A_SECOND: Duration = Duration::from_secs(1);

/// The number of the link that is wiped; no other link of these tests has it.
const NUMBER: &str = "79005550101";
const LID: &str = "100000055501";
/// Is in every secret of that link.
const CANARY: &[u8] = b"CANARY";
const CANARY_32: [u8; 32] = *b"CANARY.of.thirty-two.bytes.long.";
const CONTACT: &str = "79005550202";
const GROUP: &str = "120363000005550303@g.us";
const MESSAGE: &str = "3EB0CANARYCANARY";
/// Whatever of this is found was not sealed, or not gone.
const TRACES: [&[u8]; 6] = [
    CANARY,
    NUMBER.as_bytes(),
    LID.as_bytes(),
    CONTACT.as_bytes(),
    b"120363000005550303",
    b"registration_id",
];

type Secret = (u64, [u8; 32]);

/// A row as it lies in the file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Sealed {
    table: String,
    row: Vec<u8>,
    value: Vec<u8>,
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

fn read(folder: &Path, file: &str) -> Vec<u8> {
    std::fs::read(folder.join(file)).expect("readable")
}

/// The secrets in a key file that is not wrapped.
fn secrets(keys: &[u8]) -> Vec<Secret> {
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
fn derived(secret: &[u8; 32], label: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("any length");
    mac.update(&(label.len() as u64).to_be_bytes());
    mac.update(label);
    mac.finalize().into_bytes().into()
}

fn unseal(
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
fn sealed(folder: &Path) -> HashSet<Sealed> {
    sealed_in(&read(folder, STORE))
}

/// The rows of a store's bytes.
fn sealed_in(store: &[u8]) -> HashSet<Sealed> {
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
fn opened(rows: &HashSet<Sealed>, keys: &[Secret]) -> Vec<Vec<u8>> {
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
fn traces<'t>(found: impl IntoIterator<Item = &'t Vec<u8>>) -> BTreeSet<&'static [u8]> {
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
#[expect(clippy::too_many_lines, reason = "one call of each kind")]
async fn plant(rows: &Arc<dyn Backend>) {
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
struct Salon {
    folder: TempDir,
    store: Store,
    life: Life,
}

/// What a thief notes of the canary's link while it is alive.
struct Life {
    epoch: Epoch,
    /// Every row that it ever had, as it lay in the file.
    rows: HashSet<Sealed>,
    /// Every key meanwhile.
    keys: Vec<Secret>,
}

impl Life {
    /// Links the canary's number in the place of whatever was linked, and fills its rows.
    async fn begin(folder: &Path, store: &Store) -> Self {
        let present = store.link(SALON).expect("readable");
        let next = NewLink {
            line: NUMBER.to_owned(),
            intended: NUMBER.to_owned(),
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
            phone: NUMBER.to_owned(),
            jid: format!("{NUMBER}:9@s.whatsapp.net"),
            lid: Some(LID.to_owned()),
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
    fn own(&self) -> HashSet<Sealed> {
        let newest = self.keys.iter().map(|(epoch, _)| epoch).max();
        let tables = format!("e{:016x}.", newest.expect("a key"));
        let own = self.rows.iter().filter(|sealed| {
            sealed.table.starts_with(&tables)
                || sealed.table == "links" && sealed.row == SALON.as_bytes()
        });
        own.cloned().collect()
    }
}

impl Salon {
    async fn new() -> Self {
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
    async fn wipe(&self) -> TempDir {
        self.store
            .replace_link(SALON, Some(self.life.epoch), Some(new_link()), Vec::new())
            .await
            .expect("wiped");
        copy(self.folder.path())
    }
}

/// How much of these rows is anywhere in the file: sealed values, and names that are hashes.
fn left(folder: &Path, rows: &HashSet<Sealed>) -> usize {
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
async fn swept(folder: &Path, rows: &HashSet<Sealed>) -> Duration {
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

#[tokio::test]
async fn nothing_of_a_link_lies_in_the_files_as_it_is_not_even_while_it_lives() {
    let salon = Salon::new().await;
    let (store, keys) = (
        read(salon.folder.path(), STORE),
        read(salon.folder.path(), KEYS),
    );
    assert_eq!(traces([&store, &keys]), BTreeSet::new());
    for (epoch, secret) in &salon.life.keys {
        assert!(
            !contains(&store, secret),
            "the secret of {epoch} is in the store"
        );
        for label in [&b"hairpin seal v1"[..], b"hairpin name v1"] {
            let key = derived(secret, label);
            assert!(!contains(&store, &key) && !contains(&keys, &key));
        }
    }
    // The canaries are of every kind of row that there is, and the thief knows how to open each.
    let mut draw = Draw::new(seed());
    let rows = backend(&salon.store, "another").await;
    for method in traits().iter().flat_map(|store| &store.methods) {
        for _ in 0..3 {
            method.draw(&mut draw).make(&rows).await.expect("fresh");
        }
    }
    let kinds = |rows: &HashSet<Sealed>, epoch: &str| -> BTreeSet<String> {
        let of = rows
            .iter()
            .filter_map(|sealed| sealed.table.split_once('.'));
        of.filter(|(of, _)| *of == epoch)
            .map(|(_, kind)| kind.to_owned())
            .collect()
    };
    let all = sealed(salon.folder.path());
    let planted = kinds(&salon.life.rows, "e0000000000000002");
    let drawn = kinds(&all, "e0000000000000003");
    assert!(
        planted.is_superset(&drawn),
        "{:?}",
        drawn.difference(&planted)
    );
    let found = opened(&salon.life.rows, &salon.life.keys);
    assert!(found.len() >= salon.life.rows.len(), "every row opens");
    assert_eq!(traces(&found), BTreeSet::from(TRACES));
    salon.store.close().await;
}

#[tokio::test]
async fn when_a_wipe_is_acknowledged_no_key_in_hand_opens_anything_of_the_link() {
    let salon = Salon::new().await;
    let after = salon.wipe().await;
    let keys = read(after.path(), KEYS);
    let left = secrets(&keys);
    assert_eq!(
        left.len(),
        3,
        "the house's, the neighbour's and the new link's"
    );
    let gone: Vec<&Secret> = salon
        .life
        .keys
        .iter()
        .filter(|key| !left.contains(key))
        .collect();
    assert_eq!(gone.len(), 1);
    for file in [&keys, &read(after.path(), STORE)] {
        for secret in [
            gone[0].1,
            derived(&gone[0].1, b"hairpin seal v1"),
            derived(&gone[0].1, b"hairpin name v1"),
        ] {
            assert!(!contains(file, &secret));
        }
    }
    // The thief's notes and the keys that are left: the neighbour and the house open, the link does not.
    let found = opened(&salon.life.rows, &left);
    assert!(found.iter().any(|row| row == b"stays"));
    assert_eq!(traces(&found), BTreeSet::new());
    salon.store.close().await;
}

#[tokio::test]
async fn a_wipe_writes_two_blocks_of_the_key_file_and_leaves_every_other_as_it_was() {
    let salon = Salon::new().await;
    for number in 0..5 {
        backend(&salon.store, &format!("more-{number}")).await;
    }
    let before = read(salon.folder.path(), KEYS);
    salon.wipe().await;
    let after = read(salon.folder.path(), KEYS);
    let other: Vec<_> = before
        .chunks(BLOCK)
        .map(Some)
        .chain([None])
        .zip(after.chunks(BLOCK))
        .filter(|(before, after)| *before != Some(after))
        .collect();
    assert_eq!(other.len(), 2);
    let (old, new) = if other[0]
        .0
        .is_some_and(|block| block.iter().any(|byte| *byte != 0))
    {
        (other[0], other[1])
    } else {
        (other[1], other[0])
    };
    assert!(old.1.iter().all(|byte| *byte == 0), "overwritten");
    assert!(new.1.starts_with(b"HPK1"), "in a block that was free");
    assert!(
        new.0
            .is_none_or(|block| block.iter().all(|byte| *byte == 0))
    );
    salon.store.close().await;
}

/// Wipes one link after the other. How long the quickest took to go: a busy machine makes some of them wait, a promise
/// that is not kept all of them.
async fn quickest(salon: &mut Salon, load: impl Fn(&Store) -> Load) -> Duration {
    let mut quickest = Duration::MAX;
    for _ in 0..5 {
        let own = salon.life.own();
        assert!(own.len() > 20, "{} rows", own.len());
        assert!(left(salon.folder.path(), &own) > own.len());
        let load = load(&salon.store);
        salon.wipe().await;
        quickest = quickest.min(swept(salon.folder.path(), &own).await);
        load.end().await;
        salon.life = Life::begin(salon.folder.path(), &salon.store).await;
    }
    quickest
}

/// Whatever else the store has to do, until it is dropped.
#[derive(Default)]
struct Load {
    over: Arc<AtomicBool>,
    all: Vec<JoinHandle<u32>>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl Load {
    /// Writers and readers without a pause.
    fn on(store: &Store) -> Self {
        let mut load = Self::default();
        let row = store.link("branch").expect("readable").expect("a link");
        for number in 0..3_u32 {
            let (writing, over) = (store.clone(), Arc::clone(&load.over));
            load.all.push(tokio::spawn(async move {
                let rows = writing.backend("branch", row.epoch);
                let address = format!("7900123456{number}@c.us");
                let mut writes = 0_u32;
                while !over.load(Ordering::Relaxed) {
                    let put = rows.put_session(&address, &writes.to_be_bytes()).await;
                    put.expect("written");
                    writes += 1;
                }
                writes
            }));
            let (reading, over) = (store.clone(), Arc::clone(&load.over));
            load.all.push(tokio::task::spawn_blocking(move || {
                let mut reads = 0;
                while !over.load(Ordering::Relaxed) {
                    reading.sessions().expect("readable");
                    reads += 1;
                }
                reads
            }));
        }
        load
    }

    /// One wipe after the other, and nothing else.
    fn of_wipes(store: &Store) -> Self {
        let mut load = Self::default();
        let (wiping, over) = (store.clone(), Arc::clone(&load.over));
        load.all.push(tokio::spawn(async move {
            let mut wipes = 0;
            let mut beat = tokio::time::interval(Duration::from_millis(50));
            while !over.load(Ordering::Relaxed) {
                beat.tick().await;
                next_epoch(&wiping, "branch").await;
                wipes += 1;
            }
            wipes
        }));
        load
    }

    async fn end(mut self) {
        self.over.store(true, Ordering::Relaxed);
        for each in self.all.drain(..) {
            assert!(each.await.expect("no panic") > 0, "it was busy");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn within_a_second_of_a_wipe_not_even_sealed_bytes_are_left() {
    let mut salon = Salon::new().await;
    let took = quickest(&mut salon, |_| Load::default()).await;
    assert!(took < A_SECOND, "{took:?}");
    salon.store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn within_a_second_of_a_wipe_it_is_swept_out_although_others_follow() {
    let mut salon = Salon::new().await;
    let took = quickest(&mut salon, Load::of_wipes).await;
    assert!(took < A_SECOND, "{took:?}");
    salon.store.close().await;
}

/// The writer is never idle, and somebody always reads.
#[tokio::test(flavor = "multi_thread")]
async fn within_a_second_of_a_wipe_it_is_swept_out_however_busy_the_store_is() {
    let mut salon = Salon::new().await;
    let took = quickest(&mut salon, Load::on).await;
    assert!(took < A_SECOND, "{took:?}");
    salon.store.close().await;
}

#[tokio::test]
async fn a_kill_between_the_answer_and_the_sweep_is_finished_by_the_next_start() {
    let mut salon = Salon::new().await;
    // Taken after the answer, and mostly before the sweep.
    let (killed, own) = loop {
        let killed = salon.wipe().await;
        let own = salon.life.own();
        if left(killed.path(), &own) > own.len() {
            break (killed, own);
        }
        salon.life = Life::begin(salon.folder.path(), &salon.store).await;
    };
    salon.store.close().await;
    let store = open(killed.path());
    let row = store.link(SALON).expect("readable").expect("the new link");
    assert_eq!(row.line, new_link().line);
    swept(killed.path(), &own).await;
    store.close().await;
    // Stopped before that, it is done while stopping.
    let mut salon = Salon::new().await;
    let own = salon.life.own();
    salon.wipe().await;
    salon.store.close().await;
    assert_eq!(left(salon.folder.path(), &own), 0);
    salon.store = open(salon.folder.path());
    salon.store.close().await;
}

#[tokio::test]
async fn a_wipe_leaves_a_file_of_at_most_twice_what_is_in_use() {
    let salon = Salon::new().await;
    let neighbour = salon.store.link("branch").expect("readable");
    let neighbour = neighbour.expect("a link").epoch;
    let branch = salon.store.backend("branch", neighbour);
    let rows = salon.store.backend(SALON, salon.life.epoch);
    let session = |number: u32| -> (Arc<str>, Bytes) {
        let address = format!("7900{number:07}@c.us");
        (Arc::from(address), Bytes::from(vec![7; 350]))
    };
    // A little of the neighbour's among much of the salon's; rewritten, as ratchets are.
    for part in 0..60 {
        let few: Vec<_> = (0..10)
            .map(|number| session(part % 20 * 10 + number))
            .collect();
        let many: Vec<_> = (0..100)
            .map(|number| session(part % 20 * 100 + number))
            .collect();
        branch.put_sessions_batch(&few).await.expect("written");
        rows.put_sessions_batch(&many).await.expect("written");
    }
    let size = || salon.store.size_bytes();
    let full = size();
    let own = sealed(salon.folder.path());
    let own = own
        .into_iter()
        .filter(|sealed| sealed.table.starts_with("e0000000000000002."));
    salon.wipe().await;
    swept(salon.folder.path(), &own.collect()).await;
    assert!(size() < full / 3, "{} of {full}", size());
    // From here on, whatever is written.
    for number in 0..40 {
        let in_use = in_use(salon.folder.path());
        assert!(size() <= 2 * in_use, "{} for {in_use}", size());
        let written = branch.put_sessions_batch(&[session(number)]).await;
        written.expect("written");
    }
    let wiped = salon
        .store
        .replace_link("branch", Some(neighbour), None, Vec::new())
        .await;
    wiped.expect("wiped");
    salon.store.close().await;
    let in_use = in_use(salon.folder.path());
    assert!(size() <= 2 * in_use, "{} for {in_use}", size());
}

#[tokio::test]
async fn keys_from_before_a_wipe_that_are_put_back_open_nothing_and_do_not_stay() {
    let salon = Salon::new().await;
    let old = read(salon.folder.path(), KEYS);
    salon.wipe().await;
    salon.store.close().await;
    let whole = copy(salon.folder.path());
    let new = read(whole.path(), KEYS);
    // The old file in the place of the new one: the present link has no key in it.
    std::fs::write(whole.path().join(KEYS), &old).expect("written");
    let store = read(whole.path(), STORE);
    let refused = Store::open(whole.path(), Options::default()).err();
    assert!(
        matches!(refused, Some(OpenError::KeysMissing)),
        "{refused:?}"
    );
    assert_eq!(sealed_in(&store), sealed(whole.path()), "untouched");
    assert_eq!(read(whole.path(), KEYS), old, "untouched");
    // The old link's block beside the new one's: the store does not name it, and it goes.
    let wiped = salon
        .life
        .keys
        .iter()
        .find(|key| !secrets(&new).contains(key));
    let (_, wiped) = wiped.expect("one is gone");
    let block = old.chunks(BLOCK).find(|block| contains(block, wiped));
    std::fs::write(
        whole.path().join(KEYS),
        [&new, block.expect("its block")].concat(),
    )
    .expect("written");
    let store = open(whole.path());
    assert!(
        !contains(&read(whole.path(), KEYS), wiped),
        "overwritten by the start"
    );
    let row = store.link(SALON).expect("readable").expect("the new link");
    assert_eq!(row.line, new_link().line);
    store.close().await;
}

#[tokio::test]
async fn a_store_without_its_keys_is_refused_and_gets_no_new_ones() {
    let salon = Salon::new().await;
    salon.store.close().await;
    let store = read(salon.folder.path(), STORE);
    let keys = read(salon.folder.path(), KEYS);
    std::fs::remove_file(salon.folder.path().join(KEYS)).expect("removed");
    let refused = Store::open(salon.folder.path(), Options::default()).err();
    let refused = refused.expect("refused");
    assert!(matches!(refused, OpenError::KeysMissing), "{refused:?}");
    assert!(refused.to_string().contains("hairpin.keys"), "{refused}");
    assert!(!salon.folder.path().join(KEYS).exists());
    assert_eq!(
        sealed_in(&store),
        sealed_in(&read(salon.folder.path(), STORE))
    );
    // Put back, they open it as it was.
    std::fs::write(salon.folder.path().join(KEYS), keys).expect("written");
    let store = open(salon.folder.path());
    let row = store.link(SALON).expect("readable").expect("the link");
    assert_eq!(row.line, NUMBER);
    store.close().await;
}

#[tokio::test]
async fn keys_without_their_store_are_not_thrown_away_for_an_empty_one() {
    let salon = Salon::new().await;
    salon.store.close().await;
    let keys = read(salon.folder.path(), KEYS);
    std::fs::remove_file(salon.folder.path().join(STORE)).expect("removed");
    let refused = Store::open(salon.folder.path(), Options::default()).err();
    assert!(
        matches!(refused, Some(OpenError::Damaged(_))),
        "{refused:?}"
    );
    assert!(
        !salon.folder.path().join(STORE).exists(),
        "never an empty start"
    );
    assert_eq!(read(salon.folder.path(), KEYS), keys);
}

#[tokio::test]
async fn nobody_else_may_read_the_files_whatever_they_were_before() {
    let salon = Salon::new().await;
    let folder = salon.folder.path().to_owned();
    let modes = || {
        [folder.clone(), folder.join(STORE), folder.join(KEYS)].map(|path| {
            let about = std::fs::metadata(path).expect("there");
            about.permissions().mode() & 0o777
        })
    };
    assert_eq!(modes(), [0o700, 0o600, 0o600]);
    salon.store.close().await;
    for (path, mode) in [
        (folder.clone(), 0o755),
        (folder.join(STORE), 0o644),
        (folder.join(KEYS), 0o640),
    ] {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("set");
    }
    open(&folder).close().await;
    assert_eq!(modes(), [0o700, 0o600, 0o600]);
}
