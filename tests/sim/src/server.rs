//! Owns the listener, starting and stopping, and the handle tests hold.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::config::SimConfig;
use crate::event::{Event, Log};
use crate::fault::{Fault, Kick};
use crate::http;
use crate::noise::ServerKey;
use crate::phone::Phone;
use crate::world::{Order, World};

/// What all connections share.
pub(crate) struct Inner {
    pub(crate) cfg: SimConfig,
    pub(crate) addr: SocketAddr,
    pub(crate) log: Log,
    /// Held for single steps only, never across an await.
    world: Mutex<World>,
    /// Replaced when the server's key is rotated.
    key: Mutex<Arc<ServerKey>>,
}

/// A running simulator. Cheap to clone; it stops when the last handle is dropped.
#[derive(Clone)]
pub struct Sim {
    pub(crate) inner: Arc<Inner>,
    listening: Arc<Listening>,
}

/// The task that accepts connections and owns theirs. Aborting it cuts them all.
struct Listening(Mutex<Option<Task>>);

struct Task {
    handle: JoinHandle<()>,
    /// Asks it to end by itself: then its connections have ended when it has.
    stop: Arc<Notify>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(task) = self.take() {
            task.handle.abort();
        }
    }
}

impl Listening {
    fn take(&self) -> Option<Task> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Inner {
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn server_key(&self) -> Arc<ServerKey> {
        let key = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&key)
    }
}

impl Sim {
    /// Starts on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// If this machine has no free port on its loopback address.
    pub async fn start() -> Self {
        Self::start_with(SimConfig::default()).await
    }

    /// Starts on a free port of 127.0.0.1, with other settings.
    ///
    /// # Panics
    /// If this machine has no free port on its loopback address.
    pub async fn start_with(cfg: SimConfig) -> Self {
        Self::start_on((Ipv4Addr::LOCALHOST, 0).into(), cfg)
            .await
            .expect("no free port on the loopback address")
    }

