//! Our backend against upstream's two: random calls of every method, every answer compared, with links wiped in between.
//!
//! Where upstream's two differ from each other the trait's own words decide; `bound` lists these places.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use hairpin::store::Store;
use tempfile::TempDir;
use whatsapp_rust::traits::Backend;
use whatsapp_rust::wacore::store::Device;
use whatsapp_rust::wacore::store::in_memory::InMemoryBackend;
use whatsapp_rust::wacore::time::now_secs;
use whatsapp_rust_sqlite_storage::{SqliteStore, SqliteStoreConfig, Synchronous};

use crate::store_calls::{Call, Draw, Trait, one};
use crate::store_support::{self, SALON, folder, next_epoch, open, seed};

/// The calls of each trait, epoch changes not counted.
const CALLS: usize = 10_000;
/// How often something happens to a link, in calls.
const EVENTFUL: usize = 250;
/// Two links at once, whose rows must not mix.
const SESSIONS: [&str; 2] = [SALON, "branch"];

/// Which of upstream's backends our answer must equal.
struct Bound {
    memory: bool,
    sqlite: bool,
}

fn bound(method: &str) -> Bound {
    let (memory, sqlite) = match method {
        // "Get the most recently stored app state sync key ID": SQLite gives the highest one.
        "get_latest_sync_key_id" => (true, false),
        // "Returns the most recent LID for that phone": the other one gives the one that was put last, though it may be
        // known to be stale (learned at 0), and forgets a number's other hidden id when this one moves on.
        "get_pn_mapping" => (false, true),
        // A copy of the whole store beside it, for debugging: SQLite makes one.
        "snapshot_db" => (true, false),
        // What a page cache holds, on the other side.
        "resource_report" => (true, false),
        _ => (true, true),
    };
    Bound { memory, sqlite }
}

/// One link of ours, and what it is compared with.
struct Trio {
    ours: Arc<dyn Backend>,
    memory: Arc<dyn Backend>,
    sqlite: Arc<dyn Backend>,
}

struct Bench {
    folder: TempDir,
    store: Store,
    links: Vec<Trio>,
    born: usize,
}

impl Bench {
    async fn new() -> Self {
        let folder = folder();
        let store = open(&folder.path().join("data"));
        let mut bench = Self {
            folder,
            store,
            links: Vec::new(),
            born: 0,
        };
        for session in SESSIONS {
            let ours = store_support::backend(&bench.store, session).await;
            let trio = bench.beside(ours).await;
            bench.links.push(trio);
        }
        bench
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Fresh ones of upstream's beside ours.
    async fn beside(&mut self, ours: Arc<dyn Backend>) -> Trio {
        self.born += 1;
        let file = self.folder.path().join(format!("{}.sqlite", self.born));
        let config = SqliteStoreConfig {
            synchronous: Synchronous::Off,
            ..SqliteStoreConfig::default()
        };
        let sqlite = SqliteStore::with_config(&file.display().to_string(), config)
            .await
            .expect("upstream's store opens");
        Trio {
            ours,
            memory: Arc::new(InMemoryBackend::new()),
            sqlite: Arc::new(sqlite),
        }
    }

    /// A wipe in one of its forms, or a restart. Whether everything of the link is gone.
    async fn happen(&mut self, which: usize, draw: &mut Draw) -> bool {
        let session = SESSIONS[which];
        match draw.below(5) {
            0 => {
                self.store.close().await;
                self.store = open(&self.data());
                for (link, session) in self.links.iter_mut().zip(SESSIONS) {
                    let row = self.store.link(session).expect("readable").expect("a link");
                    link.ours = Arc::new(self.store.backend(session, row.epoch));
                }
                return false;
            }
            1 => {
                let present = self.store.link(session).expect("readable");
                self.store
                    .replace_link(session, present.map(|row| row.epoch), None, Vec::new())
                    .await
                    .expect("wiped to none");
            }
            2 => self
                .store
                .remove_session(session, Vec::new())
                .await
                .expect("removed"),
            _ => {}
        }
        let epoch = next_epoch(&self.store, session).await;
        let ours = Arc::new(self.store.backend(session, epoch));
        self.links[which] = self.beside(ours).await;
        true
    }
}

impl Trio {
    /// Makes the call on all, and compares.
    async fn compare(&self, call: &Call) -> Result<(), String> {
        // These remember the second they were made in: all three must mean the same one.
        let timed = call.name.starts_with("store_sent") || call.name.starts_with("store_pending");
        let bound = bound(call.name);
        loop {
            let second = now_secs();
            let ours = call.make(&self.ours).await;
            let ours = ours.map_err(|error| format!("ours failed: {error:?}"))?;
            for (name, other, bound) in [
                ("InMemoryBackend", &self.memory, bound.memory),
                ("SqliteStore", &self.sqlite, bound.sqlite),
            ] {
                if name == "SqliteStore" && call.name == "snapshot_db" {
                    continue;
                }
                let theirs = call.make(other).await;
                let theirs = theirs.map_err(|error| format!("{name} failed: {error:?}"))?;
                if bound && theirs != ours {
                    return Err(format!("ours: {ours}\n{name}: {theirs}"));
                }
            }
            if !timed || second == now_secs() {
                return Ok(());
            }
        }
    }

