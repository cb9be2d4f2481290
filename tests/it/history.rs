//! Nothing of anybody's messages is kept: what arrives is acknowledged and dropped, history is neither fetched nor stored.

use std::collections::BTreeMap;

use hairpin_sim::Step;
use redb::{ReadableDatabase, ReadableTableMetadata};

use crate::rig::{ANNA, Rig};

/// How many rows each table of the stopped appliance's store has, the journal aside.
async fn rows(rig: &mut Rig) -> BTreeMap<String, u64> {
    rig.stop().await;
    let file = rig.data().join("hairpin.redb");
    let database = redb::Database::open(file).expect("opened");
    let transaction = database.begin_read().expect("read");
    let tables = transaction.list_tables().expect("listed");
    tables
        .map(|table| {
            use redb::TableHandle;
            let name = table.name().to_owned();
            let table = transaction.open_untyped_table(table).expect("opened");
            (name, table.len().expect("counted"))
        })
        // A table that was looked into and is empty holds nothing.
        .filter(|(name, count)| name != "journal" && *count > 0)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_and_history_that_arrive_are_acknowledged_and_nothing_of_them_is_stored() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    let phone = rig.sim.phone(ANNA);
    let device = phone.devices()[0].id;
    let acknowledged = async |rig: &Rig, id: String| {
        rig.sim
            .wait_for(|event| event.step == Step::Receipt && event.note.contains(&id))
            .await
    };
    // Signal's own state is all there after the first message and the phone's key for the app state.
    let key = rig
        .sim
        .wait_for(|event| event.step == Step::KeyShared)
        .await;
    acknowledged(&rig, key.note).await;
    let id = phone.send_text(device, "the first").await.expect("sent");
    acknowledged(&rig, id).await;
    rig.restart().await;
    rig.state("salon", "CONNECTED").await;
    let before = rows(&mut rig).await;
    let size = std::fs::metadata(rig.data().join("hairpin.redb"))
        .expect("a file")
        .len();
    rig.start().await;
    rig.state("salon", "CONNECTED").await;
    let mark = rig.sim.mark();
    for count in 0..60 {
        let text = format!("message {count} {}", "lorem ipsum ".repeat(80));
        let id = phone.send_text(device, &text).await.expect("sent");
        acknowledged(&rig, id).await;
        if count % 3 == 0 {
            let inline = vec![b'h'; 32 * 1024];
            let id = phone.send_history(device, inline).await.expect("sent");
            let receipt = acknowledged(&rig, id).await;
            assert!(receipt.note.starts_with("hist_sync"), "{receipt:?}");
        }
    }
    let asked: Vec<_> = rig
        .sim
        .events()
        .into_iter()
        .filter(|event| event.seq > mark)
        .filter(|event| {
            !matches!(
                event.step,
                Step::MessageSent | Step::Receipt | Step::Acked | Step::Ping | Step::Pong
            )
        })
        .collect();
    assert!(asked.is_empty(), "nothing is asked for: {asked:#?}");
    assert_eq!(rig.status("salon").await["state"], "CONNECTED");
    let after = rows(&mut rig).await;
    assert_eq!(before, after, "no row more, in no table");
    for (name, count) in &after {
        for kept in ["messages", "pending", "msg_secret", "groups"] {
            assert!(!name.contains(kept) || *count == 0, "{name}: {count}");
        }
    }
    let grown = std::fs::metadata(rig.data().join("hairpin.redb"))
        .expect("a file")
        .len()
        .saturating_sub(size);
    assert!(grown <= 512 * 1024, "the file grew by {grown} bytes");
}
