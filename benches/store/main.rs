//! The store against upstream's SQLite store, the old service's two statements on PostgreSQL, and the bare disk.
//!
//! `cargo bench --bench store` runs everything; words after `--` choose races by their titles. `HAIRPIN_BENCH_QUICK=1`
//! only shows that it works. `cargo bench --bench store -- wipe-once ours 1000` does one wipe between two marks on
//! standard error, for `benches/syscalls`.

#[path = "../common/links.rs"]
mod links;
mod postgres;
#[path = "../common/race.rs"]
mod race;
mod salon;
mod sqlite;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use hairpin::store::{Options, Store};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use whatsapp_rust::traits::{DeviceStore, SignalStore};

use links::{Lines, Ours, RECORD, address, fill, load, record};
use postgres::Postgres;
use race::{Claims, Race, quick, timed};
use salon::Kind;
use sqlite::Sqlite;

const OURS: &str = "hairpin";
const SQLITE: &str = "SQLite store, FULL";
const POSTGRES: &str = "PostgreSQL, socket";
const POOLED: &str = "PostgreSQL, pool of 10";
const RAW: &str = "fdatasync of 4 KiB";

const SESSION: &str = "salon";
/// The line that is stored where nothing is wiped.
const LINE: &str = "79001234567";
/// Sessions in the race of a hundred wipes.
const CROWD: u32 = 100;
/// Key rows of each of them.
const CROWD_ROWS: u32 = 50;
const WRITERS: u32 = 32;
/// Puts that each writer does, one after the other.
const PUTS: u32 = 10;
/// The bound for a salon's file, and contract enough for a restart that nobody notices.
const OPEN_WITHIN: Duration = Duration::from_millis(20);

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    // One thread drives all clients alike, as the old service's did; the servers and stores have theirs.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [salon::ARGUMENT, kind, folder] => salon::live(&runtime, kind, Path::new(folder)),
        ["wipe-once", kind, rows] => {
            wipe_once(&runtime, kind, rows.parse().expect("a number of rows"));
        }
        _ => run_all(&runtime, &words),
    }
}

fn run_all(runtime: &Runtime, words: &[String]) {
    links::describe_place();
    let postgres = Postgres::start(runtime);
    let bench = Bench {
        runtime,
        postgres: postgres.as_ref(),
        disk: Disk::new(),
    };
    let mut claims = Claims::default();
    let wanted = |title: &str| words.is_empty() || words.iter().any(|word| title.contains(word));
    if wanted("check") {
        bench.check(&mut claims);
    }
    for (rows, rounds) in [(50, 60), (1_000, 60), (10_000, 30), (100_000, 7)] {
        if wanted("wipe") && !(quick() && rows > 10_000) {
            bench.wipe(rows, rounds, &mut claims);
        }
    }
    if wanted("crowd") {
        bench.crowd(&mut claims);
    }
    if wanted("put") {
        bench.lone_put();
        bench.batch();
        bench.writers(&mut claims);
    }
    if wanted("open") {
        bench.open(&mut claims);
    }
    if wanted("load") {
        bench.load();
    }
    claims.print();
}

struct Bench<'a> {
    runtime: &'a Runtime,
    postgres: Option<&'a Postgres>,
    disk: Disk,
}

