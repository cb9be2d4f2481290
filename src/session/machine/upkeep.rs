//! Owns a link from the phone's acceptance on: made durable, first login, kept up, ended; and what time does.

use super::{
    Ask, BAN_LEAST, BAN_UNKNOWN, Close, Code, Duration, Effect, EndReason, EndedReason, First, Fx,
    Halted, HaltedReason, Instant, Job, LINKING, LOGIN, Leaving, LinkEvent, LinkRow, Machine, Now,
    Paired, Phase, Phone, RESTART, Rest, SEEN, STABLE, Stage, State, Ticket, Tries, UnixMs, Why,
    backoff, is_live, later,
};
use crate::clock;

impl Machine {
    pub(super) fn link_linked(mut self, event: &LinkEvent, now: Now, fx: &mut Fx) -> Self {
        let Phase::Linked {
            stage,
            tries,
            first,
        } = self.phase
        else {
            return self;
        };
        self.phase = Phase::Rest(Rest::new(State::Reconnecting, None));
        match event {
            LinkEvent::Connected => {
                if let Some(first) = first {
                    let about = first.ask.about(now);
                    if first.wrong {
                        return self.leave(
                            Vec::new(),
                            Leaving::WrongPhone,
                            Some(first.ask.request.asker),
                            true,
                            Some(about),
                            fx,
                        );
                    }
                    fx.push(Effect::CodeEnded(EndReason::Linked, about));
                }
                self.seen(now, fx);
                // The tries are forgotten only once it has stood for a while: one that falls at once is not a good one.
                self.phase = Phase::Linked {
                    stage: Stage::Up {
                        since: now.mono,
                        touch: now.mono + SEEN,
                    },
                    tries,
                    first: None,
                };
                self
            }
            LinkEvent::Closed(close) => {
                let (mut tries, mut began) = (tries, None);
                match stage {
                    Stage::Up { since, .. } => {
                        self.seen(now, fx);
                        if now.mono.saturating_duration_since(since) >= STABLE {
                            tries = Tries::default();
                        }
                    }
                    Stage::Starting { began: at, .. } | Stage::Connecting { began: at, .. } => {
                        began = Some(at);
                    }
                    Stage::Waiting { .. } | Stage::Renewing(_) => {}
                }
                self.link_closed(*close, tries, first, began, now, fx)
            }
            LinkEvent::StoreTrouble => {
                if let Some(first) = &first {
                    // The link itself is made and durable.
                    fx.push(Effect::CodeEnded(EndReason::Linked, first.ask.about(now)));
                }
                if let Stage::Up { since, .. } = stage
                    && now.mono.saturating_duration_since(since) >= STABLE
                {
                    self.trouble = 0;
                }
                // What could not be written is missing in what is stored: only a fresh client knows what is true.
                fx.push(Effect::StopLink);
                self.store_away(now)
            }
            _ => {
                self.phase = Phase::Linked {
                    stage,
                    tries,
                    first,
                };
                self
            }
        }
    }

    fn seen(&mut self, now: Now, fx: &mut Fx) {
        fx.push(Effect::Seen);
        if let Some(row) = &mut self.row {
            row.last_connected = Some(now.wall);
        }
    }