    /// "Create a new device row": of two there is nothing to compare. SQLite refuses, the other one keeps what it has,
    /// and so do we. Then the three are given the same device again, for each made keys of its own.
    async fn create(&self, call: &Call) -> Result<(), String> {
        let shown = |device: Option<Device>| device.map(|device| serde_json::json!(device));
        let before = self.ours.load().await.map_err(|error| error.to_string())?;
        if before.is_none() {
            call.make(&self.sqlite).await.map_err(|e| e.to_string())?;
        }
        for backend in [&self.ours, &self.memory] {
            call.make(backend).await.map_err(|e| e.to_string())?;
        }
        let after = self.ours.load().await.map_err(|error| error.to_string())?;
        let Some(after) = after else {
            return Err("ours made no device".to_owned());
        };
        if let Some(before) = before {
            if shown(Some(before)) != shown(Some(after)) {
                return Err("ours made another device".to_owned());
            }
            return Ok(());
        }
        for backend in [&self.ours, &self.memory, &self.sqlite] {
            backend.save(&after).await.map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}

/// 10 000 calls of one trait; which of its methods were made how often.
async fn differ(store: Trait) {
    let seed = seed();
    let mut draw = Draw::new(seed);
    let mut bench = Bench::new().await;
    let mut made: BTreeMap<&str, usize> = BTreeMap::new();
    let mut trail: VecDeque<String> = VecDeque::new();
    let reads: Vec<usize> = (0..store.methods.len())
        .filter(|&at| reads(store.methods[at].name))
        .collect();
    // SQLite's rows belong to a device row, which must be there.
    let needs_device = store.name != "DeviceStore";
    let device = Device::new();
    if needs_device {
        for link in &bench.links {
            link.sqlite.save(&device).await.expect("a device row");
        }
    }
    for number in 0..CALLS {
        let which = draw.below(SESSIONS.len());
        let mut calls = Vec::new();
        if number % EVENTFUL == EVENTFUL - 1 {
            let wiped = bench.happen(which, &mut draw).await;
            trail.push_back(format!("{}: an event, wiped: {wiped}", SESSIONS[which]));
            if wiped && needs_device {
                let sqlite = &bench.links[which].sqlite;
                sqlite.save(&device).await.expect("a device row");
            }
            // After a wipe they must agree on emptiness, after a restart on everything.
            for _ in 0..20 {
                let at = reads[draw.below(reads.len())];
                calls.push(store.methods[at].draw(&mut draw));
            }
        }
        calls.push(store.any(&mut draw));
        for call in calls {
            trail.push_back(format!(
                "{}: {}({})",
                SESSIONS[which], call.name, call.arguments
            ));
            if trail.len() > 40 {
                trail.pop_front();
            }
            let link = &bench.links[which];
            let same = if call.name == "create" {
                link.create(&call).await
            } else {
                link.compare(&call).await
            };
            if let Err(difference) = same {
                let trail = Vec::from(trail).join("\n");
                panic!("{trail}\n\ncall {number}, HAIRPIN_SEED={seed}\n{difference}");
            }
            *made.entry(call.name).or_default() += 1;
        }
    }
    for method in &store.methods {
        let times = made.get(method.name).copied().unwrap_or(0);
        assert!(times > 20, "{} was made {times} times", method.name);
    }
    // No copy of the secrets was laid beside the store.
    let mut files: Vec<_> = std::fs::read_dir(bench.data())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    files.sort();
    assert_eq!(files, ["hairpin.keys", "hairpin.redb"]);
    bench.store.close().await;
}

fn reads(method: &str) -> bool {
    ["get_", "load", "has_", "exists"]
        .iter()
        .any(|beginning| method.starts_with(beginning))
}

#[tokio::test(flavor = "multi_thread")]
async fn signal_rows_answer_like_upstreams_own_stores() {
    differ(one("SignalStore")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn app_state_rows_answer_like_upstreams_own_stores() {
    differ(one("AppSyncStore")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn protocol_rows_answer_like_upstreams_own_stores() {
    differ(one("ProtocolStore")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn device_rows_answer_like_upstreams_own_stores() {
    differ(one("DeviceStore")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn message_secrets_answer_like_upstreams_own_stores() {
    differ(one("MsgSecretStore")).await;
}
