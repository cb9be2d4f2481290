//! Owns what a client's reports mean while a code is open and while the phone is linking.

use super::*;

impl Machine {
    pub(super) fn link(mut self, event: LinkEvent, now: Now, fx: &mut Fx) -> Self {
        // A check leaves the link as it is: what happens to it meanwhile counts.
        match self.phase {
            Phase::Recording { ask, ticket, back } => {
                self.phase = *back;
                let mut machine = self.link(event, now, fx);
                machine.phase = Phase::Recording {
                    ask,
                    ticket,
                    back: Box::new(machine.phase),
                };
                return machine;
            }
            Phase::Probing { ask, ticket, back } => {
                self.phase = *back;
                let mut machine = self.link(event, now, fx);
                machine.phase = Phase::Probing {
                    ask,
                    ticket,
                    back: Box::new(machine.phase),
                };
                return machine;
            }
            phase => self.phase = phase,
        }
        if let LinkEvent::Qr { value, left } = &event
            && self.request_open()
        {
            self.qr = Some(Qr {
                value: value.clone(),
                deadline: now.mono + *left,
            });
            return self;
        }
        match self.phase {
            Phase::Opening { .. } => self.link_opening(event, now, fx),
            Phase::Awaiting(_) => self.link_awaiting(event, now, fx),
            Phase::Scanning { .. } => self.link_scanning(event, now, fx),
            Phase::Linking(_) => self.link_linking(event, now, fx),
            Phase::Marking { .. } => self.link_marking(&event, fx),
            Phase::Linked { .. } => self.link_linked(&event, now, fx),
            Phase::Rest(_)
            | Phase::Recording { .. }
            | Phase::Probing { .. }
            | Phase::Preparing { .. }
            | Phase::Leaving { .. } => self,
        }
    }

    pub(super) fn link_awaiting(mut self, event: LinkEvent, now: Now, fx: &mut Fx) -> Self {
        let Phase::Awaiting(awaiting) = self.phase else {
            return self;
        };
        self.phase = Phase::Rest(Rest::new(State::Unlinked, None));
        let visible = !awaiting.hidden;
        let mut ended = |reason| {
            if visible {
                fx.push(Effect::CodeEnded(reason));
            }
        };
        match event {
            LinkEvent::PhoneTookCode => {
                let left = awaiting.hide_at.saturating_duration_since(now.mono);
                self.phase = Phase::Linking(Linking {
                    ask: awaiting.ask,
                    shown: Some((awaiting.shown, left)),
                    deadline: now.mono + LINKING,
                });
                self
            }
            LinkEvent::PairSuccess(paired) => self.mark(awaiting.ask, paired, now, fx),
            LinkEvent::RefreshWanted => {
                ended(EndReason::Refresh);
                self.give_up(None, fx)
            }
            LinkEvent::TooManyTries => {
                ended(EndReason::Attempts);
                self.give_up(None, fx)
            }
            LinkEvent::PasskeyWanted => {
                ended(EndReason::Failed);
                fx.push(Effect::Error(Code::PasskeyRequired.into()));
                self.passkey(fx)
            }
            LinkEvent::Closed(close) => {
                ended(EndReason::Failed);
                if visible {
                    fx.push(Effect::Error(closed_code(close).into()));
                }
                self.refused_for_good(close, fx)
            }
            LinkEvent::QrOver => {
                self.qr = None;
                self.phase = Phase::Awaiting(awaiting);
                self
            }
            _ => {
                self.phase = Phase::Awaiting(awaiting);
                self
            }
        }
    }

    pub(super) fn link_scanning(mut self, event: LinkEvent, now: Now, fx: &mut Fx) -> Self {
        let Phase::Scanning {
            ask,
            rounds,
            restarting,
        } = self.phase
        else {
            return self;
        };
        self.phase = Phase::Rest(Rest::new(State::Unlinked, None));
        match event {
            LinkEvent::PairSuccess(paired) => self.mark(ask, paired, now, fx),
            LinkEvent::PasskeyWanted => {
                fx.push(Effect::Error(Code::PasskeyRequired.into()));
                self.passkey(fx)
            }
            // The library has closed itself with its last QR and cannot run again: a new client.
            LinkEvent::Closed(Close::Restart | Close::Lost) if rounds < QR_ROUNDS => {
                self.qr = None;
                let restarting = Some(self.job(Job::Start, fx));
                self.phase = Phase::Scanning {
                    ask,
                    rounds: rounds + 1,
                    restarting,
                };
                self
            }
            LinkEvent::Closed(close) => self.refused_for_good(close, fx),
            event => {
                if event == LinkEvent::QrOver {
                    self.qr = None;
                }
                self.phase = Phase::Scanning {
                    ask,
                    rounds,
                    restarting,
                };
                self
            }
        }
    }

