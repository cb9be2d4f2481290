//! Owns the work a session does that takes time: recording, probing, telling, wiping, starting, marking.
//! A job decides nothing: it does its steps in their order and says how far it came.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::JoinHandle;
use tracing::{info, warn};
use whatsapp_rust::traits::DeviceStore;

use super::machine::{
    Input, Job, LeaveFailed, Leaving, Left, PrepareFailed, Prepared, Ticket, is_live, is_readable,
};
use super::types::{Asker, By, CodeRequest, Replaced, ReplacedReason, UnixMs};
use crate::clock;
use crate::error::Code;
use crate::link::{Close, Connector, Hooks, Link, LinkEvent, Paired};
use crate::mask;
use crate::metrics::Metrics;
use crate::phone::Phone;
use crate::store::{
    Ended, EndedReason, Epoch, JournalEntry, JournalWhat, LinkRow, Linked, NewLink, Store,
    StoreError,
};

/// The name under which the last trouble's time is kept among the store's settings.
const TROUBLE: &str = "last_trouble";
/// How long WhatsApp may take to confirm that it forgot a device.
const TELL: Duration = Duration::from_secs(5);
/// How long a client that is given up may take over its last words.
const STOP: Duration = Duration::from_secs(3);

/// A started client and what it reports.
pub(super) type Started = (Link, UnboundedReceiver<LinkEvent>);

/// Whose turn it is with the session's client: one job at a time starts, stops or tells one.
/// A job that is overtaken by a newer one leaves no client behind.
#[derive(Clone, Default)]
pub(super) struct Turn {
    /// The job whose client is wanted; 0 is none.
    newest: Arc<AtomicU64>,
    /// Fair, so the jobs come in their order. Held from a job's begin until the session has taken its client.
    slot: Arc<Mutex<()>>,
}

impl Turn {
    pub(super) fn belongs_to(&self, ticket: Ticket) -> bool {
        self.newest.load(Ordering::SeqCst) == ticket
    }

    /// From now on only this job's client is wanted.
    pub(super) fn give(&self, ticket: Ticket) {
        self.newest.store(ticket, Ordering::SeqCst);
    }

    /// No job's client is wanted any more.
    pub(super) fn nobody(&self) {
        self.give(0);
    }
}

/// What a job leaves behind.
pub(super) struct Done {
    pub(super) ticket: Ticket,
    pub(super) input: Input,
    /// The client it started.
    pub(super) started: Option<Started>,
    /// Let go once that client has an owner or is gone.
    pub(super) turn: Option<OwnedMutexGuard<()>>,
}

impl Done {
    fn only(ticket: Ticket, input: Input) -> Self {
        Self {
            ticket,
            input,
            started: None,
            turn: None,
        }
    }
}

/// What every job may use.
#[derive(Clone)]
pub(super) struct Tools {
    pub(super) session: String,
    pub(super) store: Store,
    pub(super) connector: Connector,
    pub(super) metrics: Arc<Metrics>,
    pub(super) probe_within: Duration,
    pub(super) turn: Turn,
}

/// The client the session has when a job begins, and one that is on its way out.
pub(super) struct Present {
    pub(super) row: Option<LinkRow>,
    pub(super) link: Option<Link>,
    pub(super) stopping: Option<JoinHandle<()>>,
}

impl Job {
    /// Whether it ends the present client: nothing that one reports counts any more.
    pub(super) fn owns_client(&self) -> bool {
        matches!(
            self,
            Self::Prepare { .. } | Self::Start | Self::Leave { .. }
        )
    }

    /// Whether nothing is lost when it is dropped half-way.
    pub(super) fn is_a_question(&self) -> bool {
        matches!(self, Self::Probe | Self::Renew)
    }

    /// What is to be believed of a job that broke.
    pub(super) fn broken(&self, ticket: Ticket) -> Input {
        match self {
            Self::Journal(_) => Input::Journaled(ticket, false),
            Self::Probe => Input::Probed(ticket, Err(Code::Internal)),
            Self::Renew => Input::Renewed(ticket, false),
            Self::Prepare { .. } => Input::Prepared(
                ticket,
                Err(PrepareFailed {
                    told: false,
                    row: None,
                }),
            ),
            Self::Start => Input::Started(ticket, false),
            Self::Mark { .. } => Input::Marked(ticket, Err(())),
            Self::Leave { .. } => Input::Left(ticket, Err(LeaveFailed { told: false })),
        }
    }
}

