//! Power cuts below the file system: a process works on ext4 over a disk that keeps a log of every write and flush
//! (QEMU's `blklogwrites`, reached through FUSE and a loop device). From the log, what the disk may hold at any moment
//! is built and mounted as after a restart; the program itself opens it, and it holds what was acknowledged by then.
//!
//! Mounts, loop devices and processes are in namespaces of their own, and are gone with them however a test ends.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use hairpin::store::{Options, Store};
use hairpin_sim::{Sim, SimConfig};
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::process::{Serve, run, whole};
use crate::rig::{ANNA, BORIS};
use crate::store_crash;
use crate::store_cut::{Cut, Kind};
use crate::store_kill::{Worker, keys, rename_until_killed, seen_in};
use crate::store_lab::Event;
use crate::store_model::{self, Op, State, difference, look, next_ops, write_devices};
use crate::store_support::folder;

/// Where a test that runs in its namespaces may mount what it likes.
const PLACE: &str = "HAIRPIN_TEST_PLACE";
const DISK_BYTES: u64 = 32 << 20;
/// What a disk writes whole or not at all: ext4's own block, which it relies on.
const BLOCK: usize = 4096;
const SECTOR: usize = 512;
const DISK: &str = "disk";
/// So many moments are cut at, for each test.
const CUTS: usize = 600;
/// So often is the process killed, and started again.
const LIVES: usize = 4;
/// It is killed after half as many operations at the least, and this at the most.
const LONGEST: usize = 400;
const ROOMS: usize = 3;
const REPLACEMENTS: usize = 30;
/// What may be missing of what was not flushed. Two writes to one place keep their order, or ext4 itself would not hold.
const KINDS: [Kind; 6] = [
    Kind::Nothing,
    Kind::Everything,
    Kind::Prefix,
    Kind::DropOne,
    Kind::OnlyOne,
    Kind::Subset,
];

// ---- the log --------------------------------------------------------------------------------

/// How many entries are in a log that is being written.
pub fn entries(log: &Path) -> usize {
    let mut number = [0; 8];
    std::fs::File::open(log)
        .and_then(|file| file.read_exact_at(&mut number, 16))
        .expect("a log with its head");
    usize::try_from(u64::from_le_bytes(number)).expect("few")
}

/// What a log says (the format is that of Linux's dm-log-writes): for each entry, blocks written or a flush.
fn parse(log: &[u8]) -> Vec<Vec<Event>> {
    const FLUSH: u64 = 1;
    const DISCARD: u64 = 4;
    let number = |at: usize| {
        let bytes = log[at..at + 8].try_into().expect("eight");
        u64::from_le_bytes(bytes)
    };
    let mut at = SECTOR;
    let mut entries = Vec::new();
    for _ in 0..number(16) {
        let (sector, sectors, flags) = (number(at), number(at + 8), number(at + 16));
        assert_eq!(flags & !(FLUSH | DISCARD), 0, "QEMU writes no others");
        at += SECTOR;
        let length = usize::try_from(sectors).expect("small") * SECTOR;
        let zeros;
        // What was discarded reads as zeros, and is not in the log.
        let data = if flags & DISCARD == 0 {
            at += length;
            &log[at - length..at]
        } else {
            zeros = vec![0; length];
            &zeros
        };
        let mut events = Vec::new();
        if flags & FLUSH != 0 {
            events.push(Event::Sync { file: 0 });
        }
        let mut offset = sector * SECTOR as u64;
        for block in data.chunks(BLOCK) {
            events.push(Event::Write {
                file: 0,
                offset,
                data: block.into(),
            });
            offset += block.len() as u64;
        }
        entries.push(events);
    }
    entries
}

/// What a disk got to see.
struct Record {
    events: Vec<Event>,
    /// Where in there one is after so many entries of the log.
    after: Vec<usize>,
}

impl Record {
    fn new(base: &[u8], log: &[u8]) -> Self {
        let mut events = vec![
            Event::Create {
                name: DISK.to_owned(),
                file: 0,
            },
            Event::SyncNames,
            Event::Write {
                file: 0,
                offset: 0,
                data: base.into(),
            },
            Event::Sync { file: 0 },
        ];
        let mut after = vec![events.len()];
        for entry in parse(log) {
            events.extend(entry);
            after.push(events.len());
        }
        Self { events, after }
    }

    /// What there is to cut.
    fn told(&self) -> String {
        let events = self.events[self.after[0]..].iter();
        let flushes = events.filter(|event| matches!(event, Event::Sync { .. }));
        let flushes = flushes.count();
        let writes = self.after.len() - 1 - flushes;
        format!("{writes} writes and {flushes} flushes of the disk")
    }

