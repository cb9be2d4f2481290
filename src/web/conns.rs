//! Owns the table of open connections: how many there may be, and which one makes room for a new one.
//! One address's idle connections make room before another address notices anything.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::Limits;

/// Connections that were told to go and may still hold their memory while another is accepted.
const MOST_GOING: usize = 16;

/// All connections. Every atomic here is relaxed: each is a hint about one connection and orders nothing.
#[derive(Debug)]
pub(super) struct Conns {
    start: Instant,
    limits: Limits,
    /// By age. Held for a scan of at most `limits.connections` entries, never while waiting.
    table: Mutex<BTreeMap<u64, Arc<Entry>>>,
    next: AtomicU64,
    stopping: AtomicBool,
    /// Whoever stops waits until it is zero.
    open: watch::Sender<usize>,
}

/// What the table knows of one connection.
#[derive(Debug)]
pub(super) struct Entry {
    address: IpAddr,
    start: Instant,
    /// The last sign of progress, in milliseconds after `start`.
    progress: AtomicU64,
    /// Requests being answered, and 1 for a WebSocket: then it is not idle.
    busy: AtomicUsize,
    shed: AtomicBool,
    /// Wakes the one task that drives the connection; a permit is kept if it is not waiting yet.
    kill: Notify,
}

/// A place in the table; its drop gives it back.
#[derive(Debug)]
pub(super) struct Slot {
    conns: Arc<Conns>,
    id: u64,
    entry: Arc<Entry>,
}

/// While it lives its connection counts as busy.
#[derive(Debug)]
pub(super) struct Busy(Arc<Entry>);