impl Tools {
    /// Does the job.
    pub(super) async fn perform(self, ticket: Ticket, job: Job, present: Present) -> Done {
        let Present {
            row,
            link,
            stopping,
        } = present;
        let turn = if job.owns_client() {
            Some(Arc::clone(&self.turn.slot).lock_owned().await)
        } else {
            None
        };
        if let Some(stopping) = stopping {
            // One connection of a session at a time. A panic there has been logged; the client is gone either way.
            let _ = stopping.await;
        }
        match job {
            Job::Journal(request) => Done::only(
                ticket,
                Input::Journaled(ticket, self.journal(&request).await),
            ),
            Job::Probe => {
                let answer = self.connector.probe(self.probe_within).await;
                Done::only(ticket, Input::Probed(ticket, answer.map_err(unanswered)))
            }
            Job::Renew => {
                let newer = self.connector.versions().refresh().await;
                if let Some(version) = newer {
                    info!(session = %self.session, ?version, "too old; a newer companion version is there");
                }
                Done::only(ticket, Input::Renewed(ticket, newer.is_some()))
            }
            Job::Mark {
                paired,
                wrong,
                asker,
                took,
            } => Done::only(
                ticket,
                Input::Marked(
                    ticket,
                    self.mark(row, link, &paired, wrong, &asker, took).await,
                ),
            ),
            Job::Prepare { request, tell, old } => {
                let (input, started) = match self.prepare(ticket, &request, tell, old, link).await {
                    Ok((prepared, started)) => (Ok(prepared), Some(started)),
                    Err(failed) => (Err(failed), None),
                };
                Done {
                    ticket,
                    input: Input::Prepared(ticket, input),
                    started,
                    turn,
                }
            }
            Job::Start => {
                if let Some(link) = link {
                    link.stop(STOP).await;
                }
                let started = match row {
                    Some(row) if self.turn.belongs_to(ticket) => self.start(row.epoch).await,
                    _ => None,
                };
                Done {
                    ticket,
                    input: Input::Started(ticket, started.is_some()),
                    started,
                    turn,
                }
            }
            Job::Leave { tell, why, asker } => Done {
                ticket,
                input: Input::Left(ticket, self.leave(tell, why, asker, row, link).await),
                started: None,
                turn,
            },
        }
    }

    async fn journal(&self, request: &CodeRequest) -> bool {
        let entry = JournalEntry {
            phone: Some(request.phone.masked()),
            ..self.entry(JournalWhat::Requested, Some(&request.asker))
        };
        // Of a live link WhatsApp is told first: a disk on which the wipe then fails would have cost the link.
        if request.replace.is_some() && self.store.make_room().await.is_err() {
            return false;
        }
        self.store.append_journal(vec![entry]).await.is_ok()
    }

    /// New client over the epoch's credentials. The moment before we answer the phone's acceptance
    /// is written down first: a power cut in between is then known as a half-link.
    async fn start(&self, epoch: Epoch) -> Option<Started> {
        let backend = self.store.backend(&self.session, epoch);
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
        let hooks = Hooks {
            before_finish: Some(before_finish),
            store_trouble: backend.trouble(),
        };
        match self.connector.start(Arc::new(backend), hooks).await {
            Ok(started) => Some(started),
            Err(error) => {
                warn!(session = %self.session, %error, "no client could be started");
                None
            }
        }
    }

