//! Logins over the ends of the program: they outlive a restart, but neither their own end, nor another key, nor a copy.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::web_support::{Answer, read_answer};

/// The program over one data folder. It links nothing, so it speaks to nobody.
struct House {
    folder: TempDir,
    running: Option<Child>,
    address: String,
    key: String,
}

impl House {
    fn new() -> Self {
        let mut house = Self {
            folder: tempfile::tempdir().expect("a folder"),
            running: None,
            address: String::new(),
            key: String::new(),
        };
        house.start();
        house
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn program(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hairpin"));
        command
            .args(args)
            .arg("--data-dir")
            .arg(self.data())
            .env_clear()
            .env("HOME", self.folder.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn start(&mut self) {
        let args = [
            "serve",
            "--listen=127.0.0.1:0",
            "--whatsapp-url=ws://127.0.0.1:9/ws",
            "--open-key",
        ];
        let mut child = self
            .program(&args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let open = lines
            .map(|line| line.expect("text"))
            .find(|line| line.contains("#key="))
            .expect("the one-click address");
        let (_, at) = open.split_once("http://").expect("an address");
        let (address, key) = at.split_once("/#key=").expect("a key");
        self.address = address.to_owned();
        self.key = key.to_owned();
        self.running = Some(child);
    }

    fn kill(&mut self) {
        let mut child = self.running.take().expect("running");
        child.kill().expect("killed");
        child.wait().expect("ended");
    }

    fn stop(&mut self) {
        let mut child = self.running.take().expect("running");
        let id = i32::try_from(child.id()).expect("a process");
        let id = rustix::process::Pid::from_raw(id).expect("a process");
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("told");
        assert!(child.wait().expect("ended").success());
    }

    async fn ask(&self, method: &str, path: &str, cookie: &str, body: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.address).await.expect("connected");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nCookie: {cookie}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        read_answer(&mut stream).await
    }

    /// The cookie's name and the token in it.
    async fn log_in(&self) -> String {
        let body = json!({ "accessKey": self.key }).to_string();
        let answer = self.ask("POST", "/login", "none=", &body).await;
        assert_eq!(answer.status, 204);
        let cookie = answer.header("set-cookie");
        cookie.split(';').next().expect("a pair").to_owned()
    }

    async fn is_in(&self, cookie: &str) -> bool {
        match self.ask("GET", "/api/v1/sessions", cookie, "").await.status {
            200 => true,
            401 => false,
            other => panic!("an answer of {other}"),
        }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.kill();
        }
    }
}

/// Whether any file of the folder holds this text.
fn lies_in(folder: &Path, text: &str) -> bool {
    let files = std::fs::read_dir(folder).expect("a folder");
    files.map(|file| file.expect("a file").path()).any(|file| {
        file.is_file()
            && std::fs::read(&file)
                .expect("readable")
                .windows(text.len())
                .any(|part| part == text.as_bytes())
    })
}

#[tokio::test]
async fn a_login_outlives_a_restart_and_a_logout_a_pulled_plug() {
    let mut house = House::new();
    let (stays, leaves) = (house.log_in().await, house.log_in().await);
    house.stop();
    house.start();
    assert!(house.is_in(&stays).await && house.is_in(&leaves).await);

    for _ in 0..3 {
        let gone = house.log_in().await;
        let answer = house.ask("POST", "/logout", &gone, "").await;
        assert_eq!(answer.status, 204);
        // At once after the answer.
        house.kill();
        house.start();
        assert!(!house.is_in(&gone).await, "a logout holds");
    }
    assert!(house.is_in(&stays).await && house.is_in(&leaves).await);
}

#[tokio::test]
async fn no_token_lies_on_the_disk_and_nobody_else_may_look() {
    let mut house = House::new();
    let cookie = house.log_in().await;
    house.stop();
    let (_, token) = cookie.split_once('=').expect("a pair");
    assert!(!lies_in(&house.data(), token));
    for name in ["hairpin.redb", "hairpin.keys", "access-key"] {
        let file = std::fs::metadata(house.data().join(name)).expect(name);
        assert_eq!(file.mode() & 0o777, 0o600, "{name}");
    }
    house.start();
    assert!(house.is_in(&cookie).await);
}

#[tokio::test]
async fn a_key_that_was_replaced_while_nothing_ran_ends_every_login() {
    let mut house = House::new();
    let cookie = house.log_in().await;
    let old = house.key.clone();
    house.stop();
    let rotated = house
        .program(&["access-key", "--rotate"])
        .output()
        .expect("run");
    assert!(rotated.status.success());
    house.start();
    assert_eq!(
        String::from_utf8_lossy(&rotated.stdout).trim(),
        house.key,
        "the new key"
    );
    assert_ne!(house.key, old);
    assert!(!house.is_in(&cookie).await);
    assert!(house.is_in(&house.log_in().await).await);
}
