//! Owns what a store must hold after a row of operations: random operations, the model that takes them, and the look
//! at a real store that is compared with it.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Debug;
use std::path::Path;
use std::sync::OnceLock;

use hairpin::store::{
    EpochBackend, JournalEntry, JournalWhat, LinkRow, NewLink, Store, StoreError,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use whatsapp_rust::traits::{
    AppStateSyncKey, AppSyncStore, DeviceStore, MsgSecretStore, ProtocolStore, SignalStore,
};
use whatsapp_rust::wacore::store::Device;

/// The moment at which all tests take place, in Unix milliseconds.
pub const NOW: i64 = 1_800_000_000_000;
pub const SESSIONS: [&str; 3] = ["salon", "second", "third"];
const LINES: [&str; 3] = ["79001234567", "79007654321", "5511987654321"];
const SETTINGS: [&str; 2] = ["one", "two"];
/// So many rows of each family are used.
const ROWS: u8 = 4;
/// More than is looked for is not told apart.
const BUDGET: u32 = 12;
/// Where another process's devices are.
pub const DEVICES_FILE: &str = "HAIRPIN_TEST_DEVICES";

/// One call of the store.
#[derive(Debug, Clone)]
pub enum Op {
    PutSession(&'static str, String),
    RemoveSession(&'static str),
    /// A wipe, to a new epoch for the line, or to none.
    Wipe(&'static str, Option<&'static str>),
    Seen(&'static str, i64),
    Device(&'static str, usize),
    Identity(&'static str, u8, u8),
    ForgetIdentity(&'static str, u8),
    Signal(&'static str, u8, Vec<u8>),
    /// Several rows in one call.
    PreKeys(&'static str, Vec<u8>, u8),
    SenderKey(&'static str, u8, Vec<u8>),
    SyncKey(&'static str, u8, u8),
    Secret(&'static str, u8, u8),
    Group(&'static str, u8, Vec<u8>),
    Journal(i64),
    Budget(&'static str, i64),
    Setting(&'static str, Vec<u8>),
}

impl Op {
    /// The session whose link the operation takes away.
    pub fn wipes(&self) -> Option<&'static str> {
        match self {
            Self::Wipe(session, _) | Self::RemoveSession(session) => Some(session),
            _ => None,
        }
    }
}

/// What there is to see in a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    pub sessions: BTreeMap<String, String>,
    pub links: BTreeMap<String, LinkState>,
    /// The times of the entries, newest first.
    pub journal: Vec<i64>,
    pub budget: BTreeMap<&'static str, u32>,
    pub settings: BTreeMap<&'static str, Vec<u8>>,
}

/// What there is to see of a link, but for what names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkState {
    pub line: String,
    pub last_connected: Option<i64>,
    /// Family and row → value.
    pub rows: BTreeMap<(&'static str, u8), Vec<u8>>,
}

/// Devices with keys of their own: made once, or taken over from the process that started this one.
fn devices() -> &'static [Device] {
    static DEVICES: OnceLock<Vec<Device>> = OnceLock::new();
    DEVICES.get_or_init(|| match std::env::var_os(DEVICES_FILE) {
        Some(file) => {
            let bytes = std::fs::read(file).expect("the devices' file");
            serde_json::from_slice(&bytes).expect("devices")
        }
        None => (0..4).map(|_| Device::new()).collect(),
    })
}

/// Keeps the devices for a process that is to know the same.
pub fn write_devices(file: &Path) {
    let bytes = serde_json::to_vec(devices()).expect("devices");
    std::fs::write(file, bytes).expect("written");
}

fn bytes_of(device: &Device) -> Vec<u8> {
    serde_json::to_vec(device).expect("a device")
}

/// A random operation that makes sense in the state.
fn random_op(random: &mut StdRng, state: &State) -> Op {
    let session = SESSIONS[random.random_range(0..SESSIONS.len())];
    let row = random.random_range(0..ROWS);
    let byte = random.random_range(1..=u8::MAX);
    // Large ones take pages of their own.
    let length = if random.random_ratio(1, 8) {
        random.random_range(2_000..9_000)
    } else {
        random.random_range(1..400)
    };
    let blob = vec![byte; length];
    let line = LINES[random.random_range(0..LINES.len())];
    if !state.links.contains_key(session) {
        return match random.random_range(0..10) {
            0 => Op::PutSession(session, format!("name {byte}")),
            1 => Op::Journal(NOW + i64::from(byte)),
            2 => Op::Budget(line, NOW + i64::from(byte)),
            3 => Op::Setting(SETTINGS[usize::from(byte) % 2], blob),
            _ => Op::Wipe(session, Some(line)),
        };
    }
    match random.random_range(0..40) {
        0..=3 => Op::Wipe(session, Some(line)),
        4..=5 => Op::Wipe(session, None),
        6 => Op::RemoveSession(session),
        7..=8 => Op::PutSession(session, format!("name {byte}")),
        9..=10 => Op::Journal(NOW + i64::from(byte)),
        11 => Op::Budget(line, NOW + i64::from(byte)),
        12..=13 => Op::Setting(SETTINGS[usize::from(byte) % 2], blob),
        14..=15 => Op::Seen(session, i64::from(byte)),
        16..=19 => Op::Device(session, usize::from(byte) % devices().len()),
        20..=22 => Op::Identity(session, row, byte),
        23 => Op::ForgetIdentity(session, row),
        24..=28 => Op::Signal(session, row, blob),
        29..=31 => Op::PreKeys(session, (0..=row).collect(), byte),
        32..=34 => Op::SenderKey(session, row, blob),
        35..=36 => Op::SyncKey(session, row, byte),
        37 => Op::Secret(session, row, byte),
        _ => Op::Group(session, row, blob),
    }
}

/// Draws what is asked for next, one operation or several at once, and what each makes of the last of the states.
pub fn next_ops(random: &mut StdRng, states: &mut Vec<State>) -> Vec<Op> {
    let mut ops: Vec<Op> = Vec::new();
    let most = if random.random_ratio(1, 4) { 6 } else { 1 };
    while ops.len() < most {
        let mut state = states.last().expect("one to begin with").clone();
        let op = random_op(random, &state);
        // What comes after a wipe needs to know the new epoch.
        let last = op.wipes().is_some();
        state.apply(&op);
        states.push(state);
        ops.push(op);
        if last {
            break;
        }
    }
    ops
}

/// A generator that a seed repeats.
pub fn random(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

impl State {
    /// What an operation makes of it.
    pub fn apply(&mut self, op: &Op) {
        let noted = |state: &mut Self, at: i64| state.journal.insert(0, at);
        let mut set = |session: &str, family, row, value: Vec<u8>| {
            let link = self.links.get_mut(session).expect("a link");
            link.rows.insert((family, row), value);
        };
        match op {
            Op::PutSession(id, name) => {
                self.sessions.insert((*id).to_owned(), name.clone());
            }
            Op::RemoveSession(id) => {
                self.sessions.remove(*id);
                self.links.remove(*id);
                noted(self, NOW);
            }
            Op::Wipe(session, line) => {
                self.links.remove(*session);
                if let Some(line) = line {
                    let fresh = LinkState {
                        line: (*line).to_owned(),
                        ..LinkState::default()
                    };
                    self.links.insert((*session).to_owned(), fresh);
                }
                noted(self, NOW);
            }
            Op::Seen(session, at) => {
                let link = self.links.get_mut(*session).expect("a link");
                link.last_connected = Some(*at);
                noted(self, *at);
            }
            Op::Device(session, which) => set(session, "device", 0, bytes_of(&devices()[*which])),
            Op::Identity(session, row, byte) => set(session, "identity", *row, vec![*byte; 32]),
            Op::ForgetIdentity(session, row) => {
                let link = self.links.get_mut(*session).expect("a link");
                link.rows.remove(&("identity", *row));
            }
            Op::Signal(session, row, blob) => set(session, "signal", *row, blob.clone()),
            Op::PreKeys(session, rows, byte) => {
                for row in rows {
                    set(session, "prekey", *row, vec![*byte; 70]);
                }
            }
            Op::SenderKey(session, row, blob) => set(session, "sender key", *row, blob.clone()),
            Op::SyncKey(session, row, byte) => set(session, "sync key", *row, vec![*byte; 32]),
            Op::Secret(session, row, byte) => set(session, "secret", *row, vec![*byte; 32]),
            Op::Group(session, row, blob) => set(session, "group", *row, blob.clone()),
            Op::Journal(at) => noted(self, *at),
            Op::Budget(line, _) => {
                let spent = self.budget.entry(line).or_default();
                *spent = BUDGET.min(*spent + 1);
            }
            Op::Setting(name, value) => {
                self.settings.insert(name, value.clone());
            }
        }
    }
}

/// The store's own error, out of the library's.
fn ours<T, E: Error + 'static>(result: Result<T, E>) -> Result<T, StoreError> {
    result.map_err(|error| {
        let mut error: &(dyn Error + 'static) = &error;
        loop {
            if let Some(ours) = error.downcast_ref::<StoreError>() {
                return *ours;
            }
            error = error.source().expect("every error of the store is typed");
        }
    })
}

fn address(row: u8) -> String {
    format!("7900000000{row}@s.whatsapp.net:0")
}

fn entry(session: &str, at: i64) -> JournalEntry {
    JournalEntry::new(at, session, JournalWhat::Requested)
}

fn present(store: &Store, session: &str) -> Result<LinkRow, StoreError> {
    store.link(session)?.ok_or(StoreError::StaleEpoch)
}

/// Does an operation on a real store.
pub async fn perform(store: &Store, op: &Op) -> Result<(), StoreError> {
    let backend = |session: &str| -> Result<EpochBackend, StoreError> {
        Ok(store.backend(session, present(store, session)?.epoch))
    };
    match op {
        Op::PutSession(id, name) => store.put_session(id, name, NOW).await.map(|_| ()),
        Op::RemoveSession(id) => store.remove_session(id, vec![entry(id, NOW)]).await,
        Op::Wipe(session, line) => {
            let expected = store.link(session)?.map(|row| row.epoch);
            let next = line.map(|line| NewLink {
                line: line.into(),
                intended: line.into(),
                now: NOW,
            });
            let journal = vec![entry(session, NOW)];
            let wiped = store.replace_link(session, expected, next, journal).await?;
            assert_eq!(wiped.link.is_some(), line.is_some());
            Ok(())
        }
        Op::Seen(session, at) => {
            let (epoch, at) = (present(store, session)?.epoch, *at);
            store
                .update_link(
                    session,
                    epoch,
                    Box::new(move |row| row.last_connected = Some(at)),
                    vec![entry(session, at)],
                )
                .await
                .map(|_| ())
        }
        Op::Device(session, which) => ours(backend(session)?.save(&devices()[*which]).await),
        Op::Identity(session, row, byte) => ours(
            backend(session)?
                .put_identity(&address(*row), [*byte; 32])
                .await,
        ),
        Op::ForgetIdentity(session, row) => {
            ours(backend(session)?.delete_identity(&address(*row)).await)
        }
        Op::Signal(session, row, blob) => {
            ours(backend(session)?.put_session(&address(*row), blob).await)
        }
        Op::PreKeys(session, rows, byte) => {
            let rows: Vec<_> = rows
                .iter()
                .map(|row| (u32::from(*row), vec![*byte; 70].into()))
                .collect();
            ours(backend(session)?.store_prekeys_batch(&rows, false).await)
        }
        Op::SenderKey(session, row, blob) => {
            ours(backend(session)?.put_sender_key(&address(*row), blob).await)
        }
        Op::SyncKey(session, row, byte) => {
            let key = AppStateSyncKey {
                key_data: vec![*byte; 32],
                fingerprint: vec![1, 2, 3],
                timestamp: 5,
            };
            ours(backend(session)?.set_sync_key(&[*row], key).await)
        }
        Op::Secret(session, row, byte) => ours(
            backend(session)?
                .put_msg_secret("chat", "sender", &address(*row), &[*byte; 32])
                .await,
        ),
        Op::Group(session, row, blob) => ours(
            backend(session)?
                .put_group_metadata(&address(*row), blob)
                .await,
        ),
        Op::Journal(at) => store.append_journal(vec![entry("salon", *at)]).await,
        Op::Budget(line, at) => store.budget_record(line, *at).await,
        Op::Setting(name, value) => store.put_setting(name, value.clone()).await,
    }
}

/// Everything there is to see in a store, read through its own doors.
pub async fn look(store: &Store) -> Result<State, StoreError> {
    let mut state = State {
        sessions: store
            .sessions()?
            .into_iter()
            .map(|row| (row.id, row.name))
            .collect(),
        journal: store
            .journal(None, 10_000)?
            .into_iter()
            .map(|entry| entry.time)
            .collect(),
        ..State::default()
    };
    for line in LINES {
        let mut spent = 0;
        while spent < BUDGET && store.budget_left(line, NOW, spent + 1)?.is_some() {
            spent += 1;
        }
        if spent > 0 {
            state.budget.insert(line, spent);
        }
    }
    for name in SETTINGS {
        if let Some(value) = store.setting(name)? {
            state.settings.insert(name, value);
        }
    }
    for session in SESSIONS {
        let Some(row) = store.link(session)? else {
            continue;
        };
        let backend = store.backend(session, row.epoch);
        let link = LinkState {
            line: row.line.reveal().to_owned(),
            last_connected: row.last_connected,
            rows: rows(&backend).await?,
        };
        state.links.insert(session.to_owned(), link);
    }
    Ok(state)
}

async fn rows(backend: &EpochBackend) -> Result<BTreeMap<(&'static str, u8), Vec<u8>>, StoreError> {
    let mut rows = BTreeMap::new();
    let mut found = |family, row, value: Option<Vec<u8>>| {
        if let Some(value) = value {
            rows.insert((family, row), value);
        }
    };
    let device = ours(backend.load().await)?;
    found("device", 0, device.as_ref().map(bytes_of));
    for row in 0..ROWS {
        let name = address(row);
        let identity = ours(backend.load_identity(&name).await)?;
        found("identity", row, identity.map(|key| key.to_vec()));
        let signal = ours(backend.get_session(&name).await)?;
        found("signal", row, signal.map(|bytes| bytes.to_vec()));
        let prekey = ours(backend.load_prekey(u32::from(row)).await)?;
        found("prekey", row, prekey.map(|bytes| bytes.to_vec()));
        found(
            "sender key",
            row,
            ours(backend.get_sender_key(&name).await)?,
        );
        let sync = ours(backend.get_sync_key(&[row]).await)?;
        found("sync key", row, sync.map(|key| key.key_data));
        let secret = ours(backend.get_msg_secret("chat", "sender", &name).await)?;
        found("secret", row, secret);
        found("group", row, ours(backend.get_group_metadata(&name).await)?);
    }
    Ok(rows)
}

/// Says where two states differ, shortly.
pub fn difference(seen: &State, wanted: &State) -> String {
    fn part<T: Debug + PartialEq>(out: &mut Vec<String>, name: &str, seen: &T, wanted: &T) {
        if seen != wanted {
            let short = |value: &T| {
                let mut text = format!("{value:?}");
                text.truncate(600);
                text
            };
            out.push(format!(
                "{name}: {} instead of {}",
                short(seen),
                short(wanted)
            ));
        }
    }
    let mut out = Vec::new();
    part(&mut out, "sessions", &seen.sessions, &wanted.sessions);
    part(&mut out, "journal", &seen.journal, &wanted.journal);
    part(&mut out, "budget", &seen.budget, &wanted.budget);
    part(&mut out, "settings", &seen.settings, &wanted.settings);
    let lines = |state: &State| -> BTreeMap<String, String> {
        state
            .links
            .iter()
            .map(|(session, link)| (session.clone(), link.line.clone()))
            .collect()
    };
    part(&mut out, "links", &lines(seen), &lines(wanted));
    for (session, link) in &seen.links {
        if let Some(wanted) = wanted.links.get(session) {
            let seen = &link.last_connected;
            part(&mut out, "last connected", seen, &wanted.last_connected);
            for key in link.rows.keys().chain(wanted.rows.keys()) {
                part(
                    &mut out,
                    &format!("{session}: {key:?}"),
                    &link.rows.get(key),
                    &wanted.rows.get(key),
                );
            }
        }
    }
    out.join("; ")
}
