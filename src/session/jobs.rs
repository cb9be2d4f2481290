//! Owns the work a session does that takes time: recording, probing, telling, wiping, starting, marking.
//! A job decides nothing: it does its steps in their order and says how far it came.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;
use tracing::{info, warn};
use whatsapp_rust::traits::DeviceStore;

use super::machine::{
    Input, Job, LeaveFailed, Leaving, Left, PrepareFailed, Prepared, Ticket, is_live,
};
use super::types::{Asker, By, CodeRequest, Replaced, ReplacedReason, UnixMs};
use crate::link::{Connector, Link, LinkEvent, Paired};
use crate::mask;
use crate::metrics::Metrics;
use crate::phone::Phone;
use crate::store::{
    Ended, EndedReason, Epoch, JournalEntry, JournalWhat, LinkRow, Linked, NewLink, Store,
    StoreError,
};

/// How long WhatsApp may take to confirm that it forgot a device.
const TELL: Duration = Duration::from_secs(5);
/// How long a client that is given up may take over its last words.
const STOP: Duration = Duration::from_secs(3);

/// A started client and what it reports.
pub(super) type Started = (Link, UnboundedReceiver<LinkEvent>);

/// What a job leaves behind.
pub(super) struct Done {
    pub(super) input: Input,
    /// The client it started.
    pub(super) started: Option<Started>,
}

/// What every job may use.
#[derive(Clone)]
pub(super) struct Tools {
    pub(super) session: String,
    pub(super) store: Store,
    pub(super) connector: Connector,
    pub(super) metrics: Arc<Metrics>,
    pub(super) probe_within: Duration,
}

impl Tools {
    /// Does the job. `link` is the client the session has now, `stopping` one that is on its way out.
    pub(super) async fn perform(
        self,
        ticket: Ticket,
        job: Job,
        row: Option<LinkRow>,
        link: Option<Link>,
        stopping: Option<JoinHandle<()>>,
    ) -> Done {
        let input = match job {
            Job::Journal(request) => Input::Journaled(ticket, self.journal(&request).await),
            Job::Probe => Input::Probed(ticket, self.connector.probe(self.probe_within).await),
            Job::Mark {
                paired,
                wrong,
                asker,
                took,
            } => Input::Marked(
                ticket,
                self.mark(row, link, &paired, wrong, &asker, took).await,
            ),
            Job::Prepare { request, tell, old } => {
                gone(stopping).await;
                return match self.prepare(&request, tell, old, link).await {
                    Ok((prepared, started)) => Done {
                        input: Input::Prepared(ticket, Ok(prepared)),
                        started: Some(started),
                    },
                    Err(failed) => Done {
                        input: Input::Prepared(ticket, Err(failed)),
                        started: None,
                    },
                };
            }
            Job::Start => {
                gone(stopping).await;
                if let Some(link) = link {
                    link.stop(STOP).await;
                }
                let started = match row {
                    Some(row) => self.start(row.epoch).await,
                    None => None,
                };
                return Done {
                    input: Input::Started(ticket, started.is_some()),
                    started,
                };
            }
            Job::Leave { tell, why, asker } => {
                gone(stopping).await;
                Input::Left(ticket, self.leave(tell, why, asker, row, link).await)
            }
        };
        Done {
            input,
            started: None,
        }
    }

    async fn journal(&self, request: &CodeRequest) -> bool {
        let entry = JournalEntry {
            phone: Some(request.phone.masked()),
            ..self.entry(JournalWhat::Requested, Some(&request.asker))
        };
        self.store.append_journal(vec![entry]).await.is_ok()
    }

