//! A year of traffic leaves the store's file, the program's memory and the time of a start as they were. It passes in a
//! process of its own, whose memory is the store's alone.

use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hairpin::store::{Disk, DiskFile, Folder, Options, Store};
use whatsapp_rust::wacore::time::set_time_provider;

use crate::store_support::{SALON, backend, copy, folder, in_use, open};
use crate::store_year::{Calendar, MONTH, Scale, Year};

/// Tells the process that it is the one in which the year passes, and where.
const YEAR_IN: &str = "HAIRPIN_YEAR_IN";
/// Everything that is kept for a while has been expiring for long.
const SETTLED: u32 = 60;

/// How things stand.
#[derive(Debug, Clone, Copy)]
struct Measure {
    /// The store's file.
    file: u64,
    in_use: u64,
    keys: u64,
    /// Memory of this process alone, in bytes: not what is mapped from files.
    memory: u64,
    /// What a start reads, after a stop and after a kill, and how long it takes.
    read: [u64; 2],
    took: [Duration; 2],
}

/// What a start reads of a folder's files, and how long the quickest took.
async fn start(folder: &Path) -> (u64, Duration) {
    let mut quickest = (0, Duration::MAX);
    for _ in 0..5 {
        let copy = copy(folder);
        let read = Arc::new(AtomicU64::new(0));
        let disk = Counting {
            folder: Folder::new(copy.path()),
            read: Arc::clone(&read),
        };
        let started = Instant::now();
        let store = Store::open_on(Arc::new(disk), Options::default()).expect("opened");
        store.link(SALON).expect("readable").expect("the link");
        let took = started.elapsed();
        quickest = (read.load(Ordering::SeqCst), took.min(quickest.1));
        store.close().await;
    }
    quickest
}

async fn measure(store: &Store, folder: &Path) -> Measure {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let memory = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .expect("a size")
        * 1024;
    let killed = start(folder).await;
    let in_use = in_use(folder);
    let file = store.size_bytes();
    store.close().await;
    let stopped = start(folder).await;
    let keys = std::fs::metadata(folder.join("hairpin.keys")).expect("there");
    Measure {
        file,
        in_use,
        keys: keys.len(),
        memory,
        read: [stopped.0, killed.0],
        took: [stopped.1, killed.1],
    }
}

async fn live_through_it(folder: &Path) {
    set_time_provider(Calendar).expect("the first");
    let scale = Scale::get();
    let mut store = open(folder);
    let mut year = Year::new(scale, backend(&store, SALON).await);
    year.link().await;
    let mut months: Vec<Measure> = Vec::new();
    for day in 1..=scale.days {
        year.day(day).await;
        if day >= SETTLED && (day.is_multiple_of(MONTH) || day == scale.days) {
            let measure = measure(&store, folder).await;
            println!("day {day}: {measure:?}");
            months.push(measure);
            store = open(folder);
            let row = store.link(SALON).expect("readable").expect("the link");
            year.rows = Arc::new(store.backend(SALON, row.epoch));
        }
    }
    let (first, last) = (months[0], months[months.len() - 1]);
    // A year's rows come and go by chance: as many as an eighth more or fewer.
    let flat = |what: &str, first: u64, last: u64, slack: u64| {
        let most = first + first / 8 + slack;
        assert!(last <= most, "{what}: {first}, then {last}");
    };
    flat("in use", first.in_use, last.in_use, 0);
    flat("keys", first.keys, last.keys, 0);
    // The first measurement itself leaves memory behind.
    flat("memory", months[1].memory, last.memory, 1 << 20);
    for month in &months {
        let (in_use, file) = (month.in_use, month.file);
        assert!(file <= 3 * in_use, "a file of {file} for {in_use}");
        for (first, then) in first.read.into_iter().zip(month.read) {
            flat("read by a start", first, then, 64 << 10);
        }
    }
    for how in [0, 1] {
        // A busy machine may make any of them slower, but not all.
        let then = months[1..].iter().map(|month| month.took[how]).min();
        let (first, then) = (first.took[how], then.expect("some"));
        let most = 2 * first + Duration::from_millis(2);
        assert!(then <= most, "a start took {first:?}, then {then:?}");
    }
    store.close().await;
}

#[test]
fn a_years_traffic_leaves_file_memory_and_start_as_they_were() {
    if let Some(folder) = std::env::var_os(YEAR_IN) {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        return runtime
            .expect("a runtime")
            .block_on(live_through_it(Path::new(&folder)));
    }
    let folder = folder();
    let year = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "--nocapture"])
        .arg("store_growth::a_years_traffic_leaves_file_memory_and_start_as_they_were")
        .env(YEAR_IN, folder.path())
        .output()
        .expect("run");
    let (out, err) = (
        String::from_utf8_lossy(&year.stdout),
        String::from_utf8_lossy(&year.stderr),
    );
    println!("{out}");
    assert!(year.status.success(), "{err}");
    assert!(out.contains("1 passed"), "it did not run");
}

/// A folder that counts what is read of the store.
#[derive(Debug)]
struct Counting {
    folder: Folder,
    read: Arc<AtomicU64>,
}

impl Disk for Counting {
    fn folder(&self) -> &Path {
        self.folder.folder()
    }

    fn prepare(&self, create: bool) -> io::Result<()> {
        self.folder.prepare(create)
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        self.folder.size(name)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(CountingFile {
            file: self.folder.open(name)?,
            read: Arc::clone(&self.read),
        }))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.folder.create(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.folder.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.folder.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        self.folder.sync()
    }
}

#[derive(Debug)]
struct CountingFile {
    file: Box<dyn DiskFile>,
    read: Arc<AtomicU64>,
}

impl DiskFile for CountingFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let read = u64::try_from(out.len()).expect("small");
        self.read.fetch_add(read, Ordering::SeqCst);
        self.file.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}