impl Bench<'_> {
    /// A read of one row each: too short to be timed alone where no socket is in between.
    fn check(&self, claims: &mut Claims) {
        const OFTEN: u32 = 1_000;
        let ours = Ours::new();
        let sqlite = Sqlite::new(self.runtime);
        self.runtime.block_on(async {
            ours.check_and_wipe(SESSION, LINE).await;
            fill(&ours.backend(SESSION), 1_000).await;
            sqlite.name_line(LINE).await;
            fill(&sqlite.store, 1_000).await;
            if let Some(postgres) = self.postgres {
                postgres.fill("check", LINE, 1_000).await;
            }
        });
        ours.settle(self.runtime);
        let mut race = Race::new("check: is the asked number the stored line?", 200)
            .with(OURS, || {
                let (took, ()) = timed(|| {
                    for _ in 0..OFTEN {
                        assert!(ours.is_line(SESSION, LINE));
                    }
                });
                took / OFTEN
            })
            .with(SQLITE, || {
                let (took, same) = timed(|| self.runtime.block_on(sqlite.is_line(LINE)));
                assert!(same);
                took
            });
        if let Some(postgres) = self.postgres {
            race = race.with(POSTGRES, || {
                let (took, same) = timed(|| self.runtime.block_on(postgres.is_line("check", LINE)));
                assert!(same);
                took
            });
        }
        let table = race.run();
        claims.at_least(&table, POSTGRES, OURS, 30.0);
    }

    fn wipe(&self, rows: u32, rounds: usize, claims: &mut Claims) {
        let ours = Ours::new();
        let sqlite = Sqlite::new(self.runtime);
        let runtime = self.runtime;
        let lines = Lines::default();
        runtime.block_on(ours.check_and_wipe(SESSION, &lines.next()));
        ours.settle(runtime);
        let mut race = Race::new(format!("check + wipe, {rows} key rows"), rounds)
            .with(OURS, || {
                runtime.block_on(fill(&ours.backend(SESSION), rows));
                let line = lines.next();
                let (took, ()) = timed(|| runtime.block_on(ours.check_and_wipe(SESSION, &line)));
                ours.settle(runtime);
                took
            })
            .with(SQLITE, || {
                runtime.block_on(async {
                    sqlite.name_line("79007654321").await;
                    fill(&sqlite.store, rows).await;
                });
                sqlite.checkpoint();
                let (took, ()) = timed(|| {
                    assert!(!runtime.block_on(sqlite.is_line(LINE)));
                    sqlite.wipe(1);
                });
                took
            });
        if let Some(postgres) = self.postgres {
            race = race.with(POSTGRES, || {
                runtime.block_on(async {
                    postgres.fill("wipe", "79007654321", rows).await;
                    postgres.checkpoint().await;
                });
                let (took, ()) = timed(|| runtime.block_on(postgres.check_and_wipe("wipe", LINE)));
                runtime.block_on(postgres.vacuum());
                took
            });
        }
        let table = race.with(RAW, || self.disk.sync()).run();
        let (postgres, sqlite) = match rows {
            1_000 => (4.0, 3.0),
            10_000 => (10.0, 10.0),
            _ => return,
        };
        claims.at_least(&table, POSTGRES, OURS, postgres);
        claims.at_least(&table, SQLITE, OURS, sqlite);
    }

    /// A hundred sessions are asked for another line at the same moment.
    fn crowd(&self, claims: &mut Claims) {
        let ours = Ours::new();
        let sqlite = Sqlite::new(self.runtime);
        let runtime = self.runtime;
        let sessions: Vec<String> = (0..CROWD).map(|n| format!("s{n}")).collect();
        let lines = Lines::default();
        runtime.block_on(async {
            for session in &sessions {
                ours.check_and_wipe(session, &lines.next()).await;
            }
            fill(&sqlite.store, CROWD_ROWS).await;
        });
        ours.settle(runtime);
        let title = format!("{CROWD} wipes at once, {CROWD_ROWS} key rows each");
        let mut race = Race::new(title, 30)
            .with(OURS, || {
                runtime.block_on(async {
                    for session in &sessions {
                        fill(&ours.backend(session), CROWD_ROWS).await;
                    }
                });
                let line = lines.next();
                let (took, _) = timed(|| {
                    let wipes = sessions.iter().map(|s| ours.check_and_wipe(s, &line));
                    runtime.block_on(join_all(wipes))
                });
                ours.settle(runtime);
                took
            })
            // One writer is all that SQLite has: they queue, and nothing but the wipes is counted.
            .with(SQLITE, || {
                let devices = || 2..2 + CROWD;
                sqlite.copy_to(devices());
                sqlite.checkpoint();
                let (took, ()) = timed(|| devices().for_each(|device| sqlite.wipe(device)));
                took
            });
        if let Some(postgres) = self.postgres {
            race = race.with(POOLED, || {
                runtime.block_on(async {
                    for session in &sessions {
                        postgres.fill(session, "79007654321", CROWD_ROWS).await;
                    }
                    postgres.checkpoint().await;
                });
                let (took, _) = timed(|| {
                    let wipes = sessions.iter().map(|s| postgres.check_and_wipe(s, LINE));
                    runtime.block_on(join_all(wipes))
                });
                runtime.block_on(postgres.vacuum());
                took
            });
        }
        let table = race.with(RAW, || self.disk.sync()).run();
        claims.at_least(&table, POOLED, OURS, 5.0);
    }

    fn lone_put(&self) {
        let both = self.both();
        let (mut one, mut other) = (0, 0);
        Race::new("lone put of a session", 400)
            .with(OURS, || {
                one += 1;
                self.put(&both.ours.backend(SESSION), one)
            })
            .with(SQLITE, || {
                other += 1;
                self.put(&both.sqlite.store, other)
            })
            .with(RAW, || self.disk.sync())
            .run();
    }

    fn put(&self, backend: &impl SignalStore, seed: u32) -> Duration {
        let (address, row) = (address(seed % 500), record(seed, RECORD));
        let (took, stored) = timed(|| self.runtime.block_on(backend.put_session(&address, &row)));
        stored.expect("stored");
        took
    }

    fn batch(&self) {
        let both = self.both();
        let (mut one, mut other) = (0, 0);
        Race::new("batch of 30 sessions", 300)
            .with(OURS, || {
                one += 1;
                self.put_thirty(&both.ours.backend(SESSION), one)
            })
            .with(SQLITE, || {
                other += 1;
                self.put_thirty(&both.sqlite.store, other)
            })
            .with(RAW, || self.disk.sync())
            .run();
    }

    fn put_thirty(&self, backend: &impl SignalStore, seed: u32) -> Duration {
        let rows: Vec<_> = (0..30)
            .map(|row| {
                // Scattered over the table, as contacts write when they please.
                let at = (seed * 31 + row * 17) % 500;
                (address(at), record(seed + row, RECORD))
            })
            .collect();
        let (took, stored) = timed(|| self.runtime.block_on(backend.put_sessions_batch(&rows)));
        stored.expect("stored");
        took
    }

    fn writers(&self, claims: &mut Claims) {
        let both = self.both();
        let (mut one, mut other) = (0, 0);
        let title = format!("{WRITERS} writers at once, per put");
        let table = Race::new(title, 60)
            .with(OURS, || {
                one += 1;
                self.crowded_puts(&both.ours.backend(SESSION), one)
            })
            .with(SQLITE, || {
                other += 1;
                self.crowded_puts(&both.sqlite.store, other)
            })
            .with(RAW, || self.disk.sync())
            .run();
        claims.at_least(&table, SQLITE, OURS, 1.0);
    }

    fn crowded_puts(&self, backend: &impl SignalStore, seed: u32) -> Duration {
        let row = record(seed, RECORD);
        let row = &row;
        let writers = (0..WRITERS).map(|writer| async move {
            for put in 0..PUTS {
                let address = address((writer * PUTS + put) % 500);
                let stored = backend.put_session(&address, row).await;
                stored.expect("stored");
            }
        });
        let (took, _) = timed(|| self.runtime.block_on(join_all(writers)));
        took / (WRITERS * PUTS)
    }

    fn open(&self, claims: &mut Claims) {
        let size = |folder: &TempDir, file| {
            let length = std::fs::metadata(folder.path().join(file)).map_or(0, |f| f.len());
            format!("{} KiB", length / 1024)
        };
        for (what, how) in [("closed in order", false), ("left by kill -9", true)] {
            let left = |kind| {
                if how {
                    salon::killed(kind)
                } else {
                    salon::closed(self.runtime, kind)
                }
            };
            let (ours, sqlite) = (left(Kind::Ours), left(Kind::Sqlite));
            let title = format!(
                "open of a salon's file, {what} (hairpin {}, SQLite {})",
                size(&ours, "hairpin.redb"),
                size(&sqlite, sqlite::FILE)
            );
            let table = Race::new(title, 60)
                .with(OURS, || {
                    let folder = copy(&ours);
                    let (took, store) = timed(|| Store::open(folder.path(), Options::default()));
                    self.runtime.block_on(store.expect("opened").close());
                    took
                })
                .with(SQLITE, || {
                    let folder = copy(&sqlite);
                    let (took, _store) = timed(|| {
                        self.runtime.block_on(async {
                            let store = sqlite::open(folder.path()).await;
                            // Ours has read by then what it names; this one recovers its log at the first read.
                            assert!(store.exists().await.expect("read"));
                            store
                        })
                    });
                    took
                })
                .run();
            claims.within(&table, OURS, OPEN_WITHIN);
        }
    }

    fn load(&self) {
        for rows in [1_000, 10_000] {
            let ours = Ours::new();
            let sqlite = Sqlite::new(self.runtime);
            let session = format!("load{rows}");
            self.runtime.block_on(async {
                ours.check_and_wipe(SESSION, LINE).await;
                fill(&ours.backend(SESSION), rows).await;
                fill(&sqlite.store, rows).await;
                if let Some(postgres) = self.postgres {
                    postgres.fill(&session, LINE, rows - 1).await;
                }
            });
            let whole = usize::try_from(rows).expect("small");
            let mut race = Race::new(format!("load of all {rows} key rows"), 30)
                .with(OURS, || {
                    let backend = ours.backend(SESSION);
                    let (took, seen) = timed(|| self.runtime.block_on(load(&backend, rows)));
                    assert_eq!(seen, whole);
                    took
                })
                .with(SQLITE, || {
                    let (took, seen) = timed(|| self.runtime.block_on(load(&sqlite.store, rows)));
                    assert_eq!(seen, whole);
                    took
                });
            if let Some(postgres) = self.postgres {
                race = race.with(POSTGRES, || {
                    let (took, seen) = timed(|| self.runtime.block_on(postgres.load(&session)));
                    assert_eq!(seen, whole);
                    took
                });
            }
            race.run();
        }
    }

    /// Both stores with a thousand key rows in them.
    fn both(&self) -> Both {
        let both = Both {
            ours: Ours::new(),
            sqlite: Sqlite::new(self.runtime),
        };
        self.runtime.block_on(async {
            both.ours.check_and_wipe(SESSION, LINE).await;
            fill(&both.ours.backend(SESSION), 1_000).await;
            fill(&both.sqlite.store, 1_000).await;
        });
        both.ours.settle(self.runtime);
        both
    }
}

