//! Owns a disk with a log of every write and flush below an ext4 (QEMU's `blklogwrites`, reached through FUSE and a loop
//! device), and what such a disk may hold after a power cut at any moment.
//!
//! Mounts, loop devices and processes are in namespaces of their own, and are gone with them however a test ends.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::store_cut::{Cut, Kind};
use crate::store_lab::Event;
use crate::store_model;
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
pub struct Record {
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
    pub fn told(&self) -> String {
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
pub fn in_namespaces(test: &str) {
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
pub fn place() -> Option<PathBuf> {
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
pub struct Watched {
    pub place: PathBuf,
    base: Vec<u8>,
}

impl Watched {
    pub fn mount(place: &Path) -> Self {
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

    pub fn folder(&self) -> PathBuf {
        self.place.join("mounted")
    }

    pub fn log(&self) -> PathBuf {
        self.place.join("log")
    }

    pub fn end(self) -> Record {
        unmount(&self.folder());
        let log = std::fs::read(self.log()).expect("readable");
        Record::new(&self.base, &log)
    }
}

/// Cuts the power at so many moments; each time what the disk may hold is mounted and checked against what had
/// happened by so many entries of the log.
pub async fn cut(
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
    let data: Vec<u8> = (0..9 * SECTOR)
        .map(|at| [1, 2, 3, 4, 5, 6, 7, 8, 9][at / SECTOR])
        .collect();
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
