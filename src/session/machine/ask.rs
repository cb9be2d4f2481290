//! Owns the way of a request for a code: the checks in their order, then the preparation.
//! Up to `prepare` nothing has changed, and every refusal restores what was there.

use super::{
    Answer, Ask, Code, Effect, EndReason, EndedReason, Facts, Fx, Job, LinkRow, Machine, Now,
    PairingCode, Phase, PrepareFailed, Prepared, RequestError, Rest, State, Ticket, Tries, code_of,
    is_a_strangers, is_linking, is_live,
};

impl Machine {
    pub(super) fn ask(mut self, ask: Ask, facts: Facts, now: Now, fx: &mut Fx) -> Self {
        let Ok(row) = facts.row else {
            fx.push(Effect::Reply(
                ask.waiters,
                Err(Code::StoreUnavailable.into()),
            ));
            return self;
        };
        let row = self.still_over(row);
        match &mut self.phase {
            Phase::Probing { ask: running, .. } if running.phone().same_line(ask.phone()) => {
                running.waiters.extend(ask.waiters);
                return self;
            }
            Phase::Probing { .. } => {
                self.row = row;
                // What is refused has changed nothing, for nobody.
                if let Some(refusal) = self.refusal(&ask, facts.over_budget) {
                    fx.push(Effect::Reply(ask.waiters, Err(refusal)));
                    return self;
                }
                // A newer wish: the older one is over, and nothing had changed for it.
                let (older, machine) = self.take_back();
                fx.push(Effect::Reply(older.waiters, Err(Code::Superseded.into())));
                return machine.record(ask, fx);
            }
            Phase::Preparing {
                ask: running,
                next,
                cancelled,
                ..
            } => {
                let target = next.as_mut().unwrap_or(running);
                if target.phone().same_line(ask.phone()) && !(*cancelled && next.is_none()) {
                    next.as_mut().unwrap_or(running).waiters.extend(ask.waiters);
                } else if let Some(refusal) = over(facts.over_budget) {
                    fx.push(Effect::Reply(ask.waiters, Err(refusal)));
                } else {
                    let mut losers = std::mem::take(&mut running.waiters);
                    if let Some(next) = next.take() {
                        losers.extend(next.waiters);
                    }
                    fx.push(Effect::Reply(losers, Err(Code::Superseded.into())));
                    *next = Some(ask);
                }
                return self;
            }
            Phase::Opening { ask: running, .. } if running.phone().same_line(ask.phone()) => {
                running.waiters.extend(ask.waiters);
                return self;
            }
            Phase::Scanning { ask: running, .. } if running.phone().same_line(ask.phone()) => {
                fx.push(Effect::Reply(
                    ask.waiters,
                    Err(Code::CodeNotAvailable.into()),
                ));
                return self;
            }
            _ => {}
        }
        if let Some(code) = self.live_code_for(&ask, now) {
            fx.push(Effect::Reply(ask.waiters, Ok(Answer::Code(code))));
            return self;
        }
        if self.phone_is_linking() {
            fx.push(Effect::Reply(
                ask.waiters,
                Err(Code::LinkingInProgress.into()),
            ));
            return self;
        }
        // Removed by hand meanwhile, or restored: what is stored now is what counts.
        self.row = row;
        if let Some(refusal) = self.refusal(&ask, facts.over_budget) {
            fx.push(Effect::Reply(ask.waiters, Err(refusal)));
            return self;
        }
        self.record(ask, fx)
    }

    /// That a link is over is known here also when the store did not take it.
    fn still_over(&self, mut stored: Option<LinkRow>) -> Option<LinkRow> {
        if let (Some(stored), Some(known)) = (&mut stored, &self.row)
            && stored.epoch == known.epoch
            && stored.ended.is_none()
        {
            stored.ended.clone_from(&known.ended);
        }
        stored
    }

    pub(super) fn live_code_for(&self, ask: &Ask, now: Now) -> Option<PairingCode> {
        let running = match &self.phase {
            Phase::Awaiting(awaiting) if !awaiting.hidden => &awaiting.ask,
            Phase::Linking(linking) => &linking.ask,
            _ => return None,
        };
        running
            .phone()
            .same_line(ask.phone())
            .then(|| code_of(&self.phase, now))
            .flatten()
    }

    pub(super) fn phone_is_linking(&self) -> bool {
        is_linking(&self.phase)
    }

    /// The checks in their order: budget, already linked, confirmation.
    fn refusal(&self, ask: &Ask, over_budget: Option<u64>) -> Option<RequestError> {
        over(over_budget).or_else(|| self.live_refusal(ask))
    }

    /// The last check but one: the store takes the request's entry.
    fn record(mut self, ask: Ask, fx: &mut Fx) -> Self {
        let ticket = self.job(Job::Journal(ask.request.clone()), fx);
        let back = std::mem::replace(
            &mut self.phase,
            Phase::Rest(Rest::new(State::Unlinked, None)),
        );
        self.phase = Phase::Recording {
            ask,
            ticket,
            back: Box::new(back),
        };
        self
    }

    /// A live link is given up for nobody who did not name it.
    fn live_refusal(&self, ask: &Ask) -> Option<RequestError> {
        let live = self.row.as_ref().filter(|row| is_live(row))?;
        if ask.request.replace.as_deref() == Some(&*live.link_id) {
            return None;
        }
        let code = if live.line == ask.phone().line_key() {
            Code::AlreadyLinked
        } else {
            Code::ReplaceConfirmationRequired
        };
        Some(RequestError {
            old_phone: Some(live.masked()),
            link_id: Some(live.link_id.clone()),
            ..code.into()
        })
    }

