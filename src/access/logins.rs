//! Owns the logins: tokens by their hash, how long each is good, and the end of each.
//! It must never hold a token itself, and nothing lists what is in it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
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

/// A login as it is kept across a restart. No clock but the wall's goes on meanwhile, so its times are in Unix
/// milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    id: [u8; 32],
    made: i64,
    used: i64,
}

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) mono: Instant,
    pub(super) wall: i64,
}

impl Moment {
    pub(super) fn now() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            mono: Instant::now(),
            wall: millis(wall.unwrap_or_default()),
        }
    }

    fn wall_of(self, at: Instant) -> i64 {
        self.wall - millis(self.mono.saturating_duration_since(at))
    }

    /// A time that the wall's clock has yet to reach is taken for now.
    fn mono_of(self, wall: i64) -> Option<Instant> {
        let ago = u64::try_from(self.wall.saturating_sub(wall)).unwrap_or(0);
        self.mono.checked_sub(Duration::from_millis(ago))
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[derive(Debug)]
struct Login {
    made: Instant,
    used: Instant,
    /// Its drop tells the login's WebSockets to close.
    alive: watch::Sender<()>,
}

impl Login {
    fn new(made: Instant, used: Instant) -> Self {
        Self {
            made,
            used,
            alive: watch::channel(()).0,
        }
    }

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
        table.insert(id, Login::new(now, now));
    }

    /// Those that are still good, for a later process.
    pub(super) fn kept(&self, now: Moment) -> Vec<Kept> {
        let table = self.lock();
        let good = table.iter().filter(|(_, login)| login.good(now.mono));
        good.map(|(id, login)| Kept {
            id: *id,
            made: now.wall_of(login.made),
            used: now.wall_of(login.used),
        })
        .collect()
    }

    /// Those of an earlier process, as far as they are still good.
    pub(super) fn take_back(&self, kept: Vec<Kept>, now: Moment) {
        let mut table = self.lock();
        for Kept { id, made, used } in kept.into_iter().take(MOST) {
            if let (Some(made), Some(used)) = (now.mono_of(made), now.mono_of(used)) {
                table.insert(id, Login::new(made, used));
            }
        }
        table.retain(|_, login| login.good(now.mono));
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
    fn a_login_lives_on_in_a_later_process_and_its_times_go_on() {
        let earlier = Logins::default();
        let start = Moment {
            mono: Instant::now(),
            wall: 1_700_000_000_000,
        };
        earlier.add([1; 32], start.mono);
        let later = |after: Duration| Moment {
            // Another process, another monotonic clock.
            mono: start.mono + Duration::from_secs(77),
            wall: start.wall + millis(after),
        };
        for (after, good) in [
            (Duration::ZERO, true),
            (IDLE.saturating_sub(Duration::from_secs(1)), true),
            (IDLE, false),
            (TOTAL * 2, false),
        ] {
            let logins = Logins::default();
            let now = later(after);
            logins.take_back(earlier.kept(start), now);
            assert_eq!(
                logins.touch(&[1; 32], now.mono).is_some(),
                good,
                "{after:?}"
            );
        }
        let logins = Logins::default();
        logins.take_back(earlier.kept(start), later(IDLE / 2));
        let at = later(IDLE / 2).mono + IDLE / 2;
        assert!(
            logins.touch(&[1; 32], at).is_none(),
            "half before, half after"
        );
        // A clock that was put back must not make a login that is good for ever.
        let logins = Logins::default();
        let back = Moment {
            wall: 0,
            ..later(Duration::ZERO)
        };
        logins.take_back(earlier.kept(start), back);
        assert!(logins.touch(&[1; 32], back.mono).is_some());
        assert!(logins.touch(&[1; 32], back.mono + IDLE).is_none());
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
