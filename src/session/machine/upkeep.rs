//! Owns a link from the phone's acceptance on: made durable, first login, kept up, ended; and what time does.

use super::*;

impl Machine {
    pub(super) fn link_linked(mut self, event: &LinkEvent, now: Now, fx: &mut Fx) -> Self {
        let Phase::Linked {
            stage,
            attempt,
            first,
        } = self.phase
        else {
            return self;
        };
        self.phase = Phase::Rest(Rest::new(State::Reconnecting, None));
        match event {
            LinkEvent::Connected => {
                if let Some(first) = first {
                    if first.wrong {
                        return self.leave(
                            Vec::new(),
                            Leaving::WrongPhone,
                            Some(first.ask.request.asker),
                            true,
                            fx,
                        );
                    }
                    fx.push(Effect::CodeEnded(EndReason::Linked));
                }
                fx.push(Effect::Seen);
                if let Some(row) = &mut self.row {
                    row.last_connected = Some(now.wall);
                }
                self.phase = Phase::Linked {
                    stage: Stage::Up,
                    attempt: 0,
                    first: None,
                };
                self
            }
            LinkEvent::Closed(close) => {
                if matches!(stage, Stage::Up) {
                    fx.push(Effect::Seen);
                    if let Some(row) = &mut self.row {
                        row.last_connected = Some(now.wall);
                    }
                }
                self.link_closed(*close, attempt, first, now, fx)
            }
            _ => {
                self.phase = Phase::Linked {
                    stage,
                    attempt,
                    first,
                };
                self
            }
        }
    }

