//! A simulated WhatsApp server and the phones around it, as strict as the real ones.
//!
//! A companion connects to [`Sim::url`] and does everything it would do with WhatsApp: register, ask for a pairing
//! code, link, restart, log in, upload keys, synchronise. A [`Phone`] plays the person: it types codes, scans QR
//! codes, unlinks. All cryptography is real and checked; only the certificate chain is signed by a root of our own,
//! so a client that checks it refuses to connect.
//!
//! Trouble is ordered with [`Sim::fault`] (when a connection gets somewhere) or [`Sim::kick`] (now). Tests wait for
//! [`Event`]s and never sleep.
//!
//! It has its own knowledge of the protocol and none of Hairpin: any companion program can be pointed at it.

#![warn(clippy::pedantic)]
// Errors and panics are named where they are more than "the socket has gone".
#![allow(clippy::missing_errors_doc)]
// WhatsApp and WebSocket are names, not items.
#![allow(clippy::doc_markdown)]

mod config;
mod conn;
mod ctl;
mod event;
mod fault;
mod http;
mod link;
mod message;
mod node;
mod noise;
mod phone;
mod server;
mod signal;
mod wire;
mod world;

pub use config::SimConfig;
pub use event::{Event, Step};
pub use fault::{Action, Fault, Kick, Refusal};
pub use phone::{EnterCodeError, LinkedDevice, Phone, SendError};
pub use server::Sim;
