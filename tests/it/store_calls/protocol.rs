//! Owns the calls of `ProtocolStore`.

use whatsapp_rust::traits::{
    DeviceInfo, DeviceListRecord, LidPnMappingEntry, PendingInboundKey, PendingInboundRow,
    TcTokenEntry,
};

use super::{Draw, Trait, methods, sorted};

fn mapping(draw: &mut Draw) -> LidPnMappingEntry {
    // What a source tells that is known to be stale counts as learned at 0.
    let learned = if draw.chance(10) {
        0
    } else {
        draw.number(1, i64::from(i32::MAX))
    };
    LidPnMappingEntry {
        lid: draw.user(),
        phone_number: draw.user(),
        created_at: learned,
        updated_at: learned,
        learning_source: draw.pick(&["usync", "peer_pn_message"]).to_owned(),
    }
}

/// Not when it was first learned: upstream's SQLite store keeps that of an earlier mapping of the same hidden id, its
/// `InMemoryBackend` and ours keep what the entry says, as upstream's own cache does.
fn told(entry: LidPnMappingEntry) -> (String, String, i64, String) {
    (
        entry.lid,
        entry.phone_number,
        entry.updated_at,
        entry.learning_source,
    )
}

fn devices(draw: &mut Draw) -> DeviceListRecord {
    DeviceListRecord {
        user: draw.user(),
        devices: draw.some(4, |draw| {
            let id = u32::try_from(draw.below(100)).expect("small");
            let key_index = draw.maybe(|draw| u32::try_from(draw.below(9)).expect("small"));
            DeviceInfo::new(id, key_index).with_hosting(draw.chance(20))
        }),
        timestamp: draw.number(0, i64::from(i32::MAX)),
        phash: draw.maybe(Draw::message),
        raw_id: draw.maybe(|draw| u32::from_be_bytes(draw.array())),
    }
}

fn token(draw: &mut Draw) -> TcTokenEntry {
    TcTokenEntry {
        token: draw.bytes(),
        token_timestamp: draw.moment(),
        sender_timestamp: draw.maybe(Draw::moment),
    }
}

type Name = (String, String, String);

/// Few enough that a name is met again.
fn name(draw: &mut Draw) -> Name {
    let sender = draw.pick(&["79001234567:1@lid", "79001234568@lid"]);
    (draw.group(), sender.to_owned(), draw.message())
}

fn rows(rows: &[(Name, Vec<u8>)]) -> Vec<PendingInboundRow<'_>> {
    rows.iter()
        .map(|((chat, sender, id), message)| PendingInboundRow {
            chat,
            sender,
            id,
            message,
        })
        .collect()
}

fn keys(names: &[Name]) -> Vec<PendingInboundKey<'_>> {
    names
        .iter()
        .map(|(chat, sender, id)| PendingInboundKey { chat, sender, id })
        .collect()
}

fn status(entries: &[(String, bool)]) -> Vec<(&str, bool)> {
    entries
        .iter()
        .map(|(device, has)| (device.as_str(), *has))
        .collect()
}

