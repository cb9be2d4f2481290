//! Owns a process that is measured: started, said to be ready, looked at while it idles, ended.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Between two looks at a process that settles.
const LOOK: Duration = Duration::from_millis(250);
/// As many looks alike, and it idles.
const ALIKE: u32 = 8;
/// It is measured as it is, if it never settles.
const LOOKS: u32 = 80;

/// A process that runs until this is dropped.
pub struct Running(Child);

impl Running {
    /// Starts it, and waits for the line that says it is ready.
    pub fn start(command: &mut Command, ready: &str) -> (Self, Duration) {
        let started = Instant::now();
        let child = command.stdout(Stdio::piped()).spawn().expect("started");
        let mut running = Self(child);
        let out = running.0.stdout.take().expect("piped");
        let said = BufReader::new(out)
            .lines()
            .map_while(Result::ok)
            .any(|line| line.starts_with(ready));
        let took = started.elapsed();
        assert!(said, "it ended before it said {ready:?}");
        (running, took)
    }

    /// What it takes once it idles: the same for two seconds.
    pub fn settled(&self) -> Memory {
        let mut last = self.memory();
        let mut alike = 0;
        for _ in 0..LOOKS {
            std::thread::sleep(LOOK);
            let now = self.memory();
            alike = if now.pss.abs_diff(last.pss) * 100 <= last.pss {
                alike + 1
            } else {
                0
            };
            last = now;
            if alike == ALIKE {
                break;
            }
        }
        last
    }

    fn memory(&self) -> Memory {
        let read = |file: &str| {
            let path = format!("/proc/{}/{file}", self.0.id());
            std::fs::read_to_string(path).expect("it runs")
        };
        let (rollup, status) = (read("smaps_rollup"), read("status"));
        let number = |text: &str, name: &str| {
            text.lines()
                .find_map(|line| {
                    line.strip_prefix(name)?
                        .split_whitespace()
                        .next()?
                        .parse()
                        .ok()
                })
                .expect("a number")
        };
        Memory {
            pss: number(&rollup, "Pss:"),
            rss: number(&rollup, "Rss:"),
            threads: number(&status, "Threads:"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let process = i32::try_from(self.0.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .expect("a process");
        // Ended in order, so that the next start is not one after a crash.
        let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// What a process takes: its share of what is shared counted in, in KiB.
pub struct Memory {
    pub pss: u32,
    rss: u32,
    threads: u32,
}

impl Memory {
    /// A row of the table.
    pub fn print(&self, name: &str) {
        let mebibytes = |kibibytes| crate::mebibytes(u64::from(kibibytes));
        println!(
            "| {name} | {} | {} | {} |",
            mebibytes(self.pss),
            mebibytes(self.rss),
            self.threads
        );
    }
}
