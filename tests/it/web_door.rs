//! The attack matrix: made from the one route list, so that no new route escapes it.

use hairpin::web::{Door, ROUTES, Route, Wants};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::web_support::{Answer, App, PATIENCE, start};

fn path(route: &Route) -> String {
    route.path.replace("{id}", "salon")
}

async fn hit(app: &App, route: &Route, headers: &[(&str, String)], body: &str) -> Answer {
    let answer = app
        .send(route.method.as_str(), &path(route), headers, body)
        .await;
    if answer.status >= 400 && !["/healthz", "/readyz"].contains(&route.path) {
        assert_eq!(
            answer.header("content-type"),
            "application/problem+json",
            "{route:?}"
        );
        let problem = answer.json();
        assert_eq!(problem["status"], answer.status, "{route:?}");
        assert!(problem["code"].is_string() && problem["detail"].is_string());
    }
    assert!(
        answer
            .header("content-security-policy")
            .starts_with("default-src 'none'")
    );
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cache-control", "no-store"),
        ("access-control-allow-origin", ""),
    ] {
        assert_eq!(answer.header(name), value, "{route:?} {name}");
    }
    answer
}

fn json() -> (&'static str, String) {
    ("Content-Type", "application/json".into())
}

fn header(name: &'static str, value: &str) -> (&'static str, String) {
    (name, value.to_owned())
}

