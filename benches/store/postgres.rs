//! Owns the old service's side: its two statements on a PostgreSQL server of the benchmark's own, in a temporary folder,
//! on a Unix socket, with the server's default settings (durable commits).

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio_postgres::{Client, Config, NoTls, Statement};

/// node-postgres' own default.
const POOL: usize = 10;
/// Longer than a cluster takes to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// One row per credential, as the old service kept them.
const SCHEMA: &str =
    "CREATE TABLE auth (session text, name text, value text NOT NULL, PRIMARY KEY (session, name))";
const SELECT: &str = "SELECT value FROM auth WHERE session = $1 AND name = 'creds'";
const DELETE: &str = "DELETE FROM auth WHERE session = $1";
/// 352 characters a row: short enough to be stored as they are.
const FILL: &str = "INSERT INTO auth SELECT $1, 'key-' || n, repeat(md5(n::text), 11) FROM generate_series(1, $2::int) n";
const CREDS: &str = "INSERT INTO auth VALUES ($1, 'creds', $2) ON CONFLICT (session, name) DO UPDATE SET value = $2";
const LOAD: &str = "SELECT name, value FROM auth WHERE session = $1";

/// A running server and the connections to it.
pub struct Postgres {
    clients: Mutex<Vec<Connection>>,
    permits: Semaphore,
    /// Stopped before its folder goes.
    _server: Server,
}

struct Connection {
    client: Client,
    select: Statement,
    delete: Statement,
    load: Statement,
}

impl Postgres {
    /// None, with a word on why, where no server is installed.
    pub fn start(runtime: &Runtime) -> Option<Self> {
        let Some(programs) = programs() else {
            println!("no PostgreSQL server is installed: its rows are left out");
            return None;
        };
        let server = Server::start(&programs);
        let mut clients = Vec::new();
        for _ in 0..POOL {
            clients.push(runtime.block_on(connect(&server, clients.is_empty())));
        }
        Some(Self {
            clients: Mutex::new(clients),
            permits: Semaphore::new(POOL),
            _server: server,
        })
    }

    /// The old check: the creds row is fetched, parsed, and its own number compared.
    pub async fn is_line(&self, session: &str, line: &str) -> bool {
        self.with(async |connection| {
            let rows = connection
                .client
                .query(&connection.select, &[&session])
                .await
                .expect("selected");
            rows.first()
                .is_some_and(|row| own_number(row.get(0)).as_deref() == Some(line))
        })
        .await
    }

    /// The old check and wipe: two statements, the second durable by itself.
    pub async fn check_and_wipe(&self, session: &str, line: &str) {
        self.with(async |connection| {
            let rows = connection
                .client
                .query(&connection.select, &[&session])
                .await
                .expect("selected");
            let row = rows.first().expect("creds");
            assert!(own_number(row.get(0)).as_deref() != Some(line));
            let gone = connection
                .client
                .execute(&connection.delete, &[&session])
                .await
                .expect("deleted");
            assert!(gone > 0);
        })
        .await;
    }

    /// All rows of a session; how many there were.
    pub async fn load(&self, session: &str) -> usize {
        self.with(async |connection| {
            let rows = connection
                .client
                .query(&connection.load, &[&session])
                .await
                .expect("selected");
            rows.iter()
                .map(|row| {
                    let (name, value): (String, String) = (row.get(0), row.get(1));
                    usize::from(!name.is_empty() && !value.is_empty())
                })
                .sum()
        })
        .await
    }

    /// Gives a session its creds and `count` key rows.
    pub async fn fill(&self, session: &str, line: &str, count: u32) {
        self.with(async |connection| {
            let count = i32::try_from(count).expect("a small count");
            let filled = connection.client.execute(FILL, &[&session, &count]).await;
            filled.expect("filled");
            let stored = connection
                .client
                .execute(CREDS, &[&session, &creds(line)])
                .await;
            stored.expect("stored");
        })
        .await;
    }

    /// Makes what is stored old, as a link is that is wiped: a server writes its tables out every few minutes, and what is
    /// changed after that goes into its log by whole pages first.
    pub async fn checkpoint(&self) {
        self.with(async |connection| {
            let done = connection.client.batch_execute("CHECKPOINT").await;
            done.expect("written out");
        })
        .await;
    }

    /// What autovacuum does in time: the next wipe must not stumble over the dead rows of this one.
    pub async fn vacuum(&self) {
        self.with(async |connection| {
            let done = connection.client.batch_execute("VACUUM auth").await;
            done.expect("vacuumed");
        })
        .await;
    }

