//! Everybody is told the same, at every moment of a random schedule of faults and wishes. All of it is read between two
//! looks at the same status, which is proof that nothing changed in between: a new page, the terminal, `/readyz` and the
//! metrics then say just that. Only the journal and the simulated WhatsApp may know more, and the very next status must
//! be what they knew. Once nothing moves, the page that was open all along and WhatsApp agree as well.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hairpin_sim::{Fault, Kick, Sim, SimConfig, Step};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::rig::{ANNA, BORIS, Rig};
use crate::supervision::never_two_connections;
use crate::terminal::run;
use crate::web_support::Socket;

/// How long they may take to agree once nothing moves.
const AGREED: Duration = Duration::from_secs(20);
/// A page that was told nothing for so long has been told everything: looked at again until it agrees.
const QUIET: Duration = Duration::from_millis(30);

/// What one page knows from all that it was told.
struct Page {
    socket: Socket,
    /// Every status, in the order in which it was told.
    told: Vec<Value>,
    /// The code it shows.
    code: bool,
}

impl Page {
    /// With the whole picture.
    async fn open(rig: &Rig) -> Self {
        let mut page = Self {
            socket: rig.page("salon").await,
            told: Vec::new(),
            code: false,
        };
        // News goes before answers: once this is refused, everything was told that had happened by then.
        page.socket
            .send(json!({ "event": "how-are-things", "id": "picture" }))
            .await;
        while page.next().await["id"] != "picture" {}
        page
    }

    async fn next(&mut self) -> Value {
        let frame = self.socket.next().await;
        match frame["event"].as_str() {
            Some("session-status") => self.told.push(frame["data"].clone()),
            Some("pairing-code") => self.code = true,
            Some("pairing-code-ended") => self.code = false,
            _ => {}
        }
        frame
    }

    fn status(&self) -> &Value {
        self.told.last().expect("a picture")
    }

    /// Takes in what was told by now.
    async fn listen(&mut self) {
        // Waiting for a frame may be given up at any time: none is lost.
        while tokio::time::timeout(QUIET, self.next()).await.is_ok() {}
    }

    /// What came after this status, however long it takes.
    async fn after(&mut self, status: &Value) -> Option<Value> {
        let came = async {
            loop {
                let at = self.told.iter().rposition(|told| told == status);
                if let Some(next) = at.and_then(|at| self.told.get(at + 1)) {
                    return next.clone();
                }
                self.next().await;
            }
        };
        tokio::time::timeout(AGREED, came).await.ok()
    }
}

/// The newest entry that is about a link: it says whether there is one.
fn about_link(journal: &[Value]) -> Option<&Value> {
    journal.iter().find(|entry| {
        matches!(
            entry["what"].as_str(),
            Some(
                "linked"
                    | "logged_out"
                    | "unlinked"
                    | "wrong_phone"
                    | "mismatch_wiped"
                    | "leftovers_wiped"
            )
        )
    })
}

fn linked_by_journal(journal: &[Value]) -> Option<&str> {
    about_link(journal)?["what"].as_str()
}

fn about_code(journal: &[Value]) -> Option<&Value> {
    journal
        .iter()
        .find(|entry| matches!(entry["what"].as_str(), Some("code_shown" | "code_ended")))
}

