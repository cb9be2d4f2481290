//! Owns the watch over a connection that stands: does anything still arrive? A socket whose other end has gone,
//! as after a changed network address, says nothing by itself.
//!
//! The library's own keep-alive takes up to a minute to notice, and compares wall-clock times: set back a day, it
//! would be silent for a day. This watch knows only the clock that nobody can set.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use whatsapp_rust::Client;
use whatsapp_rust::wacore::iq::keepalive::KeepaliveSpec;

use crate::clock;

/// How often it is looked at what has arrived.
const LOOK: Duration = Duration::from_secs(4);
/// After so long without a sign of life the other end is asked for one.
const QUIET: Duration = Duration::from_secs(8);
/// How long that may take.
const ANSWER: Duration = Duration::from_secs(8);
/// How long the other end may take for its first word on a new connection. Before it, nothing can be asked.
const FIRST: Duration = Duration::from_secs(15);
/// The machine slept: the other end has most likely given us up.
const SLEPT: Duration = Duration::from_secs(2);

/// Returns once nothing arrives any more. The client must have its socket.
pub(super) async fn until_dead(client: &Arc<Client>) {
    let (mut signs, mut since, mut slept) = (signs(client), Instant::now(), clock::slept());
    loop {
        tokio::time::sleep(LOOK).await;
        let woken = clock::slept().saturating_sub(slept) > SLEPT;
        slept = clock::slept();
        let now = self::signs(client);
        if now != signs && !woken {
            (signs, since) = (now, Instant::now());
            continue;
        }
        if now.0 == 0 {
            if since.elapsed() >= FIRST {
                return;
            }
            continue;
        }
        if (woken || since.elapsed() >= QUIET)
            && !answers(client).await
            && self::signs(client) == now
        {
            return;
        }
        if self::signs(client) != now {
            (signs, since) = (self::signs(client), Instant::now());
        }
    }
}

/// What changes with everything that arrives. Nobody compares it with a clock.
fn signs(client: &Client) -> (u64, u64) {
    let stats = client.stats();
    (stats.frames_received, stats.last_data_received_ms)
}

async fn answers(client: &Client) -> bool {
    let ping = client.execute(KeepaliveSpec::with_timeout(ANSWER));
    // A socket that takes no more bytes would not even let the question out.
    matches!(tokio::time::timeout(ANSWER, ping).await, Ok(Ok(())))
}
