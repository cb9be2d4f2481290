//! Owns what WhatsApp knows: accounts, their linked companions, pending codes, QR refs, live connections.
//! No network and no waiting in here: everything happens under one short lock.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Notify, mpsc, oneshot};
use wacore_libsignal::protocol::KeyPair;

use crate::fault::{Fault, Kick};
use crate::phone::EnterCodeError;
use crate::signal::{Peer, SelfKeys};

#[derive(Default)]
pub(crate) struct World {
    /// By the number as WhatsApp reports it.
    accounts: HashMap<String, Account>,
    /// A number people type → the number WhatsApp reports.
    aliases: HashMap<String, String>,
    /// By reported number: one code at a time, the newest.
    pub(crate) pending: HashMap<String, Pending>,
    /// By ref.
    pub(crate) refs: HashMap<String, QrRef>,
    pub(crate) conns: HashMap<u64, Handle>,
    /// By reported number: when codes were asked for, refused or not.
    pub(crate) hellos: HashMap<String, Vec<Instant>>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) last_conn: u64,
}

/// A WhatsApp account: a phone.
pub(crate) struct Account {
    pub(crate) lid: String,
    pub(crate) keys: SelfKeys,
    pub(crate) name: String,
    pub(crate) devices: BTreeMap<u16, Device>,
    next_device: u16,
    pub(crate) next_key_index: u32,
    /// What the account shares with its companions: id and data of its app-state key.
    pub(crate) app_state_key: ([u8; 6], [u8; 32]),
}

/// A linked companion, as the server knows it.
pub(crate) struct Device {
    pub(crate) key_index: u32,
    pub(crate) platform: String,
    pub(crate) linked: u64,
    /// What it logs in with.
    pub(crate) noise: [u8; 32],
    pub(crate) identity: [u8; 32],
    pub(crate) registration: u32,
    pub(crate) signed: SignedPreKey,
    pub(crate) signed_identity: Vec<u8>,
    pub(crate) pre_keys: VecDeque<(u32, [u8; 32])>,
    pub(crate) key_shared: bool,
    /// The connection it is logged in on.
    pub(crate) conn: Option<u64>,
    /// The phone's Signal session with it.
    pub(crate) peer: Peer,
}

#[derive(Clone)]
pub(crate) struct SignedPreKey {
    pub(crate) id: u32,
    pub(crate) public: [u8; 32],
    pub(crate) signature: Vec<u8>,
}

/// A code somebody may type.
pub(crate) struct Pending {
    pub(crate) conn: u64,
    pub(crate) reference: Vec<u8>,
    pub(crate) wrapped: [u8; 80],
    pub(crate) asked: Instant,
    pub(crate) tries: u32,
    /// The connection that asked has gone: the code is dead.
    pub(crate) gone: bool,
}

/// A QR ref somebody may scan.
pub(crate) struct QrRef {
    pub(crate) conn: u64,
    pub(crate) until: Instant,
    pub(crate) noise: [u8; 32],
    pub(crate) identity: [u8; 32],
}

/// How others reach a connection's task.
pub(crate) struct Handle {
    pub(crate) orders: mpsc::UnboundedSender<Order>,
    /// Cuts it, whatever it is doing.
    pub(crate) cut: Arc<Notify>,
    /// Which companion is logged in on it.
    pub(crate) login: Option<(String, u16)>,
    /// The number it asked a code for, granted or not.
    pub(crate) asked: Option<String>,
}

/// What others ask of a connection's task.
pub(crate) enum Order {
    PrimaryHello(PrimaryHello),
    PairSuccess(Box<PairSuccess>),
    Message {
        id: String,
        stanza: wacore_binary::Node,
    },
    Kick(Kick),
}

/// The phone's half of a pairing by code, to be passed on.
pub(crate) struct PrimaryHello {
    pub(crate) number: String,
    pub(crate) reference: Vec<u8>,
    pub(crate) wrapped: [u8; 80],
    pub(crate) identity: [u8; 32],
    /// Gets the companion's half. Dropped when the connection ends.
    pub(crate) finish: oneshot::Sender<Finish>,
    /// Told as soon as it was sent.
    pub(crate) sent: oneshot::Sender<()>,
}

/// The companion's half of a pairing by code.
pub(crate) struct Finish {
    pub(crate) bundle: [u8; 156],
    pub(crate) identity: [u8; 32],
}

/// The phone accepts a companion.
pub(crate) struct PairSuccess {
    pub(crate) number: String,
    pub(crate) key_index: u32,
    /// What the account signed, and its signature.
    pub(crate) details: Vec<u8>,
    pub(crate) account_signature: Vec<u8>,
    pub(crate) account_key: [u8; 32],
    /// The `ADVSignedDeviceIdentityHMAC`.
    pub(crate) container: Vec<u8>,
    /// Gets the new companion's id once the link is recorded. Dropped when the connection ends before.
    pub(crate) done: oneshot::Sender<Result<u16, EnterCodeError>>,
}

impl World {
    /// The number WhatsApp reports for a typed one.
    pub(crate) fn reported(&self, typed: &str) -> String {
        self.aliases
            .get(typed)
            .cloned()
            .unwrap_or_else(|| typed.to_owned())
    }

    pub(crate) fn alias(&mut self, typed: &str, reported: &str) {
        self.aliases.insert(typed.to_owned(), reported.to_owned());
    }

    /// The account of a reported number, made on first use.
    pub(crate) fn account(&mut self, number: &str) -> &mut Account {
        self.accounts
            .entry(number.to_owned())
            .or_insert_with(|| Account::new(number))
    }

    pub(crate) fn known_account(&mut self, number: &str) -> Option<&mut Account> {
        self.accounts.get_mut(number)
    }

    pub(crate) fn device(&mut self, number: &str, id: u16) -> Option<&mut Device> {
        self.accounts.get_mut(number)?.devices.get_mut(&id)
    }

    pub(crate) fn accounts(&self) -> impl Iterator<Item = (&String, &Account)> {
        self.accounts.iter()
    }

    /// The credentials of a companion are dead from now on. Whether they were alive.
    pub(crate) fn unlink(&mut self, number: &str, id: u16) -> bool {
        self.accounts
            .get_mut(number)
            .is_some_and(|account| account.devices.remove(&id).is_some())
    }

    /// A connection has ended: its codes and refs are dead, nobody is logged in on it.
    pub(crate) fn forget_conn(&mut self, conn: u64) {
        self.refs.retain(|_, qr| qr.conn != conn);
        for pending in self.pending.values_mut().filter(|p| p.conn == conn) {
            pending.gone = true;
        }
        if let Some((number, id)) = self.conns.remove(&conn).and_then(|handle| handle.login)
            && let Some(device) = self.device(&number, id)
            && device.conn == Some(conn)
        {
            device.conn = None;
        }
    }
}

impl Account {
    fn new(number: &str) -> Self {
        Self {
            // Unique as the number is, and different from it.
            lid: format!("1{}", number.chars().rev().collect::<String>()),
            keys: SelfKeys::generate(),
            name: "Simulated salon".to_owned(),
            devices: BTreeMap::new(),
            next_device: 1,
            next_key_index: 1,
            app_state_key: (rand::random(), rand::random()),
        }
    }

    pub(crate) fn identity(&self) -> &KeyPair {
        &self.keys.identity
    }

    /// Records a link. Ids are never used twice.
    pub(crate) fn link(&mut self, device: Device) -> u16 {
        let id = self.next_device_id();
        self.next_device += 1;
        self.devices.insert(id, device);
        id
    }

    pub(crate) fn next_device_id(&self) -> u16 {
        self.next_device
    }
}
