//! Owns the proof that the simulator refuses what WhatsApp refuses of a companion that does not keep to the protocol.

use std::sync::Arc;
use std::time::Duration;

use hairpin_sim::{Fault, Sim, Step};
use wacore::store::{Device, InMemoryBackend};
use wacore_binary::builder::NodeBuilder;
use whatsapp_rust::IqError;
use whatsapp_rust::traits::DeviceStore as _;

use crate::companion::Companion;

const NUMBER: &str = "79000000001";

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_whose_pre_key_is_badly_signed_is_refused() {
    let sim = Sim::start().await;
    let backend = Arc::new(InMemoryBackend::new());
    let mut device = Device::new();
    device.signed_pre_key_signature[7] ^= 1;
    backend.save(&device).await.expect("saved");
    let companion = Companion::start_with(&sim.url(), backend).await;
    let closed = sim
        .wait_for(|e| e.step == Step::Closed && e.note.contains("signature is wrong"))
        .await;
    assert!(!sim.events().iter().any(
        |e| e.conn == closed.conn && [Step::PairDevice, Step::HelloAnswered].contains(&e.step)
    ));
    drop(companion);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acceptance_with_a_wrong_ref_is_refused() {
    let sim = Sim::start().await;
    let companion = Companion::start(&sim.url()).await;
    let code = companion.ask(NUMBER).await.expect("a code");
    // The companion's own acceptance is heard and not answered: the phone still waits for one.
    sim.fault(Fault::silence(Step::Finish));
    let phone = sim.phone(NUMBER);
    let typing = tokio::spawn(async move { phone.enter_code(&code).await });
    sim.wait_for(|e| e.is(Step::Finish, NUMBER)).await;
    let reg = NodeBuilder::new("link_code_companion_reg")
        .attr("stage", "companion_finish")
        .attr("jid", format!("{NUMBER}@s.whatsapp.net"))
        .children([
            NodeBuilder::new("link_code_pairing_wrapped_key_bundle")
                .bytes(vec![1; 156])
                .build(),
            NodeBuilder::new("companion_identity_public")
                .bytes(vec![1; 32])
                .build(),
            NodeBuilder::new("link_code_pairing_ref")
                .bytes(b"3@another".to_vec())
                .build(),
        ])
        .build();
    let finish = NodeBuilder::new("iq")
        .attr("to", "s.whatsapp.net")
        .attr("type", "set")
        .attr("xmlns", "md")
        .children([reg])
        .build();
    let answer = companion
        .client
        .send_iq_node(finish, Some(Duration::from_secs(20)))
        .await;
    assert!(
        matches!(answer, Err(IqError::ServerError { code: 400, .. })),
        "{answer:?}"
    );
    sim.wait_for(|e| e.is(Step::FinishRefused, NUMBER) && e.note == "wrong ref")
        .await;
    typing.abort();
    assert!(sim.phone(NUMBER).devices().is_empty());
}
