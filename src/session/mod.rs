//! Owns the sessions: one task each, the only owner of its link.

mod types;

pub use types::{
    Asker, By, CodeRequest, EndReason, PairingCode, Qr, Replaced, ReplacedReason, RequestError,
    SessionEvent, State, Status, UnixMs, View,
};
