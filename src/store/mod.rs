//! Owns the store: one redb file behind one writer thread, one key file beside it.
//! Every link of a session has an epoch; what is written under an epoch that is over is refused.

mod aside;
mod backend;
mod backup;
mod birth;
mod check;
mod disk;
mod envelope;
mod error;
mod journal;
mod keys;
mod links;
mod look;
mod overlay;
#[doc(hidden)]
pub mod probe;
mod record;
mod restore;
mod rows;
mod seal;
mod settle;
mod sweep;
mod tables;
mod tx;
mod undo;
mod writer;

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::oneshot;

use crate::secret::SecretText;
use record::SessionRecord;
use tables::{House, Table};
use tx::{Reader, Rows, Writer};
use writer::{Job, Message, Shared};

pub use aside::Occupied;
pub(crate) use aside::dated;
pub use backend::EpochBackend;
pub(crate) use birth::FILE;
pub use check::{LinkReport, Report, SlotReport};
pub use disk::{Disk, DiskFile, Folder};
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
const META: Table = Table::House(House::Meta);
/// What a wipe may write: a page and a half for each table that is dropped or made, and those above them, twice over.
const WIPE_PAGES: u32 = 128;
/// With seal and overhead a little less than a page of redb.
const WIPE_PAGE: usize = 3900;
/// How the rows begin that take this room.
const ROOM: &[u8] = b"room";
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
            // A salon's file whole: what a wipe drops is read first, page by page.
            cache_bytes: 16 << 20,
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
    jobs: Arc<RwLock<Option<mpsc::Sender<Message>>>>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Store {
    /// Opens the store in a folder, or makes it; blocking.
    ///
    /// # Errors
    /// Why it cannot be opened; the files are then as they were.
    pub fn open(folder: &Path, options: Options) -> Result<Self, OpenError> {
        Self::open_on(Arc::new(Folder::new(folder)), options)
    }

    /// The same on a disk of one's own.
    ///
    /// # Errors
    /// Why it cannot be opened; the files are then as they were.
    pub fn open_on(disk: Arc<dyn Disk>, options: Options) -> Result<Self, OpenError> {
        let place = birth::Place {
            disk,
            cache_bytes: options.cache_bytes,
            wrapping: options.wrapping_key,
            header: Arc::default(),
        };
        place.disk.prepare(options.create)?;
        // Kept as long as the store is open: a restore or a start-over is not to be met half-way, nor to come in
        // between while the file is opened anew.
        let occupied = place.disk.enter()?;
        let birth::Opened {
            database,
            mut keys,
            settled,
        } = birth::open(&place, options.create)?;
        if let Err(error) = keys.rotate() {
            tracing::warn!(%error, "some keys are not under the new credential yet; keep the old one until the next start");
        }
        let shared = Arc::new(Shared::new(database, keys.ring(), place, options.on_commit));
        let (jobs, queue) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || {
                    writer::run(&shared, keys, &settled, &queue);
                    drop(occupied);
                }
            })?;
        let store = Self {
            shared,
            jobs: Arc::new(RwLock::new(Some(jobs))),
            thread: Arc::new(Mutex::new(Some(thread))),
        };
        store.give_room_back();
        Ok(store)
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

    /// Whether the store can be used now: it can be read, and the disk has not refused the last commit.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), StoreError> {
        self.read(|rows| {
            rows.get(Table::House(House::Meta), b"next_epoch")
                .map(|_| ())
        })?;
        self.shared.health().map_or(Ok(()), Err)
    }

    /// Whether the writer thread turns: true once it says so, false when it is gone. A slow disk makes it late.
    pub async fn turns(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        let asked = {
            let jobs = self.jobs.read().unwrap_or_else(PoisonError::into_inner);
            jobs.as_ref()
                .is_some_and(|jobs| jobs.send(Message::Turn(reply)).is_ok())
        };
        asked && answer.await.is_ok()
    }

    /// Whether nothing of wiped links is left in the file, not even the sealed bytes that no key opens any more.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn is_swept(&self) -> Result<bool, StoreError> {
        self.read(|rows| rows.wants_sweep().map(|wanted| !wanted))
    }

    /// The store's file.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.shared.place.disk.folder().join(birth::FILE)
    }

    /// The size of the store's file in bytes; 0 if it cannot be seen.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        let size = self.shared.place.disk.size(birth::FILE);
        size.ok().flatten().unwrap_or(0)
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

    /// Makes sure that a wipe which comes soon finds room on a disk that is nearly full: what it may need is taken,
    /// and given back inside the files.
    ///
    /// # Errors
    /// When there is no such room, or the store cannot commit.
    pub async fn make_room(&self) -> Result<(), StoreError> {
        // A new epoch's block is written, and emptied again because nothing comes of the epoch.
        let nothing = |_: &Writer<'_>, _| Err::<(), _>(StoreError::StaleEpoch);
        match self.submit(true, nothing).await {
            Ok(()) | Err(StoreError::StaleEpoch) => {}
            Err(error) => return Err(error),
        }
        self.write(move |writer| {
            let page = vec![0; WIPE_PAGE];
            writer.put_all(META, room().map(|row| (row, &page)))
        })
        .await?;
        self.write(move |writer| writer.delete_all(META, room()).map(drop))
            .await
    }

    /// Room that was still taken when a crash came is given back before anything else is written. Nobody waits for it:
    /// where it fails, the next start does it.
    fn give_room_back(&self) {
        let is_taken =
            self.read(|rows| room().next().map_or(Ok(false), |row| rows.has(META, &row)));
        let jobs = self.jobs.read().unwrap_or_else(PoisonError::into_inner);
        if let (Ok(true), Some(jobs)) = (is_taken, jobs.as_ref()) {
            // The thread has just been started, and ends only when the store is closed.
            let _ = jobs.send(Message::Job(Job {
                wants_epoch: false,
                work: Box::new(|writer, _| writer.delete_all(META, room()).map(drop)),
                done: Box::new(drop),
            }));
        }
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
        let line = SecretText::from(line);
        self.write(move |writer| {
            let name = writer.key(BUDGET)?.name(&[line.reveal().as_bytes()]);
            writer.delete_all(BUDGET, &over(writer, now)?)?;
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

    /// Forgets the requests that count no more. Where there are none, nothing is written.
    ///
    /// # Errors
    /// When the store cannot be read or cannot commit.
    pub async fn budget_forget(&self, now: i64) -> Result<(), StoreError> {
        if self.read(|rows| Ok(over(rows, now)?.is_empty()))? {
            return Ok(());
        }
        self.write(move |writer| writer.delete_all(BUDGET, &over(writer, now)?).map(drop))
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
        self.told(self.shared.read(read))
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
        self.told(self.shared.read_long(read))
    }

    fn told<T>(&self, (result, unwell): (Result<T, StoreError>, bool)) -> Result<T, StoreError> {
        if unwell {
            // The writer thread mends it, also when nobody writes.
            let jobs = self.jobs.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(jobs) = jobs.as_ref() {
                // A thread that has ended mends nothing any more.
                let _ = jobs.send(Message::Look);
            }
        }
        result
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
            jobs.send(Message::Job(job))
                .map_err(|_| StoreError::Closed)?;
        }
        // Dropped unanswered only where the writer met a fault of ours.
        answered.await.map_err(|_| StoreError::Fault)??;
        slot.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .ok_or(StoreError::Closed)
    }
}

/// The rows that keep room for a wipe, all of them or none.
fn room() -> impl Iterator<Item = Vec<u8>> {
    (0..WIPE_PAGES).map(|row| [ROOM, &row.to_be_bytes()].concat())
}

/// The budget's rows that count no more: older than an hour, or of a time that a clock has been set back from.
fn over(rows: &impl Rows, now: i64) -> Result<Vec<Vec<u8>>, StoreError> {
    let all = (Bound::Unbounded, Bound::Unbounded);
    Ok(rows
        .raw_range(&BUDGET.name(), all, usize::MAX, false)?
        .into_iter()
        .map(|(row, _)| row)
        .filter(|row| !moment(row).is_some_and(|at| at > now - HOUR_MS && at <= now + HOUR_MS))
        .collect())
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
