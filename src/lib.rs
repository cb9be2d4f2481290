//! Hairpin: links a salon's WhatsApp by pairing code and keeps it linked.
//!
//! Imports point down only: `phone`, `mask`, `secret`, `error` ← `store` ← `link` ← `session` ← `web` ← `control` ← `app` ← `cli`.

pub mod access;
pub mod app;
pub mod certificate;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
mod durable;
pub mod error;
pub mod exit;
pub mod link;
pub mod mask;
pub mod metrics;
pub mod phone;
pub mod process;
pub mod secret;
pub mod session;
pub mod store;
pub mod systemd;
pub mod telemetry;
pub mod upkeep;
pub mod web;
pub mod words;
