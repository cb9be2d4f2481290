//! Owns the one writer thread: whatever waits is committed together, and answered only once it is durable.
//! A lone write waits for nobody; a failed commit fails exactly its own writes; nobody hangs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, mpsc};
use std::time::{Duration, Instant};

use redb::Database;
use tracing::{debug, error, warn};

use super::Epoch;
use super::birth;
use super::error::StoreError;
use super::keys::Keys;
use super::tx::{KeyRing, Writer};

/// The most that is committed together: bounds the memory of one transaction.
const BATCH: usize = 512;
/// How long after a wipe its sealed bytes are swept out of the file.
const SWEEP_AFTER: Duration = Duration::from_millis(200);

/// The database and its keys. Readers hold the lock for one short transaction; reopening and compaction take it whole.
pub(super) struct Shared {
    /// None while the file cannot be opened: reads and writes then fail, and every write tries again.
    pub(super) database: RwLock<Option<Database>>,
    /// Changed by the writer thread only.
    pub(super) keys: RwLock<KeyRing>,
    pub(super) closed: AtomicBool,
    pub(super) place: birth::Place,
    pub(super) on_commit: Option<Arc<dyn Fn(Duration) + Send + Sync>>,
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

/// Ends when every sender is gone.
pub(super) fn run(
    shared: &Arc<Shared>,
    mut keys: Keys,
    mut next_epoch: u64,
    jobs: &mpsc::Receiver<Job>,
) {
    let mut sweep: Option<Instant> = None;
    loop {
        let first = match sweep {
            None => jobs
                .recv()
                .map_err(|_| mpsc::RecvTimeoutError::Disconnected),
            Some(at) => jobs.recv_timeout(at.saturating_duration_since(Instant::now())),
        };
        let first = match first {
            Ok(job) => job,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                sweep = None;
                compact(shared);
                continue;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        };
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(job) = jobs.try_recv()
        {
            batch.push(job);
        }
        if commit(shared, &mut keys, &mut next_epoch, batch) {
            sweep = Some(Instant::now() + SWEEP_AFTER);
        } else if sweep.is_some_and(|at| at <= Instant::now()) {
            // Busy, but the promise stands.
            sweep = None;
            compact(shared);
        }
    }
    if sweep.is_some() {
        compact(shared);
    }
    let database = shared
        .database
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    if let Some(database) = database
        && let Err(error) = database.close()
    {
        warn!(%error, "the store was not closed cleanly; it is repaired at the next start");
    }
}

/// Commits a batch together, or, when something in it fails half-way, each piece alone. Whether a key was retired.
fn commit(shared: &Shared, keys: &mut Keys, next_epoch: &mut u64, batch: Vec<Job>) -> bool {
    let mut batch: Vec<(Job, Option<Epoch>)> = batch
        .into_iter()
        .map(|job| {
            let epoch = job.wants_epoch.then(|| {
                let epoch = Epoch(*next_epoch);
                *next_epoch += 1;
                epoch
            });
            (job, epoch)
        })
        .collect();
    let fresh: Vec<Epoch> = batch.iter().filter_map(|(_, epoch)| *epoch).collect();
    if let Err(error) = prepare_keys(shared, keys, &fresh) {
        error!(%error, path = %keys.path().display(), "a key cannot be written");
        let (failed, rest): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|(_, epoch)| epoch.is_some());
        for (job, _) in failed {
            (job.done)(Err(StoreError::Disk));
        }
        batch = rest;
    }
    match attempt(shared, &mut batch) {
        Ok((results, retired)) => {
            let retired_any = !retired.is_empty();
            let unused: Vec<Epoch> = batch
                .iter()
                .zip(&results)
                .filter(|(_, result)| result.is_err())
                .filter_map(|((_, epoch), _)| *epoch)
                .collect();
            let erased = erase_keys(shared, keys, retired.iter().chain(&unused).copied());
            for ((job, epoch), result) in batch.into_iter().zip(results) {
                // A wipe is acknowledged only once the old key is gone as well.
                let result = if epoch.is_some() && !erased {
                    result.and(Err(StoreError::Disk))
                } else {
                    result
                };
                (job.done)(result);
            }
            retired_any
        }
        Err(error) if batch.len() == 1 => {
            let (job, epoch) = batch.remove(0);
            erase_keys(shared, keys, epoch.into_iter());
            (job.done)(Err(error));
            false
        }
        Err(_) => {
            let mut retired = false;
            for (job, epoch) in batch {
                // Each gets a key of its own anew.
                erase_keys(shared, keys, epoch.into_iter());
                retired |= commit(shared, keys, next_epoch, vec![job]);
            }
            retired
        }
    }
}

