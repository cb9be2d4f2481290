//! Owns the proof of the control routes: the person and the trouble without a line of Rust.

use hairpin_sim::{Sim, SimConfig, Step};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::companion::Companion;

const NUMBER: &str = "79000000001";

#[tokio::test(flavor = "multi_thread")]
async fn a_person_played_over_http_links_a_companion() {
    let sim = Sim::start().await;
    let companion = Companion::start(&sim.url()).await;
    let fault = format!(r#"{{"at":"hello","action":"refuse","code":403,"phone":"{NUMBER}"}}"#);
    assert!(
        post(&sim, "fault", &fault, "")
            .await
            .contains(r#"{"ok":true}"#)
    );
    assert!(companion.ask(NUMBER).await.is_err());
    let code = companion.ask(NUMBER).await.unwrap();

    let enter = |code: &str| format!(r#"{{"phone":"+7 900 000-00-01","code":"{code}"}}"#);
    let wrong = post(&sim, "enter-code", &enter("nonsense"), "").await;
    assert!(
        wrong.contains(r#"{"error":"that is not the code","ok":false}"#),
        "{wrong}"
    );
    let linked = post(&sim, "enter-code", &enter(&code), "").await;
    assert!(linked.contains(r#"{"device":1,"ok":true}"#), "{linked}");
    companion.connected().await;

    let phones = call(&sim, "GET /ctl/phones", "", "").await;
    assert!(phones.contains(r#""online":true"#), "{phones}");
    let kick = format!(r#"{{"phone":"{NUMBER}","kind":"device_removed"}}"#);
    assert!(
        post(&sim, "kick", &kick, "")
            .await
            .contains(r#""kicked":1"#)
    );
    sim.wait_for(|e| e.is(Step::Unlinked, NUMBER)).await;
    assert!(sim.phone(NUMBER).devices().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_answered_and_a_browsers_page_is_not_served() {
    let sim = Sim::start().await;
    assert!(
        post(&sim, "enter-code", "{", "")
            .await
            .contains(r#""ok":false"#)
    );
    assert!(
        post(&sim, "enter-code", r#"{"phone":"1","code":"x"}"#, "")
            .await
            .contains("not a phone number")
    );
    assert!(post(&sim, "nothing", "{}", "").await.contains("404"));
    assert!(call(&sim, "GET /ws/chat", "", "").await.contains("426"));
    assert!(
        post(&sim, "clear-faults", "", "origin: http://evil.example\r\n")
            .await
            .contains("403")
    );
}

#[tokio::test]
async fn it_listens_on_loopback_only() {
    let everywhere = "0.0.0.0:0".parse().unwrap();
    assert!(
        Sim::start_on(everywhere, SimConfig::default())
            .await
            .is_err()
    );
}

async fn post(sim: &Sim, what: &str, body: &str, header: &str) -> String {
    call(sim, &format!("POST /ctl/{what}"), body, header).await
}

async fn call(sim: &Sim, line: &str, body: &str, header: &str) -> String {
    let mut socket = tokio::net::TcpStream::connect(sim.addr()).await.unwrap();
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.1\r\nhost: sim\r\nconnection: close\r\n{header}content-length: {length}\r\n\r\n{body}"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}
