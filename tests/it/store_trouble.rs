//! The whole appliance on a disk that refuses, and with a store that cannot be used: it stays up, says so everywhere,
//! changes nothing, never begins empty, and goes on by itself once it can.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use hairpin::store::{Folder, OpenError, Options, Store, StoreError, WrappingKey};
use redb::TableDefinition;
use serde_json::json;

use crate::rig::{ANNA, BORIS, PATIENCE, Rig, code_of};
use crate::store_lab::{Breaking, Fault, Plan};
use crate::terminal::run;

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("never {what}"));
}

async fn is_healthy(rig: &Rig) -> bool {
    rig.ask("GET", "/healthz", None).await.status == 200
}

/// Nothing about the answer is missing: what it is, and in words.
fn refused(answer: &crate::web_support::Answer, what: &str) {
    assert_eq!(answer.status, 507, "{what}");
    let problem = answer.json();
    assert_eq!(problem["code"], "STORE_UNAVAILABLE", "{what}");
    let words = problem["detail"].as_str().expect("words");
    assert!(words.len() > 20, "{what}: {words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_on_a_disk_that_refuses_changes_nothing_and_works_once_the_disk_does() {
    let mut rig = Rig::new().await;
    for fault in [Fault::Full, Fault::ReadOnly, Fault::Io] {
        let plan = Arc::new(Plan::default());
        rig.stop().await;
        let disk = Breaking::new(Folder::new(&rig.data()), &plan);
        rig.start_on(disk).await;
        assert!(is_healthy(&rig).await);
        let (before, mark) = (rig.audit().await, rig.sim.mark());
        plan.lasting(fault, 0);
        refused(&rig.code("salon", ANNA, None).await, "a code");
        let body = json!({ "name": "Another" });
        let put = rig.ask("PUT", "/api/v1/sessions/second", Some(body.clone()));
        refused(&put.await, "a slot");
        assert!(!is_healthy(&rig).await, "{fault:?}: it says that it is");
        plan.heal();
        until("healthy", async || is_healthy(&rig).await).await;
        assert_eq!(rig.audit().await, before, "{fault:?}: nothing was noted");
        let asked = rig.sim.events();
        assert!(
            asked.iter().all(|event| event.seq <= mark),
            "{fault:?}: WhatsApp was asked for something: {asked:#?}"
        );
        let missing = rig.ask("GET", "/api/v1/sessions/second", None).await;
        assert_eq!(missing.status, 404, "{fault:?}: it was refused");
        code_of(&rig.code("salon", ANNA, None).await);
        let cancelled = rig.ask("DELETE", "/api/v1/sessions/salon/pairing-code", None);
        assert_eq!(cancelled.await.status, 204);
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_appliance_that_starts_without_its_disk_begins_by_itself_once_it_is_there() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    rig.stop().await;
    let plan = Arc::new(Plan::default());
    for fault in [Fault::ReadOnly, Fault::Io] {
        plan.lasting(fault, 0);
        let disk = Breaking::new(Folder::new(&rig.data()), &plan);
        rig.start_on(disk).await;
        assert!(!is_healthy(&rig).await);
        assert_eq!(rig.ask("GET", "/readyz", None).await.status, 503);
        assert_eq!(rig.ask("GET", "/", None).await.status, 200, "the page");
        refused(&rig.code("salon", BORIS, None).await, "a code");
        let said = run(&rig.data(), &["status"]);
        assert!(said.out.contains("STORE_UNAVAILABLE"), "{said:?}");
        let mut page = rig.page("salon").await;
        let status = page.next_of("session-status").await;
        assert_eq!(status["data"]["state"], "STORE_UNAVAILABLE");
        plan.heal();
        // The page that is open hears of it, without having asked.
        while page.next_of("session-status").await["data"]["state"] != "CONNECTED" {}
        assert!(is_healthy(&rig).await, "{fault:?}");
        let said = run(&rig.data(), &["status"]);
        assert!(said.answer().contains("CONNECTED"), "{said:?}");
        let refused = rig.code("salon", BORIS, None).await.json();
        assert_eq!(refused["code"], "REPLACE_CONFIRMATION_REQUIRED");
        rig.stop().await;
    }
    // One that is stopped while it waits stops at once.
    plan.lasting(Fault::Io, 0);
    let disk = Breaking::new(Folder::new(&rig.data()), &plan);
    rig.start_on(disk).await;
    rig.stop().await;
}

/// The store's files, and whatever else somebody might have set aside.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry"))
        .map(|entry| {
            (
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            )
        })
        .filter(|(name, _)| name.starts_with("hairpin."))
        .map(|(name, path)| (name, std::fs::read(path).expect("readable")))
        .collect()
}

fn put_back(folder: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for name in self::files(folder).keys() {
        std::fs::remove_file(folder.join(name)).expect("removed");
    }
    for (name, bytes) in files {
        std::fs::write(folder.join(name), bytes).expect("written");
    }
}

/// What somebody may have done to the files: what the store is then, what is said of it, and the deed.
type Harm = (&'static str, &'static str, Box<dyn Fn()>);

fn harms(folder: &Path) -> Vec<Harm> {
    let (store, keys) = (folder.join("hairpin.redb"), folder.join("hairpin.keys"));
    let length = std::fs::metadata(&store).expect("a store").len();
    let cut = |to: u64| -> Box<dyn Fn()> {
        let store = store.clone();
        Box::new(move || {
            let file = std::fs::File::options().write(true).open(&store);
            file.and_then(|file| file.set_len(to)).expect("cut");
        })
    };
    let spoil = |path: &Path, from: usize, to: usize| -> Box<dyn Fn()> {
        let path = path.to_owned();
        Box::new(move || {
            let mut bytes = std::fs::read(&path).expect("readable");
            let to = to.min(bytes.len());
            bytes[from..to].fill(0x5a);
            std::fs::write(&path, bytes).expect("written");
        })
    };
    let take = |path: &Path| -> Box<dyn Fn()> {
        let path = path.to_owned();
        Box::new(move || std::fs::remove_file(&path).expect("removed"))
    };
    let newer = {
        let store = store.clone();
        move || {
            let database = redb::Database::open(&store).expect("opened");
            let write = database.begin_write().expect("begun");
            write
                .open_table(TableDefinition::<&str, u32>::new("layout"))
                .expect("there")
                .insert("layout", 1_000)
                .expect("written");
            write.commit().expect("committed");
        }
    };
    vec![
        ("overwritten", "damaged", spoil(&store, 0, usize::MAX)),
        ("its header spoilt", "damaged", spoil(&store, 0, 512)),
        (
            "everything but its header spoilt",
            "damaged",
            spoil(&store, 4_096, usize::MAX),
        ),
        ("empty", "damaged", cut(0)),
        ("cut short", "damaged", cut(length / 2)),
        ("of a newer layout", "newer version", Box::new(newer)),
        ("away, and its keys are there", "missing", take(&store)),
        ("there, and its keys are not", "keys", take(&keys)),
        (
            "there, and its keys are spoilt",
            "keys",
            spoil(&keys, 0, usize::MAX),
        ),
        (
            "there, and one key is spoilt",
            "keys",
            spoil(&keys, 4_096, usize::MAX),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_used_is_left_as_it_is_and_no_restart_makes_an_empty_one() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    rig.stop().await;
    let data = rig.data();
    let whole = files(&data);
    for (harm, word, cause) in harms(&data) {
        put_back(&data, &whole);
        cause();
        let left = files(&data);
        let mark = rig.sim.mark();
        // Twice: systemd would start it again and again.
        for _ in 0..2 {
            rig.start().await;
            assert!(!is_healthy(&rig).await, "the store is {harm}");
            assert_eq!(rig.ask("GET", "/readyz", None).await.status, 503);
            assert_eq!(rig.ask("GET", "/", None).await.status, 200, "the page");
            rig.state("salon", "STORE_UNAVAILABLE").await;
            refused(&rig.code("salon", BORIS, None).await, harm);
            let unlink = rig.ask("DELETE", "/api/v1/sessions/salon/link", None).await;
            refused(&unlink, harm);
            for args in [&["status"][..], &["audit"], &["link", BORIS], &["unlink"]] {
                let said = run(&data, args);
                assert!(
                    said.complaint(4).contains(word),
                    "{harm}, {args:?}: {said:?}"
                );
            }
            rig.stop().await;
            assert!(files(&data) == left, "the store that is {harm} was touched");
        }
        let mut seen = rig.sim.events();
        seen.retain(|event| event.seq > mark);
        assert!(seen.is_empty(), "{harm}: WhatsApp was called: {seen:#?}");
    }
    // The same files as before, and the link is there.
    put_back(&data, &whole);
    rig.start().await;
    rig.state("salon", "CONNECTED").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_sealed_under_systemds_key_is_not_begun_anew_without_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = Options {
        wrapping_key: Some(WrappingKey::from_credential(b"sixteen bytes at least")),
        ..Options::default()
    };
    let store = Store::open(folder.path(), options).expect("made");
    store
        .put_session("salon", "Salon", 7)
        .await
        .expect("written");
    store.close().await;
    let mut rig = Rig::new().await;
    rig.stop().await;
    put_back(&rig.data(), &files(folder.path()));
    let left = files(&rig.data());
    for _ in 0..2 {
        rig.start().await;
        assert!(!is_healthy(&rig).await);
        refused(&rig.code("salon", ANNA, None).await, "a code");
        rig.stop().await;
    }
    assert!(files(&rig.data()) == left, "it was touched");
}

/// With a cache that holds nothing: what is read comes from the disk.
#[tokio::test(flavor = "multi_thread")]
async fn damage_that_comes_while_the_store_is_open_is_told_and_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = Options {
        cache_bytes: 0,
        ..Options::default()
    };
    let store = Store::open(folder.path(), options.clone()).expect("made");
    let written = store.put_setting("one", vec![1; 9_000]).await;
    written.expect("written");
    // redb keeps something of a commit to write with the next one; nothing of an opening.
    store.close().await;
    let store = Store::open(folder.path(), options.clone()).expect("opened");
    let file = std::fs::File::options().write(true).open(store.file());
    let junk = vec![0x5a; usize::try_from(store.size_bytes()).expect("small") - 4_096];
    file.and_then(|file| file.write_all_at(&junk, 4_096))
        .expect("spoilt");
    let left = files(folder.path());
    // Whoever needs the file first meets it, as what it is or as a fault; then the whole file is checked.
    until("noticed", async || {
        store.setting("one").expect_err("it is spoilt");
        store.check() == Err(StoreError::Damaged)
    })
    .await;
    assert_eq!(store.sessions(), Err(StoreError::Damaged));
    let refused = store.put_setting("two", vec![2]).await;
    assert_eq!(refused, Err(StoreError::Damaged));
    store.close().await;
    assert!(files(folder.path()) == left, "it was touched");
    let again = Store::open(folder.path(), options).err();
    assert!(matches!(again, Some(OpenError::Damaged(_))), "{again:?}");
    assert!(files(folder.path()) == left, "it was touched");
}
