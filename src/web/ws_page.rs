//! Owns what one open page has been shown, so that it sees each code once and never a dead one.
//! It decides which frames to send; sending them is the socket's affair.

use std::time::Duration;

use tokio::time::Instant;

use super::wire::{self, Text};
use crate::error::Code;
use crate::session::{EndReason, PairingCode, RequestError, SessionEvent, State, View};
use crate::words::Lang;

/// How long a code that everybody gets waits for this page's own answer, which carries the same code and an id.
const HOLD: Duration = Duration::from_millis(250);

/// One page's view of one session.
pub(super) struct Page {
    session: String,
    lang: Lang,
    shown: Option<PairingCode>,
    qr: bool,
    /// A code that everybody got while this page waits for its own answer.
    held: Option<(PairingCode, Instant)>,
    /// This page's requests for a code that are not answered yet.
    waiting: usize,
}

/// What one event makes of a page.
pub(super) enum Step {
    /// Send these, in order.
    Send(Vec<Text>),
    /// The session is gone.
    Gone,
}

impl Page {
    pub(super) fn new(session: String, lang: Lang) -> Self {
        Self {
            session,
            lang,
            shown: None,
            qr: false,
            held: None,
            waiting: 0,
        }
    }

    pub(super) fn session(&self) -> &str {
        &self.session
    }

    /// Everything a page needs that has just been opened, or has missed something.
    pub(super) fn snapshot(&mut self, view: &View) -> Vec<Text> {
        let mut frames = vec![wire::status(&view.status, None)];
        self.held = None;
        let live = view.code.as_ref().filter(|code| code.expires_in() > 0);
        if let Some(old) = self.shown.take()
            && live.is_none_or(|code| code.code != old.code)
        {
            // Why it ended was among what was missed; this is the likeliest.
            let reason = match view.status.state {
                State::Connected => EndReason::Linked,
                _ if old.expires_in() == 0 => EndReason::Expired,
                _ if live.is_some() => EndReason::Superseded,
                _ => EndReason::Cancelled,
            };
            frames.push(wire::code_ended(&self.session, reason));
        }
        if let Some(code) = live {
            frames.push(self.show(code, None));
        }
        if view.qr.is_some() || self.qr {
            frames.push(wire::qr(&self.session, view.qr.as_ref()));
        }
        self.qr = view.qr.is_some();
        frames
    }

    /// An event of the session.
    pub(super) fn event(&mut self, event: SessionEvent) -> Step {
        let frame = match event {
            SessionEvent::Removed => return Step::Gone,
            SessionEvent::Status(status) => wire::status(&status, None),
            SessionEvent::Error(error) => self.error(&error, None),
            SessionEvent::Qr(qr) => {
                self.qr = qr.is_some();
                wire::qr(&self.session, qr.as_ref())
            }
            SessionEvent::CodeEnded(reason) => {
                self.held = None;
                self.shown = None;
                wire::code_ended(&self.session, reason)
            }
            SessionEvent::Code(code) if self.is_shown(&code) => return Step::Send(Vec::new()),
            SessionEvent::Code(code) if self.waiting > 0 => {
                self.held = Some((code, Instant::now() + HOLD));
                return Step::Send(Vec::new());
            }
            SessionEvent::Code(code) => self.show(&code, None),
        };
        Step::Send(vec![frame])
    }

    /// The page has asked for a code.
    pub(super) fn asked(&mut self) {
        self.waiting += 1;
    }

    /// The answer to that. `live` is the code of the session at this moment: what it is not is dead already.
    pub(super) fn answered(
        &mut self,
        answer: Result<PairingCode, RequestError>,
        live: Option<&PairingCode>,
        id: Option<&str>,
    ) -> Vec<Text> {
        self.waiting = self.waiting.saturating_sub(1);
        let direct = match (answer, live) {
            (Err(error), _) => self.error(&error, id),
            (Ok(code), Some(live)) if live.code == code.code => {
                self.held = None;
                return vec![self.show(live, id)];
            }
            (Ok(_), Some(_)) => self.error(&Code::Superseded.into(), id),
            (Ok(_), None) => self.error(&Code::Cancelled.into(), id),
        };
        let mut frames = vec![direct];
        if self.waiting == 0 {
            frames.extend(self.release());
        }
        frames
    }

    /// When a held code has waited long enough.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.held.as_ref().map(|(_, until)| *until)
    }

    /// Shows the held code after all.
    pub(super) fn release(&mut self) -> Option<Text> {
        let (code, _) = self.held.take()?;
        Some(self.show(&code, None))
    }

    pub(super) fn error(&self, error: &RequestError, id: Option<&str>) -> Text {
        wire::error(&self.session, error, self.lang, id)
    }

    fn show(&mut self, code: &PairingCode, id: Option<&str>) -> Text {
        self.shown = Some(code.clone());
        wire::code(&self.session, code, id)
    }

    fn is_shown(&self, code: &PairingCode) -> bool {
        self.shown
            .as_ref()
            .is_some_and(|shown| shown.code == code.code)
    }
}

#[cfg(test)]
mod tests;