    /// So many moments to cut at, each another; most of them where most is under way, just before a flush.
    fn moments(&self, random: &mut StdRng, wanted: usize) -> BTreeSet<usize> {
        let all = self.after[0]..self.events.len();
        let flushes: Vec<usize> = all
            .clone()
            .filter(|at| matches!(self.events[*at], Event::Sync { .. }))
            .collect();
        assert!(flushes.len() > wanted, "{} flushes are few", flushes.len());
        let mut moments = BTreeSet::new();
        while moments.len() < wanted {
            moments.insert(if random.random_ratio(2, 5) {
                random.random_range(all.clone())
            } else {
                flushes[random.random_range(0..flushes.len())]
            });
        }
        moments
    }
}

// ---- disks ----------------------------------------------------------------------------------

/// Runs a test again with mounts and processes of its own, which the kernel takes away with it.
fn in_namespaces(test: &str) {
    assert!(
        rustix::process::geteuid().is_root(),
        "only root mounts file systems: run this as root"
    );
    let place = folder();
    let mut inside = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "--nocapture"])
        .arg(format!("power_cut::{test}"))
        .env(PLACE, place.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare of util-linux");
    for line in BufReader::new(inside.stdout.take().expect("piped")).lines() {
        println!("| {}", line.expect("text"));
    }
    assert!(inside.wait().expect("ended").success(), "see above");
}

/// The place that was made for this test, if it runs in its namespaces.
fn place() -> Option<PathBuf> {
    let place = PathBuf::from(std::env::var_os(PLACE)?);
    do_it(
        Command::new("mount")
            .args(["-t", "tmpfs", "power-cut"])
            .arg(&place),
    );
    Some(place)
}

