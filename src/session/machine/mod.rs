//! Owns what a session decides: given where it stands and what happened, where it goes and what must be done.
//! Pure: it reads no clock, touches no store and no network, so every race known to us is a unit test.

use std::time::Duration;

use tokio::time::Instant;

mod ask;
mod opening;
mod report;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_upkeep;
mod upkeep;
mod view;
mod wishes;

use report::{closed_code, closed_retry};
use view::{code_of, is_linking, visible};

use super::types::{
    Asker, CodeRequest, EndReason, PairingCode, Qr, Replaced, RequestError, State, UnixMs,
};
use crate::error::Code;
use crate::link::{Close, LinkEvent, Paired, Refusal, backoff};
use crate::phone::Phone;
use crate::secret::SecretText;
use crate::store::{EndedReason, Halted, HaltedReason, LinkRow};

/// How long linking may take once the phone has the code (WhatsApp Web's figure).
const LINKING: Duration = Duration::from_mins(1);
/// How long WhatsApp may take to ask for the new connection after it linked us.
const RESTART: Duration = Duration::from_secs(5);
/// How long a login may take: longer than the library itself gives the first one (180 s of app state). A connection
/// on which nothing arrives is noticed by its own watch, long before.
const LOGIN: Duration = Duration::from_secs(200);
/// A connection that stood this long was a good one: the next wait begins anew (WhatsApp Web's figure).
const STABLE: Duration = Duration::from_secs(30);
/// How often it is written down that a link is still connected: what is lost of that with the power.
const SEEN: Duration = Duration::from_hours(1);
/// A ban without an end is tried again after this, and none is tried sooner than the other.
const BAN_UNKNOWN: Duration = Duration::from_hours(1);
const BAN_LEAST: Duration = Duration::from_mins(1);
/// How many sets of QR codes are shown where there is no code to be had (160 s each).
const QR_ROUNDS: u32 = 3;

/// Names somebody who waits for an answer.
pub(super) type Waiter = u64;
/// Names one job, so that the answer of an abandoned one is known.
pub(super) type Ticket = u64;

/// The present moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// Steady, and going on while the machine sleeps.
    pub(super) mono: Instant,
    pub(super) wall: UnixMs,
}

/// The figures a session keeps to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) code_ttl: Duration,
    pub(super) code_grace: Duration,
    pub(super) connect_timeout: Duration,
}

/// A request for a code and those who wait for it.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) request: CodeRequest,
    pub(super) waiters: Vec<Waiter>,
    pub(super) asked: Now,
}

impl Ask {
    fn phone(&self) -> &Phone {
        &self.request.phone
    }

    fn about(&self, now: Now) -> About {
        About {
            phone: self.phone().masked(),
            asker: self.request.asker.clone(),
            took: now.mono.saturating_duration_since(self.asked.mono),
        }
    }
}

/// What the store says at the moment somebody asks.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// The stored link; an error when the store cannot be read.
    pub(super) row: Result<Option<LinkRow>, ()>,
    /// Seconds until the number's budget has room again.
    pub(super) over_budget: Option<u64>,
}

/// What can happen to a session.
#[derive(Debug)]
pub(super) enum Input {
    /// The program started and found this.
    Boot(Result<Option<LinkRow>, ()>),
    Ask(Ask, Facts),
    Cancel(Waiter),
    Reconnect(Waiter),
    Unlink(Waiter, Asker),
    /// The request is in the journal, or the store cannot commit.
    Journaled(Ticket, bool),
    /// WhatsApp answered, or why not.
    Probed(Ticket, Result<(), Code>),
    /// Whether there is a newer companion version than the refused one.
    Renewed(Ticket, bool),
    /// A newer companion version is in use from now on.
    NewVersion,
    Prepared(Ticket, Result<Prepared, PrepareFailed>),
    /// A client for the present epoch was started, or the store refused.
    Started(Ticket, bool),
    Marked(Ticket, Result<LinkRow, ()>),
    Left(Ticket, Result<Left, LeaveFailed>),
    Link(LinkEvent),
    Timer,
}

