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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{BackupKey, LinkRow, NewLink, birth};

    fn key() -> BackupKey {
        BackupKey::Credential(WrappingKey::from_credential(&[7; 32]))
    }

    /// A store whose one link is of this number.
    async fn store_of(folder: &Path, number: &str) -> Store {
        let store = Store::open(folder, Options::default()).expect("opened");
        store.put_session("salon", "Salon", 1).await.expect("added");
        let next = NewLink {
            line: number.into(),
            intended: number.into(),
            now: 1,
        };
        store
            .replace_link("salon", None, Some(next), vec![])
            .await
            .expect("opened");
        store
    }

    /// What a power cut at this moment leaves.
    fn image(folder: &Path) -> tempfile::TempDir {
        fn copy(from: &Path, to: &Path) {
            for entry in fs::read_dir(from).expect("a folder") {
                let entry = entry.expect("an entry");
                let to = to.join(entry.file_name());
                if entry.path().is_dir() {
                    fs::create_dir(&to).expect("made");
                    copy(&entry.path(), &to);
                } else {
                    fs::copy(entry.path(), to).expect("copied");
                }
            }
        }
        let image = tempfile::tempdir().expect("a folder");
        copy(folder, image.path());
        image
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| {
                let entry = entry.expect("an entry");
                entry.file_name().to_string_lossy().into_owned()
            })
            .collect();
        names.sort();
        names
    }

    fn link_in(store: &Store) -> LinkRow {
        store.link("salon").expect("read").expect("a link")
    }

    #[tokio::test]
    async fn a_cut_at_any_step_of_a_restore_leaves_the_old_store_or_the_new_one_whole() {
        let source = tempfile::tempdir().expect("a folder");
        let store = store_of(source.path(), "79001234567").await;
        let sealed = store.backup(&key(), 5).expect("a backup");
        store.close().await;
        let folder = tempfile::tempdir().expect("a folder");
        store_of(folder.path(), "79007654321").await.close().await;
        let old_epoch = {
            let looked = Store::look(folder.path(), None).expect("looked");
            link_in(&looked).epoch
        };

        let mut images = vec![(None, image(folder.path()))];
        let mut at_step = |step| images.push((Some(step), image(folder.path())));
        let backup = Backup::open(&sealed, &key()).expect("opened");
        backup
            .restore_watched(folder.path(), None, 9_000, &mut at_step)
            .await
            .expect("restored");
        let steps: Vec<_> = images.iter().filter_map(|(step, _)| *step).collect();
        assert_eq!(
            steps,
            [
                Step::Kept,
                Step::Ready,
                Step::Decided,
                Step::Paired,
                Step::Dated,
                Step::Dated,
                Step::Finished
            ]
        );
        for (step, image) in images {
            let is_new = !matches!(step, None | Some(Step::Kept | Step::Ready));
            let line = if is_new { "79001234567" } else { "79007654321" };
            // Looking finishes nothing, and sees the right pair.
            let before = names(image.path());
            let looked = Store::look(image.path(), None).expect("looked");
            assert_eq!(link_in(&looked).line.reveal(), line, "{step:?}");
            assert!(looked.verify().is_ok(), "{step:?}");
            assert_eq!(names(image.path()), before, "{step:?}");
            // The next start finishes what was decided, and forgets what was not.
            let store = Store::open(image.path(), Options::default()).expect("opened");
            let row = link_in(&store);
            assert_eq!(
                (row.line.reveal(), row.restored),
                (line, is_new),
                "{step:?}"
            );
            assert_eq!(row.epoch > old_epoch, is_new, "{step:?}");
            store.close().await;
            let left = names(image.path());
            assert_eq!(left.len(), if is_new { 4 } else { 2 }, "{step:?}: {left:?}");
            assert!(
                !left.iter().any(|name| name.contains("restore")),
                "{left:?}"
            );
            // And it can be done again.
            let backup = Backup::open(&sealed, &key()).expect("opened");
            let again = backup.restore(image.path(), None, 9_000).await;
            let again = again.expect("restored again");
            assert_eq!(again.aside.len(), 2, "{step:?}");
            let looked = Store::look(image.path(), None).expect("looked");
            assert_eq!(link_in(&looked).line.reveal(), "79001234567", "{step:?}");
        }
    }

    #[tokio::test]
    async fn a_restore_that_was_cut_short_is_finished_or_forgotten_by_the_next_restore_too() {
        let source = tempfile::tempdir().expect("a folder");
        let store = store_of(source.path(), "79001234567").await;
        let sealed = store.backup(&key(), 5).expect("a backup");
        store.close().await;
        let folder = tempfile::tempdir().expect("a folder");
        store_of(folder.path(), "79007654321").await.close().await;
        let mut images = Vec::new();
        let mut at_step = |_| images.push(image(folder.path()));
        let backup = Backup::open(&sealed, &key()).expect("opened");
        backup
            .restore_watched(folder.path(), None, 9_000, &mut at_step)
            .await
            .expect("restored");
        for image in images {
            let backup = Backup::open(&sealed, &key()).expect("opened");
            backup
                .restore(image.path(), None, 12_000)
                .await
                .expect("restored");
            // Whatever was set aside opens: no store has lost its keys, no keys their store.
            let dated: Vec<String> = names(image.path())
                .into_iter()
                .filter(|name| name.starts_with("hairpin.redb."))
                .collect();
            assert!(!dated.is_empty());
            for name in dated {
                let suffix = name.trim_start_matches("hairpin.redb.");
                let apart = tempfile::tempdir().expect("a folder");
                for file in [birth::FILE, keys::FILE] {
                    let from = image.path().join(format!("{file}.{suffix}"));
                    fs::copy(from, apart.path().join(file)).expect("both of a pair");
                }
                let looked = Store::look(apart.path(), None).expect("looked");
                assert!(looked.verify().is_ok(), "{name}");
            }
        }
    }

    #[tokio::test]
    async fn a_store_that_cannot_be_made_leaves_the_old_one_and_nothing_else() {
        let source = tempfile::tempdir().expect("a folder");
        let store = store_of(source.path(), "79001234567").await;
        let sealed = store.backup(&key(), 5).expect("a backup");
        store.close().await;
        let folder = tempfile::tempdir().expect("a folder");
        store_of(folder.path(), "79007654321").await.close().await;
        let before = names(folder.path());
        let mut backup = Backup::open(&sealed, &key()).expect("opened");
        // A setting that is no text: the new store does not pass its own check.
        backup.settings.push((vec![0xff], vec![]));
        let refused = backup.restore(folder.path(), None, 9_000).await;
        assert!(matches!(
            refused,
            Err(RestoreError::Store(OpenError::Io(_)))
        ));
        assert_eq!(names(folder.path()), before);
        let looked = Store::look(folder.path(), None).expect("looked");
        assert_eq!(link_in(&looked).line.reveal(), "79007654321");
    }

    #[test]
    fn new_pre_key_ids_stay_within_their_bits_wherever_the_old_ones_were() {
        for old in [0, 1, 813, 1 << 23, 16_777_214, 16_777_215, u32::MAX] {
            let mut device = Device::new();
            device.next_pre_key_id = old;
            let next = anew(device).expect("made").next_pre_key_id;
            assert!((1..=16_777_215).contains(&next), "{old} → {next}");
            let apart = (i64::from(next) - i64::from(old)).rem_euclid(16_777_215);
            assert!(apart >= 1 << 16, "{old} → {next}");
        }
    }
}
