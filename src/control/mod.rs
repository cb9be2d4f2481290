//! Owns the control socket, through which the terminal speaks to a running appliance.
//! Only root and the appliance's own user get an answer; nothing that is said on it is ever logged.

mod client;
mod link;
mod server;
mod socket;
mod wire;

pub use client::{CallError, Conversation, TalkError, call};
pub use server::{House, OpenStore, Server, Socket, bind};
pub use socket::BindError;
pub use wire::{Answer, Ask, Failure, Replaced, StatusLine, Text};