fn texts(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

pub fn methods() -> Trait {
    methods! { "ProtocolStore":
        get_sender_key_devices(d; group = d.group()) |b|
            b.get_sender_key_devices(&group).await.map(sorted);
        set_sender_key_status(d; group = d.group(); entries = d.some(6, |d| (d.device_jid(), d.chance(50)))) |b|
            b.set_sender_key_status(&group, &status(&entries)).await;
        clear_sender_key_devices(d; group = d.group()) |b|
            b.clear_sender_key_devices(&group).await;
        delete_sender_key_device_rows(d; devices = d.some(3, Draw::device_jid)) |b|
            b.delete_sender_key_device_rows(&texts(&devices)).await;
        clear_all_sender_key_devices(_d) |b|
            b.clear_all_sender_key_devices().await;
        get_lid_mapping(d; lid = d.user()) |b|
            b.get_lid_mapping(&lid).await.map(|entry| entry.map(told));
        get_pn_mapping(d; number = d.user()) |b|
            b.get_pn_mapping(&number).await.map(|entry| entry.map(|entry| (entry.phone_number, entry.updated_at)));
        put_lid_mapping(d; entry = mapping(d)) |b|
            b.put_lid_mapping(&entry).await;
        put_lid_mappings(d; entries = d.some(4, mapping)) |b|
            b.put_lid_mappings(&entries).await;
        get_all_lid_mappings(_d) |b|
            b.get_all_lid_mappings().await.map(|entries| sorted(entries.into_iter().map(told)));
        save_base_key(d; address = d.address(); id = d.message(); key = d.known()) |b|
            b.save_base_key(&address, &id, &key).await;
        has_same_base_key(d; address = d.address(); id = d.message(); key = d.known()) |b|
            b.has_same_base_key(&address, &id, &key).await;
        delete_base_key(d; address = d.address(); id = d.message()) |b|
            b.delete_base_key(&address, &id).await;
        update_device_list(d; list = devices(d)) |b|
            b.update_device_list(list).await;
        update_device_lists(d; lists = d.some(4, devices)) |b|
            b.update_device_lists(lists).await;
        get_devices(d; user = d.user()) |b|
            b.get_devices(&user).await;
        delete_devices(d; user = d.user()) |b|
            b.delete_devices(&user).await;
        get_group_metadata(d; group = d.group()) |b|
            b.get_group_metadata(&group).await;
        put_group_metadata(d; group = d.group(); blob = d.bytes()) |b|
            b.put_group_metadata(&group, &blob).await;
        delete_group_metadata(d; group = d.group()) |b|
            b.delete_group_metadata(&group).await;
        get_tc_token(d; jid = d.jid()) |b|
            b.get_tc_token(&jid).await;
        put_tc_token(d; jid = d.jid(); entry = token(d)) |b|
            b.put_tc_token(&jid, &entry).await;
        delete_tc_token(d; jid = d.jid()) |b|
            b.delete_tc_token(&jid).await;
        get_all_tc_token_jids(_d) |b|
            b.get_all_tc_token_jids().await.map(sorted);
        delete_expired_tc_tokens(d; token = d.moment(); sender = d.moment()) |b|
            b.delete_expired_tc_tokens(token, sender).await;
        touch_tc_token_sender_timestamp(d; jid = d.jid(); at = d.moment()) |b|
            b.touch_tc_token_sender_timestamp(&jid, at).await;
        store_received_tc_token(d; jid = d.jid(); token = d.bytes(); at = d.moment()) |b|
            b.store_received_tc_token(&jid, &token, at).await;
        store_sent_message(d; chat = d.group(); id = d.message(); payload = d.bytes()) |b|
            b.store_sent_message(&chat, &id, &payload).await;
        take_sent_message(d; chat = d.group(); id = d.message()) |b|
            b.take_sent_message(&chat, &id).await;
        delete_expired_sent_messages(d; cutoff = d.recent()) |b|
            b.delete_expired_sent_messages(cutoff).await;
        store_pending_inbound(d; name = name(d); message = d.bytes()) |b|
            b.store_pending_inbound(&name.0, &name.1, &name.2, &message).await;
        get_pending_inbound(d; name = name(d)) |b|
            b.get_pending_inbound(&name.0, &name.1, &name.2).await;
        delete_pending_inbound(d; name = name(d)) |b|
            b.delete_pending_inbound(&name.0, &name.1, &name.2).await;
        delete_expired_pending_inbound(d; cutoff = d.recent()) |b|
            b.delete_expired_pending_inbound(cutoff).await;
        store_pending_inbound_batch(d; messages = d.some(5, |d| (name(d), d.bytes()))) |b|
            b.store_pending_inbound_batch(&rows(&messages)).await;
        delete_pending_inbound_batch(d; names = d.some(3, name)) |b|
            b.delete_pending_inbound_batch(&keys(&names)).await;
    }
}
