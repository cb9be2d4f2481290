//! Owns the translation of what the library reports into what a session understands.
//! No upstream type leaves this file, and nothing here decides anything.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use whatsapp_rust::types::events::{
    ConnectFailureReason, Event, EventHandler, EventInterest, EventKind,
};
use whatsapp_rust::wacore_binary::{NodeContentRef, NodeRef};

use crate::secret::SecretText;

/// How often the phone may try one code (WhatsApp Web's figure; the library ignores the next one).
const MOST_TRIES: u32 = 3;

/// What happened to one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// WhatsApp is ready to register this device: a code can be asked for.
    Opened,
    /// A QR code can be shown for this long.
    Qr {
        /// The text in the QR.
        value: SecretText,
        /// How long it is good for.
        left: Duration,
    },
    /// No QR codes are left on this connection.
    QrOver,
    /// WhatsApp registered a code.
    Code {
        /// Eight characters, no dash.
        code: SecretText,
        /// How long WhatsApp goes on taking it.
        left: Duration,
    },
    /// No code will come.
    CodeRefused(Refusal),
    /// The phone has taken the code (`primary_hello`).
    PhoneTookCode,
    /// The phone tried the code once too often.
    TooManyTries,
    /// WhatsApp or the library wrote the code off and wants another.
    RefreshWanted,
    /// The phone accepted us; nothing is durable yet.
    PairSuccess(Paired),
    /// The link was refused after the phone took the code.
    PairFailed,
    /// WhatsApp wants a passkey.
    PasskeyWanted,
    /// Logged in and ready.
    Connected,
    /// The store did not take or give something of this client. Comes at most once: the client is worth nothing now.
    StoreTrouble,
    /// The connection is over; the client is of no more use. Comes exactly once.
    Closed(Close),
}

/// Whom WhatsApp linked.
#[derive(Clone, PartialEq, Eq)]
pub struct Paired {
    /// The account's number as WhatsApp writes it, digits only.
    pub phone: SecretText,
    /// This device's full id.
    pub jid: SecretText,
    /// The account's hidden id, where WhatsApp gives one.
    pub lid: Option<SecretText>,
}

impl std::fmt::Debug for Paired {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Paired(***)")
    }
}

/// Why no code came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Too many requests for now (429, and 400 to a well-formed request).
    TooMany(Option<Duration>),
    /// No codes for this account (452).
    NotAvailable,
    /// Refused otherwise.
    Rejected,
    /// No answer.
    NoAnswer,
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// WhatsApp asked for a new connection (515).
    Restart,
    /// The network or the server went away.
    Lost,
    /// Too many connections (429).
    TooFast,
    /// The credentials are refused at login (401).
    LoggedOut,
    /// The phone removed this device while it was connected (401, 516, `device_removed`).
    Removed,
    /// The account is locked or blocked (403, 406).
    Locked,
    /// The account is banned, for so long where WhatsApp says it (402).
    Banned(Option<Duration>),
    /// This companion version is too old (405).
    Outdated,
    /// Another client uses the credentials (409).
    Replaced,
    /// Refused for another reason.
    Refused(i32),
}

/// Called with the account's acceptance before it is answered; false means that the answer must not go out.
pub type BeforeFinish = Box<dyn Fn() -> bool + Send + Sync>;

/// Receives the library's events of one client.
pub(super) struct Handler {
    /// Unbounded: the interest below leaves a handful of events per connection, all of them needed.
    sink: mpsc::UnboundedSender<LinkEvent>,
    close: Mutex<Option<Close>>,
    /// Wakes the run task when the stream is as good as over.
    pub(super) ending: tokio::sync::Notify,
    opened: AtomicBool,
    asking: AtomicBool,
    pairing_ref: Mutex<Option<Vec<u8>>>,
    tries: AtomicU32,
    before_finish: Option<BeforeFinish>,
    /// Set once nothing more is to be said on this connection: the run task drops it.
    pub(super) abandoned: AtomicBool,
}