    /// New client over the epoch's credentials. The moment before we answer the phone's acceptance
    /// is written down first: a power cut in between is then known as a half-link.
    async fn start(&self, epoch: Epoch) -> Option<Started> {
        let backend = Arc::new(self.store.backend(&self.session, epoch));
        let (store, session) = (self.store.clone(), self.session.clone());
        let before_finish = Box::new(move || {
            pollster::block_on(store.update_link(
                &session,
                epoch,
                Box::new(|row| row.finishing = true),
                Vec::new(),
            ))
            .is_ok()
        });
        match self.connector.start(backend, Some(before_finish)).await {
            Ok(started) => Some(started),
            Err(error) => {
                warn!(session = %self.session, %error, "no client could be started");
                None
            }
        }
    }

    async fn prepare(
        &self,
        request: &CodeRequest,
        tell: bool,
        mut old: Option<LinkRow>,
        link: Option<Link>,
    ) -> Result<(Prepared, Started), PrepareFailed> {
        let told = match (&old, tell) {
            (Some(row), true) => self.tell(row.epoch, link.as_ref()).await,
            _ => false,
        };
        if let Some(link) = link {
            // Bounded: a code that is being bundled holds the same lock.
            let _ = tokio::time::timeout(Duration::from_secs(1), link.cancel_code()).await;
            link.stop(STOP).await;
        }
        let mut again = true;
        let (row, replaced) = loop {
            let now = wall();
            let replaced = old.as_ref().map(|old| replaced(old, &request.phone, now));
            let next = NewLink {
                line: request.phone.line_key(),
                intended: request.phone.digits().to_owned(),
                now,
            };
            let journal = old
                .iter()
                .map(|old| self.wiped_entry(old, request, tell, told, now))
                .collect();
            let expected = old.as_ref().map(|row| row.epoch);
            match self
                .store
                .replace_link(&self.session, expected, Some(next), journal)
                .await
            {
                Ok(wiped) => {
                    if let (Some(old), Some(replaced)) = (&old, &replaced) {
                        self.metrics.wiped(Some(wiped.took));
                        if replaced.reason == ReplacedReason::PhoneMismatch {
                            self.metrics
                                .mismatch(replaced.was_linked, replaced.credential_age_seconds);
                        }
                        info!(
                            session = %self.session,
                            old = %old.masked(),
                            new = %request.phone.masked(),
                            was_linked = old.linked.is_some(),
                            took_us = u64::try_from(wiped.took.as_micros()).unwrap_or(u64::MAX),
                            "wiped the old link"
                        );
                    }
                    break (wiped.link, replaced);
                }
                Err(StoreError::StaleEpoch) if again => {
                    // Somebody removed the credentials by hand: what is there now decides.
                    again = false;
                    match self.store.link(&self.session) {
                        Ok(row) if !row.as_ref().is_some_and(is_live) => old = row,
                        Ok(row) => return Err(PrepareFailed { told, row }),
                        Err(_) => return Err(PrepareFailed { told, row: None }),
                    }
                }
                Err(error) => {
                    self.metrics.wiped(None);
                    warn!(session = %self.session, %error, "the old link could not be wiped");
                    return Err(PrepareFailed { told, row: None });
                }
            }
        };
        let Some(row) = row else {
            return Err(PrepareFailed {
                told: false,
                row: None,
            });
        };
        match self.start(row.epoch).await {
            Some(started) => Ok((Prepared { row, replaced }, started)),
            None => Err(PrepareFailed {
                told: false,
                row: Some(row),
            }),
        }
    }

    /// Tells WhatsApp to forget the device; over a new login where the link is not up.
    async fn tell(&self, epoch: Epoch, link: Option<&Link>) -> bool {
        if let Some(link) = link
            && link.is_open()
        {
            return link.tell_logout(TELL).await;
        }
        if let Some(link) = link {
            link.stop(STOP).await;
        }
        let login = async {
            let (link, mut events) = self.start(epoch).await?;
            let mut told = false;
            while let Some(event) = events.recv().await {
                match event {
                    LinkEvent::Connected => {
                        told = link.tell_logout(TELL).await;
                        break;
                    }
                    LinkEvent::Closed(_) => break,
                    _ => {}
                }
            }
            link.stop(STOP).await;
            Some(told)
        };
        matches!(tokio::time::timeout(TELL * 2, login).await, Ok(Some(true)))
    }

