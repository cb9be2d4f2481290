//! Stores of every released layout, as their program wrote them, open with all that is in them.
//!
//! `tests/layouts/N/` holds what layout N's last program made: store and keys, the same keys under a credential, and a
//! backup. They are never made anew once that version is released; before that, and for a next layout, by
//! `HAIRPIN_LAYOUT=tests/layouts/1 cargo test --test it layouts::make -- --ignored`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hairpin::store::{
    Backup, BackupKey, Ended, EndedReason, JournalEntry, JournalWhat, LinkRow, NewLink, Options,
    Report, Store, WrappingKey,
};
use serde_json::Value;
use tempfile::TempDir;
use whatsapp_rust::traits::{
    AppStateSyncKey, Backend, DeviceInfo, DeviceListRecord, DeviceStore, LidPnMappingEntry,
    MsgSecretEntry, ProtocolStore, SignalStore, TcTokenEntry,
};
use whatsapp_rust::wacore::appstate::hash::HashState;
use whatsapp_rust::wacore::appstate::processor::AppStateMutationMAC;

use crate::rig::{ANNA, BORIS, Rig};

const NOW: i64 = 1_764_046_501_000;
const CREDENTIAL: [u8; 32] = [7; 32];
/// Further in the future than any test is run.
const FAR: i64 = 32_503_680_000;

fn credential() -> WrappingKey {
    WrappingKey::from_credential(&CREDENTIAL)
}

/// The folder of every layout that there is.
fn layouts() -> Vec<PathBuf> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/layouts");
    let mut layouts: Vec<PathBuf> = std::fs::read_dir(all)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    layouts.sort();
    layouts
}

/// A copy that may be changed; the keys are the ones of this name.
fn copied(layout: &Path, keys: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (from, to) in [("hairpin.redb", "hairpin.redb"), (keys, "hairpin.keys")] {
        std::fs::copy(layout.join(from), folder.path().join(to)).expect("copied");
    }
    folder
}

fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("readable");
    serde_json::from_str(&text).expect("JSON")
}

/// Every field that was written is there and the same; new ones may have come.
fn holds(now: &Value, then: &Value, at: &str) {
    match (now, then) {
        (Value::Object(now), Value::Object(then)) => {
            for (name, value) in then {
                let at = format!("{at}.{name}");
                let now = now.get(name).unwrap_or_else(|| panic!("{at} is gone"));
                holds(now, value, &at);
            }
        }
        _ => assert_eq!(now, then, "{at}"),
    }
}

/// What a layout's store says that it holds.
fn described(report: &Report) -> Value {
    let mut report = serde_json::to_value(report).expect("JSON");
    // The house has marks that come and go.
    for field in ["bytes", "layout", "rows"] {
        report.as_object_mut().expect("an object").remove(field);
    }
    report
}

fn link(store: &Store, session: &str) -> LinkRow {
    store.link(session).expect("read").expect("a link")
}

fn timed(chat: &str) -> MsgSecretEntry {
    MsgSecretEntry {
        chat: Arc::from(chat),
        sender: Arc::from("79002223344@s.whatsapp.net"),
        msg_id: Arc::from("3EB0AA01"),
        secret: [5; 32],
        expires_at: FAR,
        message_ts: 7,
    }
}

fn mapping(lid: &str, updated_at: i64) -> LidPnMappingEntry {
    LidPnMappingEntry {
        lid: lid.to_owned(),
        phone_number: "79002223344".to_owned(),
        created_at: 1,
        updated_at,
        learning_source: "usync".to_owned(),
    }
}

