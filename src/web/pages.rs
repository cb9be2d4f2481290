//! Owns the table of open WebSockets: how many one client may have, and which one makes room for a new one.
//! Whoever has the key and opens too many costs itself its oldest, and nobody else anything.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// All open WebSockets.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// By age; at most as many as there may be connections. Held for a scan, never while waiting.
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: BTreeMap<u64, (IpAddr, Arc<Notify>)>,
}

/// A WebSocket's place; its drop gives it back.
#[derive(Debug)]
pub(super) struct Place {
    pages: Arc<Pages>,
    id: u64,
    /// A permit is kept if nobody is waiting yet.
    over: Arc<Notify>,
}

impl Pages {
    /// Makes a place for one more of this client, by ending its oldest where it would have more than `most`.
    pub(super) fn admit(self: &Arc<Self>, client: IpAddr, most: usize) -> Place {
        let mut table = self.lock();
        let theirs = table.open.iter().filter(|(_, open)| open.0 == client);
        let ids: Vec<u64> = theirs.map(|(id, _)| *id).collect();
        for id in ids.iter().take((ids.len() + 1).saturating_sub(most)) {
            // It is told once, and makes room in the table at once.
            if let Some((_, over)) = table.open.remove(id) {
                over.notify_one();
            }
        }
        let (id, over) = (table.next, Arc::new(Notify::new()));
        table.next += 1;
        table.open.insert(id, (client, Arc::clone(&over)));
        Place {
            pages: Arc::clone(self),
            id,
            over,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Returns when it has to make room.
    pub(super) async fn over(&self) {
        self.over.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pages.lock().open.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn the_oldest_of_a_client_makes_room_and_no_other_does() {
        let pages = Arc::new(Pages::default());
        let elsewhere = pages.admit(THERE, 2);
        let mut places: Vec<Place> = (0..4).map(|_| pages.admit(HERE, 2)).collect();
        let over = |place: &Place| place.over().now_or_never().is_some();
        assert_eq!(
            places.iter().map(over).collect::<Vec<_>>(),
            [true, true, false, false]
        );
        assert!(!over(&elsewhere));
        // Whoever leaves makes room as well.
        places.truncate(3);
        let one_more = pages.admit(HERE, 2);
        assert!(!over(&places[2]) && !over(&one_more));
    }
}