    async fn with<T>(&self, work: impl AsyncFnOnce(&Connection) -> T) -> T {
        let _permit = self.permits.acquire().await.expect("never closed");
        let taken = self.clients.lock().expect("no panic").pop();
        let connection = taken.expect("as many connections as permits");
        let result = work(&connection).await;
        self.clients.lock().expect("no panic").push(connection);
        result
    }
}

async fn connect(server: &Server, first: bool) -> Connection {
    let mut config = Config::new();
    config
        .host_path(server.folder.path())
        .user(&server.owner.name)
        .dbname("postgres");
    let deadline = Instant::now() + PATIENCE;
    let (client, connection) = loop {
        match config.connect(NoTls).await {
            Ok(both) => break both,
            Err(error) if Instant::now() > deadline => panic!("no connection: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    // Ends with its client.
    tokio::spawn(connection);
    if first {
        client.batch_execute(SCHEMA).await.expect("a table");
    }
    let select = client.prepare(SELECT).await.expect("prepared");
    let delete = client.prepare(DELETE).await.expect("prepared");
    let load = client.prepare(LOAD).await.expect("prepared");
    Connection {
        client,
        select,
        delete,
        load,
    }
}

/// Credentials as Baileys writes them: the keys in base64, the own number in `me.id`.
fn creds(line: &str) -> String {
    let key = "q".repeat(44);
    let pair = serde_json::json!({ "private": { "type": "Buffer", "data": key }, "public": { "type": "Buffer", "data": key } });
    serde_json::json!({
        "noiseKey": pair, "pairingEphemeralKeyPair": pair, "signedIdentityKey": pair,
        "signedPreKey": { "keyPair": pair, "signature": { "type": "Buffer", "data": "q".repeat(88) }, "keyId": 1 },
        "registrationId": 77, "advSecretKey": key, "nextPreKeyId": 813, "firstUnuploadedPreKeyId": 813,
        "account": { "details": "q".repeat(40), "accountSignature": "q".repeat(88), "deviceSignature": "q".repeat(88) },
        "me": { "id": format!("{line}:7@s.whatsapp.net"), "name": "Salon" },
        "platform": "android", "registered": true,
    })
    .to_string()
}

/// The number in `me.id`.
fn own_number(creds: &str) -> Option<String> {
    let creds: serde_json::Value = serde_json::from_str(creds).ok()?;
    let digits = creds["me"]["id"].as_str()?.split([':', '@']).next()?;
    Some(digits.to_owned())
}

/// Whom the server runs as: it refuses to run as root.
struct Owner {
    name: String,
    uid: u32,
    gid: u32,
}

impl Owner {
    fn find() -> Option<Self> {
        let uid = rustix::process::geteuid().as_raw();
        let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let entry = Self {
                name: name.to_owned(),
                uid: fields.nth(1)?.parse().ok()?,
                gid: fields.next()?.parse().ok()?,
            };
            (if uid == 0 {
                name == "postgres"
            } else {
                entry.uid == uid
            })
            .then_some(entry)
        })
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        if rustix::process::geteuid().is_root() {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }
}

/// Debian keeps the server's programs out of the path.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    std::env::split_paths(&path)
        .chain(debian.flatten().map(|version| version.path().join("bin")))
        .find(|folder| folder.join("postgres").is_file() && folder.join("initdb").is_file())
}

struct Server {
    child: Child,
    folder: TempDir,
    owner: Owner,
}

impl Server {
    fn start(programs: &Path) -> Self {
        let owner = Owner::find().expect("a user whom the server may run as");
        let folder = tempfile::tempdir().expect("a folder");
        chown(folder.path(), Some(owner.uid), Some(owner.gid)).expect("given away");
        let data = folder.path().join("data");
        let born = owner
            .command(&programs.join("initdb"))
            .args(["--auth=trust", "--encoding=UTF8", "--no-locale", "--pgdata"])
            .arg(&data)
            .current_dir(folder.path())
            .status()
            .expect("initdb runs");
        assert!(born.success(), "initdb failed");
        let child = owner
            .command(&programs.join("postgres"))
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(folder.path())
            .args(["-c", "listen_addresses="])
            .stderr(Stdio::null())
            .current_dir(folder.path())
            .spawn()
            .expect("postgres runs");
        Self {
            child,
            folder,
            owner,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A fast shutdown: connections are cut, everything is written.
        let told = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .is_some_and(|pid| kill_process(pid, Signal::INT).is_ok());
        if !told || self.child.wait().is_err() {
            eprintln!("the PostgreSQL server may still be running");
        }
    }
}