/// A row of every family, under a link that a simulated WhatsApp never saw.
async fn write_all(rows: &dyn Backend) {
    rows.put_identity("79002223344@c.us", [9; 32])
        .await
        .expect("put");
    rows.put_session("79002223344@c.us", b"a ratchet")
        .await
        .expect("put");
    rows.put_sender_key("120363000000000001@g.us::79002223344@c.us", b"a sender key")
        .await
        .expect("put");
    rows.store_prekey(700, b"a one-time key", true)
        .await
        .expect("put");
    rows.store_signed_prekey(4, b"a signed key")
        .await
        .expect("put");
    let key = AppStateSyncKey {
        key_data: vec![3; 32],
        fingerprint: vec![4],
        timestamp: 5,
    };
    rows.set_sync_key(b"AAAA", key).await.expect("set");
    let state = HashState {
        version: 6,
        hash: [7; 128],
        index_value_map: [("index".to_owned(), vec![8])].into_iter().collect(),
        mac_mismatch_fatal: true,
    };
    rows.set_version("regular", state).await.expect("set");
    let mac = AppStateMutationMAC {
        index_mac: vec![1; 32],
        value_mac: vec![2; 32],
    };
    rows.put_mutation_macs("regular", 6, &[mac])
        .await
        .expect("put");
    rows.set_sender_key_status(
        "120363000000000001@g.us",
        &[("79002223344:1@lid", true), ("79002223344:2@lid", false)],
    )
    .await
    .expect("set");
    rows.put_lid_mappings(&[mapping("100000000000001", 3), mapping("100000000000002", 2)])
        .await
        .expect("put");
    rows.save_base_key("79002223344@c.us", "3EB0AA01", b"a base key")
        .await
        .expect("saved");
    rows.update_device_list(DeviceListRecord {
        user: "79002223344".to_owned(),
        devices: vec![DeviceInfo::new(7, Some(3)).with_hosting(true)],
        timestamp: 8,
        phash: Some("2:hash".to_owned()),
        raw_id: Some(9),
    })
    .await
    .expect("updated");
    rows.put_group_metadata("120363000000000001@g.us", b"a group")
        .await
        .expect("put");
    let token = TcTokenEntry {
        token: b"a token".to_vec(),
        token_timestamp: FAR,
        sender_timestamp: Some(10),
    };
    rows.put_tc_token("79002223344@lid", &token)
        .await
        .expect("put");
    rows.store_sent_message("79002223344@s.whatsapp.net", "3EB0AA01", b"sent")
        .await
        .expect("stored");
    rows.store_pending_inbound(
        "79002223344@lid",
        "79002223344@lid",
        "3EB0AA02",
        b"received",
    )
    .await
    .expect("stored");
    rows.put_msg_secrets(vec![timed("79002223344@s.whatsapp.net")])
        .await
        .expect("put");
}

/// The same rows, as they are read.
async fn read_all(rows: &dyn Backend) {
    assert_eq!(
        rows.load_identity("79002223344@c.us").await.expect("read"),
        Some([9; 32])
    );
    let session = rows.get_session("79002223344@c.us").await.expect("read");
    assert_eq!(session.as_deref(), Some(&b"a ratchet"[..]));
    assert!(
        rows.has_signal_state_for_user("79002223344")
            .await
            .expect("read")
    );
    let sender_key = rows
        .get_sender_key("120363000000000001@g.us::79002223344@c.us")
        .await
        .expect("read");
    assert_eq!(sender_key.as_deref(), Some(&b"a sender key"[..]));
    let one_time = rows.load_prekey(700).await.expect("read");
    assert_eq!(one_time.as_deref(), Some(&b"a one-time key"[..]));
    assert_eq!(rows.get_max_prekey_id().await.expect("read"), 700);
    let signed = rows.load_signed_prekey(4).await.expect("read");
    assert_eq!(signed.as_deref(), Some(&b"a signed key"[..]));
    let key = rows.get_sync_key(b"AAAA").await.expect("read");
    let key = key.expect("a key");
    assert_eq!(
        (key.key_data, key.fingerprint, key.timestamp),
        (vec![3; 32], vec![4], 5)
    );
    let latest = rows.get_latest_sync_key_id().await.expect("read");
    assert_eq!(latest.as_deref(), Some(&b"AAAA"[..]));
    let state = rows.get_version("regular").await.expect("read");
    assert_eq!((state.version, state.hash), (6, [7; 128]));
    assert_eq!(state.index_value_map["index"], [8]);
    assert!(state.mac_mismatch_fatal);
    let mac = rows.get_mutation_mac("regular", &[1; 32]).await;
    assert_eq!(mac.expect("read"), Some(vec![2; 32]));
    let mut devices = rows
        .get_sender_key_devices("120363000000000001@g.us")
        .await
        .expect("read");
    devices.sort();
    assert_eq!(
        devices,
        [
            ("79002223344:1@lid".to_owned(), true),
            ("79002223344:2@lid".to_owned(), false)
        ]
    );
    let contact = rows.get_pn_mapping("79002223344").await.expect("read");
    let contact = contact.expect("a mapping");
    assert_eq!(
        (contact.lid.as_str(), contact.updated_at),
        ("100000000000001", 3)
    );
    let other = rows.get_lid_mapping("100000000000002").await.expect("read");
    assert_eq!(other.expect("a mapping").phone_number, "79002223344");
    assert!(
        rows.has_same_base_key("79002223344@c.us", "3EB0AA01", b"a base key")
            .await
            .expect("read")
    );
    let list = rows.get_devices("79002223344").await.expect("read");
    let list = list.expect("a list");
    assert_eq!((list.timestamp, list.raw_id), (8, Some(9)));
    assert_eq!(list.phash.as_deref(), Some("2:hash"));
    let device = &list.devices[0];
    assert_eq!(
        (device.device_id, device.key_index, device.is_hosted),
        (7, Some(3), true)
    );
    let group = rows
        .get_group_metadata("120363000000000001@g.us")
        .await
        .expect("read");
    assert_eq!(group.as_deref(), Some(&b"a group"[..]));
    let token = rows.get_tc_token("79002223344@lid").await.expect("read");
    let token = token.expect("a token");
    assert_eq!(
        (token.token, token.token_timestamp, token.sender_timestamp),
        (b"a token".to_vec(), FAR, Some(10))
    );
    let pending = rows
        .get_pending_inbound("79002223344@lid", "79002223344@lid", "3EB0AA02")
        .await
        .expect("read");
    assert_eq!(pending.as_deref(), Some(&b"received"[..]));
    let secret = rows
        .get_msg_secret_with_ts(
            "79002223344@s.whatsapp.net",
            "79002223344@s.whatsapp.net",
            "3EB0AA01",
        )
        .await
        .expect("read");
    assert_eq!(secret, Some((vec![5; 32], 7)));
    // Last: it is taken.
    let sent = rows
        .take_sent_message("79002223344@s.whatsapp.net", "3EB0AA01")
        .await
        .expect("taken");
    assert_eq!(sent.as_deref(), Some(&b"sent"[..]));
}

