//! Owns what a phone says to its companions, and what the server says about an account's keys and devices.

use std::sync::Arc;

use wacore_binary::Node;
use wacore_binary::builder::NodeBuilder;
use waproto::buffa::{Message as _, MessageField};
use waproto::codec;
use waproto::whatsapp::message::{
    AppStateSyncKey, AppStateSyncKeyData, AppStateSyncKeyFingerprint, AppStateSyncKeyId,
    AppStateSyncKeyShare, DeviceSentMessage, HistorySyncNotification, HistorySyncType,
    ProtocolMessage, protocol_message,
};
use waproto::whatsapp::{self as wa, Message, MessageContextInfo};

use crate::conn::signed_node;
use crate::node::{leaf, now, three_bytes};
use crate::server::Inner;
use crate::signal::{Bundle, raw};
use crate::world::{Account, World};

/// The phone's app-state key, encrypted for one companion: the stanza and its id.
pub(crate) async fn key_share(
    inner: &Arc<Inner>,
    number: &str,
    device: u16,
) -> Result<(String, Node), String> {
    let (key_id, key_data) = inner.world().account(number).app_state_key;
    let key = AppStateSyncKey {
        key_id: MessageField::some(AppStateSyncKeyId {
            key_id: Some(key_id.to_vec()),
        }),
        key_data: MessageField::some(AppStateSyncKeyData {
            key_data: Some(key_data.to_vec()),
            fingerprint: MessageField::some(AppStateSyncKeyFingerprint {
                raw_id: Some(1),
                current_index: Some(1),
                device_indexes: vec![0, 1],
            }),
            timestamp: i64::try_from(now()).ok(),
        }),
    };
    let message = Message {
        protocol_message: MessageField::some(ProtocolMessage {
            r#type: Some(protocol_message::Type::APP_STATE_SYNC_KEY_SHARE),
            app_state_sync_key_share: MessageField::some(AppStateSyncKeyShare { keys: vec![key] }),
            ..Default::default()
        }),
        ..Default::default()
    };
    seal(inner, number, device, &message, true).await
}

