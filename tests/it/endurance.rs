//! What months do to the program, in minutes: reconnects, page sockets, an outage of a hundred links at once.
//! It runs as a process of its own, so that what it holds is its own; the figures it prints are those of the documents.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use hairpin_sim::{Fault, Kick, Sim, SimConfig, Step};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::process::Serve;
use crate::rig::PATIENCE;
use crate::supervision::{HEALED, Swallowing, never_two_connections};

fn long() -> bool {
    std::env::var_os("HAIRPIN_LONG").is_some()
}

/// What a running program holds.
#[derive(Clone, Copy)]
struct Held {
    /// Memory of its own, in KiB: not what is mapped from its file.
    memory: u64,
    files: usize,
    threads: usize,
    store: u64,
}

impl Held {
    fn by(serve: &Serve, folder: &std::path::Path) -> Self {
        let process = format!("/proc/{}", serve.id());
        let count = |what: &str| {
            std::fs::read_dir(format!("{process}/{what}"))
                .expect("a running process")
                .count()
        };
        let status = std::fs::read_to_string(format!("{process}/status")).expect("a status");
        Self {
            memory: status
                .lines()
                .find_map(|line| line.strip_prefix("RssAnon:"))
                .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
                .expect("a size"),
            files: count("fd"),
            threads: count("task"),
            store: std::fs::metadata(folder.join(".local/share/hairpin/hairpin.redb"))
                .expect("a store")
                .len(),
        }
    }
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            memory,
            files,
            threads,
            store,
        } = self;
        write!(
            f,
            "{memory} KiB, {files} files, {threads} threads, a store of {} KiB",
            store / 1024
        )
    }
}

fn number(index: u32) -> String {
    format!("7900{:07}", 3_000_000 + index)
}

impl Serve {
    async fn reconnect(&self, session: &str) {
        let (status, _) = self
            .ask("POST", &format!("/api/v1/sessions/{session}/reconnect"), "")
            .await
            .expect("answered");
        assert_eq!(status, 202);
    }

    /// The statuses of all sessions but the default one.
    async fn all(&self) -> Vec<Value> {
        let (status, all) = self
            .ask("GET", "/api/v1/sessions", "")
            .await
            .expect("answered");
        assert_eq!(status, 200);
        let mut all = all.as_array().expect("a list").clone();
        all.retain(|status| status["session"] != "salon");
        all
    }

    async fn until_all(&self, wanted: impl Fn(&Value) -> bool) {
        let wait = async {
            while !self.all().await.iter().all(&wanted) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE * 2, wait)
            .await
            .expect("all of them");
    }

