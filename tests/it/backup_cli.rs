//! `check`, `backup`, `restore` and `start-over` as people and timers run them: the real program, its exit codes, and
//! folders that are as they were whenever it says no.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hairpin::store::{BackupKey, WrappingKey};
use hairpin_sim::{Sim, Step};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::backup::{contents, filled};
use crate::control::{NOBODY, is_root};
use crate::process::Serve;
use crate::rig::{ANNA, BORIS, SmallDisk, open, reads};
use crate::terminal::{Said, Terminal, at_tty, hairpin, run};

const NOW: i64 = 1_764_046_501_000;
const FIRST: [u8; 32] = [7; 32];
const SECOND: [u8; 32] = [8; 32];

/// A folder with a store in it, a backup of that store, and the credential that opens it.
struct House {
    folder: TempDir,
    data: PathBuf,
    backup: PathBuf,
    sealed: Vec<u8>,
}

impl House {
    async fn new() -> Self {
        Self::in_folder(tempfile::tempdir().expect("a folder")).await
    }

    async fn in_folder(folder: TempDir) -> Self {
        let data = folder.path().join("data");
        let store = filled(&data).await;
        let key = BackupKey::Credential(WrappingKey::from_credential(&FIRST));
        let sealed = store.backup(&key, NOW).expect("a backup");
        store.close().await;
        let backup = folder.path().join("copy");
        std::fs::write(&backup, &sealed).expect("written");
        give(&folder, &[("hairpin-key", &FIRST)]);
        // Under the credential from now on, so that nothing is rewritten by what only looks.
        Self {
            folder,
            data,
            backup,
            sealed,
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        self.command_in(&self.data, args)
    }

    fn command_in(&self, data: &Path, args: &[&str]) -> Command {
        let mut command = hairpin(data, args);
        command.env("CREDENTIALS_DIRECTORY", credentials(&self.folder));
        command
    }

    fn run(&self, args: &[&str]) -> Said {
        self.command(args).output().expect("run").into()
    }

    /// A running appliance.
    async fn serve(&self, sim: &Sim) -> Terminal {
        let url = sim.url();
        let listen = ["serve", "--listen", "127.0.0.1:0", "--whatsapp-url", &url];
        let mut running = Terminal::of(self.command(&listen));
        running.says("Hairpin is at").await;
        running
    }

    fn restore(&self) -> Said {
        self.run(&["restore", text(&self.backup)])
    }

    fn is_sound(&self) {
        let said = self.run(&["check"]);
        assert!(said.answer().contains("is sound."), "{said:?}");
    }

    /// Spoils the store: it does not open any more.
    fn spoil(&self) {
        let file = self.data.join("hairpin.redb");
        let mut bytes = std::fs::read(&file).expect("read");
        bytes[..512].fill(0x5a);
        std::fs::write(&file, &bytes).expect("written");
    }
}

fn credentials(folder: &TempDir) -> PathBuf {
    folder.path().join("credentials")
}

/// The credentials that systemd gives, instead of those before.
fn give(folder: &TempDir, all: &[(&str, &[u8])]) {
    let at = credentials(folder);
    if at.exists() {
        std::fs::remove_dir_all(&at).expect("removed");
    }
    std::fs::create_dir(&at).expect("made");
    for (name, bytes) in all {
        std::fs::write(at.join(name), bytes).expect("written");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// Files of a folder that were set aside, by the names they had.
fn aside(data: &Path) -> BTreeMap<String, Vec<u8>> {
    contents(data)
        .into_iter()
        .filter_map(|(path, bytes)| {
            let name = path.file_name()?.to_str()?.to_owned();
            let (original, suffix) = name.rsplit_once('.')?;
            // `2025-11-25-045501`
            (suffix.len() == 17 && suffix.starts_with("20")).then(|| (original.to_owned(), bytes))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_moves_a_link_to_another_machine_with_commands_alone() {
    let sim = Sim::start().await;
    let old = tempfile::tempdir().expect("a folder");
    let data = |folder: &TempDir| folder.path().join(".local/share/hairpin");
    let serve = Serve::start(old.path(), &sim.url(), &[]);
    let (_, code) = serve.code(ANNA, None).await;
    let phone = sim.phone(ANNA);
    phone
        .enter_code(code["code"].as_str().expect("a code"))
        .await
        .expect("linked");
    serve.state("CONNECTED").await;
    sim.wait_for(|event| event.is(Step::KeyShared, ANNA)).await;
    let file = old.path().join("nightly");
    let with_passphrase = |data: &Path, args: &[&str]| -> Said {
        let mut command = hairpin(data, args);
        command.env("HAIRPIN_BACKUP_PASSPHRASE", "correct horse battery");
        command.output().expect("run").into()
    };
    let said = with_passphrase(&data(&old), &["backup", text(&file)]);
    assert!(said.answer().starts_with("Wrote "), "{said:?}");
    // Ratchets turn on after the backup was made.
    reads(&sim, ANNA, "добрый день").await;
    serve.kill();

    let new = tempfile::tempdir().expect("a folder");
    let said = with_passphrase(&data(&new), &["restore", text(&file)]);
    assert!(
        said.answer().contains("1 session, 1 link") && said.out.contains("Start the appliance"),
        "{said:?}"
    );
    let said = run(&data(&new), &["check"]);
    assert!(
        said.answer()
            .contains("79001***567, restored, 0 conversations"),
        "{said:?}"
    );
    let serve = Serve::start(new.path(), &sim.url(), &[]);
    serve.state("CONNECTED").await;
    assert_eq!(phone.devices().len(), 1, "the same device as before");
    reads(&sim, ANNA, "вы ещё тут?").await;
    let audit = run(&data(&new), &["audit"]);
    assert!(audit.answer().contains("restored"), "{audit:?}");
    serve.signal(Signal::TERM);
    assert_eq!(serve.ended(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_whole_backup_of_ours_is_refused_in_one_line_and_nothing_is_touched() {
    let house = House::new().await;
    let other = house.folder.path().join("other");
    let mut newer = house.sealed.clone();
    newer[8..10].copy_from_slice(&2u16.to_be_bytes());
    let mut damaged = house.sealed.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let mut header = house.sealed.clone();
    header[20] ^= 1;
    let cut = house.sealed.len() - 1;
    let store = std::fs::read(house.data.join("hairpin.redb")).expect("read");
    let files: [(&[u8], &str); 9] = [
        (b"", "no backup made by hairpin"),
        (b"PK\x03\x04 and so on", "no backup made by hairpin"),
        (&store, "no backup made by hairpin"),
        (&newer, "newer version (format 2); install that version"),
        (&damaged, "damaged; use another copy"),
        (&header, "damaged; use another copy"),
        (&house.sealed[..cut], "damaged; use another copy"),
        (&house.sealed[..100], "cut short; use another copy"),
        (&house.sealed[..9], "cut short; use another copy"),
    ];
    let before = contents(&house.data);
    let restored_into = |data: &Path, file: &Path| -> Said {
        let mut command = house.command_in(data, &["restore", text(file)]);
        command.output().expect("run").into()
    };
    for (bytes, word) in files {
        std::fs::write(&other, bytes).expect("written");
        let said = restored_into(&house.data, &other);
        assert!(said.complaint(2).contains(word), "{word}: {said:?}");
        assert_eq!(said.out, "");
        assert!(contents(&house.data) == before, "{word}");
        // Nor is anything made where nothing was.
        let nowhere = house.folder.path().join("nowhere");
        assert!(restored_into(&nowhere, &other).complaint(2).contains(word));
        assert!(!nowhere.exists(), "{word}");
    }
    let missing = house.folder.path().join("missing");
    for (file, word) in [
        (missing.as_path(), "cannot be read"),
        (Path::new("-"), "no backup made by hairpin"),
    ] {
        let said = restored_into(&house.data, file);
        assert!(said.complaint(2).contains(word), "{word}: {said:?}");
    }
    let said = restored_into(&house.data, house.folder.path());
    assert!(said.complaint(1).contains("cannot be read"), "{said:?}");
    assert!(contents(&house.data) == before);
    house.is_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_a_backup_was_made_with_opens_it_and_a_wrong_key_changes_nothing() {
    let house = House::new().await;
    let before = contents(&house.data);
    // No credential, another one, and one that is too short to be any.
    give(&house.folder, &[]);
    let said = house.restore();
    assert!(said.complaint(2).contains("systemd gives"), "{said:?}");
    give(&house.folder, &[("hairpin-key", &SECOND)]);
    let said = house.restore();
    assert!(said.complaint(2).contains("hairpin-key-old"), "{said:?}");
    give(&house.folder, &[("hairpin-key", b"short")]);
    let said = house.restore();
    assert!(said.complaint(2).contains("16 bytes"), "{said:?}");
    assert!(contents(&house.data) == before);

    // A passphrase, from the environment and typed.
    give(&house.folder, &[]);
    let sealed = house.folder.path().join("sealed");
    let passphrase = |args: &[&str], passphrase: &str| -> Said {
        let mut command = house.command(args);
        command.env("HAIRPIN_BACKUP_PASSPHRASE", passphrase);
        command.output().expect("run").into()
    };
    passphrase(&["backup", text(&sealed)], "correct horse").answer();
    let restore = ["restore", text(&sealed)];
    let said = passphrase(&restore, "correct hearse");
    assert!(said.complaint(2).contains("passphrase"), "{said:?}");
    let said = passphrase(&restore, "");
    assert!(said.complaint(2).contains("empty"), "{said:?}");
    let said = house.run(&restore);
    assert!(
        said.complaint(2).contains("HAIRPIN_BACKUP_PASSPHRASE"),
        "nobody is there to type it: {said:?}"
    );
    assert!(contents(&house.data) == before);
    for (typed, code) in [("correct hearse\n", 2), ("correct horse\n", 0)] {
        let mut terminal = Terminal::at_tty(&house.data, &restore);
        terminal.says("Passphrase of the backup: ").await;
        terminal.write(typed);
        let said = terminal.ended().await;
        assert_eq!(said.code, Some(code), "{said:?}");
        assert!(!said.out.contains("horse") && !said.out.contains("hearse"));
        assert_eq!(contents(&house.data) == before, code != 0);
    }
    house.is_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_a_credential_a_passphrase_is_asked_for_all_the_same_if_somebody_wants_one()
{
    let house = House::new().await;
    let sim = Sim::start().await;
    let passphrases = [None, Some("correct horse battery\n")];
    for runs in [false, true] {
        let running = if runs {
            Some(house.serve(&sim).await)
        } else {
            None
        };
        for typed in passphrases {
            let sealed = house
                .folder
                .path()
                .join(format!("{runs}{}", typed.is_some()));
            let mut args = vec!["backup", text(&sealed)];
            args.extend(typed.map(|_| "--passphrase"));
            if typed.is_some() {
                let said = house.run(&args);
                assert!(said.complaint(2).contains("at a terminal"), "{said:?}");
                assert!(!sealed.exists());
            }
            let mut command = at_tty(&house.data, &args);
            command.env("CREDENTIALS_DIRECTORY", credentials(&house.folder));
            let mut terminal = Terminal::of(command);
            if let Some(typed) = typed {
                terminal.says("Passphrase for the backup: ").await;
                terminal.write(typed);
                terminal.says("The same once more: ").await;
                terminal.write(typed);
            }
            let said = terminal.ended().await;
            assert_eq!(said.code, Some(0), "{said:?}");
            let opener = if typed.is_some() {
                "its passphrase"
            } else {
                "the credential hairpin-key"
            };
            assert!(said.out.contains(opener), "{said:?}");
        }
        if let Some(running) = running {
            running.signal(Signal::TERM);
            assert_eq!(running.ended().await.code, Some(0));
        }
    }
    // The machine's credential is no help elsewhere, the passphrase is.
    give(&house.folder, &[]);
    for runs in ["false", "true"] {
        let mut restore = house.command(&[
            "restore",
            text(&house.folder.path().join(format!("{runs}true"))),
        ]);
        restore.env("HAIRPIN_BACKUP_PASSPHRASE", "correct horse battery");
        Said::from(restore.output().expect("run")).answer();
        let said = house.run(&[
            "restore",
            text(&house.folder.path().join(format!("{runs}false"))),
        ]);
        assert!(said.complaint(2).contains("systemd gives"), "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_and_start_over_want_the_appliance_stopped_even_where_its_store_is_damaged() {
    let sim = Sim::start().await;
    let house = House::new().await;
    // As the appliance sees it: in its home.
    let home = house.folder.path();
    let data = home.join(".local/share/hairpin");
    std::fs::create_dir_all(data.parent().expect("a folder")).expect("made");
    std::fs::rename(&house.data, &data).expect("moved");
    let house = House { data, ..house };
    for is_damaged in [false, true] {
        if is_damaged {
            house.spoil();
        }
        let serve = Serve::start(house.folder.path(), &sim.url(), &[]);
        if !is_damaged {
            // The appliance writes; what it has when it is still is what must stay.
            serve.settled().await;
        }
        let health = serve.ask("GET", "/healthz", "").await.expect("asked").0;
        assert_eq!(health, if is_damaged { 503 } else { 200 });
        let file = text(&house.backup);
        for args in [&["restore", file][..], &["start-over", "--yes"]] {
            let said = house.run(args);
            let line = said.complaint(3);
            assert!(line.contains("in use") && line.contains("stop"), "{said:?}");
        }
        assert!(aside(&house.data).is_empty());
        serve.signal(Signal::TERM);
        assert_eq!(serve.ended(), Some(0));
    }
    // Stopped it is replaced, whatever is wrong with it.
    let before = std::fs::read(house.data.join("hairpin.redb")).expect("read");
    let said = house.restore();
    assert!(said.answer().contains("Set aside: "), "{said:?}");
    assert!(aside(&house.data)["hairpin.redb"] == before);
    house.is_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_stays_where_it_is_through_restarts_until_a_backup_replaces_it() {
    let sim = Sim::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join(".local/share/hairpin");
    give(&folder, &[("hairpin-key", &FIRST)]);
    let credentials = credentials(&folder);
    let given = [("CREDENTIALS_DIRECTORY", text(&credentials))];
    let serve = Serve::start(folder.path(), &sim.url(), &given);
    let (_, code) = serve.code(ANNA, None).await;
    let code = code["code"].as_str().expect("a code");
    sim.phone(ANNA).enter_code(code).await.expect("linked");
    serve.state("CONNECTED").await;
    let file = folder.path().join("copy");
    run(&data, &["backup", text(&file)]).answer();
    serve.signal(Signal::TERM);
    assert_eq!(serve.ended(), Some(0));

    let store = data.join("hairpin.redb");
    let mut bytes = std::fs::read(&store).expect("read");
    bytes[..512].fill(0x5a);
    std::fs::write(&store, &bytes).expect("spoiled");
    for _ in 0..2 {
        let serve = Serve::start(folder.path(), &sim.url(), &given);
        serve.state("STORE_UNAVAILABLE").await;
        assert_eq!(
            serve.ask("GET", "/healthz", "").await.expect("asked").0,
            503
        );
        assert_eq!(serve.code(BORIS, None).await.0, 507);
        serve.signal(Signal::TERM);
        assert_eq!(serve.ended(), Some(0));
        assert!(std::fs::read(&store).expect("read") == bytes);
    }
    let mut restore = hairpin(&data, &["restore", text(&file)]);
    restore.env(given[0].0, given[0].1);
    let said: Said = restore.output().expect("run").into();
    assert!(said.answer().contains("1 link"), "{said:?}");
    assert!(aside(&data)["hairpin.redb"] == bytes);
    let serve = Serve::start(folder.path(), &sim.url(), &given);
    serve.state("CONNECTED").await;
    assert_eq!(sim.phone(ANNA).devices().len(), 1);
    serve.signal(Signal::TERM);
    assert_eq!(serve.ended(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn start_over_asks_first_and_sets_aside_what_it_never_deletes() {
    let sim = Sim::start().await;
    let house = House::new().await;
    let before = contents(&house.data);
    let said = house.run(&["start-over"]);
    assert!(said.complaint(2).contains("--yes"), "{said:?}");
    for no in ["n\n", "\n", "yess\n"] {
        let mut terminal = Terminal::at_tty(&house.data, &["start-over"]);
        terminal.says("[y/N] ").await;
        terminal.write(no);
        let said = terminal.ended().await;
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.out.contains("it holds 1 link"), "{said:?}");
        assert!(said.out.contains("nothing was changed"), "{said:?}");
    }
    assert!(contents(&house.data) == before);

    house.spoil();
    let before = contents(&house.data);
    let mut terminal = Terminal::at_tty(&house.data, &["start-over"]);
    let asked = terminal.says("[y/N] ").await;
    assert!(asked.contains("damaged"), "{asked}");
    terminal.write("y\n");
    let said = terminal.ended().await;
    assert_eq!(said.code, Some(0), "{said:?}");
    let kept = aside(&house.data);
    assert_eq!(kept.len(), 2, "{:?}", kept.keys());
    for (name, bytes) in kept {
        assert!(before[&house.data.join(&name)] == bytes, "{name}");
    }
    let said = house.run(&["start-over", "--yes"]);
    assert!(said.complaint(1).contains("no store"), "{said:?}");

    // The next start begins empty, and again, without a question this time.
    for round in 1..=2 {
        let running = house.serve(&sim).await;
        let status = house.run(&["status"]);
        assert!(status.answer().starts_with("salon  UNLINKED"), "{status:?}");
        running.signal(Signal::TERM);
        assert_eq!(running.ended().await.code, Some(0));
        let said = house.run(&["start-over", "--yes"]);
        assert!(said.answer().contains("begins empty"), "{said:?}");
        let dated = contents(&house.data)
            .into_keys()
            .filter(|path| text(path).contains("hairpin.redb."));
        assert_eq!(dated.count(), 1 + round);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_what_opening_does_not() {
    let house = House::new().await;
    house.is_sound();
    let file = house.data.join("hairpin.redb");
    let whole = std::fs::read(&file).expect("read");
    let tables = {
        let database = redb::Database::open(&file).expect("opened");
        let transaction = redb::ReadableDatabase::begin_read(&database).expect("begun");
        let names = transaction.list_tables().expect("listed");
        names
            .map(|table| redb::TableHandle::name(&table).to_owned())
            .filter(|name| name != "layout")
            .collect::<Vec<_>>()
    };
    let families = ["lid_mappings", "links", "journal", "sessions", "device"];
    let harmed = tables
        .iter()
        .filter(|table| families.iter().any(|family| table.ends_with(family)));
    let mut found = 0;
    for table in harmed.map(String::as_str).chain(["stranger"]) {
        std::fs::write(&file, &whole).expect("whole");
        let definition = redb::TableDefinition::<&[u8], &[u8]>::new(table);
        let database = redb::Database::open(&file).expect("opened");
        let transaction = database.begin_write().expect("begun");
        {
            let mut rows = transaction.open_table(definition).expect("opened");
            // Moved to another name: sealed under its own, it does not open there.
            let value = rows
                .pop_first()
                .expect("taken")
                .map(|(_, value)| value.value().to_vec());
            rows.insert(&[0xee; 32][..], &value.unwrap_or_default()[..])
                .expect("put");
        }
        transaction.commit().expect("committed");
        drop(database);
        let before = contents(&house.data);
        let said = house.run(&["check"]);
        let line = said.complaint(4);
        assert!(
            line.contains(table) && line.contains("hairpin restore"),
            "{table}: {said:?}"
        );
        assert!(contents(&house.data) == before);
        // What it says no to is not backed up either.
        if table.ends_with("lid_mappings") || table.ends_with("device") {
            let copy = house.folder.path().join("second");
            let said = house.run(&["backup", text(&copy)]);
            assert!(said.complaint(4).contains("damaged"), "{said:?}");
            assert!(!copy.exists());
        }
        found += 1;
    }
    assert!(found >= families.len(), "{tables:?}");
    // A row that is gone altogether.
    let links = tables.iter().find(|table| table.ends_with("links"));
    std::fs::write(&file, &whole).expect("whole");
    let definition = redb::TableDefinition::<&[u8], &[u8]>::new(links.expect("a table"));
    let database = redb::Database::open(&file).expect("opened");
    let transaction = database.begin_write().expect("begun");
    {
        let mut rows = transaction.open_table(definition).expect("opened");
        assert!(rows.pop_first().expect("taken").is_some());
    }
    transaction.commit().expect("committed");
    drop(database);
    let said = house.run(&["check"]);
    assert!(said.complaint(4).contains("row is missing"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_a_newer_version_is_left_as_it_is_until_a_backup_replaces_it() {
    let sim = Sim::start().await;
    let house = House::new().await;
    let file = house.data.join("hairpin.redb");
    {
        let database = redb::Database::open(&file).expect("opened");
        let transaction = database.begin_write().expect("begun");
        transaction
            .open_table(redb::TableDefinition::<&str, u32>::new("layout"))
            .expect("opened")
            .insert("layout", 99)
            .expect("put");
        transaction.commit().expect("committed");
    }
    let newer = contents(&house.data);
    for args in [&["check"][..], &["backup", "copy"]] {
        let said = house.run(args);
        let line = said.complaint(4);
        assert!(line.contains("newer version (layout 99)"), "{said:?}");
    }
    for _ in 0..2 {
        let running = house.serve(&sim).await;
        assert!(house.run(&["status"]).complaint(4).contains("layout 99"));
        running.signal(Signal::TERM);
        assert_eq!(running.ended().await.code, Some(0));
        let mut now = contents(&house.data);
        now.retain(|path, _| newer.contains_key(path));
        assert!(now == newer);
    }
    house.restore().answer();
    assert!(aside(&house.data)["hairpin.redb"] == newer[&file]);
    house.is_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_keeps_the_old_store_and_the_old_backup() {
    let Some(disk) = SmallDisk::mount("16m") else {
        eprintln!("no small disk can be mounted here; this is proved where one can");
        return;
    };
    let at = tempfile::tempdir_in(disk.path()).expect("a folder");
    let house = House::in_folder(at).await;
    // A backup from before, elsewhere, is what is restored; the one on the full disk is what must stay.
    let elsewhere = tempfile::tempdir().expect("a folder");
    let from = elsewhere.path().join("copy");
    std::fs::copy(&house.backup, &from).expect("copied");
    let before = contents(house.folder.path());
    disk.fill();
    for args in [
        &["restore", text(&from)][..],
        &["backup", text(&house.backup)],
    ] {
        let said = house.run(args);
        let line = said.complaint(1);
        assert!(line.contains("No space left"), "{said:?}");
        assert!(contents(house.folder.path()) == before, "{args:?}");
    }
    disk.free();
    house.is_sound();
    let said = house.run(&["backup", text(&house.backup)]);
    assert!(said.answer().contains("Wrote"), "{said:?}");
    assert!(house.restore().answer().contains("Restored"));
    house.is_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_killed_at_any_moment_leaves_one_whole_store() {
    let house = House::new().await;
    let (building, ready) = ("hairpin.restore.new", "hairpin.restore");
    // What is seen when the kill is sent; what it hits may be any step after.
    let moments: [&[&str]; 5] = [
        &[building],
        &[building, "hairpin.keys"],
        &[building, "hairpin.redb"],
        &[ready],
        &[ready, "hairpin.keys"],
    ];
    let mut cut = 0;
    for moment in moments.iter().cycle().take(40) {
        let seen = moment
            .iter()
            .fold(house.data.clone(), |path, name| path.join(name));
        let mut child = house
            .command(&["restore", text(&house.backup)])
            .spawn()
            .expect("started");
        let status = loop {
            if seen.exists() {
                child.kill().expect("killed");
            }
            if let Some(status) = child.try_wait().expect("known") {
                break status;
            }
        };
        cut += u32::from(!status.success());
        // Looking finishes nothing; the next start does, and so does the next restore.
        house.is_sound();
    }
    assert!(cut > 10, "only {cut} of 40 were cut short");
    let store = hairpin::store::Store::open(
        &house.data,
        hairpin::store::Options {
            wrapping_key: Some(WrappingKey::from_credential(&FIRST)),
            ..hairpin::store::Options::default()
        },
    )
    .expect("opened");
    let row = store.link("salon").expect("read").expect("a link");
    assert_eq!(row.line.reveal(), ANNA);
    store.close().await;
    let left: Vec<_> = contents(&house.data)
        .into_keys()
        .filter(|path| text(path).contains("restore"))
        .collect();
    assert_eq!(left, Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_appears_is_replaced_and_is_wanted_from_then_on() {
    let sim = Sim::start().await;
    let house = House::new().await;
    let start_and_stop = async || {
        let running = house.serve(&sim).await;
        let status = house.run(&["status"]);
        running.signal(Signal::TERM);
        assert_eq!(running.ended().await.code, Some(0));
        status
    };
    let steps: [&[(&str, &[u8])]; 3] = [
        &[("hairpin-key", &FIRST)],
        &[("hairpin-key", &SECOND), ("hairpin-key-old", &FIRST)],
        &[("hairpin-key", &SECOND)],
    ];
    for given in steps {
        give(&house.folder, given);
        let status = start_and_stop().await;
        assert!(status.answer().contains("salon   UNLINKED"), "{status:?}");
        house.is_sound();
    }
    let before = contents(&house.data);
    for given in [&[][..], &[("hairpin-key", &FIRST[..])]] {
        give(&house.folder, given);
        let said = house.run(&["check"]);
        assert!(said.complaint(1).contains("hairpin-key"), "{said:?}");
        let store = before[&house.data.join("hairpin.redb")].clone();
        let status = start_and_stop().await;
        assert!(status.out.contains("STORE_UNAVAILABLE"), "{status:?}");
        let after = contents(&house.data);
        assert!(after[&house.data.join("hairpin.redb")] == store);
        assert!(
            after[&house.data.join("hairpin.keys")] == before[&house.data.join("hairpin.keys")]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_never_goes_where_the_appliance_keeps_its_own() {
    let house = House::new().await;
    std::fs::write(house.data.join("access-key"), "a key").expect("written");
    let link = house.folder.path().join("link");
    std::os::unix::fs::symlink(house.data.join("hairpin.keys"), &link).expect("linked");
    let before = contents(&house.data);
    for (target, word) in [
        (house.data.join("hairpin.redb"), "own files"),
        (house.data.join("hairpin.keys"), "own files"),
        (house.data.join("access-key"), "own files"),
        (house.data.join("../data/hairpin.redb"), "own files"),
        (link, "own files"),
        (house.data.clone(), "is a folder"),
        (PathBuf::from("/dev/null"), "is no file"),
        (
            house.folder.path().join("no/copy"),
            "a folder that is there",
        ),
    ] {
        let said = house.run(&["backup", text(&target)]);
        assert!(said.complaint(2).contains(word), "{target:?}: {said:?}");
        assert!(contents(&house.data) == before, "{target:?}");
    }
    // What a link elsewhere names is replaced, not the link.
    let elsewhere = house.folder.path().join("elsewhere");
    std::os::unix::fs::symlink(&house.backup, &elsewhere).expect("linked");
    house.run(&["backup", text(&elsewhere)]).answer();
    assert!(std::fs::symlink_metadata(&elsewhere).is_ok_and(|about| about.is_symlink()));
    assert!(std::fs::read(&house.backup).expect("read") != house.sealed);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_root_restores_or_backs_up_belongs_to_the_folders_owner() {
    if !is_root() {
        return;
    }
    let house = House::new().await;
    let own = |path: &Path| {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("given");
    };
    own(&house.data);
    own(house.folder.path());
    for path in contents(&house.data).keys() {
        own(path);
    }
    house.restore().answer();
    let copy = house.folder.path().join("new-copy");
    house.run(&["backup", text(&copy)]).answer();
    for path in contents(&house.data).keys().chain([&copy]) {
        let about = std::fs::metadata(path).expect("there");
        assert_eq!((about.uid(), about.gid()), (NOBODY, NOBODY), "{path:?}");
        assert_eq!(about.mode() & 0o777, 0o600, "{path:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_somebody_has_open_is_backed_up_and_replaced_by_nobody() {
    let house = House::new().await;
    let store = open(&house.data);
    for args in [
        &["check"][..],
        &["backup", "copy"],
        &["restore", text(&house.backup)],
        &["start-over", "--yes"],
    ] {
        let said = house.run(args);
        assert!(said.complaint(3).contains("in use"), "{args:?}: {said:?}");
    }
    tokio::time::timeout(Duration::from_secs(10), store.close())
        .await
        .expect("closed");
    give(&house.folder, &[]);
    house.is_sound();
}
