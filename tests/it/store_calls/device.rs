//! Owns the calls of `DeviceStore`.

use std::sync::{Arc, LazyLock};

use whatsapp_rust::Jid;
use whatsapp_rust::wacore::store::Device;
use whatsapp_rust::wacore::store::device::{CachedNoiseCert, CachedServerCertChain};
use whatsapp_rust::waproto::whatsapp::ADVSignedDeviceIdentity;

use super::{Draw, Trait, methods};

/// Key pairs are made once: they take their time.
static MADE: LazyLock<[Device; 4]> = LazyLock::new(|| std::array::from_fn(|_| Device::new()));

/// Debug shows nothing: a device is full of secrets, and upstream gives it no Debug.
#[derive(Clone)]
pub struct Drawn(Device);

impl std::fmt::Debug for Drawn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.push_name)
    }
}

fn positive(draw: &mut Draw) -> u32 {
    u32::try_from(draw.number(0, i64::from(i32::MAX))).expect("31 bits")
}

fn cert(draw: &mut Draw) -> CachedNoiseCert {
    CachedNoiseCert {
        key: draw.array(),
        not_before: draw.moment(),
        not_after: draw.moment(),
    }
}

fn device(draw: &mut Draw) -> Drawn {
    let mut device = MADE[draw.below(MADE.len())].clone();
    device.push_name = draw.pick(&["", "Salon", "Салон «Шпилька»"]).to_owned();
    device.pn = draw.maybe(|d| Jid::pn_device(d.user(), 7));
    device.lid = draw.maybe(|d| Jid::lid_device(d.user(), 7));
    device.registration_id = positive(draw);
    device.signed_pre_key_id = positive(draw);
    device.adv_secret_key = draw.array();
    device.account = draw.maybe(|d| {
        Arc::new(ADVSignedDeviceIdentity {
            details: Some(d.bytes()),
            account_signature: Some(d.bytes()),
            ..Default::default()
        })
    });
    device.app_version_primary = 2;
    device.app_version_secondary = 3000;
    device.app_version_tertiary = positive(draw);
    device.app_version_last_fetched_ms = draw.moment();
    device.edge_routing_info = draw.maybe(Draw::bytes);
    device.props_hash = draw.maybe(Draw::message);
    device.next_pre_key_id = positive(draw);
    device.first_unupload_pre_key_id = positive(draw);
    device.server_has_prekeys = draw.chance(50);
    device.nct_salt = draw.maybe(Draw::bytes);
    device.server_cert_chain = draw.maybe(|d| CachedServerCertChain {
        intermediate: cert(d),
        leaf: cert(d),
    });
    device.login_counter = i32::try_from(draw.number(0, 99)).expect("small");
    device.lid_migrated = draw.chance(50);
    device.last_signed_pre_key_rotation_ms = draw.moment();
    device.read_receipts_disabled = draw.chance(50);
    Drawn(device)
}

/// What is kept of a device; what exists at run time only is not.
fn kept(device: Option<Device>) -> Option<String> {
    device.map(|device| serde_json::to_string(&device).expect("JSON"))
}

pub fn methods() -> Trait {
    methods! { "DeviceStore":
        save(d; device = device(d)) |b|
            b.save(&device.0).await;
        load(_d) |b|
            b.load().await.map(kept);
        exists(_d) |b|
            b.exists().await;
        // Which id it is given says nothing: there is one device per epoch.
        create(_d) |b|
            b.create().await.map(|_| ());
        snapshot_db(d; name = d.message(); extra = d.bytes()) |b|
            b.snapshot_db(&name, Some(&extra)).await;
        resource_report(_d) |b|
            Ok(b.resource_report().await);
    }
}
