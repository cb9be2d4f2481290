//! The program as a process: its commands, its exit codes, its signals, its log, and a pulled plug.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use hairpin::store::{LinkRow, StoreError};
use hairpin_sim::{Sim, SimConfig};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use whatsapp_rust::traits::DeviceStore;

use crate::rig::{ANNA, BORIS, open};
use crate::web_support::read_answer;

fn hairpin(args: &[&str], folder: &Path) -> Command {
    program(env!("CARGO_BIN_EXE_hairpin"), args, folder)
}

fn program(path: &str, args: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(path);
    command
        .args(args)
        .env_clear()
        .env("HOME", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(args: &[&str], folder: &Path) -> Output {
    hairpin(args, folder).output().expect("run")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// A running `hairpin serve`.
pub struct Serve {
    pub child: Child,
    pub address: SocketAddr,
    pub key: String,
}

impl Serve {
    pub fn start(folder: &Path, whatsapp: &str, more: &[(&str, &str)]) -> Self {
        Self::start_program(env!("CARGO_BIN_EXE_hairpin"), folder, whatsapp, more)
    }

    fn start_program(path: &str, folder: &Path, whatsapp: &str, more: &[(&str, &str)]) -> Self {
        let mut command = program(
            path,
            &[
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--whatsapp-url",
                whatsapp,
                "--open-key",
            ],
            folder,
        );
        for (name, value) in more {
            command.env(name, value);
        }
        command.env("HAIRPIN_PAIRING_REQUESTS_PER_NUMBER", "0");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(folder.join("log"))
            .expect("a log");
        let mut child = command.stderr(log).spawn().expect("started");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut next = || lines.next().expect("a line").expect("text");
        let address = next();
        let open = next();
        let (_, key) = open.split_once("#key=").expect("a key");
        Self {
            address: address
                .trim_start_matches("Hairpin is at http://")
                .trim_end_matches('/')
                .parse()
                .expect("an address"),
            key: key.to_owned(),
            child,
        }
    }

    pub async fn ask(&self, method: &str, path: &str, body: &str) -> std::io::Result<(u16, Value)> {
        let mut stream = TcpStream::connect(self.address).await?;
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
        stream.write_all(request.as_bytes()).await?;
        let answer = read_answer(&mut stream).await;
        Ok((
            answer.status,
            serde_json::from_slice(&answer.body).unwrap_or(Value::Null),
        ))
    }

    pub async fn code(&self, number: &str, replace: Option<&str>) -> (u16, Value) {
        let body = json!({ "phoneNumber": number, "replace": replace }).to_string();
        self.ask("POST", "/api/v1/sessions/salon/pairing-code", &body)
            .await
            .expect("answered")
    }

    pub async fn state(&self, state: &str) {
        let wait = async {
            while self
                .ask("GET", "/api/v1/sessions/salon", "")
                .await
                .expect("answered")
                .1["state"]
                != state
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait)
            .await
            .unwrap_or_else(|_| panic!("never {state}"));
    }

    /// Waits until a stored link has connected, or is known to be dead.
    async fn settled(&self) {
        let wait = async {
            loop {
                let status = self
                    .ask("GET", "/api/v1/sessions/salon", "")
                    .await
                    .expect("answered")
                    .1;
                if status["state"] != "RECONNECTING" {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait)
            .await
            .expect("settled");
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(id.expect("a process"), signal).expect("signalled");
    }

    /// Waits for the end; the exit code.
    pub fn ended(mut self) -> Option<i32> {
        self.child.wait().expect("ended").code()
    }

    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }
}

#[test]
fn the_phone_command_reads_numbers_and_refuses_in_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path();
    let good = run(&["phone", "8 (900) 123-45-67"], home);
    assert_eq!(good.status.code(), Some(0));
    assert_eq!(text(&good.stdout), "+79001234567 (RU, mobile)\n");
    let json = run(&["phone", "--json", "89001234567"], home);
    let value: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(
        value,
        json!({ "e164": "+79001234567", "country": "RU", "kind": "mobile", "masked": "79001***567" })
    );
    let bad = run(&["phone", "123"], home);
    assert_eq!((bad.status.code(), bad.stdout.len()), (Some(2), 0));
    let said = text(&bad.stderr);
    assert!(
        said.starts_with("hairpin: ") && said.lines().count() == 1,
        "{said}"
    );
    let bad = run(&["phone", "--json", "+1-800-123-4567 ext. 890"], home);
    assert_eq!(bad.status.code(), Some(2));
    let value: Value = serde_json::from_slice(&bad.stdout).expect("JSON");
    assert_eq!(
        (value["code"].as_str(), value["reason"].as_str()),
        (Some("INVALID_PHONE_FORMAT"), Some("extension"))
    );
    let bad = run(&["phone", "--json", "--country", "XX", "89001234567"], home);
    let value: Value = serde_json::from_slice(&bad.stdout).expect("JSON");
    assert_eq!(
        (bad.status.code(), value["reason"].as_str()),
        (Some(2), Some("unknown_country"))
    );
    let british = run(&["phone", "--country", "gb", "07400 123456"], home);
    assert_eq!(text(&british.stdout), "+447400123456 (GB, mobile)\n");
}

#[test]
fn the_phone_command_answers_standard_input_line_by_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut child = hairpin(&["phone", "-"], folder.path())
        .stdin(Stdio::piped())
        .spawn()
        .expect("started");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(b"89001234567\n123\n5511987654321\n")
        .expect("written");
    let output = child.wait_with_output().expect("ended");
    let answers = text(&output.stdout);
    let lines: Vec<&str> = answers.lines().collect();
    assert_eq!(lines.len(), 3, "one answer a line");
    assert!(
        lines[0].starts_with("+79001234567")
            && lines[1].starts_with("refused: ")
            && lines[2].contains("BR")
    );
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn wrong_use_and_bad_settings_end_with_two_and_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path();
    let file = home.join("bad.toml");
    std::fs::write(&file, "listen = \"127.0.0.1:0\"\nport = 1\n").expect("written");
    let file = file.display().to_string();
    let unknown = run(&["serve", "--config", &file], home);
    assert_eq!(unknown.status.code(), Some(2));
    let said = text(&unknown.stderr);
    assert!(
        said.contains("bad.toml:2") && said.contains("\"port\"") && said.lines().count() == 1,
        "{said}"
    );
    let beyond = run(&["serve", "--listen", "0.0.0.0:0"], home);
    assert_eq!(beyond.status.code(), Some(2));
    assert!(text(&beyond.stderr).contains("web.plain_http"));
    assert_eq!(run(&["nonsense"], home).status.code(), Some(2));
    assert_eq!(run(&["--version"], home).status.code(), Some(0));
    let none = run(&["access-key"], home);
    assert_eq!(none.status.code(), Some(5));
    assert_eq!(text(&none.stderr).lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_says_where_it_is_and_stops_clean_on_both_signals() {
    let folder = tempfile::tempdir().expect("a folder");
    let sim = Sim::start().await;
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let serve = Serve::start(folder.path(), &sim.url(), &[]);
        assert_eq!(
            serve.ask("GET", "/healthz", "").await.expect("answered").0,
            200
        );
        let second = run(&["serve", "--listen", "127.0.0.1:0"], folder.path());
        assert_eq!(second.status.code(), Some(3), "the store is in use");
        let key = run(&["access-key"], folder.path());
        assert_eq!(text(&key.stdout).trim(), serve.key);
        let started = Instant::now();
        serve.signal(signal);
        assert_eq!(serve.ended(), Some(0));
        assert!(
            started.elapsed() < Duration::from_secs(12),
            "{:?}",
            started.elapsed()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_keeps_the_page_up_and_is_left_where_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let sim = Sim::start().await;
    let serve = Serve::start(folder.path(), &sim.url(), &[]);
    serve.signal(rustix::process::Signal::TERM);
    serve.ended();
    let file = folder.path().join(".local/share/hairpin/hairpin.redb");
    let damaged = vec![
        0x5a;
        std::fs::metadata(&file)
            .expect("a store")
            .len()
            .try_into()
            .expect("small")
    ];
    std::fs::write(&file, &damaged).expect("damaged");
    let serve = Serve::start(folder.path(), &sim.url(), &[]);
    let (status, problem) = serve.code(ANNA, None).await;
    assert_eq!(
        (status, problem["code"].as_str()),
        (507, Some("STORE_UNAVAILABLE"))
    );
    assert_eq!(
        serve.ask("GET", "/healthz", "").await.expect("answered").0,
        503
    );
    assert_eq!(serve.ask("GET", "/", "").await.expect("answered").0, 200);
    serve.state("STORE_UNAVAILABLE").await;
    serve.signal(rustix::process::Signal::TERM);
    assert_eq!(serve.ended(), Some(0));
    assert_eq!(
        std::fs::read(&file).expect("still there"),
        damaged,
        "never an empty start"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_most_verbose_log_of_a_whole_run_holds_no_number_code_or_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let sim = Sim::start().await;
    let serve = Serve::start(
        folder.path(),
        &sim.url(),
        &[("RUST_LOG", "trace"), ("HAIRPIN_LOG", "trace")],
    );
    let mut secrets = vec![
        serve.key.clone(),
        ANNA.to_owned(),
        BORIS.to_owned(),
        "9001234567".to_owned(),
    ];
    let mut link_id = None;
    for number in [ANNA, BORIS] {
        let (status, answer) = serve.code(number, link_id.as_deref()).await;
        assert_eq!(status, 200, "{answer}");
        let code = answer["code"].as_str().expect("a code").to_owned();
        sim.phone(number).enter_code(&code).await.expect("linked");
        serve.state("CONNECTED").await;
        secrets.push(code.replace('-', ""));
        secrets.push(code);
        link_id = serve.code("+7 901 000-00-00", None).await.1["linkId"]
            .as_str()
            .map(str::to_owned);
    }
    let device = sim.phone(BORIS).devices()[0].id;
    sim.phone(BORIS)
        .send_text(device, "canary-message-body")
        .await
        .expect("sent");
    secrets.push("canary-message-body".to_owned());
    sim.phone(BORIS).remove_device(device).await;
    serve.state("LOGGED_OUT").await;
    let seen = [
        std::fs::read_to_string(folder.path().join("log")).expect("a log"),
        serve
            .ask("GET", "/api/v1/audit", "")
            .await
            .expect("answered")
            .1
            .to_string(),
        serve
            .ask("GET", "/api/v1/metrics", "")
            .await
            .expect("answered")
            .1
            .to_string(),
        std::fs::read_to_string(format!("/proc/{}/cmdline", serve.child.id()))
            .expect("a command line"),
    ]
    .concat();
    assert!(
        seen.contains("wiped the old link") && seen.contains("79001***567"),
        "the run is in the log"
    );
    for secret in &secrets {
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        use base64::Engine as _;
        let base64 = base64::engine::general_purpose::STANDARD_NO_PAD.encode(secret);
        for form in [secret.clone(), hex, base64] {
            assert!(!seen.contains(&form), "{form} is in the log:\n{seen}");
        }
    }
    serve.signal(rustix::process::Signal::TERM);
    assert_eq!(serve.ended(), Some(0));
}

/// What must hold whenever the plug is pulled: the old link whole, or the new epoch alone.
async fn whole(folder: &Path, known: &mut Vec<LinkRow>) {
    let store = open(&folder.join(".local/share/hairpin"));
    let row = store.link("salon").expect("readable");
    if let Some(row) = &row {
        let device = store
            .backend("salon", row.epoch)
            .load()
            .await
            .expect("its own device");
        if let Some(linked) = &row.linked {
            let pn = device.expect("a link has its keys").pn.expect("and its id");
            assert_eq!(pn.user.as_str(), linked.phone);
            assert_eq!(row.line, linked.phone);
        }
        known.retain(|old| old.epoch != row.epoch);
        known.push(row.clone());
    }
    for old in known
        .iter()
        .filter(|old| row.as_ref().is_none_or(|row| row.epoch != old.epoch))
    {
        let Err(error) = store.backend("salon", old.epoch).load().await else {
            panic!("an old link came back");
        };
        assert!(
            format!("{error:?}").contains(&format!("{:?}", StoreError::StaleEpoch)),
            "{error:?}"
        );
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plug_pulled_at_random_moments_of_pairing_and_wiping_leaves_no_mixture() {
    let pulls: u32 = std::env::var("HAIRPIN_PULLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(200);
    let folder = tempfile::tempdir().expect("a folder");
    let sim = Sim::start_with(SimConfig {
        hellos_per_number: usize::MAX,
        max_devices: usize::MAX,
        ..SimConfig::default()
    })
    .await;
    let mut known = Vec::new();
    for pull in 0..pulls {
        let number = if pull % 2 == 0 { ANNA } else { BORIS };
        let serve = Serve::start(folder.path(), &sim.url(), &[]);
        // Pulled between telling WhatsApp and wiping, the link is dead: logged out is as good an end as connected.
        serve.settled().await;
        // A whole replacement takes about half a second; the store's own test pulls more finely inside of it.
        let moment = Duration::from_millis(rand::random_range(0..1000));
        let work = async {
            let (status, answer) = serve.code(number, None).await;
            let (status, answer) = match answer["linkId"].as_str() {
                Some(id) if status == 409 => serve.code(number, Some(id)).await,
                _ => (status, answer),
            };
            if status == 200 {
                let code = answer["code"].as_str().expect("a code").to_owned();
                let _ = sim.phone(number).enter_code(&code).await;
                serve.state("CONNECTED").await;
            }
        };
        let _ = tokio::time::timeout(moment, work).await;
        serve.kill();
        whole(folder.path(), &mut known).await;
    }
    assert!(
        known.len() > usize::try_from(pulls / 10).expect("few"),
        "the pulls hit something: {} epochs",
        known.len()
    );
    let serve = Serve::start(folder.path(), &sim.url(), &[]);
    let (mut status, mut answer) = serve.code("+7 902 000-00-00", None).await;
    if let (409, Some(id)) = (status, answer["linkId"].as_str()) {
        (status, answer) = serve.code("+7 902 000-00-00", Some(id)).await;
    }
    assert_eq!(status, 200, "asking again works: {answer}");
    let code = answer["code"].as_str().expect("a code");
    sim.phone("79020000000")
        .enter_code(code)
        .await
        .expect("linked");
    serve.state("CONNECTED").await;
    serve.signal(rustix::process::Signal::TERM);
    assert_eq!(serve.ended(), Some(0));
}

/// The binary that is shipped is built alone; one built together with tests has the certificate check switched off.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the binary that ships in HAIRPIN_SHIPPED; tests/run builds it"]
async fn what_ships_refuses_a_server_that_is_not_whatsapp() {
    let shipped = std::env::var("HAIRPIN_SHIPPED").expect("HAIRPIN_SHIPPED names the binary");
    let folder = tempfile::tempdir().expect("a folder");
    let sim = Sim::start_with(SimConfig::default()).await;
    let serve = Serve::start_program(
        &shipped,
        folder.path(),
        &sim.url(),
        &[("HAIRPIN_WHATSAPP_CONNECT_TIMEOUT", "20")],
    );
    let (status, answer) = serve.code(ANNA, None).await;
    assert_eq!(
        (status, answer["code"].as_str()),
        (503, Some("WHATSAPP_UNREACHABLE"))
    );
    assert!(
        sim.total_connections() > 0,
        "it spoke to the simulator, and did not believe it"
    );
    assert_eq!(sim.hellos(ANNA), 0);
    serve.signal(rustix::process::Signal::TERM);
    assert_eq!(serve.ended(), Some(0));
}
