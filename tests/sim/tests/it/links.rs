//! Owns the good paths: linking by code and by QR, coming back, writing, being unlinked.

use std::time::Duration;

use hairpin_sim::{Sim, SimConfig, Step};
use whatsapp_rust::types::events::Event;

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
    // The phone's volunteered app-state key was decrypted: the client says so with a receipt.
    let shared = sim.wait_for(|e| e.is(Step::KeyShared, NUMBER)).await;
    sim.wait_for(|e| e.is(Step::Receipt, NUMBER) && e.note.ends_with(&shared.note))
        .await;

    let id = phone.send_text(device, "a canary sings").await.unwrap();
    companion
        .see("the text", |e| match e {
            Event::Messages(batch) => batch
                .iter()
                .any(|m| format!("{:?}", m.message).contains("a canary sings"))
                .then_some(()),
            _ => None,
        })
        .await;
    sim.wait_for(|e| e.is(Step::Receipt, NUMBER) && e.note.ends_with(&id))
        .await;
    let _ = companion.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_code_may_be_typed_with_a_dash_and_in_small_letters() {
    let sim = Sim::start().await;
    let companion = Companion::start(&sim.url()).await;
    let code = companion.ask(NUMBER).await.unwrap();
    let (front, back) = code.split_at(4);
    let typed = format!("{front}-{back}").to_lowercase();
    sim.phone(NUMBER).enter_code(&typed).await.unwrap();
    companion.connected().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmodified_client_links_by_qr() {
    let sim = Sim::start().await;
    let companion = Companion::start(&sim.url()).await;
    let qr = companion.qr().await;
    sim.phone(NUMBER).scan_qr(&qr).await.unwrap();
    companion.connected().await;
    assert!(
        sim.phone(NUMBER).scan_qr(&qr).await.is_err(),
        "a ref is good for one link"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linked_client_comes_back_by_ik_and_after_a_new_server_key_by_fallback() {
    let sim = Sim::start().await;
    let backend = linked(&sim).await.stop().await;

    let mark = sim.mark();
    let again = Companion::start_with(&sim.url(), backend).await;
    again.connected().await;
    let shaken = sim.wait_for_after(mark, |e| e.step == Step::Noise).await;
    assert_eq!(shaken.note, "IK");
    let backend = again.stop().await;

    sim.rotate_server_key();
    let mark = sim.mark();
    let again = Companion::start_with(&sim.url(), backend).await;
    again.connected().await;
    let shaken = sim.wait_for_after(mark, |e| e.step == Step::Noise).await;
    assert_eq!(shaken.note, "XXfallback");
    assert_eq!(sim.phone(NUMBER).devices().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_cuts_everybody_and_forgets_nothing() {
    let sim = Sim::start().await;
    let companion = linked(&sim).await;
    sim.stop().await;
    assert_eq!(sim.open_connections(), 0);
    companion
        .see("Disconnected", |e| {
            matches!(e, Event::Disconnected(_)).then_some(())
        })
        .await;
    let mark = sim.mark();
    sim.resume().await;
    sim.wait_for_after(mark, |e| e.is(Step::LoggedIn, NUMBER))
        .await;
    assert_eq!(sim.phone(NUMBER).devices().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn unlinking_on_the_phone_logs_the_client_out_and_its_credentials_are_dead() {
    let sim = Sim::start().await;
    let companion = linked(&sim).await;
    assert!(sim.phone(NUMBER).remove_device(1).await);
    logged_out(&companion).await;
    let backend = companion.stop().await;

    let again = Companion::start_with(&sim.url(), backend).await;
    logged_out(&again).await;
    sim.wait_for(|e| e.is(Step::LoginRefused, NUMBER)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_companion_that_logs_itself_out_is_no_longer_listed() {
    let sim = Sim::start().await;
    let companion = linked(&sim).await;
    companion.client.logout().await;
    sim.wait_for(|e| e.is(Step::Unlinked, NUMBER)).await;
    assert!(sim.phone(NUMBER).devices().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn whatsapp_may_know_the_typed_number_under_another_one() {
    let sim = Sim::start().await;
    let phone = sim.phone_as("5511900000001", "551100000001");
    let companion = Companion::start(&sim.url()).await;
    let code = companion.ask("5511900000001").await.unwrap();
    phone.enter_code(&code).await.unwrap();
    companion.connected().await;
    let jid = companion
        .see("PairSuccess", |e| match e {
            Event::PairSuccess(success) => Some(success.id.user.to_string()),
            _ => None,
        })
        .await;
    assert_eq!(jid, "551100000001");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_with_the_same_credentials_the_older_is_replaced() {
    let sim = Sim::start().await;
    let first = linked(&sim).await;
    let second = Companion::start_with(&sim.url(), first.backend.clone()).await;
    first
        .see("StreamReplaced", |e| {
            matches!(e, Event::StreamReplaced(_)).then_some(())
        })
        .await;
    second.connected().await;
    assert_eq!(sim.phone(NUMBER).devices().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_answers_the_servers_pings() {
    let cfg = SimConfig {
        ping_every: Duration::from_millis(200),
        ..SimConfig::default()
    };
    let sim = Sim::start_with(cfg).await;
    let companion = linked(&sim).await;
    let first = sim.wait_for(|e| e.is(Step::Pong, NUMBER)).await;
    sim.wait_for_after(first.seq, |e| e.is(Step::Pong, NUMBER))
        .await;
    drop(companion);
}

pub async fn linked(sim: &Sim) -> Companion {
    let companion = Companion::start(&sim.url()).await;
    let code = companion.ask(NUMBER).await.unwrap();
    sim.phone(NUMBER).enter_code(&code).await.unwrap();
    companion.connected().await;
    companion
}

pub async fn logged_out(companion: &Companion) {
    companion
        .see("LoggedOut", |e| {
            matches!(e, Event::LoggedOut(_)).then_some(())
        })
        .await;
}
