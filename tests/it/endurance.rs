//! What months do to the program, in minutes: reconnects, page sockets, an outage of a hundred links at once.
//! It runs as a process of its own, so that what it holds is its own; the figures it prints are those of the documents.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use hairpin_sim::{Kick, Sim, SimConfig, Step};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::process::Serve;
use crate::rig::PATIENCE;
use crate::supervision::{HEALED, never_two_connections};

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