    /// Starts on an address of one's own choice, which must be a loopback one: it links phones without asking.
    pub async fn start_on(addr: SocketAddr, cfg: SimConfig) -> io::Result<Self> {
        if !addr.ip().is_loopback() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the simulator listens on loopback addresses only",
            ));
        }
        let listener = TcpListener::bind(addr).await?;
        let sim = Self {
            inner: Arc::new(Inner {
                cfg,
                addr: listener.local_addr()?,
                log: Log::new(),
                world: Mutex::default(),
                key: Mutex::new(Arc::new(ServerKey::generate())),
            }),
            listening: Arc::new(Listening(Mutex::new(None))),
        };
        sim.listen(listener);
        Ok(sim)
    }

    fn listen(&self, listener: TcpListener) {
        let inner = Arc::clone(&self.inner);
        // Weak: the task must not keep alive the handle whose drop ends it.
        let listening = Arc::downgrade(&self.listening);
        let handle = move || {
            listening.upgrade().map(|listening| Sim {
                inner: Arc::clone(&inner),
                listening,
            })
        };
        let stop = Arc::new(Notify::new());
        let task = Task {
            handle: tokio::spawn(http::accept_loop(listener, handle, Arc::clone(&stop))),
            stop,
        };
        let slot = self.listening.0.lock();
        *slot.unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    /// Where a companion connects to.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ws://{}/ws/chat", self.inner.addr)
    }

    /// The address it listens on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.inner.addr
    }

    /// An outage: the port is closed and every socket is cut. Accounts and linked companions are kept.
    pub async fn stop(&self) {
        if let Some(task) = self.listening.take() {
            task.stop.notify_one();
            let _ = task.handle.await;
        }
    }

    /// Ends an outage, on the same port. Nothing happens if there is none.
    ///
    /// # Panics
    /// If somebody else has taken the port meanwhile.
    pub async fn resume(&self) {
        let running = {
            let task = self.listening.0.lock();
            task.unwrap_or_else(PoisonError::into_inner).is_some()
        };
        if !running {
            let listener = TcpListener::bind(self.inner.addr)
                .await
                .expect("the simulator's port was taken by somebody else");
            self.listen(listener);
        }
    }

    /// Replaces the server's static key, as WhatsApp does at times: clients that remember the old one are answered
    /// in the XX shape and have to fall back.
    pub fn rotate_server_key(&self) {
        let mut key = self
            .inner
            .key
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *key = Arc::new(ServerKey::generate());
    }

    /// The phone of a number: digits only, with the country code. Made on first use.
    #[must_use]
    pub fn phone(&self, number: &str) -> Phone {
        let reported = {
            let mut world = self.inner.world();
            let reported = world.reported(number);
            world.account(&reported);
            reported
        };
        Phone::new(self.clone(), reported)
    }

    /// The phone of a number that WhatsApp knows under another one, as with Brazil's ninth digit: codes asked for
    /// `typed` are entered on this phone, and the companion is told `reported`.
    #[must_use]
    pub fn phone_as(&self, typed: &str, reported: &str) -> Phone {
        self.inner.world().alias(typed, reported);
        self.phone(reported)
    }

    /// All phones that were used so far, by number.
    #[must_use]
    pub fn phones(&self) -> Vec<Phone> {
        let mut numbers: Vec<String> = {
            let world = self.inner.world();
            world.accounts().map(|(number, _)| number.clone()).collect()
        };
        numbers.sort();
        numbers
            .into_iter()
            .map(|number| Phone::new(self.clone(), number))
            .collect()
    }

    /// How many companions are connected right now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.inner.world().conns.len()
    }

    /// How many ever were.
    #[must_use]
    pub fn total_connections(&self) -> u64 {
        self.inner.world().last_conn
    }

    /// How many codes were asked for this number, refused requests included.
    #[must_use]
    pub fn hellos(&self, number: &str) -> usize {
        let world = self.inner.world();
        world
            .hellos
            .get(&world.reported(number))
            .map_or(0, Vec::len)
    }

    /// Whether a code for this number could be typed now.
    #[must_use]
    pub fn has_pending_code(&self, number: &str) -> bool {
        let world = self.inner.world();
        world
            .pending
            .get(&world.reported(number))
            .is_some_and(|p| !p.gone && p.asked.elapsed() <= self.inner.cfg.code_ttl)
    }

    /// Orders trouble.
    pub fn fault(&self, mut fault: Fault) {
        let mut world = self.inner.world();
        fault.number = fault.number.map(|number| world.reported(&number));
        world.faults.push(fault);
    }

    /// Cancels all ordered trouble.
    pub fn clear_faults(&self) {
        self.inner.world().faults.clear();
    }

    /// Does something to the live connections of a number: those its companions are logged in on, and those that asked
    /// for a code for it, granted or not. Returns how many.
    #[allow(clippy::must_use_candidate)] // Most callers know how many there are.
    pub fn kick(&self, number: &str, kick: &Kick) -> usize {
        let world = self.inner.world();
        let number = world.reported(number);
        let struck = world.conns.values().filter(|handle| {
            handle.asked.as_ref() == Some(&number)
                || handle
                    .login
                    .as_ref()
                    .is_some_and(|(whose, _)| *whose == number)
        });
        let mut count = 0;
        for handle in struck {
            count += 1;
            if *kick == Kick::Cut {
                // Not through the mailbox: a connection that stands still is cut too.
                handle.cut.notify_one();
            } else {
                let _ = handle.orders.send(Order::Kick(kick.clone()));
            }
        }
        count
    }

    /// Everything that has happened.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.inner.log.all()
    }

    /// Time since it was started, as in [`Event::at`].
    #[must_use]
    pub fn uptime(&self) -> std::time::Duration {
        self.inner.log.uptime()
    }

    /// The sequence number of the newest event: what [`Sim::wait_for_after`] can start from.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.inner.log.newest()
    }

    /// The first event after a sequence number, however long it takes.
    pub async fn next_event(&self, after: u64) -> Event {
        loop {
            let day = std::time::Duration::from_hours(24);
            if let Some(event) = self.inner.log.wait_for(after, day, |_| true).await {
                return event;
            }
        }
    }

    /// Waits for something to happen, or to have happened already.
    ///
    /// # Panics
    /// If it does not within [`SimConfig::wait_limit`]: the message holds everything that did.
    pub async fn wait_for(&self, what: impl Fn(&Event) -> bool) -> Event {
        self.wait_for_after(0, what).await
    }

    /// Waits for something to happen after a [`Sim::mark`].
    ///
    /// # Panics
    /// If it does not within [`SimConfig::wait_limit`]: the message holds everything that did.
    pub async fn wait_for_after(&self, mark: u64, what: impl Fn(&Event) -> bool) -> Event {
        let limit = self.inner.cfg.wait_limit;
        match self.inner.log.wait_for(mark, limit, what).await {
            Some(event) => event,
            None => panic!(
                "nothing of the kind happened within {limit:?}: {:#?}",
                self.events()
            ),
        }
    }
}
