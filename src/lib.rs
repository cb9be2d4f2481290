//! Hairpin: links a salon's WhatsApp by pairing code and keeps it linked.
//!
//! Imports point down only: `phone`, `mask`, `secret`, `error` ← `store` ← `link` ← `session` ← `web` ← `app`.

pub mod config;
pub mod error;
pub mod link;
pub mod mask;
pub mod metrics;
pub mod phone;
pub mod secret;
pub mod session;
pub mod store;
