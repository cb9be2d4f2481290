//! Everybody is told the same: through a random schedule of faults and wishes, whenever nothing moves, the page, the
//! terminal, the HTTP status, `/readyz`, the metrics, the journal and what the simulated WhatsApp knows agree with each other.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use hairpin_sim::{Fault, Kick, Sim, SimConfig, Step};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::rig::{ANNA, BORIS, Rig};
use crate::supervision::never_two_connections;
use crate::terminal::run;
use crate::web_support::Socket;

/// How long they may take to agree once nothing moves.
const AGREED: Duration = Duration::from_secs(20);
/// A page that was told nothing for so long has been told everything.
const QUIET: Duration = Duration::from_millis(30);

/// What one page knows from all that it was told.
struct Page {
    socket: Socket,
    status: Value,
    /// The code it shows.
    code: bool,
}

impl Page {
    async fn open(rig: &Rig) -> Self {
        let mut page = Self {
            socket: rig.page("salon").await,
            status: Value::Null,
            code: false,
        };
        page.listen().await;
        page
    }

    /// Takes in everything that was told by now.
    async fn listen(&mut self) {
        while let Ok(frame) = tokio::time::timeout(QUIET, self.socket.inner.next()).await {
            let Some(Ok(frame)) = frame else { return };
            let Message::Text(text) = frame else { continue };
            let frame: Value = serde_json::from_str(&text).expect("JSON");
            match frame["event"].as_str() {
                Some("session-status") => self.status = frame["data"].clone(),
                Some("pairing-code") => self.code = true,
                Some("pairing-code-ended") => self.code = false,
                _ => {}
            }
        }
    }
}

/// What the newest entry that is about a link says: whether there is one.
fn linked_by_journal(journal: &[Value]) -> Option<&str> {
    journal.iter().find_map(|entry| {
        let what = entry["what"].as_str()?;
        matches!(
            what,
            "linked"
                | "logged_out"
                | "unlinked"
                | "wrong_phone"
                | "mismatch_wiped"
                | "leftovers_wiped"
        )
        .then_some(what)
    })
}

fn code_by_journal(journal: &[Value]) -> bool {
    journal
        .iter()
        .find_map(|entry| match entry["what"].as_str()? {
            "code_shown" => Some(true),
            "code_ended" => Some(false),
            _ => None,
        })
        .unwrap_or(false)
}

/// What `hairpin status` says of the session.
async fn terminal(rig: &Rig) -> Value {
    let data = rig.data();
    let said = tokio::task::spawn_blocking(move || run(&data, &["status", "--json"]))
        .await
        .expect("run");
    let all: Value = serde_json::from_str(said.answer()).expect("JSON");
    let mut status = all[0].clone();
    let running = status.as_object_mut().expect("a status").remove("running");
    assert_eq!(running, Some(json!(true)));
    status
}

