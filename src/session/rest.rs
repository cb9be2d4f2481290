//! Owns what a session's status is while no appliance runs: what the next start would make of it, and nothing newer.

use std::time::Duration;

use tokio::time::Instant;

use super::machine::{Input, Limits, Machine, Now};
use super::types::{Status, UnixMs};
use crate::store::{LinkRow, SessionRow};

/// The status of a stored session. A link that the next start would bring up is `RECONNECTING`.
#[must_use]
pub fn at_rest(session: &SessionRow, row: Option<LinkRow>, now: UnixMs) -> Status {
    // The machine that decides at a start decides here; nobody performs what it wants done.
    let limits = Limits {
        code_ttl: Duration::ZERO,
        code_grace: Duration::ZERO,
        connect_timeout: Duration::ZERO,
    };
    let since = since(session, row.as_ref());
    let moment = Now {
        mono: Instant::now(),
        wall: now,
    };
    let machine = Machine::new(limits).handle(Input::Boot(Ok(row)), moment, &mut Vec::new());
    Status {
        session: session.id.clone(),
        state: machine.state(),
        name: session.name.clone(),
        phone: machine.phone(),
        since,
        last_connected: machine.row().and_then(|row| row.last_connected),
        until: machine.until(),
        reason: machine.reason(),
    }
}

/// The last thing that is known to have happened.
fn since(session: &SessionRow, row: Option<&LinkRow>) -> UnixMs {
    let Some(row) = row else {
        return session.created_at;
    };
    let ended = row.ended.map(|ended| ended.at);
    let halted = row.halted.map(|halted| halted.at);
    ended
        .or(halted)
        .or(row.last_connected)
        .or(row.linked.as_ref().map(|linked| linked.at))
        .unwrap_or(row.created_at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use crate::session::State;
    use crate::store::{Ended, EndedReason, Halted, HaltedReason, Linked, NewLink, Options, Store};

    /// Writes a link as it would be stored, and reads its status back.
    async fn status(change: impl Fn(&mut LinkRow) + Send + 'static) -> Status {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path(), Options::default()).expect("opened");
        store
            .put_session("salon", "Salon", 7)
            .await
            .expect("written");
        let next = NewLink {
            line: "79001234567".into(),
            intended: "79001234567".into(),
            now: 10,
        };
        let wiped = store
            .replace_link("salon", None, Some(next), vec![])
            .await
            .expect("written");
        let epoch = wiped.link.expect("a link").epoch;
        store
            .update_link("salon", epoch, Box::new(change), vec![])
            .await
            .expect("written");
        let session = store.sessions().expect("read").remove(0);
        let row = store.link("salon").expect("read");
        store.close().await;
        at_rest(&session, row, 100)
    }

    fn linked(row: &mut LinkRow) {
        row.linked = Some(Linked {
            at: 20,
            phone: "79001234567".into(),
            jid: "79001234567:1@s.whatsapp.net".into(),
            lid: None,
        });
    }

    #[test]
    fn a_slot_without_a_link_is_unlinked_since_it_was_made() {
        let session = SessionRow {
            id: "salon".into(),
            name: "Salon".into(),
            created_at: 7,
        };
        let status = at_rest(&session, None, 100);
        assert_eq!(
            (status.state, status.since, status.phone),
            (State::Unlinked, 7, None)
        );
    }

    #[tokio::test]
    async fn a_link_that_would_come_up_is_reconnecting_since_it_was_last_seen() {
        let seen = status(linked).await;
        assert_eq!((seen.state, seen.since), (State::Reconnecting, 20));
        assert_eq!(seen.phone.as_deref(), Some("79001***567"));
        let seen = status(|row| {
            linked(row);
            row.last_connected = Some(30);
        })
        .await;
        assert_eq!((seen.since, seen.last_connected), (30, Some(30)));
    }

    #[tokio::test]
    async fn what_the_row_says_of_its_end_is_told() {
        let seen = status(|row| {
            linked(row);
            row.ended = Some(Ended {
                at: 40,
                reason: EndedReason::DeviceRemoved,
            });
        })
        .await;
        assert_eq!(
            (seen.state, seen.reason, seen.since),
            (State::LoggedOut, Some(Code::LoggedOut), 40)
        );
        let seen = status(|row| {
            linked(row);
            row.halted = Some(Halted {
                at: 50,
                reason: HaltedReason::Banned,
                until: Some(900),
            });
        })
        .await;
        assert_eq!(
            (seen.state, seen.since, seen.until),
            (State::Banned, 50, Some(900))
        );
        let seen = status(|row| row.finishing = true).await;
        assert_eq!(seen.state, State::HalfLinked);
        let seen = status(|_| {}).await;
        assert_eq!(
            (seen.state, seen.phone, seen.since),
            (State::Unlinked, None, 10)
        );
    }
}
