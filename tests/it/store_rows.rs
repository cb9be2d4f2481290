//! What single rows promise, where upstream's words leave room for a mistake.

use std::sync::Arc;

use whatsapp_rust::traits::{Backend, LidPnMappingEntry, MsgSecretEntry, TcTokenEntry};

use crate::store_support::{SALON, backend, folder, open};

fn mapping(lid: &str, number: &str, updated_at: i64) -> LidPnMappingEntry {
    LidPnMappingEntry {
        lid: lid.to_owned(),
        phone_number: number.to_owned(),
        created_at: updated_at,
        updated_at,
        learning_source: "usync".to_owned(),
    }
}

async fn lid_of(rows: &dyn Backend, number: &str) -> Option<String> {
    let entry = rows.get_pn_mapping(number).await.expect("readable");
    entry.map(|entry| entry.lid)
}

/// "Returns the most recent LID for that phone." Sources that are known to be stale are told later than fresh ones, and
/// stamped 0 so that they never outrank them: the hidden id put last was given out, and messages went to a dead one.
#[tokio::test]
async fn a_number_has_the_hidden_id_that_was_updated_last_whatever_was_told_last() {
    let folder = folder();
    let store = open(folder.path());
    let rows = backend(&store, SALON).await;
    let (number, other) = ("79001234567", "79007654321");
    let put = async |lid, number, at| {
        rows.put_lid_mapping(&mapping(lid, number, at))
            .await
            .expect("put");
    };
    put("1001", number, 500).await;
    put("1002", number, 0).await;
    assert_eq!(lid_of(&*rows, number).await.as_deref(), Some("1001"));
    put("1002", number, 500).await;
    assert_eq!(
        lid_of(&*rows, number).await.as_deref(),
        Some("1002"),
        "in the same second the one put last"
    );
    put("1001", number, 501).await;
    assert_eq!(lid_of(&*rows, number).await.as_deref(), Some("1001"));
    // The newest moves on: the number still has the other one.
    put("1001", other, 502).await;
    assert_eq!(lid_of(&*rows, number).await.as_deref(), Some("1002"));
    assert_eq!(lid_of(&*rows, other).await.as_deref(), Some("1001"));
    put("1002", other, 503).await;
    assert_eq!(lid_of(&*rows, number).await, None);
    assert_eq!(lid_of(&*rows, other).await.as_deref(), Some("1002"));
    store.close().await;
}

#[tokio::test]
async fn what_expires_at_the_cutoff_goes_even_at_the_ends_of_time() {
    let folder = folder();
    let store = open(folder.path());
    let rows = backend(&store, SALON).await;
    for (deadline, cutoff, gone) in [
        (i64::MAX, i64::MAX, 1),
        (i64::MIN, i64::MIN, 1),
        (9, 8, 0),
        (9, 9, 1),
        (0, i64::MAX, 0),
    ] {
        let entry = MsgSecretEntry {
            chat: Arc::from("120363000000000001@g.us"),
            sender: Arc::from("79001234567@s.whatsapp.net"),
            msg_id: Arc::from(format!("{deadline}")),
            secret: [7; 32],
            expires_at: deadline,
            message_ts: 0,
        };
        rows.put_msg_secrets(vec![entry]).await.expect("put");
        let removed = rows.delete_expired_msg_secrets(cutoff).await;
        assert_eq!(removed.expect("swept"), gone, "{deadline} at {cutoff}");
    }
    // Neither a token nor a sender bucket: never live.
    let nothing = TcTokenEntry {
        token: Vec::new(),
        token_timestamp: 5,
        sender_timestamp: None,
    };
    rows.put_tc_token("1001@lid", &nothing).await.expect("put");
    let removed = rows.delete_expired_tc_tokens(i64::MIN, i64::MIN).await;
    assert_eq!(removed.expect("swept"), 1);
    store.close().await;
}
