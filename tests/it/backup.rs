//! Backup and restore: one consistent file, readable by its key alone, that links again without a person.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hairpin::secret::SecretText;
use hairpin::store::{
    Backup, BackupError, BackupKey, BackupWay, JournalEntry, JournalWhat, LinkRow, NewLink,
    OpenError, Report, RestoreError, Store, WrappingKey,
};
use hairpin_sim::Step;
use whatsapp_rust::traits::{
    AppStateSyncKey, AppSyncStore, Backend, DeviceStore, LidPnMappingEntry, ProtocolStore,
    SignalStore,
};

use crate::rig::{ANNA, BORIS, Rig, open, reads};
use crate::store_calls::{Draw, traits};
use crate::store_support::{self, seed};

const NOW: i64 = 1_764_046_501_000;

/// Opens at once, unlike a passphrase.
fn credential() -> BackupKey {
    BackupKey::Credential(WrappingKey::from_credential(&[7; 32]))
}

fn passphrase(text: &str) -> BackupKey {
    BackupKey::Passphrase(SecretText::new(text.to_owned()))
}

fn new_link(number: &str, now: i64) -> NewLink {
    NewLink {
        line: number.into(),
        intended: number.into(),
        now,
    }
}

/// Every file of a folder, at any depth, with its bytes; sockets have none.
pub fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else if path.is_file() {
            let bytes = std::fs::read(&path).expect("readable");
            all.insert(path, bytes);
        }
    }
    all
}

fn report(folder: &Path) -> Report {
    Store::look(folder, None)
        .expect("looked")
        .verify()
        .expect("sound")
}

/// A store with one link and something of everything that a backup carries, or leaves.
pub async fn filled(folder: &Path) -> Store {
    let store = open(folder);
    store
        .put_session("salon", "Салон «У Анны»", NOW)
        .await
        .expect("added");
    store
        .put_session("second", "Second chair", NOW + 1)
        .await
        .expect("added");
    for round in 0..3 {
        // Epochs are used up, as they are in a real life.
        let present = store.link("salon").expect("read").map(|row| row.epoch);
        store
            .replace_link(
                "salon",
                present,
                Some(new_link(ANNA, NOW + round)),
                vec![JournalEntry::new(
                    NOW + round,
                    "salon",
                    JournalWhat::Requested,
                )],
            )
            .await
            .expect("replaced");
    }
    store
        .put_setting("companion_version", b"[2,3000,1]".to_vec())
        .await
        .expect("kept");
    store
        .put_setting("logins", b"tokens".to_vec())
        .await
        .expect("kept");
    store.budget_record(ANNA, NOW).await.expect("counted");
    let row = store.link("salon").expect("read").expect("a link");
    let backend = store.backend("salon", row.epoch);
    backend.create().await.expect("a device");
    let mut device = backend.load().await.expect("read").expect("a device");
    device.next_pre_key_id = 813;
    device.first_unupload_pre_key_id = 813;
    device.server_has_prekeys = true;
    device.push_name = "Салон".to_owned();
    device.edge_routing_info = Some(vec![1, 2, 3]);
    backend.save(&device).await.expect("saved");
    backend
        .put_session("79002223344.0", b"a ratchet")
        .await
        .expect("put");
    backend
        .put_identity("79002223344.0", [9; 32])
        .await
        .expect("put");
    backend
        .put_sender_key("group::79002223344.0", b"a sender key")
        .await
        .expect("put");
    backend
        .store_prekey(700, b"a one-time key", true)
        .await
        .expect("put");
    backend
        .store_signed_prekey(4, b"signed four")
        .await
        .expect("put");
    backend
        .store_signed_prekey(5, b"signed five")
        .await
        .expect("put");
    for (id, timestamp) in [(b"AAAA", 1), (b"BBBB", 2)] {
        let key = AppStateSyncKey {
            key_data: id.repeat(8),
            fingerprint: vec![4],
            timestamp,
        };
        backend.set_sync_key(id, key).await.expect("set");
    }
    let again = AppStateSyncKey {
        key_data: b"AAAA".repeat(8),
        fingerprint: vec![4],
        timestamp: 1,
    };
    backend.set_sync_key(b"AAAA", again).await.expect("set");
    backend
        .put_lid_mapping(&LidPnMappingEntry {
            lid: "100000000000001".to_owned(),
            phone_number: "79002223344".to_owned(),
            created_at: 1,
            updated_at: 2,
            learning_source: "usync".to_owned(),
        })
        .await
        .expect("put");
    backend
        .store_sent_message("79002223344@s.whatsapp.net", "3EB0", b"a message")
        .await
        .expect("put");
    store
}

