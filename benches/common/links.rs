//! Owns what a link holds in a benchmark: the same rows through whatsapp-rust's traits, whichever store is behind them,
//! and our store's two operations that are measured everywhere. Every number in here is made up.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hairpin::store::{Epoch, EpochBackend, JournalEntry, JournalWhat, NewLink, Options, Store};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use whatsapp_rust::traits::SignalStore;

/// What a pre-key, a session or a creds row weighs, in bytes.
pub const RECORD: usize = 350;
/// Rows put in one call while filling.
const CHUNK: u32 = 5_000;
/// Longer than the store waits, after a wipe, before it sweeps the file.
const SWEEP_BEGUN: Duration = Duration::from_millis(250);

/// Bytes that do not compress and differ by seed.
pub fn record(seed: u32, length: usize) -> Bytes {
    let mut state = u64::from(seed) ^ 0x9e37_79b9_7f4a_7c15;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        })
        .collect()
}

/// A contact's Signal address.
pub fn address(index: u32) -> Arc<str> {
    Arc::from(format!("7900{index:07}:0@s.whatsapp.net"))
}

/// `count` key rows: half pre-keys, half sessions.
pub async fn fill(backend: &impl SignalStore, count: u32) {
    let half = count / 2;
    for start in (0..half).step_by(CHUNK as usize) {
        let ids = start..(start + CHUNK).min(half);
        let keys: Vec<(u32, Bytes)> = ids.clone().map(|id| (id + 1, record(id, RECORD))).collect();
        let stored = backend.store_prekeys_batch(&keys, true).await;
        stored.expect("pre-keys stored");
        let sessions: Vec<(Arc<str>, Bytes)> =
            ids.map(|id| (address(id), record(id, RECORD))).collect();
        let stored = backend.put_sessions_batch(&sessions).await;
        stored.expect("sessions stored");
    }
}

/// Reads every row that [`fill`] wrote, as the client would; how many there were.
pub async fn load(backend: &impl SignalStore, count: u32) -> usize {
    let half = count / 2;
    let ids: Vec<u32> = (1..=half).collect();
    let mut rows = backend
        .load_prekeys_batch(&ids)
        .await
        .expect("pre-keys loaded")
        .len();
    for id in 0..half {
        let session = backend.get_session(&address(id)).await.expect("loaded");
        rows += usize::from(session.is_some());
    }
    rows
}

/// Our store in a folder of its own.
pub struct Ours {
    _folder: TempDir,
    pub store: Store,
}

impl Ours {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path(), Options::default()).expect("opened");
        Self {
            _folder: folder,
            store,
        }
    }

    pub fn backend(&self, session: &str) -> EpochBackend {
        self.store
            .backend(session, self.epoch(session).expect("linked"))
    }

    pub fn epoch(&self, session: &str) -> Option<Epoch> {
        let link = self.store.link(session).expect("read");
        link.map(|link| link.epoch)
    }

    /// THE check: whether a number that is asked for is the stored link's line.
    pub fn is_line(&self, session: &str, line: &str) -> bool {
        let stored = self.store.link(session).expect("read");
        stored.is_some_and(|stored| stored.line.reveal() == line)
    }

    /// Check and wipe as a request does them: another line is asked for, the old link goes, the new one is named.
    pub async fn check_and_wipe(&self, session: &str, line: &str) {
        let old = self.store.link(session).expect("read");
        assert!(old.as_ref().is_none_or(|old| old.line.reveal() != line));
        let next = NewLink {
            line: line.into(),
            intended: line.into(),
            now: 1_700_000_000_000,
        };
        let entry = JournalEntry::new(1_700_000_000_000, session, JournalWhat::MismatchWiped);
        self.store
            .replace_link(session, old.map(|old| old.epoch), Some(next), vec![entry])
            .await
            .expect("wiped");
    }

    /// Waits until the sweep after a wipe is over: it must not run while somebody else is measured.
    pub fn settle(&self, runtime: &Runtime) {
        std::thread::sleep(SWEEP_BEGUN);
        // The writer takes this up after the sweep.
        runtime
            .block_on(self.store.put_setting("swept", Vec::new()))
            .expect("committed");
    }
}

/// Lines that differ from one wipe to the next.
#[derive(Default)]
pub struct Lines(Cell<u32>);

impl Lines {
    pub fn next(&self) -> String {
        self.0.set(self.0.get() + 1);
        format!("7900{:07}", self.0.get())
    }
}

/// Says on what the run stands. Sync on a file system in memory costs nothing, and every ratio would be void.
pub fn describe_place() {
    const TMPFS: i128 = 0x0102_1994;
    let folder = std::env::temp_dir();
    let kind = rustix::fs::statfs(&folder).expect("a file system").f_type;
    assert!(
        i128::from(kind) != TMPFS,
        "{} lies in memory: set TMPDIR to a folder on a disk",
        folder.display()
    );
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    println!(
        "{cores} cores; files in {}; {} build",
        folder.display(),
        if cfg!(debug_assertions) {
            "DEBUG"
        } else {
            "release"
        }
    );
}