/// The old link is gone, the new epoch is open and its client started.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) row: LinkRow,
    pub(super) replaced: Option<Replaced>,
}

/// A preparation that did not come to its end.
#[derive(Debug)]
pub(super) struct PrepareFailed {
    /// Whether WhatsApp was told to forget the old link before this failed.
    pub(super) told: bool,
    /// What is stored now, where that is known.
    pub(super) row: Option<LinkRow>,
}

/// An unlinking that is done.
#[derive(Debug)]
pub(super) struct Left {
    /// Whether WhatsApp confirmed that it forgot the device.
    pub(super) told: bool,
}

/// An unlinking whose wipe failed.
#[derive(Debug)]
pub(super) struct LeaveFailed {
    pub(super) told: bool,
}

/// Work that takes time; its answer comes back as an [`Input`] with the same ticket.
#[derive(Debug)]
pub(super) enum Job {
    Journal(CodeRequest),
    Probe,
    /// Look for a newer companion version.
    Renew,
    Prepare {
        request: CodeRequest,
        /// The live link that WhatsApp is to forget first.
        tell: bool,
        old: Option<LinkRow>,
    },
    /// Start a client over the stored credentials, or over those of a registration that goes on.
    Start,
    Mark {
        paired: Paired,
        /// The number is not the one asked for.
        wrong: bool,
        asker: Asker,
        took: Duration,
    },
    Leave {
        tell: bool,
        why: Leaving,
        asker: Option<Asker>,
    },
}

/// Why a link is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    Asked,
    WrongPhone,
}

/// Why a link connects again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// WhatsApp wanted a new connection.
    Restart,
    /// The connection was lost.
    Lost,
    /// The wait after "too fast" is over.
    TooFast,
    /// A person wanted it.
    Asked,
    /// A ban is over.
    BanOver,
    /// A newer companion version is there.
    Update,
    /// The store can be used again.
    Store,
}

impl Why {
    /// The label in the metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Lost => "lost",
            Self::TooFast => "too_fast",
            Self::Asked => "asked",
            Self::BanOver => "ban_over",
            Self::Update => "update",
            Self::Store => "store",
        }
    }
}

/// Whose code it is or was, for the journal.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) phone: String,
    pub(super) asker: Asker,
    /// Since it was asked for.
    pub(super) took: Duration,
}

/// What somebody who asked gets.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    Done,
    Code(PairingCode),
}

/// What must be done; in order.
#[derive(Debug)]
pub(super) enum Effect {
    Reply(Vec<Waiter>, Result<Answer, RequestError>),
    /// A code is there, for everybody.
    Code(PairingCode, About),
    CodeEnded(EndReason, About),
    /// Something went wrong, for everybody.
    Error(RequestError),
    Job(Ticket, Job),
    /// A link connects again.
    Reconnect(Why),
    /// Ask again with fresh facts.
    Ask(Ask),
    /// Read the store anew and start over.
    Reboot,
    RequestCode(Phone),
    StopLink,
    /// The present link is connected, or was until now.
    Seen,
    /// The present link is over for good.
    End(EndedReason),
    /// The present link must rest, or (none) may go on.
    Halt(Option<Halted>),
}

impl Effect {
    /// Whether it is kept or counted, where people look after they are told.
    pub(super) const fn is_kept(&self) -> bool {
        matches!(
            self,
            Self::Seen | Self::End(_) | Self::Halt(_) | Self::Reconnect(_)
        )
    }
}

/// What a session without a client shows.
#[derive(Debug, Clone, Copy)]
struct Rest {
    state: State,
    reason: Option<Code>,
    until: Option<UnixMs>,
    /// When it stirs by itself.
    wake: Option<Instant>,
}

impl Rest {
    const fn new(state: State, reason: Option<Code>) -> Self {
        Self {
            state,
            reason,
            until: None,
            wake: None,
        }
    }
}