struct Both {
    ours: Ours,
    sqlite: Sqlite,
}

/// The floor: nothing durable is faster than this.
struct Disk {
    file: File,
    _folder: TempDir,
}

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = File::create(folder.path().join("block")).expect("a file");
        file.write_all_at(&[0; 4096], 0).expect("written");
        file.sync_all().expect("synced");
        Self {
            file,
            _folder: folder,
        }
    }

    fn sync(&self) -> Duration {
        let (took, ()) = timed(|| {
            self.file.write_all_at(&[1; 4096], 0).expect("written");
            self.file.sync_data().expect("synced");
        });
        took
    }
}

/// On the disk, as what a kill leaves has been since its last commit: an opening is not to write the copy out.
fn copy(folder: &TempDir) -> TempDir {
    let new = tempfile::tempdir().expect("a folder");
    for file in std::fs::read_dir(folder.path()).expect("listed") {
        let file = file.expect("listed");
        let path = new.path().join(file.file_name());
        std::fs::copy(file.path(), &path).expect("copied");
        File::open(path)
            .expect("opened")
            .sync_all()
            .expect("synced");
    }
    new
}

/// One wipe between two marks.
fn wipe_once(runtime: &Runtime, kind: &str, rows: u32) {
    if kind == "ours" {
        let ours = Ours::new();
        let lines = Lines::default();
        for _ in 0..3 {
            // Not the first one of its kind: the file has grown to what it needs.
            runtime.block_on(ours.check_and_wipe(SESSION, &lines.next()));
            ours.settle(runtime);
            runtime.block_on(fill(&ours.backend(SESSION), rows));
        }
        eprintln!("MARK wipe begins");
        runtime.block_on(ours.check_and_wipe(SESSION, &lines.next()));
        eprintln!("MARK wipe acknowledged");
        ours.settle(runtime);
        eprintln!("MARK sweep over");
    } else {
        let sqlite = Sqlite::new(runtime);
        runtime.block_on(async {
            sqlite.name_line(LINE).await;
            fill(&sqlite.store, rows).await;
        });
        eprintln!("MARK wipe begins");
        sqlite.wipe(1);
        eprintln!("MARK wipe acknowledged");
        eprintln!("MARK sweep over");
    }
}