    async fn prepare(
        &self,
        ticket: Ticket,
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
            let now = clock::wall();
            let replaced = old.as_ref().map(|old| replaced(old, &request.phone, now));
            let next = NewLink {
                line: request.phone.line_key(),
                intended: request.phone.digits().into(),
                now,
            };
            let journal = old
                .iter()
                .map(|old| self.wiped_entry(old, request, tell.then_some(told), now))
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
        // The program may be stopping: what was told of is wiped, and nobody wants a client any more.
        let started = if self.turn.belongs_to(ticket) {
            self.start(row.epoch).await
        } else {
            None
        };
        match started {
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
        let Some((link, mut events)) = self.start(epoch).await else {
            return false;
        };
        let login = async {
            while let Some(event) = events.recv().await {
                match event {
                    LinkEvent::Connected => return link.tell_logout(TELL).await,
                    // The phone has forgotten it by itself.
                    LinkEvent::Closed(Close::LoggedOut | Close::Removed) => return true,
                    LinkEvent::Closed(_) => break,
                    _ => {}
                }
            }
            false
        };
        let told = tokio::time::timeout(TELL * 2, login).await.unwrap_or(false);
        link.stop(STOP).await;
        told
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
        let now = clock::wall();
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
        if !wrong {
            self.metrics.linked(took);
        }
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
        let now = clock::wall();
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
        told: Option<bool>,
        now: UnixMs,
    ) -> JournalEntry {
        let mismatch = is_mismatch(old, &request.phone);
        JournalEntry {
            phone: Some(request.phone.masked()),
            old_phone: Some(old.masked()),
            // Whoever named the link agreed, also when it ended by itself meanwhile.
            confirmed: Some(request.replace.as_deref() == Some(&*old.link_id)),
            was_linked: Some(old.linked.is_some()),
            credential_age_seconds: Some(age(old, now)),
            last_connected: old.last_connected,
            outcome: told.map(|told| if told { "told" } else { "phone_still_lists_it" }.to_owned()),
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
            ..JournalEntry::new(clock::wall(), &self.session, what)
        }
    }

    /// What is stored after trouble, once the store takes something again: after a failure it is opened anew by the
    /// next write, and reading alone would not tell.
    pub(super) async fn found_again(&self) -> Result<Option<LinkRow>, StoreError> {
        self.store
            .put_setting(TROUBLE, clock::wall().to_be_bytes().to_vec())
            .await?;
        self.found().await
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
            .map_err(|_| StoreError::Disk)?;
        let Some(jid) = device.as_ref().and_then(|device| device.pn.clone()) else {
            return Ok(row);
        };
        let same = Phone::from_e164_digits(&jid.user)
            .is_ok_and(|reported| reported.line_key() == half.line);
        let linked = Linked {
            at: clock::wall(),
            phone: jid.user.as_str().into(),
            jid: jid.to_string().into(),
            lid: device
                .and_then(|device| device.lid)
                .map(|lid| lid.to_string().into()),
        };
        let now = clock::wall();
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
                    ..self.entry(
                        if same {
                            JournalWhat::Linked
                        } else {
                            JournalWhat::WrongPhone
                        },
                        None,
                    )
                }],
            )
            .await
            .map(Some)
    }
}

fn linked_row(paired: &Paired, now: UnixMs) -> Linked {
    Linked {
        at: now,
        phone: paired.phone.clone(),
        jid: paired.jid.clone(),
        lid: paired.lid.clone(),
    }
}

/// A mismatch is two different lines; what cannot be read is none.
fn is_mismatch(old: &LinkRow, phone: &Phone) -> bool {
    is_readable(old) && old.line != phone.line_key()
}

fn replaced(old: &LinkRow, phone: &Phone, now: UnixMs) -> Replaced {
    Replaced {
        reason: if is_mismatch(old, phone) {
            ReplacedReason::PhoneMismatch
        } else {
            ReplacedReason::StaleCredentials
        },
        old_phone: Some(old.masked()),
        was_linked: old.linked.is_some(),
        credential_age_seconds: age(old, now),
    }
}

/// How old the credentials are, in seconds.
pub(super) fn age(row: &LinkRow, now: UnixMs) -> u64 {
    u64::try_from(now.saturating_sub(row.created_at) / 1000).unwrap_or(0)
}

/// Why WhatsApp is not asked for a code now.
fn unanswered(close: Close) -> Code {
    match close {
        Close::TooFast => Code::WhatsappRateLimited,
        Close::Outdated => Code::ClientOutdated,
        Close::Banned(_) => Code::Banned,
        Close::Locked => Code::Locked,
        Close::Refused(_) => Code::WhatsappRejected,
        Close::Restart | Close::Lost | Close::LoggedOut | Close::Removed | Close::Replaced => {
            Code::WhatsappUnreachable
        }
    }
}
