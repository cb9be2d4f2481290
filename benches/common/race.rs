//! Owns how every benchmark measures and prints: contenders side by side, interleaved round by round, so that
//! whatever else the machine does falls on all of them alike. What is claimed is a ratio of medians of one run.

use std::time::{Duration, Instant};

/// Rounds that are run and thrown away: caches and files are young in them.
const WARM_UP: usize = 2;

/// Whether a quick look is wanted (`HAIRPIN_BENCH_QUICK=1`): few rounds, small data; its figures claim nothing.
pub fn quick() -> bool {
    std::env::var_os("HAIRPIN_BENCH_QUICK").is_some_and(|value| value != "0")
}

/// How long the work took.
pub fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let started = Instant::now();
    let result = work();
    (started.elapsed(), result)
}

/// A contender prepares, does its work once, cleans up, and says how long the work alone took.
type Run<'a> = Box<dyn FnMut() -> Duration + 'a>;

/// One table: who does the same thing in how much time.
pub struct Race<'a> {
    title: String,
    rounds: usize,
    runs: Vec<(&'static str, Run<'a>)>,
}

impl<'a> Race<'a> {
    pub fn new(title: impl Into<String>, rounds: usize) -> Self {
        Self {
            title: title.into(),
            rounds: if quick() { rounds.min(5) } else { rounds },
            runs: Vec::new(),
        }
    }

    /// The first one is what the others' ratios refer to.
    #[must_use]
    pub fn with(mut self, name: &'static str, run: impl FnMut() -> Duration + 'a) -> Self {
        self.runs.push((name, Box::new(run)));
        self
    }

    /// Runs all rounds, prints the table, and gives it to whoever checks claims.
    pub fn run(mut self) -> Table {
        let mut took: Vec<Vec<Duration>> = vec![Vec::new(); self.runs.len()];
        for round in 0..WARM_UP + self.rounds {
            for step in 0..self.runs.len() {
                // Each round begins with another one: nobody always runs in the same neighbour's wake.
                let at = (round + step) % self.runs.len();
                let duration = (self.runs[at].1)();
                if round >= WARM_UP {
                    took[at].push(duration);
                }
            }
        }
        let rows = self
            .runs
            .iter()
            .zip(took)
            .map(|(&(name, _), mut took)| {
                took.sort_unstable();
                Row {
                    name,
                    median: took[took.len() / 2],
                    p95: took[(took.len() * 95 / 100).min(took.len() - 1)],
                }
            })
            .collect();
        let table = Table {
            title: self.title,
            rounds: self.rounds,
            rows,
        };
        table.print();
        table
    }
}

struct Row {
    name: &'static str,
    median: Duration,
    p95: Duration,
}

/// What a race came to.
pub struct Table {
    title: String,
    rounds: usize,
    rows: Vec<Row>,
}

impl Table {
    /// How many times longer `slow` takes than `fast`; none when one of them did not run.
    pub fn ratio(&self, slow: &str, fast: &str) -> Option<f64> {
        let median = |name| Some(self.rows.iter().find(|row| row.name == name)?.median);
        Some(median(slow)?.as_secs_f64() / median(fast)?.as_secs_f64())
    }

    /// As Markdown, since the documentation keeps it as printed.
    fn print(&self) {
        let width = self.rows.iter().map(|row| row.name.len()).max();
        let width = width.unwrap_or_default().max(9);
        println!("\n**{}** ({} rounds)\n", self.title, self.rounds);
        println!(
            "| {:width$} | {:>9} | {:>9} | {:>8} |",
            "contender", "median", "p95", "ratio"
        );
        println!(
            "| {:-<width$} | {:->9} | {:->9} | {:->8} |",
            "", ":", ":", ":"
        );
        for row in &self.rows {
            let ratio = row.median.as_secs_f64() / self.rows[0].median.as_secs_f64();
            println!(
                "| {:width$} | {:>9} | {:>9} | {:>8} |",
                row.name,
                readable(row.median),
                readable(row.p95),
                times(ratio)
            );
        }
    }
}

/// Three figures, whatever the size.
fn times(ratio: f64) -> String {
    let decimals = match ratio {
        ..0.01 => 4,
        ..0.1 => 3,
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{ratio:.decimals$} ×")
}

fn readable(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    if micros < 1000.0 {
        format!("{micros:.1} µs")
    } else if micros < 1e6 {
        format!("{:.2} ms", micros / 1e3)
    } else {
        format!("{:.2} s", micros / 1e6)
    }
}

/// What the run is held against, printed last.
#[derive(Default)]
pub struct Claims {
    lines: Vec<String>,
}

impl Claims {
    /// `slow` takes at least `times` as long as `fast`. Passed over when one of them did not run.
    pub fn at_least(&mut self, table: &Table, slow: &str, fast: &str, least: f64) {
        let Some(ratio) = table.ratio(slow, fast) else {
            return;
        };
        let verdict = if ratio >= least { "kept" } else { "MISSED" };
        self.lines.push(format!(
            "| {} | {slow} ≥ {least} × {fast} | {} | {verdict} |",
            table.title,
            times(ratio)
        ));
    }

    /// `name` takes at most this long. Passed over when it did not run.
    pub fn within(&mut self, table: &Table, name: &str, most: Duration) {
        let Some(row) = table.rows.iter().find(|row| row.name == name) else {
            return;
        };
        let verdict = if row.median <= most { "kept" } else { "MISSED" };
        self.lines.push(format!(
            "| {} | {name} ≤ {} | {} | {verdict} |",
            table.title,
            readable(most),
            readable(row.median)
        ));
    }

    pub fn print(&self) {
        if self.lines.is_empty() {
            return;
        }
        println!("\n**Claims**\n\n| what | at least | this run | |\n| --- | --- | ---: | --- |");
        for line in &self.lines {
            println!("{line}");
        }
    }
}
