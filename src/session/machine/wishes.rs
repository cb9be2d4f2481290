//! Owns what else people can wish: cancel, reconnect, unlink.

use super::ask::not_wiped;
use super::{
    About, Answer, Asker, Code, Effect, EndReason, EndedReason, Fx, Job, LeaveFailed, Leaving,
    Left, Machine, Now, Phase, Rest, Stage, State, Ticket, Tries, Waiter, Why, is_a_strangers,
    is_linking, is_live, visible,
};

impl Machine {
    pub(super) fn cancel(mut self, waiter: Waiter, now: Now, fx: &mut Fx) -> Self {
        if is_linking(visible(&self.phase)) {
            fx.push(Effect::Reply(
                vec![waiter],
                Err(Code::LinkingInProgress.into()),
            ));
            return self;
        }
        fx.push(Effect::Reply(vec![waiter], Ok(Answer::Done)));
        if matches!(self.phase, Phase::Recording { .. } | Phase::Probing { .. }) {
            let (ask, machine) = self.take_back();
            fx.push(Effect::Reply(ask.waiters, Err(Code::Cancelled.into())));
            self = machine;
        }
        match &mut self.phase {
            Phase::Preparing {
                ask,
                next,
                cancelled,
                ..
            } => {
                let mut waiters = std::mem::take(&mut ask.waiters);
                waiters.extend(next.take().into_iter().flat_map(|next| next.waiters));
                fx.push(Effect::Reply(waiters, Err(Code::Cancelled.into())));
                *cancelled = true;
                self
            }
            Phase::Opening { ask, .. } | Phase::Scanning { ask, .. } => {
                let waiters = std::mem::take(&mut ask.waiters);
                fx.push(Effect::Reply(waiters, Err(Code::Cancelled.into())));
                self.give_up(None, fx)
            }
            Phase::Awaiting(awaiting) => {
                if !awaiting.hidden {
                    fx.push(Effect::CodeEnded(
                        EndReason::Cancelled,
                        awaiting.ask.about(now),
                    ));
                }
                self.give_up(None, fx)
            }
            _ => self,
        }
    }

    pub(super) fn reconnect(self, waiter: Waiter, now: Now, fx: &mut Fx) -> Self {
        fx.push(Effect::Reply(vec![waiter], Ok(Answer::Done)));
        self.behind(|machine| match &machine.phase {
            Phase::Linked {
                stage: Stage::Waiting { .. },
                ..
            } => machine.resume(Some(Why::Asked), now, fx),
            Phase::Rest(rest) if rest.wake.is_some() && rest.state != State::Banned => {
                fx.push(Effect::Reboot);
                machine
            }
            Phase::Rest(_) if machine.row.as_ref().is_some_and(is_live) => {
                machine.go_on(Why::Asked, now, fx)
            }
            // There is no link to take up: the way to try again is to ask for a code.
            Phase::Rest(rest)
                if matches!(
                    rest.state,
                    State::Banned | State::Locked | State::Outdated | State::PasskeyRequired
                ) =>
            {
                machine.rest(Rest::new(State::Unlinked, None))
            }
            _ => machine,
        })
    }

    /// Tries now, because the wait is over or somebody wants it.
    pub(super) fn resume(mut self, asked: Option<Why>, now: Now, fx: &mut Fx) -> Self {
        let Phase::Linked {
            stage: Stage::Waiting { why, .. },
            tries,
            first,
        } = self.phase
        else {
            return self;
        };
        self.phase = Phase::Rest(Rest::new(State::Reconnecting, None));
        self.connect(tries, first, Some(asked.unwrap_or(why)), now, fx)
    }

    pub(super) fn unlink(mut self, waiter: Waiter, asker: Asker, now: Now, fx: &mut Fx) -> Self {
        if is_linking(visible(&self.phase)) {
            fx.push(Effect::Reply(
                vec![waiter],
                Err(Code::LinkingInProgress.into()),
            ));
            return self;
        }
        if matches!(self.phase, Phase::Recording { .. } | Phase::Probing { .. }) {
            let (ask, machine) = self.take_back();
            fx.push(Effect::Reply(ask.waiters, Err(Code::Cancelled.into())));
            self = machine;
        }
        match &mut self.phase {
            Phase::Awaiting(awaiting) if !awaiting.hidden => {
                fx.push(Effect::CodeEnded(
                    EndReason::Cancelled,
                    awaiting.ask.about(now),
                ));
            }
            Phase::Opening { ask, .. } | Phase::Scanning { ask, .. } => {
                let waiters = std::mem::take(&mut ask.waiters);
                fx.push(Effect::Reply(waiters, Err(Code::Cancelled.into())));
            }
            _ => {}
        }
        if self.row.is_none() {
            fx.push(Effect::Reply(vec![waiter], Ok(Answer::Done)));
            return self.give_up(None, fx);
        }
        self.leave(vec![waiter], Leaving::Asked, Some(asker), true, None, fx)
    }

    pub(super) fn leave(
        mut self,
        waiters: Vec<Waiter>,
        why: Leaving,
        asker: Option<Asker>,
        tell: bool,
        about: Option<About>,
        fx: &mut Fx,
    ) -> Self {
        let live = self
            .row
            .as_ref()
            .is_some_and(|row| is_live(row) || is_a_strangers(row) || why == Leaving::WrongPhone);
        let was = match self.state() {
            State::AwaitingCodeEntry | State::AwaitingScan | State::Connecting => State::Unlinked,
            state => state,
        };
        let ticket = self.job(
            Job::Leave {
                tell: tell && live,
                why,
                asker,
            },
            fx,
        );
        self.phase = Phase::Leaving {
            ticket,
            waiters,
            was,
            why,
            about,
            live,
        };
        self
    }

    pub(super) fn left(
        mut self,
        ticket: Ticket,
        result: Result<Left, LeaveFailed>,
        now: Now,
        fx: &mut Fx,
    ) -> Self {
        let Phase::Leaving {
            ticket: ours,
            waiters,
            why,
            about,
            live,
            ..
        } = self.phase
        else {
            return self;
        };
        debug_assert_eq!(ticket, ours, "one unlinking at a time");
        self.phase = Phase::Rest(Rest::new(State::Unlinked, None));
        if why == Leaving::WrongPhone {
            if let Some(about) = about {
                fx.push(Effect::CodeEnded(EndReason::Failed, about));
            }
            fx.push(Effect::Error(Code::WrongPhoneLinked.into()));
        }
        match result {
            Ok(left) => {
                self.row = None;
                fx.push(Effect::Reply(waiters, Ok(Answer::Done)));
                let reason = match why {
                    Leaving::WrongPhone => Some(Code::WrongPhoneLinked),
                    // Wiped here, but the phone goes on listing the device.
                    Leaving::Asked if live && !left.told => Some(Code::HalfLinked),
                    Leaving::Asked => None,
                };
                self.rest(Rest::new(State::Unlinked, reason))
            }
            Err(failed) => {
                fx.push(Effect::Reply(waiters, Err(not_wiped(failed.told))));
                if !failed.told && why == Leaving::Asked && self.row.as_ref().is_some_and(is_live) {
                    // Nothing was told and nothing wiped: the link is as it was.
                    return self.connect(Tries::default(), None, None, now, fx);
                }
                if let Some(row) = &mut self.row {
                    row.ended.get_or_insert(crate::store::Ended {
                        at: now.wall,
                        reason: EndedReason::LoggedOut,
                    });
                }
                self.rest(Rest::new(State::LoggedOut, Some(Code::StoreUnavailable)))
            }
        }
    }
}
