//! Owns what the page and the terminal reach: the sessions, or, while the store cannot be used, the truth about that
//! and no empty start.

use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::broadcast;

use super::Running;
use crate::error::Code;
use crate::exit::ExitError;
use crate::metrics::Metrics;
use crate::session::{
    self, Asker, CodeRequest, PairingCode, RequestError, Session, SessionEvent, Sessions, State,
    Status, View,
};
use crate::store::{Occupied, Store, StoreError};
use crate::web::{self, Counts};

pub(super) struct Port {
    /// Held for a moment; written by the start, and by whoever waits for the disk.
    behind: RwLock<Behind>,
    metrics: Arc<Metrics>,
    /// Held for one look at the metrics: what is read off elsewhere is written and told in one go.
    looking: Mutex<()>,
    counts: Arc<Counts>,
}

/// What is behind the page.
enum Behind {
    Sessions(Arc<Running>),
    Nothing(Fault),
}

struct Fault {
    why: ExitError,
    /// Whoever mends the store stops the appliance first: it would not notice.
    occupied: Option<Occupied>,
    /// Nothing is ever sent. Pages wait on it, and look anew when it is gone.
    events: broadcast::Sender<SessionEvent>,
}

impl Port {
    /// In front of nothing yet.
    pub(super) fn new(metrics: Arc<Metrics>, counts: Arc<Counts>) -> Self {
        Self {
            behind: RwLock::new(Behind::Nothing(Fault {
                why: ExitError::failed("the store is not open yet"),
                occupied: None,
                events: broadcast::channel(1).0,
            })),
            metrics,
            looking: Mutex::new(()),
            counts,
        }
    }

    pub(super) fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// There is no store, and why. Nobody comes near its files while they are occupied.
    pub(super) fn refuse(&self, why: ExitError, occupied: Occupied) {
        if let Behind::Nothing(fault) = &mut *self.behind_alone() {
            fault.why = why;
            fault.occupied = Some(occupied);
        }
    }

    /// Whoever opens the store may have its files.
    pub(super) fn let_in(&self) {
        if let Behind::Nothing(fault) = &mut *self.behind_alone() {
            fault.occupied = None;
        }
    }

    /// There is a store; the pages that wait for it look anew.
    pub(super) fn fill(&self, running: Running) {
        *self.behind_alone() = Behind::Sessions(Arc::new(running));
    }

    pub(super) fn running(&self) -> Option<Arc<Running>> {
        match &*self.behind() {
            Behind::Sessions(running) => Some(Arc::clone(running)),
            Behind::Nothing(_) => None,
        }
    }

    /// The store, or why it cannot be used.
    pub(super) fn store(&self) -> Result<Store, ExitError> {
        let store = match &*self.behind() {
            Behind::Sessions(running) => running.store.clone(),
            Behind::Nothing(fault) => return Err(fault.why.clone()),
        };
        match store.check() {
            Err(error @ StoreError::Damaged) => Err(error.into()),
            _ => Ok(store),
        }
    }

    fn behind(&self) -> RwLockReadGuard<'_, Behind> {
        self.behind.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn behind_alone(&self) -> RwLockWriteGuard<'_, Behind> {
        self.behind.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> Result<Arc<Sessions>, RequestError> {
        match &*self.behind() {
            Behind::Sessions(running) => Ok(Arc::clone(&running.sessions)),
            Behind::Nothing(_) => Err(Code::StoreUnavailable.into()),
        }
    }

    fn session(&self, id: &str) -> Result<Session, RequestError> {
        self.sessions()?
            .get(id)
            .ok_or_else(|| Code::NoSuchSession.into())
    }

    /// Reads off elsewhere what is not counted as it happens, and tells it while nobody else reads: the states are
    /// those that everybody sees at this moment, never those of a moment before or after.
    fn look<T>(&self, told: impl FnOnce(&Metrics) -> T) -> T {
        let _one_at_a_time = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        let size = self
            .running()
            .map_or(0, |running| running.store.size_bytes());
        self.metrics
            .set_gauges(size, self.counts.websockets(), self.counts.login_failures());
        let all = web::Sessions::list(self);
        self.metrics.set_states(
            all.iter()
                .map(|status| (status.session.as_str(), status.state.as_str())),
        );
        told(&self.metrics)
    }
}

/// What is shown of a session without a store.
fn without_store(id: &str) -> Option<View> {
    (id == session::DEFAULT).then(|| View {
        status: Status {
            session: id.to_owned(),
            state: State::StoreUnavailable,
            name: "Salon".to_owned(),
            phone: None,
            since: 0,
            last_connected: None,
            until: None,
            reason: Some(Code::StoreUnavailable),
        },
        code: None,
        qr: None,
    })
}

#[async_trait]
impl web::Sessions for Port {
    fn list(&self) -> Vec<Status> {
        match self.sessions() {
            Ok(sessions) => sessions.list(),
            Err(_) => without_store(session::DEFAULT)
                .into_iter()
                .map(|view| view.status)
                .collect(),
        }
    }

    fn view(&self, id: &str) -> Option<View> {
        match self.sessions() {
            Ok(sessions) => sessions.get(id).map(|session| session.view()),
            Err(_) => without_store(id),
        }
    }

    fn subscribe(&self, id: &str) -> Option<(View, broadcast::Receiver<SessionEvent>)> {
        match &*self.behind() {
            Behind::Sessions(running) => {
                let session = running.sessions.get(id);
                session.map(|session| session.subscribe())
            }
            Behind::Nothing(fault) => {
                without_store(id).map(|view| (view, fault.events.subscribe()))
            }
        }
    }

    async fn request_code(
        &self,
        id: &str,
        request: CodeRequest,
    ) -> Result<PairingCode, RequestError> {
        self.session(id)?.request_code(request).await
    }

    async fn cancel(&self, id: &str, _asker: Asker) -> Result<(), RequestError> {
        self.session(id)?.cancel().await
    }

    async fn reconnect(&self, id: &str, _asker: Asker) -> Result<(), RequestError> {
        self.session(id)?.reconnect().await
    }

    async fn unlink(&self, id: &str, asker: Asker) -> Result<(), RequestError> {
        self.session(id)?.unlink(asker).await
    }

    async fn put(&self, id: &str, name: &str) -> Result<bool, RequestError> {
        self.sessions()?.put(id, name).await
    }

    async fn remove(&self, id: &str, asker: Asker) -> Result<(), RequestError> {
        self.sessions()?.remove(id, asker).await
    }

    fn audit(&self, session: Option<&str>, limit: usize) -> Result<Value, RequestError> {
        let entries = self
            .sessions()?
            .journal(session, limit)
            .map_err(|_| RequestError::from(Code::StoreUnavailable))?;
        serde_json::to_value(entries).map_err(|_| Code::Internal.into())
    }

    fn healthy(&self) -> bool {
        self.sessions().is_ok_and(|sessions| sessions.healthy())
    }

    fn metrics_json(&self) -> Value {
        self.look(Metrics::json)
    }

    fn metrics_text(&self) -> String {
        self.look(Metrics::text)
    }
}