fn fields(row: &LinkRow) -> impl PartialEq + std::fmt::Debug + use<> {
    (
        row.link_id.clone(),
        row.line.clone(),
        row.intended.clone(),
        row.created_at,
        row.last_connected,
        row.ended,
        row.halted,
        row.finishing,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_store_holds_what_a_backup_carries_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = filled(folder.path()).await;
    let before = store.link("salon").expect("read").expect("a link");
    let old_device = {
        let backend = store.backend("salon", before.epoch);
        backend.load().await.expect("read").expect("a device")
    };
    let sealed = store.backup(&credential(), NOW + 5).expect("a backup");
    let journal = store.journal(None, 100).expect("read");
    store.close().await;

    let new = tempfile::tempdir().expect("a folder");
    let new = new.path().join("not there yet");
    let backup = Backup::open(&sealed, &credential()).expect("opened");
    assert_eq!(backup.made_at(), NOW + 5);
    let restored = backup.restore(&new, None, NOW + 9).await.expect("restored");
    assert_eq!((restored.sessions, restored.links), (2, 1));
    assert_eq!(restored.aside, Vec::<PathBuf>::new());

    let found = report(&new);
    let link = found.sessions[0].link.as_ref().expect("a link");
    assert!(link.device && link.restored);
    assert_eq!((link.conversations, link.pre_keys), (0, 0));
    // Device, two signed pre-keys, two keys and which is the newest, one contact in two tables.
    assert_eq!((link.sync_keys, link.contacts, link.rows), (2, 1, 8));
    assert_eq!(found.settings, 1, "logins stay behind");
    assert!(found.sessions[1].link.is_none());

    let store = open(&new);
    assert_eq!(store.sessions().expect("read"), {
        let old = open(folder.path());
        let sessions = old.sessions().expect("read");
        old.close().await;
        sessions
    });
    let row = store.link("salon").expect("read").expect("a link");
    assert_eq!(fields(&row), fields(&before));
    assert!(row.restored && !before.restored);
    assert!(row.epoch > before.epoch, "an epoch above all old ones");
    assert_eq!(
        store.budget_left(ANNA, NOW, 1).expect("read"),
        None,
        "the budget stays behind"
    );
    assert_eq!(
        store.setting("companion_version").expect("read").as_deref(),
        Some(&b"[2,3000,1]"[..])
    );
    let mut entries = store.journal(None, 100).expect("read");
    let said: Vec<_> = entries.drain(..2).collect();
    assert_eq!(entries, journal);
    let of_salon = said
        .iter()
        .find(|entry| entry.session == "salon")
        .expect("an entry");
    assert_eq!(of_salon.what, JournalWhat::Restored);
    assert_eq!(of_salon.phone.as_deref(), Some("79001***567"));
    assert_eq!(of_salon.by.as_deref(), Some("terminal"));

    let backend = store.backend("salon", row.epoch);
    let device = backend.load().await.expect("read").expect("a device");
    assert_eq!(
        device.identity_key.public_key,
        old_device.identity_key.public_key
    );
    assert_eq!(device.noise_key.public_key, old_device.noise_key.public_key);
    assert_eq!(device.registration_id, old_device.registration_id);
    assert_eq!(device.push_name, "Салон");
    // What makes the library upload new keys, with ids that no old one has.
    assert!(!device.server_has_prekeys);
    assert_eq!(device.first_unupload_pre_key_id, 0);
    assert!(device.next_pre_key_id.abs_diff(813) >= 1 << 16);
    assert!((1..1 << 24).contains(&device.next_pre_key_id));
    assert_eq!(device.edge_routing_info, None);
    assert_eq!(
        backend.load_all_signed_prekeys().await.expect("read"),
        [(4, b"signed four".to_vec()), (5, b"signed five".to_vec())]
    );
    let key = backend.get_sync_key(b"BBBB").await.expect("read");
    assert_eq!(key.expect("a key").key_data, b"BBBB".repeat(8));
    assert_eq!(
        backend
            .get_latest_sync_key_id()
            .await
            .expect("read")
            .as_deref(),
        Some(&b"AAAA"[..])
    );
    let mapping = backend.get_pn_mapping("79002223344").await.expect("read");
    assert_eq!(mapping.expect("a mapping").lid, "100000000000001");
    assert_eq!(
        backend.get_session("79002223344.0").await.expect("read"),
        None
    );
    assert_eq!(backend.get_max_prekey_id().await.expect("read"), 0);
    // The next link's epoch is above this one.
    let wiped = store
        .replace_link("salon", Some(row.epoch), Some(new_link(BORIS, NOW)), vec![])
        .await
        .expect("replaced");
    assert!(wiped.link.expect("a link").epoch > row.epoch);
    store.close().await;
}

/// Everything that a backup carries of a link's rows but the device.
async fn carried(rows: &dyn Backend) -> Vec<String> {
    let mut lids: Vec<String> = rows
        .get_all_lid_mappings()
        .await
        .expect("read")
        .iter()
        .map(|entry| format!("{entry:?}"))
        .collect();
    lids.sort();
    let mut carried = vec![
        format!("{lids:?}"),
        format!("{:?}", rows.load_all_signed_prekeys().await.expect("read")),
        format!("{:?}", rows.get_latest_sync_key_id().await.expect("read")),
    ];
    // Which of a number's hidden ids counts, too.
    for number in ["79001234567", "7900123456", "79001234568", "5511987654321"] {
        let mapping = rows.get_pn_mapping(number).await.expect("read");
        carried.push(format!("{mapping:?}"));
    }
    for id in 0..12 {
        let key = rows.get_sync_key(&[0, 0, 0, 1, id]).await.expect("read");
        carried.push(format!("{key:?}"));
    }
    carried
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_link_may_store_is_sound_and_comes_back_as_far_as_a_backup_carries_it() {
    let mut draw = Draw::new(seed());
    for round in 0..5 {
        let from = store_support::folder();
        let store = open(from.path());
        let rows = store_support::backend(&store, "salon").await;
        for of in traits() {
            for _ in 0..200 {
                of.any(&mut draw).make(&rows).await.expect("done");
            }
        }
        store.verify().expect("sound");
        let before = carried(&*rows).await;
        let sealed = store.backup(&credential(), NOW).expect("a backup");
        store.close().await;
        let to = store_support::folder();
        let backup = Backup::open(&sealed, &credential()).expect("opened");
        let restored = backup.restore(to.path(), None, NOW).await;
        restored.expect("restored");
        let store = open(to.path());
        store.verify().expect("sound");
        let row = store.link("salon").expect("read").expect("a link");
        let after = carried(&store.backend("salon", row.epoch)).await;
        assert_eq!(after, before, "round {round} from seed {}", seed());
        assert!(before[0].len() > 2 && before[1].len() > 2, "{before:?}");
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_restores_of_one_backup_share_neither_keys_nor_pre_key_ids() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = filled(folder.path()).await;
    let sealed = store.backup(&credential(), NOW).expect("a backup");
    store.close().await;
    let mut ids = Vec::new();
    let mut keys = Vec::new();
    let target = tempfile::tempdir().expect("a folder");
    let mut epochs = Vec::new();
    for _ in 0..2 {
        let backup = Backup::open(&sealed, &credential()).expect("opened");
        backup
            .restore(target.path(), None, NOW)
            .await
            .expect("restored");
        keys.push(std::fs::read(target.path().join("hairpin.keys")).expect("read"));
        let store = open(target.path());
        let row = store.link("salon").expect("read").expect("a link");
        epochs.push(row.epoch);
        let backend = store.backend("salon", row.epoch);
        let device = backend.load().await.expect("read").expect("a device");
        ids.push(device.next_pre_key_id);
        store.close().await;
    }
    assert_ne!(ids[0], ids[1]);
    assert!(
        epochs[1] > epochs[0],
        "above those of the store that was there"
    );
    // Secrets lie at 25..57 of a plain block; the house's is the first.
    assert_ne!(keys[0][25..57], keys[1][25..57]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_of_one_moment_and_writes_go_on_while_it_is_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    store.put_session("salon", "Salon", 0).await.expect("added");
    let row = store
        .replace_link("salon", None, Some(new_link(ANNA, 0)), vec![])
        .await
        .expect("opened")
        .link
        .expect("a link");
    // Enough to make reading it take a while.
    for page in 0..20 {
        let entries = (0..200)
            .map(|at| JournalEntry::new(NOW + page * 200 + at, "other", JournalWhat::CodeEnded))
            .collect();
        store.append_journal(entries).await.expect("appended");
    }
    let over = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let writer = tokio::spawn({
        let (store, over, written) = (store.clone(), Arc::clone(&over), Arc::clone(&written));
        async move {
            let mut count = 0;
            while !over.load(Ordering::SeqCst) {
                count += 1;
                // Both in one transaction: a backup that holds one without the other is of two moments.
                let entry = JournalEntry {
                    duration_ms: Some(count),
                    ..JournalEntry::new(NOW + 5000, "salon", JournalWhat::CodeShown)
                };
                let at = i64::try_from(count).expect("few");
                store
                    .update_link(
                        "salon",
                        row.epoch,
                        Box::new(move |row| row.last_connected = Some(at)),
                        vec![entry],
                    )
                    .await
                    .expect("written");
                written.store(count, Ordering::SeqCst);
            }
        }
    });
    let mut sealed = Vec::new();
    let mut during = 0;
    for _ in 0..8 {
        let before = written.load(Ordering::SeqCst);
        let store = store.clone();
        let backup = tokio::task::spawn_blocking(move || store.backup(&credential(), NOW));
        sealed.push(backup.await.expect("ran").expect("a backup"));
        during += written.load(Ordering::SeqCst) - before;
    }
    // A wipe is not held up either: it wants the keys for itself alone.
    let backup = tokio::task::spawn_blocking({
        let store = store.clone();
        move || store.backup(&credential(), NOW)
    });
    for round in 0..5 {
        let present = store.link("second").expect("read").map(|row| row.epoch);
        store
            .replace_link("second", present, Some(new_link(BORIS, round)), vec![])
            .await
            .expect("wiped");
    }
    sealed.push(backup.await.expect("ran").expect("a backup"));
    over.store(true, Ordering::SeqCst);
    writer.await.expect("wrote");
    store.close().await;
    assert!(during > 0, "no write got through during a backup");
    for sealed in sealed {
        let target = tempfile::tempdir().expect("a folder");
        let backup = Backup::open(&sealed, &credential()).expect("opened");
        backup
            .restore(target.path(), None, NOW)
            .await
            .expect("restored");
        let store = open(target.path());
        let row = store.link("salon").expect("read").expect("a link");
        let newest = store
            .journal(Some("salon"), 2)
            .expect("read")
            .into_iter()
            .find(|entry| entry.what == JournalWhat::CodeShown);
        let newest = newest.and_then(|entry| entry.duration_ms).unwrap_or(0);
        assert_eq!(row.last_connected.unwrap_or(0).unsigned_abs(), newest);
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_its_own_key_opens_a_backup_and_its_file_shows_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = filled(folder.path()).await;
    let sealed = store
        .backup(&passphrase("корректная лошадь"), NOW)
        .expect("a backup");
    assert_eq!(Backup::way(&sealed), Ok(BackupWay::Passphrase));
    let refused = |key: &BackupKey| Backup::open(&sealed, key).err();
    assert_eq!(
        refused(&passphrase("корректная лошад")),
        Some(BackupError::WrongPassphrase)
    );
    assert_eq!(refused(&credential()), Some(BackupError::WantsPassphrase));
    assert!(Backup::open(&sealed, &passphrase("корректная лошадь")).is_ok());
    let device = {
        let row = store.link("salon").expect("read").expect("a link");
        let backend = store.backend("salon", row.epoch);
        backend.load().await.expect("read").expect("a device")
    };
    let secret = device.adv_secret_key;
    for canary in [
        &secret[..],
        ANNA.as_bytes(),
        b"signed four",
        "корректная лошадь".as_bytes(),
        "Салон".as_bytes(),
        b"salon",
    ] {
        assert!(
            !sealed.windows(canary.len()).any(|window| window == canary),
            "{canary:?}"
        );
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_a_credential_opens_after_the_credential_was_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = filled(folder.path()).await;
    let sealed = store.backup(&credential(), NOW).expect("a backup");
    store.close().await;
    assert_eq!(Backup::way(&sealed), Ok(BackupWay::Credential));
    let other = WrappingKey::from_credential(&[8; 32]);
    assert_eq!(
        Backup::open(&sealed, &BackupKey::Credential(other.clone())).err(),
        Some(BackupError::WrongCredential)
    );
    assert_eq!(
        Backup::open(&sealed, &passphrase("x")).err(),
        Some(BackupError::WantsCredential)
    );
    let both = BackupKey::Credential(other.clone().or_old(&[7; 32]));
    let backup = Backup::open(&sealed, &both).expect("opened");
    // The restored store's keys lie under the present one.
    let target = tempfile::tempdir().expect("a folder");
    backup
        .restore(target.path(), Some(other.clone()), NOW)
        .await
        .expect("restored");
    assert!(matches!(
        Store::look(target.path(), None),
        Err(OpenError::KeysWrong)
    ));
    let looked = Store::look(target.path(), Some(other)).expect("looked");
    assert!(looked.verify().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_a_backup_can_be_changed_and_no_end_of_it_be_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = filled(folder.path()).await;
    let sealed = store.backup(&credential(), NOW).expect("a backup");
    store.close().await;
    for at in 0..sealed.len() {
        let mut flipped = sealed.clone();
        flipped[at] ^= 0x10;
        assert!(Backup::open(&flipped, &credential()).is_err(), "byte {at}");
    }
    for length in 0..sealed.len() {
        assert!(
            Backup::open(&sealed[..length], &credential()).is_err(),
            "{length} bytes"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_use_is_not_replaced_and_an_unreadable_one_is_set_aside_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = filled(folder.path()).await;
    let sealed = store.backup(&credential(), NOW).expect("a backup");
    let reopen = || Backup::open(&sealed, &credential()).expect("opened");
    let refused = reopen().restore(folder.path(), None, NOW).await;
    assert!(matches!(
        refused,
        Err(RestoreError::Store(OpenError::InUse))
    ));
    let row = store.link("salon").expect("still there").expect("a link");
    store.close().await;

    // The old pair, under its dated names, is what it was.
    let before = contents(folder.path());
    let restored = reopen()
        .restore(folder.path(), None, NOW)
        .await
        .expect("restored");
    assert_eq!(restored.aside.len(), 2);
    for path in &restored.aside {
        let name = path.file_name().expect("a name").to_string_lossy();
        let original = name.split_once(".2025-11-25-045501").expect("dated").0;
        assert_eq!(
            std::fs::read(path).expect("read"),
            before[&folder.path().join(original)],
            "{name}"
        );
    }
    let back = tempfile::tempdir().expect("a folder");
    for path in &restored.aside {
        let name = path.file_name().expect("a name").to_string_lossy();
        let original = name.split_once(".2025").expect("dated").0;
        std::fs::copy(path, back.path().join(original)).expect("copied");
    }
    let old = open(back.path());
    assert_eq!(
        old.link("salon").expect("read").expect("a link").epoch,
        row.epoch
    );
    old.close().await;

    // What does not open any more is kept as well.
    std::fs::write(folder.path().join("hairpin.redb"), b"rubbish").expect("spoiled");
    std::fs::remove_file(folder.path().join("hairpin.keys")).expect("lost");
    let restored = reopen()
        .restore(folder.path(), None, NOW)
        .await
        .expect("restored");
    assert_eq!(restored.aside.len(), 1);
    assert_eq!(std::fs::read(&restored.aside[0]).expect("read"), b"rubbish");
    assert!(report(folder.path()).sessions[0].link.is_some());
    let left: Vec<_> = contents(folder.path())
        .into_keys()
        .filter(|path| path.to_string_lossy().contains("restore"))
        .collect();
    assert_eq!(left, Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_appliance_keeps_restores_out_even_while_its_file_is_not_open() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = filled(folder.path()).await;
    let sealed = store.backup(&credential(), NOW).expect("a backup");
    // Swept before, and not again: a sweep watches the file under the name, which is another one from here on.
    store.close().await;
    let store = open(folder.path());
    // As while it is opened anew: nobody holds a lock on what lies under the name.
    let file = folder.path().join("hairpin.redb");
    std::fs::copy(&file, folder.path().join("copy")).expect("copied");
    std::fs::rename(folder.path().join("copy"), &file).expect("renamed");
    let before = contents(folder.path());
    let backup = Backup::open(&sealed, &credential()).expect("opened");
    let refused = backup.restore(folder.path(), None, NOW).await;
    assert!(matches!(
        refused,
        Err(RestoreError::Store(OpenError::InUse))
    ));
    let refused = Store::set_aside(folder.path(), NOW);
    assert!(matches!(refused, Err(OpenError::InUse)));
    assert!(contents(folder.path()) == before);
    store.close().await;
    assert!(Store::set_aside(folder.path(), NOW).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_from_a_newer_layout_is_refused_and_nothing_is_changed() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = filled(folder.path()).await;
    let mut sealed = store.backup(&credential(), NOW).expect("a backup");
    store.close().await;
    sealed[9] = 2;
    assert_eq!(
        Backup::open(&sealed, &credential()).err(),
        Some(BackupError::Newer(2))
    );
    for foreign in [&b""[..], b"PK\x03\x04", b"SQLite format 3\0", &[0; 4096]] {
        assert_eq!(
            Backup::open(foreign, &credential()).err(),
            Some(BackupError::Foreign)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_link_connects_again_without_a_person_and_its_conversations_start_anew() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    let phone = rig.sim.phone(ANNA);
    // There is a conversation begun with a one-time key, so that there is something that must not come back.
    rig.sim
        .wait_for(|event| event.is(Step::KeyShared, ANNA))
        .await;
    reads(&rig.sim, ANNA, "добрый день").await;
    let (sealed, old) = rig
        .in_store(async |store| {
            let report = store.verify().expect("sound");
            let link = report.sessions[0].link.clone().expect("a link");
            assert!(link.conversations > 0 && link.pre_keys > 0, "{link:?}");
            let sealed = store
                .backup(&passphrase("correct horse battery staple"), NOW)
                .expect("a backup");
            (sealed, store.link("salon").expect("read").expect("a link"))
        })
        .await;
    // The machine is lost; another one takes its place.
    std::fs::remove_dir_all(rig.data()).expect("lost");
    let key = passphrase("correct horse battery staple");
    let backup = Backup::open(&sealed, &key).expect("opened");
    backup
        .restore(&rig.data(), None, NOW)
        .await
        .expect("restored");
    let link = report(&rig.data()).sessions[0]
        .link
        .clone()
        .expect("a link");
    assert_eq!((link.conversations, link.pre_keys), (0, 0));
    let seen = rig.sim.mark();
    rig.start().await;
    rig.state("salon", "CONNECTED").await;
    // Fresh one-time keys, of which WhatsApp had none too few: it is the restore that asks for them.
    rig.sim
        .wait_for_after(seen, |event| event.is(Step::PreKeys, ANNA))
        .await;
    assert_eq!(phone.devices().len(), 1, "the same device as before");
    // The phone's old ratchet meets none here; what it sends is answered all the same, and the link stays up.
    reads(&rig.sim, ANNA, "вы ещё тут?").await;
    rig.state("salon", "CONNECTED").await;
    let entries = rig.audit().await;
    assert!(
        entries
            .iter()
            .any(|entry| entry["what"] == "restored" && entry["phone"] == "79001***567")
    );
    let (now, first, last) = rig
        .in_store(async |store| {
            let row = store.link("salon").expect("read").expect("a link");
            let backend = store.backend("salon", row.epoch);
            let last = backend.get_max_prekey_id().await.expect("read");
            (row, backend.load_prekey(1).await.expect("read"), last)
        })
        .await;
    assert!(now.restored && now.linked == old.linked);
    assert_eq!(first, None, "old one-time keys are gone");
    assert!(last > 1 << 16, "new ones are far from them: {last}");
}