type Outcome = (Vec<Result<(), StoreError>>, Vec<Epoch>);

/// One durable transaction for all. An error means that nothing of it was kept.
fn attempt(shared: &Shared, batch: &mut [(Job, Option<Epoch>)]) -> Result<Outcome, StoreError> {
    if batch.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let result = try_commit(shared, batch);
    if result == Err(StoreError::Disk) {
        // After an I/O error redb wants to be opened anew; reads go on with what was acknowledged.
        reopen(shared);
    }
    result
}

fn try_commit(shared: &Shared, batch: &mut [(Job, Option<Epoch>)]) -> Result<Outcome, StoreError> {
    if shared
        .database
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .is_none()
    {
        reopen(shared);
    }
    let started = Instant::now();
    let guard = shared
        .database
        .read()
        .unwrap_or_else(PoisonError::into_inner);
    let database = guard.as_ref().ok_or(StoreError::Disk)?;
    let ring = shared.keys.read().unwrap_or_else(PoisonError::into_inner);
    let transaction = database.begin_write()?;
    let writer = Writer::new(&transaction, &ring);
    let mut results = Vec::with_capacity(batch.len());
    for (job, epoch) in batch.iter_mut() {
        writer.next_work();
        let result = (job.work)(&writer, *epoch);
        if let Err(error) = result
            && writer.was_touched()
        {
            // Half of it is in the transaction: all must go, and the others are done again.
            drop(writer);
            transaction.abort()?;
            return Err(error);
        }
        results.push(result);
    }
    let retired = writer.into_retired();
    transaction.commit()?;
    if let Some(on_commit) = &shared.on_commit {
        on_commit(started.elapsed());
    }
    Ok((results, retired))
}

fn prepare_keys(shared: &Shared, keys: &mut Keys, fresh: &[Epoch]) -> std::io::Result<()> {
    if fresh.is_empty() {
        return Ok(());
    }
    let added = fresh
        .iter()
        .try_for_each(|&epoch| keys.add(epoch))
        .and_then(|()| keys.sync());
    if let Err(error) = added {
        erase_keys(shared, keys, fresh.iter().copied());
        return Err(error);
    }
    let mut ring = shared.keys.write().unwrap_or_else(PoisonError::into_inner);
    for &epoch in fresh {
        if let Some(key) = keys.get(epoch) {
            ring.insert(epoch, key);
        }
    }
    Ok(())
}

/// Overwrites blocks and syncs once; whether all are gone for good.
fn erase_keys(shared: &Shared, keys: &mut Keys, epochs: impl Iterator<Item = Epoch>) -> bool {
    let mut any = false;
    let mut gone = true;
    for epoch in epochs {
        any = true;
        shared
            .keys
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&epoch);
        if let Err(error) = keys.erase(epoch) {
            gone = false;
            error!(%error, path = %keys.path().display(), "an old key is not overwritten yet; the next start does it");
        }
    }
    if any && let Err(error) = keys.sync() {
        gone = false;
        error!(%error, path = %keys.path().display(), "an old key is not overwritten yet; the next start does it");
    }
    gone
}

fn reopen(shared: &Shared) {
    let mut slot = shared
        .database
        .write()
        .unwrap_or_else(PoisonError::into_inner);
    // Dropped first: redb locks the file.
    *slot = None;
    match birth::open_database(&shared.place) {
        Ok(database) => *slot = Some(database),
        Err(error) => error!(%error, "the store cannot be opened again yet"),
    }
}

/// Sweeps what a wipe left in free pages out of the file.
fn compact(shared: &Shared) {
    if shared.closed.load(Ordering::SeqCst) {
        debug!("compacting before the store is closed");
    }
    let mut slot = shared
        .database
        .write()
        .unwrap_or_else(PoisonError::into_inner);
    let Some(database) = slot.as_mut() else {
        return;
    };
    if let Err(error) = database.compact() {
        warn!(%error, "the file was not compacted");
        drop(slot);
        reopen(shared);
    }
}
