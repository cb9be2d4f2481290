//! Owns what a backup carries, how it is taken from a store that goes on working, and how it is read again.
//!
//! It carries what a salon cannot make anew: slots, links, the device with its identity, signed pre-keys, app-state
//! keys, which hidden id is which number, settings and the journal. It must never carry Signal sessions or sender keys
//! (an old ratchet would use message keys twice), one-time pre-keys (a used one would be offered again), messages, or
//! the budget. Logins stay behind as well: one that was ended since would come back.

use std::sync::Arc;

use whatsapp_rust::traits::{AppStateSyncKey, LidPnMappingEntry};
use whatsapp_rust::wacore::store::Device;
use zeroize::Zeroizing;

use super::birth::LAYOUT;
use super::envelope::{self, BackupKey, BackupWay, Envelope};
use super::error::{BackupError, StoreError};
use super::journal::JournalEntry;
use super::links::{self, LinkRow};
use super::record::{self, BackupHeadRecord, BackupPartRecord, SessionRecord};
use super::restore::Backup;
use super::rows::{app_sync, device, lid, prekeys};
use super::tables::{Family, House, Table};
use super::tx::{Reader, Rows};
use super::{SESSIONS, SETTINGS, Store};

const LINKS: Table = Table::House(House::Links);
const JOURNAL: Table = Table::House(House::Journal);
const META: Table = Table::House(House::Meta);
/// Settings that are good only where they were made.
const LEFT_BEHIND: [&[u8]; 1] = [b"logins"];

/// What a part is. The numbers are the file's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    /// Name: the slot's id.
    Session = 1,
    /// Session: which one. Before everything else of it.
    Link = 2,
    /// Name: the setting's.
    Setting = 3,
    /// Name: its number.
    Journal = 4,
    /// Session: which one, as for all that follow.
    Device = 5,
    /// Name: its id, big endian.
    SignedPreKey = 6,
    /// Name: its id.
    SyncKey = 7,
    /// Name: the id of the one that was set last.
    LatestSyncKey = 8,
    /// Both names are in its record.
    LidMapping = 9,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Session,
        Self::Link,
        Self::Setting,
        Self::Journal,
        Self::Device,
        Self::SignedPreKey,
        Self::SyncKey,
        Self::LatestSyncKey,
        Self::LidMapping,
    ];
}

/// One link of a backup, with everything of it.
pub(super) struct LinkPart {
    pub(super) session: String,
    pub(super) row: LinkRow,
    pub(super) device: Option<Device>,
    pub(super) signed_pre_keys: Vec<(u32, Vec<u8>)>,
    pub(super) sync_keys: Vec<(Vec<u8>, AppStateSyncKey)>,
    pub(super) latest_sync_key: Option<Vec<u8>>,
    pub(super) lids: Vec<LidPnMappingEntry>,
}

impl Store {
    /// One consistent file of everything that a backup carries, sealed. Writes go on meanwhile. Blocking, and long
    /// with a passphrase: not for a request's thread.
    ///
    /// # Errors
    /// When the store cannot be read, or a row of it is damaged.
    pub fn backup(&self, key: &BackupKey, now: i64) -> Result<Vec<u8>, StoreError> {
        let plain = self.read_long(|rows| pack(rows, now))?;
        envelope::seal(key, &plain)
    }
}

/// Everything of one moment.
fn pack(rows: &Reader<'_>, now: i64) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let next_epoch = rows
        .get(META, b"next_epoch")?
        .and_then(|bytes| bytes.try_into().ok())
        .map(u64::from_be_bytes)
        .ok_or(StoreError::Damaged)?;
    let mut parts = Parts::default();
    parts.push(&record::encode(&BackupHeadRecord {
        made_at: now,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        layout: LAYOUT,
        next_epoch,
    })?)?;
    for (id, value) in rows.all(SESSIONS)? {
        record::decode::<SessionRecord>(&value)?;
        parts.part(Kind::Session, "", id, value)?;
    }
    for (name, value) in rows.all(SETTINGS)? {
        if !LEFT_BEHIND.contains(&name.as_slice()) {
            parts.part(Kind::Setting, "", name, value)?;
        }
    }
    for (number, value) in rows.all(JOURNAL)? {
        JournalEntry::decode(&value)?;
        parts.part(Kind::Journal, "", number, value)?;
    }
    for (id, value) in rows.all(LINKS)? {
        let session = String::from_utf8(id).map_err(|_| StoreError::Damaged)?;
        let link = links::decode(&value)?;
        let scope = rows
            .fence(&session, link.epoch)
            .map_err(|_| StoreError::Damaged)?;
        parts.part(Kind::Link, &session, Vec::new(), value)?;
        // A device under another name does not open there: it is not quietly left out.
        rows.all(Table::Of(link.epoch, Family::Device))?;
        if let Some(device) = device::load(rows, &scope)? {
            let mut encoded = device::encode(&device)?;
            let encoded = std::mem::take(&mut *encoded);
            parts.part(Kind::Device, &session, Vec::new(), encoded)?;
        }
        for (id, key) in prekeys::all_signed(rows, &scope)? {
            parts.part(Kind::SignedPreKey, &session, id.to_be_bytes().to_vec(), key)?;
        }
        for (id, key) in app_sync::all_keys(rows, &scope)? {
            let value = app_sync::encode_key(&id, &key)?;
            parts.part(Kind::SyncKey, &session, id, value)?;
        }
        if let Some(id) = app_sync::latest_key_id(rows, &scope)? {
            parts.part(Kind::LatestSyncKey, &session, id, Vec::new())?;
        }
        for entry in lid::all_in_order(rows, &scope)? {
            parts.part(Kind::LidMapping, &session, Vec::new(), lid::encode(&entry)?)?;
        }
    }
    Ok(parts.joined())
}

