//! Owns the memory of wrong keys: who has to wait before the next try, and how long.
//! It never locks out one address for what another did, nor the login form for what a script did.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Wrong keys before an address has to wait.
const FREE: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_secs(30);
const LONGEST_WAIT: Duration = Duration::from_mins(15);
/// Wrong keys are forgotten after this.
const MEMORY: Duration = Duration::from_hours(1);
/// Addresses kept in mind; the one that failed longest ago makes room.
const MOST: usize = 1024;

/// By which way a key is presented; each has its own count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Way {
    /// The page's login.
    Login,
    /// `Authorization`.
    Bearer,
}

/// Wrong keys by address.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    /// Held for a look-up only.
    table: Mutex<HashMap<(IpAddr, Way), Failures>>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    fn wait(self) -> Duration {
        match self.count.checked_sub(FREE) {
            None => Duration::ZERO,
            Some(over) => FIRST_WAIT
                .saturating_mul(1 << over.min(16))
                .min(LONGEST_WAIT),
        }
    }
}

impl Throttle {
    /// Whether the address may present a key now, or after how many seconds.
    pub(super) fn admit(&self, address: IpAddr, way: Way, now: Instant) -> Result<(), u64> {
        let Some(failures) = self.lock().get(&(address.to_canonical(), way)).copied() else {
            return Ok(());
        };
        let left = failures
            .wait()
            .saturating_sub(now.saturating_duration_since(failures.last));
        if left.is_zero() {
            Ok(())
        } else {
            Err(left.as_secs() + u64::from(left.subsec_nanos() > 0))
        }
    }

    /// Notes a wrong key; the answer is how long its refusal is held back.
    pub(super) fn failed(&self, address: IpAddr, way: Way, now: Instant) -> Duration {
        let mut table = self.lock();
        table.retain(|_, f| now.saturating_duration_since(f.last) < MEMORY);
        let key = (address.to_canonical(), way);
        if table.len() >= MOST && !table.contains_key(&key) {
            let oldest = table.iter().min_by_key(|(_, f)| f.last).map(|(k, _)| *k);
            if let Some(oldest) = oldest {
                table.remove(&oldest);
            }
        }
        let failures = table.entry(key).or_insert(Failures {
            count: 0,
            last: now,
        });
        failures.count = failures.count.saturating_add(1);
        failures.last = now;
        Duration::from_millis(25 << failures.count.min(4))
    }

    /// Forgets an address that had the right key.
    pub(super) fn succeeded(&self, address: IpAddr, way: Way) {
        self.lock().remove(&(address.to_canonical(), way));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(IpAddr, Way), Failures>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(throttle: &Throttle, address: IpAddr, times: u32, now: Instant) {
        for _ in 0..times {
            throttle.failed(address, Way::Login, now);
        }
    }

    #[test]
    fn an_address_waits_after_its_free_tries_and_longer_each_time() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let here = IpAddr::from([192, 0, 2, 1]);
        fail(&throttle, here, FREE - 1, now);
        assert_eq!(throttle.admit(here, Way::Login, now), Ok(()));
        fail(&throttle, here, 1, now);
        assert_eq!(throttle.admit(here, Way::Login, now), Err(30));
        let later = now + FIRST_WAIT;
        assert_eq!(throttle.admit(here, Way::Login, later), Ok(()));
        fail(&throttle, here, 1, later);
        assert_eq!(throttle.admit(here, Way::Login, later), Err(60));
        fail(&throttle, here, 100, later);
        assert_eq!(throttle.admit(here, Way::Login, later), Err(900));
        throttle.succeeded(here, Way::Login);
        assert_eq!(throttle.admit(here, Way::Login, later), Ok(()));
    }

    #[test]
    fn nobody_is_locked_out_by_somebody_else() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        fail(&throttle, IpAddr::from([192, 0, 2, 1]), 50, now);
        let owner = IpAddr::from([192, 0, 2, 2]);
        assert_eq!(throttle.admit(owner, Way::Login, now), Ok(()));
        let script = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(throttle.admit(script, Way::Bearer, now), Ok(()));
    }

    /// A salon's whole network is one IPv6 network, its customers included. Whoever changes addresses there gains
    /// nothing on 150 bits.
    #[test]
    fn a_neighbour_in_the_same_ipv6_network_is_somebody_else_and_a_mapped_address_is_ipv4() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let one: IpAddr = "2001:db8::1".parse().expect("an address");
        let other: IpAddr = "2001:db8::2".parse().expect("an address");
        fail(&throttle, one, FREE, now);
        assert!(throttle.admit(one, Way::Login, now).is_err());
        assert_eq!(throttle.admit(other, Way::Login, now), Ok(()));
        let mapped: IpAddr = "::ffff:192.0.2.9".parse().expect("an address");
        fail(&throttle, mapped, FREE, now);
        let plain = IpAddr::from([192, 0, 2, 9]);
        assert!(throttle.admit(plain, Way::Login, now).is_err());
    }

    #[test]
    fn the_memory_is_bounded_and_fades() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for i in 0..2000_u32 {
            throttle.failed(IpAddr::from(i.to_be_bytes()), Way::Login, now);
        }
        assert_eq!(throttle.lock().len(), MOST);
        throttle.failed(IpAddr::from([9, 9, 9, 9]), Way::Login, now + MEMORY);
        assert_eq!(throttle.lock().len(), 1);
    }
}
