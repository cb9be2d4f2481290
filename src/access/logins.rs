//! Owns the logins: tokens by their hash, how long each is good, and the end of each.
//! It must never hold a token itself, and nothing lists what is in it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// A login nobody uses ends after this.
const IDLE: Duration = Duration::from_hours(12);
/// Every login ends after this.
const TOTAL: Duration = Duration::from_hours(30 * 24);
/// More browsers than a salon has; the longest unused makes room.
const MOST: usize = 256;

/// Who is logged in.
#[derive(Debug, Default)]
pub(super) struct Logins {
    /// Held for a look-up only.
    table: Mutex<HashMap<[u8; 32], Login>>,
}

#[derive(Debug)]
struct Login {
    made: Instant,
    used: Instant,
    /// Its drop tells the login's WebSockets to close.
    alive: watch::Sender<()>,
}

impl Login {
    fn good(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used) < IDLE
            && now.saturating_duration_since(self.made) < TOTAL
    }
}

impl Logins {
    /// Adds a login by the hash of its token.
    pub(super) fn add(&self, id: [u8; 32], now: Instant) {
        let mut table = self.lock();
        table.retain(|_, login| login.good(now));
        while table.len() >= MOST {
            let Some(oldest) = table.iter().min_by_key(|(_, l)| l.used).map(|(id, _)| *id) else {
                break;
            };
            table.remove(&oldest);
        }
        let login = Login {
            made: now,
            used: now,
            alive: watch::channel(()).0,
        };
        table.insert(id, login);
    }

    /// Uses a login that is still good; what comes back fails when the login ends.
    pub(super) fn touch(&self, id: &[u8; 32], now: Instant) -> Option<watch::Receiver<()>> {
        let mut table = self.lock();
        let login = table.get_mut(id)?;
        if !login.good(now) {
            table.remove(id);
            return None;
        }
        login.used = now;
        Some(login.alive.subscribe())
    }

    /// Ends one.
    pub(super) fn remove(&self, id: &[u8; 32]) {
        self.lock().remove(id);
    }

    /// Ends all.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    /// Ends those whose time is over.
    pub(super) fn sweep(&self, now: Instant) {
        self.lock().retain(|_, login| login.good(now));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Login>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_ends_when_nobody_used_it_for_half_a_day() {
        let logins = Logins::default();
        let start = Instant::now();
        logins.add([1; 32], start);
        assert!(logins.touch(&[1; 32], start + IDLE / 2).is_some());
        assert!(logins.touch(&[1; 32], start + IDLE).is_some());
        assert!(logins.touch(&[1; 32], start + IDLE * 2).is_none());
        assert!(logins.touch(&[1; 32], start).is_none(), "it stays ended");
    }

    #[test]
    fn a_login_in_constant_use_ends_after_thirty_days() {
        let logins = Logins::default();
        let start = Instant::now();
        logins.add([1; 32], start);
        let mut at = start;
        while at + IDLE / 2 < start + TOTAL {
            at += IDLE / 2;
            assert!(logins.touch(&[1; 32], at).is_some());
        }
        assert!(logins.touch(&[1; 32], at + IDLE / 2).is_none());
    }

    #[test]
    fn the_longest_unused_login_makes_room() {
        let logins = Logins::default();
        let start = Instant::now();
        for i in 0..=MOST {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&i.to_be_bytes());
            logins.add(id, start + Duration::from_secs(i as u64));
        }
        assert!(logins.touch(&[0; 32], start).is_none());
        assert_eq!(logins.lock().len(), MOST);
    }

    #[test]
    fn sweeping_tells_whoever_waits() {
        let logins = Logins::default();
        let start = Instant::now();
        logins.add([1; 32], start);
        let alive = logins.touch(&[1; 32], start).expect("just added");
        logins.sweep(start + IDLE);
        assert!(alive.has_changed().is_err());
    }
}