fn do_it(command: &mut Command) {
    let done = command.output();
    let done = done.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

fn mount(disk: &Path, at: &Path) {
    do_it(Command::new("mount").args(["-o", "loop"]).args([disk, at]));
}

fn unmount(at: &Path) {
    do_it(Command::new("umount").arg(at));
}

/// An ext4 that is mounted over a disk with a log.
struct Watched {
    place: PathBuf,
    base: Vec<u8>,
}

impl Watched {
    fn mount(place: &Path) -> Self {
        let at = |name: &str| place.join(name);
        let disk = std::fs::File::create(at("disk")).expect("a file");
        disk.set_len(DISK_BYTES).expect("room");
        do_it(
            Command::new("mkfs.ext4")
                .args(["-q", "-b", "4096", "-E"])
                .arg("nodiscard,lazy_itable_init=0,lazy_journal_init=0")
                .arg(at("disk")),
        );
        let base = std::fs::read(at("disk")).expect("readable");
        std::fs::File::create(at("log")).expect("a file");
        std::fs::File::create(at("door")).expect("a file");
        std::fs::create_dir(at("mounted")).expect("a folder");
        std::fs::create_dir(at("found")).expect("a folder");
        let node = |name: &str| format!("file,node-name={name},filename={}", at(name).display());
        let door = at("door");
        // It comes back once the disk is there, and ends with the namespace.
        do_it(
            Command::new("qemu-storage-daemon")
                .arg("--daemonize")
                .args(["--blockdev", &node("disk"), "--blockdev", &node("log")])
                .arg("--blockdev")
                .arg("blklogwrites,node-name=both,file=disk,log=log,log-super-update-interval=1")
                .arg("--export")
                .arg(format!(
                    "fuse,id=door,node-name=both,mountpoint={},writable=on",
                    door.display()
                )),
        );
        mount(&door, &at("mounted"));
        Self {
            place: place.to_owned(),
            base,
        }
    }

    fn folder(&self) -> PathBuf {
        self.place.join("mounted")
    }

    fn log(&self) -> PathBuf {
        self.place.join("log")
    }

    fn end(self) -> Record {
        unmount(&self.folder());
        let log = std::fs::read(self.log()).expect("readable");
        Record::new(&self.base, &log)
    }
}

/// Cuts the power at so many moments; each time what the disk may hold is mounted and checked against what had
/// happened by so many entries of the log.
async fn cut(
    place: &Path,
    record: &Record,
    (seed, random): (u64, &mut StdRng),
    check: impl AsyncFn(&Path, usize, &[u8]) -> Result<(), String>,
) {
    let (file, found) = (place.join("image"), place.join("found"));
    let mut disk = Cut::default();
    let mut fed = 0;
    for (count, at) in record.moments(random, CUTS).into_iter().enumerate() {
        for event in &record.events[fed..at] {
            disk.feed(event);
        }
        fed = at;
        let kind = KINDS[random.random_range(0..KINDS.len())];
        let image = disk.image(kind, random).remove(DISK).expect("the disk");
        std::fs::write(&file, &image).expect("room");
        mount(&file, &found);
        let logged = record.after.partition_point(|after| *after <= at) - 1;
        if let Err(error) = check(&found, logged, &image).await {
            panic!("HAIRPIN_SEED={seed}, cut {count} after entry {logged}, {kind:?}: {error}");
        }
        unmount(&found);
    }
    println!("{CUTS} cuts, nothing lost");
}

/// How many blocks anywhere on a disk hold keys: in the key file, or left behind by one.
fn keys_on(disk: &[u8]) -> usize {
    let blocks = disk.chunks(BLOCK);
    blocks.filter(|block| block.starts_with(b"HPK1")).count()
}

/// What the program itself says of a store.
fn checked(home: &Path, data: &Path) -> Result<(), String> {
    let data = data.to_str().expect("text");
    let said = run(&["check", "--data-dir", data], home);
    if said.status.success() {
        Ok(())
    } else {
        let why = String::from_utf8_lossy(&said.stderr).into_owned();
        Err(format!("hairpin check: {why}"))
    }
}

// ---- random operations ----------------------------------------------------------------------

/// What a process did to a store until it was killed, several times over.
struct Work {
    /// The state after each operation; each life begins with the state it found.
    states: Vec<State>,
    /// Whether that operation brought a key along.
    adds_key: Vec<bool>,
    /// After so many entries of the log: the operations that were begun and acknowledged.
    marks: Vec<(usize, usize, usize)>,
}

async fn work(watched: &Watched, random: &mut StdRng) -> Work {
    let data = watched.folder().join("var/data");
    let devices = watched.place.join("devices");
    write_devices(&devices);
    let (mut states, mut adds_key, mut marks) = (Vec::new(), Vec::new(), Vec::new());
    let mut before = State::default();
    for _ in 0..LIVES {
        let seed: u64 = random.random();
        let mut worker = Worker::start(&data, &devices, seed, Some(&watched.log()));
        let enough = random.random_range(LONGEST / 2..LONGEST);
        while worker.done() < enough {
            worker.hear().expect("works until it is killed");
        }
        let heard = worker.kill();
        let first = states.len();
        let last = *heard.last().expect("it said something");
        let mut life = vec![before];
        let mut drawn = store_model::random(seed);
        adds_key.push(false);
        while life.len() <= last.begun {
            for op in next_ops(&mut drawn, &mut life) {
                adds_key.push(matches!(op, Op::Wipe(_, Some(_))));
            }
        }
        marks.extend(
            heard
                .iter()
                .map(|heard| (heard.logged, first + heard.begun, first + heard.done)),
        );
        before = seen_in(&data).await;
        assert!(
            life[last.done..=last.begun].contains(&before),
            "a kill loses something"
        );
        states.append(&mut life);
    }
    Work {
        states,
        adds_key,
        marks,
    }
}

impl Work {
    /// Says what is wrong with a disk that was found at a moment.
    async fn check(&self, found: &Path, logged: usize, image: &[u8]) -> Result<(), String> {
        let data = found.join("var/data");
        let known = self.marks.partition_point(|(at, _, _)| *at <= logged);
        let (begun, done) = match known.checked_sub(1) {
            Some(last) => (self.marks[last].1, self.marks[last].2),
            None => (0, 0),
        };
        let allowed = &self.states[done..=begun];
        let most = allowed.iter().map(|state| 1 + state.links.len()).max();
        let coming = &self.adds_key[done + 1..=begun];
        let most = most.expect("one") + coming.iter().filter(|adds| **adds).count();
        let used = keys_on(image);
        if used > most {
            return Err(format!(
                "{used} keys are on the disk, at most {most} may be"
            ));
        }
        if !data.join("hairpin.redb").exists() {
            let is_born = known > 0;
            return if is_born {
                Err("the store is gone".to_owned())
            } else {
                Ok(())
            };
        }
        checked(found, &data)?;
        let store = Store::open(&data, Options::default()).map_err(|error| error.to_string())?;
        let seen = look(&store).await.map_err(|error| error.to_string())?;
        store.close().await;
        if !allowed.contains(&seen) {
            let nearest = allowed.last().expect("one");
            return Err(format!("the wrong state: {}", difference(&seen, nearest)));
        }
        let used = keys(&data);
        if used != 1 + seen.links.len() {
            return Err(format!("{used} keys for {} links", seen.links.len()));
        }
        store_crash::whole(std::fs::read(data.join("hairpin.redb")).expect("readable"))
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes, and needs root, qemu-storage-daemon and mkfs.ext4: tests/run --long runs it"]
async fn a_power_cut_below_the_file_system_loses_nothing_of_random_operations() {
    const NAME: &str = "a_power_cut_below_the_file_system_loses_nothing_of_random_operations";
    let Some(place) = place() else {
        return in_namespaces(NAME);
    };
    let (seed, mut random) = store_crash::begin(7);
    let watched = Watched::mount(&place);
    let work = work(&watched, &mut random).await;
    let record = watched.end();
    println!(
        "{} acknowledged operations, {} new links, {} lives, {}",
        work.states.len() - LIVES,
        work.adds_key.iter().filter(|adds| **adds).count(),
        LIVES,
        record.told()
    );
    let cuts = (seed, &mut random);
    cut(&place, &record, cuts, async |found, logged, image| {
        work.check(found, logged, image).await
    })
    .await;
}

// ---- the program ----------------------------------------------------------------------------

/// What the program was asked for, or has answered.
#[derive(Debug, Clone, Copy)]
enum Fact {
    /// It answered that the room has this number for a name; the next one is asked for.
    Named { room: usize, name: u32 },
    /// It is asked for a code for this line.
    Asked(&'static str),
    /// It gave the code: an older link is gone.
    Coded(&'static str),
    /// It said that this line is connected.
    Connected(&'static str),
}

/// What it said, each with the length of the disk's log after it.
#[derive(Clone)]
struct Facts {
    log: PathBuf,
    all: Arc<Mutex<Vec<(usize, Fact)>>>,
}

impl Facts {
    fn note(&self, fact: Fact) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((entries(&self.log), fact));
    }
}

/// Renames rooms and replaces links by way of the program, until it is killed.
async fn serve(watched: &Watched) -> Vec<(usize, Fact)> {
    let sim = Sim::start_with(SimConfig {
        hellos_per_number: usize::MAX,
        max_devices: usize::MAX,
        ..SimConfig::default()
    })
    .await;
    let facts = Facts {
        log: watched.log(),
        all: Arc::default(),
    };
    let serve = Serve::start(&watched.folder(), &sim.url(), &[]);
    let rooms: Vec<_> = (0..ROOMS)
        .map(|room| {
            let (at, key, facts) = (serve.address, serve.key.clone(), facts.clone());
            let told = move |name| facts.note(Fact::Named { room, name });
            tokio::spawn(async move { rename_until_killed(at, &key, (room, 0), told).await })
        })
        .collect();
    for turn in 0..REPLACEMENTS {
        let line = if turn % 2 == 0 { ANNA } else { BORIS };
        facts.note(Fact::Asked(line));
        let (mut status, mut answer) = serve.code(line, None).await;
        if let (409, Some(id)) = (status, answer["linkId"].as_str()) {
            (status, answer) = serve.code(line, Some(id)).await;
        }
        assert_eq!(status, 200, "{answer}");
        facts.note(Fact::Coded(line));
        let code = answer["code"].as_str().expect("a code");
        sim.phone(line).enter_code(code).await.expect("linked");
        serve.state("CONNECTED").await;
        facts.note(Fact::Connected(line));
    }
    serve.kill();
    for room in rooms {
        room.await.expect("no panic");
    }
    let mut all = facts.all.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut all)
}

/// Says what is wrong with a disk that was found when only the given facts were known.
async fn remembers(found: &Path, facts: &[(usize, Fact)], image: &[u8]) -> Result<(), String> {
    let mut names = [0; ROOMS];
    let mut lines: Vec<Fact> = Vec::new();
    for (_, fact) in facts {
        match fact {
            Fact::Named { room, name } => names[*room] = *name,
            line => lines.push(*line),
        }
    }
    // Of the link that is there, and of the one that comes; of the house.
    let most = 1 + lines.len().min(1) + usize::from(matches!(lines.last(), Some(Fact::Asked(_))));
    let used = keys_on(image);
    if used > most {
        return Err(format!(
            "{used} keys are on the disk, at most {most} may be"
        ));
    }
    let data = found.join(".local/share/hairpin");
    if !data.join("hairpin.redb").exists() {
        let is_born = !facts.is_empty();
        return if is_born {
            Err("the store is gone".to_owned())
        } else {
            Ok(())
        };
    }
    checked(found, &data)?;
    let home = found.to_owned();
    tokio::spawn(async move { whole(&home, &mut Vec::new()).await })
        .await
        .map_err(|error| error.to_string())?;
    let store = Store::open(&data, Options::default()).map_err(|error| error.to_string())?;
    let sessions = store.sessions().map_err(|error| error.to_string())?;
    let row = store.link("salon").map_err(|error| error.to_string())?;
    store.close().await;
    for (room, answered) in names.into_iter().enumerate() {
        let id = format!("room-{room}");
        let row = sessions.iter().find(|row| row.id == id);
        let name = row.map_or(0, |row| row.name.parse().expect("a number"));
        if name < answered {
            return Err(format!(
                "room {room} is {name}, but {answered} was answered"
            ));
        }
    }
    let line = row.as_ref().map(|row| row.line.as_str());
    let is_linked = row.as_ref().is_some_and(|row| row.linked.is_some());
    let is_right = match lines[..] {
        [] => line.is_none(),
        [Fact::Asked(new)] => line.is_none_or(|line| line == new),
        [.., Fact::Connected(old), Fact::Asked(new)] => match line {
            Some(line) if line == old => is_linked,
            line => line == Some(new),
        },
        [.., Fact::Coded(new)] => line == Some(new),
        [.., Fact::Connected(new)] => line == Some(new) && is_linked,
        _ => unreachable!("in their order"),
    };
    if !is_right {
        return Err(format!("{row:?} is found after {:?}", lines.last()));
    }
    store_crash::whole(std::fs::read(data.join("hairpin.redb")).expect("readable"))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes, and needs root, qemu-storage-daemon and mkfs.ext4: tests/run --long runs it"]
async fn a_power_cut_below_the_file_system_loses_nothing_that_the_program_has_answered() {
    const NAME: &str =
        "a_power_cut_below_the_file_system_loses_nothing_that_the_program_has_answered";
    let Some(place) = place() else {
        return in_namespaces(NAME);
    };
    let (seed, mut random) = store_crash::begin(8);
    let watched = Watched::mount(&place);
    let facts = serve(&watched).await;
    let record = watched.end();
    println!(
        "{} answers, {REPLACEMENTS} links, {}",
        facts.len(),
        record.told()
    );
    let cuts = (seed, &mut random);
    cut(&place, &record, cuts, async |found, logged, image| {
        let known = facts.partition_point(|(at, _)| *at <= logged);
        remembers(found, &facts[..known], image).await
    })
    .await;
}

#[test]
fn a_log_of_writes_is_read_back_block_by_block() {
    let entry = |sector: u64, sectors: u64, flags: u64, data: &[u8]| {
        let mut head = [sector, sectors, flags, 0].map(u64::to_le_bytes).concat();
        head.resize(SECTOR, 0);
        [&head, data].concat()
    };
    let mut log = [0x006a_7366_7773_6872, 1, 4, 512]
        .map(u64::to_le_bytes)
        .concat();
    log.resize(SECTOR, 0);
    let data: Vec<u8> = (0..9 * SECTOR).map(|at| (at / SECTOR) as u8 + 1).collect();
    log.extend(entry(8, 9, 0, &data));
    log.extend(entry(0, 0, 1, &[]));
    log.extend(entry(16, 1, 4, &[]));
    log.extend(entry(8, 1, 0, &[0xff; SECTOR]));
    // What is being written is not counted yet.
    log.extend(entry(8, 1, 0, &[0xee; SECTOR])[..100].iter());

    let record = Record::new(&[0xaa; 32 * SECTOR], &log);
    let mut disk = Cut::default();
    for event in &record.events {
        disk.feed(event);
    }
    let mut random = store_model::random(1);
    let mut found = |kind| disk.image(kind, &mut random).remove(DISK).expect("there");
    let mut wanted = vec![0xaa; 32 * SECTOR];
    wanted[8 * SECTOR..17 * SECTOR].copy_from_slice(&data);
    assert!(found(Kind::Nothing) == wanted, "what was flushed is there");
    wanted[16 * SECTOR..17 * SECTOR].fill(0);
    wanted[8 * SECTOR..9 * SECTOR].fill(0xff);
    assert!(found(Kind::Everything) == wanted, "and what was not may be");
    let blocks = record.after.windows(2).map(|pair| pair[1] - pair[0]);
    assert_eq!(blocks.collect::<Vec<_>>(), [2, 1, 1, 1]);
}
