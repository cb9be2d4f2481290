//! Owns what a session decides: given where it stands and what happened, where it goes and what must be done.
//! Pure: it reads no clock, touches no store and no network, so every race known to us is a unit test.

use std::time::Duration;

use tokio::time::Instant;

mod ask;
mod opening;
mod report;
#[cfg(test)]
mod tests;
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
/// How long a login may take before the connection counts as dead.
const LOGIN: Duration = Duration::from_mins(1);
/// How many sets of QR codes are shown where there is no code to be had (160 s each).
const QR_ROUNDS: u32 = 3;

/// Names somebody who waits for an answer.
pub(super) type Waiter = u64;
/// Names one job, so that the answer of an abandoned one is known.
pub(super) type Ticket = u64;

/// The present moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
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
    /// WhatsApp answered, or not.
    Probed(Ticket, bool),
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
    Code(PairingCode),
    CodeEnded(EndReason),
    /// Something went wrong, for everybody.
    Error(RequestError),
    Job(Ticket, Job),
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

#[derive(Debug)]
enum Stage {
    Starting(Ticket),
    Connecting { deadline: Instant },
    Up,
    Waiting { until: Instant, until_wall: UnixMs },
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
        /// When the code was asked for.
        requested: bool,
        restarting: Option<Ticket>,
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
        attempt: u32,
        first: Option<First>,
    },
    Leaving {
        ticket: Ticket,
        waiters: Vec<Waiter>,
        was: State,
        why: Leaving,
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
            jitter: 0.5,
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
            Input::Boot(row) => self.boot(row, now, fx),
            Input::Ask(ask, facts) => self.ask(ask, facts, now, fx),
            Input::Cancel(waiter) => self.cancel(waiter, fx),
            Input::Reconnect(waiter) => self.reconnect(waiter, fx),
            Input::Unlink(waiter, asker) => self.unlink(waiter, asker, fx),
            Input::Journaled(ticket, ok) => self.journaled(ticket, ok, fx),
            Input::Probed(ticket, ok) => self.probed(ticket, ok, fx),
            Input::Prepared(ticket, result) => self.prepared(ticket, result, now, fx),
            Input::Started(ticket, ok) => self.started(ticket, ok, now, fx),
            Input::Marked(ticket, result) => self.marked(ticket, result, now, fx),
            Input::Left(ticket, result) => self.left(ticket, result, fx),
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

    // ---- start ------------------------------------------------------------------------------

    /// Nothing was requested, so nothing is checked and nothing wiped.
    fn boot(mut self, row: Result<Option<LinkRow>, ()>, now: Now, fx: &mut Fx) -> Self {
        let Ok(row) = row else {
            return self.rest(Rest::new(
                State::StoreUnavailable,
                Some(Code::StoreUnavailable),
            ));
        };
        self.row = row;
        let Some(row) = &self.row else {
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
        if let Some(halted) = row.halted {
            return self.halted(&halted, now);
        }
        self.connect(0, None, fx)
    }

    fn halted(self, halted: &Halted, now: Now) -> Self {
        let (state, reason) = match halted.reason {
            HaltedReason::Replaced => (State::Replaced, Some(Code::Replaced)),
            HaltedReason::Banned => (State::Banned, Some(Code::Banned)),
            HaltedReason::Locked => (State::Locked, Some(Code::Locked)),
            HaltedReason::Outdated => (State::Outdated, Some(Code::ClientOutdated)),
            HaltedReason::Failed => (State::Failed, Some(Code::WhatsappRejected)),
        };
        let wake = halted.until.map(|until| {
            let left = u64::try_from(until.saturating_sub(now.wall)).unwrap_or(0);
            now.mono + Duration::from_millis(left)
        });
        self.rest(Rest {
            state,
            reason,
            until: halted.until,
            wake,
        })
    }

    fn connect(mut self, attempt: u32, first: Option<First>, fx: &mut Fx) -> Self {
        let ticket = self.job(Job::Start, fx);
        self.phase = Phase::Linked {
            stage: Stage::Starting(ticket),
            attempt,
            first,
        };
        self
    }
}

/// Whether a stored link can carry messages, whatever its present state.
/// A malformed number counts as leftovers: nothing could be compared with it.
pub(super) fn is_live(row: &LinkRow) -> bool {
    row.linked.is_some()
        && row.ended.is_none()
        && (7..=15).contains(&row.line.len())
        && row.line.bytes().all(|digit| digit.is_ascii_digit())
}
