//! Heads of requests: the first line chooses who asks (`proxy` is trusted) and for what, each further one is a header.

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;

use hairpin::phone::Country;
use hairpin::web::probe::{Head, head};
use hairpin::web::{WebSettings, own_names};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Uri};
use url::{Host, Url};

const PROXY: [u8; 4] = [192, 0, 2, 1];
const STRANGER: [u8; 4] = [192, 0, 2, 50];
const OURS: ([u8; 4], u16) = ([192, 0, 2, 7], 7247);
/// Names beside the machine's own, and the one port at which the second is ours.
const SALON: &str = "salon.example";
const FRONT: (&str, u16) = ("front.example", 443);

/// What the door goes by, and what a browser would make of the same words.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let (first, mut rest) = super::line(text);
    let (who, target) = first.split_once(' ').unwrap_or((first, "/"));
    let by_proxy = who == "proxy";
    let Ok(target) = target.parse::<Uri>() else {
        return;
    };
    let mut headers = HeaderMap::new();
    while !rest.is_empty() && headers.len() < 64 {
        let (one, after) = super::line(rest);
        rest = after;
        let Some((name, value)) = one.split_once(':') else {
            continue;
        };
        let name = HeaderName::from_bytes(name.trim().as_bytes());
        // As hyper does it: blanks around a value are no part of it.
        let value = HeaderValue::from_bytes(value.trim_matches([' ', '\t', '\r']).as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let mut request = Request::new(());
    *request.uri_mut() = target;
    *request.headers_mut() = headers;
    let peer = IpAddr::from(if by_proxy { PROXY } else { STRANGER });
    let read = |request: &Request<()>| head(settings(), request, peer, OURS.into());
    let read_once = read(&request);
    let headers = request.headers();
    if let Some(admitted) = read_once.admitted {
        admission(headers, admitted, by_proxy);
    }
    rest_of(headers, &read_once);
    if !by_proxy {
        let mut bare = request.clone();
        for name in ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"] {
            bare.headers_mut().remove(name);
        }
        assert!(
            read(&bare) == read_once,
            "a stranger speaks for nobody else"
        );
    }
    // A null Origin, a second Host or a foreign one is never let in, whatever else is said.
    for (name, value) in [
        ("origin", "null"),
        ("host", "localhost:7247"),
        ("origin", "http://evil.example"),
    ] {
        let mut worse = request.clone();
        worse.headers_mut().append(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
        if name == "origin" || headers.contains_key(header::HOST) {
            assert_eq!(read(&worse).admitted, None, "{name}: {value}");
        }
    }
}

fn settings() -> &'static WebSettings {
    static SETTINGS: OnceLock<WebSettings> = OnceLock::new();
    SETTINGS.get_or_init(|| WebSettings {
        allowed_hosts: vec![SALON.to_owned(), format!("{}:{}", FRONT.0, FRONT.1)],
        trusted_proxies: vec![PROXY.into()],
        ..WebSettings::new(Country::parse("RU").expect("RU has telephones"))
    })
}

