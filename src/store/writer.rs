//! Owns the one writer thread: whatever waits is committed together, and answered only once it is durable.
//! A lone write waits for nobody; a failed commit fails exactly its own writes; nobody hangs.
//! It also minds the store: what the disk refused is tried again until it works, without a restart.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc};
use std::time::{Duration, Instant};

use redb::{Database, Durability, ReadableDatabase as _};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::Epoch;
use super::birth::{self, Opened, Place};
use super::error::StoreError;
use super::keys::Keys;
use super::settle::{Settled, census, settle};
use super::sweep::sweep;
use super::tables::{House, Table};
use super::tx::{KeyRing, Reader, Writer};

/// The most that is committed together: bounds the memory of one transaction.
const BATCH: usize = 512;
/// How long after a wipe its sealed bytes are swept out of the file.
const SWEEP_AFTER: Duration = Duration::from_millis(200);
/// How long after a failure it is tried again; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// A damaged file is not mended by waiting, but a disk that reads nonsense may come to its senses.
const DAMAGED_PAUSE: Duration = Duration::from_secs(30);
/// How often a key that cannot be overwritten is tried before whoever waits is told.
const ERASE_TRIES: usize = 3;

/// The database and its keys. Readers hold the lock for one short transaction; reopening and compaction take it whole.
pub(super) struct Shared {
    /// None while the file cannot be opened: reads and writes then fail, and it is tried again.
    database: RwLock<Option<Database>>,
    /// Changed by the writer thread only.
    keys: RwLock<KeyRing>,
    pub(super) closed: AtomicBool,
    pub(super) place: Place,
    on_commit: Option<Arc<dyn Fn(Duration) + Send + Sync>>,
    /// A reader met what only opening the file anew mends.
    unwell: AtomicBool,
    /// When a row that does not open was last taken for a sign of a damaged file.
    doubted: Mutex<Option<Instant>>,
    /// One of [`Health`].
    health: AtomicU8,
}

/// Whether the store can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Well,
    /// The last commit was refused, or the file cannot be opened.
    Refused,
    Damaged,
}

impl Shared {
    pub(super) fn new(
        database: Database,
        keys: KeyRing,
        place: Place,
        on_commit: Option<Arc<dyn Fn(Duration) + Send + Sync>>,
    ) -> Self {
        Self {
            database: RwLock::new(Some(database)),
            keys: RwLock::new(keys),
            closed: AtomicBool::new(false),
            place,
            on_commit,
            unwell: AtomicBool::new(false),
            doubted: Mutex::new(None),
            health: AtomicU8::new(Health::Well as u8),
        }
    }

