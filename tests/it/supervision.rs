//! How a link is kept: every end of a connection has its state, its reason, its next step, and costs no credentials
//! without need; and whatever ended it heals by itself once the cause is gone.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hairpin::error::Code;
use hairpin::link::{Connector, Version, VersionSource, Versions};
use hairpin::metrics::Metrics;
use hairpin::phone::{Country, Phone};
use hairpin::session::{Asker, By, CodeRequest, Sessions, Settings, State};
use hairpin::store::{Folder, JournalEntry, JournalWhat};
use hairpin::words::Lang;
use hairpin_sim::{Fault, Kick, Sim, Step};
use serde_json::{Value, json};

use crate::endurance::Healing;
use crate::rig::{ANNA, BORIS, PATIENCE, Rig, SmallDisk, code_of, open};
use crate::store_lab::{self, Breaking, Plan};

/// Within this of its cause going away, whatever was wrong is well again.
pub const HEALED: Duration = Duration::from_secs(30);

impl Rig {
    /// A counter's or a gauge's value.
    pub async fn metric(&self, sample: &str) -> u64 {
        let answer = self.ask("GET", "/metrics", None).await;
        let text = String::from_utf8(answer.body).expect("text");
        text.lines()
            .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("{sample} is missing"))
            .parse()
            .expect("a number")
    }

    async fn reconnects(&self, reason: &str) -> u64 {
        self.metric(&format!("hairpin_reconnects_total{{reason=\"{reason}\"}}"))
            .await
    }

    async fn reconnect(&self, session: &str) {
        let answer = self
            .ask(
                "POST",
                &format!("/api/v1/sessions/{session}/reconnect"),
                Some(json!({})),
            )
            .await;
        assert_eq!(answer.status, 202);
    }

    /// The journal's entries of one kind, newest first.
    async fn entries(&self, what: &str) -> Vec<Value> {
        let mut all = self.audit().await;
        all.retain(|entry| entry["what"] == what);
        all
    }
}

/// Panics if a session ever had two connections at a time: a client is only begun once the one before is gone.
pub fn never_two_connections(sim: &Sim) {
    let mut open: HashSet<u64> = HashSet::new();
    let mut whose: HashMap<u64, String> = HashMap::new();
    let events = sim.events();
    for event in &events {
        if let Some(number) = &event.number {
            whose.insert(event.conn, number.clone());
        }
    }
    for event in &events {
        match event.step {
            Step::LoggedIn | Step::HelloAnswered => {
                let number = whose.get(&event.conn);
                let other = open
                    .iter()
                    .find(|conn| **conn != event.conn && whose.get(conn) == number);
                assert!(
                    other.is_none(),
                    "{event:?} while connection {other:?} is open: {events:#?}"
                );
                open.insert(event.conn);
            }
            Step::Closed => {
                open.remove(&event.conn);
            }
            _ => {}
        }
    }
}

fn stream_error(code: u16) -> Kick {
    Kick::StreamError { code }
}

fn failure(reason: u16) -> Fault {
    Fault::failure(reason).expire(3600)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_a_connection_only_is_followed_by_a_new_one() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    for (kick, reason) in [
        (stream_error(515), "restart"),
        (stream_error(503), "lost"),
        (stream_error(500), "lost"),
        (Kick::Cut, "lost"),
    ] {
        // Each end is told of in its own metric; whatever came before it counts as another try.
        let (before, mark) = (rig.metric_of_all_reconnects().await, rig.sim.mark());
        assert_eq!(rig.sim.kick(ANNA, &kick), 1, "{kick:?}");
        rig.sim
            .wait_for_after(mark, |event| event.is(Step::LoggedIn, ANNA))
            .await;
        let status = rig.state("salon", "CONNECTED").await;
        assert_eq!(
            (&status["reason"], &status["until"]),
            (&Value::Null, &Value::Null)
        );
        let after = rig.metric_of_all_reconnects().await;
        assert_eq!(
            after.iter().sum::<u64>(),
            before.iter().sum::<u64>() + 1,
            "{kick:?}"
        );
        if reason == "lost" {
            assert_eq!(after[1], before[1] + 1, "{kick:?}");
        }
    }
    assert_eq!(rig.reconnects("restart").await, 1);
    assert_eq!(
        rig.sim.phone(ANNA).devices().len(),
        1,
        "the credentials are kept"
    );
    assert!(rig.entries("logged_out").await.is_empty());
    never_two_connections(&rig.sim);
    rig.stop().await;
}

