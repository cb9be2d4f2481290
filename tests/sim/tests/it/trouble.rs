//! Owns the bad paths: what is refused, and what the client reports for each ordered trouble.

use std::time::Duration;

use hairpin_sim::{EnterCodeError, Fault, Kick, Sim, SimConfig, Step};
use whatsapp_rust::pair_code::PairCodeRejection;
use whatsapp_rust::types::events::Event;

use crate::companion::Companion;
use crate::links::{linked, logged_out};

const NUMBER: &str = "79000000001";
const OTHER: &str = "79000000002";

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_code_is_noticed_by_the_phone_and_three_tries_are_all() {
    let sim = Sim::start().await;
    let companion = Companion::start(&sim.url()).await;
    let code = companion.ask(NUMBER).await.unwrap();
    let wrong = if code == "11111111" {
        "22222222"
    } else {
        "11111111"
    };
    let phone = sim.phone(NUMBER);
    for _ in 0..3 {
        assert_eq!(
            phone.enter_code(wrong).await,
            Err(EnterCodeError::WrongCode)
        );
    }
    assert_eq!(
        phone.enter_code(&code).await,
        Err(EnterCodeError::TooManyTries)
    );
    assert!(phone.devices().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_code_still_links_after_a_wrong_one() {
    let sim = Sim::start().await;
    let companion = Companion::start(&sim.url()).await;
    let code = companion.ask(NUMBER).await.unwrap();
    let wrong = if code == "11111111" {
        "22222222"
    } else {
        "11111111"
    };
    let phone = sim.phone(NUMBER);
    assert_eq!(
        phone.enter_code(wrong).await,
        Err(EnterCodeError::WrongCode)
    );
    phone.enter_code(&code).await.unwrap();
    companion.connected().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_numbers_code_links_nothing() {
    let sim = Sim::start().await;
    let (one, two) = (
        Companion::start(&sim.url()).await,
        Companion::start(&sim.url()).await,
    );
    let code = one.ask(NUMBER).await.unwrap();
    assert_eq!(
        sim.phone(OTHER).enter_code(&code).await,
        Err(EnterCodeError::NoPendingCode)
    );
    two.ask(OTHER).await.unwrap();
    assert_eq!(
        sim.phone(OTHER).enter_code(&code).await,
        Err(EnterCodeError::WrongCode)
    );
    assert!(sim.phone(OTHER).devices().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_request_for_the_same_number_kills_the_older_code() {
    let sim = Sim::start().await;
    let (one, two) = (
        Companion::start(&sim.url()).await,
        Companion::start(&sim.url()).await,
    );
    let old = one.ask(NUMBER).await.unwrap();
    let new = two.ask(NUMBER).await.unwrap();
    assert_eq!(
        sim.phone(NUMBER).enter_code(&old).await,
        Err(EnterCodeError::WrongCode)
    );
    sim.phone(NUMBER).enter_code(&new).await.unwrap();
    two.connected().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_dies_with_its_connection_and_with_time() {
    let sim = Sim::start().await;
    let companion = Companion::start(&sim.url()).await;
    let code = companion.ask(NUMBER).await.unwrap();
    let _ = companion.stop().await;
    sim.wait_for(|e| e.is(Step::Closed, NUMBER)).await;
    assert_eq!(
        sim.phone(NUMBER).enter_code(&code).await,
        Err(EnterCodeError::ConnectionGone)
    );

    let cfg = SimConfig {
        code_ttl: Duration::ZERO,
        qr_first: Duration::ZERO,
        ..SimConfig::default()
    };
    let sim = Sim::start_with(cfg).await;
    let companion = Companion::start(&sim.url()).await;
    let code = companion.ask(NUMBER).await.unwrap();
    assert_eq!(
        sim.phone(NUMBER).enter_code(&code).await,
        Err(EnterCodeError::Expired)
    );
    let qr = companion.qr().await;
    assert_eq!(
        sim.phone(NUMBER).scan_qr(&qr).await,
        Err(EnterCodeError::Expired)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_of_a_code_is_what_the_client_reports() {
    let sim = Sim::start().await;
    let companion = Companion::start(&sim.url()).await;
    let _ = companion.qr().await;
    for (code, rejection) in [
        (400, PairCodeRejection::BadRequest),
        (403, PairCodeRejection::Forbidden),
        (429, PairCodeRejection::RateOverlimit),
        (452, PairCodeRejection::FeatureNotAvailable),
        (500, PairCodeRejection::InternalServerError),
    ] {
        sim.fault(Fault::refuse_hello(code).backoff(30).only(NUMBER));
        let error = companion.ask_now(NUMBER).await.unwrap_err();
        assert_eq!(error.rejection(), Some(rejection));
        assert_eq!(error.backoff(), Some(Duration::from_secs(30)));
    }
    let code = companion.ask_now(NUMBER).await.unwrap();
    assert_eq!(sim.hellos(NUMBER), 6);
    sim.phone(NUMBER).enter_code(&code).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_whatsapp_does_not_know_is_refused() {
    let sim = Sim::start().await;
    let companion = Companion::start(&sim.url()).await;
    let _ = companion.qr().await;
    let options = whatsapp_rust::pair_code::PairCodeOptions {
        phone_number: NUMBER.to_owned(),
        display_os: Some("Hairpin".to_owned()),
        ..Default::default()
    };
    let error = companion.client.pair_with_code(options).await.unwrap_err();
    assert_eq!(error.rejection(), Some(PairCodeRejection::BadRequest));
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_for_a_new_code_the_client_says_so_and_the_old_one_is_dead() {
    for force_manual in [false, true] {
        let sim = Sim::start().await;
        let companion = Companion::start(&sim.url()).await;
        let code = companion.ask(NUMBER).await.unwrap();
        assert_eq!(sim.kick(NUMBER, &Kick::RefreshCode { force_manual }), 1);
        let manual = companion
            .see("PairingCodeRefresh", |e| match e {
                Event::PairingCodeRefresh(refresh) => Some(refresh.force_manual),
                _ => None,
            })
            .await;
        assert_eq!(manual, force_manual);
        assert_eq!(
            sim.phone(NUMBER).enter_code(&code).await,
            Err(EnterCodeError::NoPendingCode)
        );
        let code = companion.ask_now(NUMBER).await.unwrap();
        sim.phone(NUMBER).enter_code(&code).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passkey_demand_reaches_the_client() {
    let sim = Sim::start().await;
    let companion = Companion::start(&sim.url()).await;
    sim.fault(Fault::kick(Step::HelloAnswered, Kick::Passkey));
    companion.ask(NUMBER).await.unwrap();
    companion
        .see("PairPasskeyRequest", |e| {
            matches!(e, Event::PairPasskeyRequest(_)).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_may_be_cut_at_every_step_of_pairing_and_asking_again_works() {
    for at in [
        Step::Open,
        Step::Noise,
        Step::Register,
        Step::PairDevice,
        Step::Hello,
        Step::HelloAnswered,
        Step::PrimaryHello,
        Step::PrimaryHelloSent,
        Step::Finish,
        Step::FinishAnswered,
        Step::PairSuccess,
    ] {
        let sim = Sim::start().await;
        sim.fault(Fault::cut(at));
        let companion = Companion::start(&sim.url()).await;
        let phone = sim.phone(NUMBER);
        let mut mark = 0;
        // The first attempt fails somewhere; after the client's own reconnection the second succeeds.
        for attempt in 0..2 {
            let registered = sim
                .wait_for_after(mark, |e| e.step == Step::PairDevice)
                .await;
            mark = registered.seq;
            let Ok(code) = companion.ask(NUMBER).await else {
                continue;
            };
            let linked = phone.enter_code(&code).await;
            assert!(attempt == 0 || linked.is_ok(), "cut at {at:?}: {linked:?}");
            if linked.is_ok() {
                break;
            }
        }
        companion.connected().await;
        assert_eq!(phone.devices().len(), 1, "cut at {at:?}");
    }
}

/// The client counts itself as linked as soon as it has answered `pair-success`. If that answer is lost, the phone
/// knows nothing of it: the next login is refused, and the stored credentials are dead.
#[tokio::test(flavor = "multi_thread")]
async fn cut_after_the_acceptance_the_client_holds_credentials_nobody_knows() {
    for at in [Step::PairSuccessSent, Step::Sign] {
        let sim = Sim::start().await;
        sim.fault(Fault::cut(at));
        let companion = Companion::start(&sim.url()).await;
        let code = companion.ask(NUMBER).await.unwrap();
        let phone = sim.phone(NUMBER);
        assert_eq!(
            phone.enter_code(&code).await,
            Err(EnterCodeError::ConnectionGone)
        );
        logged_out(&companion).await;
        assert!(phone.devices().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_between_signature_and_restart_the_link_holds() {
    let sim = Sim::start().await;
    sim.fault(Fault::cut(Step::Linked));
    let companion = Companion::start(&sim.url()).await;
    let code = companion.ask(NUMBER).await.unwrap();
    sim.phone(NUMBER).enter_code(&code).await.unwrap();
    companion.connected().await;
    assert!(!sim.events().iter().any(|e| e.step == Step::RestartSent));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_companion_can_be_held_between_hello_and_acceptance() {
    let sim = Sim::start().await;
    let companion = Companion::start(&sim.url()).await;
    let code = companion.ask(NUMBER).await.unwrap();
    sim.phone(NUMBER)
        .send_primary_hello_only(&code)
        .await
        .unwrap();
    sim.wait_for(|e| e.is(Step::FinishAnswered, NUMBER)).await;
    assert!(sim.phone(NUMBER).devices().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_what_it_says() {
    let cfg = SimConfig {
        companion_patience: Duration::from_millis(500),
        ..SimConfig::default()
    };
    let sim = Sim::start_with(cfg).await;
    let companion = Companion::start(&sim.url()).await;
    let code = companion.ask(NUMBER).await.unwrap();
    for at in [Step::Finish, Step::PairSuccess] {
        sim.fault(Fault::silence(at));
        assert_eq!(
            sim.phone(NUMBER).enter_code(&code).await,
            Err(EnterCodeError::NoAnswer)
        );
    }
    assert!(sim.phone(NUMBER).devices().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_connect_failure_is_what_the_client_reports() {
    let sim = Sim::start().await;
    let mut backend = linked(&sim).await.stop().await;
    for (reason, expected) in [
        (402, "TemporaryBan"),
        (403, "LoggedOut"),
        (405, "ClientOutdated"),
        (406, "LoggedOut"),
        (503, "ConnectFailure"),
        (500, "ConnectFailure"),
        (429, "ConnectFailure"),
        // Last: these credentials are dead afterwards.
        (401, "LoggedOut"),
    ] {
        sim.fault(Fault::failure(reason).expire(600));
        let companion = Companion::start_with(&sim.url(), backend).await;
        companion
            .see(expected, |e| {
                format!("{e:?}").starts_with(expected).then_some(())
            })
            .await;
        backend = companion.stop().await;
    }
    assert!(sim.phone(NUMBER).devices().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kick_is_what_the_client_reports() {
    let sim = Sim::start().await;
    let companion = linked(&sim).await;
    for kick in [
        Kick::Cut,
        Kick::StreamError { code: 515 },
        Kick::StreamError { code: 503 },
    ] {
        let mark = sim.mark();
        assert_eq!(sim.kick(NUMBER, &kick), 1);
        sim.wait_for_after(mark, |e| e.is(Step::Active, NUMBER))
            .await;
    }
    assert_eq!(sim.kick(NUMBER, &Kick::StreamError { code: 516 }), 1);
    logged_out(&companion).await;
    assert!(sim.phone(NUMBER).devices().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_bytes_close_that_connection_with_a_reason_and_no_other() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let sim = Sim::start().await;
    let companion = linked(&sim).await;
    let mut socket = tokio::net::TcpStream::connect(sim.addr()).await.unwrap();
    let upgrade = "GET /ws/chat HTTP/1.1\r\nhost: sim\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(upgrade.as_bytes()).await.unwrap();
    // A masked binary message (mask 0) of eight bytes that are no prologue.
    let frame = [0x82, 0x88, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    socket.write_all(&frame).await.unwrap();
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest).await;
    let closed = sim
        .wait_for(|e| e.step == Step::Closed && e.note.contains("prologue"))
        .await;
    assert!(closed.number.is_none());
    assert!(sim.phone(NUMBER).devices()[0].online);
    drop(companion);
}
