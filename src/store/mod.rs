//! Owns the store: one redb file behind one writer thread, one key file beside it.
//! Every link of a session has an epoch; what is written under an epoch that is over is refused.

mod aside;
mod backend;
mod backup;
mod birth;
mod check;
mod envelope;
mod error;
mod journal;
mod keys;
mod links;
mod look;
mod overlay;
mod record;
mod restore;
mod rows;
mod seal;
mod tables;
mod tx;
mod writer;

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use redb::ReadableDatabase as _;
use tokio::sync::oneshot;

use record::SessionRecord;
use tables::{House, Table};
use tx::{KeyRing, Reader, Rows, Writer};
use writer::{Job, Shared};

pub use aside::Occupied;
pub(crate) use aside::dated;
pub use backend::EpochBackend;
pub(crate) use birth::FILE;
pub use check::{LinkReport, Report, SlotReport};
pub use envelope::{BackupKey, BackupWay};
pub use error::{BackupError, Flaw, OpenError, RestoreError, StoreError};
pub use journal::{JournalEntry, JournalWhat};
pub(crate) use keys::FILE as KEY_FILE;
pub use keys::WrappingKey;
pub use links::{Ended, EndedReason, Halted, HaltedReason, LinkRow, Linked, NewLink};
pub use look::Hold;
pub use restore::{Backup, Restored};

const SESSIONS: Table = Table::House(House::Sessions);
const SETTINGS: Table = Table::House(House::Settings);
const BUDGET: Table = Table::House(House::Budget);
/// How long a request counts against its number's budget, in milliseconds.
const HOUR_MS: i64 = 60 * 60 * 1000;

/// Names one link's rows, in the whole store and for ever: never given out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(u64);

impl Epoch {
    /// What belongs to no link.
    const HOUSE: Self = Self(0);
}

/// How the store is opened.
#[derive(Clone)]
pub struct Options {
    /// redb's cache, in bytes.
    pub cache_bytes: usize,
    /// The key that systemd gives, if it gives one.
    pub wrapping_key: Option<WrappingKey>,
    /// Make the store where there is none. Only the appliance itself does.
    pub create: bool,
    /// Told how long each durable commit took.
    pub on_commit: Option<Arc<dyn Fn(Duration) + Send + Sync>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 4 << 20,
            wrapping_key: None,
            create: true,
            on_commit: None,
        }
    }
}

/// A session's slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    /// Its id.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// When it was added, in Unix milliseconds.
    pub created_at: i64,
}

/// A wipe that is durable.
#[derive(Debug)]
pub struct Wiped {
    /// The new epoch's row, where one was opened.
    pub link: Option<LinkRow>,
    /// How long it took, the erasure of the old key included.
    pub took: Duration,
}