    /// Makes the new link durable: first the device, then the row that names it.
    async fn mark(
        &self,
        row: Option<LinkRow>,
        link: Option<Link>,
        paired: &Paired,
        wrong: bool,
        asker: &Asker,
        took: Duration,
    ) -> Result<LinkRow, ()> {
        let (Some(row), Some(link)) = (row, link) else {
            return Err(());
        };
        link.flush().await.map_err(|_| ())?;
        let now = wall();
        let reported = mask::digits(paired.phone.reveal());
        let entry = JournalEntry {
            phone: Some(reported.clone()),
            old_phone: wrong.then(|| row.masked()),
            duration_ms: Some(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            outcome: Some(if wrong { "wrong_phone" } else { "linked" }.to_owned()),
            ..self.entry(
                if wrong {
                    JournalWhat::WrongPhone
                } else {
                    JournalWhat::Linked
                },
                Some(asker),
            )
        };
        let linked = linked_row(paired, now);
        let row = self
            .store
            .update_link(
                &self.session,
                row.epoch,
                Box::new(move |row| {
                    row.linked = Some(linked.clone());
                    row.finishing = false;
                    row.halted = None;
                    // A crash before the unlinking must not bring a foreign number up as our link.
                    row.ended = wrong.then_some(Ended {
                        at: now,
                        reason: EndedReason::WrongPhone,
                    });
                }),
                vec![entry],
            )
            .await
            .map_err(|_| ())?;
        self.metrics.linked(took);
        info!(session = %self.session, phone = %reported, wrong, took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX), "linked");
        Ok(row)
    }

    async fn leave(
        &self,
        tell: bool,
        why: Leaving,
        asker: Option<Asker>,
        row: Option<LinkRow>,
        link: Option<Link>,
    ) -> Result<Left, LeaveFailed> {
        let told = match (&row, tell) {
            (Some(row), true) => self.tell(row.epoch, link.as_ref()).await,
            _ => false,
        };
        if let Some(link) = link {
            link.stop(STOP).await;
        }
        let Some(row) = row else {
            return Ok(Left { told });
        };
        let now = wall();
        let entry = JournalEntry {
            old_phone: Some(row.masked()),
            was_linked: Some(row.linked.is_some()),
            credential_age_seconds: Some(age(&row, now)),
            last_connected: row.last_connected,
            outcome: Some(
                match (tell, told) {
                    (true, true) => "told",
                    (true, false) => "phone_still_lists_it",
                    (false, _) => "not_linked",
                }
                .to_owned(),
            ),
            ..self.entry(JournalWhat::Unlinked, asker.as_ref())
        };
        match self
            .store
            .replace_link(&self.session, Some(row.epoch), None, vec![entry])
            .await
        {
            Ok(wiped) => {
                self.metrics.wiped(Some(wiped.took));
                info!(session = %self.session, phone = %row.masked(), told, wrong_phone = why == Leaving::WrongPhone, "unlinked and wiped");
                Ok(Left { told })
            }
            // Removed by hand meanwhile: that is what was wanted.
            Err(StoreError::StaleEpoch) => Ok(Left { told }),
            Err(error) => {
                self.metrics.wiped(None);
                warn!(session = %self.session, %error, "the link could not be wiped");
                Err(LeaveFailed { told })
            }
        }
    }