fn code_by_journal(journal: &[Value]) -> bool {
    about_code(journal).is_some_and(|entry| entry["what"] == "code_shown")
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

/// What everybody says, all of it between two looks at the same status.
struct Glance {
    status: Value,
    fresh: Page,
    terminal: Option<Value>,
    ready: bool,
    metrics: Value,
    journal: Vec<Value>,
    /// Whether a companion is logged in at the simulated WhatsApp.
    online: bool,
}

impl Glance {
    /// None when it moved on meanwhile: its `since` tells one stay in a state from the next.
    async fn take(rig: &Rig, with_terminal: bool) -> Option<Self> {
        let status = rig.status("salon").await;
        let glance = Self {
            metrics: rig.ask("GET", "/api/v1/metrics", None).await.json(),
            ready: rig.ask("GET", "/readyz", None).await.status == 200,
            journal: rig.audit().await,
            online: [ANNA, BORIS].into_iter().any(|number| {
                let devices = rig.sim.phone(number).devices();
                devices.iter().any(|device| device.online)
            }),
            fresh: Page::open(rig).await,
            terminal: if with_terminal {
                Some(terminal(rig).await)
            } else {
                None
            },
            status,
        };
        (rig.status("salon").await == glance.status).then_some(glance)
    }

    fn state(&self) -> &str {
        state(&self.status)
    }

    /// Who says something else than the status, although nothing changed.
    fn contradiction(&self) -> Option<String> {
        let (status, state) = (&self.status, self.state());
        for (who, told) in [
            ("a new page", Some(self.fresh.status())),
            ("the terminal", self.terminal.as_ref()),
        ] {
            if let Some(told) = told.filter(|told| *told != status) {
                return Some(format!("{who} says {told}, HTTP says {status}"));
            }
        }
        let of: Vec<&str> = self.metrics["hairpin_link_state"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|sample| sample["labels"]["session"] == "salon" && sample["value"] == 1.0)
            .filter_map(|sample| sample["labels"]["state"].as_str())
            .collect();
        if of != [state] {
            return Some(format!("the metrics say {of:?}, HTTP says {state}"));
        }
        if self.ready != (state == "CONNECTED") {
            return Some(format!("/readyz says {}, HTTP says {state}", self.ready));
        }
        if self.fresh.code != (state == "AWAITING_CODE_ENTRY") && state != "LINKING" {
            return Some(format!(
                "a new page's code is {}, HTTP says {state}",
                self.fresh.code
            ));
        }
        None
    }

    /// What is known elsewhere that this status does not say, each for itself: it is written down, or done, before
    /// anybody is told.
    fn news(&self, status: &Value) -> [Option<String>; 3] {
        let state = state(status);
        let code = state != "LINKING"
            && (state == "AWAITING_CODE_ENTRY") != code_by_journal(&self.journal);
        let linked = linked_by_journal(&self.journal);
        // One and the same stay: it has not come back since.
        let alone = state == "CONNECTED" && status["since"] == self.status["since"] && !self.online;
        [
            code.then(|| format!("the journal's code is not {state}")),
            (!fits(linked, state)).then(|| format!("the journal says {linked:?}, HTTP {state}")),
            alone.then(|| "WhatsApp has no companion that is CONNECTED".to_owned()),
        ]
    }
}

fn state(status: &Value) -> &str {
    status["state"].as_str().expect("a state")
}

/// Whether a state can be, given what the journal last said about a link.
fn fits(linked: Option<&str>, state: &str) -> bool {
    match linked {
        // A link that is being replaced is one until the wipe.
        Some("linked") => [
            "CONNECTING",
            "LINKING",
            "CONNECTED",
            "RECONNECTING",
            "REPLACED",
            "BANNED",
            "LOCKED",
            "OUTDATED",
            "FAILED",
        ]
        .contains(&state),
        Some("logged_out") => ["CONNECTING", "LOGGED_OUT", "UNLINKED"].contains(&state),
        _ => ![
            "CONNECTED",
            "RECONNECTING",
            "REPLACED",
            "LOGGED_OUT",
            "FAILED",
        ]
        .contains(&state),
    }
}

/// What disagrees now that nothing should move, if anything does.
async fn disagreement(rig: &Rig, page: &mut Page) -> Option<String> {
    page.listen().await;
    let Some(glance) = Glance::take(rig, true).await else {
        return Some("it moves".to_owned());
    };
    let status = &glance.status;
    if page.status() != status {
        return Some(format!(
            "the page says {}, HTTP says {status}",
            page.status()
        ));
    }
    let news = glance.news(status).into_iter().flatten().next();
    if let Some(why) = glance.contradiction().or(news) {
        return Some(why);
    }
    let state = glance.state();
    if state == "CONNECTING" && linked_by_journal(&glance.journal) == Some("linked") {
        return Some("it is being replaced, and nothing moves".to_owned());
    }
    if page.code != (state == "AWAITING_CODE_ENTRY" || (state == "LINKING" && page.code))
        || glance.fresh.code && !page.code
    {
        return Some(format!(
            "the page's code is {}, a new page's {}, HTTP says {state}",
            page.code, glance.fresh.code
        ));
    }
    let open = rig.sim.open_connections();
    let knows = match state {
        "CONNECTED" => open == 1,
        "CONNECTING" | "RECONNECTING" | "AWAITING_CODE_ENTRY" | "AWAITING_SCAN" | "LINKING" => {
            open <= 1
        }
        _ => open == 0,
    };
    if !knows {
        return Some(format!(
            "WhatsApp has {open} connections, HTTP says {state}"
        ));
    }
    None
}

/// How often somebody looked on, and how often something was known before the status said it.
#[derive(Default)]
struct Looks {
    glances: u32,
    moved_on: u32,
    ahead: u32,
}

/// Looks on while things happen.
async fn watch(rig: &Rig, over: &AtomicBool, looks: &mut Looks) {
    let mut page = Page::open(rig).await;
    let recent = || {
        rig.sim
            .events()
            .into_iter()
            .rev()
            .take(30)
            .collect::<Vec<_>>()
    };
    while !over.load(Ordering::SeqCst) {
        let with_terminal = looks.glances.is_multiple_of(4);
        let Some(glance) = Glance::take(rig, with_terminal).await else {
            looks.moved_on += 1;
            continue;
        };
        looks.glances += 1;
        if let Some(why) = glance.contradiction() {
            panic!("{why}\n{:#?}", recent());
        }
        let news = glance.news(&glance.status);
        if news.iter().all(Option::is_none) {
            continue;
        }
        looks.ahead += 1;
        // Written down after this state began: what was before it everybody must have known.
        let entries = [about_code(&glance.journal), about_link(&glance.journal)];
        for (news, entry) in std::iter::zip(&news, entries) {
            let since = glance.status["since"].as_i64().expect("a time");
            let written = entry.and_then(|entry| entry["time"].as_i64());
            assert!(
                news.is_none() || written.is_some_and(|written| written >= since),
                "{news:?} by {entry:?}, and HTTP has said {} since {since}",
                glance.state()
            );
        }
        let next = page.after(&glance.status).await;
        let said = next.as_ref().is_some_and(|next| {
            let still = glance.news(next);
            std::iter::zip(&news, still).all(|(was, is)| was.is_none() || is.is_none())
        });
        assert!(
            said,
            "{news:?}, then {next:?}\n{:#?}\n{:#?}",
            &glance.journal[..glance.journal.len().min(5)],
            recent()
        );
    }
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
async fn step(rig: &Rig, state: &str, random: &mut StdRng, outage: &mut bool) -> String {
    let number = *any(random, &[ANNA, BORIS]);
    if state == "LINKING" && random.random_bool(0.7) {
        // It would take its minute, with everything else refused.
        rig.sim.clear_faults();
        rig.sim.resume().await;
        *outage = false;
        let struck = rig.sim.kick(ANNA, &Kick::Cut) + rig.sim.kick(BORIS, &Kick::Cut);
        return format!("{struck} cut while linking");
    }
    if matches!(state, "UNLINKED" | "LOGGED_OUT") && random.random_bool(0.5) {
        // Most of what can happen happens to a link.
        rig.sim.clear_faults();
        rig.sim.resume().await;
        *outage = false;
        let answer = rig.code("salon", number, None).await.json();
        let code = answer["code"].as_str().unwrap_or("").to_owned();
        let linked = rig.sim.phone(number).enter_code(&code).await.is_ok();
        return format!("linking {number}: {linked}");
    }
    match random.random_range(0..96) {
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
    let mut looks = Looks::default();
    for count in 0..steps {
        let name = |did: &str| format!("step {count} of HAIRPIN_SEED={seed} ({did})");
        if random.random_bool(0.04) {
            rig.restart().await;
            page = Page::open(&rig).await;
            agreed(&rig, &mut page, &name("restart")).await;
        } else {
            let over = AtomicBool::new(false);
            let happening = async {
                let before = state(page.status()).to_owned();
                let did = step(&rig, &before, &mut random, &mut outage).await;
                agreed(&rig, &mut page, &name(&did)).await;
                over.store(true, Ordering::SeqCst);
            };
            tokio::join!(happening, watch(&rig, &over, &mut looks));
        }
        *rests.entry(state(page.status()).to_owned()).or_insert(0) += 1;
    }
    let Looks {
        glances,
        moved_on,
        ahead,
    } = looks;
    println!(
        "states when nothing moved: {rests:?}; {glances} glances, {moved_on} while it moved on, {ahead} with more known than said"
    );
    assert!(glances >= steps, "somebody looked on: {glances}");
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