/// Whoever is let in names a place that a browser, too, would come to us for.
fn admission(headers: &HeaderMap, (client, https, origin): (IpAddr, bool, bool), by_proxy: bool) {
    let one = |name: &str| {
        let mut all = headers.get_all(name).iter();
        let first = all.next().map(|value| value.to_str().expect("text"));
        assert!(all.next().is_none() || first.is_none(), "{name} twice");
        first
    };
    let host = one("host").expect("a Host");
    let named = by_proxy.then(|| one("x-forwarded-host")).flatten();
    let scheme = if https { "https" } else { "http" };
    let url = format!("{scheme}://{}", named.unwrap_or(host));
    let url = Url::parse(&url).unwrap_or_else(|error| panic!("{url}: {error}"));
    assert!(
        url.username().is_empty() && url.password().is_none() && url.path() == "/",
        "{url}"
    );
    let port = url.port_or_known_default().expect("a port");
    // Behind a proxy the port is the proxy's.
    let our_port = by_proxy || port == OURS.1;
    let ours = match url.host().expect("a host") {
        Host::Domain(name) => {
            (name == FRONT.0 && port == FRONT.1)
                || (our_port && (name == SALON || own_names().iter().any(|own| own == name)))
        }
        Host::Ipv4(v4) => our_port && (v4.is_loopback() || v4.octets() == OURS.0),
        Host::Ipv6(v6) => {
            let ip = v6.to_canonical();
            our_port && (ip.is_loopback() || ip == IpAddr::from(OURS.0))
        }
    };
    assert!(ours, "{url} is not ours");
    match one("origin") {
        None => assert!(!origin),
        Some(text) => {
            assert!(origin);
            let theirs = Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(theirs.scheme(), scheme);
            let place = |url: &Url| {
                let ip = match url.host() {
                    Some(Host::Ipv4(v4)) => Some(IpAddr::V4(v4)),
                    Some(Host::Ipv6(v6)) => Some(v6.to_canonical()),
                    _ => None,
                };
                let name = url.domain().map(ToOwned::to_owned);
                (ip, name, url.port_or_known_default())
            };
            assert_eq!(place(&theirs), place(&url), "another place");
        }
    }
    if !by_proxy {
        assert!(!https && client == IpAddr::from(STRANGER), "as it came");
    } else if client != IpAddr::from(PROXY) {
        let mut said = headers.get_all("x-forwarded-for").iter();
        let client = client.to_string();
        assert!(
            said.any(|line| line.to_str().is_ok_and(|line| line
                .split(',')
                .filter_map(|one| one.trim().parse::<IpAddr>().ok())
                .any(|ip| ip.to_canonical().to_string() == client))),
            "{client} was not named"
        );
    }
}

/// Cookie, key and the smaller fields.
fn rest_of(headers: &HeaderMap, read: &Head) {
    let lines: Vec<&str> = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .collect();
    for (token, name) in read.tokens.iter().zip(["hairpin", "__Host-hairpin"]) {
        let pair = token.as_ref().map(|token| format!("{name}={token}"));
        let mut all = lines.iter().flat_map(|line| line.split(';'));
        let first = all.find(|pair| pair.trim_start().starts_with(&format!("{name}=")));
        assert_eq!(
            pair.as_deref(),
            first.map(str::trim),
            "the first of its name"
        );
    }
    if let Some(key) = &read.bearer {
        let mut all = headers.get_all(header::AUTHORIZATION).iter();
        let said = all.next().and_then(|value| value.to_str().ok());
        assert!(all.next().is_none(), "two keys are none");
        let (scheme, rest) = said.expect("text").split_at(7);
        assert!(scheme.eq_ignore_ascii_case("bearer ") && rest == key);
    }
    if let Some(agent) = &read.user_agent {
        assert!(agent.len() <= 120 && agent.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    }
    if read.json {
        let kind = headers[header::CONTENT_TYPE].to_str().expect("text");
        let form = [
            "application/x-www-form-urlencoded",
            "multipart/form-data",
            "text/plain",
        ];
        let essence = kind.split(';').next().unwrap_or_default().trim();
        assert!(essence.eq_ignore_ascii_case("application/json") && !form.contains(&essence));
    }
    if headers.contains_key("sec-fetch-site") {
        let site = headers["sec-fetch-site"].as_bytes();
        assert_eq!(
            read.cross_site,
            ![&b"same-origin"[..], b"none"].contains(&site)
        );
    }
    if let Some(upgrade) = headers.get(header::UPGRADE) {
        assert!(!read.upgrade || upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"));
    }
    if read.socket {
        assert!(headers.contains_key(header::SEC_WEBSOCKET_KEY));
        assert!(headers.contains_key(header::UPGRADE) && headers.contains_key(header::CONNECTION));
    }
    if let Some(lang) = read.lang {
        let liked = headers[header::ACCEPT_LANGUAGE].to_str().expect("text");
        assert!(liked.to_ascii_lowercase().contains(lang.tag()));
    }
}
