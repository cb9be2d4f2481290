//! What each call touches, counted in rows: an expiry only what has expired, a check one row, a wipe none of the link's.

use std::sync::Arc;

use redb::Database;
use redb::backends::InMemoryBackend;
use whatsapp_rust::traits::{MsgSecretEntry, TcTokenEntry};

use super::messages::Kind;
use super::{messages, secrets, signal, tc_tokens};
use crate::store::links::{self, NewLink};
use crate::store::seal::{DataKey, Secret};
use crate::store::tx::{KeyRing, Rows, Scope, Writer, count};
use crate::store::{Epoch, StoreError};

const EPOCH: Epoch = Epoch(1);
/// Rows that have expired.
const DEAD: i64 = 7;

/// Works on a store of its own that holds one link.
fn within<T>(work: impl FnOnce(&Writer<'_>, &Scope) -> Result<T, StoreError>) -> T {
    let database = Database::builder()
        .create_with_backend(InMemoryBackend::new())
        .expect("made");
    let ring: KeyRing = [Epoch::HOUSE, EPOCH]
        .into_iter()
        .map(|epoch| {
            let secret = Secret::random().expect("random");
            (epoch, Arc::new(DataKey::new(epoch, &secret)))
        })
        .collect();
    let transaction = database.begin_write().expect("begun");
    let writer = Writer::new(&transaction, &ring);
    let new = NewLink {
        line: "79001234567".into(),
        intended: "79001234567".into(),
        now: 5,
    };
    links::replace(&writer, "salon", None, Some((&new, EPOCH, "id")), &[]).expect("linked");
    let scope = writer.fence("salon", EPOCH).expect("the present one");
    work(&writer, &scope).expect("done")
}

/// How many rows a piece of work touches.
fn touched<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<(T, usize), StoreError> {
    let before = count::rows();
    let done = work()?;
    Ok((done, count::rows() - before))
}

/// An expiry over so many rows that live on, and [`DEAD`] ones; how many went, and how many rows were touched.
type Expiry = fn(&Writer<'_>, &Scope, i64) -> Result<(u32, usize), StoreError>;

fn of_messages(
    writer: &Writer<'_>,
    scope: &Scope,
    kind: Kind,
    alive: i64,
) -> Result<(u32, usize), StoreError> {
    for number in 0..alive + DEAD {
        let at = if number < alive { 1_000 } else { 10 };
        let row = (vec!["chat".to_owned(), number.to_string()], vec![7]);
        messages::put(writer, scope, kind, &[row], at)?;
    }
    touched(|| messages::delete_before(writer, scope, kind, 1_000))
}

fn of_sent(writer: &Writer<'_>, scope: &Scope, alive: i64) -> Result<(u32, usize), StoreError> {
    of_messages(writer, scope, Kind::Sent, alive)
}

fn of_pending(writer: &Writer<'_>, scope: &Scope, alive: i64) -> Result<(u32, usize), StoreError> {
    of_messages(writer, scope, Kind::Pending, alive)
}

fn of_secrets(writer: &Writer<'_>, scope: &Scope, alive: i64) -> Result<(u32, usize), StoreError> {
    for number in 0..alive + DEAD {
        let entry = MsgSecretEntry {
            chat: Arc::from("chat"),
            sender: Arc::from("sender"),
            msg_id: Arc::from(number.to_string()),
            secret: [7; 32],
            // Some for ever.
            expires_at: if number >= alive {
                10
            } else {
                number % 2 * 1_000
            },
            message_ts: 5,
        };
        secrets::put(writer, scope, &[entry])?;
    }
    touched(|| secrets::delete_expired(writer, scope, 999))
}

fn of_tokens(writer: &Writer<'_>, scope: &Scope, alive: i64) -> Result<(u32, usize), StoreError> {
    for number in 0..alive + DEAD {
        let at = if number < alive { 1_000 } else { 10 };
        let entry = TcTokenEntry {
            token: vec![7],
            token_timestamp: at,
            sender_timestamp: Some(at - 5),
        };
        tc_tokens::put(writer, scope, &number.to_string(), &entry)?;
    }
    touched(|| tc_tokens::delete_expired(writer, scope, 900, 950))
}

#[test]
fn an_expiry_touches_what_has_expired_and_nothing_that_lives_on() {
    let expiries: [(&str, Expiry); 4] = [
        ("sent messages", of_sent),
        ("pending messages", of_pending),
        ("message secrets", of_secrets),
        ("privacy tokens", of_tokens),
    ];
    for (what, expiry) in expiries {
        let [few, many] =
            [20, 800].map(|alive| within(|writer, scope| expiry(writer, scope, alive)));
        assert_eq!(i64::from(few.0), DEAD, "{what}");
        assert_eq!(
            few, many,
            "{what}: more rows that live on, and more touched"
        );
        let most = 4 * usize::try_from(DEAD).expect("small");
        assert!((1..=most).contains(&few.1), "{what}: {} touched", few.1);
    }
}

#[test]
fn an_expiry_of_nothing_touches_nothing() {
    let ((), count) = within(|writer, scope| {
        of_sent(writer, scope, 50)?;
        of_secrets(writer, scope, 50)?;
        of_tokens(writer, scope, 50)?;
        touched(|| {
            assert_eq!(messages::delete_before(writer, scope, Kind::Sent, 900)?, 0);
            assert_eq!(secrets::delete_expired(writer, scope, 900)?, 0);
            assert_eq!(tc_tokens::delete_expired(writer, scope, 900, 900)?, 0);
            Ok(())
        })
    });
    assert_eq!(count, 0);
}

#[test]
fn a_check_reads_one_row() {
    let (row, count) = within(|writer, _| touched(|| links::read(writer, "salon")));
    assert_eq!(row.expect("a link").line.reveal(), "79001234567");
    assert_eq!(count, 1);
}

#[test]
fn a_wipe_touches_as_many_rows_whatever_the_link_holds() {
    let [few, many] = [5, 500].map(|rows| {
        within(|writer, scope| {
            for number in 0..rows {
                signal::put_sessions(writer, scope, &[(number.to_string(), [7; 350])])?;
            }
            touched(|| links::replace(writer, "salon", Some(EPOCH), None, &[]))
        })
    });
    assert_eq!(few.1, many.1);
    assert!(few.1 < 10, "{} rows", few.1);
}
