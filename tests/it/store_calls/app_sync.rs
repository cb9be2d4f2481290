//! Owns the calls of `AppSyncStore`.

use std::collections::BTreeMap;

use whatsapp_rust::traits::AppStateSyncKey;
use whatsapp_rust::wacore::appstate::hash::HashState;
use whatsapp_rust::wacore::appstate::processor::AppStateMutationMAC;

use super::{Draw, Trait, methods};

fn collection(draw: &mut Draw) -> String {
    draw.pick(&["critical_block", "critical_unblock_low", "regular"])
        .to_owned()
}

fn key_id(draw: &mut Draw) -> Vec<u8> {
    vec![0, 0, 0, 1, draw.known()[0]]
}

/// Master keys have 32 bytes: upstream's SQLite store calls any other length damage.
fn key(draw: &mut Draw) -> AppStateSyncKey {
    AppStateSyncKey {
        key_data: draw.array::<32>().to_vec(),
        fingerprint: draw.bytes(),
        timestamp: draw.moment(),
    }
}

fn state(draw: &mut Draw) -> HashState {
    HashState {
        version: u64::try_from(draw.number(0, i64::MAX)).expect("not negative"),
        hash: draw.array::<128>(),
        index_value_map: draw
            .some(4, |draw| (draw.message(), draw.bytes()))
            .into_iter()
            .collect(),
        mac_mismatch_fatal: draw.chance(50),
    }
}

fn in_order(state: HashState) -> impl std::fmt::Debug {
    let map: BTreeMap<_, _> = state.index_value_map.into_iter().collect();
    (state.version, state.hash, map, state.mac_mismatch_fatal)
}

fn mac(draw: &mut Draw) -> AppStateMutationMAC {
    AppStateMutationMAC {
        index_mac: draw.known().to_vec(),
        value_mac: draw.bytes(),
    }
}

pub fn methods() -> Trait {
    methods! { "AppSyncStore":
        get_sync_key(d; id = key_id(d)) |b|
            b.get_sync_key(&id).await;
        set_sync_key(d; id = key_id(d); key = key(d)) |b|
            b.set_sync_key(&id, key).await;
        get_version(d; name = collection(d)) |b|
            b.get_version(&name).await.map(in_order);
        set_version(d; name = collection(d); state = state(d)) |b|
            b.set_version(&name, state).await;
        put_mutation_macs(d; name = collection(d); version = d.number(1, 9); macs = d.some(6, mac)) |b|
            b.put_mutation_macs(&name, version.unsigned_abs(), &macs).await;
        get_mutation_mac(d; name = collection(d); index = d.known()) |b|
            b.get_mutation_mac(&name, &index).await;
        get_mutation_macs(d; name = collection(d); indices = d.some(8, Draw::known)) |b|
            b.get_mutation_macs(&name, &indices).await.map(|macs| macs.into_iter().collect::<BTreeMap<_, _>>());
        delete_mutation_macs(d; name = collection(d); indices = d.some(4, |d| d.known().to_vec())) |b|
            b.delete_mutation_macs(&name, &indices).await;
        clear_mutation_macs(d; name = collection(d)) |b|
            b.clear_mutation_macs(&name).await;
        get_latest_sync_key_id(_d) |b|
            b.get_latest_sync_key_id().await;
    }
}
