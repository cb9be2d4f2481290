//! What systemd's watchdog hears: that everything turns, and nothing any more once something stands still.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hairpin::store::{Disk, DiskFile, Folder};
use hairpin_sim::{Sim, SimConfig};
use rustix::process::Signal;

use crate::process::Serve;
use crate::rig::{PATIENCE, Rig};

/// systemd's end of the socket, which says so when nothing comes for longer than it waits.
struct Systemd {
    socket: UnixDatagram,
    within: Duration,
}

impl Systemd {
    /// What comes next; none when nothing came in time.
    fn hears(&self) -> Option<String> {
        self.socket
            .set_read_timeout(Some(self.within))
            .expect("set");
        let mut words = [0; 4096];
        match self.socket.recv(&mut words) {
            Ok(length) => Some(String::from_utf8_lossy(&words[..length]).trim().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_is_fed_while_the_program_turns_and_not_while_it_is_stopped() {
    let sim = Sim::start_with(SimConfig::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let systemd = Systemd {
        socket: UnixDatagram::bind(&path).expect("bound"),
        within: Duration::from_secs(2),
    };
    let notify = path.display().to_string();
    let serve = Serve::start(
        folder.path(),
        &sim.url(),
        &[("NOTIFY_SOCKET", &notify), ("WATCHDOG_USEC", "400000")],
    );
    let fed = |wanted: u32| {
        let (mut fed, until) = (0, Instant::now() + PATIENCE);
        while fed < wanted {
            assert!(Instant::now() < until, "fed {fed} times");
            fed += u32::from(systemd.hears().as_deref() == Some("WATCHDOG=1"));
        }
    };
    assert_eq!(systemd.hears().as_deref(), Some("READY=1"));
    fed(5);
    serve.signal(Signal::STOP);
    // What was sent before comes first; then, for five times the watchdog's time, nothing.
    while systemd.hears().is_some() {}
    serve.signal(Signal::CONT);
    fed(2);
    serve.signal(Signal::TERM);
    while systemd.hears().expect("the stop is told") != "STOPPING=1" {}
    assert_eq!(serve.ended(), Some(0));
    assert_eq!(systemd.hears(), None, "a stop is not for the watchdog");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_taken_is_waited_for_under_systemd_and_nowhere_else() {
    let sim = Sim::start_with(SimConfig::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let systemd = Systemd {
        socket: UnixDatagram::bind(&path).expect("bound"),
        within: PATIENCE,
    };
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    let listen = taken.local_addr().expect("bound").to_string();
    let serve = |data: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hairpin"));
        command
            .args(["serve", "--listen", &listen, "--whatsapp-url", &sim.url()])
            .arg("--data-dir")
            .arg(data)
            .env_clear()
            .env("HOME", folder.path());
        command
    };
    let alone = serve(&folder.path().join("alone")).output().expect("run");
    assert_eq!(alone.status.code(), Some(1), "{alone:?}");
    let data = folder.path().join("data");
    let mut managed = serve(&data)
        .env("NOTIFY_SOCKET", &path)
        .spawn()
        .expect("started");
    // What it does last before it goes to the page's place.
    let until = Instant::now() + PATIENCE;
    while !data.join("access-key").exists() {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(managed.try_wait().expect("looked"), None, "it waits");
    drop(taken);
    assert_eq!(systemd.hears().as_deref(), Some("READY=1"));
    managed.kill().expect("killed");
    managed.wait().expect("ended");
}

/// Asks until the answer is the wanted one.
async fn told(pulse: &mut hairpin::app::Pulse, wanted: &[&str]) {
    let until = Instant::now() + PATIENCE / 4;
    loop {
        let still = pulse.beat().await;
        if still == wanted {
            return;
        }
        assert!(Instant::now() < until, "{still:?}, not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_never_answers_is_told_as_the_store_and_the_session_that_stand_still() {
    let mut rig = Rig::new().await;
    rig.stop().await;
    let gate = Gate::default();
    rig.start_on(Arc::new(Held {
        folder: Folder::new(&rig.data()),
        gate: gate.clone(),
    }))
    .await;
    // Committed behind whatever the start has left to the writer.
    assert_eq!(rig.put_session("second").await, 201);
    let appliance = rig.appliance.as_ref().expect("running");
    let mut pulse = appliance.pulse().with_patience(Duration::from_millis(500));
    for _ in 0..20 {
        told(&mut pulse, &[]).await;
    }
    gate.shut(true);
    // The session takes its own row away, and waits for the disk.
    let asked = rig.ask("DELETE", "/api/v1/sessions/second", None);
    let watched = told(&mut pulse, &["session second", "the store"]);
    tokio::select! {
        answer = asked => panic!("answered without a disk: {answer:?}"),
        () = watched => {}
    }
    // The page is served all the while, and whoever has nothing to write turns.
    assert_eq!(rig.ask("GET", "/", None).await.status, 200);
    gate.shut(false);
    told(&mut pulse, &[]).await;
    rig.stop().await;
    // Nobody serves and nobody writes any more: each is missed.
    let all = ["session salon", "the page", "the store"];
    told(&mut pulse, &all).await;
}

/// Whether syncs wait.
#[derive(Debug, Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn shut(&self, shut: bool) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = shut;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let shut = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.0.1.wait_while(shut, |shut| *shut));
    }
}

/// A folder whose syncs wait while the gate is shut, as on a disk that has died without saying so.
#[derive(Debug)]
struct Held {
    folder: Folder,
    gate: Gate,
}

impl Disk for Held {
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
        Ok(Box::new(HeldFile {
            file: self.folder.open(name)?,
            gate: self.gate.clone(),
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
        self.gate.pass();
        self.folder.sync()
    }
}

#[derive(Debug)]
struct HeldFile {
    file: Box<dyn DiskFile>,
    gate: Gate,
}

impl DiskFile for HeldFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass();
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}
