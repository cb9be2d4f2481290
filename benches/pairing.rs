//! From the question to the code: the check, the wipe against one plain commit, the whole appliance against the key
//! derivation that the protocol demands, and a hundred salons at once.
//!
//! `cargo bench --bench pairing` runs everything; words after `--` choose races by their titles. WhatsApp is the
//! simulator, in this process, so no network is in the figures.

#[path = "common/links.rs"]
mod links;
#[path = "common/race.rs"]
mod race;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use hairpin::app::Appliance;
use hairpin::config::{Settings, Sources};
use hairpin_sim::Sim;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use links::{Lines, Ours, fill, load};
use race::{Claims, Race, quick, timed};

/// What the protocol makes of every code's eight letters.
const PBKDF2_ROUNDS: u32 = 131_072;
const SESSION: &str = "salon";
const CROWD: u32 = 100;
/// A check so short that it can be made before every request, whatever the answer.
const CHECK_WITHIN: Duration = Duration::from_micros(50);

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    links::describe_place();
    // As `hairpin serve` has it.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let wanted = |title: &str| words.is_empty() || words.iter().any(|word| title.contains(word));
    let mut claims = Claims::default();
    if wanted("wipe") {
        wipe(&runtime, &mut claims);
    }
    if wanted("code") {
        asked_to_shown(&runtime);
    }
    if wanted("crowd") {
        crowd(&runtime, &mut claims);
    }
    claims.print();
}

fn wipe(runtime: &Runtime, claims: &mut Claims) {
    const OFTEN: u32 = 1_000;
    for (rows, rounds) in [(1_000, 60), (10_000, 30)] {
        let ours = Ours::new();
        let lines = Lines::default();
        let present = RefCell::new(lines.next());
        runtime.block_on(ours.check_and_wipe(SESSION, &present.borrow()));
        ours.settle(runtime);
        let mut written = 0_u32;
        let table = Race::new(
            format!("check and wipe, {rows} key rows, against one plain durable commit"),
            rounds,
        )
        .with("plain durable commit", || {
            written += 1;
            let value = written.to_be_bytes().to_vec();
            let (took, stored) = timed(|| runtime.block_on(ours.store.put_setting("plain", value)));
            stored.expect("committed");
            took
        })
        .with("mismatch check", || {
            let line = present.borrow();
            let (took, ()) = timed(|| {
                for _ in 0..OFTEN {
                    assert!(ours.is_line(SESSION, &line));
                }
            });
            took / OFTEN
        })
        .with("check + wipe", || {
            let backend = ours.backend(SESSION);
            runtime.block_on(fill(&backend, rows));
            let line = lines.next();
            let (took, ()) = timed(|| runtime.block_on(ours.check_and_wipe(SESSION, &line)));
            assert!(runtime.block_on(backend_is_dead(&backend)));
            present.replace(line);
            ours.settle(runtime);
            took
        })
        .run();
        claims.within(&table, "mismatch check", CHECK_WITHIN);
        assert_eq!(runtime.block_on(load(&ours.backend(SESSION), rows)), 0);
    }
}

/// What was wiped is refused from then on.
async fn backend_is_dead(backend: &hairpin::store::EpochBackend) -> bool {
    use whatsapp_rust::traits::SignalStore as _;
    backend.load_prekey(1).await.is_err()
}

fn asked_to_shown(runtime: &Runtime) {
    let rig = runtime.block_on(Rig::start());
    let lines = Lines::default();
    let mut derived = 0_u32;
    Race::new(
        "asked to shown, the whole appliance, against the key derivation",
        40,
    )
    .with("two PBKDF2 derivations", || {
        derived += 1;
        let (took, ()) = timed(|| {
            derive(derived);
            derive(derived + 1);
        });
        took
    })
    .with("code for an empty slot", || {
        runtime.block_on(rig.unlink(SESSION));
        let line = lines.next();
        timed(|| runtime.block_on(rig.code(SESSION, &line))).0
    })
    .with("code after a mismatch was wiped", || {
        // The one before has left credentials of another line behind.
        runtime.block_on(async {
            rig.unlink(SESSION).await;
            rig.code(SESSION, &lines.next()).await;
            rig.cancel(SESSION).await;
        });
        let line = lines.next();
        let (took, code) = timed(|| runtime.block_on(rig.code(SESSION, &line)));
        assert_eq!(code["replaced"]["reason"], "phone_mismatch");
        took
    })
    .run();
    runtime.block_on(rig.stop());
}