#[tokio::test]
async fn without_the_key_only_the_open_doors_answer() {
    let app = start().await;
    let forged = header(
        "Cookie",
        "hairpin=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    );
    let basic = header("Authorization", "Basic aGFpcnBpbjpoYWlycGlu");
    for route in ROUTES {
        for extra in [vec![], vec![forged.clone()], vec![basic.clone()]] {
            let headers = [extra, vec![json()]].concat();
            let answer = hit(&app, route, &headers, "{}").await;
            match route.door {
                Door::Key => assert_eq!(answer.status, 401, "{route:?} {answer:?}"),
                Door::Open | Door::OpenMoreWithKey => {
                    assert!(
                        ![401, 403, 404].contains(&answer.status),
                        "{route:?} {answer:?}"
                    );
                }
            }
        }
    }
    assert!(app.script.calls().is_empty(), "{:?}", app.script.calls());
    app.stop().await;
}

/// Written down by hand, from the contract: whoever opens another door has to open it here as well.
#[test]
fn the_doors_that_are_open_are_these() {
    let open: Vec<String> = ROUTES
        .iter()
        .filter(|route| route.door != Door::Key)
        .map(|route| format!("{} {} {:?}", route.method, route.path, route.door))
        .collect();
    assert_eq!(
        open,
        [
            "POST /login Open",
            "GET /healthz Open",
            "GET /readyz OpenMoreWithKey"
        ]
    );
}

#[tokio::test]
async fn a_wrong_key_opens_nothing() {
    for route in ROUTES.iter().filter(|r| r.door == Door::Key) {
        // Each at an appliance of its own, where nobody is held off yet.
        let app = start().await;
        for key in ["hp-00000-00000-00000-00000-00000-00000", ""] {
            let wrong = header("Authorization", &format!("Bearer {key}"));
            let answer = hit(&app, route, &[wrong, json()], "{}").await;
            assert_eq!(answer.status, 401, "{route:?} {key:?}");
        }
        assert!(app.script.calls().is_empty());
        app.stop().await;
    }
}

#[tokio::test]
async fn the_cookie_of_a_login_that_is_over_opens_nothing() {
    let app = start().await;
    let cookie = ("Cookie", app.login().await);
    let answer = app
        .send("POST", "/logout", std::slice::from_ref(&cookie), "")
        .await;
    assert_eq!(answer.status, 204);
    for route in ROUTES.iter().filter(|r| r.door == Door::Key) {
        let answer = hit(&app, route, &[cookie.clone(), json()], "{}").await;
        assert_eq!(answer.status, 401, "{route:?}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_foreign_host_or_origin_is_refused_everywhere_even_with_the_key() {
    let app = start().await;
    let foreign = [
        header("Origin", "http://evil.example"),
        header("Origin", "null"),
        header("Origin", "http://localhost:1"),
        header("Host", "evil.example"),
        header("Host", "127.0.0.1"),
        header("Host", "127.0.0.1.evil.example:7247"),
    ];
    let page = Route {
        method: http::Method::GET,
        path: "/",
        door: Door::Open,
        wants: Wants::Nothing,
    };
    let nothing = Route {
        path: "/no/such/thing",
        ..Route {
            method: http::Method::GET,
            path: "",
            door: Door::Open,
            wants: Wants::Nothing,
        }
    };
    for route in ROUTES.iter().chain([&page, &nothing]) {
        for bad in &foreign {
            let headers = [app.bearer(), json(), bad.clone()];
            let answer = app
                .send(route.method.as_str(), &path(route), &headers, "{}")
                .await;
            assert_eq!(answer.status, 403, "{route:?} {bad:?}");
            assert_eq!(answer.json()["code"], "FORBIDDEN_ORIGIN");
        }
    }
    assert!(app.script.calls().is_empty());
    app.stop().await;
}

#[tokio::test]
async fn what_a_browser_calls_cross_site_reaches_no_locked_door() {
    let app = start().await;
    for site in ["cross-site", "same-site"] {
        let site = header("Sec-Fetch-Site", site);
        for route in ROUTES.iter().filter(|r| r.door == Door::Key) {
            let headers = [app.bearer(), json(), site.clone()];
            assert_eq!(
                hit(&app, route, &headers, "{}").await.status,
                403,
                "{route:?}"
            );
        }
        let answer = app
            .send("POST", "/login", &[site.clone(), json()], "{}")
            .await;
        assert_eq!(answer.status, 403);
        let link = app.send("GET", "/healthz", &[site], "").await;
        assert_eq!(link.status, 200);
    }
    app.stop().await;
}

#[tokio::test]
async fn a_form_or_any_other_type_is_refused_on_every_route() {
    let app = start().await;
    let types = [
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain",
        "application/json+evil",
    ];
    for route in ROUTES {
        for kind in types {
            let headers = [app.bearer(), header("Content-Type", kind)];
            let answer = hit(&app, route, &headers, "{}").await;
            assert_eq!(answer.status, 415, "{route:?} {kind}");
            assert_eq!(answer.json()["code"], "BAD_MESSAGE");
        }
        let answer = hit(&app, route, &[app.bearer()], "{}").await;
        assert_eq!(answer.status, 415, "{route:?} without a type");
    }
    assert!(app.script.calls().is_empty());
    app.stop().await;
}

#[tokio::test]
async fn an_oversized_body_is_refused_on_every_route() {
    let app = start().await;
    let body = format!("{{\"name\": \"{}\"}}", "x".repeat(4096));
    for route in ROUTES {
        let answer = hit(&app, route, &[app.bearer(), json()], &body).await;
        assert_eq!(answer.status, 413, "{route:?}");
    }
    // Without a length it is counted while it comes.
    let chunk = "x".repeat(5000);
    let chunked = format!("{:x}\r\n{chunk}\r\n0\r\n\r\n", chunk.len());
    let head = format!(
        "POST /api/v1/phone HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        app.address, app.key
    );
    let mut stream = app.dial().await;
    stream
        .write_all((head + &chunked).as_bytes())
        .await
        .expect("sent");
    let answer = crate::web_support::read_answer(&mut stream).await;
    assert_eq!(answer.status, 413);
    assert!(app.script.calls().is_empty());
    app.stop().await;
}

#[tokio::test]
async fn no_route_speaks_http2() {
    let app = start().await;
    for route in ROUTES {
        let headers = [
            header("Upgrade", "h2c"),
            header("HTTP2-Settings", "AAMAAABkAAQAAP__"),
        ];
        let answer = hit(&app, route, &headers, "").await;
        assert_eq!(answer.status, 400, "{route:?}");
    }
    let mut stream = app.dial().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(preface).await.expect("sent");
    let mut raw = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut raw)).await;
    // Refused or hung up on; a reset is as good.
    let _ = read.expect("the connection ends");
    assert!(
        raw.is_empty() || raw.starts_with(b"HTTP/1.1 400"),
        "{raw:?}"
    );
    app.stop().await;
}

#[tokio::test]
async fn with_the_key_every_route_has_somebody_who_answers() {
    let app = start().await;
    for route in ROUTES.iter().filter(|r| r.path != "/logout") {
        let mut headers = vec![app.bearer()];
        let mut body = "";
        if route.wants == Wants::Json {
            headers.push(json());
            body = "[]";
        }
        let answer = app
            .send(route.method.as_str(), &path(route), &headers, body)
            .await;
        assert_ne!(answer.status, 404, "{route:?}");
        assert_ne!(answer.status, 405, "{route:?}");
        if route.wants == Wants::Json {
            assert_eq!(answer.status, 400, "{route:?}: a wrong shape");
            assert_eq!(answer.json()["code"], "BAD_MESSAGE");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn what_is_not_on_the_list_is_not_there() {
    let app = start().await;
    for (method, path, stranger, owner) in [
        ("GET", "/api/v1/nothing", 401, 404),
        ("GET", "/nothing", 404, 404),
        ("GET", "/api/v1/sessions/", 401, 404),
        ("GET", "/../Cargo.toml", 404, 404),
        ("GET", "/%2e%2e/Cargo.toml", 404, 404),
        ("PATCH", "/api/v1/sessions/salon", 401, 405),
        ("DELETE", "/", 405, 405),
        ("GET", "/login", 405, 405),
        ("OPTIONS", "/api/v1/sessions", 401, 405),
        ("TRACE", "/healthz", 405, 405),
    ] {
        let answer = app.send(method, path, &[], "").await;
        assert_eq!(answer.status, stranger, "{method} {path} by a stranger");
        let answer = app.send(method, path, &[app.bearer()], "").await;
        assert_eq!(answer.status, owner, "{method} {path} by the owner");
        assert_eq!(answer.status == 405, !answer.header("allow").is_empty());
    }
    let answer = app
        .send("PATCH", "/api/v1/sessions/salon", &[app.bearer()], "")
        .await;
    assert_eq!(answer.header("allow"), "DELETE, GET, PUT, HEAD");
    app.stop().await;
}
