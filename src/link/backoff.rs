//! Owns how long to wait before the next connection: pure, so that it can be tested.

use std::time::Duration;

/// The longest wait after network trouble: a cause that goes away is noticed within it.
const LONGEST: Duration = Duration::from_secs(20);
/// The first wait after WhatsApp said "too fast".
pub const TOO_FAST: Duration = Duration::from_mins(1);
/// The longest wait after WhatsApp said "too fast".
const TOO_FAST_LONGEST: Duration = Duration::from_mins(15);

/// The wait before try number `attempt` (from 0), spread by `jitter` in `0.0..1.0`:
/// doubling from a second to twenty, the upper half of it at random.
#[must_use]
pub fn after_loss(attempt: u32, jitter: f64) -> Duration {
    spread(Duration::from_secs(1), LONGEST, attempt, jitter)
}

/// The wait after WhatsApp's 429: doubling from a minute to fifteen.
#[must_use]
pub fn after_too_fast(attempt: u32, jitter: f64) -> Duration {
    spread(TOO_FAST, TOO_FAST_LONGEST, attempt, jitter)
}

fn spread(first: Duration, longest: Duration, attempt: u32, jitter: f64) -> Duration {
    let full = first
        .saturating_mul(1u32.checked_shl(attempt.min(20)).unwrap_or(u32::MAX))
        .min(longest);
    full.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_grows_is_spread_and_stays_within_its_cap() {
        assert_eq!(after_loss(0, 0.0), Duration::from_millis(500));
        assert_eq!(after_loss(0, 1.0), Duration::from_secs(1));
        assert!(after_loss(3, 0.0) < after_loss(3, 1.0));
        for attempt in [5, 20, 31, 32, u32::MAX] {
            assert_eq!(after_loss(attempt, 1.0), LONGEST);
            assert_eq!(after_too_fast(attempt, 1.0), TOO_FAST_LONGEST);
        }
        assert!(after_too_fast(0, 0.0) >= Duration::from_secs(30));
    }
}