/// A code people can type.
#[derive(Debug, Clone)]
struct Shown {
    code: SecretText,
    replaced: Option<Replaced>,
}

#[derive(Debug)]
struct Awaiting {
    ask: Ask,
    shown: Shown,
    hide_at: Instant,
    dead_at: Instant,
    /// In its grace: nobody is shown it any more, but it still links.
    hidden: bool,
}

#[derive(Debug)]
struct Linking {
    ask: Ask,
    /// The code and the time it had left when the phone took it.
    shown: Option<(Shown, Duration)>,
    deadline: Instant,
}

/// The first connection of a new link.
#[derive(Debug)]
struct First {
    ask: Ask,
    wrong: bool,
    deadline: Instant,
}

/// How often in a row a link was tried in vain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tries {
    lost: u32,
    /// Of these, how often because it was too fast.
    throttled: u32,
}

#[derive(Debug)]
enum Stage {
    Starting {
        ticket: Ticket,
        began: Instant,
    },
    Connecting {
        began: Instant,
        deadline: Instant,
    },
    Up {
        since: Instant,
        /// When it is written down next that it is connected.
        touch: Instant,
    },
    Waiting {
        until: Instant,
        until_wall: UnixMs,
        why: Why,
    },
    /// Too old: is there a newer version?
    Renewing(Ticket),
}

#[derive(Debug)]
enum Phase {
    Rest(Rest),
    /// The request is on its way into the journal; nothing has changed yet.
    Recording {
        ask: Ask,
        ticket: Ticket,
        back: Box<Phase>,
    },
    /// A live link is to be replaced: does WhatsApp answer? Nothing has changed yet.
    Probing {
        ask: Ask,
        ticket: Ticket,
        back: Box<Phase>,
    },
    /// Telling, stopping, wiping, starting: goes through to its end.
    Preparing {
        ask: Ask,
        ticket: Ticket,
        next: Option<Ask>,
        cancelled: bool,
    },
    /// The first connection is being made, then the code asked for.
    Opening {
        ask: Ask,
        replaced: Option<Replaced>,
        deadline: Instant,
        /// The code was asked for.
        requested: bool,
        /// The connection is being made anew, for once.
        restarting: Option<Ticket>,
        restarts: u32,
    },
    Awaiting(Awaiting),
    /// No code to be had: the QR alone.
    Scanning {
        ask: Ask,
        rounds: u32,
        restarting: Option<Ticket>,
    },
    Linking(Linking),
    /// The phone accepted us; the credentials are being made durable.
    Marking {
        ask: Ask,
        wrong: bool,
        ticket: Ticket,
        marked: bool,
        closed: bool,
        deadline: Instant,
    },
    /// A link that is kept up.
    Linked {
        stage: Stage,
        tries: Tries,
        first: Option<First>,
    },
    Leaving {
        ticket: Ticket,
        waiters: Vec<Waiter>,
        was: State,
        why: Leaving,
        /// The code that linked the wrong phone.
        about: Option<About>,
        /// There was a live link of which WhatsApp had to be told.
        live: bool,
    },
}

/// One session's state of mind.
#[derive(Debug)]
pub(super) struct Machine {
    limits: Limits,
    phase: Phase,
    row: Option<LinkRow>,
    qr: Option<Qr>,
    tickets: Ticket,
    /// The program has looked at what is stored.
    booted: bool,
    /// How often in a row the store failed.
    trouble: u32,
    /// Spreads reconnections; a number in `0.0..1.0` given by the driver.
    jitter: f64,
}

