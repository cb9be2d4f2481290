//! Owns the task of one session: feeds its machine, performs what the machine wants, shows the result.
//! It is the only owner of the session's link; everybody else sends it commands and watches.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::{broadcast, oneshot, watch};
use tokio::task::{AbortHandle, JoinError, JoinHandle, JoinSet};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::jobs::{Done, Present, Tools};
use super::machine::{About, Answer, Ask, Effect, Facts, Input, Job, Limits, Machine, Now, Waiter};
use super::types::{
    Asker, CodeRequest, PairingCode, RequestError, SessionEvent, Status, UnixMs, View,
};
use crate::clock;
use crate::error::Code;
use crate::link::{Link, LinkEvent};
use crate::store::{EndedReason, JournalEntry, JournalWhat, LinkRow};

/// How long a link may take over its last words when the program stops.
const STOP: Duration = Duration::from_secs(10);
/// How long a client may take over its last words that was overtaken before it had an owner.
const OVERTAKEN: Duration = Duration::from_secs(3);

/// What a session can be told.
#[derive(Debug)]
pub(super) enum Command {
    Ask(
        CodeRequest,
        oneshot::Sender<Result<PairingCode, RequestError>>,
    ),
    Cancel(oneshot::Sender<Result<(), RequestError>>),
    Reconnect(oneshot::Sender<Result<(), RequestError>>),
    Unlink(Asker, oneshot::Sender<Result<(), RequestError>>),
    Rename(String),
    /// The slot goes, and whatever is in it; the session goes on when the store refuses.
    Remove(oneshot::Sender<Result<(), RequestError>>),
    Stop(oneshot::Sender<()>),
    /// Answered at once, whatever else the session is in the middle of.
    Turn(oneshot::Sender<()>),
}

enum Reply {
    /// Since when, for the metrics.
    Code(oneshot::Sender<Result<PairingCode, RequestError>>, Instant),
    Done(oneshot::Sender<Result<(), RequestError>>),
}

/// What people see, and where it is told.
pub(super) struct Shown {
    pub(super) view: watch::Sender<View>,
    pub(super) events: broadcast::Sender<SessionEvent>,
    pub(super) removed: Arc<AtomicBool>,
}

pub(super) struct Driver {
    tools: Tools,
    /// Requests per number and hour; 0 is no limit.
    budget: u32,
    machine: Machine,
    link: Option<Link>,
    link_events: Option<UnboundedReceiver<LinkEvent>>,
    /// A client on its way out.
    stopping: Option<JoinHandle<()>>,
    /// What is under way: at most one job of each kind that matters, and those that were overtaken.
    jobs: JoinSet<Done>,
    running: HashMap<tokio::task::Id, Running>,
    waiters: HashMap<Waiter, Reply>,
    next_waiter: Waiter,
    /// Commands that came while the session was in the middle of something short.
    deferred: VecDeque<Command>,
    shown: Shown,
    /// How far the wall's clock was ahead when it was last looked at.
    apart: i64,
}

/// A job under way.
struct Running {
    /// What is to be believed of it if it breaks.
    broken: Input,
    /// Given where nothing is lost when it is dropped half-way.
    question: Option<AbortHandle>,
}

/// Why a session's task ends.
enum End {
    Stop(Option<oneshot::Sender<()>>),
    Removed(oneshot::Sender<Result<(), RequestError>>),
}

impl Driver {
    pub(super) fn new(tools: Tools, limits: Limits, budget: u32, shown: Shown) -> Self {
        Self {
            tools,
            budget,
            machine: Machine::new(limits),
            link: None,
            link_events: None,
            stopping: None,
            jobs: JoinSet::new(),
            running: HashMap::new(),
            waiters: HashMap::new(),
            next_waiter: 0,
            deferred: VecDeque::new(),
            shown,
            apart: clock::apart(),
        }
    }

