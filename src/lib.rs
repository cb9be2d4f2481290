//! Hairpin.
pub mod access;
pub mod error;
pub mod link;
pub mod mask;
pub mod metrics;
pub mod phone;
pub mod secret;
pub mod session;
pub mod store;
pub mod web;
pub mod words;