/// What disagrees now, if anything does.
async fn disagreement(rig: &Rig, page: &mut Page) -> Option<String> {
    page.listen().await;
    let status = rig.status("salon").await;
    let state = status["state"].as_str().expect("a state").to_owned();
    let fresh = Page::open(rig).await;
    let ready = rig.ask("GET", "/readyz", None).await.status == 200;
    let metrics = rig.ask("GET", "/api/v1/metrics", None).await.json();
    let journal = rig.audit().await;
    let open = rig.sim.open_connections();
    let terminal = terminal(rig).await;
    if rig.status("salon").await != status {
        return Some(format!("it moved on from {status}"));
    }
    for (who, told) in [
        ("the page", &page.status),
        ("a new page", &fresh.status),
        ("the terminal", &terminal),
    ] {
        if *told != status {
            return Some(format!("{who} says {told}, HTTP says {status}"));
        }
    }
    let of: Vec<&str> = metrics["hairpin_link_state"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|sample| sample["labels"]["session"] == "salon" && sample["value"] == 1.0)
        .filter_map(|sample| sample["labels"]["state"].as_str())
        .collect();
    if of != [state.as_str()] {
        return Some(format!("the metrics say {of:?}, HTTP says {state}"));
    }
    if ready != (state == "CONNECTED") {
        return Some(format!("/readyz says {ready}, HTTP says {state}"));
    }
    let waits_for_code = state == "AWAITING_CODE_ENTRY";
    if page.code != (waits_for_code || (state == "LINKING" && page.code))
        || fresh.code && !page.code
    {
        return Some(format!(
            "the page's code is {}, a new page's {}, HTTP says {state}",
            page.code, fresh.code
        ));
    }
    if waits_for_code != code_by_journal(&journal) && state != "LINKING" {
        return Some(format!("the journal's code is not {state}"));
    }
    let linked = linked_by_journal(&journal);
    let fits = match linked {
        Some("linked") => [
            "LINKING",
            "CONNECTED",
            "RECONNECTING",
            "REPLACED",
            "BANNED",
            "LOCKED",
            "OUTDATED",
            "FAILED",
        ]
        .contains(&state.as_str()),
        Some("logged_out") => ["LOGGED_OUT", "UNLINKED"].contains(&state.as_str()),
        _ => ![
            "CONNECTED",
            "RECONNECTING",
            "REPLACED",
            "LOGGED_OUT",
            "FAILED",
        ]
        .contains(&state.as_str()),
    };
    if !fits {
        return Some(format!("the journal says {linked:?}, HTTP says {state}"));
    }
    let knows = if state == "CONNECTED" {
        open == 1
    } else {
        open <= 1
    };
    if !knows {
        return Some(format!(
            "WhatsApp has {open} connections, HTTP says {state}"
        ));
    }
    None
}

async fn agreed(rig: &Rig, page: &mut Page, after: &str) {
    let began = Instant::now();
    loop {
        let Some(why) = disagreement(rig, page).await else {
            return;
        };
        assert!(
            began.elapsed() < AGREED,
            "after {after}: {why}\n{:#?}",
            rig.sim.events().iter().rev().take(30).collect::<Vec<_>>()
        );
    }
}

fn any<'t, T>(random: &mut StdRng, all: &'t [T]) -> &'t T {
    &all[random.random_range(0..all.len())]
}