    /// Leaves a check as if it had never begun.
    pub(super) fn take_back(mut self) -> (Ask, Self) {
        match self.phase {
            Phase::Recording { ask, back, .. } | Phase::Probing { ask, back, .. } => {
                self.phase = *back;
                (ask, self)
            }
            _ => unreachable!("only a check is taken back"),
        }
    }

    pub(super) fn journaled(self, ticket: Ticket, ok: bool, now: Now, fx: &mut Fx) -> Self {
        if !matches!(&self.phase, Phase::Recording { ticket: t, .. } if *t == ticket) {
            return self;
        }
        let (ask, mut machine) = self.take_back();
        if !ok {
            fx.push(Effect::Reply(
                ask.waiters,
                Err(Code::StoreUnavailable.into()),
            ));
            return machine;
        }
        if machine.phone_is_linking() {
            fx.push(Effect::Reply(
                ask.waiters,
                Err(Code::LinkingInProgress.into()),
            ));
            return machine;
        }
        // What was stored may have come to life meanwhile, when the store healed.
        if let Some(refusal) = machine.live_refusal(&ask) {
            fx.push(Effect::Reply(ask.waiters, Err(refusal)));
            return machine;
        }
        if machine.row.as_ref().is_some_and(is_live) {
            let ticket = machine.job(Job::Probe, fx);
            machine.phase = Phase::Probing {
                ask,
                ticket,
                back: Box::new(machine.phase),
            };
            return machine;
        }
        let tell = machine.row.as_ref().is_some_and(is_a_strangers);
        machine.prepare(ask, tell, now, fx)
    }

    pub(super) fn probed(
        self,
        ticket: Ticket,
        result: Result<(), Code>,
        now: Now,
        fx: &mut Fx,
    ) -> Self {
        if !matches!(&self.phase, Phase::Probing { ticket: t, .. } if *t == ticket) {
            return self;
        }
        let (ask, machine) = self.take_back();
        match result {
            Ok(()) => {
                // The link may have ended by itself meanwhile: then nobody is left to tell.
                let tell = machine.row.as_ref().is_some_and(is_live);
                machine.prepare(ask, tell, now, fx)
            }
            Err(code) => {
                fx.push(Effect::Reply(ask.waiters, Err(code.into())));
                machine
            }
        }
    }

    /// From here on the old link is given up.
    pub(super) fn prepare(mut self, ask: Ask, tell: bool, now: Now, fx: &mut Fx) -> Self {
        match &mut self.phase {
            Phase::Awaiting(awaiting) if !awaiting.hidden => {
                fx.push(Effect::CodeEnded(
                    EndReason::Superseded,
                    awaiting.ask.about(now),
                ));
            }
            Phase::Opening { ask: older, .. } | Phase::Scanning { ask: older, .. } => {
                fx.push(Effect::Reply(
                    std::mem::take(&mut older.waiters),
                    Err(Code::Superseded.into()),
                ));
            }
            _ => {}
        }
        let ticket = self.job(
            Job::Prepare {
                request: ask.request.clone(),
                tell,
                old: self.row.clone(),
            },
            fx,
        );
        self.phase = Phase::Preparing {
            ask,
            ticket,
            next: None,
            cancelled: false,
        };
        self
    }

    pub(super) fn prepared(
        mut self,
        ticket: Ticket,
        result: Result<Prepared, PrepareFailed>,
        now: Now,
        fx: &mut Fx,
    ) -> Self {
        let Phase::Preparing {
            ask,
            ticket: ours,
            next,
            cancelled,
        } = self.phase
        else {
            return self;
        };
        debug_assert_eq!(ticket, ours, "one preparation at a time");
        self.phase = Phase::Rest(Rest::new(State::Unlinked, None));
        match result {
            Err(failed) => {
                let mut waiters = ask.waiters;
                waiters.extend(next.into_iter().flat_map(|next| next.waiters));
                fx.push(Effect::Reply(waiters, Err(not_wiped(failed.told))));
                if failed.row.is_some() {
                    self.row = failed.row;
                }
                if failed.told {
                    // WhatsApp forgot the link, the store did not: leftovers, for the next try.
                    if let Some(row) = &mut self.row {
                        row.ended = Some(crate::store::Ended {
                            at: now.wall,
                            reason: EndedReason::LoggedOut,
                        });
                    }
                    return self.rest(Rest::new(State::LoggedOut, Some(Code::StoreUnavailable)));
                }
                if self.row.as_ref().is_some_and(is_live) {
                    // WhatsApp did not confirm that it forgot the link, and it was not wiped: it goes on.
                    return self.connect(Tries::default(), None, None, now, fx);
                }
                self.rest(Rest::new(State::Unlinked, Some(Code::StoreUnavailable)))
            }
            Ok(prepared) => {
                self.row = Some(prepared.row);
                if let Some(next) = next {
                    // The newcomer finds a fresh epoch that never linked: leftovers like any other.
                    fx.push(Effect::StopLink);
                    fx.push(Effect::Ask(next));
                    return self;
                }
                if cancelled {
                    fx.push(Effect::StopLink);
                    return self;
                }
                self.phase = Phase::Opening {
                    ask,
                    replaced: prepared.replaced,
                    deadline: now.mono + self.limits.connect_timeout,
                    requested: false,
                    restarting: None,
                    restarts: 0,
                };
                self
            }
        }
    }
}

/// The number's budget is used up for so many seconds.
fn over(budget: Option<u64>) -> Option<RequestError> {
    budget.map(|seconds| RequestError {
        retry_after: Some(seconds),
        ..Code::RateLimited.into()
    })
}

/// Why a wipe did not come about; it makes a difference whether WhatsApp has forgotten the link already.
pub(super) fn not_wiped(told: bool) -> RequestError {
    RequestError {
        reason: told.then_some("told_not_wiped"),
        ..Code::StoreUnavailable.into()
    }
}
