//! Sockets that want nothing good, from one address, and a client at another that must not notice.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hairpin_sim::Sim;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::process::Serve;

/// Whoever attacks sits here; honest clients come from 127.0.0.1.
const ATTACKER: ([u8; 4], u16) = ([127, 0, 0, 2], 0);
const GROWTH_KIB: u64 = 8 * 1024;
const PATIENCE: Duration = Duration::from_millis(200);
const REQUESTS: usize = 60;

fn is_long() -> bool {
    std::env::var_os("HAIRPIN_LONG").is_some()
}

/// `VmRSS`, the memory in use, or `VmHWM`, the most that was ever in use.
fn memory_kib(pid: u32, which: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("running");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(which)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next());
    kib.and_then(|kib| kib.parse().ok()).expect("a size")
}

/// One socket after another that does what `kind` says until it is thrown out.
async fn attack(kind: usize, at: SocketAddr, key: Arc<str>, opened: Arc<AtomicUsize>) {
    loop {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(ATTACKER)).expect("bound");
        if let Ok(mut stream) = socket.connect(at).await {
            opened.fetch_add(1, Ordering::Relaxed);
            // Being thrown out at any point is what should happen.
            let _ = misbehave(kind, &mut stream, at, &key).await;
        }
        // An attacker that only spun would measure this machine's processor.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn misbehave(
    kind: usize,
    stream: &mut TcpStream,
    at: SocketAddr,
    key: &str,
) -> std::io::Result<()> {
    let mut seen = [0; 1024];
    match kind % 4 {
        // Says nothing.
        0 => {}
        // A head that never ends, a few bytes at a time.
        1 => {
            stream.write_all(b"GET / HTTP/1.1\r\n").await?;
            loop {
                stream.write_all(b"X-A: a\r\n").await?;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        // Asks for much and takes nothing.
        2 => {
            let ask = format!("GET /js/main.js HTTP/1.1\r\nHost: {at}\r\n\r\n");
            for _ in 0..200 {
                stream.write_all(ask.as_bytes()).await?;
            }
            std::future::pending::<()>().await;
        }
        // Got in, and sends half a frame.
        _ => {
            let ask = format!(
                "GET /ws?session=salon HTTP/1.1\r\nHost: {at}\r\nAuthorization: Bearer {key}\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            );
            stream.write_all(ask.as_bytes()).await?;
            stream.write_all(&[0x81, 0xfe, 0x08]).await?;
        }
    }
    while stream.read(&mut seen).await? > 0 {}
    Ok(())
}

async fn page(at: SocketAddr) -> Duration {
    let asked = Instant::now();
    let mut stream = TcpStream::connect(at).await.expect("connected");
    let ask = format!("GET / HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.expect("sent");
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.expect("the page");
    assert!(
        got.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&got)
    );
    asked.elapsed()
}

async fn median(at: SocketAddr) -> Duration {
    let mut times = Vec::new();
    for _ in 0..REQUESTS {
        times.push(page(at).await);
    }
    times.sort();
    times[REQUESTS / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_sockets_from_one_address_cost_little_memory_and_nobody_elses_time() {
    let sockets = if is_long() { 2000 } else { 200 };
    let files = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: files.maximum,
        maximum: files.maximum,
    };
    setrlimit(Resource::Nofile, most).expect("more files");
    let folder = tempfile::tempdir().expect("a folder");
    let sim = Sim::start().await;
    let mut serve = Serve::start(folder.path(), &sim.url(), &[]);
    let quiet = median(serve.address).await;
    let before = memory_kib(serve.child.id(), "VmRSS");

    let opened = Arc::new(AtomicUsize::new(0));
    let key: Arc<str> = serve.key.as_str().into();
    let attackers: Vec<_> = (0..sockets)
        .map(|kind| {
            let attack = attack(kind, serve.address, Arc::clone(&key), Arc::clone(&opened));
            tokio::spawn(attack)
        })
        .collect();
    while opened.load(Ordering::Relaxed) < sockets {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let under_attack = median(serve.address).await;
    let grown = memory_kib(serve.child.id(), "VmHWM").saturating_sub(before);
    println!(
        "{sockets} hostile sockets ({} opened): the page in {under_attack:?} (quiet {quiet:?}) at the median, {grown} KiB more memory",
        opened.load(Ordering::Relaxed)
    );
    for attacker in attackers {
        attacker.abort();
    }
    serve.child.kill().expect("killed");
    serve.child.wait().expect("ended");
    // The gate's machines are shared: where the quiet page takes its time as well, it is not the attack.
    let patience = if is_long() {
        PATIENCE
    } else {
        PATIENCE.max(quiet * 10)
    };
    assert!(under_attack < patience, "{under_attack:?}, quiet {quiet:?}");
    assert!(grown <= GROWTH_KIB, "{grown} KiB");
}
