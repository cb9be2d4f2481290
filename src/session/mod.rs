//! Owns the sessions: one task each, the only owner of its link, and the list of them.
//! Everybody else holds a handle: commands go in through it, a view and events come out.

mod driver;
mod jobs;
mod machine;
mod rest;
mod types;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::clock;
use crate::error::Code;
use crate::link::Connector;
use crate::metrics::Metrics;
use crate::store::{JournalEntry, JournalWhat, Store, StoreError};
use driver::{Command, Driver, Shown};
use jobs::{Tools, Turn};
use machine::Limits;

pub use rest::at_rest;
pub use types::{
    Asker, By, CodeRequest, EndReason, PairingCode, Qr, Replaced, ReplacedReason, RequestError,
    SessionEvent, State, Status, UnixMs, View,
};

/// The slot that always exists.
pub const DEFAULT: &str = "salon";

/// Commands that may wait for one session: more than that many people do not ask at once.
const MAILBOX: usize = 256;
/// Events that a slow page may lag behind before it is given a snapshot instead.
const EVENTS: usize = 64;

/// The figures of contract section 1 that sessions keep to.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long a code lives.
    pub code_ttl: Duration,
    /// How much of that is not shown.
    pub code_grace: Duration,
    /// How long a request may be without a connection.
    pub connect_timeout: Duration,
    /// Requests per number and hour; 0 is no limit.
    pub requests_per_number: u32,
    /// How many sessions there may be.
    pub most: usize,
}

/// One session, as everybody else sees it. Clones are the same session.
#[derive(Clone)]
pub struct Session {
    /// Bounded: whoever floods a session waits.
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<View>,
    events: broadcast::Sender<SessionEvent>,
    /// Set before its task ends because the slot was removed.
    removed: Arc<AtomicBool>,
}

impl Session {
    /// What there is to see now.
    #[must_use]
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// What there is to see now, and everything that happens from now on.
    #[must_use]
    pub fn subscribe(&self) -> (View, broadcast::Receiver<SessionEvent>) {
        // Subscribed first: what happens in between is told twice rather than never.
        let events = self.events.subscribe();
        (self.view(), events)
    }

    /// Asks for a pairing code; answers once there is one.
    ///
    /// # Errors
    /// Why there will be none, in the order of the checks of contract section 3.
    pub async fn request_code(&self, request: CodeRequest) -> Result<PairingCode, RequestError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Ask(request, reply)).await?;
        answer.await.unwrap_or_else(|_| Err(self.over()))
    }

    /// Ends the open request and its code.
    ///
    /// # Errors
    /// `LINKING_IN_PROGRESS` once the phone has taken the code.
    pub async fn cancel(&self) -> Result<(), RequestError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Cancel(reply)).await?;
        answer.await.unwrap_or_else(|_| Err(self.over()))
    }

    /// Tries to connect now; takes a replaced link back.
    ///
    /// # Errors
    /// When the program is stopping.
    pub async fn reconnect(&self) -> Result<(), RequestError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Reconnect(reply)).await?;
        answer.await.unwrap_or_else(|_| Err(self.over()))
    }

    /// Tells WhatsApp to forget the link, then wipes it.
    ///
    /// # Errors
    /// `LINKING_IN_PROGRESS`, or `STORE_UNAVAILABLE` when the wipe failed.
    pub async fn unlink(&self, asker: Asker) -> Result<(), RequestError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Unlink(asker, reply)).await?;
        answer.await.unwrap_or_else(|_| Err(self.over()))
    }

    /// Whether its task turns: true once it says so, or was removed; false when it has ended without being told to.
    pub async fn turns(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Turn(reply)).await.is_ok();
        (sent && answer.await.is_ok()) || self.removed.load(Ordering::SeqCst)
    }

    async fn send(&self, command: Command) -> Result<(), RequestError> {
        self.commands.send(command).await.map_err(|_| self.over())
    }

    /// Why nobody answers any more.
    fn over(&self) -> RequestError {
        if self.removed.load(Ordering::SeqCst) {
            Code::NoSuchSession.into()
        } else {
            Code::ShuttingDown.into()
        }
    }

    async fn remove(&self) -> Result<(), RequestError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Remove(reply)).await?;
        answer.await.unwrap_or_else(|_| Err(self.over()))
    }

    async fn stop(&self) {
        let (stopped, done) = oneshot::channel();
        if self.commands.send(Command::Stop(stopped)).await.is_ok() {
            // A task that ended meanwhile has stopped as well.
            let _ = done.await;
        }
    }
}

/// All sessions of the appliance.
pub struct Sessions {
    store: Store,
    connector: Connector,
    settings: Settings,
    metrics: Arc<Metrics>,
    /// Read on every request, written when a slot is added or removed.
    all: RwLock<BTreeMap<String, Session>>,
    /// Held while a slot is added or removed: two at once must not both find room, or the same place.
    slots: tokio::sync::Mutex<()>,
}

impl Sessions {
    /// Starts a task for every stored session, and for the default one.
    ///
    /// # Errors
    /// When the store cannot be read or the default slot not be added.
    pub async fn start(
        store: Store,
        connector: Connector,
        settings: Settings,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, StoreError> {
        let mut stored = store.sessions()?;
        if !stored.iter().any(|row| row.id == DEFAULT) {
            store.put_session(DEFAULT, "Salon", clock::wall()).await?;
            stored = store.sessions()?;
        }
        let sessions = Arc::new(Self {
            store,
            connector,
            settings,
            metrics,
            all: RwLock::new(BTreeMap::new()),
            slots: tokio::sync::Mutex::new(()),
        });
        let looks: Vec<_> = stored
            .iter()
            .map(|row| sessions.spawn(&row.id, &row.name))
            .collect();
        // Nobody is told anything before every session has looked at what is stored.
        for look in looks {
            // One that broke has said so in the log.
            let _ = look.await;
        }
        Ok(sessions)
    }

    /// The session of that id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Session> {
        self.all
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .cloned()
    }

