//! Owns bringing a backup back: a new store with new keys is made beside the old one, verified, and put in its place.
//! Whatever fails before that leaves the old store as it was.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use whatsapp_rust::wacore::store::Device;

use super::aside::{self, Alone, Step};
use super::backup::LinkPart;
use super::error::{Flaw, OpenError, RestoreError, StoreError};
use super::journal::{JournalEntry, JournalWhat};
use super::keys::{self, WrappingKey};
use super::links;
use super::record::{self, BackupHeadRecord, SessionRecord};
use super::rows::{app_sync, device, lid, prekeys};
use super::tables::{House, Table};
use super::tx::{Rows, Writer};
use super::{Epoch, Options, SESSIONS, SETTINGS, Store};

const META: Table = Table::House(House::Meta);
const JOURNAL: Table = Table::House(House::Journal);

/// The largest id of a one-time pre-key: they have 24 bits.
const LAST_PRE_KEY: u64 = (1 << 24) - 1;
/// How far from the old ids the new ones begin, at least and at most: uploads of many years.
const PRE_KEYS_APART: std::ops::Range<u64> = (1 << 16)..(1 << 23);

/// A backup that was read whole; nothing is stored yet.
pub struct Backup {
    made_at: i64,
    program: String,
    next_epoch: u64,
    pub(super) sessions: Vec<(String, SessionRecord)>,
    pub(super) settings: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) journal: Vec<([u8; 8], Vec<u8>)>,
    pub(super) links: Vec<Arc<LinkPart>>,
}

/// A backup that was brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// How many slots it had.
    pub sessions: usize,
    /// How many links.
    pub links: usize,
    /// What the old files are called now.
    pub aside: Vec<PathBuf>,
}

impl Backup {
    pub(super) fn new(head: &BackupHeadRecord) -> Self {
        Self {
            made_at: head.made_at,
            program: head.program.clone(),
            next_epoch: head.next_epoch,
            sessions: Vec::new(),
            settings: Vec::new(),
            journal: Vec::new(),
            links: Vec::new(),
        }
    }

    /// When it was made, in Unix milliseconds.
    #[must_use]
    pub fn made_at(&self) -> i64 {
        self.made_at
    }

    /// Which version of the program made it.
    #[must_use]
    pub fn program(&self) -> &str {
        &self.program
    }

    /// Puts it in the place of a folder's store, which is set aside. Blocking.
    ///
    /// # Errors
    /// When the store is in use, or the new one cannot be made; the old one is then as it was.
    pub async fn restore(
        self,
        folder: &Path,
        wrapping: Option<WrappingKey>,
        now: i64,
    ) -> Result<Restored, RestoreError> {
        self.restore_watched(folder, wrapping, now, &mut |_| {})
            .await
    }

    async fn restore_watched(
        self,
        folder: &Path,
        wrapping: Option<WrappingKey>,
        now: i64,
        after: &mut dyn FnMut(Step),
    ) -> Result<Restored, RestoreError> {
        if !folder.exists() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(OpenError::Io)?;
        }
        let first_epoch = self.next_epoch.max(beyond(folder, wrapping.as_ref())?);
        let alone = Alone::take(folder)?;
        let (sessions, links) = (self.sessions.len(), self.links.len());
        let building = aside::build_in(folder).map_err(OpenError::Io)?;
        let made = match self.build(&building, wrapping, first_epoch, now).await {
            Ok(()) => aside::put_in_place(folder, &alone, now, after).map_err(OpenError::Io),
            Err(error) => Err(error),
        };
        match made {
            Ok(aside) => Ok(Restored {
                sessions,
                links,
                aside,
            }),
            Err(error) => {
                // What was decided is finished, what was not is forgotten; the next opening tries again.
                let _ = aside::settle(folder);
                Err(error.into())
            }
        }
    }

    /// Makes the new store in a folder of its own.
    async fn build(
        self,
        folder: &Path,
        wrapping: Option<WrappingKey>,
        first_epoch: u64,
        now: i64,
    ) -> Result<(), OpenError> {
        let options = Options {
            wrapping_key: wrapping,
            ..Options::default()
        };
        let entries = self.entries(now);
        let store = Store::open(folder, options.clone())?;
        let written = store.write(move |writer| self.house(writer, first_epoch));
        let links = match written.await {
            Ok(links) => links,
            Err(error) => return fail(&store, error).await,
        };
        // Opened again it gives out epochs from there on.
        store.close().await;
        let store = Store::open(folder, options)?;
        for link in links {
            let brought = store.submit(true, move |writer, epoch| {
                bring(writer, &link, epoch.ok_or(StoreError::Damaged)?)
            });
            if let Err(error) = brought.await {
                return fail(&store, error).await;
            }
        }
        if let Err(error) = store.append_journal(entries).await {
            return fail(&store, error).await;
        }
        let verified = store.verify();
        store.close().await;
        match verified {
            Ok(_) => Ok(()),
            Err(Flaw::Store(error)) => Err(io(error)),
            Err(flaw) => Err(OpenError::Io(std::io::Error::other(flaw.to_string()))),
        }
    }

    /// Everything outside the links; the links, which get their epochs one after another.
    fn house(
        &self,
        writer: &Writer<'_>,
        first_epoch: u64,
    ) -> Result<Vec<Arc<LinkPart>>, StoreError> {
        writer.put(META, b"next_epoch", &first_epoch.to_be_bytes())?;
        let sessions = self
            .sessions
            .iter()
            .map(|(id, session)| Ok((id.as_bytes(), record::encode(session)?)))
            .collect::<Result<Vec<_>, StoreError>>()?;
        writer.put_all(SESSIONS, sessions)?;
        writer.put_all(
            SETTINGS,
            self.settings.iter().map(|(name, value)| (name, value)),
        )?;
        writer.put_all(
            JOURNAL,
            self.journal.iter().map(|(name, value)| (name, value)),
        )?;
        Ok(self.links.iter().map(Arc::clone).collect())
    }

    /// What the journal says of it: one entry a slot.
    fn entries(&self, now: i64) -> Vec<JournalEntry> {
        self.sessions
            .iter()
            .map(|(session, _)| {
                let link = self.links.iter().find(|link| link.session == *session);
                let row = link.map(|link| &link.row);
                let age = row.and_then(|row| u64::try_from((now - row.created_at) / 1000).ok());
                JournalEntry {
                    phone: row.map(super::LinkRow::masked),
                    by: Some("terminal".to_owned()),
                    was_linked: row.map(|row| row.linked.is_some()),
                    credential_age_seconds: age,
                    last_connected: row.and_then(|row| row.last_connected),
                    ..JournalEntry::new(now, session, JournalWhat::Restored)
                }
            })
            .collect()
    }
}

