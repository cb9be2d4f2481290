//! Owns trouble: what can be ordered, where it strikes, and whom.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::event::Step;

/// Trouble to come: `action` strikes when a connection reaches `at`.
///
/// ```
/// use hairpin_sim::{Fault, Step};
/// use std::time::Duration;
///
/// let _ = Fault::refuse_hello(429).backoff(30).only("79001234567");
/// let _ = Fault::cut(Step::PrimaryHelloSent).standing();
/// let _ = Fault::delay(Step::Hello, Duration::from_secs(2));
/// let _ = Fault::failure(402).expire(3600);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// The point at which it strikes.
    pub at: Step,
    /// What happens there.
    #[serde(flatten)]
    pub action: Action,
    /// Only connections of this number. Points before the number is known match no number.
    #[serde(default, rename = "phone", skip_serializing_if = "Option::is_none")]
    pub number: Option<String>,
    /// How many more times it strikes; `None`: until [`Sim::clear_faults`](crate::Sim::clear_faults).
    #[serde(default = "once")]
    pub times: Option<u32>,
}

/// What a [`Fault`] does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Action {
    /// The socket is cut, without a word.
    Cut,
    /// The connection stands still for so long and then goes on as if nothing had happened.
    Delay {
        /// For how long.
        #[serde(rename = "ms", with = "millis")]
        time: Duration,
    },
    /// What was asked is never answered, and does not take place. Everything else goes on.
    /// Only where something is asked: `Hello`, `Finish`, `PairSuccess`, `Login`, `PreKeys`, `Active`, `AppState`.
    Silence,
    /// What was asked is answered with an error.
    /// Only where something is asked: `Hello`, `Finish`, `PreKeys`, `Active`, `AppState`.
    Refuse(Refusal),
    /// The server does on its own what a [`Kick`] does.
    Kick {
        /// Which.
        kick: Kick,
    },
}

/// An error answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The code; its text follows from it.
    pub code: u16,
    /// After how many seconds the client may ask again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<u32>,
}

/// What the server can do to a live connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kick {
    /// Cut the socket, without a word.
    Cut,
    /// `<stream:error code=…/>` and the end: 515 restart, 503 trouble, 500, 429.
    /// 401 and 516 say that the companion was unlinked, and so it is.
    StreamError {
        /// The code.
        code: u16,
    },
    /// The phone unlinked the companion: conflict `device_removed`, and the credentials are dead.
    DeviceRemoved,
    /// Another client uses the same credentials: conflict `replaced`. They stay good.
    Replaced,
    /// `<failure reason=…/>` and the end: 401 (the credentials are dead then), 402, 403, 405, 406, 429, 500, 503, …
    Failure {
        /// The reason.
        reason: u16,
        /// With 402: for how many seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expire: Option<u64>,
    },
    /// Ask for a new pairing code. Strikes connections that wait for their code to be typed.
    RefreshCode {
        /// Whether a person has to ask for it.
        #[serde(default)]
        force_manual: bool,
    },
    /// Demand a passkey. Strikes connections that wait for their code to be typed.
    Passkey,
    /// Say nothing more and hear nothing more, as a server behind an address that has gone. The socket stays open.
    FallSilent,
}

impl Kick {
    /// Whether it means that the phone has unlinked the companion: its credentials are dead then.
    pub(crate) fn unlinks(&self) -> bool {
        matches!(
            self,
            Self::DeviceRemoved
                | Self::StreamError { code: 401 | 516 }
                | Self::Failure { reason: 401, .. }
        )
    }
}

impl Fault {
    /// Strikes once, any number.
    #[must_use]
    pub fn new(at: Step, action: Action) -> Self {
        Self {
            at,
            action,
            number: None,
            times: Some(1),
        }
    }

    /// The next `companion_hello` is refused with `code`.
    #[must_use]
    pub fn refuse_hello(code: u16) -> Self {
        Self::refuse(Step::Hello, code)
    }

    /// The next request at `at` is refused with `code`.
    #[must_use]
    pub fn refuse(at: Step, code: u16) -> Self {
        Self::new(
            at,
            Action::Refuse(Refusal {
                code,
                backoff: None,
            }),
        )
    }

    /// The socket is cut at `at`.
    #[must_use]
    pub fn cut(at: Step) -> Self {
        Self::new(at, Action::Cut)
    }

    /// The connection stands still at `at`.
    #[must_use]
    pub fn delay(at: Step, time: Duration) -> Self {
        Self::new(at, Action::Delay { time })
    }

    /// What is asked at `at` is never answered.
    #[must_use]
    pub fn silence(at: Step) -> Self {
        Self::new(at, Action::Silence)
    }