impl Handler {
    pub(super) fn new(
        sink: mpsc::UnboundedSender<LinkEvent>,
        before_finish: Option<BeforeFinish>,
    ) -> Arc<Self> {
        Arc::new(Self {
            sink,
            close: Mutex::new(None),
            ending: tokio::sync::Notify::new(),
            opened: AtomicBool::new(false),
            asking: AtomicBool::new(false),
            pairing_ref: Mutex::new(None),
            tries: AtomicU32::new(0),
            before_finish,
            abandoned: AtomicBool::new(false),
        })
    }

    /// Tells the session; a session that is gone needs no telling.
    pub(super) fn tell(&self, event: LinkEvent) {
        let _ = self.sink.send(event);
    }

    /// Marks that a code is being asked for: its refusal comes back as the request's own answer.
    pub(super) fn asking(&self, yes: bool) {
        self.asking.store(yes, Ordering::SeqCst);
    }

    /// The reason of the end, as far as the stream told it.
    pub(super) fn closed_because(&self) -> Close {
        self.close
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .unwrap_or(Close::Lost)
    }

    /// Whether the stream told that it ends, and why.
    pub(super) fn knows_its_end(&self) -> bool {
        self.close
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    /// Drops the connection without waiting for its end.
    pub(super) fn abandon(&self, reason: Close) {
        self.abandoned.store(true, Ordering::SeqCst);
        self.note(reason);
    }

    /// The first reason stands: what follows is its consequence.
    fn note(&self, reason: Close) {
        self.close
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(reason);
        self.ending.notify_one();
    }

    fn raw(&self, node: &NodeRef<'_>) {
        match node.tag.as_ref() {
            "iq" => self.raw_iq(node),
            "notification" => self.raw_notification(node),
            "stream:error" => {
                let conflict = node
                    .get_optional_child("conflict")
                    .map(|conflict| attr(conflict, "type").unwrap_or_default());
                let reason = match (attr(node, "code").as_deref(), conflict.as_deref()) {
                    // These two the library tells apart; of any other it would say that the phone removed us, and
                    // credentials are given up only where WhatsApp says that they are dead.
                    (_, Some("replaced" | "device_removed")) => None,
                    (code, Some(_)) => Some(Close::Refused(
                        code.and_then(|code| code.parse().ok()).unwrap_or(0),
                    )),
                    (Some("515"), None) => Some(Close::Restart),
                    (Some("429"), None) => Some(Close::TooFast),
                    (Some("500" | "503"), None) => Some(Close::Lost),
                    _ => None,
                };
                if let Some(reason) = reason {
                    self.note(reason);
                }
            }
            _ => {}
        }
    }

    fn raw_iq(&self, node: &NodeRef<'_>) {
        if let Some(reference) = node
            .get_optional_child_by_tag(&["link_code_companion_reg", "link_code_pairing_ref"])
            .and_then(bytes)
        {
            *self
                .pairing_ref
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(reference);
            self.tries.store(0, Ordering::SeqCst);
        }
        if node.get_optional_child_by_tag(&["pair-success"]).is_some()
            && let Some(before_finish) = &self.before_finish
            && !before_finish()
        {
            self.tell(LinkEvent::StoreTrouble);
            self.abandon(Close::Lost);
        }
    }

    /// `primary_hello` raises no event of its own, so it is read off the stanza.
    fn raw_notification(&self, node: &NodeRef<'_>) {
        let Some(stage) = node.get_optional_child_by_tag(&["link_code_companion_reg"]) else {
            return;
        };
        if attr(stage, "stage").as_deref() != Some("primary_hello") {
            return;
        }
        let theirs = stage
            .get_optional_child_by_tag(&["link_code_pairing_ref"])
            .and_then(bytes);
        let ours = self
            .pairing_ref
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if theirs.is_none() || theirs != ours {
            return;
        }
        if self.tries.fetch_add(1, Ordering::SeqCst) < MOST_TRIES {
            self.tell(LinkEvent::PhoneTookCode);
        } else {
            self.tell(LinkEvent::TooManyTries);
        }
    }
}

fn attr(node: &NodeRef<'_>, name: &str) -> Option<String> {
    node.get_attr(name).map(|value| value.as_str().into_owned())
}

fn bytes(node: &NodeRef<'_>) -> Option<Vec<u8>> {
    match node.content.as_ref() {
        Some(NodeContentRef::Bytes(bytes)) => Some(bytes.to_vec()),
        _ => None,
    }
}

impl EventHandler for Handler {
    fn handle_event(&self, event: Arc<Event>) {
        match &*event {
            Event::RawNode(node) => self.raw(node.get()),
            Event::PairingQrCode(qr) => {
                // The first refs are WhatsApp's own sign that a code can be asked for.
                if !self.opened.swap(true, Ordering::SeqCst) {
                    self.tell(LinkEvent::Opened);
                }
                self.tell(LinkEvent::Qr {
                    value: SecretText::new(qr.code.clone()),
                    left: qr.timeout,
                });
            }
            Event::PairingQrCodesExhausted(_) => self.tell(LinkEvent::QrOver),
            Event::PairingCode(code) => self.tell(LinkEvent::Code {
                code: SecretText::new(code.code.clone()),
                left: code.timeout,
            }),
            Event::PairingCodeError(_) if !self.asking.load(Ordering::SeqCst) => {
                self.tell(LinkEvent::PairFailed);
            }
            Event::PairingCodeRefresh(_) => self.tell(LinkEvent::RefreshWanted),
            Event::PairSuccess(success) => self.tell(LinkEvent::PairSuccess(Paired {
                phone: SecretText::new(success.id.user.to_string()),
                jid: SecretText::new(success.id.to_string()),
                lid: (!success.lid.user.is_empty())
                    .then(|| SecretText::new(success.lid.to_string())),
            })),
            Event::PairError(_) => self.tell(LinkEvent::PairFailed),
            Event::PairPasskeyRequest(_) | Event::PairPasskeyError(_) => {
                self.tell(LinkEvent::PasskeyWanted);
            }
            Event::Connected(_) => self.tell(LinkEvent::Connected),
            // The library says "logged out" for 401, 403, 406 and our own logout alike.
            Event::LoggedOut(out) => self.note(match out.reason {
                ConnectFailureReason::AccountLocked | ConnectFailureReason::UnknownLogout => {
                    Close::Locked
                }
                _ if out.on_connect => Close::LoggedOut,
                _ => Close::Removed,
            }),
            Event::StreamReplaced(_) => self.note(Close::Replaced),
            Event::TemporaryBan(ban) => self.note(Close::Banned(ban.expire.to_std().ok())),
            Event::ClientOutdated(_) => self.note(Close::Outdated),
            Event::ConnectFailure(failure) => self.note(match failure.reason {
                // The library wants a ban's code beside its end; its end alone is worth telling.
                ConnectFailureReason::TempBanned => {
                    Close::Banned(failure.raw.as_ref().and_then(|raw| {
                        raw.attrs().optional_u64("expire").map(Duration::from_secs)
                    }))
                }
                ConnectFailureReason::InternalServerError
                | ConnectFailureReason::ServiceUnavailable
                | ConnectFailureReason::Unknown(500..=599) => Close::Lost,
                ConnectFailureReason::Unknown(429) => Close::TooFast,
                reason => Close::Refused(reason_code(reason)),
            }),
            _ => {}
        }
    }

