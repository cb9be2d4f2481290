//! Owns the JSON that leaves: the frames of the WebSocket and what the API shares with them.
//! Every number in it is masked, but the one that is handed back to whoever just typed it.

use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

use super::qr;
use crate::error::Code;
use crate::phone::{Country, Phone};
use crate::secret::{self, SecretText};
use crate::session::{EndReason, PairingCode, Qr, Replaced, RequestError, Status, UnixMs};
use crate::words::{self, Lang};

/// One frame as text; it may hold a code, so it is zeroed when dropped.
pub(super) type Text = Zeroizing<String>;

#[derive(Serialize)]
struct Frame<'a, T> {
    event: &'static str,
    data: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
}

/// The data of `pairing-code`, which the API answers with too.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CodeData<'a> {
    session: &'a str,
    code: &'a str,
    phone_number: &'a str,
    expires_in: u64,
    expires_at: UnixMs,
    replaced: Option<&'a Replaced>,
}

impl<'a> CodeData<'a> {
    /// The seconds left are those of this moment.
    pub(super) fn now(session: &'a str, code: &'a PairingCode) -> Self {
        Self {
            session,
            code: code.code.reveal(),
            phone_number: &code.phone_number,
            expires_in: code.expires_in(),
            expires_at: code.shown_until(),
            replaced: code.replaced.as_ref(),
        }
    }
}

/// How a number is read: the one place where it leaves whole, and only to whoever just typed it.
#[derive(Serialize)]
pub(super) struct PhoneData {
    #[serde(serialize_with = "revealed")]
    e164: SecretText,
    country: Option<String>,
    kind: &'static str,
    masked: String,
}

impl PhoneData {
    pub(super) fn of(phone: &Phone) -> Self {
        Self {
            e164: phone.e164(),
            country: phone.country().map(Country::code),
            kind: phone.kind(),
            masked: phone.masked(),
        }
    }
}

fn revealed<S: Serializer>(text: &SecretText, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text.reveal())
}

#[derive(Serialize)]
struct EndedData<'a> {
    session: &'a str,
    reason: EndReason,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorData<'a> {
    session: &'a str,
    code: Code,
    reason: Option<&'static str>,
    message: &'a str,
    retry_after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    old_phone: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link_id: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct QrData<'a> {
    session: &'a str,
    value: Option<&'a str>,
    svg: Option<&'a str>,
    expires_in: Option<u64>,
}

fn frame<T: Serialize>(event: &'static str, data: T, id: Option<&str>) -> Text {
    let frame = Frame { event, data, id };
    secret::json(&frame)
}

pub(super) fn status(status: &Status, id: Option<&str>) -> Text {
    frame("session-status", status, id)
}

pub(super) fn code(session: &str, code: &PairingCode, id: Option<&str>) -> Text {
    frame("pairing-code", CodeData::now(session, code), id)
}

pub(super) fn code_ended(session: &str, reason: EndReason) -> Text {
    frame("pairing-code-ended", EndedData { session, reason }, None)
}

/// An error in the connection's language.
pub(super) fn error(session: &str, error: &RequestError, lang: Lang, id: Option<&str>) -> Text {
    let data = ErrorData {
        session,
        code: error.code,
        reason: error.reason,
        message: words::message(error.code, error.reason, lang),
        retry_after: error.retry_after,
        old_phone: error.old_phone.as_deref(),
        link_id: error.link_id.as_deref(),
    };
    frame("pairing-code-error", data, id)
}

pub(super) fn qr(session: &str, qr: Option<&Qr>) -> Text {
    let svg = qr
        .and_then(|qr| qr::svg(qr.value.reveal()))
        .map(Zeroizing::new);
    let data = QrData {
        session,
        value: qr.map(|qr| qr.value.reveal()),
        svg: svg.as_ref().map(|svg| svg.as_str()),
        expires_in: qr.map(Qr::expires_in),
    };
    frame("qr", data, None)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::session::{ReplacedReason, State};

    fn value(text: &Text) -> Value {
        serde_json::from_str(text).expect("JSON")
    }

    fn a_code() -> PairingCode {
        PairingCode {
            code: SecretText::new("ABCD-EFGH".into()),
            phone_number: "79001***567".into(),
            expires_at: 1_700_000_000_000,
            deadline: tokio::time::Instant::now() + Duration::from_millis(170_500),
            stopped: None,
            replaced: None,
        }
    }

    #[test]
    fn a_status_looks_as_promised() {
        let sample = Status {
            session: "salon".into(),
            state: State::AwaitingCodeEntry,
            name: "Салон".into(),
            phone: Some("79001***567".into()),
            since: 1,
            last_connected: None,
            until: None,
            reason: Some(Code::LoggedOut),
        };
        assert_eq!(
            value(&status(&sample, None)),
            json!({"event": "session-status", "data": {
                "session": "salon", "state": "AWAITING_CODE_ENTRY", "name": "Салон", "phone": "79001***567",
                "since": 1, "lastConnected": null, "until": null, "reason": "LOGGED_OUT"}})
        );
    }

    #[test]
    fn a_code_looks_as_promised() {
        let mut sample = a_code();
        assert_eq!(
            value(&code("salon", &sample, Some("7"))),
            json!({"event": "pairing-code", "id": "7", "data": {
                "session": "salon", "code": "ABCD-EFGH", "phoneNumber": "79001***567", "expiresIn": 170,
                "expiresAt": 1_700_000_000_000_i64, "replaced": null}})
        );
        sample.replaced = Some(Replaced {
            reason: ReplacedReason::PhoneMismatch,
            old_phone: None,
            was_linked: true,
            credential_age_seconds: 9,
        });
        assert_eq!(
            value(&code("salon", &sample, None))["data"]["replaced"],
            json!({"reason": "phone_mismatch", "oldPhone": null, "wasLinked": true, "credentialAgeSeconds": 9})
        );
    }

    #[test]
    fn errors_ends_and_qr_look_as_promised() {
        let confirm = RequestError {
            old_phone: Some("79001***567".into()),
            link_id: Some("k3".into()),
            ..Code::ReplaceConfirmationRequired.into()
        };
        let found = value(&error("salon", &confirm, Lang::En, Some("1")));
        assert_eq!(found["event"], "pairing-code-error");
        assert_eq!(found["id"], "1");
        assert_eq!(found["data"]["code"], "REPLACE_CONFIRMATION_REQUIRED");
        assert_eq!(found["data"]["linkId"], "k3");
        assert_eq!(found["data"]["oldPhone"], "79001***567");
        assert_eq!(found["data"]["retryAfter"], Value::Null);
        assert_eq!(
            value(&code_ended("salon", EndReason::Superseded)),
            json!({"event": "pairing-code-ended", "data": {"session": "salon", "reason": "superseded"}})
        );
        assert_eq!(
            value(&qr("salon", None)),
            json!({"event": "qr", "data": {"session": "salon", "value": null, "svg": null, "expiresIn": null}})
        );
        let live = Qr {
            value: SecretText::new("2@x".into()),
            deadline: tokio::time::Instant::now() + Duration::from_millis(20_500),
        };
        let found = value(&qr("salon", Some(&live)));
        assert_eq!(found["data"]["value"], "2@x");
        assert_eq!(found["data"]["expiresIn"], 20);
        assert!(
            found["data"]["svg"]
                .as_str()
                .is_some_and(|svg| svg.starts_with("<svg"))
        );
    }
}