/// One thing that happens; what it was.
async fn step(rig: &mut Rig, page: &mut Page, random: &mut StdRng, outage: &mut bool) -> String {
    let number = *any(random, &[ANNA, BORIS]);
    if page.status["state"] == "LINKING" && random.random_bool(0.7) {
        // It would take its minute, with everything else refused.
        rig.sim.clear_faults();
        rig.sim.resume().await;
        *outage = false;
        let struck = rig.sim.kick(ANNA, &Kick::Cut) + rig.sim.kick(BORIS, &Kick::Cut);
        return format!("{struck} cut while linking");
    }
    match random.random_range(0..100) {
        0..25 => {
            let ask = rig.code("salon", number, None).await;
            let problem = ask.json();
            let mut told = format!("asking for {number}: {} {}", ask.status, problem["code"]);
            if let Some(id) = problem["linkId"].as_str()
                && random.random_bool(0.6)
            {
                let ask = rig.code("salon", number, Some(id)).await;
                told = format!("replacing by {number}: {}", ask.status);
            }
            if rig.status("salon").await["state"] == "AWAITING_CODE_ENTRY"
                && random.random_bool(0.8)
            {
                let code = rig.code("salon", number, None).await.json()["code"]
                    .as_str()
                    .unwrap_or("ABCD-2345")
                    .to_owned();
                let typed = rig.sim.phone(number).enter_code(&code).await;
                told.push_str(&format!(", typing it: {}", typed.is_ok()));
            }
            told
        }
        25..50 => {
            let kick = any(
                random,
                &[
                    Kick::Cut,
                    Kick::StreamError { code: 515 },
                    Kick::StreamError { code: 503 },
                    Kick::StreamError { code: 429 },
                    Kick::StreamError { code: 516 },
                    Kick::Replaced,
                    Kick::DeviceRemoved,
                    Kick::Passkey,
                    Kick::RefreshCode { force_manual: true },
                ],
            );
            let struck = rig.sim.kick(ANNA, kick) + rig.sim.kick(BORIS, kick);
            format!("{kick:?} on {struck}")
        }
        50..65 => {
            let reason = *any(
                random,
                &[400, 401, 402, 403, 405, 406, 413, 429, 500, 501, 503],
            );
            let at = *any(random, &[Step::Login, Step::Login, Step::Register]);
            rig.sim.fault(Fault::failure(reason).expire(60).at(at));
            rig.sim.kick(ANNA, &Kick::Cut);
            rig.sim.kick(BORIS, &Kick::Cut);
            format!("failure {reason} at {at:?}")
        }
        65..70 => {
            let at = *any(
                random,
                &[
                    Step::Open,
                    Step::Noise,
                    Step::Hello,
                    Step::Finish,
                    Step::PairSuccess,
                    Step::Sign,
                ],
            );
            rig.sim.fault(Fault::cut(at));
            format!("a cut at {at:?} to come")
        }
        70..80 => {
            rig.ask("POST", "/api/v1/sessions/salon/reconnect", Some(json!({})))
                .await;
            "reconnect".to_owned()
        }
        80..85 => {
            let status = rig
                .ask("DELETE", "/api/v1/sessions/salon/pairing-code", None)
                .await
                .status;
            format!("cancel: {status}")
        }
        85..89 => {
            let status = rig
                .ask("DELETE", "/api/v1/sessions/salon/link", None)
                .await
                .status;
            format!("unlink: {status}")
        }
        89..93 => {
            rig.restart().await;
            *page = Page::open(rig).await;
            "restart".to_owned()
        }
        93..97 => {
            *outage = !*outage;
            if *outage {
                rig.sim.stop().await;
            } else {
                rig.sim.resume().await;
            }
            format!("outage: {outage}")
        }
        _ => {
            rig.sim.clear_faults();
            "faults cleared".to_owned()
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn page_terminal_http_readyz_metrics_and_journal_agree_at_every_moment_of_a_random_fault_schedule()
 {
    let seed = std::env::var("HAIRPIN_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random::<u32>);
    let steps = if std::env::var_os("HAIRPIN_LONG").is_some() {
        1000
    } else {
        60
    };
    println!("HAIRPIN_SEED={seed} repeats this schedule");
    let mut random = StdRng::seed_from_u64(u64::from(seed));
    let sim = Sim::start_with(SimConfig {
        max_devices: usize::MAX,
        hellos_per_number: usize::MAX,
        companion_patience: Duration::from_secs(3),
        ..SimConfig::default()
    })
    .await;
    let mut rig = Rig::with_sim(sim, &[("whatsapp.connect_timeout", "2")]).await;
    let mut page = Page::open(&rig).await;
    let (mut outage, mut rests) = (false, std::collections::BTreeMap::new());
    for count in 0..steps {
        let did = step(&mut rig, &mut page, &mut random, &mut outage).await;
        let after = format!("step {count} of HAIRPIN_SEED={seed} ({did})");
        agreed(&rig, &mut page, &after).await;
        let state = page.status["state"].as_str().expect("a state").to_owned();
        *rests.entry(state).or_insert(0) += 1;
    }
    println!("states when nothing moved: {rests:?}");
    // And in the end all is well, whatever it was.
    rig.sim.clear_faults();
    rig.sim.resume().await;
    let began = Instant::now();
    loop {
        let status = rig.status("salon").await;
        let state = status["state"].as_str().expect("a state");
        if state == "CONNECTED" {
            break;
        }
        assert!(
            began.elapsed() < Duration::from_mins(2),
            "{status} with HAIRPIN_SEED={seed}"
        );
        match state {
            "RECONNECTING" | "REPLACED" | "BANNED" | "LOCKED" | "OUTDATED" | "FAILED" => {
                rig.ask("POST", "/api/v1/sessions/salon/reconnect", Some(json!({})))
                    .await;
            }
            "LINKING" | "CONNECTING" => {}
            _ => {
                let answer = rig.code("salon", ANNA, None).await.json();
                let code = answer["code"].as_str().unwrap_or("").to_owned();
                let _ = rig.sim.phone(ANNA).enter_code(&code).await;
            }
        }
        page.listen().await;
    }
    agreed(&rig, &mut page, "the end").await;
    never_two_connections(&rig.sim);
    rig.stop().await;
}