    fn wiped_entry(
        &self,
        old: &LinkRow,
        request: &CodeRequest,
        confirmed: bool,
        told: bool,
        now: UnixMs,
    ) -> JournalEntry {
        let mismatch = old.line != request.phone.line_key();
        JournalEntry {
            phone: Some(request.phone.masked()),
            old_phone: Some(old.masked()),
            confirmed: Some(confirmed),
            was_linked: Some(old.linked.is_some()),
            credential_age_seconds: Some(age(old, now)),
            last_connected: old.last_connected,
            outcome: confirmed
                .then(|| if told { "told" } else { "phone_still_lists_it" }.to_owned()),
            ..self.entry(
                if mismatch {
                    JournalWhat::MismatchWiped
                } else {
                    JournalWhat::LeftoversWiped
                },
                Some(&request.asker),
            )
        }
    }

    pub(super) fn entry(&self, what: JournalWhat, asker: Option<&Asker>) -> JournalEntry {
        JournalEntry {
            by: asker.map(|asker| {
                match asker.by {
                    By::Page => "page",
                    By::Api => "api",
                    By::Terminal => "terminal",
                }
                .to_owned()
            }),
            user_agent: asker.and_then(|asker| asker.user_agent.clone()),
            ..JournalEntry::new(wall(), &self.session, what)
        }
    }

    /// What is stored at the start. A link that became durable although its row did not say so yet
    /// (power lost in between) is a whole link.
    pub(super) async fn found(&self) -> Result<Option<LinkRow>, StoreError> {
        let row = self.store.link(&self.session)?;
        let Some(half) = row
            .as_ref()
            .filter(|row| row.finishing && row.linked.is_none())
        else {
            return Ok(row);
        };
        let device = self
            .store
            .backend(&self.session, half.epoch)
            .load()
            .await
            .ok()
            .flatten();
        let Some(jid) = device.as_ref().and_then(|device| device.pn.clone()) else {
            return Ok(row);
        };
        let same = Phone::from_e164_digits(&jid.user)
            .is_ok_and(|reported| reported.line_key() == half.line);
        let linked = Linked {
            at: wall(),
            phone: jid.user.to_string(),
            jid: jid.to_string(),
            lid: device
                .and_then(|device| device.lid)
                .map(|lid| lid.to_string()),
        };
        let now = wall();
        self.store
            .update_link(
                &self.session,
                half.epoch,
                Box::new(move |row| {
                    row.linked = Some(linked.clone());
                    row.finishing = false;
                    row.ended = (!same).then_some(Ended {
                        at: now,
                        reason: EndedReason::WrongPhone,
                    });
                }),
                vec![JournalEntry {
                    phone: Some(mask::digits(&jid.user)),
                    outcome: Some("after_restart".to_owned()),
                    ..self.entry(JournalWhat::Linked, None)
                }],
            )
            .await
            .map(Some)
    }
}

fn linked_row(paired: &Paired, now: UnixMs) -> Linked {
    Linked {
        at: now,
        phone: paired.phone.reveal().to_owned(),
        jid: paired.jid.reveal().to_owned(),
        lid: paired.lid.as_ref().map(|lid| lid.reveal().to_owned()),
    }
}

fn replaced(old: &LinkRow, phone: &Phone, now: UnixMs) -> Replaced {
    Replaced {
        reason: if old.line == phone.line_key() {
            ReplacedReason::StaleCredentials
        } else {
            ReplacedReason::PhoneMismatch
        },
        old_phone: Some(old.masked()),
        was_linked: old.linked.is_some(),
        credential_age_seconds: age(old, now),
    }
}

fn age(row: &LinkRow, now: UnixMs) -> u64 {
    u64::try_from(now.saturating_sub(row.created_at) / 1000).unwrap_or(0)
}

/// Waits for a client that is on its way out: one connection of a session at a time.
async fn gone(stopping: Option<JoinHandle<()>>) {
    if let Some(stopping) = stopping {
        // A panic there has been logged; the client is gone either way.
        let _ = stopping.await;
    }
}

/// The wall clock, in Unix milliseconds.
pub(super) fn wall() -> UnixMs {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            UnixMs::try_from(since.as_millis()).unwrap_or(UnixMs::MAX)
        })
}