/// The open store. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    /// Unbounded: a writer waits for its answer, so what is queued is what is awaited.
    /// Taken away when the store is closed.
    jobs: Arc<RwLock<Option<mpsc::Sender<Job>>>>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Store {
    /// Opens the store in a folder, or makes it; blocking.
    ///
    /// # Errors
    /// Why it cannot be opened; the files are then as they were.
    pub fn open(folder: &Path, options: Options) -> Result<Self, OpenError> {
        let place = birth::Place {
            folder: folder.to_owned(),
            cache_bytes: options.cache_bytes,
        };
        // A restore or a start-over is not to be met half-way.
        let occupied = Occupied::take(folder)?;
        if folder.exists() {
            aside::settle(folder)?;
        }
        look::refuse_untouched(folder, options.wrapping_key.as_ref())?;
        let (database, mut keys) = birth::open(&place, options.wrapping_key, options.create)?;
        let next_epoch = settle(&database, &mut keys)?;
        if let Err(error) = keys.rotate() {
            tracing::warn!(%error, "some keys are not under the new credential yet; keep the old one until the next start");
        }
        drop(occupied);
        let ring: KeyRing = keys
            .epochs()
            .into_iter()
            .filter_map(|epoch| keys.get(epoch).map(|key| (epoch, key)))
            .collect();
        let shared = Arc::new(Shared {
            database: RwLock::new(Some(database)),
            keys: RwLock::new(ring),
            closed: AtomicBool::new(false),
            place,
            on_commit: options.on_commit,
        });
        let (jobs, queue) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || writer::run(&shared, keys, next_epoch, &queue)
            })?;
        Ok(Self {
            shared,
            jobs: Arc::new(RwLock::new(Some(jobs))),
            thread: Arc::new(Mutex::new(Some(thread))),
        })
    }

    /// Sets a folder's store and its keys aside under dated names, so that the next start begins empty; what they are
    /// called now. Blocking.
    ///
    /// # Errors
    /// When the store is in use, or not there.
    pub fn set_aside(folder: &Path, now: i64) -> Result<Vec<PathBuf>, OpenError> {
        aside::set_aside(folder, now)
    }

    /// Commits everything that is queued, then lets the file go. Later calls fail.
    pub async fn close(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.jobs
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A panic of the writer has been logged; there is nothing left to wait for.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    /// Whether the store can be read now.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), StoreError> {
        self.read(|rows| {
            rows.get(Table::House(House::Meta), b"next_epoch")
                .map(|_| ())
        })
    }

    /// The store's file.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.shared.place.folder.join(birth::FILE)
    }

    /// The size of the store's file in bytes; 0 if it cannot be seen.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        std::fs::metadata(self.file()).map_or(0, |file| file.len())
    }

    /// All slots.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn sessions(&self) -> Result<Vec<SessionRow>, StoreError> {
        self.read(|rows| {
            rows.all(SESSIONS)?
                .into_iter()
                .map(|(id, value)| {
                    let record: SessionRecord = record::decode(&value)?;
                    Ok(SessionRow {
                        id: String::from_utf8(id).map_err(|_| StoreError::Damaged)?,
                        name: record.name,
                        created_at: record.created_at,
                    })
                })
                .collect()
        })
    }

    /// Adds a slot or renames it; whether it was added.
    ///
    /// # Errors
    /// When the store cannot commit.
    pub async fn put_session(&self, id: &str, name: &str, now: i64) -> Result<bool, StoreError> {
        let (id, name) = (id.to_owned(), name.to_owned());
        self.write(move |writer| {
            let known = writer
                .get(SESSIONS, id.as_bytes())?
                .map(|value| record::decode::<SessionRecord>(&value))
                .transpose()?;
            let added = known.is_none();
            let record = SessionRecord {
                name: name.clone(),
                created_at: known.map_or(now, |known| known.created_at),
            };
            writer.put(SESSIONS, id.as_bytes(), &record::encode(&record)?)?;
            Ok(added)
        })
        .await
    }

    /// Removes a slot and its link, in one transaction.
    ///
    /// # Errors
    /// When the store cannot commit; everything is then as it was.
    pub async fn remove_session(
        &self,
        id: &str,
        journal: Vec<JournalEntry>,
    ) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.write(move |writer| {
            let epoch = writer.present_epoch(&id)?;
            links::replace(writer, &id, epoch, None, &journal)?;
            writer.delete(SESSIONS, id.as_bytes())?;
            Ok(())
        })
        .await
    }

    /// The link of a session: one row is read, nothing is parsed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn link(&self, session: &str) -> Result<Option<LinkRow>, StoreError> {
        self.read(|rows| links::read(rows, session))
    }

    /// Wipes the present link and opens the next epoch, or none; acknowledged once nothing of the old link
    /// can be read any more.
    ///
    /// # Errors
    /// [`StoreError::StaleEpoch`] when the present epoch is not `expected`; nothing is changed then.
    pub async fn replace_link(
        &self,
        session: &str,
        expected: Option<Epoch>,
        next: Option<NewLink>,
        journal: Vec<JournalEntry>,
    ) -> Result<Wiped, StoreError> {
        let started = Instant::now();
        let session = session.to_owned();
        let wants_epoch = next.is_some();
        let link_id = link_id()?;
        let link = self
            .submit(wants_epoch, move |writer, epoch| {
                let next = match (&next, epoch) {
                    (Some(next), Some(epoch)) => Some((next, epoch, link_id.as_str())),
                    _ => None,
                };
                links::replace(writer, &session, expected, next, &journal)
            })
            .await?;
        Ok(Wiped {
            link,
            took: started.elapsed(),
        })
    }

    /// Changes what is stored of a link, if it still is the one.
    ///
    /// # Errors
    /// [`StoreError::StaleEpoch`] when it is not.
    pub async fn update_link(
        &self,
        session: &str,
        epoch: Epoch,
        change: Box<dyn Fn(&mut LinkRow) + Send>,
        journal: Vec<JournalEntry>,
    ) -> Result<LinkRow, StoreError> {
        let session = session.to_owned();
        self.write(move |writer| links::update(writer, &session, epoch, &*change, &journal))
            .await
    }

    /// The rows of one link, as whatsapp-rust wants them.
    #[must_use]
    pub fn backend(&self, session: &str, epoch: Epoch) -> EpochBackend {
        EpochBackend::new(self.clone(), session, epoch)
    }

    /// Appends to the journal.
    ///
    /// # Errors
    /// When the store cannot commit.
    pub async fn append_journal(&self, entries: Vec<JournalEntry>) -> Result<(), StoreError> {
        self.write(move |writer| journal::append(writer, &entries))
            .await
    }

    /// The newest journal entries, of one session or of all.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn journal(
        &self,
        session: Option<&str>,
        limit: usize,
    ) -> Result<Vec<JournalEntry>, StoreError> {
        self.read(|rows| journal::newest(rows, session, limit))
    }

    /// A value outside any link.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn setting(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|rows| rows.get(SETTINGS, name.as_bytes()))
    }

    /// Keeps a value outside any link.
    ///
    /// # Errors
    /// When the store cannot commit.
    pub async fn put_setting(&self, name: &str, value: Vec<u8>) -> Result<(), StoreError> {
        let name = name.to_owned();
        self.write(move |writer| writer.put(SETTINGS, name.as_bytes(), &value))
            .await
    }

    /// Seconds until the line's hourly budget has room again; none when it has. A limit of 0 is no limit.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn budget_left(&self, line: &str, now: i64, limit: u32) -> Result<Option<u64>, StoreError> {
        if limit == 0 {
            return Ok(None);
        }
        self.read(|rows| {
            let name = rows.key(BUDGET)?.name(&[line.as_bytes()]);
            let mut spent: Vec<i64> = rows
                .prefixed(BUDGET, &name)?
                .into_iter()
                .filter_map(|(row, _)| moment(&row))
                // A clock that was set back must not lock anybody out for longer than an hour.
                .filter(|&at| at > now - HOUR_MS && at <= now + HOUR_MS)
                .collect();
            spent.sort_unstable();
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            if spent.len() < limit {
                return Ok(None);
            }
            let frees = spent[spent.len() - limit] + HOUR_MS - now;
            let seconds = u64::try_from(frees.clamp(1, HOUR_MS))
                .unwrap_or(1)
                .div_ceil(1000);
            Ok(Some(seconds))
        })
    }

    /// Counts one request that goes out to WhatsApp, and forgets those older than an hour.
    ///
    /// # Errors
    /// When the store cannot commit.
    pub async fn budget_record(&self, line: &str, now: i64) -> Result<(), StoreError> {
        let line = line.to_owned();
        self.write(move |writer| {
            let name = writer.key(BUDGET)?.name(&[line.as_bytes()]);
            let old: Vec<Vec<u8>> = writer
                .raw_range(
                    &BUDGET.name(),
                    (Bound::Unbounded, Bound::Unbounded),
                    usize::MAX,
                    false,
                )?
                .into_iter()
                .map(|(row, _)| row)
                .filter(|row| moment(row).is_none_or(|at| at <= now - HOUR_MS))
                .collect();
            writer.delete_all(BUDGET, &old)?;
            // Two requests within a millisecond are two rows.
            let mut at = now;
            let row = loop {
                let row = [&name[..], &at.to_be_bytes()].concat();
                if !writer.has(BUDGET, &row)? {
                    break row;
                }
                at += 1;
            };
            writer.put(BUDGET, &row, &[])
        })
        .await
    }

    /// Reads in one short transaction.
    fn read<T>(
        &self,
        read: impl FnOnce(&Reader<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.shared.closed.load(Ordering::SeqCst) {
            return Err(StoreError::Closed);
        }
        let database = self
            .shared
            .database
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or(StoreError::Disk)?;
        let keys = self
            .shared
            .keys
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        read(&Reader::new(database, &keys)?)
    }

    /// Reads for longer than a moment. Commits and wipes go on meanwhile: only the sweep after a wipe waits, as it
    /// does for every reader, because redb compacts a file that nobody reads.
    fn read_long<T>(
        &self,
        read: impl FnOnce(&Reader<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.shared.closed.load(Ordering::SeqCst) {
            return Err(StoreError::Closed);
        }
        let database = self
            .shared
            .database
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or(StoreError::Disk)?;
        // The keys and the transaction are of one moment: whatever the transaction names has its key among these.
        let (transaction, keys) = {
            let keys = self
                .shared
                .keys
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            (database.begin_read()?, keys.clone())
        };
        read(&Reader::over(transaction, &keys))
    }

    /// Writes; resolves once it is durable. The work may run twice, so it takes nothing out of its captures.
    async fn write<T: Send + 'static>(
        &self,
        mut work: impl FnMut(&Writer<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.submit(false, move |writer, _| work(writer)).await
    }

    async fn submit<T: Send + 'static>(
        &self,
        wants_epoch: bool,
        mut work: impl FnMut(&Writer<'_>, Option<Epoch>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        // The result waits here until the commit that makes it true.
        let slot = Arc::new(Mutex::new(None));
        let filled = Arc::clone(&slot);
        let job = Job {
            wants_epoch,
            work: Box::new(move |writer, epoch| {
                let result = work(writer, epoch)?;
                *filled.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                Ok(())
            }),
            done: Box::new(move |result| {
                // Whoever asked may have gone.
                let _ = answer.send(result);
            }),
        };
        {
            let jobs = self.jobs.read().unwrap_or_else(PoisonError::into_inner);
            let jobs = jobs.as_ref().ok_or(StoreError::Closed)?;
            jobs.send(job).map_err(|_| StoreError::Closed)?;
        }
        answered.await.map_err(|_| StoreError::Closed)??;
        slot.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .ok_or(StoreError::Closed)
    }
}

/// Reads what the store names, and clears key blocks it does not name: a crash in between a wipe's steps ends here.
fn settle(database: &redb::Database, keys: &mut keys::Keys) -> Result<u64, OpenError> {
    let (next, named) = census(database, keys)?;
    let mut highest = next;
    let mut cleared = false;
    for epoch in keys.epochs() {
        highest = highest.max(epoch.0 + 1);
        if !named.contains(&epoch) {
            keys.erase(epoch)?;
            cleared = true;
        }
    }
    if cleared {
        keys.sync()?;
    }
    Ok(highest)
}

/// The next epoch and those that the store names, each with its key.
fn census(database: &redb::Database, keys: &keys::Keys) -> Result<(u64, Vec<Epoch>), OpenError> {
    let damaged = |error: StoreError| match error {
        StoreError::Damaged | StoreError::StaleEpoch => OpenError::Damaged("a row does not open"),
        _ => OpenError::Damaged("it cannot be read"),
    };
    let ring: KeyRing = keys
        .epochs()
        .into_iter()
        .filter_map(|epoch| keys.get(epoch).map(|key| (epoch, key)))
        .collect();
    if !ring.contains_key(&Epoch::HOUSE) {
        return Err(OpenError::KeysMissing);
    }
    let rows = Reader::new(database, &ring).map_err(damaged)?;
    let next = rows
        .get(Table::House(House::Meta), b"next_epoch")
        .map_err(damaged)?
        .and_then(|bytes| bytes.try_into().ok())
        .map(u64::from_be_bytes)
        .ok_or(OpenError::Damaged("it names no epoch"))?;
    let mut named = vec![Epoch::HOUSE];
    for (_, epoch) in rows.all(Table::House(House::Epochs)).map_err(damaged)? {
        let epoch = epoch
            .try_into()
            .map(|bytes| Epoch(u64::from_be_bytes(bytes)))
            .map_err(|_| OpenError::Damaged("it names no epoch"))?;
        named.push(epoch);
    }
    if named.iter().any(|epoch| !ring.contains_key(epoch)) {
        return Err(OpenError::KeysMissing);
    }
    Ok((next, named))
}

/// The moment in a budget row's name.
fn moment(row: &[u8]) -> Option<i64> {
    row.last_chunk::<8>()
        .map(|bytes| i64::from_be_bytes(*bytes))
}

/// 16 random bytes as text.
fn link_id() -> Result<String, StoreError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| StoreError::Disk)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
