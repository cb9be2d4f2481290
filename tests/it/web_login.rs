//! Logging in and out, the lockout, and the end of whatever a key or a login had opened.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;

use crate::web_support::{
    Answer, App, PATIENCE, Plan, a_code, eventually, read_answer, start, start_with,
};

async fn try_key(app: &App, key: &str, extra: &[(&str, String)]) -> Answer {
    let json = ("Content-Type", "application/json".to_owned());
    let headers = [&[json], extra].concat();
    let body = json!({ "accessKey": key }).to_string();
    app.send("POST", "/login", &headers, &body).await
}

async fn sessions(app: &App, header: (&str, String)) -> u16 {
    app.send("GET", "/api/v1/sessions", &[header], "")
        .await
        .status
}

#[tokio::test]
async fn the_key_becomes_a_cookie_that_opens_the_api() {
    let app = start().await;
    let answer = try_key(&app, &app.key, &[]).await;
    assert_eq!(answer.status, 204);
    assert!(answer.body.is_empty());
    let cookie = answer.header("set-cookie");
    for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(
        !cookie.contains("Secure"),
        "plain HTTP would not send it back"
    );
    assert!(!cookie.contains(&app.key[3..8]));
    let pair = cookie.split(';').next().expect("a pair").to_owned();
    assert_eq!(sessions(&app, ("Cookie", pair.clone())).await, 200);
    assert_eq!(
        sessions(&app, ("Cookie", format!("other=1; {pair}"))).await,
        200
    );
    assert_eq!(sessions(&app, ("Cookie", format!("{pair}x"))).await, 401);
    app.stop().await;
}

#[tokio::test]
async fn under_tls_the_cookie_is_bound_to_it() {
    let app = start_with(|settings| settings.trusted_proxies = vec![[127, 0, 0, 1].into()]).await;
    let tls = ("X-Forwarded-Proto", "https".to_owned());
    let answer = try_key(&app, &app.key, std::slice::from_ref(&tls)).await;
    let cookie = answer.header("set-cookie");
    assert!(
        cookie.starts_with("__Host-hairpin=") && cookie.contains("; Secure"),
        "{cookie}"
    );
    let pair = (
        "Cookie",
        cookie.split(';').next().expect("a pair").to_owned(),
    );
    let answer = app
        .send("GET", "/api/v1/sessions", &[pair.clone(), tls], "")
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(sessions(&app, pair).await, 401, "not without TLS");
    app.stop().await;
}

#[tokio::test]
async fn wrong_keys_lock_the_address_out_and_say_for_how_long() {
    let app = start().await;
    for _ in 0..5 {
        let answer = try_key(&app, "hp-wrong", &[]).await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.json()["code"], "UNAUTHORIZED");
        assert_eq!(answer.header("set-cookie"), "");
    }
    let answer = try_key(&app, &app.key, &[]).await;
    assert_eq!(answer.status, 429, "even with the right key");
    let problem = answer.json();
    assert_eq!(problem["code"], "RATE_LIMITED");
    let wait = problem["retryAfter"].as_u64().expect("seconds");
    assert!((1..=30).contains(&wait));
    assert_eq!(answer.header("retry-after"), wait.to_string());
    assert_eq!(app.counts.login_failures(), 5);
    assert_eq!(sessions(&app, app.bearer()).await, 200, "scripts go on");
    app.stop().await;
}

#[tokio::test]
async fn a_lockout_does_not_reach_other_addresses_nor_those_who_are_in() {
    let app = start_with(|settings| settings.trusted_proxies = vec![[127, 0, 0, 1].into()]).await;
    let inside = ("Cookie", app.login().await);
    let from = |address: &str| ("X-Forwarded-For", address.to_owned());
    for _ in 0..6 {
        try_key(&app, "hp-wrong", &[from("203.0.113.5")]).await;
    }
    assert_eq!(
        try_key(&app, &app.key, &[from("203.0.113.5")]).await.status,
        429
    );
    assert_eq!(
        try_key(&app, &app.key, &[from("203.0.113.6")]).await.status,
        204
    );
    let headers = [inside, from("203.0.113.5")];
    assert_eq!(
        app.send("GET", "/api/v1/sessions", &headers, "")
            .await
            .status,
        200
    );
    app.stop().await;
}

#[tokio::test]
async fn whoever_is_not_a_trusted_proxy_cannot_choose_an_address() {
    let app = start().await;
    for i in 0..5 {
        let from = ("X-Forwarded-For", format!("203.0.113.{i}"));
        try_key(&app, "hp-wrong", &[from]).await;
    }
    assert_eq!(try_key(&app, &app.key, &[]).await.status, 429);
    app.stop().await;
}

