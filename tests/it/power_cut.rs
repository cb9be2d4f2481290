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

use hairpin::store::{Options, Store};
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::process::run;
use crate::store_crash;
use crate::store_cut::{Cut, Kind};
use crate::store_kill::{Worker, keys, seen_in};
use crate::store_lab::Event;
use crate::store_model::{self, Op, State, difference, look, next_ops, write_devices};
use crate::store_support::folder;

/// Where a test that runs in its namespaces may mount what it likes.
const PLACE: &str = "HAIRPIN_TEST_PLACE";
const DISK_BYTES: u64 = 32 << 20;
/// What a disk writes whole or not at all: ext4's own block, which it relies on.
const BLOCK: usize = 4096;
const SECTOR: usize = 512;
const NAME: &str = "disk";
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
                name: NAME.to_owned(),
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
        .args(["--ignored", "--exact", "--nocapture", test])
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
    do_it(Command::new("mount").args(["-t", "tmpfs", "power-cut"]).arg(&place));
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

/// Cuts the power at so many moments; each time what the disk may hold is mounted and checked.
async fn cut(
    place: &Path,
    record: &Record,
    (seed, random): (u64, &mut StdRng),
    wanted: usize,
    check: impl AsyncFn(&Path, usize, &[u8]) -> Result<(), String>,
) {
    let (file, found) = (place.join("image"), place.join("found"));
    let mut disk = Cut::default();
    let mut fed = 0;
    for (count, at) in record.moments(random, wanted).into_iter().enumerate() {
        for event in &record.events[fed..at] {
            disk.feed(event);
        }
        fed = at;
        let kind = KINDS[random.random_range(0..KINDS.len())];
        let image = disk.image(kind, random).remove(NAME).expect("the disk");
        std::fs::write(&file, &image).expect("room");
        mount(&file, &found);
        if let Err(error) = check(&found, at, &image).await {
            panic!("HAIRPIN_SEED={seed}, cut {count} at event {at}, {kind:?}: {error}");
        }
        unmount(&found);
    }
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

async fn work(watched: &Watched, random: &mut StdRng, lives: usize, longest: usize) -> Work {
    let data = watched.folder().join("var/data");
    let devices = watched.place.join("devices");
    write_devices(&devices);
    let (mut states, mut adds_key, mut marks) = (Vec::new(), Vec::new(), Vec::new());
    let mut before = State::default();
    for _ in 0..lives {
        let seed: u64 = random.random();
        let mut worker = Worker::start(&data, &devices, seed, Some(&watched.log()));
        let enough = random.random_range(longest / 2..longest);
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
        marks.extend(heard.iter().map(|heard| (heard.logged, first + heard.begun, first + heard.done)));
        before = seen_in(&data).await;
        assert!(life[last.done..=last.begun].contains(&before), "a kill loses something");
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
            return Err(format!("{used} keys are on the disk, at most {most} may be"));
        }
        if !data.join("hairpin.redb").exists() {
            let is_born = known > 0;
            return if is_born { Err("the store is gone".to_owned()) } else { Ok(()) };
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
    let Some(place) = place() else {
        return in_namespaces("power_cut::a_power_cut_below_the_file_system_loses_nothing_of_random_operations");
    };
    let (seed, mut random) = store_crash::begin(7);
    let watched = Watched::mount(&place);
    let work = work(&watched, &mut random, 4, 400).await;
    let record = watched.end();
    println!("{} operations, {} wipes, {} entries of the log", work.states.len(), work.adds_key.iter().filter(|adds| **adds).count(), record.after.len());
    let logged = |at: usize| record.after.partition_point(|after| *after <= at) - 1;
    cut(&place, &record, (seed, &mut random), 600, async |found, at, image| {
        work.check(found, logged(at), image).await
    })
    .await;
    println!("600 cuts");
}
