//! What the HTTP routes answer, and the page's files.

use hairpin::error::Code;
use hairpin::session::{RequestError, SessionEvent, State};
use serde_json::json;

use crate::web_support::{Plan, a_code, a_status, start, start_with};

#[tokio::test]
async fn the_page_comes_from_the_binary_and_is_cached_by_its_hash() {
    let app = start().await;
    let page = app.send("GET", "/", &[], "").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(page.header("cache-control"), "no-cache");
    assert_eq!(page.header("referrer-policy"), "no-referrer");
    assert_eq!(page.header("cross-origin-opener-policy"), "same-origin");
    assert!(!page.body.is_empty());
    let etag = page.header("etag").to_owned();
    for known in [etag.clone(), format!("\"x\", W/{etag}")] {
        let again = app.send("GET", "/", &[("If-None-Match", known)], "").await;
        assert_eq!(again.status, 304);
        assert!(again.body.is_empty());
        assert_eq!(again.header("etag"), etag);
    }
    let head = app.send("HEAD", "/", &[], "").await;
    assert_eq!(head.status, 200);
    assert!(head.body.is_empty());
    let same = app.send("GET", "/index.html", &[], "").await;
    assert_eq!(same.body, page.body);
    app.stop().await;
}

#[tokio::test]
async fn the_page_lies_gzipped_in_the_binary_for_whoever_takes_it() {
    let app = start().await;
    let gzip = |value: &str| ("Accept-Encoding", value.to_owned());
    let plain = app.send("GET", "/js/main.js", &[], "").await;
    assert_eq!(plain.header("content-encoding"), "");
    assert_eq!(plain.header("vary"), "accept-encoding");
    let small = app
        .send("GET", "/js/main.js", &[gzip("gzip, br")], "")
        .await;
    assert_eq!(small.header("content-encoding"), "gzip");
    assert_eq!(small.header("vary"), "accept-encoding");
    assert_eq!(small.header("content-type"), plain.header("content-type"));
    assert_eq!(small.body[..2], [0x1f, 0x8b]);
    assert!(small.body.len() * 2 < plain.body.len());

    let etag = small.header("etag").to_owned();
    assert_ne!(etag, plain.header("etag"), "other bytes, another tag");
    let known = |etag: &str| ("If-None-Match", etag.to_owned());
    for (headers, status) in [
        (vec![gzip("gzip"), known(&etag)], 304),
        (vec![known(&etag)], 200),
        (vec![gzip("gzip"), known(plain.header("etag"))], 200),
        (vec![gzip("gzip;q=0"), known(plain.header("etag"))], 304),
    ] {
        let again = app.send("GET", "/js/main.js", &headers, "").await;
        assert_eq!(again.status, status, "{headers:?}");
        assert_eq!(again.header("vary"), "accept-encoding");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_number_is_read_or_refused_with_its_reason() {
    let app = start().await;
    let answer = app
        .ask(
            "POST",
            "/api/v1/phone",
            Some(json!({"number": "8 (900) 123-45-67"})),
        )
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("hairpin-number"), "+7 900 123-45-67");
    assert_eq!(
        answer.json(),
        json!({"e164": "+79001234567", "country": "RU", "kind": "mobile", "masked": "79001***567"})
    );
    let answer = app
        .ask(
            "POST",
            "/api/v1/phone",
            Some(json!({"number": "", "country": "RU"})),
        )
        .await;
    assert_eq!(answer.status, 422);
    let problem = answer.json();
    assert_eq!(problem["code"], "INVALID_PHONE_FORMAT");
    assert_eq!(problem["reason"], "empty");
    assert_eq!(problem["type"], "about:blank");
    assert_eq!(problem["message"], problem["detail"]);
    let answer = app
        .ask(
            "POST",
            "/api/v1/phone",
            Some(json!({"number": "9001234567", "country": "XX1"})),
        )
        .await;
    assert_eq!(answer.status, 422);
    assert_eq!(answer.json()["code"], "INVALID_COUNTRY_CODE");
    app.stop().await;
}

#[tokio::test]
async fn sessions_are_listed_added_renamed_and_removed() {
    let app = start().await;
    let answer = app
        .ask(
            "PUT",
            "/api/v1/sessions/second",
            Some(json!({"name": " Второй "})),
        )
        .await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.header("location"), "/api/v1/sessions/second");
    assert_eq!(answer.json()["name"], "Второй");
    let answer = app
        .ask(
            "PUT",
            "/api/v1/sessions/second",
            Some(json!({"name": "Zwei"})),
        )
        .await;
    assert_eq!(answer.status, 200);
    let list = app.ask("GET", "/api/v1/sessions", None).await.json();
    assert_eq!(list[0]["session"], "salon");
    assert_eq!(list[1]["name"], "Zwei");
    assert_eq!(list[1]["state"], "UNLINKED");
    assert_eq!(list[1]["lastConnected"], json!(null));
    assert_eq!(
        app.ask("DELETE", "/api/v1/sessions/second", None)
            .await
            .status,
        204
    );
    let gone = app.ask("GET", "/api/v1/sessions/second", None).await;
    assert_eq!(gone.status, 404);
    assert_eq!(gone.json()["code"], "NO_SUCH_SESSION");
    assert_eq!(
        app.ask("DELETE", "/api/v1/sessions/second", None)
            .await
            .status,
        404
    );
    assert_eq!(
        app.ask("DELETE", "/api/v1/sessions/salon", None)
            .await
            .status,
        409
    );
    assert!(!app.script.calls().contains(&"remove salon".to_owned()));
    app.stop().await;
}

