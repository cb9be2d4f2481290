//! One test binary: a module per behaviour.

mod by_hand;
mod crowd;
mod pairing;
mod process;
mod rig;
mod store_crash;
mod store_cut;
mod store_faults;
mod store_lab;
mod store_model;
mod web_api;
mod web_door;
mod web_limits;
mod web_login;
mod web_support;
mod web_ws;
