//! Owns the proof that the appliance turns: whatever must turn is asked over and over whether it does, and systemd's
//! watchdog is fed only while all of it answers. It mends nothing: what stands still is for the watchdog to end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{error, info};

use super::port::Port;
use crate::systemd;
use crate::web::Web;

/// How long whatever waits for the disk or for WhatsApp may take over its answer: a card that is slow over one sync, or
/// a client that says its last words, is not mended by killing the program.
const PATIENCE: Duration = Duration::from_secs(30);
/// Questions per watchdog time: three may be late.
const BEATS: u32 = 4;

/// Asks all that must turn.
pub struct Pulse {
    web: Arc<Web>,
    port: Arc<Port>,
    patience: Duration,
    /// By whom, in words; each has at most one question at a time.
    asked: BTreeMap<String, Question>,
}

struct Question {
    since: Instant,
    answer: JoinHandle<bool>,
}

impl Pulse {
    pub(super) fn new(web: Arc<Web>, port: Arc<Port>) -> Self {
        Self {
            web,
            port,
            patience: PATIENCE,
            asked: BTreeMap::new(),
        }
    }

    /// The same with less or more patience.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Feeds systemd's watchdog, if there is one, as long as everything turns. Dropped when the appliance stops.
    pub async fn feed(mut self) {
        let Some(within) = systemd::watchdog() else {
            return;
        };
        let mut beats = tokio::time::interval(within / BEATS);
        let mut stood = Vec::new();
        loop {
            beats.tick().await;
            let still = self.beat().await;
            if still.is_empty() {
                systemd::turning();
            }
            if still != stood {
                if still.is_empty() {
                    info!("everything turns again");
                } else {
                    error!(what = %still.join(", "), "stands still; unless it turns again, systemd starts the program anew");
                }
                stood = still;
            }
        }
    }

    /// Hears the answers, and asks again whoever gave one: what stands still, in words. Never waits for an answer.
    pub async fn beat(&mut self) -> Vec<String> {
        let mut still = Vec::new();
        let mut open = BTreeMap::new();
        for (who, question) in std::mem::take(&mut self.asked) {
            if !question.answer.is_finished() {
                if question.since.elapsed() >= self.patience {
                    still.push(who.clone());
                }
                open.insert(who, question);
            } else if !question.answer.await.unwrap_or(false) {
                // Its end is gone: nobody will ever answer.
                still.push(who);
            }
        }
        self.asked = open;
        self.ask("the page", {
            let web = Arc::clone(&self.web);
            async move { web.turns().await }
        });
        if let Some(running) = self.port.running() {
            self.ask("the store", {
                let store = running.store.clone();
                async move { store.turns().await }
            });
            for (id, session) in running.sessions.all() {
                self.ask(
                    &format!("session {id}"),
                    async move { session.turns().await },
                );
            }
        }
        still
    }

    fn ask(&mut self, who: &str, turns: impl Future<Output = bool> + Send + 'static) {
        self.asked
            .entry(who.to_owned())
            .or_insert_with(|| Question {
                since: Instant::now(),
                answer: tokio::spawn(turns),
            });
    }
}
