//! Slow, silent and greedy sockets: they go, and nobody else notices.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::web_support::{App, PATIENCE, read_answer, start, start_with};

/// Returns once the server has ended the connection.
async fn ended(stream: &mut TcpStream) -> Vec<u8> {
    let mut raw = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut raw)).await;
    // A reset is an end as well.
    let _ = read.expect("the server hangs up");
    raw
}

async fn quick(app: &App) -> Duration {
    let start = std::time::Instant::now();
    assert_eq!(app.send("GET", "/healthz", &[], "").await.status, 200);
    start.elapsed()
}

#[tokio::test]
async fn a_head_that_does_not_come_in_time_ends_the_connection() {
    let app = start_with(|settings| settings.limits.head = Duration::from_millis(100)).await;
    let mut silent = app.dial().await;
    let mut half = app.dial().await;
    half.write_all(b"GET / HTTP/1.1\r\nHost: ")
        .await
        .expect("sent");
    let mut dripping = app.dial().await;
    let drip = async {
        while dripping.write_all(b"G").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, drip).await.is_ok());
    ended(&mut silent).await;
    ended(&mut half).await;
    app.stop().await;
}

#[tokio::test]
async fn a_body_that_does_not_come_in_time_is_refused() {
    let app = start_with(|settings| settings.limits.body = Duration::from_millis(100)).await;
    let mut stream = app.dial().await;
    let head = format!(
        "POST /login HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{{",
        app.address
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let answer = read_answer(&mut stream).await;
    assert_eq!(answer.status, 408);
    assert_eq!(answer.json()["reason"], "too_slow");
    app.stop().await;
}

#[tokio::test]
async fn an_endless_head_is_refused() {
    let app = start().await;
    let mut stream = app.dial().await;
    let mut head = format!("GET / HTTP/1.1\r\nHost: {}\r\n", app.address);
    write!(head, "X: {}\r\n", "x".repeat(64 * 1024)).expect("memory");
    // It may be refused before all of it is sent.
    let _ = stream.write_all(head.as_bytes()).await;
    let raw = ended(&mut stream).await;
    assert!(raw.starts_with(b"HTTP/1.1 431") || raw.starts_with(b"HTTP/1.1 400") || raw.is_empty());
    app.stop().await;
}

#[tokio::test]
async fn hostile_sockets_make_room_for_each_other_and_the_page_stays_quick() {
    let app = start_with(|settings| {
        settings.limits.young = Duration::ZERO;
        settings.limits.idle_per_address_at_once = 20;
        settings.limits.idle = 24;
    })
    .await;
    let mut hostile = Vec::new();
    for i in 0..200 {
        let mut stream = app.dial().await;
        if i % 2 == 0 {
            stream.write_all(b"GET / HT").await.expect("sent");
        }
        hostile.push(stream);
        if i % 20 == 0 {
            assert!(quick(&app).await < Duration::from_secs(1));
        }
    }
    // All but the last few were hung up on long before their time for a head was over.
    for stream in hostile.iter_mut().take(150) {
        ended(stream).await;
    }
    assert!(quick(&app).await < Duration::from_secs(1));
    app.stop().await;
}

#[tokio::test]
async fn whoever_takes_nothing_of_the_answers_is_dropped() {
    let app = start_with(|settings| settings.limits.stall = Duration::from_millis(100)).await;
    let mut greedy = app.dial().await;
    let ask = format!("GET /js/main.js HTTP/1.1\r\nHost: {}\r\n\r\n", app.address);
    // It asks on and on; once every buffer between the two is full, both only wait, and the appliance is the one to end it.
    let asking = async { while greedy.write_all(ask.as_bytes()).await.is_ok() {} };
    let dropped = tokio::time::timeout(PATIENCE, asking).await;
    dropped.expect("the server hangs up");
    assert_eq!(app.send("GET", "/healthz", &[], "").await.status, 200);
    app.stop().await;
}

#[tokio::test]
async fn a_burst_of_honest_clients_from_one_address_is_served_whole() {
    let app = start().await;
    let asked = (0..120).map(|_| app.send("GET", "/healthz", &[], ""));
    for answer in futures_util::future::join_all(asked).await {
        assert_eq!(answer.status, 200);
    }
    app.stop().await;
}

#[tokio::test]
async fn a_connection_is_used_again_for_the_next_request() {
    let app = start().await;
    let mut stream = app.dial().await;
    let again = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", app.address);
    let last = again.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    stream
        .write_all((again + &last).as_bytes())
        .await
        .expect("sent");
    let raw = String::from_utf8(ended(&mut stream).await).expect("text");
    assert_eq!(raw.matches("HTTP/1.1 200 OK").count(), 2, "{raw}");
    app.stop().await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_silent_sockets() {
    let app = start().await;
    let mut silent = app.dial().await;
    let mut half = app.dial().await;
    half.write_all(b"GET / HTTP/1.1\r\n").await.expect("sent");
    assert_eq!(app.send("GET", "/", &[], "").await.status, 200);
    app.stop().await;
    ended(&mut silent).await;
    ended(&mut half).await;
}

#[tokio::test]
async fn after_the_stop_nobody_is_let_in() {
    let app = start().await;
    let address = app.address;
    app.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
}