    /// Runs until it is told to stop, or until nobody can tell it anything any more.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        looked: oneshot::Sender<()>,
    ) {
        self.boot().await;
        // Nobody may be waiting for it.
        let _ = looked.send(());
        let mut versions = self.tools.connector.versions().watch();
        let end = loop {
            if !self.is_busy()
                && let Some(command) = self.deferred.pop_front()
            {
                if let Some(end) = self.command(command).await {
                    break end;
                }
                continue;
            }
            let deadline = self.machine.deadline();
            // In this order: what has happened before what is due before what is wished, so that no crowd of wishes
            // keeps a code alive.
            let input = tokio::select! {
                biased;
                Some(done) = self.jobs.join_next_with_id() => match self.done(done) {
                    Some(input) => input,
                    None => continue,
                },
                event = next_event(&mut self.link_events) => Input::Link(event),
                set = due(deadline, self.apart) => {
                    if set {
                        self.apart = clock::apart();
                    }
                    Input::Timer
                }
                Ok(()) = versions.changed() => Input::NewVersion,
                command = commands.recv() => match command {
                    None => break End::Stop(None),
                    Some(Command::Turn(turns)) => {
                        // Whoever asked may have gone.
                        let _ = turns.send(());
                        continue;
                    }
                    Some(Command::Stop(stopped)) => break End::Stop(Some(stopped)),
                    Some(command) => {
                        self.deferred.push_back(command);
                        continue;
                    }
                },
            };
            self.feed(input).await;
        };
        self.stop().await;
        // Whoever wanted the end may have gone.
        match end {
            End::Stop(Some(stopped)) => drop(stopped.send(())),
            End::Removed(reply) => {
                // Before the mailbox closes: whoever is in it asked for a session that is no more.
                self.shown.removed.store(true, Ordering::SeqCst);
                drop(reply.send(Ok(())));
            }
            End::Stop(None) => {}
        }
    }

    /// Takes in a job's end. One that was overtaken has a client that nobody wants.
    fn done(&mut self, done: Result<(tokio::task::Id, Done), JoinError>) -> Option<Input> {
        match done {
            Ok((id, done)) => {
                self.running.remove(&id);
                if let Some(started) = done.started {
                    if self.tools.turn.belongs_to(done.ticket) {
                        (self.link, self.link_events) = (Some(started.0), Some(started.1));
                    } else {
                        let (before, turn) = (self.stopping.take(), done.turn);
                        self.stopping = Some(tokio::spawn(async move {
                            if let Some(before) = before {
                                let _ = before.await;
                            }
                            started.0.stop(OVERTAKEN).await;
                            drop(turn);
                        }));
                    }
                }
                Some(done.input)
            }
            Err(error) => {
                let running = self.running.remove(&error.id())?;
                if error.is_panic() {
                    warn!(session = %self.tools.session, job = ?running.broken, "a job broke");
                }
                Some(running.broken)
            }
        }
    }

    fn is_busy(&self) -> bool {
        self.machine.is_busy()
            || (self.machine.is_preparing()
                && matches!(
                    self.deferred.front(),
                    Some(Command::Unlink(..) | Command::Reconnect(_))
                ))
    }

    async fn boot(&mut self) {
        let found = self.tools.found().await.map_err(|error| {
            warn!(session = %self.tools.session, %error, "the stored link cannot be read");
        });
        self.feed(Input::Boot(found)).await;
    }

    /// Returns how the session ends, when the command was to end it.
    async fn command(&mut self, command: Command) -> Option<End> {
        let input = match command {
            Command::Ask(request, reply) => {
                let waiter = self.waiter(Reply::Code(reply, Instant::now()));
                let ask = Ask {
                    request,
                    waiters: vec![waiter],
                    asked: now(),
                };
                let facts = self.facts(&ask);
                Input::Ask(ask, facts)
            }
            Command::Cancel(reply) => Input::Cancel(self.waiter(Reply::Done(reply))),
            Command::Reconnect(reply) => Input::Reconnect(self.waiter(Reply::Done(reply))),
            Command::Unlink(asker, reply) => Input::Unlink(self.waiter(Reply::Done(reply)), asker),
            Command::Rename(name) => {
                self.publish(Some(name));
                return None;
            }
            Command::Remove(reply) => return self.remove(reply).await,
            Command::Turn(turns) => {
                let _ = turns.send(());
                return None;
            }
            Command::Stop(stopped) => return Some(End::Stop(Some(stopped))),
        };
        self.feed(input).await;
        None
    }

    /// Removes the slot and whatever was asked for since it was unlinked.
    async fn remove(&mut self, reply: oneshot::Sender<Result<(), RequestError>>) -> Option<End> {
        self.settle(Code::NoSuchSession).await;
        match self
            .tools
            .store
            .remove_session(&self.tools.session, Vec::new())
            .await
        {
            Ok(()) => Some(End::Removed(reply)),
            Err(error) => {
                warn!(session = %self.tools.session, %error, "the slot could not be removed");
                // Whoever asked may have gone.
                let _ = reply.send(Err(Code::StoreUnavailable.into()));
                self.boot().await;
                None
            }
        }
    }

    fn waiter(&mut self, reply: Reply) -> Waiter {
        self.next_waiter += 1;
        self.waiters.insert(self.next_waiter, reply);
        self.next_waiter
    }

    /// The check: one row is read and compared; nothing is parsed.
    fn facts(&self, ask: &Ask) -> Facts {
        let store = &self.tools.store;
        let started = Instant::now();
        let row = store.link(&self.tools.session);
        let over_budget = store.budget_left(
            ask.request.phone.line_key().reveal(),
            clock::wall(),
            self.budget,
        );
        debug!(session = %self.tools.session, took_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX), "checked");
        match (row, over_budget) {
            (Ok(row), Ok(over_budget)) => Facts {
                row: Ok(row),
                over_budget,
            },
            (Err(error), _) | (_, Err(error)) => {
                warn!(session = %self.tools.session, %error, "the stored link cannot be read");
                Facts {
                    row: Err(()),
                    over_budget: None,
                }
            }
        }
    }

    /// One step of the machine and all that follows from it.
    async fn feed(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut effects = Vec::new();
            let mut machine = std::mem::replace(&mut self.machine, Machine::vacant());
            machine.set_jitter(rand::random());
            self.machine = machine.handle(input, now(), &mut effects);
            // What is kept and counted first, then what people see, then what they are told: whoever hears of
            // something finds it so wherever else they look.
            let (kept, told): (Vec<_>, Vec<_>) = effects.into_iter().partition(Effect::is_kept);
            for effect in kept {
                if let Some(next) = self.perform(effect).await {
                    inputs.push_back(next);
                }
            }
            for effect in &told {
                self.journal(effect).await;
            }
            self.publish(None);
            for effect in told {
                if let Some(next) = self.perform(effect).await {
                    inputs.push_back(next);
                }
            }
        }
    }

    async fn perform(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Reply(waiters, result) => self.reply(waiters, &result),
            Effect::Code(code, about) => {
                info!(session = %self.tools.session, phone = %code.phone_number, seconds = code.expires_in(), took_ms = millis(about.took), "a code is shown");
                self.tell(SessionEvent::Code(code));
            }
            Effect::CodeEnded(reason, _) => {
                info!(session = %self.tools.session, ?reason, "the code ended");
                self.tell(SessionEvent::CodeEnded(reason));
            }
            Effect::Error(error) => self.tell(SessionEvent::Error(error)),
            Effect::Job(ticket, job) => self.start_job(ticket, job),
            Effect::Reconnect(why) => {
                info!(session = %self.tools.session, why = why.as_str(), "connecting again");
                self.tools.metrics.reconnect(why.as_str());
            }
            Effect::Ask(ask) => {
                let facts = self.facts(&ask);
                return Some(Input::Ask(ask, facts));
            }
            Effect::Reboot => {
                return Some(Input::Boot(self.tools.found_again().await.map_err(
                    |error| {
                        debug!(session = %self.tools.session, %error, "the store is still away");
                    },
                )));
            }
            Effect::RequestCode(phone) => {
                if let Some(link) = &self.link {
                    let line = phone.line_key();
                    let store = &self.tools.store;
                    if let Err(error) = store.budget_record(line.reveal(), clock::wall()).await {
                        warn!(session = %self.tools.session, %error, "the request was not counted");
                    }
                    link.request_code(phone.digits());
                }
            }
            Effect::StopLink => self.stop_link(),
            Effect::Seen => {
                let seen = clock::wall();
                self.update(Box::new(move |row| row.last_connected = Some(seen)), vec![])
                    .await;
            }
            Effect::End(reason) => self.end(reason).await,
            Effect::Halt(halted) => {
                self.update(Box::new(move |row| row.halted = halted), vec![])
                    .await;
            }
        }
        None
    }

    fn reply(&mut self, waiters: Vec<Waiter>, result: &Result<Answer, RequestError>) {
        for waiter in waiters {
            // Whoever asked may have gone: the answer is then nobody's.
            match self.waiters.remove(&waiter) {
                Some(Reply::Code(reply, since)) => {
                    let result = match result {
                        Ok(Answer::Code(code)) => Ok(code.clone()),
                        Ok(Answer::Done) => Err(Code::Internal.into()),
                        Err(error) => Err(error.clone()),
                    };
                    self.tools.metrics.request_ended(
                        result
                            .as_ref()
                            .map(|_| since.elapsed())
                            .map_err(|error| error.code),
                    );
                    let _ = reply.send(result);
                }
                Some(Reply::Done(reply)) => {
                    let _ = reply.send(result.as_ref().map(|_| ()).map_err(Clone::clone));
                }
                None => {}
            }
        }
    }

    /// What the journal says of a code, before anybody is told of it.
    async fn journal(&self, effect: &Effect) {
        match effect {
            Effect::Code(_, about) => {
                self.note(self.about(JournalWhat::CodeShown, about)).await;
            }
            Effect::CodeEnded(reason, about) => {
                let entry = JournalEntry {
                    outcome: serde_json::to_value(reason)
                        .ok()
                        .and_then(|reason| reason.as_str().map(str::to_owned)),
                    ..self.about(JournalWhat::CodeEnded, about)
                };
                self.note(entry).await;
            }
            _ => {}
        }
    }

    fn about(&self, what: JournalWhat, about: &About) -> JournalEntry {
        JournalEntry {
            phone: Some(about.phone.clone()),
            duration_ms: Some(millis(about.took)),
            ..self.tools.entry(what, Some(&about.asker))
        }
    }

    async fn end(&mut self, reason: EndedReason) {
        let at = clock::wall();
        let mut entry = self.tools.entry(JournalWhat::LoggedOut, None);
        if let Some(row) = self.machine.row() {
            entry.old_phone = Some(row.masked());
            entry.was_linked = Some(row.linked.is_some());
            entry.credential_age_seconds = Some(super::jobs::age(row, at));
            entry.last_connected = row.last_connected;
        }
        entry.outcome = Some(
            match reason {
                EndedReason::DeviceRemoved => "device_removed",
                _ => "login_refused",
            }
            .to_owned(),
        );
        info!(session = %self.tools.session, ?reason, "the link is over");
        self.update(
            Box::new(move |row| row.ended = Some(crate::store::Ended { at, reason })),
            vec![entry],
        )
        .await;
    }

    async fn note(&self, entry: JournalEntry) {
        if let Err(error) = self.tools.store.append_journal(vec![entry]).await {
            warn!(session = %self.tools.session, %error, "a journal entry was lost");
        }
    }

    async fn update(&self, change: Box<dyn Fn(&mut LinkRow) + Send>, journal: Vec<JournalEntry>) {
        let Some(epoch) = self.machine.row().map(|row| row.epoch) else {
            return;
        };
        if let Err(error) = self
            .tools
            .store
            .update_link(&self.tools.session, epoch, change, journal)
            .await
        {
            warn!(session = %self.tools.session, %error, "the link's row was not updated");
        }
    }

    fn start_job(&mut self, ticket: u64, job: Job) {
        let (link, stopping) = if job.owns_client() {
            self.link_events = None;
            self.tools.turn.give(ticket);
            (self.link.take(), self.stopping.take())
        } else {
            (self.link.clone(), None)
        };
        let running = (job.broken(ticket), job.is_a_question());
        let work = self.tools.clone().perform(
            ticket,
            job,
            Present {
                row: self.machine.row().cloned(),
                link,
                stopping,
            },
        );
        let handle = self.jobs.spawn(work);
        self.running.insert(
            handle.id(),
            Running {
                broken: running.0,
                question: running.1.then_some(handle),
            },
        );
    }

    fn stop_link(&mut self) {
        self.link_events = None;
        // A client that is only being started is not wanted either.
        self.tools.turn.nobody();
        let Some(link) = self.link.take() else {
            return;
        };
        let before = self.stopping.take();
        self.stopping = Some(tokio::spawn(async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            let _ = tokio::time::timeout(Duration::from_secs(1), link.cancel_code()).await;
            link.stop(OVERTAKEN).await;
        }));
    }

    fn tell(&self, event: SessionEvent) {
        // Nobody may be looking.
        let _ = self.shown.events.send(event);
    }

    /// Shows what has changed, and only that.
    fn publish(&mut self, rename: Option<String>) {
        let old = self.shown.view.borrow().clone();
        let (state, now) = (self.machine.state(), now());
        let status = Status {
            session: old.status.session.clone(),
            state,
            name: rename.unwrap_or_else(|| old.status.name.clone()),
            phone: self.machine.phone(),
            since: if state == old.status.state {
                old.status.since
            } else {
                now.wall
            },
            last_connected: self.machine.row().and_then(|row| row.last_connected),
            until: self.machine.until(),
            reason: self.machine.reason(),
        };
        let view = View {
            code: self.machine.code(now),
            qr: self.machine.qr().cloned(),
            status,
        };
        let (status_changed, qr_changed) = (view.status != old.status, view.qr != old.qr);
        let (status, qr) = (view.status.clone(), view.qr.clone());
        if status.state != old.status.state {
            info!(session = %self.tools.session, state = ?status.state, reason = ?status.reason, "state");
        }
        self.shown.view.send_replace(view);
        if status_changed {
            self.tell(SessionEvent::Status(status));
        }
        if qr_changed {
            self.tell(SessionEvent::Qr(qr));
        }
    }

    /// Everything flushed, nothing left running; whoever still waits is told.
    async fn stop(&mut self) {
        if matches!(self.machine.state(), super::State::Connected) {
            let seen = clock::wall();
            self.update(Box::new(move |row| row.last_connected = Some(seen)), vec![])
                .await;
        }
        self.settle(Code::ShuttingDown).await;
    }

    /// No job, no client, nobody waiting. What a job has begun it finishes: a wipe that was told of is done.
    async fn settle(&mut self, told: Code) {
        if let Some(about) = self.machine.open_code(now()) {
            let entry = JournalEntry {
                outcome: Some("stopped".to_owned()),
                ..self.about(JournalWhat::CodeEnded, &about)
            };
            self.note(entry).await;
        }
        for (_, reply) in self.waiters.drain() {
            // Whoever asked may have gone.
            match reply {
                Reply::Code(reply, _) => drop(reply.send(Err(told.into()))),
                Reply::Done(reply) => drop(reply.send(Err(told.into()))),
            }
        }
        for running in self.running.values() {
            if let Some(question) = &running.question {
                question.abort();
            }
        }
        let deadline = Instant::now() + STOP;
        self.stop_link();
        while let Ok(Some(done)) =
            tokio::time::timeout_at(deadline, self.jobs.join_next_with_id()).await
        {
            // Nobody's turn: a client that was started meanwhile is stopped here.
            if let Ok((
                _,
                Done {
                    started: Some(started),
                    ..
                },
            )) = done
            {
                started.0.stop(OVERTAKEN).await;
            }
        }
        // What is left is cut off; a client in it goes with its last holder.
        self.jobs.shutdown().await;
        self.running.clear();
        let machine = std::mem::replace(&mut self.machine, Machine::vacant());
        self.machine = machine.forget();
        if let Some(stopping) = self.stopping.take() {
            let _ = tokio::time::timeout_at(deadline, stopping).await;
        }
    }
}

async fn next_event(events: &mut Option<UnboundedReceiver<LinkEvent>>) -> LinkEvent {
    if let Some(receiver) = events {
        if let Some(event) = receiver.recv().await {
            return event;
        }
        *events = None;
    }
    std::future::pending().await
}

/// Comes when the deadline has, or (true) when somebody set the wall's clock.
async fn due(deadline: Option<Instant>, apart: i64) -> bool {
    match deadline {
        Some(deadline) => clock::until(deadline, apart).await,
        None => std::future::pending().await,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn now() -> Now {
    Now {
        mono: clock::steady(),
        wall: clock::wall(),
    }
}

/// The status of a session before its task has looked.
pub(super) fn first_view(session: &str, name: &str, now: UnixMs) -> View {
    View {
        status: Status {
            session: session.to_owned(),
            state: super::State::Unlinked,
            name: name.to_owned(),
            phone: None,
            since: now,
            last_connected: None,
            until: None,
            reason: None,
        },
        code: None,
        qr: None,
    }
}

#[cfg(test)]
mod tests;