    /// Reads in one short transaction. The flag says that the writer thread must look after the file.
    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&Reader<'_>) -> Result<T, StoreError>,
    ) -> (Result<T, StoreError>, bool) {
        let database = self.database();
        let Some(database) = database.as_ref() else {
            return (Err(self.health().unwrap_or(StoreError::Disk)), false);
        };
        let keys = self.keys();
        self.checked(|| read(&Reader::new(database, &keys)?))
    }

    /// The same for longer than a moment: commits go on meanwhile, wipes included. Only what takes the file for
    /// itself alone waits, as it does for every reader.
    pub(super) fn read_long<T>(
        &self,
        read: impl FnOnce(&Reader<'_>) -> Result<T, StoreError>,
    ) -> (Result<T, StoreError>, bool) {
        let database = self.database();
        let Some(database) = database.as_ref() else {
            return (Err(self.health().unwrap_or(StoreError::Disk)), false);
        };
        self.checked(|| {
            // The keys and the transaction are of one moment: whatever the transaction names has its key among these.
            let (transaction, keys) = {
                let keys = self.keys();
                (database.begin_read()?, keys.clone())
            };
            read(&Reader::over(transaction, &keys))
        })
    }

    fn checked<T>(
        &self,
        read: impl FnOnce() -> Result<T, StoreError>,
    ) -> (Result<T, StoreError>, bool) {
        // redb asserts in places what a damaged file does not keep to; checking it anew then tells.
        let result = catch_unwind(AssertUnwindSafe(read)).unwrap_or(Err(StoreError::Fault));
        let unwell = match result {
            Err(StoreError::Disk | StoreError::Fault) => true,
            Err(StoreError::Damaged) => self.doubts(),
            _ => false,
        };
        if unwell {
            self.unwell.store(true, Ordering::SeqCst);
            // Nobody is told that all is well between this and the look that the writer thread takes.
            let (well, refused) = (Health::Well as u8, Health::Refused as u8);
            let _ = self
                .health
                .compare_exchange(well, refused, Ordering::SeqCst, Ordering::SeqCst);
        }
        (result, unwell)
    }

    /// A row did not open: whether the whole file is checked for that. One row may be bad in a good file, and must not
    /// keep it closed.
    fn doubts(&self) -> bool {
        let mut doubted = self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        let doubts = doubted.is_none_or(|at| at.elapsed() > DAMAGED_PAUSE);
        if doubts {
            *doubted = Some(Instant::now());
        }
        doubts
    }

    /// Why the store cannot be used now; none when it can.
    pub(super) fn health(&self) -> Option<StoreError> {
        match self.health.load(Ordering::SeqCst) {
            health if health == Health::Well as u8 => None,
            health if health == Health::Damaged as u8 => Some(StoreError::Damaged),
            _ => Some(StoreError::Disk),
        }
    }

    fn database(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn database_alone(&self) -> RwLockWriteGuard<'_, Option<Database>> {
        self.database
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn keys(&self) -> RwLockReadGuard<'_, KeyRing> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_keys(&self, ring: KeyRing) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = ring;
    }
}

