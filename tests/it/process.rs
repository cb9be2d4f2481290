//! The program as a process: its commands, its exit codes, its signals, its log, and a pulled plug.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use hairpin::certificate::SelfSigned;
use hairpin::store::{JournalWhat, LinkRow, StoreError};
use hairpin_sim::{Sim, SimConfig};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use whatsapp_rust::traits::DeviceStore;

use crate::rig::{ANNA, BORIS, open, reads};
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

pub fn run(args: &[&str], folder: &Path) -> Output {
    hairpin(args, folder).output().expect("run")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// Any port of this machine alone.
const LOCAL: &str = "127.0.0.1:0";

/// A running `hairpin serve`.
pub struct Serve {
    pub child: Child,
    pub address: SocketAddr,
    pub key: String,
}

impl Serve {
    pub fn start(folder: &Path, whatsapp: &str, more: &[(&str, &str)]) -> Self {
        Self::start_program(env!("CARGO_BIN_EXE_hairpin"), folder, LOCAL, whatsapp, more)
    }

    fn start_program(
        path: &str,
        folder: &Path,
        listen: &str,
        whatsapp: &str,
        more: &[(&str, &str)],
    ) -> Self {
        let mut command = program(
            path,
            &[
                "serve",
                "--listen",
                listen,
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

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    /// What stands at a path, as text.
    async fn read(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.expect("connected");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
            self.address, self.key
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let answer = read_answer(&mut stream).await;
        assert!(!answer.body.is_empty(), "{path}");
        String::from_utf8(answer.body).expect("text")
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
        tokio::time::timeout(Duration::from_mins(1), wait)
            .await
            .unwrap_or_else(|_| panic!("never {state}"));
    }

    /// Waits until a stored link has connected, or is known to be dead.
    pub async fn settled(&self) {
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
        tokio::time::timeout(Duration::from_mins(1), wait)
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
        .write_all(b"89001234567\r\n\xff\xfe\n123\n5511987654321")
        .expect("written");
    let output = child.wait_with_output().expect("ended");
    let answers = text(&output.stdout);
    let lines: Vec<&str> = answers.lines().collect();
    assert_eq!(lines.len(), 4, "one answer a line");
    assert!(
        lines[0].starts_with("+79001234567")
            && lines[1].starts_with("refused: ")
            && lines[2].starts_with("refused: ")
            && lines[3].contains("BR")
    );
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test]
async fn the_address_that_is_printed_opens_the_page_also_where_every_interface_is_listened_on() {
    for every in ["0.0.0.0:0", "[::]:0"] {
        let folder = tempfile::tempdir().expect("a folder");
        let serve = Serve::start_program(
            env!("CARGO_BIN_EXE_hairpin"),
            folder.path(),
            every,
            "ws://127.0.0.1:1/",
            &[("HAIRPIN_WEB_PLAIN_HTTP", "true")],
        );
        // The address is what a browser names as the host.
        let (status, _) = serve.ask("GET", "/healthz", "").await.expect("answered");
        let address = serve.address;
        serve.kill();
        assert_eq!(status, 200, "{address}");
    }
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

#[test]
fn the_key_is_never_printed_into_the_journal() {
    use std::os::unix::fs::MetadataExt;

    let folder = tempfile::tempdir().expect("a folder");
    let journal = std::fs::File::create(folder.path().join("journal")).expect("a file");
    let about = journal.metadata().expect("there");
    let out = hairpin(
        &["serve", "--listen", "127.0.0.1:0", "--open-key"],
        folder.path(),
    )
    .env("JOURNAL_STREAM", format!("{}:{}", about.dev(), about.ino()))
    .stdout(journal)
    .output()
    .expect("run");
    assert_eq!(out.status.code(), Some(2));
    let said = text(&out.stderr);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("hairpin access-key"), "{said}");
    let journal = std::fs::read(folder.path().join("journal")).expect("readable");
    assert!(journal.is_empty());
    assert!(!folder.path().join(".local").exists(), "nothing was begun");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_made_to_crash_leaves_no_core_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let sim = Sim::start().await;
    let mut serve = Serve::start(folder.path(), &sim.url(), &[]);
    let pid = serve.child.id();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("readable");
    let core = limits.lines().find(|line| line.starts_with("Max core"));
    let core: Vec<&str> = core.expect("a limit").split_whitespace().collect();
    assert_eq!(core[4..6], ["0", "0"], "{core:?}");
    let process = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid"));
    rustix::process::kill_process(process.expect("a pid"), rustix::process::Signal::ABORT)
        .expect("sent");
    let ended = serve.child.wait().expect("ended");
    assert_eq!(ended.signal(), Some(6));
    assert!(!ended.core_dumped());
}

/// Files in `/proc` belong to root once a process may not be looked into; whoever is root already has to be somebody
/// else to see that.
#[tokio::test(flavor = "multi_thread")]
async fn no_other_process_of_the_same_user_may_look_into_this_one() {
    const NOBODY: u32 = 65_534;
    let folder = tempfile::tempdir().expect("a folder");
    let is_root = rustix::process::getuid().is_root();
    let binary = folder.path().join("hairpin");
    std::fs::copy(env!("CARGO_BIN_EXE_hairpin"), &binary).expect("copied");
    let home = folder.path().join("home");
    std::fs::create_dir(&home).expect("made");
    let mut command = program(binary.to_str().expect("text"), &["serve"], &home);
    command.args(["--listen", "127.0.0.1:0"]);
    command.args(["--whatsapp-url", "ws://127.0.0.1:1/"]);
    if is_root {
        std::os::unix::fs::chown(&home, Some(NOBODY), Some(NOBODY)).expect("given away");
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("opened");
        command.uid(NOBODY).gid(NOBODY);
    }
    let mut child = command.stderr(Stdio::null()).spawn().expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    // It is up.
    let address = lines.next().expect("a line").expect("text");
    assert!(address.starts_with("Hairpin is at"), "{address}");
    let process = format!("/proc/{}", child.id());
    let memory = std::fs::metadata(format!("{process}/mem")).expect("there");
    let environment = std::fs::metadata(format!("{process}/environ")).expect("there");
    let owner = std::fs::read_to_string(format!("{process}/status")).expect("readable");
    let mine = if is_root {
        NOBODY
    } else {
        rustix::process::getuid().as_raw()
    };
    assert!(owner.contains(&format!("Uid:\t{mine}\t")), "{owner}");
    for about in [memory, environment] {
        assert_eq!(about.uid(), 0, "it can be looked into");
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_others_could_read_is_closed_at_the_start_and_the_log_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let sim = Sim::start().await;
    Serve::start(folder.path(), &sim.url(), &[]).kill();
    let data = folder.path().join(".local/share/hairpin");
    let wide = [
        (data.clone(), 0o755, 0o700),
        (data.join("hairpin.redb"), 0o644, 0o600),
        (data.join("hairpin.keys"), 0o604, 0o600),
        (data.join("access-key"), 0o640, 0o600),
        (data.join("tls-key.pem"), 0o620, 0o600),
        (data.join("hairpin.keys.2026-01-01T00-00-00Z"), 0o606, 0o600),
    ];
    for (path, _, _) in &wide[4..] {
        std::fs::write(path, "a secret").expect("written");
    }
    for (path, mode, _) in &wide {
        let mode = std::fs::Permissions::from_mode(*mode);
        std::fs::set_permissions(path, mode).expect("opened");
    }
    Serve::start(folder.path(), &sim.url(), &[]).kill();
    let log = std::fs::read_to_string(folder.path().join("log")).expect("a log");
    for (path, was, now) in wide {
        let mode = std::fs::metadata(&path).expect("there").permissions();
        assert_eq!(mode.mode() & 0o777, now, "{}", path.display());
        let was = format!("{was:o}");
        let mut told = log.lines().filter(|line| line.contains("WARN"));
        assert!(
            told.any(|line| line.contains(&was)),
            "{}: {log}",
            path.display()
        );
    }
}

#[test]
fn a_tls_key_that_everybody_may_read_is_told_and_left_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = SelfSigned::make(&["localhost".to_owned()], 1).expect("made");
    let [cert, key] = ["page.crt", "page.key"].map(|name| folder.path().join(name));
    std::fs::write(&cert, made.cert).expect("written");
    std::fs::write(&key, made.key.as_bytes()).expect("written");
    for (mode, told) in [(0o644, true), (0o640, false)] {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).expect("set");
        let mut command = hairpin(&["serve", "--listen", LOCAL], folder.path());
        command.env("HAIRPIN_WEB_TLS_CERT", &cert);
        command.env("HAIRPIN_WEB_TLS_KEY", &key);
        let mut child = command.spawn().expect("started");
        let mut first = String::new();
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        lines.read_line(&mut first).expect("a line");
        assert!(first.starts_with("Hairpin is at https://"), "{first}");
        child.kill().expect("killed");
        let log = child.wait_with_output().expect("ended").stderr;
        let log = text(&log);
        let warned = log
            .lines()
            .any(|line| line.contains("WARN") && line.contains("page.key"));
        assert_eq!(warned, told, "{mode:o}: {log}");
        let kept = std::fs::metadata(&key).expect("there").permissions();
        assert_eq!(kept.mode() & 0o777, mode);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_in_the_environment_is_nobodys_default() {
    let folder = tempfile::tempdir().expect("a folder");
    let sim = Sim::start().await;
    let names = [
        "PHONE",
        "PHONE_NUMBER",
        "NUMBER",
        "PAIRING_PHONE",
        "PAIRING_NUMBER",
        "DEFAULT_PHONE",
    ];
    for name in names {
        let name = format!("HAIRPIN_{name}");
        // A variable that nothing reads is either refused at the start or has no effect.
        let serve = Serve::start(
            folder.path(),
            &sim.url(),
            &[(&name, CANARY), ("PHONE_NUMBER", CANARY)],
        );
        for body in ["{}", r#"{"phoneNumber":null}"#, r#"{"phoneNumber":""}"#] {
            let (status, problem) = serve
                .ask("POST", "/api/v1/sessions/salon/pairing-code", body)
                .await
                .expect("answered");
            assert!(
                (400..500).contains(&status),
                "{name} {body}: {status} {problem}"
            );
        }
        serve.signal(rustix::process::Signal::TERM);
        assert_eq!(serve.ended(), Some(0));
    }
    assert_eq!(sim.total_connections(), 0);
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

/// Everything that must not be seen, by what it is.
#[derive(Default)]
struct Canaries(Vec<(&'static str, String)>);

impl Canaries {
    /// A text, and the shapes in which something could let it slip.
    fn text(&mut self, what: &'static str, text: &str) {
        self.0.push((what, text.to_owned()));
        self.bytes(what, text.as_bytes());
    }

    /// Bytes as people and programs write them: hex, base64 of both alphabets, at each of the three places in a longer
    /// text, and as a debug print.
    fn bytes(&mut self, what: &'static str, bytes: &[u8]) {
        use base64::Engine as _;
        use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
        let mut hex = String::new();
        for byte in bytes {
            hex.push_str(&format!("{byte:02x}"));
        }
        self.0.push((what, hex.to_uppercase()));
        self.0.push((what, hex));
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            for before in 0..3 {
                let padded = [&vec![0; before][..], bytes].concat();
                let encoded = engine.encode(padded);
                // What depends on the neighbours is cut off.
                let (from, to) = ([0, 2, 3][before], encoded.len() - 1);
                self.0.push((what, encoded[from..to].to_owned()));
            }
        }
        let debug = format!("{bytes:?}");
        self.0
            .push((what, debug.trim_matches(['[', ']']).to_owned()));
    }

    fn number(&mut self, what: &'static str, digits: &str) {
        self.text(what, digits);
        let national = &digits[1..];
        self.text(what, national);
        let (area, rest) = national.split_at(3);
        for shape in [
            format!("{area} {}-{}-{}", &rest[..3], &rest[3..5], &rest[5..]),
            format!("{area} {} {} {}", &rest[..3], &rest[3..5], &rest[5..]),
            format!("{area}-{}-{}-{}", &rest[..3], &rest[3..5], &rest[5..]),
            format!("({area}) {}-{}", &rest[..3], &rest[3..]),
        ] {
            self.0.push((what, shape));
        }
    }

    /// The first of them that the text gives away.
    fn found_in(&self, text: &str) -> Option<&(&'static str, String)> {
        self.0.iter().find(|(what, form)| {
            assert!(form.len() >= 8, "{what}: {form} says too little");
            text.contains(form.as_str())
        })
    }
}

/// The longest run of signs that a key could be written in.
fn longest_run(text: &str) -> &str {
    text.split(|sign: char| !sign.is_ascii_alphanumeric() && !"+_=-".contains(sign))
        .max_by_key(|run| run.len())
        .unwrap_or("")
}

/// Numbers of nobody, not in any page, and a message that nobody writes.
const CANARY: &str = "79034815926";
const OTHER: &str = "79062739418";
const MESSAGE: &str = "canary-message-body";

#[tokio::test(flavor = "multi_thread")]
async fn the_most_verbose_log_of_a_whole_run_holds_no_number_code_key_or_message() {
    use std::os::unix::fs::MetadataExt;

    for format in ["text", "json", "journal"] {
        let folder = tempfile::tempdir().expect("a folder");
        let sim = Sim::start().await;
        // As systemd says it: this file is the journal.
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let about = log.metadata().expect("there");
        let journal = format!("{}:{}", about.dev(), about.ino());
        let (format_set, journal) = match format {
            "journal" => ("text", journal.as_str()),
            format => (format, ""),
        };
        let serve = Serve::start(
            folder.path(),
            &sim.url(),
            &[
                ("RUST_LOG", "trace"),
                ("HAIRPIN_LOG", "trace"),
                ("HAIRPIN_LOG_FORMAT", format_set),
                ("JOURNAL_STREAM", journal),
            ],
        );
        let mut canaries = Canaries::default();
        canaries.text("the access key", &serve.key);
        canaries.text("the message", MESSAGE);
        canaries.number("a number", CANARY);
        canaries.number("a number", OTHER);
        for number in [CANARY, OTHER] {
            canaries.text("a hidden id", &sim.phone(number).lid());
        }
        let store = folder.path().join(".local/share/hairpin");
        let mut seen: Vec<(String, String)> = Vec::new();
        let (mut link_id, mut shown) = (None, String::new());
        for number in [CANARY, OTHER] {
            let (status, answer) = serve.code(number, link_id.as_deref()).await;
            assert_eq!(status, 200, "{answer}");
            shown.push_str(&answer.to_string());
            let code = answer["code"].as_str().expect("a code").to_owned();
            canaries.text("a code", &code.replace('-', ""));
            canaries.text("a code", &code);
            sim.phone(number).enter_code(&code).await.expect("linked");
            serve.state("CONNECTED").await;
            for (what, number, replace) in [
                ("a question", "+7 901 000-00-00", None),
                ("a refusal", number, None),
                ("a refusal", "+7 901 000-00-00", Some("no such link")),
                ("a bad number", "+7 903 481-59-2", None),
            ] {
                let (status, problem) = serve.code(number, replace).await;
                assert!(status >= 400, "{what}: {problem}");
                seen.push((what.to_owned(), problem.to_string()));
                if let Some(id) = problem["linkId"].as_str() {
                    link_id = Some(id.to_owned());
                }
            }
        }
        let device = sim.phone(OTHER).devices()[0].id;
        reads(&sim, OTHER, MESSAGE).await;
        sim.phone(OTHER).remove_device(device).await;
        serve.state("LOGGED_OUT").await;

        for path in [
            "/api/v1/audit",
            "/api/v1/metrics",
            "/metrics",
            "/api/v1/sessions",
            "/readyz",
            "/healthz",
            "/openapi.json",
            "/no/such/place",
        ] {
            seen.push((path.to_owned(), serve.read(path).await));
        }
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("static");
        let mut pages = 0;
        for entry in walk(&page) {
            let path = format!("/{}", entry.strip_prefix(&page).expect("inside").display());
            seen.push((path.clone(), serve.read(&path).await));
            pages += 1;
        }
        assert!(pages > 10, "the page's files are read");
        for command in [
            &["status"][..],
            &["status", "--json"],
            &["audit"],
            &["audit", "--json"],
        ] {
            let said = run(command, folder.path());
            assert!(said.status.success(), "{command:?}");
            let said = text(&[said.stdout, said.stderr].concat());
            assert!(said.contains("79062***418"), "{command:?}: {said}");
            seen.push((format!("hairpin {}", command.join(" ")), said));
        }
        let process = serve.child.id();
        for (name, file) in [
            ("its command line", format!("/proc/{process}/cmdline")),
            ("its environment", format!("/proc/{process}/environ")),
        ] {
            // Its environment may be refused even to its own user.
            let read = std::fs::read_to_string(file);
            assert!(read.is_ok() || name == "its environment", "{name}");
            seen.push((name.to_owned(), read.unwrap_or_default()));
        }
        let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
        assert_eq!(
            children.unwrap_or_default(),
            "",
            "it starts nobody who could be asked"
        );
        serve.signal(rustix::process::Signal::TERM);
        assert_eq!(serve.ended(), Some(0));

        // The keys themselves: what the second link left behind.
        let store = open(&store);
        let row = store.link("salon").expect("readable").expect("left behind");
        let device = store
            .backend("salon", row.epoch)
            .load()
            .await
            .expect("readable")
            .expect("a device");
        for (what, pair) in [
            ("the Noise key", &device.noise_key),
            ("the identity key", &device.identity_key),
            ("the signed pre-key", &device.signed_pre_key),
        ] {
            canaries.bytes(what, &pair.private_key.serialize()[..]);
            canaries.bytes(what, pair.public_key.public_key_bytes());
        }
        canaries.bytes("the ADV secret", &device.adv_secret_key);
        canaries.text("its own id", &device.pn.expect("an id").to_string());
        store.close().await;

        let log = std::fs::read_to_string(folder.path().join("log")).expect("a log");
        for line in ["wiped the old link", "a code is shown", "linked", "checked"] {
            assert!(log.contains(line), "the whole run is in the log:\n{log}");
        }
        assert!(log.contains("79034***926") && log.contains("took_us") && log.contains("took_ms"));
        let wiped = log
            .lines()
            .find(|line| line.contains("wiped the old link"))
            .expect("a line");
        let information = if format == "journal" {
            assert!(
                log.lines().all(|line| ["<4>", "<6>", "<7>"]
                    .iter()
                    .any(|level| line.starts_with(level))),
                "each line has its level:\n{log}"
            );
            wiped.starts_with("<6>")
        } else {
            wiped.contains("INFO")
        };
        assert!(information, "a mismatch is information: {wiped}");
        let run = longest_run(&log);
        assert!(run.len() < 32, "this could be a key: {run}");
        seen.push((format!("the log ({format})"), log));
        assert!(
            canaries.found_in(&shown).is_some(),
            "whoever asked was shown the code, and this looks for it"
        );
        for (place, text) in &seen {
            if let Some((what, form)) = canaries.found_in(text) {
                panic!("{what} is in {place}, as {form}:\n{text}");
            }
        }
    }
}

/// All files below a folder.
fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// What must hold whenever the plug is pulled: the old link whole, or the new epoch alone.
pub async fn whole(folder: &Path, known: &mut Vec<LinkRow>) {
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
            assert_eq!(pn.user.as_str(), linked.phone.reveal());
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
    // Written in one transaction with what it reports, the journal never tells of anything else than what is there.
    let journal = store.journal(None, 1000).expect("readable");
    let told = journal.iter().map(|entry| entry.what).find(|what| {
        !matches!(
            what,
            JournalWhat::Requested | JournalWhat::CodeShown | JournalWhat::CodeEnded
        )
    });
    let fits = match &row {
        None => told.is_none(),
        Some(row) if row.ended.is_some() => told == Some(JournalWhat::LoggedOut),
        Some(row) if row.linked.is_some() => told == Some(JournalWhat::Linked),
        Some(_) => !matches!(told, Some(JournalWhat::Linked | JournalWhat::LoggedOut)),
    };
    assert!(fits, "the journal says {told:?} of {row:?}");
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
        LOCAL,
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