    pub(super) fn link_linking(mut self, event: LinkEvent, now: Now, fx: &mut Fx) -> Self {
        let Phase::Linking(mut linking) = self.phase else {
            return self;
        };
        self.phase = Phase::Rest(Rest::new(State::Unlinked, None));
        match event {
            LinkEvent::PairSuccess(paired) => self.mark(linking.ask, paired, now, fx),
            LinkEvent::PhoneTookCode => {
                linking.deadline = now.mono + LINKING;
                self.phase = Phase::Linking(linking);
                self
            }
            LinkEvent::PairFailed => self.linking_failed(EndReason::Failed, None, fx),
            LinkEvent::TooManyTries => self.linking_failed(EndReason::Attempts, None, fx),
            LinkEvent::RefreshWanted => {
                // The library's own minute of silence ends together with ours: that is a failure.
                let silence = linking.deadline.saturating_duration_since(now.mono);
                let reason = if silence < Duration::from_secs(1) {
                    EndReason::Failed
                } else {
                    EndReason::Refresh
                };
                self.linking_failed(reason, None, fx)
            }
            LinkEvent::PasskeyWanted => {
                fx.push(Effect::CodeEnded(EndReason::Failed));
                fx.push(Effect::Error(Code::PasskeyRequired.into()));
                self.passkey(fx)
            }
            LinkEvent::Closed(close) => {
                self.linking_failed(EndReason::Failed, Some(closed_code(close)), fx)
            }
            _ => {
                self.phase = Phase::Linking(linking);
                self
            }
        }
    }

    pub(super) fn linking_failed(
        self,
        reason: EndReason,
        error: Option<Code>,
        fx: &mut Fx,
    ) -> Self {
        fx.push(Effect::CodeEnded(reason));
        if let Some(code) = error {
            fx.push(Effect::Error(code.into()));
        }
        self.give_up(error, fx)
    }

    pub(super) fn link_marking(mut self, event: &LinkEvent, fx: &mut Fx) -> Self {
        if matches!(event, LinkEvent::Closed(_))
            && let Phase::Marking { closed, marked, .. } = &mut self.phase
        {
            *closed = true;
            if *marked {
                return self.first_login(fx);
            }
        }
        self
    }

    /// A registration that WhatsApp refused: the state says what people can do about it.
    pub(super) fn refused_for_good(self, close: Close, fx: &mut Fx) -> Self {
        let state = match close {
            Close::Outdated => State::Outdated,
            Close::Locked => State::Locked,
            Close::Banned(_) => State::Banned,
            _ => State::Unlinked,
        };
        fx.push(Effect::StopLink);
        self.rest(Rest::new(state, Some(closed_code(close))))
    }

    pub(super) fn passkey(self, fx: &mut Fx) -> Self {
        fx.push(Effect::StopLink);
        self.rest(Rest::new(
            State::PasskeyRequired,
            Some(Code::PasskeyRequired),
        ))
    }
}

pub(super) fn closed_code(close: Close) -> Code {
    match close {
        Close::Restart | Close::Lost => Code::WhatsappUnreachable,
        Close::TooFast => Code::WhatsappRateLimited,
        Close::LoggedOut | Close::Refused(_) | Close::Replaced => Code::WhatsappRejected,
        Close::Locked => Code::Locked,
        Close::Banned(_) => Code::Banned,
        Close::Outdated => Code::ClientOutdated,
    }
}

pub(super) fn closed_retry(close: Close) -> Option<u64> {
    match close {
        Close::Banned(Some(left)) => Some(left.as_secs()),
        _ => None,
    }
}