/// Records, each led by its length.
#[derive(Default)]
struct Parts(Vec<Zeroizing<Vec<u8>>>);

impl Parts {
    fn part(
        &mut self,
        kind: Kind,
        session: &str,
        name: Vec<u8>,
        value: Vec<u8>,
    ) -> Result<(), StoreError> {
        let mut part = BackupPartRecord {
            kind: kind as u8,
            session: session.to_owned(),
            name,
            value,
        };
        let encoded = record::encode(&part).map(Zeroizing::new);
        zeroize::Zeroize::zeroize(&mut part.value);
        self.push(&encoded?)
    }

    fn push(&mut self, encoded: &[u8]) -> Result<(), StoreError> {
        let length = u32::try_from(encoded.len()).map_err(|_| StoreError::TooLarge)?;
        self.0.push(Zeroizing::new(
            [&length.to_be_bytes()[..], encoded].concat(),
        ));
        Ok(())
    }

    fn joined(self) -> Zeroizing<Vec<u8>> {
        // Of its final size from the start: growing would leave copies behind.
        let mut all = Zeroizing::new(Vec::with_capacity(
            self.0.iter().map(|part| part.len()).sum(),
        ));
        for part in self.0 {
            all.extend_from_slice(&part);
        }
        all
    }
}

impl Backup {
    /// What opens a file, if it is a backup at all.
    ///
    /// # Errors
    /// When it is foreign, newer, or its header is damaged.
    pub fn way(file: &[u8]) -> Result<BackupWay, BackupError> {
        Ok(Envelope::read(file)?.way())
    }

    /// Opens a file and reads all of it: after this nothing in it can surprise. Takes a moment with a passphrase.
    ///
    /// # Errors
    /// When it is not a whole backup of this version or an older one, or the key is another.
    pub fn open(file: &[u8], key: &BackupKey) -> Result<Self, BackupError> {
        unpack(&Envelope::read(file)?.open(key)?)
    }
}

/// What was sealed was written by us; whatever does not read is a newer layout, or damage from before the sealing.
fn unpack(plain: &[u8]) -> Result<Backup, BackupError> {
    let damaged = |_: StoreError| BackupError::Damaged;
    let mut records = Records(plain);
    let head: BackupHeadRecord =
        record::decode(records.next()?.ok_or(BackupError::Damaged)?).map_err(damaged)?;
    if head.layout > LAYOUT {
        return Err(BackupError::Newer(head.layout));
    }
    let mut backup = Backup::new(&head);
    while let Some(bytes) = records.next()? {
        let part: BackupPartRecord = record::decode(bytes).map_err(damaged)?;
        let kind = Kind::ALL
            .into_iter()
            .find(|&kind| kind as u8 == part.kind)
            .ok_or(BackupError::Damaged)?;
        add(&mut backup, kind, part).map_err(damaged)?;
    }
    Ok(backup)
}

fn add(backup: &mut Backup, kind: Kind, part: BackupPartRecord) -> Result<(), StoreError> {
    let BackupPartRecord {
        session,
        name,
        value,
        ..
    } = part;
    match kind {
        Kind::Session => {
            let record: SessionRecord = record::decode(&value)?;
            let id = String::from_utf8(name).map_err(|_| StoreError::Damaged)?;
            backup.sessions.push((id, record));
            return Ok(());
        }
        Kind::Setting => {
            backup.settings.push((name, value));
            return Ok(());
        }
        Kind::Journal => {
            JournalEntry::decode(&value)?;
            let number = name.try_into().map_err(|_| StoreError::Damaged)?;
            backup.journal.push((number, value));
            return Ok(());
        }
        Kind::Link => {
            if backup.links.iter().any(|link| link.session == session) {
                return Err(StoreError::Damaged);
            }
            backup.links.push(Arc::new(LinkPart {
                session,
                row: links::decode(&value)?,
                device: None,
                signed_pre_keys: Vec::new(),
                sync_keys: Vec::new(),
                latest_sync_key: None,
                lids: Vec::new(),
            }));
            return Ok(());
        }
        _ => {}
    }
    let link = backup
        .links
        .iter_mut()
        .find(|link| link.session == session)
        .and_then(Arc::get_mut)
        .ok_or(StoreError::Damaged)?;
    match kind {
        Kind::Device => link.device = Some(device::decode(&Zeroizing::new(value))?),
        Kind::SignedPreKey => {
            let id = name.try_into().map_err(|_| StoreError::Damaged)?;
            link.signed_pre_keys.push((u32::from_be_bytes(id), value));
        }
        Kind::SyncKey => link.sync_keys.push(app_sync::decode_key(&value)?),
        Kind::LatestSyncKey => link.latest_sync_key = Some(name),
        Kind::LidMapping => link.lids.push(lid::decode(&value)?),
        Kind::Session | Kind::Setting | Kind::Journal | Kind::Link => {
            unreachable!("handled above")
        }
    }
    Ok(())
}

/// Reads what [`Parts`] wrote.
struct Records<'p>(&'p [u8]);

impl<'p> Records<'p> {
    fn next(&mut self) -> Result<Option<&'p [u8]>, BackupError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let (length, rest) = self
            .0
            .split_first_chunk::<4>()
            .ok_or(BackupError::Damaged)?;
        let length = u32::from_be_bytes(*length) as usize;
        if length > rest.len() {
            return Err(BackupError::Damaged);
        }
        let (record, rest) = rest.split_at(length);
        self.0 = rest;
        Ok(Some(record))
    }
}