    /// Until every session has once waited for as long as an outage of hours makes it wait.
    async fn waits_have_grown(&self) {
        let mut grown = HashSet::new();
        let wait = async {
            loop {
                let all = self.all().await;
                for status in &all {
                    let left = status["until"]
                        .as_i64()
                        .map_or(0, |until| until - hairpin::clock::wall());
                    if left > 8_000 {
                        grown.insert(status["session"].to_string());
                    }
                }
                if grown.len() == all.len() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(PATIENCE * 2, wait)
            .await
            .expect("longer and longer");
    }

    async fn all_connected(&self) {
        self.until_all(|status| status["state"] == "CONNECTED")
            .await;
    }

    /// Adds so many sessions and links a phone to each.
    async fn link_many(&self, sim: &Sim, count: u32) {
        let one = async |index: u32| {
            let (status, _) = self
                .ask(
                    "PUT",
                    &format!("/api/v1/sessions/s{index}"),
                    &json!({ "name": format!("Salon {index}") }).to_string(),
                )
                .await
                .expect("answered");
            assert_eq!(status, 201);
            let (status, answer) = self
                .ask(
                    "POST",
                    &format!("/api/v1/sessions/s{index}/pairing-code"),
                    &json!({ "phoneNumber": number(index), "country": "RU" }).to_string(),
                )
                .await
                .expect("answered");
            assert_eq!(status, 200, "{answer}");
            let code = answer["code"].as_str().expect("a code");
            sim.phone(&number(index))
                .enter_code(code)
                .await
                .expect("linked");
        };
        // A few at a time: the simulated phones need this machine's processors as well.
        futures_util::stream::iter(0..count)
            .for_each_concurrent(4, one)
            .await;
        self.all_connected().await;
    }

    /// A page that comes, is told how things are, and goes.
    async fn visit(&self, session: u32) {
        let url = format!("ws://{}/ws?session=s{session}&lang=en", self.address());
        let mut request = url.into_client_request().expect("a request");
        request.headers_mut().insert(
            "Authorization",
            format!("Bearer {}", self.key()).parse().expect("a header"),
        );
        let (mut page, _) = tokio_tungstenite::connect_async(request)
            .await
            .expect("upgraded");
        let first = page.next().await.expect("a frame").expect("no error");
        assert!(first.to_text().expect("text").contains("session-status"));
        page.close(None).await.expect("closed");
        while page.next().await.is_some() {}
    }

    async fn websockets(&self) -> f64 {
        let (_, metrics) = self
            .ask("GET", "/api/v1/metrics", "")
            .await
            .expect("answered");
        metrics["hairpin_websocket_connections"][0]["value"]
            .as_f64()
            .expect("a number")
    }
}

async fn roomy() -> Sim {
    Sim::start_with(SimConfig {
        max_devices: usize::MAX,
        hellos_per_number: usize::MAX,
        // A 429 alone is waited out for a minute.
        wait_limit: PATIENCE * 2,
        ..SimConfig::default()
    })
    .await
}

/// Cuts the link of one session and takes it up again, so many times.
async fn reconnects(serve: &Serve, sim: &Sim, session: u32, times: u32) {
    let (name, number) = (format!("s{session}"), number(session));
    for _ in 0..times {
        let mark = sim.mark();
        assert_eq!(sim.kick(&number, &Kick::Cut), 1, "one connection");
        let back = sim.wait_for_after(mark, |event| event.is(Step::Active, &number));
        tokio::pin!(back);
        // The button, so that the growing waits need not be waited for.
        while tokio::time::timeout(Duration::from_millis(30), &mut back)
            .await
            .is_err()
        {
            serve.reconnect(&name).await;
        }
        let connected = async {
            let path = format!("/api/v1/sessions/{name}");
            while serve.ask("GET", &path, "").await.expect("answered").1["state"] != "CONNECTED" {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, connected)
            .await
            .expect("connected");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reconnects_and_page_sockets_without_number_leave_memory_files_and_store_as_they_were() {
    const SESSIONS: u32 = 10;
    let (reconnects_in_all, sockets_in_all): (u32, u32) = if long() {
        (10_000, 100_000)
    } else {
        (200, 1_000)
    };
    let folder = tempfile::tempdir().expect("a folder");
    let sim = roomy().await;
    let serve = Serve::start(folder.path(), &sim.url(), &[]);
    let files = Held::by(&serve, folder.path()).files;
    serve.link_many(&sim, SESSIONS).await;
    let round = async |reconnects_now: u32, sockets_now: u32| {
        let links = (0..SESSIONS)
            .map(|session| reconnects(&serve, &sim, session, reconnects_now / SESSIONS));
        let pages = futures_util::stream::iter(0..sockets_now)
            .for_each_concurrent(8, |page| serve.visit(page % SESSIONS));
        tokio::join!(futures_util::future::join_all(links), pages);
        serve.all_connected().await;
        let gone = async {
            while serve.websockets().await > 0.0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("gone");
        // The last answers' own connections close as well.
        let rest = async {
            while Held::by(&serve, folder.path()).files > files + SESSIONS as usize {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, rest)
            .await
            .expect("no file is left open");
    };
    // Whatever a program takes once and keeps, it has taken by then.
    round(reconnects_in_all / 5, sockets_in_all / 5).await;
    let before = Held::by(&serve, folder.path());
    let began = Instant::now();
    for _ in 0..4 {
        round(reconnects_in_all / 5, sockets_in_all / 5).await;
    }
    let after = Held::by(&serve, folder.path());
    println!(
        "{reconnects_in_all} reconnects and {sockets_in_all} page sockets in {:?}: {before} before, {after} after",
        began.elapsed()
    );
    // A leak of half a kilobyte each would be four times that in the long run.
    assert!(
        after.memory <= before.memory + 2048,
        "{before}, then {after}"
    );
    // Its threads come and go, but are no more than may wait for a name at a time.
    assert!(
        after.threads <= before.threads + 8,
        "{before}, then {after}"
    );
    // The file grows by steps of a megabyte and more, and is filled again from its beginning.
    assert!(
        after.store <= before.store + (2 << 20),
        "{before}, then {after}"
    );
    let (_, metrics) = serve
        .ask("GET", "/api/v1/metrics", "")
        .await
        .expect("answered");
    let counted: f64 = metrics["hairpin_reconnects_total"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|sample| sample["value"].as_f64())
        .sum();
    assert!(
        counted >= f64::from(reconnects_in_all),
        "each one is counted: {counted}"
    );
    serve.signal(Signal::TERM);
    assert_eq!(serve.ended(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_a_crowd_of_links_comes_back_within_half_a_minute_and_not_at_once() {
    let count = if long() { 100 } else { 30 };
    let folder = tempfile::tempdir().expect("a folder");
    let sim = roomy().await;
    let serve = Serve::start(folder.path(), &sim.url(), &[]);
    serve.link_many(&sim, count).await;
    // Stopped and started, nothing of the linking itself is left in memory.
    serve.signal(Signal::TERM);
    assert_eq!(serve.ended(), Some(0));
    let serve = Serve::start(folder.path(), &sim.url(), &[]);
    serve.all_connected().await;
    sim.stop().await;
    serve.waits_have_grown().await;
    let (mark, over) = (sim.mark(), Instant::now());
    let before = sim.uptime();
    sim.resume().await;
    serve.all_connected().await;
    let back = over.elapsed();
    assert!(back < HEALED, "{back:?}");
    let mut tries: BTreeMap<u64, u32> = BTreeMap::new();
    for event in sim.events() {
        if event.seq > mark && event.step == Step::Open {
            *tries
                .entry(event.at.saturating_sub(before).as_secs())
                .or_default() += 1;
        }
    }
    println!("{count} links back after {back:?}; new connections in each second:");
    for (second, tries) in &tries {
        let bar = usize::try_from(*tries).expect("few");
        println!("{second:>4} {tries:>4} {}", "#".repeat(bar));
    }
    let most = *tries.values().max().expect("they came back");
    // In step, all of them would come within one second.
    assert!(most * 3 <= count, "a spike: {tries:?}");
    assert!(tries.len() >= 6, "not spread: {tries:?}");
    never_two_connections(&sim);
    serve.signal(Signal::TERM);
    assert_eq!(serve.ended(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_link_that_idles_costs_is_bounded() {
    let count = if long() { 100 } else { 10 };
    let folder = tempfile::tempdir().expect("a folder");
    let sim = roomy().await;
    let serve = Serve::start(folder.path(), &sim.url(), &[]);
    let empty = Held::by(&serve, folder.path());
    serve.link_many(&sim, count).await;
    let linked = Held::by(&serve, folder.path());
    serve.signal(Signal::TERM);
    assert_eq!(serve.ended(), Some(0));
    let serve = Serve::start(folder.path(), &sim.url(), &[]);
    serve.all_connected().await;
    let idle = Held::by(&serve, folder.path());
    let each = (idle.memory - empty.memory) / u64::from(count);
    println!(
        "{empty} with nothing linked; {linked} after linking {count}; {idle} after a restart: {each} KiB for each"
    );
    assert!(each <= 1024, "{each} KiB for each");
    // Its socket and no more.
    assert!(
        idle.files <= empty.files + usize::try_from(count).expect("few") + 4,
        "{empty}, then {idle}"
    );
    serve.signal(Signal::TERM);
    assert_eq!(serve.ended(), Some(0));
}

/// How long a link took from the end of a cause until it was connected, by cause.
#[derive(Default)]
pub struct Healing(BTreeMap<&'static str, Vec<Duration>>);

impl Healing {
    pub fn took(&mut self, cause: &'static str, took: impl IntoIterator<Item = Duration>) {
        self.0.entry(cause).or_default().extend(took);
    }

    /// Prints the table, and holds every cause to its bound.
    pub fn within_half_a_minute(&mut self) {
        println!(
            "{:<58} {:>4} {:>8} {:>8}",
            "from cause gone to connected", "n", "median", "worst"
        );
        for (cause, took) in &mut self.0 {
            took.sort_unstable();
            let seconds = |took: Duration| format!("{:.1} s", took.as_secs_f64());
            let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
            println!(
                "{cause:<58} {:>4} {:>8} {:>8}",
                took.len(),
                seconds(median),
                seconds(worst)
            );
        }
        for (cause, took) in &self.0 {
            // Its waits begin with a minute, that it be not asked again too soon.
            let bound = if *cause == TOO_FAST {
                TOLD_TO_WAIT
            } else {
                HEALED
            };
            let worst = took[took.len() - 1];
            assert!(worst < bound, "{cause}: {worst:?}");
        }
    }
}

const RESTART: &str = "WhatsApp asks for a new connection (515)";
const TOO_FAST: &str = "WhatsApp says too fast (429)";
/// The first wait after a 429, and a login.
const TOLD_TO_WAIT: Duration = Duration::from_secs(65);
/// What can befall one link, and how; each returns when its cause is gone. The last two are noticed only by waiting,
/// which counts: nobody is told when they begin.
const CAUSES: [&str; 8] = [
    RESTART,
    "WhatsApp ends the stream (503)",
    "WhatsApp ends the stream (500)",
    "the socket is cut",
    "four logins in a row are refused (503), from the last one",
    "another client took the link, from the button",
    "a login is never answered, noticing it included",
    "silent socket or another address, noticing it included",
];

/// Lets one thing befall one link; how long it took to heal.
async fn befall(serve: &Serve, sim: &Sim, cause: &str, session: u32) -> Duration {
    let (name, number) = (format!("s{session}"), number(session));
    let kick = |kick: &Kick| assert_eq!(sim.kick(&number, kick), 1, "{cause}: one connection");
    let mut mark = sim.mark();
    let mut gone = Instant::now();
    match cause {
        RESTART => kick(&Kick::StreamError { code: 515 }),
        TOO_FAST => kick(&Kick::StreamError { code: 429 }),
        "WhatsApp ends the stream (503)" => kick(&Kick::StreamError { code: 503 }),
        "WhatsApp ends the stream (500)" => kick(&Kick::StreamError { code: 500 }),
        "the socket is cut" => kick(&Kick::Cut),
        "silent socket or another address, noticing it included" => kick(&Kick::FallSilent),
        "a login is never answered, noticing it included" => {
            sim.fault(Fault::silence(Step::Login).only(&number));
            kick(&Kick::Cut);
            mark = sim
                .wait_for_after(mark, |event| event.is(Step::Login, &number))
                .await
                .seq;
            gone = Instant::now();
        }
        "four logins in a row are refused (503), from the last one" => {
            sim.fault(Fault::failure(503).only(&number).times(4));
            kick(&Kick::Cut);
            for _ in 0..4 {
                mark = sim
                    .wait_for_after(mark, |event| event.is(Step::Login, &number))
                    .await
                    .seq;
            }
            gone = Instant::now();
        }
        "another client took the link, from the button" => {
            kick(&Kick::Replaced);
            serve.in_state(&name, "REPLACED").await;
            mark = sim.mark();
            gone = Instant::now();
            serve.reconnect(&name).await;
        }
        other => panic!("{other} is no cause"),
    }
    sim.wait_for_after(mark, |event| event.is(Step::LoggedIn, &number))
        .await;
    serve.in_state(&name, "CONNECTED").await;
    gone.elapsed()
}

impl Serve {
    async fn in_state(&self, session: &str, state: &str) {
        let path = format!("/api/v1/sessions/{session}");
        let wait = async {
            while self.ask("GET", &path, "").await.expect("answered").1["state"] != state {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("{session} was never {state}"));
    }

    /// How often a link was taken up again because its connection was lost.
    async fn lost(&self) -> f64 {
        let (_, metrics) = self
            .ask("GET", "/api/v1/metrics", "")
            .await
            .expect("answered");
        let all = metrics["hairpin_reconnects_total"].as_array();
        all.expect("a list")
            .iter()
            .filter(|sample| sample["labels"]["reason"] == "lost")
            .filter_map(|sample| sample["value"].as_f64())
            .sum()
    }

    /// How long each of the sessions takes from now on until it is connected.
    async fn each_connected(&self, count: u32) -> Vec<Duration> {
        let began = Instant::now();
        let one = async |session| {
            self.in_state(&format!("s{session}"), "CONNECTED").await;
            began.elapsed()
        };
        futures_util::future::join_all((0..count).map(one)).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_broke_a_link_it_stands_again_within_half_a_minute_of_the_causes_end() {
    let (each, rounds) = if long() { (5, 3) } else { (2, 1) };
    let count = each * u32::try_from(CAUSES.len()).expect("few");
    let folder = tempfile::tempdir().expect("a folder");
    let sim = roomy().await;
    let mut serve = Serve::start(folder.path(), &sim.url(), &[]);
    serve.link_many(&sim, count).await;
    let mut healing = Healing::default();
    for _ in 0..rounds {
        // All of it at once, each to links of its own.
        let all = (0..count).map(|session| {
            let cause = CAUSES[session as usize % CAUSES.len()];
            let (serve, sim) = (&serve, &sim);
            async move { (cause, befall(serve, sim, cause, session).await) }
        });
        for (cause, took) in futures_util::future::join_all(all).await {
            healing.took(cause, [took]);
        }

        // Long enough that nobody waits for longer, however many hours more.
        sim.stop().await;
        serve.waits_have_grown().await;
        sim.resume().await;
        let took = serve.each_connected(count).await;
        healing.took("nobody listens (an outage of hours)", took);

        sim.stop().await;
        let swallowing = Swallowing::instead_of(&sim).await;
        // Each has hung on it and given up, and hangs again: what hangs does not wait longer and longer.
        let lost = serve.lost().await + f64::from(2 * count);
        let hung = async {
            while serve.lost().await < lost {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(PATIENCE * 2, hung)
            .await
            .expect("not hung on to");
        drop(swallowing);
        sim.resume().await;
        let took = serve.each_connected(count).await;
        healing.took("the port swallows connections (for hours)", took);

        // It takes the connection and says nothing: what hangs then must not be hung on to.
        let mark = sim.mark();
        sim.fault(Fault::delay(Step::Open, Duration::from_hours(1)).standing());
        for session in 0..count {
            assert_eq!(sim.kick(&number(session), &Kick::Cut), 1);
        }
        let mut opened = mark;
        for _ in 0..count {
            opened = sim
                .wait_for_after(opened, |event| event.step == Step::Open)
                .await
                .seq;
        }
        sim.clear_faults();
        let took = serve.each_connected(count).await;
        healing.took("WhatsApp takes connections and says nothing", took);

        serve.kill();
        let started = Instant::now();
        serve = Serve::start(folder.path(), &sim.url(), &[]);
        let began = started.elapsed();
        let took = serve.each_connected(count).await;
        let took = took.into_iter().map(|took| took + began);
        healing.took("the program is killed and started again", took);
    }
    if long() {
        let slow = (0..count).map(|session| befall(&serve, &sim, TOO_FAST, session));
        healing.took(TOO_FAST, futures_util::future::join_all(slow).await);
    }
    healing.within_half_a_minute();
    // At once: before the shortest of the waits could be over.
    let quickest = healing.0[RESTART][0];
    assert!(quickest < Duration::from_millis(500), "{quickest:?}");
    never_two_connections(&sim);
    serve.signal(Signal::TERM);
    assert_eq!(serve.ended(), Some(0));
}
