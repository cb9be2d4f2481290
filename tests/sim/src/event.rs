//! Owns the log of what happened, and waiting for something to happen.
//! Nothing in it is a secret: no code, no key.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// How many events are remembered: enough for a hundred sessions' whole lives.
const KEPT: usize = 100_000;

/// Every point in a connection's life that is logged, and at which trouble can be ordered.
///
/// "Before" and "after" are meant literally: trouble ordered at [`Step::Hello`] strikes when the request was found
/// good and nothing was answered yet, at [`Step::HelloAnswered`] when the answer is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Step {
    /// A WebSocket was accepted; nothing was read from it.
    Open,
    /// The Noise handshake is done; nothing was said yet. The note names the pattern.
    Noise,
    /// The client wants to register as a new companion; before `pair-device`.
    Register,
    /// `pair-device` with its six refs was sent.
    PairDevice,
    /// A good `companion_hello` came; before the answer.
    Hello,
    /// `companion_hello` was answered with a ref.
    HelloAnswered,
    /// `companion_hello` was refused: the answer is on its way. The note says with what and why.
    HelloRefused,
    /// The person typed the code; before `primary_hello` is sent.
    PrimaryHello,
    /// `primary_hello` was sent.
    PrimaryHelloSent,
    /// `refresh_code` was sent.
    RefreshSent,
    /// A good `companion_finish` came; before the answer and before the phone sees it.
    Finish,
    /// `companion_finish` was answered and handed to the phone.
    FinishAnswered,
    /// `companion_finish` was refused. The note says why.
    FinishRefused,
    /// The phone accepted; before `pair-success` is sent.
    PairSuccess,
    /// `pair-success` was sent.
    PairSuccessSent,
    /// The client refused `pair-success`. The note says with what.
    PairRefused,
    /// `pair-device-sign` came and its signature is right; the link is not recorded yet.
    Sign,
    /// The link is recorded: the phone lists the companion. Before the 515.
    Linked,
    /// The restart demand (515) was sent.
    RestartSent,
    /// The client wants to log in; before its credentials are judged.
    Login,
    /// A login was refused. The note says with what.
    LoginRefused,
    /// `success` was sent.
    LoggedIn,
    /// Pre-keys were uploaded; before the answer.
    PreKeys,
    /// The client went active; before the answer.
    Active,
    /// An app-state sync was asked for; before the answer.
    AppState,
    /// The phone shared its app-state key.
    KeyShared,
    /// A message of [`Phone::send_text`](crate::Phone::send_text) was sent. The note is its id.
    MessageSent,
    /// The client acknowledged a message or notification. The note is its class and id.
    Acked,
    /// The client sent a receipt. The note is its type and id.
    Receipt,
    /// The client answered a ping of the server.
    Pong,
    /// The client pinged the server; before the answer.
    Ping,
    /// The phone's person unlinked a companion, or the companion logged itself out.
    Unlinked,
    /// A passkey demand was sent.
    PasskeySent,
    /// Ordered trouble struck. The note says which.
    Trouble,
    /// The connection ended. The note says why.
    Closed,
}

/// One thing that happened.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Counts up from 1 without gaps.
    pub seq: u64,
    /// Time since the simulator was started.
    pub at: Duration,
    /// Which connection; connections count from 1.
    pub conn: u64,
    /// The number as WhatsApp reports it, once the connection has one.
    pub number: Option<String>,
    /// What happened.
    pub step: Step,
    /// Details for people.
    pub note: String,
}

impl Event {
    /// Whether this is `step` of `number`.
    #[must_use]
    pub fn is(&self, step: Step, number: &str) -> bool {
        self.step == step && self.number.as_deref() == Some(number)
    }
}

/// The log. Readers wait on `changed`, which holds the newest sequence number.
pub(crate) struct Log {
    started: Instant,
    /// Guards the deque for pushes and scans only; never held across an await.
    events: Mutex<VecDeque<Event>>,
    changed: watch::Sender<u64>,
}

impl Log {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            events: Mutex::new(VecDeque::new()),
            changed: watch::Sender::new(0),
        }
    }

    pub(crate) fn push(&self, conn: u64, number: Option<&str>, step: Step, note: String) {
        let mut events = self.lock();
        let seq = events.back().map_or(0, |e| e.seq) + 1;
        if events.len() == KEPT {
            events.pop_front();
        }
        events.push_back(Event {
            seq,
            at: self.started.elapsed(),
            conn,
            number: number.map(str::to_owned),
            step,
            note,
        });
        // Under the lock, so that the number only ever grows.
        self.changed.send_replace(seq);
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn newest(&self) -> u64 {
        *self.changed.borrow()
    }

    pub(crate) fn all(&self) -> Vec<Event> {
        self.lock().iter().cloned().collect()
    }

    fn find(&self, after: u64, what: &dyn Fn(&Event) -> bool) -> Option<Event> {
        let events = self.lock();
        // They count up without gaps, so what came before need not be looked at.
        let first = events.front()?.seq;
        let skip = usize::try_from((after + 1).saturating_sub(first)).ok()?;
        events
            .range(skip.min(events.len())..)
            .find(|event| what(event))
            .cloned()
    }

    pub(crate) async fn wait_for(
        &self,
        after: u64,
        limit: Duration,
        what: impl Fn(&Event) -> bool,
    ) -> Option<Event> {
        let mut changed = self.changed.subscribe();
        let found = async {
            loop {
                changed.borrow_and_update();
                if let Some(event) = self.find(after, &what) {
                    return event;
                }
                if changed.changed().await.is_err() {
                    // The sender lives in `self`: it cannot have gone.
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(limit, found).await.ok()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