impl Rig {
    async fn metric_of_all_reconnects(&self) -> Vec<u64> {
        let mut all = Vec::new();
        for reason in ["restart", "lost", "too_fast", "asked"] {
            all.push(self.reconnects(reason).await);
        }
        all
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_at_whatsapp_is_waited_out() {
    for reason in [500, 503, 502] {
        let mut rig = Rig::new().await;
        rig.link("salon", ANNA).await;
        rig.sim.fault(failure(reason).standing());
        let mut mark = rig.sim.mark();
        rig.sim.kick(ANNA, &Kick::Cut);
        for _ in 0..2 {
            rig.sim
                .wait_for_after(mark, |event| event.is(Step::Login, ANNA))
                .await;
            mark = rig.sim.mark();
        }
        let status = rig.state("salon", "RECONNECTING").await;
        assert_eq!(status["reason"], Value::Null);
        assert_eq!(rig.ask("GET", "/readyz", None).await.status, 503);
        rig.sim.clear_faults();
        let well = Instant::now();
        rig.state("salon", "CONNECTED").await;
        assert!(well.elapsed() < HEALED, "{reason}: {:?}", well.elapsed());
        assert!(rig.reconnects("lost").await >= 2);
        never_two_connections(&rig.sim);
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_the_phone_removed_is_leftovers_from_then_on() {
    for (kick, fault, outcome) in [
        (Some(Kick::DeviceRemoved), None, "device_removed"),
        (Some(stream_error(401)), None, "device_removed"),
        (Some(stream_error(516)), None, "device_removed"),
        (None, Some(failure(401)), "login_refused"),
    ] {
        let mut rig = Rig::new().await;
        rig.link("salon", ANNA).await;
        if let Some(fault) = fault {
            rig.sim.fault(fault);
        }
        rig.sim.kick(ANNA, kick.as_ref().unwrap_or(&Kick::Cut));
        let status = rig.state("salon", "LOGGED_OUT").await;
        assert_eq!(status["reason"], "LOGGED_OUT", "{kick:?}");
        assert_eq!(status["phone"], "79001***567");
        assert!(status["lastConnected"].is_i64());
        let entries = rig.entries("logged_out").await;
        assert_eq!(entries.len(), 1, "{kick:?}");
        let entry = &entries[0];
        assert_eq!(entry["outcome"], outcome);
        assert_eq!(entry["oldPhone"], "79001***567");
        assert_eq!(entry["wasLinked"], true);
        assert!(entry["credentialAgeSeconds"].is_u64());
        assert!(entry["lastConnected"].is_i64());
        // Nothing tries them again, neither by itself nor by the button nor by a restart.
        let connections = rig.sim.total_connections();
        rig.reconnect("salon").await;
        rig.restart().await;
        assert_eq!(
            rig.state("salon", "LOGGED_OUT").await["reason"],
            "LOGGED_OUT"
        );
        assert_eq!(rig.sim.total_connections(), connections, "{kick:?}");
        // They make room for the same number without a question.
        let answer = rig.code("salon", ANNA, None).await;
        let code = code_of(&answer);
        assert_eq!(answer.json()["replaced"]["reason"], "stale_credentials");
        rig.sim.phone(ANNA).enter_code(&code).await.expect("linked");
        rig.state("salon", "CONNECTED").await;
        never_two_connections(&rig.sim);
        rig.stop().await;
    }
}

/// An end after which a link rests.
struct Halt {
    kick: Kick,
    fault: Option<Fault>,
    state: &'static str,
    reason: &'static str,
    /// Whether a start of the program is worth a try by itself.
    tries_anew: bool,
}

impl Halt {
    fn at_login(reason: u16, state: &'static str, code: &'static str) -> Self {
        Self {
            kick: Kick::Cut,
            fault: Some(failure(reason)),
            state,
            reason: code,
            tries_anew: matches!(state, "FAILED" | "OUTDATED"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_must_see_to_stops_a_link_keeps_its_credentials_and_waits_for_the_button() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    let replaced = |kick| Halt {
        kick,
        fault: None,
        state: "REPLACED",
        reason: "REPLACED",
        tries_anew: false,
    };
    let mut halts = vec![
        replaced(Kick::Replaced),
        replaced(stream_error(409)),
        Halt::at_login(402, "BANNED", "BANNED"),
        // Without a word about its end it is taken for an hour.
        Halt {
            fault: Some(Fault::failure(402)),
            ..Halt::at_login(402, "BANNED", "BANNED")
        },
        Halt::at_login(403, "LOCKED", "LOCKED"),
        Halt::at_login(406, "LOCKED", "LOCKED"),
        Halt::at_login(405, "OUTDATED", "CLIENT_OUTDATED"),
    ];
    for reason in [400, 409, 413, 414, 415, 418, 501] {
        halts.push(Halt::at_login(reason, "FAILED", "WHATSAPP_REJECTED"));
    }
    for halt in halts {
        let name = format!("{:?} {:?}", halt.kick, halt.fault);
        let mut page = rig.page("salon").await;
        page.next_of("session-status").await;
        if let Some(fault) = halt.fault.clone() {
            rig.sim.fault(fault);
        }
        rig.sim.kick(ANNA, &halt.kick);
        let status = rig.state("salon", halt.state).await;
        assert_eq!(status["reason"], halt.reason, "{name}");
        assert_eq!(status["phone"], "79001***567", "{name}");
        let banned = halt.state == "BANNED";
        let left = status["until"]
            .as_i64()
            .map(|until| until - hairpin::clock::wall());
        assert_eq!(left.is_some(), banned, "{name}");
        assert!(
            left.is_none_or(|left| (3_500_000..=3_600_000).contains(&left)),
            "{name}: {left:?}"
        );
        loop {
            let frame = page.next_of("session-status").await;
            if frame["data"]["state"] == halt.state {
                assert_eq!(frame["data"]["reason"], halt.reason);
                break;
            }
        }
        assert_eq!(
            rig.metric(&format!(
                "hairpin_link_state{{session=\"salon\",state=\"{}\"}}",
                halt.state
            ))
            .await,
            1
        );
        // It does not fight back, and its credentials stay: another number must name them.
        let connections = rig.sim.total_connections();
        assert_eq!(
            rig.code("salon", ANNA, None).await.json()["code"],
            "ALREADY_LINKED"
        );
        assert_eq!(
            rig.code("salon", BORIS, None).await.json()["code"],
            "REPLACE_CONFIRMATION_REQUIRED",
            "{name}"
        );
        assert_eq!(rig.sim.open_connections(), 0, "{name}");
        rig.restart().await;
        if halt.tries_anew {
            rig.state("salon", "CONNECTED").await;
        } else {
            let after = rig.state("salon", halt.state).await;
            assert_eq!(
                (&after["reason"], &after["until"]),
                (&status["reason"], &status["until"])
            );
            assert_eq!(rig.sim.total_connections(), connections, "{name}");
            let asked = rig.reconnects("asked").await;
            rig.reconnect("salon").await;
            let back = rig.state("salon", "CONNECTED").await;
            assert_eq!(
                (&back["reason"], &back["until"]),
                (&Value::Null, &Value::Null)
            );
            assert_eq!(rig.reconnects("asked").await, asked + 1, "{name}");
        }
        assert_eq!(rig.sim.phone(ANNA).devices().len(), 1, "{name}");
    }
    assert!(rig.entries("logged_out").await.is_empty());
    never_two_connections(&rig.sim);
    let row = rig.stored("salon").await.expect("kept");
    assert!(row.linked.is_some() && row.ended.is_none() && row.halted.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn too_fast_is_answered_with_patience_but_for_the_button() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    for fault in [None, Some(failure(429))] {
        let kick = if fault.is_none() {
            stream_error(429)
        } else {
            Kick::Cut
        };
        if let Some(fault) = fault {
            rig.sim.fault(fault);
        }
        rig.sim.kick(ANNA, &kick);
        let wait = async {
            loop {
                let status = rig.state("salon", "RECONNECTING").await;
                let left = status["until"]
                    .as_i64()
                    .map_or(0, |until| until - hairpin::clock::wall());
                if left > 25_000 {
                    return left;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let left = tokio::time::timeout(HEALED, wait)
            .await
            .expect("a long wait");
        assert!(left <= 120_000, "{left}");
        let connections = rig.sim.total_connections();
        assert_eq!(rig.sim.open_connections(), 0);
        rig.reconnect("salon").await;
        rig.state("salon", "CONNECTED").await;
        assert_eq!(rig.sim.total_connections(), connections + 1);
    }
    assert_eq!(rig.reconnects("asked").await, 2);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passkey_demand_does_not_end_a_link_that_stands() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    let mark = rig.sim.mark();
    rig.sim.kick(ANNA, &Kick::Passkey);
    rig.sim
        .wait_for_after(mark, |event| event.step == Step::Acked)
        .await;
    assert_eq!(rig.status("salon").await["state"], "CONNECTED");
    assert_eq!(rig.sim.open_connections(), 1);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passkey_demand_ends_a_request_wherever_it_stands() {
    let mut rig = Rig::new().await;
    let mut page = rig.page("salon").await;
    let ends = async |rig: &Rig| {
        let status = rig.state("salon", "PASSKEY_REQUIRED").await;
        assert_eq!(status["reason"], "PASSKEY_REQUIRED");
        assert_eq!(rig.ask("GET", "/readyz", None).await.status, 503);
        // Back to the number, where another account may have no passkey.
        rig.reconnect("salon").await;
        rig.state("salon", "UNLINKED").await;
    };

    // Before there is a code: whoever waits for one is told.
    rig.sim.fault(Fault::silence(Step::Hello));
    let mark = rig.sim.mark();
    let (answer, ()) = tokio::join!(rig.code("salon", ANNA, None), async {
        rig.sim
            .wait_for_after(mark, |event| event.step == Step::Hello)
            .await;
        assert_eq!(rig.sim.kick(ANNA, &Kick::Passkey), 1);
    });
    assert_eq!(
        (answer.status, answer.json()["code"].as_str()),
        (409, Some("PASSKEY_REQUIRED"))
    );
    ends(&rig).await;

    // While there is only the QR: nobody waits, the pages are told.
    rig.sim.fault(Fault::refuse_hello(452));
    let answer = rig.code("salon", ANNA, None).await;
    assert_eq!(answer.json()["code"], "CODE_NOT_AVAILABLE");
    rig.state("salon", "AWAITING_SCAN").await;
    while page.next_of("qr").await["data"]["value"].is_null() {}
    assert_eq!(rig.sim.kick(ANNA, &Kick::Passkey), 1);
    rig.state("salon", "PASSKEY_REQUIRED").await;
    assert_eq!(
        page.next_of("pairing-code-error").await["data"]["code"],
        "PASSKEY_REQUIRED"
    );
    ends(&rig).await;

    // While the phone links: it has the code, and gets no further.
    let code = code_of(&rig.code("salon", ANNA, None).await);
    rig.sim.fault(Fault::silence(Step::Finish));
    let phone = rig.sim.phone(ANNA);
    phone.send_primary_hello_only(&code).await.expect("sent");
    rig.state("salon", "LINKING").await;
    assert_eq!(rig.sim.kick(ANNA, &Kick::Passkey), 1);
    rig.state("salon", "PASSKEY_REQUIRED").await;
    assert_eq!(
        page.next_of("pairing-code-ended").await["data"]["reason"],
        "failed"
    );
    assert_eq!(
        page.next_of("pairing-code-error").await["data"]["code"],
        "PASSKEY_REQUIRED"
    );
    ends(&rig).await;
    assert!(rig.sim.phone(ANNA).devices().is_empty());

    rig.sim.clear_faults();
    rig.link("salon", ANNA).await;
    never_two_connections(&rig.sim);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_hears_of_a_code_finds_it_in_the_journal() {
    let mut rig = Rig::new().await;
    let mut page = rig.page("salon").await;
    page.next_of("session-status").await;
    for round in 0..20 {
        let (answer, ()) = tokio::join!(rig.code("salon", ANNA, None), async {
            while page.next_of("session-status").await["data"]["state"] != "AWAITING_CODE_ENTRY" {}
            assert_eq!(rig.audit().await[0]["what"], "code_shown", "round {round}");
        });
        code_of(&answer);
        let cancel = rig.ask("DELETE", "/api/v1/sessions/salon/pairing-code", None);
        let (cancelled, ()) = tokio::join!(cancel, async {
            while page.next_of("session-status").await["data"]["state"] != "UNLINKED" {}
            assert_eq!(rig.audit().await[0]["what"], "code_ended", "round {round}");
        });
        assert_eq!(cancelled.status, 204);
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_whatsapp_refuses_is_told_by_its_name() {
    let mut rig = Rig::new().await;
    for (reason, http, code, state) in [
        (400, 502, "WHATSAPP_REJECTED", "UNLINKED"),
        (401, 502, "WHATSAPP_REJECTED", "UNLINKED"),
        (402, 409, "BANNED", "BANNED"),
        (403, 409, "LOCKED", "LOCKED"),
        (405, 502, "CLIENT_OUTDATED", "OUTDATED"),
        (406, 409, "LOCKED", "LOCKED"),
        (409, 502, "WHATSAPP_REJECTED", "UNLINKED"),
        (413, 502, "WHATSAPP_REJECTED", "UNLINKED"),
        (418, 502, "WHATSAPP_REJECTED", "UNLINKED"),
        (429, 429, "WHATSAPP_RATE_LIMITED", "UNLINKED"),
        (500, 503, "WHATSAPP_UNREACHABLE", "UNLINKED"),
        (501, 502, "WHATSAPP_REJECTED", "UNLINKED"),
        (503, 503, "WHATSAPP_UNREACHABLE", "UNLINKED"),
    ] {
        rig.sim.fault(failure(reason).at(Step::Register));
        let answer = rig.code("salon", ANNA, None).await;
        let problem = answer.json();
        assert_eq!(
            (answer.status, problem["code"].as_str()),
            (http, Some(code)),
            "{reason}"
        );
        match code {
            "BANNED" => assert_eq!(problem["retryAfter"], 3600),
            "WHATSAPP_RATE_LIMITED" => assert_eq!(problem["retryAfter"], 60),
            _ => assert_eq!(problem["retryAfter"], Value::Null, "{reason}"),
        }
        let status = rig.state("salon", state).await;
        assert_eq!(status["reason"], code, "{reason}");
        assert_eq!(status["until"].is_i64(), state == "BANNED", "{reason}");
        // What was refused before anything was linked is not remembered beyond a restart.
        if state != "UNLINKED" {
            rig.restart().await;
            assert_eq!(rig.state("salon", "UNLINKED").await["reason"], Value::Null);
        }
    }
    rig.link("salon", ANNA).await;
    never_two_connections(&rig.sim);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_whose_stream_ends_is_told_why() {
    let mut rig = Rig::new().await;
    for (kick, http, code) in [
        (stream_error(500), 503, "WHATSAPP_UNREACHABLE"),
        (stream_error(503), 503, "WHATSAPP_UNREACHABLE"),
        (stream_error(429), 429, "WHATSAPP_RATE_LIMITED"),
        (stream_error(401), 502, "WHATSAPP_REJECTED"),
        (stream_error(516), 502, "WHATSAPP_REJECTED"),
        (Kick::DeviceRemoved, 502, "WHATSAPP_REJECTED"),
        (stream_error(409), 502, "WHATSAPP_REJECTED"),
        (Kick::Replaced, 502, "WHATSAPP_REJECTED"),
    ] {
        for at in [Step::PairDevice, Step::Hello] {
            let connections = rig.sim.total_connections();
            rig.sim.fault(Fault::kick(at, kick.clone()));
            let answer = rig.code("salon", ANNA, None).await;
            assert_eq!(
                (answer.status, answer.json()["code"].as_str()),
                (http, Some(code)),
                "{kick:?} at {at:?}"
            );
            assert_eq!(rig.state("salon", "UNLINKED").await["reason"], code);
            assert_eq!(rig.sim.total_connections(), connections + 1, "{kick:?}");
        }
    }
    rig.link("salon", ANNA).await;
    never_two_connections(&rig.sim);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_on_a_connection_that_fell_silent_is_over_within_half_a_minute() {
    let mut rig = Rig::new().await;
    code_of(&rig.code("salon", ANNA, None).await);
    let silent = Instant::now();
    fall_silent(&rig.sim).await;
    let status = rig.state("salon", "UNLINKED").await;
    assert!(silent.elapsed() < HEALED, "{:?}", silent.elapsed());
    assert_eq!(status["reason"], "WHATSAPP_UNREACHABLE");
    assert_eq!(rig.entries("code_ended").await[0]["outcome"], "failed");
    rig.link("salon", ANNA).await;
    never_two_connections(&rig.sim);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_whose_connection_ends_is_told_so_and_why() {
    let mut rig = Rig::new().await;
    let failed = |reason| Kick::Failure {
        reason,
        expire: None,
    };
    for (kick, code, state) in [
        (stream_error(515), "WHATSAPP_UNREACHABLE", "UNLINKED"),
        (stream_error(503), "WHATSAPP_UNREACHABLE", "UNLINKED"),
        (stream_error(500), "WHATSAPP_UNREACHABLE", "UNLINKED"),
        (failed(503), "WHATSAPP_UNREACHABLE", "UNLINKED"),
        (failed(500), "WHATSAPP_UNREACHABLE", "UNLINKED"),
        (Kick::Cut, "WHATSAPP_UNREACHABLE", "UNLINKED"),
        (stream_error(429), "WHATSAPP_RATE_LIMITED", "UNLINKED"),
        (failed(429), "WHATSAPP_RATE_LIMITED", "UNLINKED"),
        (stream_error(401), "WHATSAPP_REJECTED", "UNLINKED"),
        (stream_error(516), "WHATSAPP_REJECTED", "UNLINKED"),
        (Kick::DeviceRemoved, "WHATSAPP_REJECTED", "UNLINKED"),
        (failed(401), "WHATSAPP_REJECTED", "UNLINKED"),
        (Kick::Replaced, "WHATSAPP_REJECTED", "UNLINKED"),
        (stream_error(409), "WHATSAPP_REJECTED", "UNLINKED"),
        (failed(403), "LOCKED", "LOCKED"),
        (failed(406), "LOCKED", "LOCKED"),
        (
            Kick::Failure {
                reason: 402,
                expire: Some(60),
            },
            "BANNED",
            "BANNED",
        ),
        (failed(402), "BANNED", "BANNED"),
        (failed(405), "CLIENT_OUTDATED", "OUTDATED"),
        (Kick::Passkey, "PASSKEY_REQUIRED", "PASSKEY_REQUIRED"),
    ] {
        let mut page = rig.page("salon").await;
        let connections = rig.sim.total_connections();
        let shown = code_of(&rig.code("salon", ANNA, None).await);
        page.next_of("pairing-code").await;
        rig.sim.kick(ANNA, &kick);
        assert_eq!(
            page.next_of("pairing-code-ended").await["data"]["reason"],
            "failed",
            "{kick:?}"
        );
        assert_eq!(
            page.next_of("pairing-code-error").await["data"]["code"],
            code,
            "{kick:?}"
        );
        assert_eq!(rig.state("salon", state).await["reason"], code, "{kick:?}");
        assert!(
            rig.sim.phone(ANNA).enter_code(&shown).await.is_err(),
            "{kick:?}"
        );
        let ended = &rig.entries("code_ended").await[0];
        assert_eq!(ended["outcome"], "failed", "{kick:?}");
        assert_eq!(ended["phone"], "79001***567", "{kick:?}");
        assert_eq!(ended["by"], "api", "{kick:?}");
        assert!(ended["durationMs"].is_u64(), "{kick:?}");
        // A registration is no link: whoever wants another code asks for it.
        assert_eq!(rig.sim.total_connections(), connections + 1, "{kick:?}");
    }
    rig.link("salon", ANNA).await;
    never_two_connections(&rig.sim);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_connection_that_is_asked_to_restart_does_so_once() {
    let mut rig = Rig::new().await;
    rig.sim.fault(Fault::stream_error(Step::PairDevice, 515));
    rig.link("salon", ANNA).await;
    rig.stop().await;
    let mut rig = Rig::new().await;
    rig.sim
        .fault(Fault::stream_error(Step::PairDevice, 515).standing());
    let answer = rig.code("salon", ANNA, None).await;
    assert_eq!(answer.json()["code"], "WHATSAPP_UNREACHABLE");
    assert_eq!(rig.sim.total_connections(), 2, "and not for ever");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_heals_within_half_a_minute_of_its_end() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    rig.sim.stop().await;
    rig.state("salon", "RECONNECTING").await;
    // Long enough for the waits to have grown.
    let grown = async {
        loop {
            let status = rig.status("salon").await;
            assert_eq!(status["state"], "RECONNECTING");
            let left = status["until"]
                .as_i64()
                .map_or(0, |until| until - hairpin::clock::wall());
            assert!(left <= 20_000, "{left}");
            if left > 4_000 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), grown)
        .await
        .expect("longer and longer");
    rig.sim.resume().await;
    let well = Instant::now();
    rig.state("salon", "CONNECTED").await;
    assert!(well.elapsed() < HEALED, "{:?}", well.elapsed());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_fell_silent_is_noticed_within_half_a_minute() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    let (mark, silent) = (rig.sim.mark(), Instant::now());
    assert_eq!(rig.sim.kick(ANNA, &Kick::FallSilent), 1);
    rig.sim
        .wait_for_after(mark, |event| event.is(Step::LoggedIn, ANNA))
        .await;
    rig.state("salon", "CONNECTED").await;
    assert!(silent.elapsed() < HEALED, "{:?}", silent.elapsed());
    assert_eq!(rig.reconnects("lost").await, 1);
    never_two_connections(&rig.sim);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_never_answered_is_given_up_within_half_a_minute() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    // Or nothing at all is said on the new connection.
    for step in [Step::Login, Step::Open] {
        rig.sim.fault(Fault::silence(step));
        let (mark, silent) = (rig.sim.mark(), Instant::now());
        rig.sim.kick(ANNA, &Kick::Cut);
        rig.sim
            .wait_for_after(mark, |event| event.is(Step::LoggedIn, ANNA))
            .await;
        assert!(
            silent.elapsed() < HEALED,
            "{step:?}: {:?}",
            silent.elapsed()
        );
        rig.state("salon", "CONNECTED").await;
    }
    never_two_connections(&rig.sim);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_link_is_asked_for_a_sign_of_life_and_left_in_peace() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    let connections = rig.sim.total_connections();
    let mut mark = rig.sim.mark();
    for _ in 0..2 {
        mark = rig
            .sim
            .wait_for_after(mark, |event| event.is(Step::Ping, ANNA))
            .await
            .seq;
    }
    assert_eq!(rig.sim.total_connections(), connections);
    assert_eq!(rig.status("salon").await["state"], "CONNECTED");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_unanswered_sign_of_life_among_others_ends_nothing() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    let connections = rig.sim.total_connections();
    let device = rig.sim.phone(ANNA).devices()[0].id;
    rig.sim.fault(Fault::silence(Step::Ping));
    let mark = rig.sim.mark();
    let lost = rig
        .sim
        .wait_for_after(mark, |event| event.is(Step::Ping, ANNA))
        .await;
    // A message is a sign of life as well.
    rig.sim
        .phone(ANNA)
        .send_text(device, "still here")
        .await
        .expect("sent");
    rig.sim
        .wait_for_after(lost.seq, |event| event.is(Step::Ping, ANNA))
        .await;
    assert_eq!(rig.sim.total_connections(), connections);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unlinking_without_a_network_wipes_in_time_and_says_that_the_phone_still_lists_the_device()
{
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    rig.sim.stop().await;
    rig.state("salon", "RECONNECTING").await;
    let mut page = rig.page("salon").await;
    let began = Instant::now();
    let answer = rig.ask("DELETE", "/api/v1/sessions/salon/link", None).await;
    assert_eq!(answer.status, 204);
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    let status = rig.status("salon").await;
    assert_eq!(
        (status["state"].as_str(), status["reason"].as_str()),
        (Some("UNLINKED"), Some("HALF_LINKED"))
    );
    loop {
        let frame = page.next_of("session-status").await;
        if frame["data"]["state"] == "UNLINKED" {
            assert_eq!(frame["data"]["reason"], "HALF_LINKED");
            break;
        }
    }
    let entry = &rig.entries("unlinked").await[0];
    assert_eq!(entry["outcome"], "phone_still_lists_it");
    assert_eq!(entry["by"], "api");
    rig.sim.resume().await;
    assert_eq!(rig.sim.phone(ANNA).devices().len(), 1, "as was said");
    assert!(rig.stored("salon").await.is_none());
}

/// WhatsApp answers nothing any more on the link's connection.
pub async fn fall_silent(sim: &Sim) {
    let mark = sim.mark();
    assert_eq!(sim.kick(ANNA, &Kick::FallSilent), 1);
    sim.wait_for_after(mark, |event| event.step == Step::Trouble)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unlinking_over_a_socket_that_fell_silent_is_bounded_too() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    fall_silent(&rig.sim).await;
    let began = Instant::now();
    let answer = rig.ask("DELETE", "/api/v1/sessions/salon/link", None).await;
    assert_eq!(answer.status, 204);
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(rig.status("salon").await["reason"], "HALF_LINKED");
    assert!(rig.stored("salon").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_named_the_link_has_confirmed_also_when_it_ended_by_itself_meanwhile() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    let link_id = rig.code("salon", BORIS, None).await.json()["linkId"]
        .as_str()
        .expect("an id")
        .to_owned();
    // WhatsApp is asked whether it answers; while it thinks, the phone throws the device out.
    rig.sim
        .fault(Fault::delay(Step::Register, Duration::from_secs(2)));
    let mark = rig.sim.mark();
    let (answer, ()) = tokio::join!(rig.code("salon", BORIS, Some(&link_id)), async {
        rig.sim
            .wait_for_after(mark, |event| event.step == Step::Register)
            .await;
        let device = rig.sim.phone(ANNA).devices()[0].id;
        rig.sim.phone(ANNA).remove_device(device).await;
    });
    code_of(&answer);
    let wiped = &rig.entries("mismatch_wiped").await[0];
    assert_eq!(wiped["confirmed"], true);
    assert_eq!(wiped["outcome"], Value::Null, "nobody was left to tell");
    assert_eq!(wiped["wasLinked"], true);
    assert_eq!(wiped["by"], "api");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mismatch_entry_answers_whether_it_was_expected() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    let device = rig.sim.phone(ANNA).devices()[0].id;
    rig.sim.phone(ANNA).remove_device(device).await;
    rig.state("salon", "LOGGED_OUT").await;
    let mut page = rig.page("salon").await;
    page.send(json!({ "event": "request-pairing-code", "data": { "phoneNumber": BORIS } }))
        .await;
    page.next_of("pairing-code").await;
    let wiped = &rig.entries("mismatch_wiped").await[0];
    assert_eq!(wiped["phone"], "79007***321");
    assert_eq!(wiped["oldPhone"], "79001***567");
    assert_eq!(wiped["confirmed"], false, "nobody was asked: it was dead");
    assert_eq!(wiped["wasLinked"], true);
    assert_eq!(wiped["by"], "page");
    assert!(wiped["credentialAgeSeconds"].is_u64() && wiped["lastConnected"].is_i64());
    let shown = &rig.entries("code_shown").await[0];
    assert_eq!(
        (shown["phone"].as_str(), shown["by"].as_str()),
        (Some("79007***321"), Some("page"))
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_is_given_up_leaves_no_connection_behind() {
    let mut rig = Rig::with(&[("whatsapp.connect_timeout", "1")]).await;
    rig.link("salon", ANNA).await;
    let link_id = rig.code("salon", BORIS, None).await.json()["linkId"]
        .as_str()
        .expect("an id")
        .to_owned();
    rig.sim
        .fault(Fault::delay(Step::Register, Duration::from_secs(30)));
    let answer = rig.code("salon", BORIS, Some(&link_id)).await;
    assert_eq!(answer.json()["code"], "WHATSAPP_UNREACHABLE");
    rig.sim.clear_faults();
    // The one that waited is dropped as soon as nobody waits for it; the simulator notices when it looks.
    let gone = async {
        while rig.sockets() > 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone)
        .await
        .expect("dropped");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_in_the_middle_of_a_request_leaves_nothing_running() {
    let mut rig = Rig::new().await;
    rig.sim
        .fault(Fault::delay(Step::Open, Duration::from_secs(20)));
    let waiting = rig.code_later("salon", ANNA);
    rig.sim.wait_for(|event| event.step == Step::Open).await;
    let began = Instant::now();
    rig.stop().await;
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    let answer = waiting.await.expect("a task");
    assert_eq!(answer, Some("SHUTTING_DOWN".to_owned()));
    assert_eq!(rig.sockets(), 0, "no client outlives the stop");
    rig.sim.clear_faults();
    rig.start().await;
    rig.link("salon", ANNA).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_page_asks_for_in_one_breath_is_done_in_that_order() {
    let mut rig = Rig::new().await;
    for round in 0..20 {
        let mut page = rig.page("salon").await;
        page.next_of("session-status").await;
        for (event, data) in [
            ("request-pairing-code", json!({ "phoneNumber": ANNA })),
            ("cancel-pairing", json!({})),
            ("request-pairing-code", json!({ "phoneNumber": BORIS })),
            ("unlink", json!({})),
        ] {
            page.send(json!({ "event": event, "data": data, "id": format!("{round} {event}") }))
                .await;
        }
        for _ in 0..2 {
            let refused = page.next_of("pairing-code-error").await;
            assert_eq!(refused["data"]["code"], "CANCELLED", "round {round}");
        }
        // Answered once all of it is done.
        loop {
            let status = page.next_of("session-status").await;
            if status["id"] == format!("{round} unlink") {
                assert_eq!(status["data"]["state"], "UNLINKED", "round {round}");
                break;
            }
        }
    }
    assert!(rig.stored("salon").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_goes_on_when_whoever_wanted_it_has_gone() {
    let mut rig = Rig::new().await;
    rig.put_session("guest").await;
    rig.link("guest", ANNA).await;
    // WhatsApp is slow to hear of it, and the one who asked hangs up.
    fall_silent(&rig.sim).await;
    let request = format!(
        "DELETE /api/v1/sessions/guest HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\r\n",
        rig.address, rig.key
    );
    let mut asking = tokio::net::TcpStream::connect(rig.address)
        .await
        .expect("connected");
    tokio::io::AsyncWriteExt::write_all(&mut asking, request.as_bytes())
        .await
        .expect("sent");
    tokio::time::timeout(Duration::from_millis(500), asking.readable())
        .await
        .expect_err("no answer yet");
    drop(asking);
    let gone = async {
        while rig.ask("GET", "/api/v1/sessions/guest", None).await.status != 404 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(HEALED, gone).await.expect("removed");
    assert_eq!(rig.put_session("guest").await, 201);
    let asked = rig.code("guest", ANNA, None).await;
    code_of(&asked);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_add_the_last_place_at_once_do_not_both_get_it() {
    let count = |all: &[u16], wanted| all.iter().filter(|status| **status == wanted).count();
    let mut rig = Rig::with(&[("sessions.max", "3")]).await;
    let put = |id: usize| {
        let rig = &rig;
        async move { rig.put_session(&format!("s{id}")).await }
    };
    let all = futures_util::future::join_all((0..10).map(put)).await;
    assert_eq!(count(&all, 201), 2, "{all:?}");
    assert_eq!(count(&all, 429), 8, "{all:?}");
    rig.stop().await;
    let mut rig = Rig::new().await;
    let all = futures_util::future::join_all((0..10).map(|_| rig.put_session("same"))).await;
    assert_eq!(count(&all, 201), 1, "{all:?}");
    assert_eq!(count(&all, 200), 9, "{all:?}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_removed_while_somebody_asks_is_gone_with_whatever_was_asked() {
    let mut rig = Rig::new().await;
    for round in 0..5 {
        assert_eq!(rig.put_session("guest").await, 201, "round {round}");
        let asks = (0..8).map(|_| rig.code("guest", ANNA, None));
        let (removed, answers) = tokio::join!(
            rig.ask("DELETE", "/api/v1/sessions/guest", None),
            futures_util::future::join_all(asks)
        );
        for answer in answers {
            let problem = answer.json();
            assert!(
                answer.status == 200
                    || ["NO_SUCH_SESSION", "CANCELLED"]
                        .contains(&problem["code"].as_str().expect("a code")),
                "round {round}: {problem}"
            );
        }
        assert_eq!(removed.status, 204, "round {round}");
        assert_eq!(
            rig.ask("GET", "/api/v1/sessions/guest", None).await.status,
            404
        );
        let gone = async {
            while rig.sim.open_connections() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), gone)
            .await
            .expect("no client is left");
        let text = String::from_utf8(rig.ask("GET", "/metrics", None).await.body).expect("text");
        assert!(!text.contains("session=\"guest\""), "round {round}");
    }
    rig.in_store(async |store| {
        assert!(store.link("guest").expect("read").is_none());
        assert!(
            store
                .sessions()
                .expect("read")
                .iter()
                .all(|row| row.id != "guest")
        );
    })
    .await;
}

impl Rig {
    /// How many sockets to the simulator this process holds, established or not yet.
    fn sockets(&self) -> usize {
        self.sockets_in(&["01", "02"])
    }

    fn sockets_in(&self, states: &[&str]) -> usize {
        let port = format!(":{:04X}", self.sim.addr().port());
        let table = std::fs::read_to_string("/proc/net/tcp").expect("a table");
        table
            .lines()
            .skip(1)
            .filter(|line| {
                let mut fields = line.split_whitespace().skip(2);
                let (remote, state) = (fields.next().unwrap_or(""), fields.next().unwrap_or(""));
                // Ours is the end whose other end is the port; 01 is established, 02 on its way.
                remote.ends_with(&port) && states.contains(&state)
            })
            .count()
    }

    /// Waits until one asks for a connection and hears nothing.
    async fn until_one_asks(&self) {
        let wait = async {
            while self.sockets_in(&["02"]) == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(HEALED, wait)
            .await
            .expect("one that asks");
    }

    fn code_later(&self, session: &str, number: &str) -> tokio::task::JoinHandle<Option<String>> {
        let (address, key) = (self.address, self.key.clone());
        let (session, number) = (session.to_owned(), number.to_owned());
        tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            let body = json!({ "phoneNumber": number, "country": "RU" }).to_string();
            let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
            let request = format!(
                "POST /api/v1/sessions/{session}/pairing-code HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(request.as_bytes()).await.ok()?;
            let answer = crate::web_support::read_answer(&mut stream).await;
            Some(answer.json()["code"].as_str()?.to_owned())
        })
    }
}

#[test]
fn every_state_has_words_and_a_next_step_in_both_languages() {
    // What needs no advice: it is well, or somebody is at it.
    let calm = [
        State::Unlinked,
        State::Connecting,
        State::AwaitingCodeEntry,
        State::Linking,
        State::Connected,
    ];
    for (language, words) in [
        ("ru", include_str!("../../static/i18n/ru.json")),
        ("en", include_str!("../../static/i18n/en.json")),
    ] {
        let words: Value = serde_json::from_str(words).expect("JSON");
        let russian = |text: &str| text.chars().any(|sign| ('а'..='я').contains(&sign));
        for state in State::ALL {
            let name = state.as_str();
            if calm.contains(&state) {
                let word = words[format!("s.{name}")].as_str().expect("a word");
                assert_eq!(russian(word), language == "ru", "{name}: {word}");
                continue;
            }
            let parts = words[format!("x.{name}")].as_array().expect("words");
            assert!(
                parts.len() >= 3,
                "what it is, what it means, what to do: {name}"
            );
            for part in parts {
                let text = part.as_str().expect("text");
                assert!(text.len() > 3, "{name}");
                assert_eq!(russian(text), language == "ru", "{name}: {text}");
            }
        }
    }
    for code in [
        Code::LoggedOut,
        Code::Replaced,
        Code::Banned,
        Code::Locked,
        Code::PasskeyRequired,
        Code::ClientOutdated,
        Code::CodeNotAvailable,
        Code::HalfLinked,
        Code::StoreUnavailable,
        Code::WhatsappRejected,
        Code::WhatsappRateLimited,
        Code::WhatsappUnreachable,
        Code::WrongPhoneLinked,
    ] {
        for lang in [Lang::Ru, Lang::En] {
            let text = hairpin::words::message(code, None, lang);
            assert!(
                text.split(". ").count() >= 2 || text.contains(','),
                "what it is and what to do: {text}"
            );
        }
    }
}

/// Tells a version that a test decides, and counts who asked.
struct Told(Mutex<(Option<Version>, u32)>);

#[async_trait]
impl VersionSource for Told {
    async fn latest(&self) -> Option<Version> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.1 += 1;
        told.0
    }
}

impl Told {
    fn asked(&self) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    fn tell(&self, version: Version) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 = Some(version);
    }
}

const FAR: Version = (2, 9000, 1);
const FARTHER: Version = (2, 9000, 2);

#[tokio::test(flavor = "multi_thread")]
async fn a_client_too_old_asks_once_for_a_newer_version_and_goes_on_with_it() {
    let sim = Sim::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let told = Arc::new(Told(Mutex::new((None, 0))));
    let source: Arc<dyn VersionSource> = told.clone();
    let versions = Versions::with_source(None, Some(source));
    let sessions = Sessions::start(
        store.clone(),
        Connector::new(Some(sim.url()), Arc::clone(&versions)),
        Settings {
            code_ttl: Duration::from_mins(3),
            code_grace: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(20),
            requests_per_number: 0,
            most: 1,
        },
        Arc::new(Metrics::new()),
    )
    .await
    .expect("started");
    let salon = sessions.get("salon").expect("the default slot");
    let ask = || {
        salon.request_code(CodeRequest {
            phone: Phone::parse(ANNA, Country::parse("RU").expect("RU")).expect("a number"),
            replace: None,
            asker: Asker {
                by: By::Api,
                user_agent: None,
            },
        })
    };
    let reached = async |wanted: State| {
        let wait = async {
            while salon.view().status.state != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("never {wanted:?} but {:?}", salon.view().status));
    };

    // Nothing newer is told: outdated.
    sim.fault(failure(405).at(Step::Register));
    assert_eq!(ask().await.expect_err("too old").code, Code::ClientOutdated);
    assert_eq!(told.asked(), 1);
    reached(State::Outdated).await;

    // A newer one is told: the request goes on, and whoever asked never knows.
    told.tell(FAR);
    sim.fault(failure(405).at(Step::Register));
    let code = ask().await.expect("a code");
    assert_eq!((told.asked(), versions.current()), (2, FAR));
    sim.phone(ANNA)
        .enter_code(code.code.reveal())
        .await
        .expect("linked");
    reached(State::Connected).await;

    // A link that is too old, with nothing newer to be had: told so, with its credentials.
    sim.fault(failure(405));
    sim.kick(ANNA, &Kick::Cut);
    reached(State::Outdated).await;
    assert_eq!(salon.view().status.reason, Some(Code::ClientOutdated));
    assert_eq!(told.asked(), 3);
    let row = store.link("salon").expect("read").expect("kept");
    assert!(row.linked.is_some() && row.halted.is_some());

    // When one turns up by itself (it is looked for every day), the link goes on by itself.
    told.tell(FARTHER);
    versions.refresh().await.expect("newer");
    reached(State::Connected).await;
    sessions.stop().await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_server_of_ones_own_nobody_is_asked_for_a_version() {
    let versions = Versions::new(None);
    assert_eq!(versions.refresh().await, None);
    let older = Versions::new(Some((1, 0, 0)));
    assert_eq!(older.current(), versions.current(), "never back");
    let newer = Versions::new(Some(FAR));
    assert_eq!(newer.current(), FAR);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_is_bounded_by_count_and_by_age() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let day = 86_400_000;
    let now = 500 * day;
    let entries = |from: i64, count: i64| {
        (0..count)
            .map(|n| JournalEntry::new(from + n, "salon", JournalWhat::Requested))
            .collect::<Vec<_>>()
    };
    store
        .append_journal(entries(now - 401 * day, 50))
        .await
        .expect("appended");
    store
        .append_journal(entries(now - 399 * day, 50))
        .await
        .expect("appended");
    assert_eq!(store.journal(None, 20_000).expect("read").len(), 100);
    store
        .append_journal(entries(now, 1))
        .await
        .expect("appended");
    let kept = store.journal(None, 20_000).expect("read");
    assert_eq!(kept.len(), 51, "what is older than 400 days is gone");
    assert!(kept.iter().all(|entry| entry.time >= now - 400 * day));
    for part in 0..11 {
        store
            .append_journal(entries(now + part * 1000, 1000))
            .await
            .expect("appended");
    }
    let kept = store.journal(None, 20_000).expect("read");
    assert_eq!(kept.len(), 10_000);
    assert_eq!(kept[0].time, now + 10_999, "the newest are kept");
    assert_eq!(kept[9_999].time, now + 1000);
    store.close().await;
}

#[test]
fn a_clock_set_by_a_day_and_a_machine_that_slept_are_survived() {
    // The clocks are the whole process's, so this has one of its own.
    const CHILD: &str = "HAIRPIN_TEST_CLOCKS";
    let name = "supervision::a_clock_set_by_a_day_and_a_machine_that_slept_are_survived";
    if std::env::var_os(CHILD).is_none() {
        let output = std::process::Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", name, "--nocapture"])
            .env(CHILD, "1")
            .output()
            .expect("run");
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        println!("{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    whatsapp_rust::wacore::time::set_time_provider(OurClock).expect("the first");
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("threads")
        .block_on(clocks());
}

/// The library shall believe what we do.
struct OurClock;

impl whatsapp_rust::wacore::time::TimeProvider for OurClock {
    fn now_millis(&self) -> i64 {
        hairpin::clock::wall()
    }
}

async fn clocks() {
    const DAY: i64 = 86_400_000;
    let mut rig = Rig::new().await;
    let mut healing = Healing::default();
    rig.link("salon", ANNA).await;
    for set_by in [-DAY, 2 * DAY, -DAY] {
        // Set while it stands: the watch over the socket must not be fooled.
        hairpin::clock::pretend(Duration::ZERO, set_by);
        let (mark, began) = (rig.sim.mark(), Instant::now());
        fall_silent(&rig.sim).await;
        rig.sim
            .wait_for_after(mark, |event| event.is(Step::LoggedIn, ANNA))
            .await;
        rig.state("salon", "CONNECTED").await;
        let cause = if set_by < 0 {
            "silent, and the clock set back a day"
        } else {
            "silent, and the clock set forward two days"
        };
        healing.took(cause, [began.elapsed()]);
    }

    // Set while it waits: what is told moves with the clock, what is done does not.
    rig.sim.fault(failure(402));
    rig.sim.kick(ANNA, &Kick::Cut);
    rig.state("salon", "BANNED").await;
    hairpin::clock::pretend(Duration::ZERO, -DAY);
    let moved = async {
        loop {
            let until = rig.status("salon").await["until"].as_i64().expect("told");
            if (until - hairpin::clock::wall() - 3_600_000).abs() < 60_000 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(HEALED, moved)
        .await
        .expect("told anew");
    assert_eq!(rig.status("salon").await["state"], "BANNED");

    // Asleep through the rest of the ban, and the socket is gone as well.
    hairpin::clock::pretend(Duration::from_hours(1), 3_600_000);
    let awake = Instant::now();
    rig.state("salon", "CONNECTED").await;
    healing.took("a ban slept through, from waking", [awake.elapsed()]);
    fall_silent(&rig.sim).await;
    let mark = rig.sim.mark();
    hairpin::clock::pretend(Duration::from_hours(8), 8 * 3_600_000);
    let awake = Instant::now();
    rig.sim
        .wait_for_after(mark, |event| event.is(Step::LoggedIn, ANNA))
        .await;
    rig.state("salon", "CONNECTED").await;
    healing.took("a link slept through, from waking", [awake.elapsed()]);
    healing.within_half_a_minute();

    // A code dies in its sleep.
    rig.put_session("other").await;
    let mut page = rig.page("other").await;
    code_of(&rig.code("other", BORIS, None).await);
    hairpin::clock::pretend(Duration::from_mins(5), 300_000);
    assert_eq!(
        page.next_of("pairing-code-ended").await["data"]["reason"],
        "expired"
    );
    rig.state("other", "UNLINKED").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_link_that_the_store_cannot_let_go_of_is_kept_and_works() {
    let Some(disk) = SmallDisk::mount("24m") else {
        eprintln!("no small disk can be mounted here; this is proved where one can");
        return;
    };
    let mut rig = Rig::with(&[("data_dir", &disk.data())]).await;
    rig.link("salon", ANNA).await;
    let link_id = rig.code("salon", BORIS, None).await.json()["linkId"]
        .as_str()
        .expect("an id")
        .to_owned();
    disk.fill();
    let refused = rig.code("salon", BORIS, Some(&link_id)).await;
    assert_eq!(
        (refused.status, refused.json()["code"].as_str()),
        (507, Some("STORE_UNAVAILABLE"))
    );
    assert_eq!(
        rig.sim.phone(ANNA).devices().len(),
        1,
        "WhatsApp was not told"
    );
    disk.free();
    rig.state("salon", "CONNECTED").await;
    rig.reads_what_the_phone_writes(ANNA).await;
    let answer = rig.code("salon", BORIS, Some(&link_id)).await;
    code_of(&answer);
    rig.stop().await;
}

/// The library gives up saving for good once ten saves in a row have failed; nothing else would ever be saved then.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_a_link_and_room_on_it_brings_it_back_with_nothing_lost() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    rig.stop().await;
    let plan = Arc::new(Plan::default());
    let disk = Breaking::new(Folder::new(&rig.data()), &plan);
    rig.start_on(disk).await;
    rig.state("salon", "CONNECTED").await;
    let device = rig.sim.phone(ANNA).devices()[0].id;
    plan.lasting(store_lab::Fault::Full, 0);
    // Whatever arrives has to be written down.
    let stopped = async {
        let mut count = 0;
        while rig.status("salon").await["state"] != "STORE_UNAVAILABLE" {
            count += 1;
            let _ = rig
                .sim
                .phone(ANNA)
                .send_text(device, &count.to_string())
                .await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), stopped)
        .await
        .expect("it says so");
    let status = rig.status("salon").await;
    assert_eq!(status["reason"], "STORE_UNAVAILABLE");
    assert_eq!(status["phone"], "79001***567");
    assert_eq!(rig.ask("GET", "/healthz", None).await.status, 503);
    assert_eq!(rig.ask("GET", "/readyz", None).await.status, 503);
    assert_eq!(
        rig.code("salon", BORIS, None).await.status,
        507,
        "nothing is begun"
    );
    let often = async {
        while plan.hits() < 15 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), often)
        .await
        .expect("the store tries on and on");
    plan.heal();
    let room = Instant::now();
    rig.state("salon", "CONNECTED").await;
    // The link may be back a moment before the store has tried everything that was refused.
    while rig.ask("GET", "/healthz", None).await.status != 200 {
        assert!(room.elapsed() < HEALED, "still unavailable");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(room.elapsed() < HEALED, "{:?}", room.elapsed());
    assert!(rig.reconnects("store").await >= 1);
    // The fresh client reads what the phone writes, and goes on doing so after a restart.
    for round in 0..2 {
        rig.reads_what_the_phone_writes(ANNA).await;
        if round == 0 {
            rig.restart().await;
            rig.state("salon", "CONNECTED").await;
        }
    }
    never_two_connections(&rig.sim);
    rig.stop().await;
}

/// A port that takes no connection and refuses none: what asks for one hears nothing.
pub struct Swallowing {
    _listener: tokio::net::TcpListener,
    _crowd: Vec<tokio::net::TcpStream>,
}

impl Swallowing {
    /// On the port of a simulator that was stopped.
    pub async fn instead_of(sim: &Sim) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("set");
        socket.bind(sim.addr()).expect("the port is free");
        let listener = socket.listen(1).expect("listening");
        // Nobody takes them off the queue: once it is full, the next one's first word is dropped.
        let mut crowd = Vec::new();
        while let Ok(stream) = tokio::time::timeout(
            Duration::from_millis(300),
            tokio::net::TcpStream::connect(sim.addr()),
        )
        .await
        {
            crowd.push(stream.expect("queued"));
        }
        Self {
            _listener: listener,
            _crowd: crowd,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_swallows_connections_is_told_in_time_and_healed_from() {
    let mut rig = Rig::with(&[("whatsapp.connect_timeout", "2")]).await;
    rig.sim.stop().await;
    let swallowing = Swallowing::instead_of(&rig.sim).await;
    // While registering.
    let asked = Instant::now();
    let (answer, ()) = tokio::join!(rig.code("salon", ANNA, None), rig.until_one_asks());
    assert_eq!(
        (answer.status, answer.json()["code"].as_str()),
        (503, Some("WHATSAPP_UNREACHABLE"))
    );
    assert!(
        asked.elapsed() < Duration::from_secs(12),
        "{:?}",
        asked.elapsed()
    );
    drop(swallowing);
    rig.sim.resume().await;
    rig.link("salon", ANNA).await;

    // A link that stands.
    rig.sim.stop().await;
    let swallowing = Swallowing::instead_of(&rig.sim).await;
    rig.reconnect("salon").await;
    rig.until_one_asks().await;
    assert_eq!(rig.status("salon").await["state"], "RECONNECTING");
    // The attempt is given up, and another one made.
    let lost = rig.reconnects("lost").await;
    let again = async {
        while rig.reconnects("lost").await == lost {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(HEALED, again)
        .await
        .expect("not hung on to");
    drop(swallowing);
    rig.sim.resume().await;
    let well = Instant::now();
    rig.state("salon", "CONNECTED").await;
    assert!(well.elapsed() < HEALED, "{:?}", well.elapsed());
    never_two_connections(&rig.sim);
    rig.stop().await;
}