/// Work may be done twice: alone, when something else in its batch failed.
type Work = Box<dyn FnMut(&Writer<'_>, Option<Epoch>) -> Result<(), StoreError> + Send>;

/// One piece of work and whom it concerns.
pub(super) struct Job {
    /// An epoch whose key must be durable before the work is.
    pub(super) wants_epoch: bool,
    pub(super) work: Work,
    pub(super) done: Box<dyn FnOnce(Result<(), StoreError>) + Send>,
}

/// What the writer thread can be told.
pub(super) enum Message {
    Job(Job),
    /// A reader has met trouble.
    Look,
    /// Somebody asks whether the thread turns.
    Turn(oneshot::Sender<()>),
}

type Batch = Vec<(Job, Option<Epoch>)>;

/// What a durable transaction did.
struct Outcome {
    /// Per piece of work: whether it retired an epoch.
    results: Vec<Result<bool, StoreError>>,
    retired: Vec<Epoch>,
    /// It is durable, but redb can do nothing more with this handle.
    shaky: bool,
}

/// Why nothing of a batch was kept.
enum Failure {
    /// One piece of work failed half-way: the others are done again without it.
    Work(StoreError),
    /// The commit failed.
    Commit(StoreError),
}

/// Ends when every sender is gone.
pub(super) fn run(
    shared: &Arc<Shared>,
    keys: Keys,
    settled: &Settled,
    queue: &mpsc::Receiver<Message>,
) {
    let mut scribe = Scribe {
        shared: Arc::clone(shared),
        keys,
        next_epoch: settled.next_epoch,
        tidy: settled.tidy,
        refusing: false,
        sweep: settled.sweep.then(|| Instant::now() + SWEEP_AFTER),
        retry: None,
        pause: FIRST_PAUSE,
    };
    loop {
        let first = match scribe.wakes() {
            None => queue
                .recv()
                .map_err(|_| mpsc::RecvTimeoutError::Disconnected),
            Some(at) => queue.recv_timeout(at.saturating_duration_since(Instant::now())),
        };
        let first = match first {
            Ok(message) => Some(message),
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        };
        let mut jobs = Vec::new();
        let mut next = first;
        while let Some(message) = next {
            match message {
                Message::Job(job) => jobs.push(job),
                Message::Look => {}
                // Whoever asked may have gone.
                Message::Turn(turns) => drop(turns.send(())),
            }
            next = if jobs.len() < BATCH {
                queue.try_recv().ok()
            } else {
                None
            };
        }
        // Whoever waits in a batch that is lost to a panic hears of it: what they wait on is dropped.
        let turn = catch_unwind(AssertUnwindSafe(|| {
            if !jobs.is_empty() {
                scribe.commit(jobs);
            }
            scribe.tend();
        }));
        if turn.is_err() {
            error!("a fault in the writer; the store is opened anew");
            shared.unwell.store(true, Ordering::SeqCst);
        }
    }
    if catch_unwind(AssertUnwindSafe(|| scribe.finish())).is_err() {
        error!("a fault while the store was closed; it is repaired at the next start");
    }
}

/// The writer thread's own state.
struct Scribe {
    shared: Arc<Shared>,
    keys: Keys,
    /// In memory it only grows, so that a number given out to work that failed is not given out again.
    next_epoch: u64,
    /// Whether every key that the store does not name is overwritten.
    tidy: bool,
    /// The last commit was refused: a small one is tried until it works.
    refusing: bool,
    /// When the file is compacted.
    sweep: Option<Instant>,
    /// When what does not work is tried again.
    retry: Option<Instant>,
    pause: Duration,
}

impl Scribe {
    /// When there is something to do although nobody asks.
    fn wakes(&self) -> Option<Instant> {
        let retry = self
            .is_ill()
            .then(|| self.retry.unwrap_or_else(Instant::now));
        // A file that cannot be opened is not compacted either.
        let sweep = self.sweep.filter(|_| retry.is_none());
        [retry, sweep].into_iter().flatten().min()
    }

    fn is_ill(&self) -> bool {
        self.refusing
            || !self.tidy
            || self.shared.unwell.load(Ordering::SeqCst)
            || self.shared.database().is_none()
    }

    // ---- committing -------------------------------------------------------------------------

    /// Commits a batch together, or, when something in it fails half-way, each piece alone.
    fn commit(&mut self, jobs: Vec<Job>) {
        if !self.open_if_closed() {
            let why = self.shared.health().unwrap_or(StoreError::Disk);
            answer_all(jobs.into_iter().map(|job| (job, None)).collect(), why);
            return;
        }
        // Of the keys that are open now.
        let mut batch: Batch = jobs
            .into_iter()
            .map(|job| {
                let epoch = job.wants_epoch.then(|| self.new_epoch());
                (job, epoch)
            })
            .collect();
        if let Err(error) = self.add_keys(&batch) {
            error!(%error, "a new key cannot be written");
            self.tidy = false;
            self.refuse();
            let (failed, rest): (Batch, Batch) =
                batch.into_iter().partition(|(_, epoch)| epoch.is_some());
            answer_all(failed, StoreError::Disk);
            batch = rest;
        }
        if batch.is_empty() {
            return;
        }
        match self.attempt(&mut batch) {
            Ok(outcome) => self.committed(batch, outcome),
            Err(Failure::Work(error)) if batch.len() == 1 => {
                self.erase(&epochs(&batch));
                answer_all(batch, error);
            }
            Err(Failure::Work(_)) => {
                // Each gets a key of its own anew.
                self.erase(&epochs(&batch));
                for (job, _) in batch {
                    self.commit(vec![job]);
                }
            }
            Err(Failure::Commit(error)) => {
                // Its keys go once it is certain that the file does not name their epochs.
                self.tidy &= epochs(&batch).is_empty();
                self.shared.unwell.store(true, Ordering::SeqCst);
                self.refuse();
                self.mend();
                answer_all(batch, error);
            }
        }
    }

    fn committed(&mut self, batch: Batch, outcome: Outcome) {
        let unused = batch
            .iter()
            .zip(&outcome.results)
            .filter(|(_, result)| result.is_err())
            .filter_map(|((_, epoch), _)| *epoch);
        let gone: Vec<Epoch> = outcome.retired.iter().copied().chain(unused).collect();
        let erased = self.erase(&gone);
        if !outcome.retired.is_empty() {
            // A later wipe does not put off the sweep of an earlier one.
            self.sweep
                .get_or_insert_with(|| Instant::now() + SWEEP_AFTER);
        }
        if outcome.shaky {
            // Before anybody is answered: this handle still shows what was there before.
            self.shared.unwell.store(true, Ordering::SeqCst);
            self.mend();
        } else if self.is_ill() {
            // What was refused works again: whoever is answered finds that told as well.
            self.mend();
        }
        for ((job, _), result) in batch.into_iter().zip(outcome.results) {
            // A wipe is acknowledged only once the old key is gone as well.
            (job.done)(match result {
                Ok(true) if !erased => Err(StoreError::NotErased),
                result => result.map(|_| ()),
            });
        }
    }

    /// An epoch for a new link: the one that has its key already, where there is one.
    fn new_epoch(&mut self) -> Epoch {
        let spare = self.keys.take_spare();
        spare.unwrap_or_else(|| self.new_number())
    }

    /// Every new link's key, durable before the store names its epoch.
    fn add_keys(&mut self, batch: &Batch) -> std::io::Result<()> {
        let fresh = epochs(batch);
        if fresh.is_empty() {
            return Ok(());
        }
        self.keys.add(&fresh)?;
        self.shared.set_keys(self.keys.ring());
        Ok(())
    }

    fn new_number(&mut self) -> Epoch {
        let epoch = Epoch(self.next_epoch);
        self.next_epoch += 1;
        epoch
    }

    /// One durable transaction for all. An error means that nothing of it was kept.
    fn attempt(&mut self, batch: &mut Batch) -> Result<Outcome, Failure> {
        let mut tries = 0;
        loop {
            tries += 1;
            let done = catch_unwind(AssertUnwindSafe(|| try_commit(&self.shared, batch)))
                .unwrap_or(Ok(Err(Failure::Commit(StoreError::Fault))));
            match done {
                Ok(done) => return done,
                // A read has failed before, and redb does nothing more: nothing was tried yet.
                Err(error) => {
                    if tries > 1 || !self.reopen() {
                        return Err(Failure::Commit(error));
                    }
                    // The store does not name the new links' epochs yet, so that their keys are overwritten now.
                    for (_, epoch) in batch.iter_mut().filter(|(job, _)| job.wants_epoch) {
                        *epoch = Some(self.new_epoch());
                    }
                    if let Err(error) = self.add_keys(batch) {
                        error!(%error, "a new key cannot be written");
                        return Err(Failure::Commit(StoreError::Disk));
                    }
                }
            }
        }
    }

    /// Overwrites keys and syncs; whether all are gone for good. If not, it goes on in the background.
    fn erase(&mut self, epochs: &[Epoch]) -> bool {
        if epochs.is_empty() {
            return true;
        }
        let mut erased = Ok(());
        for _ in 0..ERASE_TRIES {
            let spare = self.new_number();
            erased = self.keys.erase(epochs, spare);
            if erased.is_ok() {
                break;
            }
        }
        self.shared.set_keys(self.keys.ring());
        if let Err(error) = &erased {
            error!(%error, "an old key is not overwritten yet; it is tried again");
            self.tidy = false;
        }
        erased.is_ok()
    }

    // ---- minding ----------------------------------------------------------------------------

    /// Does what is due although nobody asks.
    fn tend(&mut self) {
        if self.is_ill() && self.retry.is_none_or(|at| at <= Instant::now()) {
            self.mend();
        }
        if !self.is_ill() && self.sweep.is_some_and(|at| at <= Instant::now()) {
            self.sweep = (!self.sweep_out()).then(|| Instant::now() + LONGEST_PAUSE);
        }
    }

    /// Tries everything that does not work; whether all is well now.
    fn mend(&mut self) -> bool {
        let was = self.shared.health();
        let well = self.open_if_closed()
            && (self.tidy || self.tidy_up())
            && (!self.refusing || self.probe());
        if well {
            self.retry = None;
            self.pause = FIRST_PAUSE;
            if was.is_some() {
                info!("the store can be used again");
            }
        } else {
            self.retry = Some(Instant::now() + self.pause);
            let longest = if self.shared.health() == Some(StoreError::Damaged) {
                DAMAGED_PAUSE
            } else {
                LONGEST_PAUSE
            };
            self.pause = (self.pause * 2).min(longest);
        }
        well
    }

    fn refuse(&mut self) {
        self.refusing = true;
        self.show();
    }

    /// Tells readers how things stand.
    fn show(&self) {
        let health = if self.refusing {
            Health::Refused
        } else {
            Health::Well
        };
        self.set_health(health);
    }

    fn set_health(&self, health: Health) {
        self.shared.health.store(health as u8, Ordering::SeqCst);
    }

    fn open_if_closed(&mut self) -> bool {
        if !self.shared.unwell.swap(false, Ordering::SeqCst) && self.shared.database().is_some() {
            return true;
        }
        self.reopen()
    }

    /// Opens the file and the keys anew, as a start does: checked, settled, and without what a failed commit left.
    fn reopen(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut slot = shared.database_alone();
        self.open_into(&mut slot)
    }

    fn open_into(&mut self, slot: &mut Option<Database>) -> bool {
        // Dropped first: redb locks the file. It would commit once more at its end, on what may be damaged.
        self.shared.place.header.retire();
        *slot = None;
        match birth::open_again(&self.shared.place, self.next_epoch) {
            Ok(Opened {
                database,
                keys,
                settled,
            }) => {
                self.shared.set_keys(keys.ring());
                *slot = Some(database);
                self.keys = keys;
                self.next_epoch = settled.next_epoch;
                self.tidy = settled.tidy;
                if settled.sweep && self.sweep.is_none() {
                    self.sweep = Some(Instant::now() + SWEEP_AFTER);
                }
                self.show();
                true
            }
            Err(error) => {
                if self.retry.is_none() {
                    error!(%error, "the store cannot be opened again yet");
                }
                self.set_health(if StoreError::from(&error) == StoreError::Damaged {
                    Health::Damaged
                } else {
                    Health::Refused
                });
                false
            }
        }
    }

    /// Overwrites every key that the store does not name, with a new handle: the old one may be what is broken.
    fn tidy_up(&mut self) -> bool {
        let database = self.shared.database();
        let Some(database) = database.as_ref() else {
            return false;
        };
        let settled = birth::open_keys(&self.shared.place).and_then(|mut keys| {
            let settled = settle(&census(database, &keys)?, &mut keys, self.next_epoch);
            self.keys = keys;
            self.next_epoch = settled.next_epoch;
            Ok(settled)
        });
        let Ok(settled) = settled else {
            return false;
        };
        self.shared.set_keys(self.keys.ring());
        self.tidy = settled.tidy;
        self.tidy
    }

    /// Whether the disk takes a small commit again, and a key.
    fn probe(&mut self) -> bool {
        let next = self.next_epoch;
        let took = self
            .keys
            .probe()
            .map_err(|_| StoreError::Disk)
            .and_then(|()| {
                commit_alone(&self.shared, |writer| {
                    writer.put(
                        Table::House(House::Meta),
                        b"next_epoch",
                        &next.to_be_bytes(),
                    )
                })
            });
        if took.is_err() {
            self.shared.unwell.store(true, Ordering::SeqCst);
            return false;
        }
        self.refusing = false;
        self.show();
        true
    }

    /// Sweeps what a wipe left in free pages out of the file; whether it is out for good.
    fn sweep_out(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut slot = shared.database_alone();
        let swept = catch_unwind(AssertUnwindSafe(|| {
            let database = slot.as_mut().ok_or(StoreError::Disk)?;
            sweep(database, &shared.place)?;
            commit_on(database, &shared.keys(), |writer| writer.swept().map(drop))
        }))
        .unwrap_or(Err(StoreError::Fault));
        if let Err(error) = swept {
            warn!(%error, "what a wipe left was not swept out of the file; it is tried again");
            // Before anybody reads: redb does nothing more with this handle.
            if !self.open_into(&mut slot) {
                shared.unwell.store(true, Ordering::SeqCst);
            }
        }
        swept.is_ok()
    }

    /// Leaves the file as it should be. What fails is tried once more: whoever opens the file next would take for
    /// durable what a failed sync has lost.
    fn finish(&mut self) {
        let mut last = Ok(());
        for _ in 0..2 {
            if self.is_ill() {
                self.mend();
            }
            if self.sweep.is_some() && self.sweep_out() {
                self.sweep = None;
            }
            let ill = self.is_ill();
            let database = self.shared.database_alone().take();
            last = database.map_or(Ok(()), Database::close);
            if last.is_ok() && !ill {
                return;
            }
        }
        if let Err(error) = last {
            warn!(%error, "the store was not closed cleanly; it is repaired at the next start");
        }
    }
}

fn epochs(batch: &Batch) -> Vec<Epoch> {
    batch.iter().filter_map(|(_, epoch)| *epoch).collect()
}

fn answer_all(batch: Batch, error: StoreError) {
    for (job, _) in batch {
        (job.done)(Err(error));
    }
}

/// Does the work of a batch in one durable transaction. The outer error: not even begun.
fn try_commit(shared: &Shared, batch: &mut Batch) -> Result<Result<Outcome, Failure>, StoreError> {
    let started = Instant::now();
    let guard = shared.database();
    let database = guard.as_ref().ok_or(StoreError::Disk)?;
    let ring = shared.keys();
    let turns = shared.place.header.turns();
    let mut transaction = database.begin_write()?;
    let done = (|| {
        transaction
            .set_durability(Durability::Immediate)
            .map_err(|_| Failure::Commit(StoreError::Fault))?;
        let writer = Writer::new(&transaction, &ring);
        let mut results = Vec::with_capacity(batch.len());
        let mut touched = false;
        for (job, epoch) in batch.iter_mut() {
            writer.next_work();
            let before = writer.retired();
            let result = catch_unwind(AssertUnwindSafe(|| (job.work)(&writer, *epoch)));
            let Ok(result) = result else {
                error!("a fault in a piece of the store's work");
                shared.unwell.store(true, Ordering::SeqCst);
                return Err(Failure::Work(StoreError::Fault));
            };
            if result == Err(StoreError::Damaged) && shared.doubts() {
                shared.unwell.store(true, Ordering::SeqCst);
            }
            match result {
                Err(StoreError::Disk) => return Err(Failure::Commit(StoreError::Disk)),
                // Half of it is in the transaction: all must go, and the others are done again.
                Err(error) if writer.was_touched() => return Err(Failure::Work(error)),
                result => results.push(result.map(|()| writer.retired() > before)),
            }
            touched |= writer.was_touched();
        }
        Ok((results, writer.into_retired(), touched))
    })();
    let (results, retired, touched) = match done {
        Ok(done) => done,
        Err(failure) => {
            if let Err(error) = transaction.abort() {
                shared.unwell.store(true, Ordering::SeqCst);
                warn!(%error, "a transaction was not taken back cleanly; the file is opened anew");
            }
            return Ok(Err(failure));
        }
    };
    let committed = if touched {
        transaction.commit().map_err(StoreError::from)
    } else {
        transaction.abort().map_err(StoreError::from)
    };
    // redb trims the file after a commit is durable: what goes wrong then does not undo it.
    let shaky = committed.is_err();
    if let Err(error) = committed
        && touched
        && shared.place.header.turns() == turns
    {
        return Ok(Err(Failure::Commit(error)));
    }
    if touched && let Some(on_commit) = &shared.on_commit {
        on_commit(started.elapsed());
    }
    Ok(Ok(Outcome {
        results,
        retired,
        shaky,
    }))
}

/// The writer thread's own small commits.
fn commit_alone(
    shared: &Shared,
    work: impl FnOnce(&Writer<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let guard = shared.database();
    let database = guard.as_ref().ok_or(StoreError::Disk)?;
    commit_on(database, &shared.keys(), work)
}

fn commit_on(
    database: &Database,
    ring: &KeyRing,
    work: impl FnOnce(&Writer<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let transaction = database.begin_write()?;
    work(&Writer::new(&transaction, ring))?;
    Ok(transaction.commit()?)
}

#[cfg(test)]
mod tests;
