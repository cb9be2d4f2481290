//! Owns upstream's SQLite store as a contender, at equal durability: its default loses the last commits in a power cut.
//! It has no wipe of its own, so this one is the least that would do: every table's rows of the device, one transaction.

use std::cell::RefCell;
use std::path::Path;

use diesel::connection::SimpleConnection;
use diesel::{Connection, QueryableByName, RunQueryDsl, SqliteConnection};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use whatsapp_rust::traits::DeviceStore;
use whatsapp_rust_sqlite_storage::{SqliteStore, SqliteStoreConfig, Synchronous};

/// The file in a contender's folder.
pub const FILE: &str = "whatsapp.db";
/// The device whose rows are copied for others; it is never wiped.
const TEMPLATE: u32 = 1;

/// Upstream's store as we would have to run it.
pub async fn open(folder: &Path) -> SqliteStore {
    let config = SqliteStoreConfig {
        synchronous: Synchronous::Full,
        // As much as ours gets.
        cache_size_kib: 16 << 10,
        ..SqliteStoreConfig::default()
    };
    let path = folder.join(FILE).display().to_string();
    SqliteStore::with_config(&path, config)
        .await
        .expect("opened")
}

/// The store, and a connection beside it for what it has no method for.
pub struct Sqlite {
    _folder: TempDir,
    pub store: SqliteStore,
    connection: RefCell<SqliteConnection>,
    /// Tables with rows by device.
    tables: Vec<String>,
}

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = diesel::sql_types::Text)]
    name: String,
}

impl Sqlite {
    pub fn new(runtime: &Runtime) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = runtime.block_on(open(folder.path()));
        let path = folder.path().join(FILE).display().to_string();
        let mut connection = SqliteConnection::establish(&path).expect("connected");
        connection
            .batch_execute(
                "PRAGMA busy_timeout = 30000; PRAGMA synchronous = FULL; PRAGMA cache_size = -16384;
                 PRAGMA temp_store = memory; PRAGMA foreign_keys = ON;",
            )
            .expect("set");
        let tables = diesel::sql_query(
            "SELECT m.name AS name FROM sqlite_master m JOIN pragma_table_info(m.name) c
             WHERE m.type = 'table' AND c.name = 'device_id' ORDER BY m.name",
        )
        .load::<Name>(&mut connection)
        .expect("listed")
        .into_iter()
        .map(|row| row.name)
        .collect::<Vec<_>>();
        assert!(tables.iter().any(|table| table == "prekeys"), "{tables:?}");
        Self {
            _folder: folder,
            store,
            connection: RefCell::new(connection),
            tables,
        }
    }

    /// Names the device's own number.
    pub async fn name_line(&self, line: &str) {
        self.store.create().await.expect("created");
        let mut device = self.store.load().await.expect("loaded").expect("a device");
        device.pn = Some(format!("{line}:7@s.whatsapp.net").parse().expect("a JID"));
        self.store.save(&device).await.expect("saved");
    }

    /// The check with what upstream offers: the device is loaded, its own number compared.
    pub async fn is_line(&self, line: &str) -> bool {
        let device = self.store.load().await.expect("loaded");
        device
            .and_then(|device| device.pn)
            .is_some_and(|jid| jid.user == line)
    }

    /// Everything of one device, in one durable transaction. No new link, no journal, nothing overwritten.
    pub fn wipe(&self, device: u32) {
        let mut statements = String::from("BEGIN IMMEDIATE;");
        for table in &self.tables {
            statements.push_str(&format!("DELETE FROM {table} WHERE device_id = {device};"));
        }
        statements.push_str(&format!("DELETE FROM device WHERE id = {device}; COMMIT;"));
        self.run(&statements);
    }

    /// Makes what is stored old, as a link is that is wiped: it lies in the file, not in the log any more.
    pub fn checkpoint(&self) {
        self.run("PRAGMA wal_checkpoint(TRUNCATE);");
    }

    /// Gives `devices` the key rows that the template has.
    pub fn copy_to(&self, devices: impl Iterator<Item = u32>) {
        let mut statements = String::from("BEGIN IMMEDIATE;");
        for device in devices {
            statements.push_str(&format!(
                "INSERT INTO prekeys (id, key, uploaded, device_id)
                   SELECT id, key, uploaded, {device} FROM prekeys WHERE device_id = {TEMPLATE};
                 INSERT INTO sessions (address, record, device_id)
                   SELECT address, record, {device} FROM sessions WHERE device_id = {TEMPLATE};"
            ));
        }
        statements.push_str("COMMIT;");
        self.run(&statements);
    }

    fn run(&self, statements: &str) {
        let mut connection = self.connection.borrow_mut();
        connection.batch_execute(statements).expect("done");
    }
}
