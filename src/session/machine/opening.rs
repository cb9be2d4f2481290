//! Owns the first connection of a request, up to the code or its refusal.

use super::{
    Answer, Awaiting, Close, Code, Effect, Fx, Job, LinkEvent, Machine, Now, Phase, Refusal,
    RequestError, Rest, SecretText, Shown, State, closed_code, closed_retry, code_of,
};

impl Machine {
    pub(super) fn link_opening(mut self, event: LinkEvent, now: Now, fx: &mut Fx) -> Self {
        let Phase::Opening {
            mut ask,
            replaced,
            deadline,
            requested,
            restarting,
            restarts,
        } = self.phase
        else {
            return self;
        };
        let waiters = std::mem::take(&mut ask.waiters);
        self.phase = Phase::Rest(Rest::new(State::Unlinked, None));
        match event {
            LinkEvent::Opened if !requested => {
                fx.push(Effect::RequestCode(ask.phone().clone()));
                ask.waiters = waiters;
                self.phase = Phase::Opening {
                    ask,
                    replaced,
                    deadline,
                    requested: true,
                    restarting,
                    restarts,
                };
                self
            }
            LinkEvent::Code { code, left } => {
                let life = left.min(self.limits.code_ttl);
                let about = ask.about(now);
                self.phase = Phase::Awaiting(Awaiting {
                    ask,
                    shown: Shown {
                        code: grouped(&code),
                        replaced,
                    },
                    hide_at: now.mono + life.saturating_sub(self.limits.code_grace),
                    dead_at: now.mono + life,
                    hidden: false,
                });
                if let Some(code) = code_of(&self.phase, now) {
                    fx.push(Effect::Code(code.clone(), about));
                    fx.push(Effect::Reply(waiters, Ok(Answer::Code(code))));
                }
                self
            }
            LinkEvent::CodeRefused(Refusal::NotAvailable) => {
                fx.push(Effect::Reply(waiters, Err(Code::CodeNotAvailable.into())));
                self.phase = Phase::Scanning {
                    ask,
                    rounds: 1,
                    restarting: None,
                };
                self
            }
            LinkEvent::CodeRefused(refusal) => {
                let error = refused(refusal);
                let reason = error.code;
                fx.push(Effect::Reply(waiters, Err(error)));
                self.give_up(Some(reason), fx)
            }
            LinkEvent::PairSuccess(paired) => {
                fx.push(Effect::Reply(waiters, Err(Code::LinkingInProgress.into())));
                self.mark(ask, paired, now, fx)
            }
            LinkEvent::PasskeyWanted => {
                fx.push(Effect::Reply(waiters, Err(Code::PasskeyRequired.into())));
                self.passkey(fx)
            }
            LinkEvent::Closed(close @ (Close::Restart | Close::Outdated)) if restarts == 0 => {
                // One connection at a time: the old one is over before the new one starts.
                ask.waiters = waiters;
                let job = if close == Close::Outdated {
                    fx.push(Effect::StopLink);
                    Job::Renew
                } else {
                    Job::Start
                };
                let restarting = Some(self.job(job, fx));
                self.phase = Phase::Opening {
                    ask,
                    replaced,
                    deadline,
                    requested: false,
                    restarting,
                    restarts: 1,
                };
                self
            }
            LinkEvent::StoreTrouble => {
                fx.push(Effect::Reply(waiters, Err(Code::StoreUnavailable.into())));
                self.give_up(Some(Code::StoreUnavailable), fx)
            }
            LinkEvent::Closed(close) => {
                let code = closed_code(close);
                fx.push(Effect::Reply(
                    waiters,
                    Err(RequestError {
                        retry_after: closed_retry(close),
                        ..code.into()
                    }),
                ));
                self.refused_for_good(close, now, fx)
            }
            _ => {
                ask.waiters = waiters;
                self.phase = Phase::Opening {
                    ask,
                    replaced,
                    deadline,
                    requested,
                    restarting,
                    restarts,
                };
                self
            }
        }
    }
}

/// `ABCDEFGH` as people read it: `ABCD-EFGH`.
pub(super) fn grouped(code: &SecretText) -> SecretText {
    let text = code.reveal();
    match (text.get(..4), text.get(4..)) {
        (Some(head), Some(tail)) if !tail.is_empty() && !text.contains('-') => {
            SecretText::new(format!("{head}-{tail}"))
        }
        _ => code.clone(),
    }
}

pub(super) fn refused(refusal: Refusal) -> RequestError {
    match refusal {
        Refusal::TooMany(wait) => RequestError {
            retry_after: wait.map(|wait| wait.as_secs()),
            ..Code::WhatsappRateLimited.into()
        },
        Refusal::NotAvailable => Code::CodeNotAvailable.into(),
        Refusal::Rejected => Code::WhatsappRejected.into(),
        Refusal::NoAnswer => Code::WhatsappUnreachable.into(),
    }
}
