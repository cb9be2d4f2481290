//! The page's WebSocket: who gets one, what it says, and how it ends.

use std::time::Duration;

use futures_util::SinkExt as _;
use hairpin::error::Code;
use hairpin::secret::SecretText;
use hairpin::session::{EndReason, Qr, RequestError, SessionEvent, State};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::web_support::{Plan, Socket, a_code, a_status, eventually, start, start_with};

async fn ask_for_code(socket: &mut Socket, id: &str) {
    let data = json!({"phoneNumber": "+79001234567"});
    socket
        .send(json!({"event": "request-pairing-code", "data": data, "id": id}))
        .await;
}

#[tokio::test]
async fn a_socket_wants_a_key_an_own_origin_and_a_session() {
    let app = start().await;
    let refused = async |query, headers: &[(&'static str, String)]| {
        app.try_socket(query, headers).await.expect_err("refused")
    };
    let cookie = ("Cookie", app.login().await);
    let origin = ("Origin", app.origin());
    assert_eq!(refused("", &[]).await, 401);
    assert_eq!(
        refused("", std::slice::from_ref(&cookie)).await,
        403,
        "a cookie wants an Origin"
    );
    assert_eq!(
        refused("", &[cookie.clone(), ("Origin", "null".into())]).await,
        403
    );
    let foreign = ("Origin", "http://evil.example".to_owned());
    assert_eq!(refused("", &[cookie.clone(), foreign.clone()]).await, 403);
    assert_eq!(refused("", &[app.bearer(), foreign]).await, 403);
    assert_eq!(
        refused("", &[app.bearer(), ("Host", "evil.example".into())]).await,
        403
    );
    assert_eq!(refused("?session=nobody", &[app.bearer()]).await, 404);
    assert!(app.try_socket("", &[app.bearer()]).await.is_ok());
    assert!(app.try_socket("", &[cookie, origin]).await.is_ok());
    let plain = app.ask("GET", "/ws", None).await;
    assert_eq!(
        (plain.status, plain.json()["code"].clone()),
        (400, json!("BAD_MESSAGE"))
    );
    app.stop().await;
}

#[tokio::test]
async fn a_new_page_is_told_what_is_live() {
    let app = start().await;
    app.script
        .tell("salon", SessionEvent::Code(a_code("ABCD-EFGH")));
    app.script.tell(
        "salon",
        SessionEvent::Qr(Some(Qr {
            value: SecretText::new("2@abc".into()),
            deadline: tokio::time::Instant::now() + Duration::from_mins(1),
        })),
    );
    let mut socket = app.socket("?session=salon&lang=ru").await;
    let status = socket.next().await;
    assert_eq!(status["event"], "session-status");
    assert_eq!(status["data"]["session"], "salon");
    assert_eq!(status["data"]["state"], "UNLINKED");
    let code = socket.next().await;
    assert_eq!(code["event"], "pairing-code");
    assert_eq!(code["data"]["code"], "ABCD-EFGH");
    assert!(code.get("id").is_none());
    let qr = socket.next().await;
    assert_eq!(qr["data"]["value"], "2@abc");
    assert!(
        qr["data"]["svg"]
            .as_str()
            .is_some_and(|svg| !svg.contains("style"))
    );
    eventually("counted", || app.counts.websockets() == 1).await;
    drop(socket);
    eventually("gone", || app.counts.websockets() == 0).await;
    app.stop().await;
}

#[tokio::test]
async fn everybody_gets_the_code_and_the_asker_gets_it_once_with_its_id() {
    let app = start().await;
    let mut asker = app.socket("").await;
    let mut other = app.socket("").await;
    asker.next().await;
    other.next().await;
    app.script.plan(Plan::Code(a_code("ABCD-EFGH")));
    ask_for_code(&mut asker, "7").await;
    let answer = asker.next().await;
    assert_eq!(
        (&answer["event"], &answer["id"]),
        (&json!("pairing-code"), &json!("7"))
    );
    assert_eq!(other.next().await["data"]["code"], "ABCD-EFGH");
    app.script
        .tell("salon", SessionEvent::CodeEnded(EndReason::Expired));
    for socket in [&mut asker, &mut other] {
        let ended = socket.next().await;
        assert_eq!(
            ended["event"], "pairing-code-ended",
            "and nothing in between"
        );
        assert_eq!(
            ended["data"],
            json!({"session": "salon", "reason": "expired"})
        );
    }
    app.stop().await;
}

#[tokio::test]
async fn asking_again_for_a_live_code_answers_only_the_asker() {
    let app = start().await;
    let code = a_code("ABCD-EFGH");
    app.script.tell("salon", SessionEvent::Code(code.clone()));
    let mut asker = app.socket("").await;
    let mut other = app.socket("").await;
    for socket in [&mut asker, &mut other] {
        socket.next_of("pairing-code").await;
    }
    app.script.plan(Plan::Again(code));
    ask_for_code(&mut asker, "8").await;
    assert_eq!(asker.next().await["id"], "8");
    app.script
        .tell("salon", SessionEvent::CodeEnded(EndReason::Linked));
    assert_eq!(other.next().await["event"], "pairing-code-ended");
    app.stop().await;
}

#[tokio::test]
async fn a_request_that_waits_blocks_nothing_and_its_refusal_is_nobody_elses() {
    let app = start().await;
    let mut asker = app.socket("?lang=ru").await;
    let mut other = app.socket("?lang=en").await;
    asker.next().await;
    other.next().await;
    let (outcome, later) = tokio::sync::oneshot::channel();
    app.script.plan(Plan::Later(later));
    ask_for_code(&mut asker, "1").await;
    eventually("asked", || !app.script.calls().is_empty()).await;
    asker.send(json!({"event": "nonsense", "id": "2"})).await;
    assert_eq!(asker.next().await["id"], "2", "answered meanwhile");
    app.script.tell(
        "salon",
        SessionEvent::Status(a_status("salon", State::Connecting)),
    );
    assert_eq!(asker.next().await["data"]["state"], "CONNECTING");
    outcome
        .send(Err(RequestError {
            retry_after: Some(60),
            old_phone: Some("79009***111".into()),
            link_id: Some("k3".into()),
            ..Code::ReplaceConfirmationRequired.into()
        }))
        .expect("waited for");
    let refusal = asker.next().await;
    assert_eq!(refusal["event"], "pairing-code-error");
    assert_eq!(refusal["id"], "1");
    assert_eq!(refusal["data"]["linkId"], "k3");
    assert_eq!(refusal["data"]["oldPhone"], "79009***111");
    assert_eq!(refusal["data"]["retryAfter"], 60);
    assert!(
        refusal["data"]["message"]
            .as_str()
            .is_some_and(|m| m.contains("привязан"))
    );
    assert_eq!(other.next().await["data"]["state"], "CONNECTING");
    app.script
        .tell("salon", SessionEvent::Error(Code::WrongPhoneLinked.into()));
    let news = other.next().await;
    assert_eq!(
        news["data"]["code"], "WRONG_PHONE_LINKED",
        "nothing of the refusal before it"
    );
    app.stop().await;
}

#[tokio::test]
async fn a_wrong_number_is_refused_with_its_reason_and_never_asked_for() {
    let app = start().await;
    let mut socket = app.socket("?lang=en").await;
    socket.next().await;
    let data = json!({"phoneNumber": ""});
    socket
        .send(json!({"event": "request-pairing-code", "data": data, "id": "x"}))
        .await;
    let error = socket.next().await;
    assert_eq!(error["data"]["code"], "INVALID_PHONE_FORMAT");
    assert_eq!(error["data"]["reason"], "empty");
    assert_eq!(error["id"], "x");
    assert!(app.script.calls().is_empty());
    app.stop().await;
}

#[tokio::test]
async fn nonsense_is_answered_and_the_socket_stays() {
    let app = start().await;
    let mut socket = app.socket("").await;
    socket.next().await;
    for text in [
        "",
        "hello",
        "[]",
        "{}",
        r#"{"event":"request-pairing-code","data":{"phoneNumber":7}}"#,
    ] {
        socket.send_text(text).await;
        let error = socket.next().await;
        assert_eq!(error["event"], "pairing-code-error", "{text}");
        assert_eq!(error["data"]["code"], "BAD_MESSAGE");
        assert_eq!(error["data"]["reason"], Value::Null);
        assert!(error.get("id").is_none());
    }
    app.stop().await;
}

#[tokio::test]
async fn what_has_no_answer_of_its_own_is_answered_with_the_status_if_an_id_waits() {
    let app = start().await;
    let mut socket = app.socket("").await;
    socket.next().await;
    socket
        .send(json!({"event": "reconnect", "data": {}, "id": "r"}))
        .await;
    let answer = socket.next().await;
    assert_eq!(
        (&answer["event"], &answer["id"]),
        (&json!("session-status"), &json!("r"))
    );
    *app.script.refuse.lock().unwrap() = Some(Code::LinkingInProgress.into());
    for event in ["cancel-pairing", "unlink", "reconnect"] {
        socket.send(json!({"event": event, "id": event})).await;
        let error = socket.next().await;
        assert_eq!(error["data"]["code"], "LINKING_IN_PROGRESS");
        assert_eq!(error["id"], event);
    }
    assert_eq!(
        app.script.calls(),
        [
            "reconnect salon",
            "cancel salon",
            "unlink salon",
            "reconnect salon"
        ]
    );
    app.stop().await;
}

#[tokio::test]
async fn binary_and_oversized_frames_close_it() {
    let app = start().await;
    let mut socket = app.socket("").await;
    socket
        .inner
        .send(Message::binary(vec![1, 2, 3]))
        .await
        .expect("sent");
    assert_eq!(socket.closed().await, 1003);
    let mut socket = app.socket("").await;
    socket.send_text(&"x".repeat(4096)).await;
    assert_eq!(
        socket.next_of("pairing-code-error").await["data"]["code"],
        "BAD_MESSAGE"
    );
    socket.send_text(&"x".repeat(4097)).await;
    assert_eq!(socket.closed().await, 1009);
    // Even while the client is still busy sending it.
    let mut socket = app.socket("").await;
    let _ = socket.inner.send(Message::text("x".repeat(200_000))).await;
    assert_eq!(socket.closed().await, 1009);
    eventually("gone", || app.counts.websockets() == 0).await;
    app.stop().await;
}

#[tokio::test]
async fn a_removed_session_closes_its_sockets() {
    let app = start().await;
    app.script.add("second");
    let mut socket = app.socket("?session=second").await;
    socket.next().await;
    assert_eq!(
        app.ask("DELETE", "/api/v1/sessions/second", None)
            .await
            .status,
        204
    );
    assert_eq!(socket.closed().await, 4404);
    app.stop().await;
}

#[tokio::test]
async fn a_stop_closes_every_socket_at_once() {
    let app = start().await;
    let mut sockets = Vec::new();
    for _ in 0..5 {
        let mut socket = app.socket("").await;
        socket.next().await;
        sockets.push(socket);
    }
    // One that waits for WhatsApp, and one whose client never reads.
    let (_outcome, later) = tokio::sync::oneshot::channel();
    app.script.plan(Plan::Later(later));
    ask_for_code(&mut sockets[0], "1").await;
    let _deaf = app.socket("").await;
    app.begin_stop();
    for socket in &mut sockets {
        assert_eq!(socket.closed().await, 1001);
    }
    app.stop().await;
}

#[tokio::test]
async fn a_page_that_missed_news_gets_the_whole_picture() {
    let app = start().await;
    let mut socket = app.socket("").await;
    socket.next().await;
    // Twice what the channel holds, told before the socket's task can run again.
    for i in 0..16 {
        let mut status = a_status("salon", State::Reconnecting);
        status.since = i;
        app.script.tell("salon", SessionEvent::Status(status));
    }
    assert_eq!(socket.next().await["data"]["since"], 15);
    app.stop().await;
}

#[tokio::test]
async fn a_flood_is_told_to_wait_and_then_cut_off() {
    let app = start_with(|settings| settings.limits.messages = 4).await;
    let mut socket = app.socket("").await;
    socket.next().await;
    for _ in 0..6 {
        socket.send(json!({"event": "reconnect", "id": "f"})).await;
    }
    let limited = loop {
        let frame = socket.next().await;
        if frame["event"] == "pairing-code-error" {
            break frame;
        }
    };
    assert_eq!(limited["data"]["code"], "RATE_LIMITED");
    assert_eq!(limited["data"]["retryAfter"], 1);
    assert_eq!(limited["id"], "f");
    for _ in 0..20 {
        // It may be cut off while we are sending.
        let _ = socket.inner.send(Message::text("{}")).await;
    }
    assert_eq!(socket.closed().await, 1008);
    app.stop().await;
}

#[tokio::test]
async fn a_dead_peer_is_noticed() {
    let app = start_with(|settings| {
        settings.limits.ping = Duration::from_millis(20);
        settings.limits.silence = Duration::from_millis(60);
    })
    .await;
    // It does not read, so it answers no ping either.
    let mut dead = app.socket("").await;
    eventually("noticed", || app.counts.websockets() == 0).await;
    let _ = dead.closed().await;
    // One that reads, and so answers, stays.
    let mut alive = app.socket("").await;
    let told = tokio::time::timeout(Duration::from_millis(300), alive.next_of("never")).await;
    assert!(told.is_err());
    assert_eq!(app.counts.websockets(), 1);
    app.stop().await;
}

#[tokio::test]
async fn an_open_page_that_answers_counts_as_use_of_its_login() {
    let app = start_with(|settings| settings.limits.ping = Duration::from_millis(20)).await;
    let cookie = app.login().await;
    let headers = [("Cookie", cookie), ("Origin", app.origin())];
    let mut page = app.try_socket("", &headers).await.expect("in");
    let used = || {
        let (_, kept) = app.access.kept_logins();
        let kept: serde_json::Value = serde_json::from_slice(&kept).expect("JSON");
        kept["logins"][0]["used"].as_i64().expect("a time")
    };
    let first = used();
    // It says nothing by itself; reading is what answers the pings.
    let idle = page.next_of("never");
    tokio::select! {
        _ = idle => unreachable!("nothing is called that"),
        () = eventually("used again", || used() > first + 100) => {}
    }
    app.stop().await;
}

#[tokio::test]
async fn a_page_that_reads_nothing_is_dropped_and_harms_nobody() {
    let app = start_with(|settings| settings.limits.stall = Duration::from_millis(100)).await;
    let deaf = app.socket("").await;
    let mut good = app.socket("").await;
    good.next().await;
    eventually("both there", || app.script.listeners("salon") == 2).await;
    let mut status = a_status("salon", State::Reconnecting);
    status.name = "x".repeat(60_000);
    let mut since = 0;
    let fill = async {
        while app.script.listeners("salon") == 2 {
            since += 1;
            status.since = since;
            app.script
                .tell("salon", SessionEvent::Status(status.clone()));
            assert_eq!(good.next().await["data"]["since"], since);
        }
    };
    assert!(
        tokio::time::timeout(crate::web_support::PATIENCE, fill)
            .await
            .is_ok()
    );
    drop(deaf);
    app.stop().await;
}

#[tokio::test]
async fn a_client_with_too_many_sockets_loses_its_oldest_and_nobody_else_loses_any() {
    let app = start_with(|settings| {
        settings.limits.sockets_per_client = 2;
        settings.trusted_proxies = vec!["127.0.0.1".parse().expect("an address")];
    })
    .await;
    let from = |client: &str| [app.bearer(), ("X-Forwarded-For", client.to_owned())];
    let mut owner = app.try_socket("", &from("192.0.2.7")).await.expect("in");
    let mut greedy = Vec::new();
    for _ in 0..5 {
        let mut socket = app.try_socket("", &from("192.0.2.66")).await.expect("in");
        // One after another, so that it is certain which are the oldest.
        socket.next().await;
        greedy.push(socket);
    }
    for socket in &mut greedy[..3] {
        assert_eq!(socket.closed().await, 1008);
    }
    eventually("the others stay", || app.counts.websockets() == 3).await;
    for socket in greedy[3..].iter_mut().chain([&mut owner]) {
        socket.send(json!({"event": "nothing"})).await;
        let refusal = socket.next_of("pairing-code-error").await;
        assert_eq!(refusal["data"]["code"], "BAD_MESSAGE");
    }
    app.stop().await;
}

#[tokio::test]
async fn the_handshakes_answer_carries_the_headers_of_every_other() {
    let app = start().await;
    let url = format!("ws://{}/ws", app.address);
    let mut request = url.into_client_request().expect("a request");
    let (name, key) = app.bearer();
    request
        .headers_mut()
        .insert(name, key.parse().expect("a header"));
    let (_socket, answer) = tokio_tungstenite::connect_async(request).await.expect("in");
    assert_eq!(answer.status(), 101);
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(answer.headers()[name], value, "{name}");
    }
    let policy = answer.headers()["content-security-policy"].to_str();
    assert!(policy.expect("text").starts_with("default-src 'none'"));
    app.stop().await;
}