    /// `began` is when the connection that closed was begun, where it never came to stand.
    pub(super) fn link_closed(
        mut self,
        close: Close,
        tries: Tries,
        first: Option<First>,
        began: Option<Instant>,
        now: Now,
        fx: &mut Fx,
    ) -> Self {
        let halt = |reason, until: Option<Duration>| Halted {
            at: now.wall,
            reason,
            until: until.map(|left| later(now, left)),
        };
        let again = Tries {
            lost: tries.lost.saturating_add(1),
            ..tries
        };
        let halted = match close {
            // At once; but not for ever at once.
            Close::Restart if tries.lost == 0 => {
                return self.connect(again, first, Some(Why::Restart), now, fx);
            }
            Close::Restart | Close::Lost => {
                fx.push(Effect::StopLink);
                // Counted from when the attempt began: one that hung has waited already.
                let spent = began.map_or(Duration::ZERO, |began| {
                    now.mono.saturating_duration_since(began)
                });
                let wait = backoff::after_loss(tries.lost, self.jitter)
                    .saturating_sub(spent)
                    .max(backoff::after_loss(0, self.jitter));
                return self.wait(wait, Why::Lost, again, first, now);
            }
            Close::TooFast => {
                fx.push(Effect::StopLink);
                let wait = backoff::after_too_fast(tries.throttled, self.jitter);
                let again = Tries {
                    throttled: tries.throttled.saturating_add(1),
                    ..tries
                };
                return self.wait(wait, Why::TooFast, again, first, now);
            }
            Close::Outdated => {
                fx.push(Effect::StopLink);
                let ticket = self.job(Job::Renew, fx);
                self.phase = Phase::Linked {
                    stage: Stage::Renewing(ticket),
                    tries: again,
                    first,
                };
                return self;
            }
            Close::LoggedOut | Close::Removed => {
                let reason = if close == Close::Removed {
                    EndedReason::DeviceRemoved
                } else {
                    EndedReason::LoggedOut
                };
                fx.push(Effect::StopLink);
                fx.push(Effect::End(reason));
                if let Some(row) = &mut self.row {
                    row.ended = Some(crate::store::Ended {
                        at: now.wall,
                        reason,
                    });
                }
                if let Some(first) = first {
                    // Cut off between acceptance and signature: WhatsApp never finished this link.
                    fx.push(Effect::CodeEnded(EndReason::Failed, first.ask.about(now)));
                    fx.push(Effect::Error(Code::WhatsappRejected.into()));
                    return self.rest(Rest::new(State::Unlinked, Some(Code::WhatsappRejected)));
                }
                return self.rest(Rest::new(State::LoggedOut, Some(Code::LoggedOut)));
            }
            Close::Locked => halt(HaltedReason::Locked, None),
            Close::Banned(left) => halt(
                HaltedReason::Banned,
                Some(left.unwrap_or(BAN_UNKNOWN).max(BAN_LEAST)),
            ),
            Close::Replaced => halt(HaltedReason::Replaced, None),
            Close::Refused(_) => halt(HaltedReason::Failed, None),
        };
        self.halt(halted, first.as_ref(), now, fx)
    }

    /// The link must not be connected for now; its credentials are as good as before.
    fn halt(mut self, halted: Halted, first: Option<&First>, now: Now, fx: &mut Fx) -> Self {
        if let Some(first) = first {
            fx.push(Effect::CodeEnded(EndReason::Failed, first.ask.about(now)));
        }
        fx.push(Effect::StopLink);
        if let Some(row) = &mut self.row {
            row.halted = Some(halted);
        }
        fx.push(Effect::Halt(Some(halted)));
        self.halted(&halted, now)
    }

    fn wait(
        mut self,
        wait: Duration,
        why: Why,
        tries: Tries,
        first: Option<First>,
        now: Now,
    ) -> Self {
        self.phase = Phase::Linked {
            stage: Stage::Waiting {
                until: now.mono + wait,
                until_wall: later(now, wait),
                why,
            },
            tries,
            first,
        };
        self
    }

    /// What came of looking for a newer companion version.
    pub(super) fn renewed(self, ticket: Ticket, newer: bool, now: Now, fx: &mut Fx) -> Self {
        self.behind(|mut machine| match &mut machine.phase {
            Phase::Linked {
                stage: Stage::Renewing(ours),
                tries,
                first,
            } if *ours == ticket => {
                let (tries, first) = (*tries, first.take());
                if newer {
                    return machine.connect(tries, first, Some(Why::Update), now, fx);
                }
                let halted = Halted {
                    at: now.wall,
                    reason: HaltedReason::Outdated,
                    until: None,
                };
                machine.halt(halted, first.as_ref(), now, fx)
            }
            Phase::Opening {
                restarting, ask, ..
            } if *restarting == Some(ticket) => {
                if newer {
                    // The ticket is the start's from here on.
                    let start = Some(machine.job(Job::Start, fx));
                    if let Phase::Opening { restarting, .. } = &mut machine.phase {
                        *restarting = start;
                    }
                    return machine;
                }
                let waiters = std::mem::take(&mut ask.waiters);
                fx.push(Effect::Reply(waiters, Err(Code::ClientOutdated.into())));
                machine.refused_for_good(Close::Outdated, now, fx)
            }
            _ => machine,
        })
    }