#[tokio::test]
async fn bad_ids_and_names_are_refused() {
    let app = start().await;
    for id in ["-a", "Salon", "a_b", "%D1%8F", &"x".repeat(33)] {
        let path = format!("/api/v1/sessions/{id}");
        let answer = app.ask("PUT", &path, Some(json!({"name": "x"}))).await;
        assert_eq!(answer.status, 422, "{id}");
        assert_eq!(answer.json()["reason"], "bad_id");
    }
    for name in ["", "   ", "a\nb", "\u{7}", &"я".repeat(65)] {
        let answer = app
            .ask("PUT", "/api/v1/sessions/a", Some(json!({ "name": name })))
            .await;
        assert_eq!(answer.status, 422, "{name:?}");
    }
    let longest = json!({"name": "я".repeat(64)});
    assert_eq!(
        app.ask("PUT", "/api/v1/sessions/a", Some(longest))
            .await
            .status,
        201
    );
    app.stop().await;
}

#[tokio::test]
async fn asking_for_a_code_waits_until_there_is_one() {
    let app = start().await;
    let (outcome, later) = tokio::sync::oneshot::channel();
    app.script.plan(Plan::Later(later));
    let body = json!({"phoneNumber": "+79001234567", "country": null, "replace": null});
    let asking = app.ask("POST", "/api/v1/sessions/salon/pairing-code", Some(body));
    let granting = async {
        crate::web_support::eventually("asked", || !app.script.calls().is_empty()).await;
        outcome.send(Ok(a_code("ABCD-EFGH"))).expect("waited for");
    };
    let (answer, ()) = tokio::join!(asking, granting);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(
        answer.json(),
        json!({"session": "salon", "code": "ABCD-EFGH", "phoneNumber": "79001***567", "expiresIn": 170,
               "expiresAt": 1_700_000_000_000_i64, "replaced": null})
    );
    assert_eq!(
        app.ask("DELETE", "/api/v1/sessions/salon/pairing-code", None)
            .await
            .status,
        204
    );
    app.stop().await;
}

#[tokio::test]
async fn refusals_carry_everything_needed_to_go_on() {
    let app = start().await;
    let path = "/api/v1/sessions/salon/pairing-code";
    let ask = json!({"phoneNumber": "+79001234567"});
    app.script.plan(Plan::Refuse(RequestError {
        old_phone: Some("79009***111".into()),
        link_id: Some("k3".into()),
        ..Code::ReplaceConfirmationRequired.into()
    }));
    let answer = app.ask("POST", path, Some(ask.clone())).await;
    assert_eq!(answer.status, 409);
    assert_eq!(answer.json()["oldPhone"], "79009***111");
    assert_eq!(answer.json()["linkId"], "k3");
    app.script.plan(Plan::Refuse(RequestError {
        retry_after: Some(77),
        ..Code::WhatsappRateLimited.into()
    }));
    let answer = app.ask("POST", path, Some(ask.clone())).await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.header("retry-after"), "77");
    for code in Code::ALL {
        app.script.plan(Plan::Refuse(code.into()));
        let answer = app.ask("POST", path, Some(ask.clone())).await;
        assert_eq!(answer.status, code.http_status(), "{code}");
        assert_eq!(answer.json()["code"], code.as_str());
    }
    let answer = app
        .ask("POST", path, Some(json!({"phoneNumber": "12"})))
        .await;
    assert_eq!(answer.status, 422);
    let nobody = "/api/v1/sessions/nobody/pairing-code";
    assert_eq!(app.ask("POST", nobody, Some(ask)).await.status, 404);
    app.stop().await;
}

#[tokio::test]
async fn a_refusal_speaks_the_askers_language() {
    let app = start_with(|settings| settings.language = Some(hairpin::words::Lang::Ru)).await;
    for (accept, lang) in [("ru-RU, en;q=0.5", "ru"), ("en", "en"), ("de", "ru")] {
        let header = ("Accept-Language", accept.to_owned());
        let answer = app.send("GET", "/api/v1/sessions", &[header], "").await;
        assert_eq!(answer.header("content-language"), lang);
        let detail = answer.json()["detail"].as_str().expect("text").to_owned();
        assert_eq!(detail.is_ascii(), lang == "en", "{detail}");
    }
    app.stop().await;
}