    /// Every session, by its id.
    #[must_use]
    pub fn all(&self) -> Vec<(String, Session)> {
        self.all
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(id, session)| (id.clone(), session.clone()))
            .collect()
    }

    /// The statuses of all sessions, the default one first.
    #[must_use]
    pub fn list(&self) -> Vec<Status> {
        let mut all: Vec<Status> = self
            .all
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .map(|session| session.view().status)
            .collect();
        all.sort_by_key(|status| (status.session != DEFAULT, status.session.clone()));
        all
    }

    /// Adds a slot, or renames it; whether it was added.
    ///
    /// # Errors
    /// When the store cannot commit, or there are as many slots as there may be.
    pub async fn put(self: &Arc<Self>, id: &str, name: &str) -> Result<bool, RequestError> {
        let (sessions, id, name) = (Arc::clone(self), id.to_owned(), name.to_owned());
        to_its_end(async move { sessions.put_slot(&id, &name).await }).await
    }

    async fn put_slot(&self, id: &str, name: &str) -> Result<bool, RequestError> {
        let _one_at_a_time = self.slots.lock().await;
        let known = self.get(id);
        let count = self
            .all
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len();
        if known.is_none() && count >= self.settings.most {
            return Err(RequestError {
                reason: Some("too_many_sessions"),
                ..Code::RateLimited.into()
            });
        }
        let added = self
            .store
            .put_session(id, name, clock::wall())
            .await
            .map_err(|_| RequestError::from(Code::StoreUnavailable))?;
        match known {
            Some(session) => session.send(Command::Rename(name.to_owned())).await?,
            None => drop(self.spawn(id, name)),
        }
        Ok(added)
    }

    /// Unlinks and wipes a session and removes its slot.
    ///
    /// # Errors
    /// When its unlinking fails; the slot then stays.
    pub async fn remove(self: &Arc<Self>, id: &str, asker: Asker) -> Result<(), RequestError> {
        let (sessions, id) = (Arc::clone(self), id.to_owned());
        to_its_end(async move { sessions.remove_slot(&id, asker).await }).await
    }

    async fn remove_slot(&self, id: &str, asker: Asker) -> Result<(), RequestError> {
        let session = self
            .get(id)
            .ok_or_else(|| RequestError::from(Code::NoSuchSession))?;
        session.unlink(asker).await?;
        // Only now: an unlinking may take its time, and others need not wait for it.
        let _one_at_a_time = self.slots.lock().await;
        session.remove().await?;
        self.all
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
        // Nobody may be looking.
        let _ = session.events.send(SessionEvent::Removed);
        Ok(())
    }

    /// The journal, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn journal(
        &self,
        session: Option<&str>,
        limit: usize,
    ) -> Result<Vec<JournalEntry>, StoreError> {
        self.store.journal(session, limit)
    }

    /// Whether the store can be used now: a session that could not write says so until it can.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.store.check().is_ok()
            && self
                .all
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .values()
                .all(|session| session.view.borrow().status.state != State::StoreUnavailable)
    }

    /// Writes one entry that concerns no single request.
    ///
    /// # Errors
    /// When the store cannot commit.
    pub async fn note(&self, session: &str, what: JournalWhat) -> Result<(), StoreError> {
        self.store
            .append_journal(vec![JournalEntry::new(clock::wall(), session, what)])
            .await
    }

    /// Stops every session, all at once, and awaits them.
    pub async fn stop(&self) {
        let mut stops = tokio::task::JoinSet::new();
        for (_, session) in self.all() {
            stops.spawn(async move { session.stop().await });
        }
        while stops.join_next().await.is_some() {}
    }

    /// Starts a session's task; the answer comes once it has looked at what is stored.
    fn spawn(&self, id: &str, name: &str) -> oneshot::Receiver<()> {
        let (looking, looked) = oneshot::channel();
        let (commands, mailbox) = mpsc::channel(MAILBOX);
        let removed = Arc::new(AtomicBool::new(false));
        let (view_sender, view) = watch::channel(driver::first_view(id, name, clock::wall()));
        let (events, _) = broadcast::channel(EVENTS);
        let driver = Driver::new(
            Tools {
                session: id.to_owned(),
                store: self.store.clone(),
                connector: self.connector.clone(),
                metrics: Arc::clone(&self.metrics),
                probe_within: self.settings.connect_timeout,
                turn: Turn::default(),
            },
            Limits {
                code_ttl: self.settings.code_ttl,
                code_grace: self.settings.code_grace,
                connect_timeout: self.settings.connect_timeout,
            },
            self.settings.requests_per_number,
            Shown {
                view: view_sender,
                events: events.clone(),
                removed: Arc::clone(&removed),
            },
        );
        tokio::spawn(driver.run(mailbox, looking));
        self.all
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(
                id.to_owned(),
                Session {
                    commands,
                    view,
                    events,
                    removed,
                },
            );
        looked
    }
}

/// A slot that is half added or half removed is nobody's: what was begun goes on although nobody waits any more.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, RequestError>> + Send + 'static,
) -> Result<T, RequestError> {
    tokio::spawn(work)
        .await
        .unwrap_or_else(|_| Err(Code::Internal.into()))
}