    /// A newer companion version is in use: whoever was too old tries again.
    pub(super) fn new_version(self, now: Now, fx: &mut Fx) -> Self {
        self.behind(|machine| {
            if machine.state() != State::Outdated {
                return machine;
            }
            if machine.row.as_ref().is_some_and(is_live) {
                return machine.go_on(Why::Update, now, fx);
            }
            machine.rest(Rest::new(State::Unlinked, None))
        })
    }

    /// A link that had to rest connects again.
    pub(super) fn go_on(mut self, why: Why, now: Now, fx: &mut Fx) -> Self {
        if let Some(row) = &mut self.row
            && row.halted.take().is_some()
        {
            fx.push(Effect::Halt(None));
        }
        self.connect(Tries::default(), None, Some(why), now, fx)
    }

    pub(super) fn mark(mut self, ask: Ask, paired: Paired, now: Now, fx: &mut Fx) -> Self {
        let wrong = !Phone::from_e164_digits(paired.phone.reveal())
            .is_ok_and(|reported| reported.same_line(ask.phone()));
        let ticket = self.job(
            Job::Mark {
                paired,
                wrong,
                asker: ask.request.asker.clone(),
                took: now.mono.saturating_duration_since(ask.asked.mono),
            },
            fx,
        );
        self.phase = Phase::Marking {
            ask,
            wrong,
            ticket,
            marked: false,
            closed: false,
            deadline: now.mono + RESTART,
        };
        self
    }

    pub(super) fn marked(
        mut self,
        ticket: Ticket,
        result: Result<LinkRow, ()>,
        now: Now,
        fx: &mut Fx,
    ) -> Self {
        let Phase::Marking {
            ask,
            ticket: ours,
            marked,
            closed,
            deadline,
            ..
        } = &mut self.phase
        else {
            return self;
        };
        debug_assert_eq!(*ours, ticket, "one marking at a time");
        if let Ok(row) = result {
            *marked = true;
            *deadline = now.mono + RESTART;
            let closed = *closed;
            self.row = Some(row);
            if closed {
                return self.first_login(now, fx);
            }
            return self;
        }
        // The phone lists a device whose keys did not become durable; or did they? What is stored is looked at anew.
        fx.push(Effect::CodeEnded(EndReason::Failed, ask.about(now)));
        fx.push(Effect::Error(Code::StoreUnavailable.into()));
        fx.push(Effect::StopLink);
        self.rest(Rest {
            wake: Some(now.mono + clock::NAP),
            ..Rest::new(State::HalfLinked, Some(Code::HalfLinked))
        })
    }

    pub(super) fn first_login(mut self, now: Now, fx: &mut Fx) -> Self {
        let Phase::Marking {
            ask,
            wrong,
            deadline,
            ..
        } = self.phase
        else {
            return self;
        };
        self.phase = Phase::Rest(Rest::new(State::Linking, None));
        let deadline = deadline + LINKING;
        self.connect(
            Tries::default(),
            Some(First {
                ask,
                wrong,
                deadline,
            }),
            None,
            now,
            fx,
        )
    }

    pub(super) fn started(self, ticket: Ticket, ok: bool, now: Now, fx: &mut Fx) -> Self {
        self.behind(|machine| machine.started_visible(ticket, ok, now, fx))
    }

    fn started_visible(mut self, ticket: Ticket, ok: bool, now: Now, fx: &mut Fx) -> Self {
        match &mut self.phase {
            Phase::Linked { stage, first, .. } => {
                let began = match stage {
                    Stage::Starting {
                        ticket: ours,
                        began,
                    } if *ours == ticket => *began,
                    _ => return self,
                };
                if ok {
                    *stage = Stage::Connecting {
                        began,
                        deadline: now.mono + LOGIN,
                    };
                    return self;
                }
                if let Some(first) = first {
                    fx.push(Effect::CodeEnded(EndReason::Linked, first.ask.about(now)));
                }
                // The store does not give the credentials: it heals, so this is tried again.
                self.store_away(now)
            }
            Phase::Opening {
                restarting, ask, ..
            } if *restarting == Some(ticket) => {
                *restarting = None;
                if ok {
                    return self;
                }
                let waiters = std::mem::take(&mut ask.waiters);
                fx.push(Effect::Reply(waiters, Err(Code::StoreUnavailable.into())));
                self.give_up(Some(Code::StoreUnavailable), fx)
            }
            Phase::Scanning { restarting, .. } if *restarting == Some(ticket) => {
                *restarting = None;
                if ok {
                    return self;
                }
                self.give_up(Some(Code::StoreUnavailable), fx)
            }
            _ => self,
        }
    }

