//! What happens when somebody works on the store behind a session's back: credentials removed or spoiled by hand.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use hairpin::error::Code;
use hairpin::link::{Connector, Versions};
use hairpin::metrics::Metrics;
use hairpin::phone::{Country, Phone};
use hairpin::session::{
    Asker, By, CodeRequest, PairingCode, RequestError, Sessions, Settings, State,
};
use hairpin::store::{LinkRow, Store};
use hairpin_sim::{Sim, SimConfig};
use tempfile::TempDir;

use crate::rig::{ANNA, BORIS, PATIENCE, open};

/// Sessions over a store that the test holds in its own hands.
struct Hand {
    sim: Sim,
    store: Store,
    sessions: Arc<Sessions>,
    _folder: TempDir,
}

impl Hand {
    async fn new() -> Self {
        let sim = Sim::start_with(SimConfig {
            max_devices: usize::MAX,
            ..SimConfig::default()
        })
        .await;
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(folder.path());
        let sessions = Sessions::start(
            store.clone(),
            Connector::new(Some(sim.url()), Versions::new(None)),
            Settings {
                code_ttl: Duration::from_mins(3),
                code_grace: Duration::from_secs(10),
                connect_timeout: Duration::from_secs(20),
                requests_per_number: 0,
                most: 4,
            },
            Arc::new(Metrics::new()),
        )
        .await
        .expect("started");
        Self {
            sim,
            store,
            sessions,
            _folder: folder,
        }
    }

    async fn ask(&self, number: &str) -> Result<PairingCode, RequestError> {
        let request = CodeRequest {
            phone: Phone::parse(number, Country::parse("RU").expect("RU has telephones"))
                .expect("a number"),
            replace: None,
            asker: Asker {
                by: By::Api,
                user_agent: None,
            },
        };
        let salon = self.sessions.get("salon").expect("the default slot");
        salon.request_code(request).await
    }

    async fn state(&self, wanted: State) {
        let salon = self.sessions.get("salon").expect("the default slot");
        let (view, mut events) = salon.subscribe();
        let reached = async {
            let mut state = view.status.state;
            while state != wanted {
                let _ = events.recv().await.expect("the session lives");
                state = salon.view().status.state;
            }
        };
        tokio::time::timeout(PATIENCE, reached)
            .await
            .unwrap_or_else(|_| panic!("never {wanted:?}, but {:?}", salon.view().status));
    }

    fn row(&self) -> Option<LinkRow> {
        self.store.link("salon").expect("readable")
    }

    /// Links the phone of the number, which is typed in some spelling.
    async fn link(&self, typed: &str) -> LinkRow {
        let code = self.ask(typed).await.expect("a code");
        let ru = Country::parse("RU").expect("RU has telephones");
        let number = Phone::parse(typed, ru).expect("a number");
        let phone = self.sim.phone(number.digits());
        phone.enter_code(code.code.reveal()).await.expect("linked");
        self.state(State::Connected).await;
        self.row().expect("a link")
    }

    async fn remove(&self) {
        let epoch = self.row().expect("something to remove").epoch;
        self.store
            .replace_link("salon", Some(epoch), None, Vec::new())
            .await
            .expect("removed");
    }

    async fn end(self) {
        self.sessions.stop().await;
        self.store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_removed_by_hand_while_a_code_is_open_link_nothing_and_asking_again_works() {
    let hand = Hand::new().await;
    let code = hand.ask(ANNA).await.expect("a code");
    hand.remove().await;
    // The phone takes the code, but there is nothing left that could become a link.
    let _ = hand.sim.phone(ANNA).enter_code(code.code.reveal()).await;
    let salon = hand.sessions.get("salon").expect("the default slot");
    let over = async {
        while matches!(
            salon.view().status.state,
            State::AwaitingCodeEntry | State::Linking
        ) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, over).await.expect("over");
    assert_ne!(salon.view().status.state, State::Connected);
    assert!(hand.row().is_none(), "nothing came back");
    let row = hand.link(ANNA).await;
    assert_eq!(row.line.reveal(), ANNA);
    hand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_removed_by_hand_asks_nobody_for_permission() {
    let hand = Hand::new().await;
    hand.link(ANNA).await;
    hand.remove().await;
    let row = hand.link(BORIS).await;
    assert_eq!(row.line.reveal(), BORIS);
    hand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_malformed_stored_number_counts_as_leftovers() {
    let hand = Hand::new().await;
    let mut epochs = HashSet::new();
    for spoiled in [
        "",
        "not a number",
        "12",
        "7900123456789012345",
        "7900+1234567",
    ] {
        let row = hand.link(ANNA).await;
        epochs.insert(row.epoch);
        hand.store
            .update_link(
                "salon",
                row.epoch,
                Box::new(|row| row.line = spoiled.into()),
                Vec::new(),
            )
            .await
            .expect("spoiled");
        let row = hand.link(BORIS).await;
        assert!(epochs.insert(row.epoch), "a new epoch");
        assert_eq!(row.line.reveal(), BORIS);
        hand.remove().await;
    }
    hand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_number_in_another_spelling_is_neither_a_mismatch_nor_a_lost_link() {
    let hand = Hand::new().await;
    let row = hand.link("89001234567").await;
    assert_eq!(row.line.reveal(), ANNA, "stored in normal form");
    for spelling in [
        "+7 900 123-45-67",
        "9001234567",
        "8 (900) 123-45-67",
        "0079001234567",
    ] {
        let refused = hand.ask(spelling).await.expect_err("linked already");
        assert_eq!(refused.code, Code::AlreadyLinked, "{spelling}");
    }
    let now = hand.row().expect("still linked");
    assert_eq!(
        (now.epoch, now.link_id, now.line),
        (row.epoch, row.link_id, row.line),
        "the link is untouched"
    );
    assert!(now.linked == row.linked && now.ended.is_none());
    hand.state(State::Connected).await;
    hand.end().await;
}
