use super::*;
use crate::phone::Country;

const PEER: [u8; 4] = [192, 0, 2, 50];
const PROXY: [u8; 4] = [192, 0, 2, 1];

fn settings() -> WebSettings {
    WebSettings {
        allowed_hosts: vec!["Salon.example".into(), "front.example:443".into()],
        trusted_proxies: vec![PROXY.into()],
        ..WebSettings::new(Country::parse("RU").expect("a country"))
    }
}

fn check_from(peer: [u8; 4], settings: &WebSettings, headers: &[(&str, &str)]) -> Option<Admitted> {
    let mut request = Request::builder().uri("/");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(()).expect("a request");
    let local = SocketAddr::from(([192, 0, 2, 7], 7247));
    Guard::new(settings).check(&request, peer.into(), local)
}

fn check(headers: &[(&str, &str)]) -> Option<Admitted> {
    check_from(PEER, &settings(), headers)
}

#[test]
fn our_own_names_and_addresses_pass() {
    for host in [
        "localhost:7247",
        "LOCALHOST:7247",
        "127.0.0.1:7247",
        "[::1]:7247",
        "192.0.2.7:7247",
        "[::ffff:192.0.2.7]:7247",
        "salon.example:7247",
        "front.example:443",
    ] {
        assert!(check(&[("host", host)]).is_some(), "{host}");
    }
    let machine = rustix::system::uname();
    let machine = machine.nodename().to_string_lossy().into_owned();
    assert!(check(&[("host", &format!("{machine}:7247"))]).is_some());
    let label = machine.split('.').next().expect("a first label");
    assert!(check(&[("host", &format!("{label}.local:7247"))]).is_some());
}

#[test]
fn foreign_hosts_are_refused() {
    for host in [
        "",
        "evil.example:7247",
        "localhost",
        "localhost:80",
        "localhost:7247:7247",
        "localhost:",
        "localhost:+7247",
        "localhost.:7247",
        "localhost.evil.example:7247",
        "user@localhost:7247",
        "192.0.2.8:7247",
        "0.0.0.0:7247",
        "0x7f000001:7247",
        "front.example:7247",
        "[::1:7247",
        "[fe80::1]:7247",
        "salon.example:99999",
    ] {
        assert!(check(&[("host", host)]).is_none(), "{host:?}");
    }
    assert!(check(&[]).is_none(), "no Host at all");
    let twice = [("host", "localhost:7247"), ("host", "localhost:7247")];
    assert!(check(&twice).is_none(), "two Hosts");
}

#[test]
fn an_absolute_target_must_agree_with_the_host() {
    let local = SocketAddr::from(([192, 0, 2, 7], 7247));
    for (uri, passes) in [
        ("http://localhost:7247/", true),
        ("http://evil.example/", false),
    ] {
        let request = Request::builder()
            .uri(uri)
            .header("host", "localhost:7247")
            .body(())
            .expect("a request");
        let found = Guard::new(&settings()).check(&request, PEER.into(), local);
        assert_eq!(found.is_some(), passes, "{uri}");
    }
}

#[test]
fn an_origin_must_be_the_very_same_place() {
    let with = |origin| check(&[("host", "localhost:7247"), ("origin", origin)]);
    assert!(with("http://localhost:7247").is_some_and(|a| a.origin));
    for origin in [
        "null",
        "",
        "http://localhost",
        "http://localhost:7248",
        "https://localhost:7247",
        "http://127.0.0.1:7247",
        "http://localhost:7247/",
        "http://localhost:7247.evil.example",
        "http://evil.example",
        "localhost:7247",
    ] {
        assert!(with(origin).is_none(), "{origin:?}");
    }
    assert!(check(&[("host", "localhost:7247")]).is_some_and(|a| !a.origin));
}

#[test]
fn tls_wants_an_https_origin_and_its_default_port_may_be_left_out() {
    let tls = WebSettings {
        tls: Some(crate::web::tls::tests::any()),
        ..settings()
    };
    let with = |host, origin| check_from(PEER, &tls, &[("host", host), ("origin", origin)]);
    assert!(with("front.example", "https://front.example").is_some());
    assert!(with("front.example:443", "https://front.example").is_some());
    assert!(with("front.example", "http://front.example").is_none());
    assert!(with("localhost:7247", "https://localhost:7247").is_some());
}

#[test]
fn only_a_trusted_proxy_speaks_for_others() {
    let headers = [
        ("host", "127.0.0.1:7247"),
        ("x-forwarded-host", "salon.example"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-for", "203.0.113.66, 198.51.100.4"),
        ("origin", "https://salon.example"),
    ];
    let admitted = check_from(PROXY, &settings(), &headers).expect("passes");
    assert!(admitted.https && admitted.origin);
    assert_eq!(admitted.client, IpAddr::from([198, 51, 100, 4]));
    assert_eq!(
        check(&headers),
        None,
        "the Origin is foreign without the proxy"
    );
    let admitted = check(&headers[..4]).expect("passes");
    assert!(!admitted.https);
    assert_eq!(admitted.client, IpAddr::from(PEER));
}

#[test]
fn a_forwarded_name_takes_nothing_off_the_check_of_the_host() {
    let with = |host, forwarded| {
        check_from(
            PROXY,
            &settings(),
            &[("host", host), ("x-forwarded-host", forwarded)],
        )
    };
    for host in [
        "salon.example",
        "127.0.0.1:7247",
        "192.0.2.7:7247",
        "localhost",
    ] {
        assert!(with(host, "salon.example").is_some(), "{host}");
    }
    assert!(with("evil.example", "salon.example").is_none());
    assert!(with("192.0.2.8:7247", "salon.example").is_none());
    assert!(with("salon.example", "evil.example").is_none());
}