impl Entry {
    /// Marks the connection busy.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Marks the connection busy until it closes.
    pub(super) fn busy_for_good(&self) {
        self.busy.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns when the connection has to go.
    pub(super) async fn killed(&self) {
        self.kill.notified().await;
    }

    /// Whether it had to make room, so that nothing more is owed to it.
    pub(super) fn is_shed(&self) -> bool {
        self.shed.load(Ordering::Relaxed)
    }

    /// Notes that the client took or gave something.
    pub(super) fn progressed(&self) {
        self.progress
            .store(millis(self.start.elapsed()), Ordering::Relaxed);
    }

    fn is_idle(&self) -> bool {
        self.busy.load(Ordering::Relaxed) == 0 && !self.is_shed()
    }

    fn idle_for(&self) -> Duration {
        let progress = Duration::from_millis(self.progress.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(progress)
    }

    fn end(&self) {
        self.shed.store(true, Ordering::Relaxed);
        self.kill.notify_one();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.progressed();
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Conns {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            limits,
            table: Mutex::default(),
            next: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            open: watch::Sender::new(0),
        })
    }

    /// Makes room for a connection, by ending idle ones where there are too many; `None` when all are busy.
    /// `shared` marks a proxy's address, behind which everybody sits.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr, shared: bool) -> Option<Slot> {
        let mut table = self.lock();
        if !shared {
            make_room_in_address(&table, address, &self.limits);
        }
        let idle = table.values().filter(|e| e.is_idle()).count();
        let alive = table.values().filter(|e| !e.is_shed()).count();
        if idle >= self.limits.idle || alive >= self.limits.connections {
            match oldest_of_the_greediest(&table) {
                Some(entry) => entry.end(),
                None => return None,
            }
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = Arc::new(Entry {
            address,
            start: self.start,
            progress: AtomicU64::new(millis(self.start.elapsed())),
            busy: AtomicUsize::new(0),
            shed: AtomicBool::new(false),
            kill: Notify::new(),
        });
        table.insert(id, Arc::clone(&entry));
        self.open.send_replace(table.len());
        Some(Slot {
            conns: Arc::clone(self),
            id,
            entry,
        })
    }

    /// Returns when hardly any connection is left that made room and is not gone yet.
    pub(super) async fn few_are_going(&self) {
        let mut open = self.open.subscribe();
        loop {
            open.mark_unchanged();
            let going = self.lock().values().filter(|e| e.is_shed()).count();
            if going <= MOST_GOING {
                return;
            }
            // The sender lives in `self`, so waiting cannot fail.
            let _ = open.changed().await;
        }
    }

    /// From now on nobody is waited for.
    pub(super) fn begin_stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Returns when no connection is left.
    pub(super) async fn empty(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }

    /// Ends every connection.
    pub(super) fn end_all(&self) {
        for entry in self.lock().values() {
            entry.end();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Entry>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    pub(super) fn is_stopping(&self) -> bool {
        self.conns.stopping.load(Ordering::Relaxed)
    }

    pub(super) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut table = self.conns.lock();
        table.remove(&self.id);
        self.conns.open.send_replace(table.len());
    }
}

fn make_room_in_address(table: &BTreeMap<u64, Arc<Entry>>, address: IpAddr, limits: &Limits) {
    let idle: Vec<&Arc<Entry>> = table
        .values()
        .filter(|e| e.address == address && e.is_idle())
        .collect();
    let mut left = idle.len();
    for entry in idle {
        let too_many = left >= limits.idle_per_address && entry.idle_for() >= limits.young;
        if too_many || left >= limits.idle_per_address_at_once {
            entry.end();
            left -= 1;
        }
    }
}

/// The oldest idle connection of the address that has most of them.
fn oldest_of_the_greediest(table: &BTreeMap<u64, Arc<Entry>>) -> Option<&Arc<Entry>> {
    let mut per_address: HashMap<IpAddr, usize> = HashMap::new();
    for entry in table.values().filter(|e| e.is_idle()) {
        *per_address.entry(entry.address).or_default() += 1;
    }
    let (greediest, _) = per_address.into_iter().max_by_key(|(_, n)| *n)?;
    table
        .values()
        .find(|e| e.is_idle() && e.address == greediest)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn limits() -> Limits {
        Limits {
            idle_per_address: 2,
            idle_per_address_at_once: 4,
            idle: 6,
            connections: 8,
            young: Duration::ZERO,
            ..Limits::default()
        }
    }

    fn shed(slots: &[Slot]) -> Vec<bool> {
        slots.iter().map(|slot| slot.entry.is_shed()).collect()
    }

    fn admit(conns: &Arc<Conns>, address: IpAddr, times: usize) -> Vec<Slot> {
        (0..times)
            .map(|_| conns.admit(address, false).expect("room"))
            .collect()
    }

    #[test]
    fn the_oldest_idle_connection_of_an_address_makes_room() {
        let conns = Conns::new(limits());
        let good = conns.admit(THERE, false).expect("room");
        let slots = admit(&conns, HERE, 4);
        assert_eq!(shed(&slots), [true, true, false, false]);
        assert!(!good.entry.is_shed());
    }

    #[tokio::test]
    async fn whoever_accepts_waits_until_those_that_made_room_are_gone() {
        use futures_util::FutureExt as _;
        let conns = Conns::new(Limits {
            idle_per_address: MOST_GOING,
            idle: 100,
            connections: 100,
            ..limits()
        });
        let mut slots = admit(&conns, HERE, MOST_GOING);
        let going = |slots: &[Slot]| shed(slots).iter().filter(|shed| **shed).count();
        while going(&slots) <= MOST_GOING {
            assert!(conns.few_are_going().now_or_never().is_some());
            slots.extend(admit(&conns, HERE, 1));
        }
        let few = conns.few_are_going();
        tokio::pin!(few);
        assert!(few.as_mut().now_or_never().is_none());
        slots.remove(0);
        few.await;
    }

    #[test]
    fn a_burst_of_young_connections_is_borne_up_to_a_bound() {
        let conns = Conns::new(Limits {
            young: Duration::from_hours(1),
            ..limits()
        });
        let slots = admit(&conns, HERE, 5);
        assert_eq!(shed(&slots), [true, false, false, false, false]);
    }

    #[test]
    fn busy_connections_are_left_alone() {
        let conns = Conns::new(limits());
        let first = admit(&conns, HERE, 1);
        let busy = first[0].entry().busy();
        let slots = admit(&conns, HERE, 3);
        assert_eq!(shed(&first), [false]);
        assert_eq!(shed(&slots), [true, false, false]);
        drop(busy);
        let _more = admit(&conns, HERE, 1);
        assert_eq!(shed(&first), [true]);
    }

    #[test]
    fn the_greediest_address_makes_room_in_all() {
        let conns = Conns::new(limits());
        let proxied: Vec<Slot> = (0..4)
            .map(|_| conns.admit(HERE, true).expect("room"))
            .collect();
        let good = admit(&conns, THERE, 2);
        let one_more = conns.admit(IpAddr::from([192, 0, 2, 3]), false);
        assert!(one_more.is_some());
        assert_eq!(shed(&proxied), [true, false, false, false]);
        assert_eq!(shed(&good), [false, false]);
    }

    #[test]
    fn nobody_is_let_in_when_all_are_busy() {
        let conns = Conns::new(limits());
        let slots: Vec<(Slot, Busy)> = (0..8)
            .map(|_| {
                let slot = conns.admit(HERE, false).expect("room");
                let busy = slot.entry().busy();
                (slot, busy)
            })
            .collect();
        assert!(conns.admit(THERE, false).is_none());
        drop(slots);
        assert!(conns.admit(THERE, false).is_some());
    }
}