#[tokio::test]
async fn guessing_by_bearer_is_limited_as_well() {
    let app = start().await;
    let wrong = || ("Authorization", "Bearer hp-wrong".to_owned());
    for _ in 0..5 {
        assert_eq!(sessions(&app, wrong()).await, 401);
    }
    assert_eq!(sessions(&app, wrong()).await, 429);
    assert_eq!(sessions(&app, app.bearer()).await, 429);
    assert_eq!(
        try_key(&app, &app.key, &[]).await.status,
        204,
        "the page is another door"
    );
    app.stop().await;
}

#[tokio::test]
async fn logging_out_closes_the_logins_sockets_and_no_others() {
    let app = start().await;
    let cookie = ("Cookie", app.login().await);
    let origin = ("Origin", app.origin());
    let mut mine = app
        .try_socket("", &[cookie.clone(), origin.clone()])
        .await
        .expect("in");
    let other = ("Cookie", app.login().await);
    let mut others = app.try_socket("", &[other, origin]).await.expect("in");
    mine.next().await;
    others.next().await;

    let answer = app
        .send("POST", "/logout", std::slice::from_ref(&cookie), "")
        .await;
    assert_eq!(answer.status, 204);
    let out = Instant::now();
    assert!(answer.header("set-cookie").contains("Max-Age=0"));
    assert_eq!(mine.closed().await, 4401);
    assert!(out.elapsed() < Duration::from_secs(1), "at once");
    assert_eq!(sessions(&app, cookie).await, 401);

    others.send(json!({"event": "nonsense"})).await;
    assert_eq!(others.next().await["data"]["code"], "BAD_MESSAGE");
    app.stop().await;
}

#[tokio::test]
async fn rotation_closes_every_socket_at_once() {
    let app = start().await;
    let cookie = ("Cookie", app.login().await);
    let mut by_cookie = app
        .try_socket("", &[cookie.clone(), ("Origin", app.origin())])
        .await
        .expect("in");
    let mut by_key = app.socket("").await;
    by_cookie.next().await;
    by_key.next().await;

    let new = app.access.rotate().expect("rotated");
    let rotated = Instant::now();

    assert_eq!(by_cookie.closed().await, 4401);
    assert_eq!(by_key.closed().await, 4401);
    assert!(rotated.elapsed() < Duration::from_secs(1), "at once");
    assert_eq!(sessions(&app, cookie).await, 401);
    assert_eq!(sessions(&app, app.bearer()).await, 401);
    let new = ("Authorization", format!("Bearer {}", new.reveal()));
    assert_eq!(sessions(&app, new).await, 200);
    app.stop().await;
}

const CODE: &str = "/api/v1/sessions/salon/pairing-code";
const NUMBER: &str = r#"{"phoneNumber":"+79001234567"}"#;

#[tokio::test]
async fn a_request_whose_body_was_held_back_until_after_a_rotation_does_nothing() {
    let app = start().await;
    app.script.plan(Plan::Code(a_code("ABCD2345")));
    let mut stream = app.dial().await;
    let (name, key) = app.bearer();
    let head = format!(
        "POST {CODE} HTTP/1.1\r\nHost: {}\r\n{name}: {key}\r\nContent-Type: application/json\r\n\
         Expect: 100-continue\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        app.address,
        NUMBER.len()
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    // Behind the door: the body is waited for.
    let mut go_on = [0; 25];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut go_on)).await;
    read.expect("answered in time").expect("no reset");
    assert!(go_on.starts_with(b"HTTP/1.1 100 "), "{go_on:?}");
    app.access.rotate().expect("rotated");
    stream.write_all(NUMBER.as_bytes()).await.expect("sent");
    let answer = read_answer(&mut stream).await;
    assert_eq!(answer.status, 401);
    assert!(app.script.calls().is_empty(), "{:?}", app.script.calls());
    app.stop().await;
}

#[tokio::test]
async fn a_code_that_comes_after_the_rotation_is_not_shown_to_whoever_had_the_old_key() {
    let app = start().await;
    let (code, later) = oneshot::channel();
    app.script.plan(Plan::Later(later));
    let json = ("Content-Type", "application/json".to_owned());
    let headers = [json, app.bearer()];
    let asked = app.send("POST", CODE, &headers, NUMBER);
    let rotated = async {
        eventually("the request is under way", || {
            !app.script.calls().is_empty()
        })
        .await;
        app.access.rotate().expect("rotated");
    };
    let (answer, ()) = tokio::join!(asked, rotated);
    assert_eq!(answer.status, 401);
    // Nobody may wait for it any more.
    let _ = code.send(Ok(a_code("ABCD2345")));
    app.stop().await;
}