    fn interest(&self) -> EventInterest {
        EventInterest::of(&[
            EventKind::RawNode,
            EventKind::PairingQrCode,
            EventKind::PairingQrCodesExhausted,
            EventKind::PairingCode,
            EventKind::PairingCodeError,
            EventKind::PairingCodeRefresh,
            EventKind::PairSuccess,
            EventKind::PairError,
            EventKind::PairPasskeyRequest,
            EventKind::PairPasskeyError,
            EventKind::Connected,
            EventKind::LoggedOut,
            EventKind::StreamReplaced,
            EventKind::TemporaryBan,
            EventKind::ClientOutdated,
            EventKind::ConnectFailure,
        ])
    }
}

/// The number on the wire, for the journal and for tests.
fn reason_code(reason: ConnectFailureReason) -> i32 {
    match reason {
        ConnectFailureReason::Generic => 400,
        ConnectFailureReason::LoggedOut => 401,
        ConnectFailureReason::TempBanned => 402,
        ConnectFailureReason::AccountLocked => 403,
        ConnectFailureReason::UnknownLogout => 406,
        ConnectFailureReason::ClientOutdated => 405,
        ConnectFailureReason::BadUserAgent => 409,
        ConnectFailureReason::CatExpired => 413,
        ConnectFailureReason::CatInvalid => 414,
        ConnectFailureReason::NotFound => 415,
        ConnectFailureReason::ClientUnknown => 418,
        ConnectFailureReason::InternalServerError => 500,
        ConnectFailureReason::Experimental => 501,
        ConnectFailureReason::ServiceUnavailable => 503,
        ConnectFailureReason::Unknown(code) => code,
    }
}

#[cfg(test)]
mod tests {
    use whatsapp_rust::types::events::ConnectFailure;
    use whatsapp_rust::wacore_binary::Node;
    use whatsapp_rust::wacore_binary::builder::NodeBuilder;