#[tokio::test]
async fn links_are_reconnected_and_ended() {
    let app = start().await;
    let agent = (
        "User-Agent",
        format!("curl\u{1b}/8 {}", "x".repeat(300)).replace('\u{1b}', ""),
    );
    let path = "/api/v1/sessions/salon/reconnect";
    let answer = app.send("POST", path, &[app.bearer(), agent], "").await;
    assert_eq!(answer.status, 202);
    let heard = app.script.agents.lock().unwrap()[0]
        .clone()
        .expect("an agent");
    assert!(heard.starts_with("curl/8 ") && heard.len() == 120);
    assert_eq!(
        app.ask("DELETE", "/api/v1/sessions/salon/link", None)
            .await
            .status,
        204
    );
    *app.script.refuse.lock().unwrap() = Some(Code::StoreUnavailable.into());
    assert_eq!(
        app.ask("DELETE", "/api/v1/sessions/salon/link", None)
            .await
            .status,
        507
    );
    assert_eq!(
        app.ask("POST", "/api/v1/sessions/nobody/reconnect", None)
            .await
            .status,
        404
    );
    app.stop().await;
}

#[tokio::test]
async fn the_journal_and_the_counters_are_handed_out() {
    let app = start().await;
    let answer = app
        .ask("GET", "/api/v1/audit?session=salon&limit=5", None)
        .await;
    assert_eq!(answer.json(), json!([{"session": "salon", "limit": 5}]));
    let answer = app.ask("GET", "/api/v1/audit", None).await;
    assert_eq!(answer.json(), json!([{"session": null, "limit": 100}]));
    let answer = app.ask("GET", "/api/v1/audit?limit=99999999", None).await;
    assert_eq!(answer.json()[0]["limit"], 10_000);
    for query in ["limit=-1", "limit=many", "limit=1&limit=2"] {
        let answer = app
            .ask("GET", &format!("/api/v1/audit?{query}"), None)
            .await;
        assert_eq!(answer.status, 400, "{query}");
        assert_eq!(answer.json()["code"], "BAD_MESSAGE");
    }
    let answer = app.ask("GET", "/metrics", None).await;
    assert!(
        answer
            .header("content-type")
            .starts_with("text/plain; version=0.0.4")
    );
    assert_eq!(answer.body, b"hairpin_reconnects_total 0\n");
    let answer = app.ask("GET", "/api/v1/metrics", None).await;
    assert_eq!(answer.json()["hairpin_reconnects_total"], 0);
    assert_eq!(
        app.ask("GET", "/openapi.json", None).await.json()["openapi"],
        "3.1.0"
    );
    app.stop().await;
}

#[tokio::test]
async fn health_and_readiness_say_no_more_than_they_should() {
    let app = start().await;
    let answer = app.send("GET", "/healthz", &[], "").await;
    assert_eq!(
        (answer.status, answer.json()),
        (200, json!({"status": "ok"}))
    );
    *app.script.sick.lock().unwrap() = true;
    let answer = app.send("GET", "/healthz", &[], "").await;
    assert_eq!(
        (answer.status, answer.json()),
        (503, json!({"status": "unavailable"}))
    );

    let answer = app.send("GET", "/readyz", &[], "").await;
    assert_eq!(
        (answer.status, answer.json()),
        (503, json!({"ready": false}))
    );
    app.script.tell(
        "salon",
        SessionEvent::Status(a_status("salon", State::Connected)),
    );
    let answer = app.send("GET", "/readyz", &[], "").await;
    assert_eq!(
        (answer.status, answer.json()),
        (200, json!({"ready": true}))
    );
    app.script.add("second");
    app.script.tell(
        "second",
        SessionEvent::Status(a_status("second", State::Replaced)),
    );
    let answer = app.ask("GET", "/readyz", None).await;
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.json()["sessions"][1],
        json!({"session": "second", "state": "REPLACED"})
    );
    app.stop().await;
}

#[tokio::test]
async fn a_request_that_waits_is_told_when_the_program_stops() {
    let app = start().await;
    let (_outcome, later) = tokio::sync::oneshot::channel();
    app.script.plan(Plan::Later(later));
    let body = json!({"phoneNumber": "+79001234567"});
    let asking = app.ask("POST", "/api/v1/sessions/salon/pairing-code", Some(body));
    let stopping = async {
        crate::web_support::eventually("asked", || !app.script.calls().is_empty()).await;
        app.begin_stop();
    };
    let (answer, ()) = tokio::join!(asking, stopping);
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["code"], "SHUTTING_DOWN");
    app.stop().await;
}
