//! Owns the words a session speaks to the outside: states, statuses, codes, requests, errors.
//! Nothing here knows how a link works, and no full phone number is in any of it but in [`CodeRequest`].

use std::time::Duration;

use serde::Serialize;

use crate::clock;
use crate::error::Code;
use crate::phone::Phone;
use crate::secret::SecretText;

/// Milliseconds since the Unix epoch.
pub type UnixMs = i64;

/// Where a session's link stands (contract section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// No link, none asked for.
    Unlinked,
    /// A first connection is being made.
    Connecting,
    /// A code is shown and waits for the phone.
    AwaitingCodeEntry,
    /// There is no code to be had; the QR still is.
    AwaitingScan,
    /// The phone has taken the code.
    Linking,
    /// Linked and connected.
    Connected,
    /// Linked; the connection is gone and will be made again.
    Reconnecting,
    /// The phone removed this device.
    LoggedOut,
    /// Another client uses these credentials.
    Replaced,
    /// WhatsApp banned the account for a while.
    Banned,
    /// WhatsApp locked or blocked the account.
    Locked,
    /// WhatsApp wants a passkey.
    PasskeyRequired,
    /// WhatsApp wants a newer companion version.
    Outdated,
    /// The phone may list a device whose keys are missing here.
    HalfLinked,
    /// The store cannot be used.
    StoreUnavailable,
    /// Anything else; a button tries again.
    Failed,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Unlinked,
        Self::Connecting,
        Self::AwaitingCodeEntry,
        Self::AwaitingScan,
        Self::Linking,
        Self::Connected,
        Self::Reconnecting,
        Self::LoggedOut,
        Self::Replaced,
        Self::Banned,
        Self::Locked,
        Self::PasskeyRequired,
        Self::Outdated,
        Self::HalfLinked,
        Self::StoreUnavailable,
        Self::Failed,
    ];

    /// The name in JSON, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unlinked => "UNLINKED",
            Self::Connecting => "CONNECTING",
            Self::AwaitingCodeEntry => "AWAITING_CODE_ENTRY",
            Self::AwaitingScan => "AWAITING_SCAN",
            Self::Linking => "LINKING",
            Self::Connected => "CONNECTED",
            Self::Reconnecting => "RECONNECTING",
            Self::LoggedOut => "LOGGED_OUT",
            Self::Replaced => "REPLACED",
            Self::Banned => "BANNED",
            Self::Locked => "LOCKED",
            Self::PasskeyRequired => "PASSKEY_REQUIRED",
            Self::Outdated => "OUTDATED",
            Self::HalfLinked => "HALF_LINKED",
            Self::StoreUnavailable => "STORE_UNAVAILABLE",
            Self::Failed => "FAILED",
        }
    }
}

impl Serialize for State {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What everybody may see of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The slot's id.
    pub session: String,
    /// Where the link stands.
    pub state: State,
    /// What people call the slot.
    pub name: String,
    /// The masked number of the link, or of the code that is open.
    pub phone: Option<String>,
    /// When the state began.
    pub since: UnixMs,
    /// When the link was last connected.
    pub last_connected: Option<UnixMs>,
    /// The end of a ban, or the next try.
    pub until: Option<UnixMs>,
    /// Why, where the state alone does not say it.
    pub reason: Option<Code>,
}

/// A code people can type now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairingCode {
    /// `ABCD-EFGH`.
    pub code: SecretText,
    /// The masked number that it was asked for.
    pub phone_number: String,
    /// When it stops being shown (grace taken off).
    pub expires_at: UnixMs,
    /// The same moment on the steady clock: seconds left are computed from this one.
    pub deadline: tokio::time::Instant,
    /// What it had left when the phone took it: from then on its clock stands.
    pub stopped: Option<Duration>,
    /// What was wiped to make room, if anything was.
    pub replaced: Option<Replaced>,
}