    use super::*;

    fn failed(code: i32, raw: Node) -> Close {
        let (sink, _events) = mpsc::unbounded_channel();
        let handler = Handler::new(sink, None);
        let failure = ConnectFailure::builder()
            .reason(ConnectFailureReason::from(code))
            .raw(raw)
            .build();
        handler.handle_event(Arc::new(Event::ConnectFailure(failure)));
        handler.closed_because()
    }

    #[test]
    fn every_connect_failure_that_the_library_does_not_name_has_its_meaning() {
        let plain = || NodeBuilder::new("failure").build();
        for (code, close) in [
            (400, Close::Refused(400)),
            (409, Close::Refused(409)),
            (413, Close::Refused(413)),
            (414, Close::Refused(414)),
            (415, Close::Refused(415)),
            (418, Close::Refused(418)),
            (501, Close::Refused(501)),
            (0, Close::Refused(0)),
            (429, Close::TooFast),
            (500, Close::Lost),
            (502, Close::Lost),
            (503, Close::Lost),
            (504, Close::Lost),
            (402, Close::Banned(None)),
        ] {
            assert_eq!(failed(code, plain()), close, "{code}");
        }
    }

    #[test]
    fn a_bans_end_is_told_also_where_its_code_is_not() {
        let raw = NodeBuilder::new("failure")
            .attr("reason", "402")
            .attr("expire", "90")
            .build();
        let ban = Close::Banned(Some(Duration::from_secs(90)));
        assert_eq!(failed(402, raw), ban);
    }

    fn stream_error(node: &Node) -> Close {
        let (sink, _events) = mpsc::unbounded_channel();
        let handler = Handler::new(sink, None);
        handler.raw(&node.as_node_ref());
        handler.closed_because()
    }

    #[test]
    fn an_unknown_conflict_does_not_make_credentials_dead() {
        let error = |code: Option<&str>, conflict: Option<&'static str>| {
            let mut error = NodeBuilder::new("stream:error");
            if let Some(code) = code {
                error = error.attr("code", code);
            }
            if let Some(conflict) = conflict {
                let child = NodeBuilder::new("conflict").attr("type", conflict).build();
                error = error.children([child]);
            }
            stream_error(&error.build())
        };
        assert_eq!(
            error(Some("409"), Some("something new")),
            Close::Refused(409)
        );
        assert_eq!(error(None, Some("something new")), Close::Refused(0));
        assert_eq!(error(Some("515"), None), Close::Restart);
        assert_eq!(error(Some("429"), None), Close::TooFast);
        assert_eq!(error(Some("503"), None), Close::Lost);
    }
}
