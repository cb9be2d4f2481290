//! Owns the task of one session: feeds its machine, performs what the machine wants, shows the result.
//! It is the only owner of the session's link; everybody else sends it commands and watches.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::{broadcast, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::jobs::{Done, Tools, wall};
use super::machine::{Answer, Ask, Effect, Facts, Input, Job, Limits, Machine, Now, Waiter};
use super::types::{
    Asker, CodeRequest, EndReason, PairingCode, RequestError, SessionEvent, Status, UnixMs, View,
};
use crate::error::Code;
use crate::link::{Link, LinkEvent};
use crate::store::{EndedReason, JournalEntry, JournalWhat, LinkRow};

/// How long a link may take over its last words when the program stops.
const STOP: Duration = Duration::from_secs(10);

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
    Stop(oneshot::Sender<()>),
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
    /// Unbounded: there is at most one job of each kind under way.
    done_sender: UnboundedSender<Done>,
    done: UnboundedReceiver<Done>,
    waiters: HashMap<Waiter, Reply>,
    next_waiter: Waiter,
    /// Commands that came while the session was in the middle of something short.
    deferred: VecDeque<Command>,
    shown: Shown,
}

impl Driver {
    pub(super) fn new(tools: Tools, limits: Limits, budget: u32, shown: Shown) -> Self {
        let (done_sender, done) = mpsc::unbounded_channel();
        Self {
            tools,
            budget,
            machine: Machine::new(limits),
            link: None,
            link_events: None,
            stopping: None,
            done_sender,
            done,
            waiters: HashMap::new(),
            next_waiter: 0,
            deferred: VecDeque::new(),
            shown,
        }
    }

    /// Runs until it is told to stop, or until nobody can tell it anything any more.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        self.boot().await;
        let stopped = loop {
            if !self.is_busy()
                && let Some(command) = self.deferred.pop_front()
            {
                if let Some(stopped) = self.command(command).await {
                    break Some(stopped);
                }
                continue;
            }
            let deadline = self.machine.deadline();
            let input = tokio::select! {
                biased;
                Some(done) = self.done.recv() => {
                    if let Some((link, events)) = done.started {
                        self.link = Some(link);
                        self.link_events = Some(events);
                    }
                    done.input
                }
                event = next_event(&mut self.link_events) => Input::Link(event),
                command = commands.recv() => match command {
                    None => break None,
                    Some(Command::Stop(stopped)) => break Some(stopped),
                    Some(command) => {
                        self.deferred.push_back(command);
                        continue;
                    }
                },
                () = sleep_until(deadline) => Input::Timer,
            };
            self.feed(input).await;
        };
        self.stop().await;
        if let Some(stopped) = stopped {
            // Whoever wanted the stop may have gone.
            let _ = stopped.send(());
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
        self.tools
            .metrics
            .state(&self.tools.session, self.machine.state().as_str());
        let found = self.tools.found().await.map_err(|error| {
            warn!(session = %self.tools.session, %error, "the stored link cannot be read");
        });
        self.feed(Input::Boot(found)).await;
    }