/// A text the phone wrote to itself, encrypted for one companion: the stanza and its id.
pub(crate) async fn text(
    inner: &Arc<Inner>,
    number: &str,
    device: u16,
    text: &str,
) -> Result<(String, Node), String> {
    // Every message of a real phone carries a secret, which later edits and reactions refer to.
    let secret = || {
        MessageField::some(MessageContextInfo {
            message_secret: Some(rand::random::<[u8; 32]>().to_vec()),
            ..Default::default()
        })
    };
    let message = Message {
        device_sent_message: MessageField::some(DeviceSentMessage {
            destination_jid: Some(format!("{number}@s.whatsapp.net")),
            message: MessageField::some(Message {
                conversation: Some(text.to_owned()),
                message_context_info: secret(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        message_context_info: secret(),
        ..Default::default()
    };
    seal(inner, number, device, &message, false).await
}

/// A piece of the phone's history, as it offers it to a new companion: inline, and as a file to be fetched.
pub(crate) async fn history(
    inner: &Arc<Inner>,
    number: &str,
    device: u16,
    inline: Vec<u8>,
) -> Result<(String, Node), String> {
    let message = Message {
        protocol_message: MessageField::some(ProtocolMessage {
            r#type: Some(protocol_message::Type::HISTORY_SYNC_NOTIFICATION),
            history_sync_notification: MessageField::some(HistorySyncNotification {
                sync_type: Some(HistorySyncType::RECENT),
                file_length: Some(1 << 20),
                file_sha256: Some(rand::random::<[u8; 32]>().to_vec()),
                file_enc_sha256: Some(rand::random::<[u8; 32]>().to_vec()),
                media_key: Some(rand::random::<[u8; 32]>().to_vec()),
                direct_path: Some("/v/sim-history".to_owned()),
                chunk_order: Some(1),
                progress: Some(50),
                initial_hist_bootstrap_inline_payload: Some(inline),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    seal(inner, number, device, &message, true).await
}

async fn seal(
    inner: &Arc<Inner>,
    number: &str,
    device: u16,
    message: &Message,
    peer_message: bool,
) -> Result<(String, Node), String> {
    const GONE: &str = "no such companion";
    let peer = inner
        .world()
        .device(number, device)
        .ok_or(GONE)?
        .peer
        .clone();
    let started = peer.is_started().await;
    let (own, registration, bundle) = {
        let mut world = inner.world();
        let account = world.account(number);
        let (own, registration) = (account.keys.identity.clone(), account.keys.registration);
        let device = account.devices.get_mut(&device).ok_or(GONE)?;
        let bundle = (!started).then(|| Bundle {
            registration: device.registration,
            identity: device.identity,
            signed: device.signed.clone(),
            pre_key: device.pre_keys.pop_front(),
        });
        (own, registration, bundle)
    };
    let (kind, sealed) = peer
        .encrypt(&own, registration, bundle, message)
        .await
        .map_err(|e| e.to_string())?;
    let id = format!("3EB0{:016X}", rand::random::<u64>());
    let enc = NodeBuilder::new("enc")
        .attr("v", "2")
        .attr("type", kind)
        .bytes(sealed)
        .build();
    let own_jid = format!("{number}@s.whatsapp.net");
    let mut stanza = NodeBuilder::new("message")
        .attr("from", own_jid.as_str())
        .attr("id", id.as_str())
        .attr("t", now().to_string())
        .attr("type", "text")
        .attr("notify", "Simulated salon");
    stanza = if peer_message {
        stanza.attr("category", "peer")
    } else {
        stanza.attr("recipient", own_jid.as_str())
    };
    Ok((id, stanza.children([enc]).build()))
}

/// The keys somebody needs to write to `jid`, if this simulator knows it.
pub(crate) fn key_bundle(world: &mut World, jid: &str) -> Option<Node> {
    let (number, id) = whose(world, jid)?;
    let account = world.known_account(&number)?;
    let mut children = Vec::new();
    if id == 0 {
        let keys = &account.keys;
        children.extend([
            leaf("registration", keys.registration.to_be_bytes()),
            leaf("type", [5]),
            leaf("identity", raw(&keys.identity.public_key)),
            signed_node(&keys.signed),
        ]);
    } else {
        let device = account.devices.get_mut(&id)?;
        children.extend([
            leaf("registration", device.registration.to_be_bytes()),
            leaf("type", [5]),
            leaf("identity", device.identity),
            signed_node(&device.signed),
            leaf("device-identity", device.signed_identity.clone()),
        ]);
        if let Some((id, public)) = device.pre_keys.pop_front() {
            children.push(
                NodeBuilder::new("key")
                    .children([leaf("id", three_bytes(id)), leaf("value", public)])
                    .build(),
            );
        }
    }
    Some(
        NodeBuilder::new("user")
            .attr("jid", jid)
            .children(children)
            .build(),
    )
}

/// The devices of `jid`, if this simulator knows it.
pub(crate) fn device_list(world: &World, jid: &str) -> Option<Node> {
    let (number, _) = whose(world, jid)?;
    let (_, account) = world.accounts().find(|(known, _)| **known == number)?;
    let phone = NodeBuilder::new("device").attr("id", "0").build();
    let companions = account.devices.iter().map(|(id, device)| {
        NodeBuilder::new("device")
            .attr("id", id.to_string())
            .attr("key-index", device.key_index.to_string())
            .build()
    });
    let list = NodeBuilder::new("device-list")
        .children(std::iter::once(phone).chain(companions))
        .build();
    let indexes = NodeBuilder::new("key-index-list")
        .attr("ts", now().to_string())
        .bytes(key_index_list(account))
        .build();
    Some(
        NodeBuilder::new("user")
            .attr("jid", jid)
            .children([NodeBuilder::new("devices")
                .children([list, indexes])
                .build()])
            .build(),
    )
}

fn key_index_list(account: &Account) -> Vec<u8> {
    let details = codec::adv_key_index_list_to_vec(&wa::ADVKeyIndexList {
        raw_id: Some(1),
        timestamp: Some(now()),
        current_index: Some(account.next_key_index - 1),
        valid_indexes: account.devices.values().map(|d| d.key_index).collect(),
        ..Default::default()
    });
    let signature = account
        .identity()
        .calculate_signature(&[&[6, 2], &details[..]].concat(), &mut rand::rng())
        .map(|s| s.to_vec())
        .ok();
    wa::ADVSignedKeyIndexList {
        details: Some(details),
        account_signature: signature,
        ..Default::default()
    }
    .encode_to_vec()
}

/// The number and device id behind a jid of either kind.
fn whose(world: &World, jid: &str) -> Option<(String, u16)> {
    let (user, server) = jid.split_once('@')?;
    let (user, device) = user.split_once(':').unwrap_or((user, "0"));
    let device = device.parse().ok()?;
    match server {
        "s.whatsapp.net" => Some((world.reported(user), device)),
        "lid" => world
            .accounts()
            .find(|(_, account)| account.lid == user)
            .map(|(number, _)| (number.clone(), device)),
        _ => None,
    }
}
