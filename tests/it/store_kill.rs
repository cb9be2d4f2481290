//! kill -9 under load: a process of its own does random operations and says what was acknowledged; whenever it is killed,
//! the next opening finds all of that, and nothing that was wiped.

use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use hairpin::store::{Options, Store};
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::logged_disk;
use crate::process::Serve;
use crate::store_crash::{Unwanted, check_keys, epochs_held, epochs_wanted, swept};
use crate::store_model::{
    self, DEVICES_FILE, State, difference, look, next_ops, perform, write_devices,
};
use crate::store_support::{copy, folder, seed};

const FOLDER: &str = "HAIRPIN_TEST_FOLDER";
const SEED: &str = "HAIRPIN_TEST_SEED";
/// The log of the disk below, where there is one.
const LOG: &str = "HAIRPIN_TEST_LOG";
/// What the child says begins with this; anything else is the test runner's.
const SAYS: &str = "@";
/// So many kills hit one store before another is born.
const LIVES: usize = 5;
/// The most that is said before a kill.
const LONGEST: usize = 60;
/// Where the disk is watched, the process lets a sweep come to its end once in so many rounds.
const SWEPT_EVERY: usize = 16;

/// What is killed. Works until then.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "is started, and killed, by other tests"]
async fn a_process_that_works_until_it_is_killed() {
    let variable = |name: &str| std::env::var(name).expect("it is started by another test");
    let log = std::env::var_os(LOG).map(PathBuf::from);
    let logged = || log.as_deref().map_or(0, logged_disk::entries);
    let folder = variable(FOLDER);
    let mut random = store_model::random(variable(SEED).parse().expect("a seed"));
    println!("{SAYS}opening");
    let store = Store::open(Path::new(&folder), Options::default()).expect("opened");
    let mut states = vec![look(&store).await.expect("readable")];
    println!("{SAYS}0 0 {}", logged());
    for round in 1.. {
        if log.is_some() && round % SWEPT_EVERY == 0 {
            swept(&store).await;
        }
        let done = states.len() - 1;
        let ops = next_ops(&mut random, &mut states);
        let begun = done + ops.len();
        println!("{SAYS}{begun} {done} {}", logged());
        let mut all: FuturesOrdered<_> = ops.iter().map(|op| perform(&store, op)).collect();
        let mut acknowledged = done;
        while let Some(result) = all.next().await {
            result.expect("nothing is broken");
            acknowledged += 1;
            println!("{SAYS}{begun} {acknowledged} {}", logged());
        }
    }
}

/// How far the child has come.
#[derive(Debug, Clone, Copy, Default)]
pub struct Heard {
    pub begun: usize,
    pub done: usize,
    /// So many entries are in the disk's log since.
    pub logged: usize,
    is_open: bool,
}

/// The process that works until it is killed.
pub struct Worker {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// All it has said.
    heard: Vec<Heard>,
}

impl Worker {
    pub fn start(folder: &Path, devices: &Path, seed: u64, log: Option<&Path>) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        if let Some(log) = log {
            command.env(LOG, log);
        }
        let mut child = command
            .args(["--ignored", "--exact", "--nocapture"])
            .arg("store_kill::a_process_that_works_until_it_is_killed")
            .env(FOLDER, folder)
            .env(SEED, seed.to_string())
            .env(DEVICES_FILE, devices)
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let out = child.stdout.take().expect("a pipe");
        Self {
            child,
            lines: BufReader::new(out).lines(),
            heard: Vec::new(),
        }
    }

    /// So many operations were acknowledged.
    pub fn done(&self) -> usize {
        self.heard.last().map_or(0, |heard| heard.done)
    }

    /// The next thing it says; none after its end.
    pub fn hear(&mut self) -> Option<()> {
        loop {
            let line = self.lines.next()?.expect("readable");
            let Some(said) = line.strip_prefix(SAYS) else {
                continue;
            };
            let numbers: Vec<usize> = said.split(' ').filter_map(|n| n.parse().ok()).collect();
            if let [begun, done, logged] = numbers[..] {
                self.heard.push(Heard {
                    begun,
                    done,
                    logged,
                    is_open: true,
                });
            }
            return Some(());
        }
    }

    /// Kills it; all it has said. That is in the pipe, even if nobody had heard it yet.
    pub fn kill(mut self) -> Vec<Heard> {
        self.child.kill().expect("alive until now");
        self.child.wait().expect("ended");
        while self.hear().is_some() {}
        self.heard
    }
}

fn kills(short: usize, long: usize) -> usize {
    if std::env::var_os("HAIRPIN_LONG").is_some() {
        long
    } else {
        short
    }
}