    pub(super) fn link_closed(
        mut self,
        close: Close,
        attempt: u32,
        first: Option<First>,
        now: Now,
        fx: &mut Fx,
    ) -> Self {
        let halt = |reason, until: Option<Duration>| Halted {
            at: now.wall,
            reason,
            until: until
                .map(|left| now.wall + i64::try_from(left.as_millis()).unwrap_or(i64::MAX / 2)),
        };
        let halted = match close {
            Close::Restart => return self.connect(attempt, first, fx),
            Close::Lost | Close::TooFast => {
                let wait = if close == Close::TooFast {
                    backoff::after_too_fast(attempt, self.jitter)
                } else {
                    backoff::after_loss(attempt, self.jitter)
                };
                self.phase = Phase::Linked {
                    stage: Stage::Waiting {
                        until: now.mono + wait,
                        until_wall: now.wall
                            + i64::try_from(wait.as_millis()).unwrap_or(i64::MAX / 2),
                    },
                    attempt: attempt.saturating_add(1),
                    first,
                };
                return self;
            }
            Close::LoggedOut => {
                fx.push(Effect::StopLink);
                fx.push(Effect::End(EndedReason::LoggedOut));
                if let Some(row) = &mut self.row {
                    row.ended = Some(crate::store::Ended {
                        at: now.wall,
                        reason: EndedReason::LoggedOut,
                    });
                }
                if first.is_some() {
                    // Cut off between acceptance and signature: WhatsApp never finished this link.
                    fx.push(Effect::CodeEnded(EndReason::Failed));
                    fx.push(Effect::Error(Code::WhatsappRejected.into()));
                    return self.rest(Rest::new(State::Unlinked, Some(Code::WhatsappRejected)));
                }
                return self.rest(Rest::new(State::LoggedOut, Some(Code::LoggedOut)));
            }
            Close::Locked => halt(HaltedReason::Locked, None),
            Close::Banned(until) => halt(HaltedReason::Banned, until),
            Close::Outdated => halt(HaltedReason::Outdated, None),
            Close::Replaced => halt(HaltedReason::Replaced, None),
            Close::Refused(_) => halt(HaltedReason::Failed, None),
        };
        if first.is_some() {
            fx.push(Effect::CodeEnded(EndReason::Failed));
        }
        fx.push(Effect::StopLink);
        if let Some(row) = &mut self.row {
            row.halted = Some(halted.clone());
        }
        fx.push(Effect::Halt(Some(halted.clone())));
        self.halted(&halted, now)
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
                return self.first_login(fx);
            }
            self
        } else {
            // The phone lists a device whose keys did not become durable.
            fx.push(Effect::CodeEnded(EndReason::Failed));
            fx.push(Effect::Error(Code::StoreUnavailable.into()));
            fx.push(Effect::StopLink);
            self.rest(Rest::new(State::HalfLinked, Some(Code::HalfLinked)))
        }
    }

    pub(super) fn first_login(mut self, fx: &mut Fx) -> Self {
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
            0,
            Some(First {
                ask,
                wrong,
                deadline,
            }),
            fx,
        )
    }

    pub(super) fn started(mut self, ticket: Ticket, ok: bool, now: Now, fx: &mut Fx) -> Self {
        match &mut self.phase {
            Phase::Linked {
                stage,
                attempt,
                first,
            } => {
                if !matches!(stage, Stage::Starting(ours) if *ours == ticket) {
                    return self;
                }
                if ok {
                    *stage = Stage::Connecting {
                        deadline: now.mono + LOGIN,
                    };
                    return self;
                }
                let (attempt, first) = (*attempt, first.take());
                self.phase = Phase::Rest(Rest::new(State::Reconnecting, None));
                // The store does not give the credentials: it heals, so this is tried again.
                self.link_closed(Close::Lost, attempt, first, now, fx)
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
            Phase::Recording { .. } | Phase::Probing { .. } => {
                let (ask, ours, recording) = match self.phase {
                    Phase::Recording {
                        ask,
                        ticket: t,
                        back,
                    } => {
                        self.phase = *back;
                        (ask, t, true)
                    }
                    Phase::Probing {
                        ask,
                        ticket: t,
                        back,
                    } => {
                        self.phase = *back;
                        (ask, t, false)
                    }
                    _ => unreachable!("matched above"),
                };
                let mut machine = self.started(ticket, ok, now, fx);
                let back = Box::new(machine.phase);
                machine.phase = if recording {
                    Phase::Recording {
                        ask,
                        ticket: ours,
                        back,
                    }
                } else {
                    Phase::Probing {
                        ask,
                        ticket: ours,
                        back,
                    }
                };
                machine
            }
            _ => self,
        }
    }

    pub(super) fn timer(mut self, now: Now, fx: &mut Fx) -> Self {
        if self.deadline().is_none_or(|at| at > now.mono) {
            return self;
        }
        match &mut self.phase {
            Phase::Rest(rest) => {
                rest.wake = None;
                if self.row.as_ref().is_some_and(is_live) {
                    if let Some(row) = &mut self.row {
                        row.halted = None;
                    }
                    fx.push(Effect::Halt(None));
                    return self.connect(0, None, fx);
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
                fx.push(Effect::CodeEnded(EndReason::Expired));
                self
            }
            Phase::Awaiting(_) => self.give_up(None, fx),
            Phase::Linking(_) => self.linking_failed(EndReason::Failed, None, fx),
            Phase::Marking { marked: true, .. } => {
                fx.push(Effect::StopLink);
                self.first_login(fx)
            }
            Phase::Linked {
                stage,
                attempt,
                first,
            } => {
                if first
                    .as_ref()
                    .is_some_and(|first| first.deadline <= now.mono)
                {
                    let Some(first) = first.take() else {
                        return self;
                    };
                    if first.wrong {
                        return self.leave(
                            Vec::new(),
                            Leaving::WrongPhone,
                            Some(first.ask.request.asker),
                            false,
                            fx,
                        );
                    }
                    // The link is made and durable; only the network is not there.
                    fx.push(Effect::CodeEnded(EndReason::Linked));
                    return self;
                }
                match stage {
                    Stage::Waiting { .. } => self.resume(fx),
                    Stage::Connecting { .. } => {
                        let (attempt, first) = (*attempt, first.take());
                        fx.push(Effect::StopLink);
                        self.link_closed(Close::Lost, attempt, first, now, fx)
                    }
                    Stage::Starting(_) | Stage::Up => self,
                }
            }
            Phase::Recording { .. } | Phase::Probing { .. } => {
                let (ask, ticket, recording) = match self.phase {
                    Phase::Recording { ask, ticket, back } => {
                        self.phase = *back;
                        (ask, ticket, true)
                    }
                    Phase::Probing { ask, ticket, back } => {
                        self.phase = *back;
                        (ask, ticket, false)
                    }
                    _ => unreachable!("matched above"),
                };
                let mut machine = self.timer(now, fx);
                let back = Box::new(machine.phase);
                machine.phase = if recording {
                    Phase::Recording { ask, ticket, back }
                } else {
                    Phase::Probing { ask, ticket, back }
                };
                machine
            }
            Phase::Preparing { .. }
            | Phase::Scanning { .. }
            | Phase::Marking { .. }
            | Phase::Leaving { .. } => self,
        }
    }
}
