//! What a year does to the store: contacts, messages, ratchets that turn, and rows that expire. It leaves the file, the memory
//! and the time of a start as they were. The year runs in a process of its own: it has a calendar and a memory of its own.

use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hairpin::store::{Disk, DiskFile, Folder, Options, Store};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use whatsapp_rust::traits::{
    Backend, DeviceInfo, DeviceListRecord, LidPnMappingEntry, MsgSecretEntry, PendingInboundRow,
};
use whatsapp_rust::wacore::appstate::hash::HashState;
use whatsapp_rust::wacore::appstate::processor::AppStateMutationMAC;
use whatsapp_rust::wacore::time::{TimeProvider, set_time_provider};

use crate::store_support::{NOW, SALON, backend, copy, folder, in_use, long, open, seed};

/// Tells the process that it is the one in which the year passes, and where.
const YEAR_IN: &str = "HAIRPIN_YEAR_IN";
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
/// Everything that is kept for a while has been expiring for long.
const SETTLED: u32 = 60;
const MONTH: u32 = 30;

/// How much happens.
#[derive(Clone, Copy)]
struct Scale {
    contacts: u32,
    messages: u32,
    days: u32,
}

impl Scale {
    fn get() -> Self {
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

struct Calendar;

impl TimeProvider for Calendar {
    fn now_millis(&self) -> i64 {
        CALENDAR.load(Ordering::SeqCst) * 1000
    }
}

fn now() -> i64 {
    CALENDAR.load(Ordering::SeqCst)
}

/// A salon's link, and whatever its year brings.
struct Year {
    scale: Scale,
    rng: StdRng,
    rows: Arc<dyn Backend>,
    messages: u32,
    next_prekey: u32,
}

impl Year {
    fn new(scale: Scale, rows: Arc<dyn Backend>) -> Self {
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
    async fn link(&mut self) {
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

    async fn day(&mut self, day: u32) {
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

/// How things stand.
#[derive(Debug, Clone, Copy)]
struct Measure {
    /// The store's file.
    file: u64,
    in_use: u64,
    keys: u64,
    /// Memory of this process alone, in bytes: not what is mapped from files.
    memory: u64,
    /// What a start reads, after a stop and after a kill, and how long it takes.
    read: [u64; 2],
    took: [Duration; 2],
}

/// What a start reads of a folder's files, and how long the quickest took.
async fn start(folder: &Path) -> (u64, Duration) {
    let mut quickest = (0, Duration::MAX);
    for _ in 0..5 {
        let copy = copy(folder);
        let read = Arc::new(AtomicU64::new(0));
        let disk = Counting {
            folder: Folder::new(copy.path()),
            read: Arc::clone(&read),
        };
        let started = Instant::now();
        let store = Store::open_on(Arc::new(disk), Options::default()).expect("opened");
        store.link(SALON).expect("readable").expect("the link");
        let took = started.elapsed();
        quickest = (read.load(Ordering::SeqCst), took.min(quickest.1));
        store.close().await;
    }
    quickest
}

async fn measure(store: &Store, folder: &Path) -> Measure {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let memory = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .expect("a size")
        * 1024;
    let killed = start(folder).await;
    let in_use = in_use(folder);
    let file = store.size_bytes();
    store.close().await;
    let stopped = start(folder).await;
    let keys = std::fs::metadata(folder.join("hairpin.keys")).expect("there");
    Measure {
        file,
        in_use,
        keys: keys.len(),
        memory,
        read: [stopped.0, killed.0],
        took: [stopped.1, killed.1],
    }
}

async fn live_through_it(folder: &Path) {
    set_time_provider(Calendar).expect("the first");
    let scale = Scale::get();
    let mut store = open(folder);
    let mut year = Year::new(scale, backend(&store, SALON).await);
    year.link().await;
    let mut months: Vec<Measure> = Vec::new();
    for day in 1..=scale.days {
        year.day(day).await;
        if day >= SETTLED && (day.is_multiple_of(MONTH) || day == scale.days) {
            let measure = measure(&store, folder).await;
            println!("day {day}: {measure:?}");
            months.push(measure);
            store = open(folder);
            let row = store.link(SALON).expect("readable").expect("the link");
            year.rows = Arc::new(store.backend(SALON, row.epoch));
        }
    }
    let (first, last) = (months[0], months[months.len() - 1]);
    // A year's rows come and go by chance: as many as a tenth more or fewer.
    let flat = |what: &str, first: u64, last: u64, slack: u64| {
        assert!(
            last <= first + first / 8 + slack,
            "{what}: {first}, then {last}"
        );
    };
    flat("in use", first.in_use, last.in_use, 0);
    flat("keys", first.keys, last.keys, 0);
    flat("memory", first.memory, last.memory, 2 << 20);
    for month in &months {
        assert!(month.file <= 3 * first.in_use, "a file of {}", month.file);
        flat("read by a start", first.read[0], month.read[0], 64 << 10);
        flat(
            "read by a start after a kill",
            first.read[1],
            month.read[1],
            64 << 10,
        );
    }
    for (first, last) in first.took.into_iter().zip(last.took) {
        // The quickest of five, and of no more than what is read: a busy machine may still make it slower.
        assert!(
            last <= 3 * first + Duration::from_millis(5),
            "{first:?}, then {last:?}"
        );
    }
    store.close().await;
}

#[test]
fn a_years_traffic_leaves_file_memory_and_start_as_they_were() {
    if let Some(folder) = std::env::var_os(YEAR_IN) {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        return runtime
            .expect("a runtime")
            .block_on(live_through_it(Path::new(&folder)));
    }
    let folder = folder();
    let year = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "--nocapture"])
        .arg("store_growth::a_years_traffic_leaves_file_memory_and_start_as_they_were")
        .env(YEAR_IN, folder.path())
        .output()
        .expect("run");
    let (out, err) = (
        String::from_utf8_lossy(&year.stdout),
        String::from_utf8_lossy(&year.stderr),
    );
    println!("{out}");
    assert!(year.status.success(), "{err}");
    assert!(out.contains("1 passed"), "it did not run");
}

/// A folder that counts what is read of the store.
#[derive(Debug)]
struct Counting {
    folder: Folder,
    read: Arc<AtomicU64>,
}

impl Disk for Counting {
    fn folder(&self) -> &Path {
        self.folder.folder()
    }

    fn prepare(&self, create: bool) -> io::Result<()> {
        self.folder.prepare(create)
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        self.folder.size(name)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(CountingFile {
            file: self.folder.open(name)?,
            read: Arc::clone(&self.read),
        }))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.folder.create(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.folder.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.folder.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        self.folder.sync()
    }
}

#[derive(Debug)]
struct CountingFile {
    file: Box<dyn DiskFile>,
    read: Arc<AtomicU64>,
}

impl DiskFile for CountingFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let read = u64::try_from(out.len()).expect("small");
        self.read.fetch_add(read, Ordering::SeqCst);
        self.file.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}