/// A moment within an operation, not at its end.
fn a_moment(random: &mut StdRng) {
    let until = Instant::now() + Duration::from_micros(random.random_range(0..3_000));
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

/// Looks at a copy: the next process finds the files as the kill has left them. What is there, and which keys that
/// nobody wants the kill has left.
pub async fn seen_in(killed: &Path) -> (State, Unwanted) {
    let keys = |folder: &Path| std::fs::read(folder.join("hairpin.keys")).expect("readable");
    let copy = copy(killed);
    let store = Store::open(copy.path(), Options::default()).expect("it opens by itself");
    let seen = look(&store).await.expect("readable");
    let wanted = epochs_wanted(&store).expect("readable");
    check_keys(&keys(copy.path()), &wanted).expect("a key for each, and at most the spare");
    store.close().await;
    let left = Unwanted::among(&epochs_held(&keys(killed)), &wanted);
    (seen, left.expect("a key for each"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_loses_nothing_that_was_acknowledged() {
    let kills = kills(50, 1_000);
    let seed = seed();
    println!("HAIRPIN_SEED={seed} repeats this");
    let mut random = store_model::random(seed ^ 0x4b49_4c4c);
    let devices = folder();
    let devices = devices.path().join("devices");
    write_devices(&devices);
    let (mut lost_none_of, mut within, mut births) = (0, 0, 0);
    let mut home = folder();
    let mut before = State::default();
    let mut is_born = false;
    for kill in 0..kills {
        if kill % LIVES == 0 {
            home = folder();
            before = State::default();
            is_born = false;
        }
        let ops_seed: u64 = random.random();
        let mut worker = Worker::start(home.path(), &devices, ops_seed, None);
        // The first ones are killed while the store is being made.
        let first = kill % LIVES == 0 && random.random();
        let most = if first { 2 } else { LONGEST };
        for _ in 0..random.random_range(1..most) {
            worker
                .hear()
                .unwrap_or_else(|| panic!("HAIRPIN_SEED={seed}, kill {kill}: it ended by itself"));
        }
        a_moment(&mut random);
        let heard = worker.kill().last().copied().unwrap_or_default();
        let name = format!("HAIRPIN_SEED={seed}, kill {kill} after {heard:?}");
        if !home.path().join("hairpin.redb").exists() {
            assert!(!heard.is_open && !is_born, "{name}: no store");
            births += 1;
            continue;
        }
        is_born = true;
        let mut states = vec![before];
        let mut wipes = false;
        let mut drawn = store_model::random(ops_seed);
        while states.len() <= heard.begun {
            let ops = next_ops(&mut drawn, &mut states);
            wipes = ops.last().is_some_and(|op| op.wipes().is_some());
        }
        let allowed = &states[heard.done..=heard.begun];
        let (found, left) = seen_in(home.path()).await;
        assert!(
            allowed.contains(&found),
            "{name}: {}",
            difference(&found, &allowed[0])
        );
        // An acknowledged wipe has taken the old key with it, before any start tidies up, and left the spare.
        let under_way = usize::from(wipes && heard.begun > heard.done);
        assert!(
            left.stale <= under_way && left.stale + left.later <= 1 + under_way,
            "{name}: {left:?} with {under_way} under way"
        );
        lost_none_of += heard.done;
        within += usize::from(heard.begun > heard.done);
        before = found;
    }
    println!(
        "{kills} kills, {within} of them within an operation, {births} before there was a store; \
         nothing lost of {lost_none_of} acknowledged operations"
    );
    assert!(within > kills / 10, "the kills hit something");
}

/// Renames one room as fast as it is answered, until nobody answers; the last name asked for and the last answered.
pub async fn rename_until_killed(
    at: SocketAddr,
    key: &str,
    (room, from): (usize, u32),
    told: impl Fn(u32),
) -> (u32, u32) {
    let mut answered = from;
    loop {
        let asked = answered + 1;
        let body = format!(r#"{{"name": "{asked}"}}"#);
        let request = format!(
            "PUT /api/v1/sessions/room-{room} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut answer = Vec::new();
        let exchange = async {
            let mut stream = TcpStream::connect(at).await?;
            stream.write_all(request.as_bytes()).await?;
            stream.read_to_end(&mut answer).await
        };
        let whole = exchange.await.is_ok();
        match answer.get(..12) {
            Some(b"HTTP/1.1 200" | b"HTTP/1.1 201") => {
                answered = asked;
                told(answered);
            }
            Some(first) if whole => panic!("{:?}", String::from_utf8_lossy(first)),
            _ => return (asked, answered),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_killed_while_it_answers_remembers_what_it_has_answered() {
    const ROOMS: usize = 6;
    let seed = seed();
    println!("HAIRPIN_SEED={seed} repeats this");
    let mut random = store_model::random(seed ^ 0x5052_4f47);
    let folder = tempfile::tempdir().expect("a folder");
    let sim = hairpin_sim::Sim::start().await;
    let mut names: Vec<(u32, u32)> = vec![(0, 0); ROOMS];
    let mut answers = 0;
    for kill in 0..=kills(6, 60) {
        let serve = Serve::start(folder.path(), &sim.url(), &[]);
        for (room, (asked, answered)) in names.iter_mut().enumerate() {
            let path = format!("/api/v1/sessions/room-{room}");
            let (status, body) = serve.ask("GET", &path, "").await.expect("answered");
            let name = match status {
                404 => 0,
                _ => body["name"].as_str().expect("a name").parse().expect("one"),
            };
            assert!(
                (*answered..=*asked).contains(&name),
                "HAIRPIN_SEED={seed}, kill {kill}: room {room} is {name}, but {answered} was answered"
            );
            *answered = name;
        }
        let (told, mut heard) = mpsc::unbounded_channel();
        let work = (0..ROOMS).map(|room| {
            let (at, key, told) = (serve.address, serve.key.clone(), told.clone());
            let from = names[room].1;
            // Whoever counts has counted enough once the kill is under way.
            let told = move |_| {
                let _ = told.send(());
            };
            tokio::spawn(async move { rename_until_killed(at, &key, (room, from), told).await })
        });
        let work: Vec<_> = work.collect();
        for _ in 0..random.random_range(0..80) {
            heard.recv().await.expect("somebody is at work");
        }
        serve.signal(rustix::process::Signal::KILL);
        for (room, work) in work.into_iter().enumerate() {
            let (asked, answered) = work.await.expect("no panic");
            answers += answered - names[room].1;
            names[room] = (asked, answered);
        }
        assert_eq!(serve.ended(), None, "killed");
    }
    println!("nothing lost of {answers} answers");
    assert!(answers > 50, "too few to tell: {answers}");
}
