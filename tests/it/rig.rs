//! Owns what every end-to-end test stands on: a simulated WhatsApp, the whole appliance, and people who ask it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hairpin::app::Appliance;
use hairpin::config::{Settings, Sources};
use hairpin::store::{Disk, Epoch, Folder, LinkRow, Options, Store};
use hairpin_sim::{Sim, SimConfig, Step};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::web_support::{Answer, Socket, read_answer};

/// Longer than any step may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(1);

pub const ANNA: &str = "79001234567";
pub const BORIS: &str = "79007654321";

/// The appliance over one data folder, pointed at one simulated WhatsApp.
pub struct Rig {
    pub sim: Sim,
    pub folder: TempDir,
    pub settings: BTreeMap<&'static str, String>,
    pub appliance: Option<Appliance>,
    pub address: SocketAddr,
    pub key: String,
}

impl Rig {
    pub async fn new() -> Self {
        Self::with(&[]).await
    }

    /// With settings of one's own, by their keys.
    pub async fn with(settings: &[(&'static str, &str)]) -> Self {
        Self::with_sim(Sim::start_with(SimConfig::default()).await, settings).await
    }

    pub async fn with_sim(sim: Sim, settings: &[(&'static str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut all: BTreeMap<&'static str, String> = BTreeMap::from([
            ("listen", "127.0.0.1:0".to_owned()),
            ("whatsapp.url", sim.url()),
            ("data_dir", folder.path().join("data").display().to_string()),
            ("pairing.requests_per_number", "0".to_owned()),
        ]);
        for (key, value) in settings {
            all.insert(key, (*value).to_owned());
        }
        let mut rig = Self {
            sim,
            folder,
            settings: all,
            appliance: None,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            key: String::new(),
        };
        rig.start().await;
        rig
    }

    pub fn read_settings(&self) -> Settings {
        let empty = self.folder.path().join("empty.toml");
        std::fs::write(&empty, "").expect("written");
        Settings::read(&Sources {
            file: Some(empty),
            flags: self.settings.clone(),
            env: BTreeMap::new(),
        })
        .expect("settings")
    }

    pub fn data(&self) -> PathBuf {
        PathBuf::from(&self.settings["data_dir"])
    }

    pub async fn start(&mut self) {
        let disk = Arc::new(Folder::new(&self.data()));
        self.start_on(disk).await;
    }

    /// With the store on a disk of the test's own.
    pub async fn start_on(&mut self, disk: Arc<dyn Disk>) {
        let appliance = Appliance::start_on(self.read_settings(), disk)
            .await
            .expect("started");
        let (_, address) = appliance.address().split_once("://").expect("a scheme");
        self.address = address.trim_end_matches('/').parse().expect("an address");
        self.key = appliance.access_key().reveal().to_owned();
        self.appliance = Some(appliance);
    }

    pub async fn stop(&mut self) {
        if let Some(appliance) = self.appliance.take() {
            appliance.stop().await;
        }
    }

    pub async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    /// What lies in the store, looked at with the appliance stopped.
    pub async fn stored(&mut self, session: &str) -> Option<LinkRow> {
        self.in_store(async |store| store.link(session).expect("read"))
            .await
    }

    /// Opens the store with the appliance stopped, and closes it again.
    pub async fn in_store<T>(&mut self, look: impl AsyncFnOnce(&Store) -> T) -> T {
        self.stop().await;
        let store = open(&self.data());
        let seen = look(&store).await;
        store.close().await;
        seen
    }

    pub async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.expect("connected");
        let body = body.map(|body| body.to_string()).unwrap_or_default();
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
        stream.write_all(request.as_bytes()).await.expect("sent");
        tokio::time::timeout(PATIENCE, read_answer(&mut stream))
            .await
            .expect("answered")
    }

    /// Asks over the API for a code.
    pub async fn code(&self, session: &str, number: &str, replace: Option<&str>) -> Answer {
        self.ask(
            "POST",
            &format!("/api/v1/sessions/{session}/pairing-code"),
            Some(json!({ "phoneNumber": number, "country": "RU", "replace": replace })),
        )
        .await
    }

    /// Adds a session, or names it anew; the status of the answer.
    pub async fn put_session(&self, session: &str) -> u16 {
        let path = format!("/api/v1/sessions/{session}");
        let name = Some(json!({ "name": "Salon" }));
        self.ask("PUT", &path, name).await.status
    }

    pub async fn status(&self, session: &str) -> Value {
        self.ask("GET", &format!("/api/v1/sessions/{session}"), None)
            .await
            .json()
    }

    /// Waits until the session is in the state.
    pub async fn state(&self, session: &str, state: &str) -> Value {
        let wait = async {
            loop {
                let status = self.status(session).await;
                if status["state"] == state {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(status) => status,
            Err(tokio::time::error::Elapsed { .. }) => panic!(
                "never {state}, but {}; WhatsApp saw {:#?}",
                self.status(session).await,
                self.sim.events().iter().rev().take(20).collect::<Vec<_>>()
            ),
        }
    }

    pub async fn page(&self, session: &str) -> Socket {
        let url = format!("ws://{}/ws?session={session}&lang=en", self.address);
        let mut request = url.into_client_request().expect("a request");
        request.headers_mut().insert(
            "Authorization",
            format!("Bearer {}", self.key).parse().expect("a header"),
        );
        let (inner, _) = tokio_tungstenite::connect_async(request)
            .await
            .expect("upgraded");
        Socket { inner }
    }

    /// Links a phone, from the number to CONNECTED.
    pub async fn link(&self, session: &str, number: &str) {
        let answer = self.code(session, number, None).await;
        assert_eq!(
            answer.status,
            200,
            "{}",
            String::from_utf8_lossy(&answer.body)
        );
        let code = answer.json()["code"].as_str().expect("a code").to_owned();
        let phone = self.sim.phone(number);
        phone.enter_code(&code).await.expect("linked");
        self.state(session, "CONNECTED").await;
    }

    /// A text of the number's phone reaches the link, is read, and acknowledged.
    pub async fn reads_what_the_phone_writes(&self, number: &str) {
        reads(&self.sim, number, "Are you there?").await;
    }

    /// Changes the number that stands in the session's row, with the appliance stopped.
    pub async fn write_line(&mut self, epoch: Epoch, line: &'static str) {
        self.in_store(async |store| {
            let change = Box::new(|row: &mut LinkRow| row.line = line.into());
            let changed = store.update_link("salon", epoch, change, Vec::new());
            changed.await.expect("changed");
        })
        .await;
    }

    pub async fn audit(&self) -> Vec<Value> {
        let answer = self.ask("GET", "/api/v1/audit", None).await;
        assert_eq!(answer.status, 200);
        answer.json().as_array().expect("a list").clone()
    }
}

/// A text of the number's phone reaches its first device, is read there, and acknowledged.
pub async fn reads(sim: &Sim, number: &str, text: &str) {
    let phone = sim.phone(number);
    let device = phone.devices()[0].id;
    let id = phone.send_text(device, text).await.expect("sent");
    sim.wait_for(|event| event.is(Step::Receipt, number) && event.note.contains(&id))
        .await;
}

pub fn open(folder: &Path) -> Store {
    Store::open(folder, Options::default()).expect("opened")
}

/// The code of an answer.
pub fn code_of(answer: &Answer) -> String {
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    answer.json()["code"].as_str().expect("a code").to_owned()
}

/// A small disk of its own, where this process may mount one.
pub struct SmallDisk(TempDir);

impl SmallDisk {
    pub fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder.path())
            .status()
            .is_ok_and(|status| status.success());
        mounted.then_some(Self(folder))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Where the appliance keeps its data on it.
    pub fn data(&self) -> String {
        self.0.path().join("data").display().to_string()
    }

    /// Takes all the room there is.
    pub fn fill(&self) {
        use std::io::Write;
        let mut filler = std::fs::File::create(self.0.path().join("filler")).expect("a file");
        while filler.write_all(&[0; 4096]).is_ok() {}
    }

    pub fn free(&self) {
        std::fs::remove_file(self.0.path().join("filler")).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg(self.0.path())
            .status();
    }
}