    /// The next login fails with `reason`. For a registration too: `.at(Step::Register)`.
    #[must_use]
    pub fn failure(reason: u16) -> Self {
        Self::kick(
            Step::Login,
            Kick::Failure {
                reason,
                expire: None,
            },
        )
    }

    /// The stream ends with an error at `at`.
    #[must_use]
    pub fn stream_error(at: Step, code: u16) -> Self {
        Self::kick(at, Kick::StreamError { code })
    }

    /// `kick` happens at `at`.
    #[must_use]
    pub fn kick(at: Step, kick: Kick) -> Self {
        Self::new(at, Action::Kick { kick })
    }

    /// Strikes at another point.
    #[must_use]
    pub fn at(mut self, at: Step) -> Self {
        self.at = at;
        self
    }

    /// Strikes only this number, given as WhatsApp reports it.
    #[must_use]
    pub fn only(mut self, number: &str) -> Self {
        self.number = Some(number.to_owned());
        self
    }

    /// Strikes every time, until cleared.
    #[must_use]
    pub fn standing(mut self) -> Self {
        self.times = None;
        self
    }

    /// Strikes so many times.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// A refusal carries a backoff, in seconds.
    #[must_use]
    pub fn backoff(mut self, seconds: u32) -> Self {
        if let Action::Refuse(refusal) = &mut self.action {
            refusal.backoff = Some(seconds);
        }
        self
    }

    /// A connect failure carries an expiry, in seconds.
    #[must_use]
    pub fn expire(mut self, seconds: u64) -> Self {
        if let Action::Kick {
            kick: Kick::Failure { expire, .. },
        } = &mut self.action
        {
            *expire = Some(seconds);
        }
        self
    }

    /// Whether it strikes here; if so, one time less remains.
    fn strikes(&mut self, at: Step, number: Option<&str>) -> bool {
        let here = self.at == at
            && self.times != Some(0)
            && (self.number.is_none() || self.number.as_deref() == number);
        if here && let Some(times) = &mut self.times {
            *times -= 1;
        }
        here
    }
}

/// The first fault that strikes here; spent ones are forgotten.
pub(crate) fn take(faults: &mut Vec<Fault>, at: Step, number: Option<&str>) -> Option<Action> {
    let action = faults
        .iter_mut()
        .find_map(|fault| fault.strikes(at, number).then(|| fault.action.clone()));
    faults.retain(|fault| fault.times != Some(0));
    action
}

/// The text WhatsApp pairs with a code.
pub(crate) fn text_of(code: u16) -> &'static str {
    match code {
        400 => "bad-request",
        401 => "not-authorized",
        403 => "forbidden",
        404 => "item-not-found",
        406 => "not-acceptable",
        429 => "rate-overlimit",
        452 => "feature-not-available",
        501 => "feature-not-implemented",
        503 => "service-unavailable",
        _ => "internal-server-error",
    }
}

// The shape serde demands: an `Option` where a missing field means "once".
#[allow(clippy::unnecessary_wraps)]
fn once() -> Option<u32> {
    Some(1)
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_as_often_as_ordered_and_only_its_number() {
        let mut faults = vec![Fault::cut(Step::Hello).only("79000000001").times(2)];
        assert!(take(&mut faults, Step::Hello, None).is_none());
        assert!(take(&mut faults, Step::Hello, Some("79000000002")).is_none());
        assert!(take(&mut faults, Step::Login, Some("79000000001")).is_none());
        assert!(take(&mut faults, Step::Hello, Some("79000000001")).is_some());
        assert!(take(&mut faults, Step::Hello, Some("79000000001")).is_some());
        assert!(take(&mut faults, Step::Hello, Some("79000000001")).is_none());
        assert!(faults.is_empty());
    }

    #[test]
    fn faults_are_written_in_json_as_the_manual_says() {
        let read = |json: &str| serde_json::from_str::<Fault>(json).unwrap();
        assert_eq!(
            read(
                r#"{"at":"hello","action":"refuse","code":429,"backoff":30,"phone":"79000000001"}"#
            ),
            Fault::refuse_hello(429).backoff(30).only("79000000001")
        );
        assert_eq!(
            read(
                r#"{"at":"login","action":"kick","kick":{"kind":"failure","reason":402,"expire":60}}"#
            ),
            Fault::failure(402).expire(60)
        );
        assert_eq!(
            read(r#"{"at":"finish","action":"delay","ms":1500,"times":null}"#),
            Fault::delay(Step::Finish, Duration::from_millis(1500)).standing()
        );
    }
}