/// Closes what was being made, so that it can be taken away.
async fn fail(store: &Store, error: StoreError) -> Result<(), OpenError> {
    store.close().await;
    Err(io(error))
}

fn io(error: StoreError) -> OpenError {
    OpenError::Io(std::io::Error::other(error))
}

/// One link under its new epoch, whose keys are fresh.
fn bring(writer: &Writer<'_>, part: &LinkPart, epoch: Epoch) -> Result<(), StoreError> {
    let mut row = part.row.clone();
    row.epoch = epoch;
    row.restored = true;
    links::bring_in(writer, &part.session, &row)?;
    let scope = writer.fence(&part.session, epoch)?;
    if let Some(device) = &part.device {
        let device = anew(device.clone())?;
        device::save(writer, &scope, &device::encode(&device)?)?;
    }
    for (id, key) in &part.signed_pre_keys {
        prekeys::put_signed(writer, &scope, *id, key)?;
    }
    for (id, key) in &part.sync_keys {
        app_sync::set_key(writer, &scope, id, key)?;
    }
    if let Some(id) = &part.latest_sync_key {
        app_sync::set_latest(writer, &scope, id)?;
    }
    lid::put(writer, &scope, &part.lids)
}

/// A device whose one-time pre-keys are gone.
///
/// WhatsApp still offers those that were uploaded, before the backup and after it. The library uploads new ones at
/// the next login while it thinks that the server has none, and begins a window of its own where none is open; their
/// ids begin far from every old one, elsewhere with every restore, so that no old key is ever taken for a new one:
/// whoever still uses an old one is asked to begin anew. The signed pre-key goes up with them.
fn anew(mut device: Device) -> Result<Device, StoreError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|_| StoreError::Disk)?;
    let apart = PRE_KEYS_APART.start
        + u64::from_le_bytes(random) % (PRE_KEYS_APART.end - PRE_KEYS_APART.start);
    let next = (u64::from(device.next_pre_key_id) + apart) % LAST_PRE_KEY + 1;
    device.next_pre_key_id = u32::try_from(next).map_err(|_| StoreError::Damaged)?;
    device.first_unupload_pre_key_id = 0;
    device.server_has_prekeys = false;
    // Where to connect and whom to trust there are learnt anew: what was known then may be long gone.
    device.edge_routing_info = None;
    device.server_cert_chain = None;
    Ok(device)
}

/// An epoch above all that were ever given out in a folder, as far as that can still be read there.
fn beyond(folder: &Path, wrapping: Option<&WrappingKey>) -> Result<u64, OpenError> {
    let told = match Store::look(folder, wrapping.cloned()) {
        Ok(store) => store
            .read(|rows| rows.get(META, b"next_epoch"))
            .ok()
            .flatten()
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u64::from_be_bytes),
        Err(OpenError::InUse) => return Err(OpenError::InUse),
        Err(_) => 0,
    };
    let blocks = fs::read(aside::key_file(folder)).unwrap_or_default();
    Ok(keys::epochs_in(&blocks)
        .map(|epoch| epoch.0.saturating_add(1))
        .fold(told, u64::max))
}
