//! One test binary: a module per behaviour.

mod backup;
mod by_hand;
mod control;
mod control_link;
mod crowd;
mod pairing;
mod process;
mod rig;
mod terminal;
mod web_api;
mod web_door;
mod web_limits;
mod web_login;
mod web_support;
mod web_ws;
