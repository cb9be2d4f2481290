//! Owns what is said to systemd. Without a service manager nothing is said.

use std::time::Duration;

use sd_notify::NotifyState;

/// Whether a service manager has started the program and waits to hear that it is ready.
#[must_use]
pub fn manages() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// The appliance is ready.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The appliance is stopping.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// A line for `systemctl status`; it never holds a number.
pub fn status(text: &str) {
    notify(&[NotifyState::Status(text)]);
}

/// How long systemd waits for [`turning`] before it kills the program; none when nobody waits.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|within| !within.is_zero())
}

/// Everything that must turn does.
pub fn turning() {
    notify(&[NotifyState::Watchdog]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd does not listen");
    }
}