    /// Returns the stopper when the command was to stop.
    async fn command(&mut self, command: Command) -> Option<oneshot::Sender<()>> {
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
            Command::Stop(stopped) => return Some(stopped),
        };
        self.feed(input).await;
        None
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
        let over_budget = store.budget_left(&ask.request.phone.line_key(), wall(), self.budget);
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
            // Before anybody is told anything: who hears that a code is over must not find it in the status.
            self.publish(None);
            for effect in effects {
                if let Some(next) = self.perform(effect).await {
                    inputs.push_back(next);
                }
            }
        }
    }

    async fn perform(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Reply(waiters, result) => self.reply(waiters, &result),
            Effect::Code(code) => self.code_shown(code).await,
            Effect::CodeEnded(reason) => self.code_ended(reason).await,
            Effect::Error(error) => self.tell(SessionEvent::Error(error)),
            Effect::Job(ticket, job) => self.start_job(ticket, job),
            Effect::Ask(ask) => {
                let facts = self.facts(&ask);
                return Some(Input::Ask(ask, facts));
            }
            Effect::Reboot => {
                return Some(Input::Boot(self.tools.found().await.map_err(|_| ())));
            }
            Effect::RequestCode(phone) => {
                if let Some(link) = &self.link {
                    let line = phone.line_key();
                    if let Err(error) = self.tools.store.budget_record(&line, wall()).await {
                        warn!(session = %self.tools.session, %error, "the request was not counted");
                    }
                    link.request_code(phone.digits());
                }
            }
            Effect::StopLink => self.stop_link(),
            Effect::Seen => {
                let seen = wall();
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

    async fn code_shown(&mut self, code: PairingCode) {
        info!(session = %self.tools.session, phone = %code.phone_number, seconds = code.expires_in(), "a code is shown");
        let entry = JournalEntry {
            phone: Some(code.phone_number.clone()),
            ..self.tools.entry(JournalWhat::CodeShown, None)
        };
        self.tell(SessionEvent::Code(code));
        self.note(entry).await;
    }

    async fn code_ended(&mut self, reason: EndReason) {
        info!(session = %self.tools.session, ?reason, "the code ended");
        self.tell(SessionEvent::CodeEnded(reason));
        let entry = JournalEntry {
            phone: self.machine.phone(),
            outcome: serde_json::to_value(reason)
                .ok()
                .and_then(|reason| reason.as_str().map(str::to_owned)),
            ..self.tools.entry(JournalWhat::CodeEnded, None)
        };
        self.note(entry).await;
    }

    async fn end(&mut self, reason: EndedReason) {
        let now = wall();
        let entry = JournalEntry {
            old_phone: self.machine.row().map(LinkRow::masked),
            last_connected: self.machine.row().and_then(|row| row.last_connected),
            ..self.tools.entry(JournalWhat::LoggedOut, None)
        };
        info!(session = %self.tools.session, ?reason, "the link is over");
        self.update(
            Box::new(move |row| {
                row.ended = Some(crate::store::Ended { at: now, reason });
            }),
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
        let link = match job {
            // These end the present client: nothing it reports counts any more.
            Job::Prepare { .. } | Job::Start | Job::Leave { .. } => {
                self.link_events = None;
                self.link.take()
            }
            Job::Journal(_) | Job::Probe | Job::Mark { .. } => self.link.clone(),
        };
        let stopping = match job {
            Job::Prepare { .. } | Job::Start | Job::Leave { .. } => self.stopping.take(),
            Job::Journal(_) | Job::Probe | Job::Mark { .. } => None,
        };
        let work =
            self.tools
                .clone()
                .perform(ticket, job, self.machine.row().cloned(), link, stopping);
        let done = self.done_sender.clone();
        tokio::spawn(async move {
            // A session that is gone needs no answer.
            let _ = done.send(work.await);
        });
    }

    fn stop_link(&mut self) {
        self.link_events = None;
        let Some(link) = self.link.take() else {
            return;
        };
        let before = self.stopping.take();
        self.stopping = Some(tokio::spawn(async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            let _ = tokio::time::timeout(Duration::from_secs(1), link.cancel_code()).await;
            link.stop(Duration::from_secs(3)).await;
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
            self.tools
                .metrics
                .state(&self.tools.session, status.state.as_str());
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
    async fn stop(mut self) {
        for (_, reply) in self.waiters.drain() {
            match reply {
                Reply::Code(reply, _) => {
                    let _ = reply.send(Err(Code::ShuttingDown.into()));
                }
                Reply::Done(reply) => {
                    let _ = reply.send(Err(Code::ShuttingDown.into()));
                }
            }
        }
        if matches!(self.machine.state(), super::State::Connected) {
            let seen = wall();
            self.update(Box::new(move |row| row.last_connected = Some(seen)), vec![])
                .await;
        }
        let deadline = Instant::now() + STOP;
        if let Some(link) = self.link.take() {
            link.stop(STOP).await;
        }
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

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn now() -> Now {
    Now {
        mono: Instant::now(),
        wall: wall(),
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