fn crowd(runtime: &Runtime, claims: &mut Claims) {
    let rig = runtime.block_on(Rig::start());
    let sessions: Vec<String> = (0..CROWD).map(|n| format!("s{n}")).collect();
    runtime.block_on(async {
        for session in &sessions {
            let (status, _) = rig
                .ask(
                    "PUT",
                    &format!("/api/v1/sessions/{session}"),
                    &json!({ "name": session }),
                )
                .await;
            assert_eq!(status, 201);
        }
    });
    let lines = Lines::default();
    let one = "one request";
    let each = "100 at once, per request";
    let mut derived = 0_u32;
    let numbers: Vec<Vec<String>> = (0..64)
        .map(|_| sessions.iter().map(|_| lines.next()).collect())
        .collect();
    let mut round = 0;
    let table = Race::new("100 sessions ask at once", if quick() { 2 } else { 12 })
        .with(one, || {
            runtime.block_on(rig.unlink(SESSION));
            let line = lines.next();
            timed(|| runtime.block_on(rig.code(SESSION, &line))).0
        })
        .with(each, || {
            let asks = sessions
                .iter()
                .zip(&numbers[round % numbers.len()])
                .map(|(session, line)| rig.code(session, line));
            round += 1;
            let (took, answers) = timed(|| runtime.block_on(join_all(asks)));
            let codes: std::collections::HashSet<&str> = answers
                .iter()
                .filter_map(|answer| answer["code"].as_str())
                .collect();
            assert_eq!(
                codes.len(),
                sessions.len(),
                "everybody gets a code of their own"
            );
            runtime.block_on(async {
                for session in &sessions {
                    rig.unlink(session).await;
                }
            });
            took / CROWD
        })
        .with("one PBKDF2 derivation", || {
            derived += 1;
            timed(|| derive(derived)).0
        })
        .run();
    // A crowd is not slower than a queue.
    claims.at_least(&table, one, each, 1.0);
    runtime.block_on(rig.stop());
}

fn derive(seed: u32) {
    let mut key = [0; 32];
    pbkdf2::pbkdf2_hmac::<sha2::Sha256>(
        std::hint::black_box(b"ABCDEFGH"),
        &[seed.to_le_bytes(); 8].concat(),
        PBKDF2_ROUNDS,
        &mut key,
    );
    std::hint::black_box(key);
}

/// The appliance and the simulated WhatsApp it talks to.
struct Rig {
    appliance: Appliance,
    sim: Sim,
    address: SocketAddr,
    key: String,
    _folder: TempDir,
}

impl Rig {
    async fn start() -> Self {
        let sim = Sim::start().await;
        let folder = tempfile::tempdir().expect("a folder");
        let empty = folder.path().join("empty.toml");
        std::fs::write(&empty, "").expect("written");
        let settings = Settings::read(&Sources {
            file: Some(empty),
            flags: BTreeMap::from([
                ("listen", "127.0.0.1:0".to_owned()),
                ("whatsapp.url", sim.url()),
                ("whatsapp.connect_timeout", "120".to_owned()),
                ("data_dir", folder.path().join("data").display().to_string()),
                ("pairing.requests_per_number", "0".to_owned()),
            ]),
            env: BTreeMap::new(),
        })
        .expect("settings");
        let appliance = Appliance::start(settings).await.expect("started");
        let address = appliance.address();
        let address = address.trim_start_matches("http://").trim_end_matches('/');
        Self {
            address: address.parse().expect("an address"),
            key: appliance.access_key().reveal().to_owned(),
            appliance,
            sim,
            _folder: folder,
        }
    }

    async fn stop(self) {
        self.appliance.stop().await;
        self.sim.stop().await;
    }

    /// Asks for a code and waits for it.
    async fn code(&self, session: &str, line: &str) -> Value {
        let (status, answer) = self
            .ask(
                "POST",
                &format!("/api/v1/sessions/{session}/pairing-code"),
                &json!({ "phoneNumber": line, "country": "RU", "replace": null }),
            )
            .await;
        assert_eq!(status, 200, "{answer}");
        assert!(answer["code"].is_string(), "{answer}");
        answer
    }

    async fn cancel(&self, session: &str) {
        let path = format!("/api/v1/sessions/{session}/pairing-code");
        let (status, answer) = self.ask("DELETE", &path, &Value::Null).await;
        assert_eq!(status, 204, "{answer}");
    }

    async fn unlink(&self, session: &str) {
        let path = format!("/api/v1/sessions/{session}/link");
        let (status, answer) = self.ask("DELETE", &path, &Value::Null).await;
        assert_eq!(status, 204, "{answer}");
    }

    /// One request over a connection of its own, as a script would.
    async fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let kind = if body.is_empty() {
            ""
        } else {
            "Content-Type: application/json\r\n"
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAuthorization: Bearer {}\r\n{kind}Content-Length: {}\r\n\r\n{body}",
            self.address,
            self.key,
            body.len()
        );
        let mut stream = TcpStream::connect(self.address).await.expect("connected");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("answered");
        let answer = String::from_utf8(answer).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let body = serde_json::from_str(body).unwrap_or(Value::Null);
        (status.expect("a status"), body)
    }
}