/// Makes a layout's folder with this program. `salon` was linked by a simulated WhatsApp, `second` has a row of every
/// family, `third` is logged out, `fourth` was never linked, and `fifth` is empty after a wipe.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "only for a layout that is not released yet"]
async fn make() {
    let Ok(to) = std::env::var("HAIRPIN_LAYOUT") else {
        panic!("HAIRPIN_LAYOUT names the folder");
    };
    let to = Path::new(env!("CARGO_MANIFEST_DIR")).join(to);
    std::fs::create_dir_all(&to).expect("made");
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    rig.sim
        .wait_for(|event| event.is(hairpin_sim::Step::KeyShared, ANNA))
        .await;
    rig.stop().await;
    let store = crate::rig::open(&rig.data());
    for (at, session) in ["second", "third", "fourth", "fifth"]
        .into_iter()
        .enumerate()
    {
        let at = NOW + i64::try_from(at).expect("small");
        let name = format!("Кресло «{session}»");
        store.put_session(session, &name, at).await.expect("added");
        let next = NewLink {
            line: BORIS.into(),
            intended: BORIS.into(),
            now: at,
        };
        let entry = JournalEntry::new(at, session, JournalWhat::Requested);
        store
            .replace_link(session, None, Some(next), vec![entry])
            .await
            .expect("opened");
    }
    let second = store.backend("second", link(&store, "second").epoch);
    second.create().await.expect("a device");
    write_all(&second).await;
    store
        .update_link(
            "third",
            link(&store, "third").epoch,
            Box::new(|row| {
                row.ended = Some(Ended {
                    reason: EndedReason::LoggedOut,
                    at: NOW,
                });
                row.last_connected = Some(NOW - 1);
            }),
            vec![JournalEntry::new(NOW, "third", JournalWhat::LoggedOut)],
        )
        .await
        .expect("updated");
    store
        .replace_link("fifth", Some(link(&store, "fifth").epoch), None, vec![])
        .await
        .expect("wiped");
    store.budget_record(ANNA, NOW).await.expect("counted");
    store
        .put_setting("companion_version", b"[2,3000,1]".to_vec())
        .await
        .expect("kept");
    let report = store.verify().expect("sound");
    let salon = store.backend("salon", link(&store, "salon").epoch);
    let device = salon.load().await.expect("read").expect("a device");
    let sealed = store
        .backup(&BackupKey::Credential(credential()), NOW)
        .expect("a backup");
    store.close().await;
    for name in ["hairpin.redb", "hairpin.keys"] {
        std::fs::copy(rig.data().join(name), to.join(name)).expect("copied");
    }
    std::fs::write(to.join("backup"), sealed).expect("written");
    let pretty = |value: &Value| serde_json::to_string_pretty(value).expect("JSON") + "\n";
    std::fs::write(to.join("report.json"), pretty(&described(&report))).expect("written");
    let device = serde_json::to_value(&device).expect("JSON");
    std::fs::write(to.join("device.json"), pretty(&device)).expect("written");
    let options = Options {
        wrapping_key: Some(credential()),
        ..Options::default()
    };
    Store::open(&rig.data(), options)
        .expect("opened")
        .close()
        .await;
    std::fs::copy(rig.data().join("hairpin.keys"), to.join("wrapped.keys")).expect("copied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_every_released_layout_opens_with_all_that_is_in_it() {
    let layouts = layouts();
    assert!(!layouts.is_empty());
    for layout in layouts {
        let then = read(&layout.join("report.json"));
        for (keys, wrapping) in [
            ("hairpin.keys", None),
            ("hairpin.keys", Some(credential())),
            ("wrapped.keys", Some(credential())),
        ] {
            let folder = copied(&layout, keys);
            let looked = Store::look(folder.path(), wrapping.clone()).expect("looked");
            holds(
                &described(&looked.verify().expect("sound")),
                &then,
                "report",
            );
            let options = Options {
                wrapping_key: wrapping,
                create: false,
                ..Options::default()
            };
            let store = Store::open(folder.path(), options).expect("opened");
            holds(&described(&store.verify().expect("sound")), &then, "report");
            let device = store
                .backend("salon", link(&store, "salon").epoch)
                .load()
                .await
                .expect("read");
            let device = serde_json::to_value(device.expect("a device")).expect("JSON");
            holds(&device, &read(&layout.join("device.json")), "device");
            let third = link(&store, "third");
            assert_eq!(
                third.ended.map(|ended| ended.reason),
                Some(EndedReason::LoggedOut)
            );
            assert_eq!(third.last_connected, Some(NOW - 1));
            assert!(link(&store, "fourth").linked.is_none());
            assert_eq!(store.link("fifth").expect("read"), None);
            assert_eq!(
                store.setting("companion_version").expect("read").as_deref(),
                Some(&b"[2,3000,1]"[..])
            );
            let journal = store.journal(Some("third"), 9).expect("read");
            assert_eq!(journal[0].what, JournalWhat::LoggedOut);
            let second = store.backend("second", link(&store, "second").epoch);
            read_all(&second).await;
            // And it can be written.
            let wiped = store
                .replace_link("second", Some(link(&store, "second").epoch), None, vec![])
                .await;
            assert!(wiped.is_ok());
            assert!(store.verify().is_ok());
            store.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_every_released_layout_is_restored() {
    for layout in layouts() {
        let sealed = std::fs::read(layout.join("backup")).expect("read");
        let backup = Backup::open(&sealed, &BackupKey::Credential(credential())).expect("opened");
        assert_eq!(backup.made_at(), NOW);
        let folder = tempfile::tempdir().expect("a folder");
        let restored = backup.restore(folder.path(), None, NOW).await;
        let restored = restored.expect("restored");
        assert_eq!((restored.sessions, restored.links), (5, 4));
        let store = crate::rig::open(folder.path());
        let then = read(&layout.join("device.json"));
        let device = store
            .backend("salon", link(&store, "salon").epoch)
            .load()
            .await
            .expect("read");
        let device = serde_json::to_value(device.expect("a device")).expect("JSON");
        for field in ["noise_key", "identity_key", "registration_id", "pn"] {
            assert!(!then[field].is_null(), "{field}");
            assert_eq!(device[field], then[field], "{field}");
        }
        assert!(link(&store, "salon").linked.is_some());
        let second = store.backend("second", link(&store, "second").epoch);
        let contact = second.get_pn_mapping("79002223344").await.expect("read");
        assert_eq!(contact.expect("a mapping").lid, "100000000000001");
        let session = second.get_session("79002223344@c.us").await.expect("read");
        assert_eq!(session, None);
        store.close().await;
    }
}

/// A store that is only of the present layout because nobody raised the number would pass all of the above.
#[test]
fn every_layout_up_to_the_present_one_has_its_folder() {
    let names: Vec<String> = layouts()
        .iter()
        .filter_map(|layout| Some(layout.file_name()?.to_str()?.to_owned()))
        .collect();
    let folder = copied(&layouts()[0], "hairpin.keys");
    let looked = Store::look(folder.path(), None).expect("looked");
    let present = looked.verify().expect("sound").layout;
    let expected: Vec<String> = (1..=present).map(|layout| layout.to_string()).collect();
    assert_eq!(names, expected);
}