impl PairingCode {
    /// Whole seconds left to show.
    #[must_use]
    pub fn expires_in(&self) -> u64 {
        self.stopped
            .unwrap_or_else(|| self.deadline.saturating_duration_since(clock::steady()))
            .as_secs()
    }

    /// When it stops being shown, as it looks at this moment: while its clock stands, that moment moves.
    #[must_use]
    pub fn shown_until(&self) -> UnixMs {
        self.stopped.map_or(self.expires_at, |left| {
            clock::wall() + i64::try_from(left.as_millis()).unwrap_or(i64::MAX / 2)
        })
    }
}

/// What was wiped before a code was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replaced {
    /// Why.
    pub reason: ReplacedReason,
    /// The masked number of the old link.
    pub old_phone: Option<String>,
    /// Whether the old link was ever linked.
    pub was_linked: bool,
    /// How old its credentials were.
    pub credential_age_seconds: u64,
}

/// Why an old link was wiped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplacedReason {
    /// The old link was of another line.
    PhoneMismatch,
    /// The old credentials, of the same line, could no longer carry messages.
    StaleCredentials,
}

/// A QR code that can be scanned now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qr {
    /// The text in the QR code: key material, so it redacts itself.
    pub value: SecretText,
    /// When WhatsApp takes it back, on the steady clock.
    pub deadline: tokio::time::Instant,
}

impl Qr {
    /// Whole seconds left to show.
    #[must_use]
    pub fn expires_in(&self) -> u64 {
        self.deadline
            .saturating_duration_since(clock::steady())
            .as_secs()
    }
}

/// Why a code ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Its time ran out.
    Expired,
    /// Somebody cancelled it.
    Cancelled,
    /// Another line was asked for.
    Superseded,
    /// WhatsApp wants a new one.
    Refresh,
    /// The phone tried it too often.
    Attempts,
    /// The link failed.
    Failed,
    /// It did what it was for.
    Linked,
}

/// Everything a newly opened page needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The status.
    pub status: Status,
    /// The code that is shown now.
    pub code: Option<PairingCode>,
    /// The QR that is shown now.
    pub qr: Option<Qr>,
}

/// What happened to a session: goes to all of its connections.
#[derive(Debug, Clone)]
pub enum SessionEvent {
    /// The status changed.
    Status(Status),
    /// A code is there.
    Code(PairingCode),
    /// The code is gone.
    CodeEnded(EndReason),
    /// A QR is there, or (none) over.
    Qr(Option<Qr>),
    /// Something went wrong that is nobody's single request.
    Error(RequestError),
    /// The slot was removed: connections close with 4404.
    Removed,
}

/// Who asks, for the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// By which way.
    pub by: By,
    /// The user agent, shortened.
    pub user_agent: Option<String>,
}

/// The way a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The page's WebSocket.
    Page,
    /// The HTTP API.
    Api,
    /// The terminal.
    Terminal,
}

/// A request for a pairing code; the number is parsed at the edge.
#[derive(Debug, Clone)]
pub struct CodeRequest {
    /// The number to link.
    pub phone: Phone,
    /// The live link that may be replaced.
    pub replace: Option<String>,
    /// Who asks.
    pub asker: Asker,
}

/// Why a request was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestError {
    /// What.
    pub code: Code,
    /// A finer reason, where there is one (`too_short`, …).
    pub reason: Option<&'static str>,
    /// Seconds until it is worth asking again.
    pub retry_after: Option<u64>,
    /// The masked number of the live link, with `REPLACE_CONFIRMATION_REQUIRED` and `ALREADY_LINKED`.
    pub old_phone: Option<String>,
    /// The live link's id, with the same two.
    pub link_id: Option<String>,
}

impl From<Code> for RequestError {
    fn from(code: Code) -> Self {
        Self {
            code,
            reason: None,
            retry_after: None,
            old_phone: None,
            link_id: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_know_every_state() {
        let names = State::ALL.map(State::as_str);
        assert_eq!(names, crate::metrics::STATES);
    }
}
