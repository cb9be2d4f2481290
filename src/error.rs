//! Owns the error codes that leave the program (contract section 5): their names and HTTP statuses.
//! It must never hold a number, a code or a key.

use serde::{Serialize, Serializer};

/// What went wrong, as people, scripts and browsers are told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The text is no phone number; the reason says why.
    InvalidPhoneFormat,
    /// The country is not an ISO 3166 region with telephones.
    InvalidCountryCode,
    /// Not the shape that was asked for.
    BadMessage,
    /// No access key, or a wrong one.
    Unauthorized,
    /// A foreign `Host` or `Origin`.
    ForbiddenOrigin,
    /// There is no session of that name.
    NoSuchSession,
    /// The line is linked already.
    AlreadyLinked,
    /// Another line is linked and nobody confirmed its replacement.
    ReplaceConfirmationRequired,
    /// The phone has taken the code and the link is being made.
    LinkingInProgress,
    /// Somebody cancelled the request that was waited for.
    Cancelled,
    /// A request for another line took the place of this one.
    Superseded,
    /// WhatsApp linked another number than the one asked for.
    WrongPhoneLinked,
    /// Our own budget or login limit.
    RateLimited,
    /// WhatsApp refuses for now.
    WhatsappRateLimited,
    /// WhatsApp refused otherwise.
    WhatsappRejected,
    /// No connection to WhatsApp, or no answer, within the time allowed.
    WhatsappUnreachable,
    /// WhatsApp offers no code for this account; the QR remains.
    CodeNotAvailable,
    /// WhatsApp wants a passkey that only its own pages can give.
    PasskeyRequired,
    /// WhatsApp wants a newer companion version.
    ClientOutdated,
    /// The phone removed this device.
    LoggedOut,
    /// Another client uses these credentials.
    Replaced,
    /// WhatsApp banned the account for a while.
    Banned,
    /// WhatsApp locked the account.
    Locked,
    /// The phone may list a device whose keys are missing here.
    HalfLinked,
    /// The store cannot be used; nothing was changed.
    StoreUnavailable,
    /// The program is stopping.
    ShuttingDown,
    /// A fault of ours.
    Internal,
}

impl Code {
    /// Every code: whatever must hold for each is tested over this list.
    pub const ALL: [Self; 27] = [
        Self::InvalidPhoneFormat,
        Self::InvalidCountryCode,
        Self::BadMessage,
        Self::Unauthorized,
        Self::ForbiddenOrigin,
        Self::NoSuchSession,
        Self::AlreadyLinked,
        Self::ReplaceConfirmationRequired,
        Self::LinkingInProgress,
        Self::Cancelled,
        Self::Superseded,
        Self::WrongPhoneLinked,
        Self::RateLimited,
        Self::WhatsappRateLimited,
        Self::WhatsappRejected,
        Self::WhatsappUnreachable,
        Self::CodeNotAvailable,
        Self::PasskeyRequired,
        Self::ClientOutdated,
        Self::LoggedOut,
        Self::Replaced,
        Self::Banned,
        Self::Locked,
        Self::HalfLinked,
        Self::StoreUnavailable,
        Self::ShuttingDown,
        Self::Internal,
    ];

    /// The name in JSON, logs and the journal.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidPhoneFormat => "INVALID_PHONE_FORMAT",
            Self::InvalidCountryCode => "INVALID_COUNTRY_CODE",
            Self::BadMessage => "BAD_MESSAGE",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::ForbiddenOrigin => "FORBIDDEN_ORIGIN",
            Self::NoSuchSession => "NO_SUCH_SESSION",
            Self::AlreadyLinked => "ALREADY_LINKED",
            Self::ReplaceConfirmationRequired => "REPLACE_CONFIRMATION_REQUIRED",
            Self::LinkingInProgress => "LINKING_IN_PROGRESS",
            Self::Cancelled => "CANCELLED",
            Self::Superseded => "SUPERSEDED",
            Self::WrongPhoneLinked => "WRONG_PHONE_LINKED",
            Self::RateLimited => "RATE_LIMITED",
            Self::WhatsappRateLimited => "WHATSAPP_RATE_LIMITED",
            Self::WhatsappRejected => "WHATSAPP_REJECTED",
            Self::WhatsappUnreachable => "WHATSAPP_UNREACHABLE",
            Self::CodeNotAvailable => "CODE_NOT_AVAILABLE",
            Self::PasskeyRequired => "PASSKEY_REQUIRED",
            Self::ClientOutdated => "CLIENT_OUTDATED",
            Self::LoggedOut => "LOGGED_OUT",
            Self::Replaced => "REPLACED",
            Self::Banned => "BANNED",
            Self::Locked => "LOCKED",
            Self::HalfLinked => "HALF_LINKED",
            Self::StoreUnavailable => "STORE_UNAVAILABLE",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::Internal => "INTERNAL",
        }
    }

    /// The HTTP status of a problem with this code.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::BadMessage => 400,
            Self::Unauthorized => 401,
            Self::ForbiddenOrigin => 403,
            Self::NoSuchSession => 404,
            Self::AlreadyLinked
            | Self::ReplaceConfirmationRequired
            | Self::LinkingInProgress
            | Self::Cancelled
            | Self::Superseded
            | Self::WrongPhoneLinked
            | Self::PasskeyRequired
            | Self::LoggedOut
            | Self::Replaced
            | Self::Banned
            | Self::Locked
            | Self::HalfLinked => 409,
            Self::InvalidPhoneFormat | Self::InvalidCountryCode => 422,
            Self::RateLimited | Self::WhatsappRateLimited => 429,
            Self::Internal => 500,
            Self::WhatsappRejected | Self::CodeNotAvailable | Self::ClientOutdated => 502,
            Self::WhatsappUnreachable | Self::ShuttingDown => 503,
            Self::StoreUnavailable => 507,
        }
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