    pub(super) fn timer(self, now: Now, fx: &mut Fx) -> Self {
        self.behind(|machine| {
            if machine.deadline().is_none_or(|at| at > now.mono) {
                return machine.reaim(now, fx);
            }
            machine.timer_visible(now, fx)
        })
    }

    /// Somebody may have set the wall's clock: what is told in its time is told anew.
    fn reaim(mut self, now: Now, fx: &mut Fx) -> Self {
        let moved = |told: UnixMs, at: Instant| {
            let told_now = later(now, at.saturating_duration_since(now.mono));
            ((told_now - told).abs() > clock::SET).then_some(told_now)
        };
        match &mut self.phase {
            Phase::Rest(Rest {
                until: Some(until),
                wake: Some(wake),
                ..
            }) => {
                if let Some(told) = moved(*until, *wake) {
                    *until = told;
                    if let Some(halted) = self.row.as_mut().and_then(|row| row.halted.as_mut()) {
                        halted.at = halted
                            .at
                            .saturating_add(told - halted.until.unwrap_or(told));
                        halted.until = Some(told);
                        fx.push(Effect::Halt(Some(*halted)));
                    }
                }
            }
            Phase::Linked {
                stage: Stage::Waiting {
                    until, until_wall, ..
                },
                ..
            } => {
                if let Some(told) = moved(*until_wall, *until) {
                    *until_wall = told;
                }
            }
            _ => {}
        }
        self
    }

    fn timer_visible(mut self, now: Now, fx: &mut Fx) -> Self {
        match &mut self.phase {
            Phase::Rest(rest) => {
                rest.wake = None;
                match rest.state {
                    State::StoreUnavailable | State::HalfLinked => fx.push(Effect::Reboot),
                    _ if self.row.as_ref().is_some_and(is_live) => {
                        return self.go_on(Why::BanOver, now, fx);
                    }
                    _ => return self.rest(Rest::new(State::Unlinked, None)),
                }
                self
            }
            Phase::Opening { ask, .. } => {
                let waiters = std::mem::take(&mut ask.waiters);
                fx.push(Effect::Reply(
                    waiters,
                    Err(Code::WhatsappUnreachable.into()),
                ));
                self.give_up(Some(Code::WhatsappUnreachable), fx)
            }
            Phase::Awaiting(awaiting) if !awaiting.hidden => {
                awaiting.hidden = true;
                fx.push(Effect::CodeEnded(
                    EndReason::Expired,
                    awaiting.ask.about(now),
                ));
                self
            }
            Phase::Awaiting(_) => self.give_up(None, fx),
            Phase::Linking(linking) => {
                fx.push(Effect::CodeEnded(EndReason::Failed, linking.ask.about(now)));
                self.give_up(None, fx)
            }
            Phase::Marking { marked: true, .. } => {
                fx.push(Effect::StopLink);
                self.first_login(now, fx)
            }
            Phase::Linked {
                stage,
                tries,
                first,
            } => {
                if let Some(over) = first.take_if(|first| first.deadline <= now.mono) {
                    let about = over.ask.about(now);
                    if over.wrong {
                        return self.leave(
                            Vec::new(),
                            Leaving::WrongPhone,
                            Some(over.ask.request.asker),
                            false,
                            Some(about),
                            fx,
                        );
                    }
                    // The link is made and durable; only the network is not there.
                    fx.push(Effect::CodeEnded(EndReason::Linked, about));
                    return self;
                }
                match stage {
                    Stage::Waiting { .. } => self.resume(None, now, fx),
                    Stage::Connecting { began, .. } => {
                        let (began, tries, first) = (*began, *tries, first.take());
                        self.link_closed(Close::Lost, tries, first, Some(began), now, fx)
                    }
                    Stage::Up { touch, .. } => {
                        *touch = now.mono + SEEN;
                        self.seen(now, fx);
                        self
                    }
                    Stage::Starting { .. } | Stage::Renewing(_) => self,
                }
            }
            Phase::Recording { .. }
            | Phase::Probing { .. }
            | Phase::Preparing { .. }
            | Phase::Scanning { .. }
            | Phase::Marking { .. }
            | Phase::Leaving { .. } => self,
        }
    }
}
