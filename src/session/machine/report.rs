//! Owns what a client's reports mean while a code is open and while the phone is linking.

use super::{
    Ask, BAN_LEAST, Close, Code, Duration, Effect, EndReason, Fx, Job, LINKING, LinkEvent, Linking,
    Machine, Now, Phase, QR_ROUNDS, Qr, RequestError, Rest, State, backoff, later,
};

impl Machine {
    pub(super) fn link(self, event: LinkEvent, now: Now, fx: &mut Fx) -> Self {
        self.behind(|machine| machine.link_visible(event, now, fx))
    }

    fn link_visible(mut self, event: LinkEvent, now: Now, fx: &mut Fx) -> Self {
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
            Phase::Marking { .. } => self.link_marking(&event, now, fx),
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
                fx.push(Effect::CodeEnded(reason, awaiting.ask.about(now)));
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
                    fx.push(Effect::Error(RequestError {
                        retry_after: closed_retry(close),
                        ..closed_code(close).into()
                    }));
                }
                self.refused_for_good(close, now, fx)
            }
            LinkEvent::StoreTrouble => {
                ended(EndReason::Failed);
                if visible {
                    fx.push(Effect::Error(Code::StoreUnavailable.into()));
                }
                self.give_up(Some(Code::StoreUnavailable), fx)
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
            LinkEvent::StoreTrouble => self.give_up(Some(Code::StoreUnavailable), fx),
            // Nobody scanned any of them: that is no fault of the network.
            LinkEvent::Closed(Close::Restart | Close::Lost) => {
                self.give_up(Some(Code::CodeNotAvailable), fx)
            }
            LinkEvent::Closed(close) => self.refused_for_good(close, now, fx),
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
            LinkEvent::PairFailed => self.linking_failed(EndReason::Failed, &linking.ask, now, fx),
            LinkEvent::TooManyTries => {
                self.linking_failed(EndReason::Attempts, &linking.ask, now, fx)
            }
            LinkEvent::RefreshWanted => {
                // The library's own minute of silence ends together with ours: that is a failure.
                let silence = linking.deadline.saturating_duration_since(now.mono);
                let reason = if silence < Duration::from_secs(1) {
                    EndReason::Failed
                } else {
                    EndReason::Refresh
                };
                self.linking_failed(reason, &linking.ask, now, fx)
            }
            LinkEvent::PasskeyWanted => {
                fx.push(Effect::CodeEnded(EndReason::Failed, linking.ask.about(now)));
                fx.push(Effect::Error(Code::PasskeyRequired.into()));
                self.passkey(fx)
            }
            LinkEvent::StoreTrouble => {
                fx.push(Effect::CodeEnded(EndReason::Failed, linking.ask.about(now)));
                fx.push(Effect::Error(Code::StoreUnavailable.into()));
                self.give_up(Some(Code::StoreUnavailable), fx)
            }
            LinkEvent::Closed(close) => {
                let about = linking.ask.about(now);
                fx.push(Effect::CodeEnded(EndReason::Failed, about));
                fx.push(Effect::Error(RequestError {
                    retry_after: closed_retry(close),
                    ..closed_code(close).into()
                }));
                self.refused_for_good(close, now, fx)
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
        ask: &Ask,
        now: Now,
        fx: &mut Fx,
    ) -> Self {
        fx.push(Effect::CodeEnded(reason, ask.about(now)));
        self.give_up(None, fx)
    }

    pub(super) fn link_marking(mut self, event: &LinkEvent, now: Now, fx: &mut Fx) -> Self {
        if matches!(event, LinkEvent::Closed(_))
            && let Phase::Marking { closed, marked, .. } = &mut self.phase
        {
            *closed = true;
            if *marked {
                return self.first_login(now, fx);
            }
        }
        self
    }

    /// A registration that WhatsApp refused: the state says what people can do about it.
    pub(super) fn refused_for_good(self, close: Close, now: Now, fx: &mut Fx) -> Self {
        let state = match close {
            Close::Outdated => State::Outdated,
            Close::Locked => State::Locked,
            Close::Banned(_) => State::Banned,
            _ => State::Unlinked,
        };
        let left = match close {
            Close::Banned(Some(left)) => Some(left.max(BAN_LEAST)),
            _ => None,
        };
        fx.push(Effect::StopLink);
        self.rest(Rest {
            state,
            reason: Some(closed_code(close)),
            until: left.map(|left| later(now, left)),
            wake: left.map(|left| now.mono + left),
        })
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
        Close::LoggedOut | Close::Removed | Close::Refused(_) | Close::Replaced => {
            Code::WhatsappRejected
        }
        Close::Locked => Code::Locked,
        Close::Banned(_) => Code::Banned,
        Close::Outdated => Code::ClientOutdated,
    }
}

pub(super) fn closed_retry(close: Close) -> Option<u64> {
    match close {
        Close::Banned(Some(left)) => Some(left.as_secs()),
        Close::TooFast => Some(backoff::TOO_FAST.as_secs()),
        _ => None,
    }
}