type Fx = Vec<Effect>;
impl Machine {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            phase: Phase::Rest(Rest::new(State::Unlinked, None)),
            row: None,
            qr: None,
            tickets: 0,
            booted: false,
            trouble: 0,
            jitter: 0.5,
        }
    }

    /// Knows nothing any more, and no answer of a job that was under way.
    pub(super) fn forget(self) -> Self {
        Self {
            tickets: self.tickets,
            booted: self.booted,
            ..Self::new(self.limits)
        }
    }

    /// Stands in for a moment while a driver's machine is being changed.
    pub(super) fn vacant() -> Self {
        Self::new(Limits {
            code_ttl: Duration::ZERO,
            code_grace: Duration::ZERO,
            connect_timeout: Duration::ZERO,
        })
    }

    pub(super) fn set_jitter(&mut self, jitter: f64) {
        self.jitter = jitter;
    }

    /// Takes in what happened.
    pub(super) fn handle(self, input: Input, now: Now, fx: &mut Fx) -> Self {
        let mut next = match input {
            Input::Boot(row) => self.behind(|machine| machine.boot(row, now, fx)),
            Input::Ask(ask, facts) => self.ask(ask, facts, now, fx),
            Input::Cancel(waiter) => self.cancel(waiter, now, fx),
            Input::Reconnect(waiter) => self.reconnect(waiter, now, fx),
            Input::Unlink(waiter, asker) => self.unlink(waiter, asker, now, fx),
            Input::Journaled(ticket, ok) => self.journaled(ticket, ok, now, fx),
            Input::Probed(ticket, result) => self.probed(ticket, result, now, fx),
            Input::Renewed(ticket, newer) => self.renewed(ticket, newer, now, fx),
            Input::NewVersion => self.new_version(now, fx),
            Input::Prepared(ticket, result) => self.prepared(ticket, result, now, fx),
            Input::Started(ticket, ok) => self.started(ticket, ok, now, fx),
            Input::Marked(ticket, result) => self.marked(ticket, result, now, fx),
            Input::Left(ticket, result) => self.left(ticket, result, now, fx),
            Input::Link(event) => self.link(event, now, fx),
            Input::Timer => self.timer(now, fx),
        };
        if !next.request_open() {
            next.qr = None;
        }
        next
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        self.tickets
    }

    fn job(&mut self, job: Job, fx: &mut Fx) -> Ticket {
        let ticket = self.ticket();
        fx.push(Effect::Job(ticket, job));
        ticket
    }

    fn rest(mut self, rest: Rest) -> Self {
        self.phase = Phase::Rest(rest);
        self
    }

    /// Back to rest after a request that came to nothing; leftovers stay until somebody asks again.
    fn give_up(self, reason: Option<Code>, fx: &mut Fx) -> Self {
        fx.push(Effect::StopLink);
        self.rest(Rest::new(State::Unlinked, reason))
    }

    /// A check leaves what stands behind it as it is, so what happens to that meanwhile counts.
    fn behind(mut self, happen: impl FnOnce(Self) -> Self) -> Self {
        match self.phase {
            Phase::Recording { ask, ticket, back } => {
                self.phase = *back;
                let mut machine = happen(self);
                machine.phase = Phase::Recording {
                    ask,
                    ticket,
                    back: Box::new(machine.phase),
                };
                machine
            }
            Phase::Probing { ask, ticket, back } => {
                self.phase = *back;
                let mut machine = happen(self);
                machine.phase = Phase::Probing {
                    ask,
                    ticket,
                    back: Box::new(machine.phase),
                };
                machine
            }
            phase => {
                self.phase = phase;
                happen(self)
            }
        }
    }

    // ---- start ------------------------------------------------------------------------------

    /// Nothing was requested, so nothing is checked and nothing wiped.
    fn boot(mut self, row: Result<Option<LinkRow>, ()>, now: Now, fx: &mut Fx) -> Self {
        let again = std::mem::replace(&mut self.booted, true);
        let Ok(row) = row else {
            return self.store_away(now);
        };
        self.row = row;
        let Some(row) = &mut self.row else {
            return self.rest(Rest::new(State::Unlinked, None));
        };
        if let Some(ended) = &row.ended {
            return match ended.reason {
                EndedReason::LoggedOut | EndedReason::DeviceRemoved => {
                    self.rest(Rest::new(State::LoggedOut, Some(Code::LoggedOut)))
                }
                EndedReason::HalfLinked => {
                    self.rest(Rest::new(State::HalfLinked, Some(Code::HalfLinked)))
                }
                EndedReason::WrongPhone => {
                    self.rest(Rest::new(State::Unlinked, Some(Code::WrongPhoneLinked)))
                }
            };
        }
        if row.linked.is_none() {
            return if row.finishing {
                self.rest(Rest::new(State::HalfLinked, Some(Code::HalfLinked)))
            } else {
                self.rest(Rest::new(State::Unlinked, None))
            };
        }
        match row.halted {
            // Whoever starts the program anew has mended something, or updated it: that is worth one try.
            Some(Halted {
                reason: HaltedReason::Outdated | HaltedReason::Failed,
                ..
            }) if !again => {
                row.halted = None;
                fx.push(Effect::Halt(None));
            }
            Some(halted) => return self.halted(&halted, now),
            None => {}
        }
        self.connect(Tries::default(), None, again.then_some(Why::Store), now, fx)
    }

    /// The store cannot be used; it is looked at again by and by.
    fn store_away(mut self, now: Now) -> Self {
        // From four seconds on: whatever is wrong with a disk is not over in one.
        let wait = backoff::after_loss(self.trouble.saturating_add(2), self.jitter);
        self.trouble = self.trouble.saturating_add(1);
        self.rest(Rest {
            state: State::StoreUnavailable,
            reason: Some(Code::StoreUnavailable),
            until: Some(later(now, wait)),
            wake: Some(now.mono + wait),
        })
    }

    fn halted(self, halted: &Halted, now: Now) -> Self {
        let (state, reason) = match halted.reason {
            HaltedReason::Replaced => (State::Replaced, Some(Code::Replaced)),
            HaltedReason::Banned => (State::Banned, Some(Code::Banned)),
            HaltedReason::Locked => (State::Locked, Some(Code::Locked)),
            HaltedReason::Outdated => (State::Outdated, Some(Code::ClientOutdated)),
            HaltedReason::Failed => (State::Failed, Some(Code::WhatsappRejected)),
        };
        // With a clock that was set back meanwhile it would seem to take longer than it ever was to take.
        let left = halted.until.map(|until| {
            let whole = until.saturating_sub(halted.at).max(0);
            let left = until.saturating_sub(now.wall).clamp(0, whole);
            Duration::from_millis(u64::try_from(left).unwrap_or(0))
        });
        self.rest(Rest {
            state,
            reason,
            until: left.map(|left| later(now, left)),
            wake: left.map(|left| now.mono + left),
        })
    }

    /// Every client is a new one; of a link that was connected before, the reason is counted.
    fn connect(
        mut self,
        tries: Tries,
        first: Option<First>,
        why: Option<Why>,
        now: Now,
        fx: &mut Fx,
    ) -> Self {
        if let Some(why) = why {
            fx.push(Effect::Reconnect(why));
        }
        let ticket = self.job(Job::Start, fx);
        self.phase = Phase::Linked {
            stage: Stage::Starting {
                ticket,
                began: now.mono,
            },
            tries,
            first,
        };
        self
    }
}

/// The wall's time so much later.
fn later(now: Now, wait: Duration) -> UnixMs {
    now.wall
        .saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX))
}

/// Whether a stored link can carry messages, whatever its present state.
pub(super) fn is_live(row: &LinkRow) -> bool {
    row.linked.is_some() && row.ended.is_none() && is_readable(row)
}

/// A malformed number counts as leftovers: nothing could be compared with it.
pub(super) fn is_readable(row: &LinkRow) -> bool {
    let line = row.line.reveal();
    (7..=15).contains(&line.len()) && line.bytes().all(|digit| digit.is_ascii_digit())
}

/// A number that nobody asked for is told to go, also when the power went before that could be done.
fn is_a_strangers(row: &LinkRow) -> bool {
    row.ended
        .as_ref()
        .is_some_and(|ended| ended.reason == EndedReason::WrongPhone)
}
