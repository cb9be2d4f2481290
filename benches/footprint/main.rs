//! What the appliance costs the machine it lives on: from started to ready, memory while it idles with one link, sizes on the
//! disk; beside a Node process that has only loaded Baileys, with no link, no store and no page.
//!
//! `cargo bench --bench footprint`. The link is one to the simulator, in this process. `HAIRPIN_SHIPPED` names a binary as it ships
//! (it refuses the simulator, so it idles without a link), `HAIRPIN_DEB` a package. Node is passed over, loudly, where it is not.

#[path = "../common/links.rs"]
#[allow(
    dead_code,
    reason = "this bench stands on the same place, and stores nothing"
)]
mod links;
#[path = "../common/race.rs"]
#[allow(dead_code, reason = "processes tell how long they took")]
mod race;

mod node;
mod process;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hairpin_sim::Sim;
use tempfile::TempDir;

use node::Baileys;
use process::{Memory, Running};
use race::{Claims, Race};

/// Ours, built in this run; it trusts the simulator.
const BUILT: &str = env!("CARGO_BIN_EXE_hairpin");
/// A number that nobody has.
const NUMBER: &str = "79001234567";
/// Longer than a busy machine takes for anything here.
const PATIENCE: Duration = Duration::from_mins(1);

const STORED: &str = "hairpin serve, one link stored";
const LINKED: &str = "hairpin serve, one link connected";
const EMPTY: &str = "hairpin serve, nothing stored";
const SHIPPED: &str = "hairpin as it ships, nothing stored";
const NODE: &str = "node, only Baileys loaded";

fn main() {
    links::describe_place();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let sim = runtime.block_on(Sim::start());
    let house = House::linked(&runtime, &sim);
    let shipped = std::env::var_os("HAIRPIN_SHIPPED").map(PathBuf::from);
    let baileys = Baileys::installed();
    if shipped.is_none() {
        println!("SKIPPED what ships: HAIRPIN_SHIPPED does not name it");
    }
    if let Err(why) = &baileys {
        println!("SKIPPED Node: {why}");
    }
    let mut claims = Claims::default();

    let start = |program: &Path, data: &Path| house.serve(program, data);
    let mut race = Race::new("from started to ready", 20)
        .with(STORED, || start(Path::new(BUILT), &house.data).1)
        .with(EMPTY, || {
            let folder = tempfile::tempdir().expect("a folder");
            start(Path::new(BUILT), folder.path()).1
        });
    if let Some(shipped) = &shipped {
        race = race.with(SHIPPED, || {
            let folder = tempfile::tempdir().expect("a folder");
            start(shipped, folder.path()).1
        });
    }
    if let Ok(baileys) = &baileys {
        race = race.with(NODE, || baileys.start().1);
    }
    let table = race.run();
    claims.within(&table, STORED, Duration::from_millis(200));
    claims.at_least(&table, NODE, STORED, 5.0);

    println!("\n**memory while idle**\n");
    println!("| process | PSS | RSS | threads |\n| --- | ---: | ---: | ---: |");
    let (running, _) = start(Path::new(BUILT), &house.data);
    house.connected();
    let ours = running.settled();
    ours.print(LINKED);
    drop(running);
    let folder = tempfile::tempdir().expect("a folder");
    let (running, _) = start(Path::new(BUILT), folder.path());
    running.settled().print(EMPTY);
    drop(running);
    if let Some(shipped) = &shipped {
        let folder = tempfile::tempdir().expect("a folder");
        let (running, _) = start(shipped, folder.path());
        running.settled().print(SHIPPED);
    }
    let theirs: Option<Memory> = baileys.as_ref().ok().map(|baileys| {
        let (running, _) = baileys.start();
        let theirs = running.settled();
        theirs.print(NODE);
        theirs
    });

    let deb = std::env::var_os("HAIRPIN_DEB").map(PathBuf::from);
    if deb.is_none() {
        println!("\nSKIPPED the package: HAIRPIN_DEB does not name it");
    }
    println!("\n**on the disk**\n\n| what | size |\n| --- | ---: |");
    let size = |what: &str, bytes: u64| println!("| {what} | {} |", mebibytes(bytes / 1024));
    size("hairpin, built in this run", bytes(Path::new(BUILT)));
    if let Some(shipped) = &shipped {
        size("hairpin as it ships", bytes(shipped));
    }
    if let Some(deb) = &deb {
        size("the package", bytes(deb));
    }
    if let Ok(baileys) = &baileys {
        size("Baileys with what it needs", baileys.bytes());
        size("node itself", baileys.node_bytes());
    }
    claims.print();
    if let Some(theirs) = theirs {
        let times = f64::from(theirs.pss) / f64::from(ours.pss);
        let verdict = if times >= 3.0 { "kept" } else { "MISSED" };
        println!("| memory while idle (PSS) | {NODE} ≥ 3 × {LINKED} | {times:.1} × | {verdict} |");
    }
}

/// A folder with a link in it, and the WhatsApp that knows the link.
struct House {
    data: PathBuf,
    url: String,
    _folder: TempDir,
}

impl House {
    fn linked(runtime: &tokio::runtime::Runtime, sim: &Sim) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let house = Self {
            data: folder.path().join("data"),
            url: sim.url(),
            _folder: folder,
        };
        let (_running, _) = house.serve(Path::new(BUILT), &house.data);
        let mut link = house.command(Path::new(BUILT), &house.data);
        let mut link = link
            .arg("link")
            .stdin(Stdio::piped())
            .spawn()
            .expect("started");
        let mut typed = link.stdin.take().expect("piped");
        writeln!(typed, "{NUMBER}").expect("typed");
        drop(typed);
        let lines = BufReader::new(link.stdout.take().expect("piped")).lines();
        let mut linked = false;
        for line in lines.map(|line| line.expect("text")) {
            let code = line
                .split(' ')
                .find(|word| word.len() == 9 && word.chars().nth(4) == Some('-') && !linked);
            if let Some(code) = code {
                let phone = sim.phone(NUMBER);
                let taken = runtime.block_on(phone.enter_code(code));
                taken.expect("linked");
                linked = true;
            }
        }
        assert!(link.wait().expect("ended").success());
        house.connected();
        house
    }

    fn command(&self, program: &Path, data: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HAIRPIN_DATA_DIR", data)
            .env("HAIRPIN_LISTEN", "127.0.0.1:0")
            .env("HAIRPIN_WHATSAPP_URL", &self.url)
            .env("HAIRPIN_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command
    }

    /// Starts the appliance: it is ready when it says where its page is, which is when systemd is told.
    fn serve(&self, program: &Path, data: &Path) -> (Running, Duration) {
        let mut command = self.command(program, data);
        Running::start(command.arg("serve"), "Hairpin is at ")
    }

    fn connected(&self) {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut status = self.command(Path::new(BUILT), &self.data);
            let said = status.arg("status").output().expect("run").stdout;
            if String::from_utf8_lossy(&said).contains("CONNECTED") {
                return;
            }
            assert!(Instant::now() < until, "never connected");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn bytes(path: &Path) -> u64 {
    std::fs::metadata(path).expect("there").len()
}

fn mebibytes(kibibytes: u64) -> String {
    let kibibytes = u32::try_from(kibibytes).expect("below 4 TiB");
    format!("{:.1} MiB", f64::from(kibibytes) / 1024.0)
}
