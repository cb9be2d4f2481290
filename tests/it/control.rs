//! The terminal's commands, each in each situation: a running appliance, a stopped one, none, a broken one, a
//! stranger's; and the socket between them. `link` has a file of its own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::process::Serve;
use crate::rig::{ANNA, BORIS, Rig, open};
use crate::terminal::{Said, Terminal, hairpin, run};
use hairpin::store::{JournalEntry, JournalWhat};
use hairpin_sim::Sim;

/// All files of a folder: names, bytes, modes, and when they were changed.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>, u32, SystemTime)> {
    let mut all: Vec<_> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let about = std::fs::symlink_metadata(&path).expect("there");
            let bytes = std::fs::read(&path).unwrap_or_default();
            (path, bytes, about.mode(), about.modified().expect("a time"))
        })
        .collect();
    all.sort();
    all
}

fn json_of(said: &Said) -> Value {
    serde_json::from_str(said.answer()).expect("JSON")
}

#[test]
fn without_any_store_every_command_says_that_nothing_runs_and_makes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["audit"],
        &["access-key"],
        &["access-key", "--rotate"],
        &["link", ANNA],
        &["link"],
        &["unlink"],
        &["check"],
        &["backup", "copy"],
    ] {
        let said = run(&data, args);
        let line = said.complaint(5);
        assert!(line.contains("hairpin serve"), "{args:?}: {line}");
        assert_eq!(said.out, "", "{args:?}");
    }
    assert!(!data.exists(), "no command made a folder");
    std::fs::create_dir(&data).expect("made");
    for args in [&["status"][..], &["access-key", "--rotate"], &["link"]] {
        run(&data, args).complaint(5);
    }
    assert_eq!(contents(&data), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_appliances_store_answers_what_it_can_and_is_not_changed() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    rig.ask(
        "PUT",
        "/api/v1/sessions/second",
        Some(json!({ "name": "Second" })),
    )
    .await;
    rig.stop().await;
    let data = rig.data();
    let before = contents(&data);
    let status = run(&data, &["status"]);
    let lines: Vec<&str> = status.answer().lines().collect();
    assert_eq!(lines[0], "The appliance is not running; its store says:");
    assert!(
        lines[1].starts_with("salon   RECONNECTING  79001***567  since 20"),
        "{lines:?}"
    );
    assert!(
        lines[2].starts_with("second  UNLINKED      -            since 20"),
        "{lines:?}"
    );
    let statuses = json_of(&run(&data, &["status", "--json"]));
    assert_eq!(
        (&statuses[0]["state"], &statuses[0]["running"]),
        (&json!("RECONNECTING"), &json!(false))
    );
    assert!(statuses[0]["lastConnected"].is_i64());
    let audit = json_of(&run(&data, &["audit", "--json"]));
    let whats: Vec<&str> = audit
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| entry["what"].as_str().expect("what"))
        .collect();
    assert!(
        whats.first() == Some(&"code_ended") || whats.first() == Some(&"linked"),
        "newest first: {whats:?}"
    );
    assert_eq!(whats.last(), Some(&"requested"), "{whats:?}");
    let lines = run(&data, &["audit"]);
    assert_eq!(lines.answer().lines().count(), whats.len());
    assert!(lines.answer().contains("salon  linked  79001***567"));
    assert_eq!(
        run(&data, &["access-key"]).answer(),
        format!("{}\n", rig.key)
    );
    for args in [&["link", BORIS][..], &["unlink"]] {
        let said = run(&data, args);
        assert!(said.complaint(5).contains("not running"), "{said:?}");
    }
    assert_eq!(contents(&data), before, "nothing was changed");
    rig.start().await;
    rig.state("salon", "CONNECTED").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_appliance_answers_for_its_store() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    let data = rig.data();
    let status = run(&data, &["status"]);
    assert!(
        status
            .answer()
            .starts_with("salon  CONNECTED  79001***567  since 20"),
        "{status:?}"
    );
    let statuses = json_of(&run(&data, &["status", "--json"]));
    let mut api = rig.ask("GET", "/api/v1/sessions", None).await.json();
    api[0]["running"] = json!(true);
    assert_eq!(statuses, api, "as the API says it");
    let audit = json_of(&run(&data, &["audit", "--json"]));
    assert_eq!(audit.as_array(), Some(&rig.audit().await));
    assert_eq!(
        run(&data, &["access-key"]).answer(),
        format!("{}\n", rig.key)
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_store_is_named_with_four_whether_an_appliance_runs_on_it_or_not() {
    let mut rig = Rig::new().await;
    rig.stop().await;
    let data = rig.data();
    let (file, keys) = (data.join("hairpin.redb"), data.join("hairpin.keys"));
    let whole = std::fs::read(&file).expect("a store");
    let newer = || {
        let database = redb::Database::open(&file).expect("opened");
        let write = database.begin_write().expect("begun");
        let layout = redb::TableDefinition::<&str, u32>::new("layout");
        write
            .open_table(layout)
            .expect("there")
            .insert("layout", 1000)
            .expect("written");
        write.commit().expect("committed");
    };
    let damage: [(&str, &dyn Fn()); 3] = [
        ("damaged", &|| {
            std::fs::write(&file, vec![0x5a; whole.len()]).expect("damaged");
        }),
        ("newer version", &newer),
        ("keys", &|| {
            std::fs::rename(&keys, data.join("aside")).expect("moved");
        }),
    ];
    for (word, harm) in damage {
        std::fs::write(&file, &whole).expect("whole");
        harm();
        let before = contents(&data);
        for args in [
            &["status"][..],
            &["status", "--json"],
            &["audit"],
            &["check"],
            &["backup", "copy"],
        ] {
            let said = run(&data, args);
            assert!(said.complaint(4).contains(word), "{word}: {said:?}");
            assert_eq!(said.out, "");
        }
        assert_eq!(contents(&data), before, "{word}: left as it is");
        rig.start().await;
        let said = run(&data, &["status"]);
        assert!(said.complaint(4).contains(word), "{word}: {said:?}");
        assert!(said.out.contains("STORE_UNAVAILABLE"), "{said:?}");
        for args in [
            &["audit"][..],
            &["link", ANNA],
            &["unlink"],
            &["check"],
            &["backup", "copy"],
        ] {
            let said = run(&data, args);
            assert!(said.complaint(4).contains(word), "{word}: {said:?}");
        }
        assert_eq!(
            run(&data, &["access-key"]).answer(),
            format!("{}\n", rig.key)
        );
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_in_use_without_a_socket_is_named_with_its_holder() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let store = open(&data);
    let holder = format!("process {}", std::process::id());
    for args in [
        &["status"][..],
        &["audit"],
        &["check"],
        &["backup", "copy"],
        &["access-key", "--rotate"],
        &["serve", "--listen", "127.0.0.1:0"],
    ] {
        let said = run(&data, args);
        assert!(said.complaint(3).contains(&holder), "{args:?}: {said:?}");
        assert_eq!(said.out, "");
    }
    for args in [&["link", ANNA][..], &["unlink"]] {
        let said = run(&data, args);
        assert!(said.complaint(5).contains(&holder), "{args:?}: {said:?}");
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn serving_twice_says_who_holds_the_store_and_disturbs_nobody() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    let before = rig.sim.total_connections();
    let said = run(
        &rig.data(),
        &[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--whatsapp-url",
            &rig.sim.url(),
        ],
    );
    assert_eq!((said.code, said.out.as_str()), (Some(3), ""), "{said:?}");
    let last = said.err.lines().last().expect("a line");
    assert!(
        last.starts_with("hairpin: ") && last.contains(&format!("process {}", std::process::id())),
        "{said:?}"
    );
    assert_eq!(rig.sim.total_connections(), before);
    assert!(run(&rig.data(), &["status"]).answer().contains("CONNECTED"));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unlinking_says_whether_whatsapp_was_told() {
    let mut rig = Rig::new().await;
    let data = rig.data();
    let nothing = run(&data, &["unlink"]);
    assert_eq!(nothing.answer(), "Nothing was linked.\n");
    rig.link("salon", ANNA).await;
    let said = run(&data, &["unlink"]);
    assert!(
        said.answer().starts_with("79001***567 is unlinked") && said.out.contains("no more"),
        "{said:?}"
    );
    assert_eq!(rig.sim.phone(ANNA).devices(), []);
    rig.state("salon", "UNLINKED").await;
    let entry = &rig.audit().await[0];
    assert_eq!(
        (&entry["what"], &entry["by"]),
        (&json!("unlinked"), &json!("terminal"))
    );
    rig.link("salon", BORIS).await;
    rig.sim.stop().await;
    let said = run(&data, &["unlink"]);
    assert!(
        said.answer().contains("79007***321") && said.out.contains("the phone still lists"),
        "{said:?}"
    );
    rig.state("salon", "UNLINKED").await;
    let said = run(&data, &["unlink", "--session", "nowhere"]);
    assert!(said.complaint(1).contains("nowhere"), "{said:?}");
    rig.stop().await;
    assert_eq!(rig.stored("salon").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_ends_every_login_and_every_page_within_a_second() {
    let mut rig = Rig::new().await;
    let data = rig.data();
    let mut page = rig.page("salon").await;
    page.next_of("session-status").await;
    let started = Instant::now();
    let said = run(&data, &["access-key", "--rotate"]);
    let key = said.answer().trim().to_owned();
    assert_eq!(page.closed().await, 4401);
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "the command and the page's end: {:?}",
        started.elapsed()
    );
    assert_ne!(key, rig.key);
    assert_eq!(rig.ask("GET", "/api/v1/sessions", None).await.status, 401);
    rig.key.clone_from(&key);
    assert_eq!(rig.ask("GET", "/api/v1/sessions", None).await.status, 200);
    rig.stop().await;

    let said = run(&data, &["access-key", "--rotate"]);
    let offline = said.answer().trim().to_owned();
    assert_ne!(offline, key);
    let about = std::fs::metadata(data.join("access-key")).expect("there");
    assert_eq!(about.mode() & 0o777, 0o600);
    std::fs::write(data.join("access-key"), "scribble").expect("written");
    let said = run(&data, &["access-key"]);
    assert!(said.complaint(1).contains("--rotate"), "{said:?}");
    let mended = run(&data, &["access-key", "--rotate"]);
    rig.start().await;
    assert_eq!(mended.answer().trim(), rig.key);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_leaves_is_no_failure_and_a_full_disk_is() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    for running in [true, false] {
        if !running {
            rig.stop().await;
        }
        for args in [
            &["status"][..],
            &["status", "--json"],
            &["audit"],
            &["access-key"],
        ] {
            let (read, write) = std::io::pipe().expect("a pipe");
            drop(read);
            let mut command = hairpin(&rig.data(), args);
            let output: Said = command.stdout(write).output().expect("run").into();
            assert_eq!(
                (output.code, output.err.as_str()),
                (Some(0), ""),
                "{args:?}"
            );
            let full = std::fs::File::options()
                .write(true)
                .open("/dev/full")
                .expect("opened");
            let mut command = hairpin(&rig.data(), args);
            let output: Said = command.stdout(full).output().expect("run").into();
            assert!(
                output.complaint(1).contains("cannot be written"),
                "{args:?}"
            );
        }
    }
}

#[test]
fn a_closed_standard_error_changes_no_exit_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let (read, write) = std::io::pipe().expect("a pipe");
    drop(read);
    let mut command = hairpin(folder.path(), &["status"]);
    let ended = command.stderr(write).stdout(Stdio::null()).status();
    assert_eq!(ended.expect("run").code(), Some(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_appliance_checks_its_store() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    let running = run(&rig.data(), &["check"]);
    rig.stop().await;
    let stopped = run(&rig.data(), &["check"]);
    for said in [running, stopped] {
        let lines: Vec<&str> = said.answer().lines().collect();
        assert!(lines[0].ends_with("is sound."), "{lines:?}");
        assert!(lines[1].starts_with("1 session, "), "{lines:?}");
        assert!(
            lines[2].starts_with("salon (Salon): 79001***567"),
            "{lines:?}"
        );
    }
}

const PASSPHRASE: (&str, &str) = ("HAIRPIN_BACKUP_PASSPHRASE", "correct horse battery");

fn with_passphrase(data: &Path, args: &[&str]) -> Said {
    let mut command = hairpin(data, args);
    command.env(PASSPHRASE.0, PASSPHRASE.1);
    command.output().expect("run").into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_appliance_gives_a_backup_that_can_be_restored() {
    let sim = Sim::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join(".local/share/hairpin");
    let store = open(&data);
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970")
        .as_millis();
    let now = i64::try_from(now).expect("small");
    let entry = JournalEntry::new(now, "salon", JournalWhat::Requested);
    store
        .append_journal(vec![entry; 1000])
        .await
        .expect("written");
    store.close().await;
    let serve = Serve::start(folder.path(), &sim.url(), &[("HAIRPIN_LOG", "trace")]);
    let (_, code) = serve.code(ANNA, None).await;
    let code = code["code"].as_str().expect("a code");
    sim.phone(ANNA).enter_code(code).await.expect("linked");
    serve.state("CONNECTED").await;
    let file = folder.path().join("copy");
    let path = file.display().to_string();

    let said = run(&data, &["backup", &path]);
    assert!(said.complaint(2).contains(PASSPHRASE.0), "{said:?}");
    assert!(!file.exists());
    let said = with_passphrase(&data, &["backup", &path]);
    assert!(
        said.answer().ends_with("Only its passphrase opens it.\n"),
        "{said:?}"
    );
    let sealed = std::fs::read(&file).expect("a backup");
    assert!(
        sealed.len() > 32 * 1024,
        "more than a piece: {}",
        sealed.len()
    );
    let about = std::fs::metadata(&file).expect("there");
    assert_eq!(about.mode() & 0o777, 0o600);
    assert_eq!(
        serve.ask("GET", "/healthz", "").await.expect("asked").0,
        200
    );

    let mut terminal = Terminal::at_tty(&data, &["backup", &path]);
    terminal.says("Passphrase for the backup: ").await;
    terminal.write("correct horse battery\n");
    terminal.says("once more: ").await;
    terminal.write("correct horse battery\n");
    let said = terminal.ended().await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(!said.out.contains("horse"), "typed unseen: {said:?}");
    assert_ne!(std::fs::read(&file).expect("a backup"), sealed);

    // A reader who leaves has no whole backup.
    let (read, write) = std::io::pipe().expect("a pipe");
    drop(read);
    let mut command = hairpin(&data, &["backup", "-"]);
    command.env(PASSPHRASE.0, PASSPHRASE.1).stdout(write);
    let said: Said = command.output().expect("run").into();
    assert!(said.complaint(1).contains("cannot be written"), "{said:?}");

    let other = tempfile::tempdir().expect("a folder");
    let new = other.path().join("data");
    let said = with_passphrase(&new, &["restore", &path]);
    assert!(said.answer().contains("1 link"), "{said:?}");
    let status = run(&new, &["status"]);
    assert!(status.answer().contains("79001***567"), "{status:?}");
    let log = std::fs::read_to_string(folder.path().join("log")).expect("a log");
    assert!(log.contains("a backup was taken") && !log.contains("horse"));
    serve.signal(Signal::TERM);
    assert_eq!(serve.ended(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_appliance_with_a_credential_seals_its_backup_with_it() {
    let sim = Sim::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join(".local/share/hairpin");
    let credentials = folder.path().join("credentials");
    std::fs::create_dir(&credentials).expect("made");
    std::fs::write(credentials.join("hairpin-key"), [7; 32]).expect("written");
    let credentials = credentials.display().to_string();
    let serve = Serve::start(
        folder.path(),
        &sim.url(),
        &[("CREDENTIALS_DIRECTORY", &credentials)],
    );
    let path = folder.path().join("copy").display().to_string();
    // Whoever asks has no credential, and needs none.
    let said = run(&data, &["backup", &path]);
    assert!(
        said.answer()
            .ends_with("Only the credential hairpin-key opens it.\n"),
        "{said:?}"
    );
    let said = with_passphrase(&data, &["backup", &path]);
    assert!(said.answer().contains("its passphrase"), "{said:?}");
    serve.signal(Signal::TERM);
    assert_eq!(serve.ended(), Some(0));
    let said = run(&data, &["status"]);
    assert!(said.complaint(1).contains("hairpin-key"), "{said:?}");
}

/// Says something on the control socket; everything that is answered.
fn talk(data: &Path, line: &[u8]) -> Vec<Value> {
    let mut stream = UnixStream::connect(data.join("control.sock")).expect("connected");
    stream.write_all(line).expect("written");
    BufReader::new(stream)
        .lines()
        .map_while(Result::ok)
        .map(|line| serde_json::from_str(&line).expect("JSON"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_said_on_the_socket_is_answered_in_one_line_and_changes_nothing() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    let data = rig.data();
    let long = [&vec![b'x'; 40_000][..], b"\n"].concat();
    for (line, word) in [
        (&b"\n"[..], "no request"),
        (b"GET / HTTP/1.1\r\n", "no request"),
        (b"\xff\xfe\n", "no request"),
        (br#"{"v":1,"ask":"status","more":true}"#, "no request"),
        (br#"{"v":1,"ask":"wipe"}"#, "knows no such"),
        (br#"{"v":9,"ask":"status"}"#, "another version"),
        (
            br#"{"v":1,"ask":"link","session":"salon","phone":"123","replace":null}"#,
            "",
        ),
        (
            br#"{"v":1,"ask":"link","session":"salon","phone":"+79007654321","replace":"another"}"#,
            "Confirm",
        ),
        (br#"{"v":1,"ask":"unlink","session":"nowhere"}"#, ""),
        (&long, "too long"),
    ] {
        let mut whole = line.to_vec();
        if !whole.ends_with(b"\n") {
            whole.push(b'\n');
        }
        let answers = talk(&data, &whole);
        let last = answers.last().expect("an answer");
        let shown = String::from_utf8_lossy(line);
        assert_eq!(last["event"], "failed", "{shown}: {answers:?}");
        let said = last["message"].as_str().expect("words");
        assert!(
            said.to_lowercase().contains(&word.to_lowercase()) && !said.contains('\n'),
            "{shown}: {said}"
        );
    }
    let status = run(&data, &["status"]);
    assert!(status.answer().contains("CONNECTED  79001***567"));
    assert_eq!(rig.sim.hellos(BORIS), 0);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn terminals_that_say_nothing_are_left_and_too_many_are_told() {
    let mut rig = Rig::new().await;
    let data = rig.data();
    let dial = || UnixStream::connect(data.join("control.sock")).expect("connected");
    let silent: Vec<UnixStream> = (0..32).map(|_| dial()).collect();
    let said = run(&data, &["status"]);
    assert!(said.complaint(1).contains("too many"), "{said:?}");
    for mut stream in silent {
        let mut all = String::new();
        stream.read_to_string(&mut all).expect("closed");
        assert!(all.contains("in time"), "{all}");
    }
    run(&data, &["status"]).answer();
    // Gone in the middle of a word, or before its answer.
    dial().write_all(b"{\"v\":1,").expect("written");
    dial()
        .write_all(b"{\"v\":1,\"ask\":\"status\"}\n")
        .expect("written");
    run(&data, &["status"]).answer();
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_for_its_owner_alone_and_goes_at_the_end() {
    let mut rig = Rig::new().await;
    let socket = rig.data().join("control.sock");
    let about = std::fs::metadata(&socket).expect("there");
    assert_eq!(about.mode() & 0o777, 0o600);
    assert!(!rig.data().join("control.sock.new").exists());
    // Somebody waits for a word meanwhile: the end waits for nobody.
    let mut waiting = UnixStream::connect(&socket).expect("connected");
    // Let in one after the other: once this one has its answer, the other one is inside.
    run(&rig.data(), &["status"]).answer();
    let started = Instant::now();
    rig.stop().await;
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(!socket.exists());
    let mut last = String::new();
    waiting.read_to_string(&mut last).expect("closed");
    assert!(last.contains("SHUTTING_DOWN"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_appliances_socket_is_taken_over_and_a_live_ones_is_not() {
    let sim = Sim::start().await;
    let one = tempfile::tempdir().expect("a folder");
    let two = tempfile::tempdir().expect("a folder");
    let data = one.path().join(".local/share/hairpin");
    let socket = data.join("control.sock");
    let serve = Serve::start(one.path(), &sim.url(), &[]);
    let shared = socket.display().to_string();
    let second = hairpin(two.path(), &["serve", "--listen", "127.0.0.1:0"])
        .env("HAIRPIN_CONTROL_SOCKET", &shared)
        .output()
        .expect("run");
    let second = Said::from(second);
    let last = second.err.lines().last().expect("a line");
    assert_eq!(second.code, Some(2), "{second:?}");
    assert!(
        last.starts_with("hairpin: ") && last.contains(&format!("process {}", serve.child.id())),
        "{second:?}"
    );
    run(&data, &["status"]).answer();
    serve.kill();
    assert!(socket.exists(), "a kill leaves it");
    let status = run(&data, &["status"]);
    assert!(status.answer().contains("not running"), "{status:?}");
    run(&data, &["link", ANNA]).complaint(5);
    let serve = Serve::start(one.path(), &sim.url(), &[]);
    assert!(
        run(&data, &["status"])
            .answer()
            .starts_with("salon  UNLINKED")
    );
    serve.signal(Signal::TERM);
    assert_eq!(serve.ended(), Some(0));
    assert!(!socket.exists());
}

/// Somebody without any rights.
pub const NOBODY: u32 = 65534;

pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("only root can become somebody else: not tried");
    }
    root
}

/// The program where everybody can start it, and a command of it as somebody else.
fn as_user(user: u32, folder: &Path, data: &Path, args: &[&str]) -> std::process::Command {
    let program = folder.join("hairpin");
    if !program.exists() {
        std::fs::copy(env!("CARGO_BIN_EXE_hairpin"), &program).expect("copied");
    }
    let like = hairpin(data, args);
    let mut command = std::process::Command::new(&program);
    command.args(args).env_clear();
    for (name, value) in like.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir("/")
        .uid(user)
        .gid(user);
    command
}

fn open_to_all(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("opened");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_users_are_refused_even_where_the_files_let_them_in() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    let data = rig.data();
    let folder = rig.folder.path().to_owned();
    open_to_all(&folder);
    let commands: [&[&str]; 5] = [
        &["status"],
        &["audit"],
        &["access-key", "--rotate"],
        &["unlink"],
        &["link", BORIS, "--replace"],
    ];
    let strange = |args: &[&str]| -> Said {
        as_user(NOBODY, &folder, &data, args)
            .output()
            .expect("run")
            .into()
    };
    for args in commands {
        let said = strange(args);
        assert!(
            said.complaint(1).contains("another user's"),
            "{args:?}: {said:?}"
        );
    }
    open_to_all(&data);
    open_to_all(&data.join("control.sock"));
    for args in commands {
        let said = strange(args);
        assert!(
            said.complaint(1)
                .contains("only root and the appliance's own user"),
            "{args:?}: {said:?}"
        );
        assert_eq!(said.out, "");
    }
    assert_eq!(run(&data, &["access-key"]).answer().trim(), rig.key);
    assert_eq!(rig.status("salon").await["phone"], "79001***567");
    rig.stop().await;
    for args in [&["status"][..], &["access-key"]] {
        let said = strange(args);
        assert!(said.complaint(1).contains("as root"), "{args:?}: {said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_root_makes_belongs_to_the_folders_owner_and_keeps_nobody_out() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    open_to_all(folder.path());
    let data = folder.path().join("data");
    let serve = || {
        let mut command = as_user(
            NOBODY,
            folder.path(),
            &data,
            &[
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--whatsapp-url",
                "ws://127.0.0.1:1/",
            ],
        );
        command.env("HAIRPIN_LOG", "off");
        Terminal::of(command)
    };
    let owner = |name: &str| std::fs::metadata(data.join(name)).expect("there").uid();
    let mut running = serve();
    running.says("Hairpin is at").await;
    assert_eq!(owner("control.sock"), NOBODY);
    assert!(run(&data, &["status"]).answer().starts_with("salon"));
    run(&data, &["access-key", "--rotate"]).answer();
    assert_eq!(owner("access-key"), NOBODY);
    running.signal(Signal::TERM);
    assert_eq!(running.ended().await.code, Some(0));
    let key = run(&data, &["access-key", "--rotate"]);
    run(&data, &["status"]).answer();
    run(&data, &["audit"]).answer();
    for (path, ..) in contents(&data) {
        let name = path.file_name().expect("a name").to_string_lossy();
        assert_eq!(owner(&name), NOBODY, "{name}");
    }
    let mut running = serve();
    running.says("Hairpin is at").await;
    let own: Said = as_user(NOBODY, folder.path(), &data, &["access-key"])
        .output()
        .expect("run")
        .into();
    assert_eq!(own.answer(), key.answer());
    running.signal(Signal::TERM);
    assert_eq!(running.ended().await.code, Some(0));
}
