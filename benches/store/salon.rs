//! Owns a salon-sized file, clean or left behind by kill -9: a child process writes it, and is killed in the middle
//! of further writes. What a kill leaves is what the system had been given, so copies of it are as good as the original.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use hairpin::secret::SecretText;
use hairpin::store::{EpochBackend, NewLink, Options, Store};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use whatsapp_rust::traits::{
    Backend, DeviceInfo, DeviceListRecord, LidPnMappingEntry, MsgSecretEntry, SignalStore,
    TcTokenEntry,
};

use crate::links::{address, record};
use crate::sqlite;

/// The argument that makes a process such a child.
pub const ARGUMENT: &str = "salon";
/// Pre-keys as the client uploads them.
const PRE_KEYS: u32 = 812;
const CONTACTS: u32 = 1_000;
/// A month of two hundred messages a day.
const MESSAGES: u32 = 6_000;
/// A Signal session after some traffic, in bytes.
const SESSION: usize = 1_200;
const NOW: i64 = 1_700_000_000;

/// Whose file it is.
#[derive(Clone, Copy)]
pub enum Kind {
    Ours,
    Sqlite,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Sqlite => "sqlite",
        }
    }
}

/// A folder as a process left it that was killed while it wrote.
pub fn killed(kind: Kind) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args([ARGUMENT, kind.word()])
        .arg(folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let output = child.stdout.take().expect("piped");
    // It has filled the store, and a hundred further writes were acknowledged.
    let line = BufReader::new(output).lines().next();
    line.expect("a line").expect("read");
    child.kill().expect("killed");
    child.wait().expect("gone");
    folder
}

/// What the child does: fills the store, then writes until it is killed.
pub fn live(runtime: &Runtime, kind: &str, folder: &Path) {
    runtime.block_on(async {
        if kind == Kind::Ours.word() {
            let (_store, backend) = filled(folder).await;
            write_for_ever(&backend).await;
        } else {
            let store = sqlite::open(folder).await;
            fill(&store).await;
            write_for_ever(&store).await;
        }
    });
}

/// A folder whose store was closed in order.
pub fn closed(runtime: &Runtime, kind: Kind) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    runtime.block_on(async {
        match kind {
            Kind::Ours => {
                let (store, backend) = filled(folder.path()).await;
                drop(backend);
                store.close().await;
            }
            Kind::Sqlite => fill(&sqlite::open(folder.path()).await).await,
        }
    });
    folder
}

async fn filled(folder: &Path) -> (Store, EpochBackend) {
    let store = Store::open(folder, Options::default()).expect("opened");
    let line = SecretText::from("79001234567");
    let next = NewLink {
        line: line.clone(),
        intended: line,
        now: NOW * 1000,
    };
    let wiped = store.replace_link("salon", None, Some(next), Vec::new());
    let begun = wiped.await.expect("begun").link.expect("a link");
    let backend = store.backend("salon", begun.epoch);
    fill(&backend).await;
    (store, backend)
}

async fn fill(backend: &impl Backend) {
    backend.create().await.expect("created");
    let keys: Vec<_> = (1..=PRE_KEYS).map(|id| (id, record(id, 100))).collect();
    let stored = backend.store_prekeys_batch(&keys, true).await;
    stored.expect("stored");
    let sessions: Vec<_> = (0..CONTACTS)
        .map(|contact| (address(contact), record(contact, SESSION)))
        .collect();
    let stored = backend.put_sessions_batch(&sessions).await;
    stored.expect("stored");
    let identities: Vec<_> = (0..CONTACTS).map(|c| (address(c), [7; 32])).collect();
    let stored = backend.put_identities_batch(&identities).await;
    stored.expect("stored");
    let mappings: Vec<_> = (0..CONTACTS)
        .map(|contact| LidPnMappingEntry {
            lid: format!("1000000{contact:08}"),
            phone_number: format!("7900{contact:07}"),
            created_at: NOW,
            updated_at: NOW,
            learning_source: "usync".to_owned(),
        })
        .collect();
    let stored = backend.put_lid_mappings(&mappings).await;
    stored.expect("stored");
    let lists = (0..CONTACTS)
        .map(|contact| DeviceListRecord {
            user: format!("7900{contact:07}"),
            devices: vec![DeviceInfo::new(0, None), DeviceInfo::new(7, Some(1))],
            timestamp: NOW,
            phash: None,
            raw_id: Some(contact),
        })
        .collect();
    let stored = backend.update_device_lists(lists).await;
    stored.expect("stored");
    let secrets = (0..MESSAGES)
        .map(|message| MsgSecretEntry {
            chat: format!("7900{:07}@s.whatsapp.net", message % CONTACTS).into(),
            sender: format!("7900{:07}@s.whatsapp.net", message % CONTACTS).into(),
            msg_id: format!("3EB0{message:016X}").into(),
            secret: [9; 32],
            expires_at: NOW + i64::from(message),
            message_ts: NOW,
        })
        .collect();
    let stored = backend.put_msg_secrets(secrets).await;
    stored.expect("stored");
    for contact in 0..CONTACTS / 10 {
        let token = TcTokenEntry {
            token: record(contact, 32).to_vec(),
            token_timestamp: NOW,
            sender_timestamp: None,
        };
        let jid = format!("7900{contact:07}@s.whatsapp.net");
        let stored = backend.put_tc_token(&jid, &token).await;
        stored.expect("stored");
    }
}

async fn write_for_ever(backend: &impl SignalStore) {
    for write in 0_u32.. {
        if write == 100 {
            println!("writing");
        }
        let row = record(write, SESSION);
        let stored = backend.put_session(&address(write % CONTACTS), &row).await;
        stored.expect("stored");
    }
}
