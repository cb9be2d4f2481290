//! The page in a real headless Chromium, against the whole appliance and a simulated WhatsApp: a module per behaviour.

mod chrome;
mod clock;
mod desk;
mod door;
mod ends;
mod faces;
mod flow;
mod inspect;
mod keyboard;
mod lost;
mod media;
mod panels;
mod replace;
mod trouble;
mod words;

#[expect(dead_code, reason = "shared with the tests that need no browser")]
#[path = "../it/rig.rs"]
mod rig;
#[expect(dead_code, reason = "shared with the tests that need no browser")]
#[path = "../it/web_support.rs"]
mod web_support;
