//! Owns the two clocks: the wall's, which anybody may set, and a steady one that goes on while the machine sleeps.
//! tokio's own clock stands still in a suspended machine: a code that died meanwhile would be shown on, a ban would last longer.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// The longest that a timer sleeps in one piece: within this, a machine that wakes up notices what it slept through.
pub const NAP: Duration = Duration::from_secs(5);
/// Less than this is only the time between two looks at two clocks.
const NOTICED: u64 = 100;
/// A wall's clock that moved by more than this was set, in milliseconds.
pub const SET: i64 = 2000;

/// Milliseconds the machine has slept since the first look, as far as noticed. Only grows.
static SLEPT: AtomicU64 = AtomicU64::new(0);
/// What a test made its process believe, in milliseconds.
static PRETENDED_SLEEP: AtomicU64 = AtomicU64::new(0);
static PRETENDED_WALL: AtomicI64 = AtomicI64::new(0);
/// What the machine had slept before this process looked for the first time.
static BEFORE: LazyLock<u64> = LazyLock::new(asleep);

/// Now, on the steady clock.
#[must_use]
pub fn steady() -> Instant {
    Instant::now() + slept()
}

/// Now, on the wall's clock, in Unix milliseconds.
#[must_use]
pub fn wall() -> i64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        });
    now.saturating_add(PRETENDED_WALL.load(Ordering::Relaxed))
}

/// How long the machine has been asleep since this process began.
#[must_use]
pub fn slept() -> Duration {
    let now = asleep()
        .saturating_sub(*BEFORE)
        .saturating_add(PRETENDED_SLEEP.load(Ordering::Relaxed));
    // Two clocks are never read at one moment: what they differ by must not make the steady one go back and forth.
    let noticed = SLEPT.load(Ordering::Relaxed);
    if now > noticed + NOTICED {
        SLEPT.fetch_max(now, Ordering::Relaxed);
    }
    Duration::from_millis(SLEPT.load(Ordering::Relaxed))
}

/// Milliseconds asleep since boot: the clock that counts them less the one that does not.
fn asleep() -> u64 {
    let millis = |clock| {
        let time = clock_gettime(clock);
        u64::try_from(time.tv_sec)
            .unwrap_or(0)
            .saturating_mul(1000)
            .saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000)
    };
    let awake = millis(ClockId::Monotonic);
    millis(ClockId::Boottime).saturating_sub(awake)
}

/// How far the wall's clock is ahead of the steady one, in milliseconds from an arbitrary start.
#[must_use]
pub fn apart() -> i64 {
    static START: LazyLock<Instant> = LazyLock::new(steady);
    let ran = steady().saturating_duration_since(*START);
    wall().saturating_sub(i64::try_from(ran.as_millis()).unwrap_or(i64::MAX))
}

/// Sleeps until the moment on the steady clock, or until somebody has set the wall's clock since it was `known` to be
/// so far [`apart`]; whether it was the latter.
pub async fn until(moment: Instant, known: i64) -> bool {
    loop {
        let left = moment.saturating_duration_since(steady());
        if left.is_zero() {
            return false;
        }
        // Less than that is a clock being kept, not one being set.
        if apart().saturating_sub(known).abs() > SET {
            return true;
        }
        tokio::time::sleep(left.min(NAP)).await;
    }
}

/// Makes this process believe that the machine slept, and that its wall clock was set by so many milliseconds.
/// For a test in a process of its own: it concerns everything in it.
#[doc(hidden)]
pub fn pretend(slept: Duration, set_by: i64) {
    PRETENDED_SLEEP.fetch_add(
        u64::try_from(slept.as_millis()).unwrap_or(u64::MAX),
        Ordering::Relaxed,
    );
    PRETENDED_WALL.fetch_add(set_by, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_steady_clock_never_goes_back_and_keeps_pace() {
        let (tokio, mut last) = (Instant::now(), steady());
        let first = last;
        while tokio.elapsed() < Duration::from_millis(50) {
            let now = steady();
            assert!(now >= last);
            last = now;
        }
        let ran = steady() - first;
        assert!(ran >= Duration::from_millis(40), "{ran:?}");
    }

    #[tokio::test]
    async fn a_moment_that_has_come_is_not_waited_for() {
        let known = apart();
        assert!(!until(steady(), known).await);
        assert!(!until(steady() + Duration::from_millis(5), known).await);
        assert!(until(steady() + Duration::from_mins(1), known + 86_400_000).await);
    }
}
