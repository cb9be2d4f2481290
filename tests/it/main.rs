//! One test binary: a module per behaviour.

mod agree;
mod by_hand;
mod control;
mod control_link;
mod crowd;
mod endurance;
mod ghost;
mod history;
mod monitoring;
mod pairing;
mod process;
mod rig;
mod store_calls;
mod store_differential;
mod store_fencing;
mod store_rows;
mod store_support;
mod store_traits;
mod supervision;
mod terminal;
mod web_api;
mod web_door;
mod web_limits;
mod web_login;
mod web_support;
mod web_ws;
