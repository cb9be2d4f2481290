//! Owns the good paths: linking by code and by QR, coming back, being unlinked.

use hairpin_sim::{Sim, Step};

use crate::companion::Companion;

const NUMBER: &str = "79000000001";

#[tokio::test(flavor = "multi_thread")]
async fn an_unmodified_client_links_by_code_restarts_and_is_connected() {
    let sim = Sim::start().await;
    let companion = Companion::start(&sim.url()).await;
    let code = companion.ask(NUMBER).await.unwrap();
    let phone = sim.phone(NUMBER);
    let device = phone.enter_code(&code).await.unwrap();
    companion.connected().await;
    assert_eq!(device, 1);
    assert_eq!(phone.devices().len(), 1);
    assert!(phone.devices()[0].online);
    assert_eq!(sim.hellos(NUMBER), 1);
    assert_eq!(sim.total_connections(), 2);
    let shared = sim.wait_for(|e| e.is(Step::KeyShared, NUMBER)).await;
    sim.wait_for(|e| e.is(Step::Receipt, NUMBER) && e.note.ends_with(&shared.note))
        .await;
}
