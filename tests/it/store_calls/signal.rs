//! Owns the calls of `SignalStore`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::{Draw, Trait, methods, sorted};

/// As WhatsApp numbers them: 24 bits.
fn id(draw: &mut Draw) -> u32 {
    let most = if draw.chance(90) { 30 } else { (1 << 24) - 1 };
    u32::try_from(draw.number(1, most)).expect("24 bits")
}

pub fn methods() -> Trait {
    methods! { "SignalStore":
        put_identity(d; address = d.address(); key = d.array::<32>()) |b|
            b.put_identity(&address, key).await;
        put_identities_batch(d; rows = d.some(5, |d| (Arc::<str>::from(d.address()), d.array::<32>()))) |b|
            b.put_identities_batch(&rows).await;
        load_identity(d; address = d.address()) |b|
            b.load_identity(&address).await;
        delete_identity(d; address = d.address()) |b|
            b.delete_identity(&address).await;
        get_session(d; address = d.address()) |b|
            b.get_session(&address).await;
        put_session(d; address = d.address(); session = d.bytes()) |b|
            b.put_session(&address, &session).await;
        put_sessions_batch(d; rows = d.some(5, |d| (Arc::<str>::from(d.address()), Bytes::from(d.bytes())))) |b|
            b.put_sessions_batch(&rows).await;
        delete_session(d; address = d.address()) |b|
            b.delete_session(&address).await;
        has_session(d; address = d.address()) |b|
            b.has_session(&address).await;
        has_signal_state_for_user(d; user = d.user()) |b|
            b.has_signal_state_for_user(&user).await;
        store_prekey(d; id = id(d); record = d.bytes(); uploaded = d.chance(50)) |b|
            b.store_prekey(id, &record, uploaded).await;
        store_prekeys_batch(d; rows = d.some(8, |d| (id(d), Bytes::from(d.bytes()))); uploaded = d.chance(50)) |b|
            b.store_prekeys_batch(&rows, uploaded).await;
        load_prekey(d; id = id(d)) |b|
            b.load_prekey(id).await;
        // "Returns only the keys that exist": one asked for twice may come once or twice.
        load_prekeys_batch(d; ids = d.some(8, id)) |b|
            b.load_prekeys_batch(&ids).await.map(|rows| rows.into_iter().collect::<BTreeMap<_, _>>());
        mark_prekeys_uploaded(d; ids = d.some(8, id)) |b|
            b.mark_prekeys_uploaded(&ids).await;
        remove_prekey(d; id = id(d)) |b|
            b.remove_prekey(id).await;
        get_max_prekey_id(_d) |b|
            b.get_max_prekey_id().await;
        store_signed_prekey(d; id = id(d); record = d.bytes()) |b|
            b.store_signed_prekey(id, &record).await;
        load_signed_prekey(d; id = id(d)) |b|
            b.load_signed_prekey(id).await;
        load_all_signed_prekeys(_d) |b|
            b.load_all_signed_prekeys().await.map(sorted);
        remove_signed_prekey(d; id = id(d)) |b|
            b.remove_signed_prekey(id).await;
        put_sender_key(d; address = d.address(); record = d.bytes()) |b|
            b.put_sender_key(&address, &record).await;
        put_sender_keys_batch(d; rows = d.some(5, |d| (Arc::<str>::from(d.address()), Bytes::from(d.bytes())))) |b|
            b.put_sender_keys_batch(&rows).await;
        get_sender_key(d; address = d.address()) |b|
            b.get_sender_key(&address).await;
        delete_sender_key(d; address = d.address()) |b|
            b.delete_sender_key(&address).await;
    }
}
