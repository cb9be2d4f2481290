//! The settings file: the whole input is one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use hairpin::config::{Settings, Sources};

/// Settings that are good for something, and that say so again in other words; or one line that names the file.
pub fn run(input: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("hairpin.toml");
    let read = |text: &[u8]| {
        std::fs::write(&path, text).expect("written");
        Settings::read(&Sources {
            file: Some(path.clone()),
            flags: BTreeMap::new(),
            env: BTreeMap::from([("HOME".to_owned(), "/home/salon".to_owned())]),
        })
    };
    let said = match read(input) {
        Err(error) => error.to_string(),
        Ok(settings) => {
            sound(&settings);
            let again = read(written(&settings).as_bytes()).expect("what was read is right");
            assert_eq!(written(&again), written(&settings), "in other words");
            match settings.may_serve() {
                Ok(()) => return,
                Err(error) => error.to_string(),
            }
        }
    };
    assert!(super::is_one_plain_line(&said), "not a line: {said:?}");
    assert!(said.len() < 1024 + input.len() * 6, "endless: {said}");
    let path = path.display().to_string();
    assert!(
        said.starts_with(&path) || said.starts_with("settings: "),
        "of no place: {said}"
    );
}

fn sound(settings: &Settings) {
    assert!(
        settings.code_grace < settings.code_ttl,
        "a code that is never shown"
    );
    assert!((1..=10_000).contains(&settings.sessions_max));
    assert!(settings.requests_per_number <= 10_000);
    assert!(settings.connect_timeout >= Duration::from_secs(1));
    let alone = settings.listen.ip().is_loopback();
    let safe = alone || settings.tls.is_some() || settings.plain_http;
    assert_eq!(settings.may_serve().is_ok(), safe, "the key in the clear");
    for host in &settings.allowed_hosts {
        assert!(!host.is_empty() && !host.contains('/'), "{host:?}");
    }
    if let Some(url) = &settings.whatsapp_url {
        let parsed = url::Url::parse(url).expect("an address");
        let alone = match parsed.host().expect("a host") {
            url::Host::Domain(name) => name == "localhost",
            url::Host::Ipv4(v4) => v4.is_loopback(),
            url::Host::Ipv6(v6) => IpAddr::V6(v6).is_loopback(),
        };
        assert!(
            parsed.scheme() == "wss" || (parsed.scheme() == "ws" && alone),
            "{url}"
        );
    }
}

/// The same settings as a file.
fn written(settings: &Settings) -> String {
    let text = |text: &str| toml::Value::from(text).to_string();
    let path = |path: &PathBuf| text(path.to_str().expect("it came from text"));
    let list = |all: Vec<String>| toml::Value::from(all).to_string();
    let proxies = settings.trusted_proxies.iter().map(IpAddr::to_string);
    let mut file = String::new();
    let mut say = |key: &str, value: String| writeln!(file, "{key} = {value}").expect("memory");
    say("listen", text(&settings.listen.to_string()));
    say("data_dir", path(&settings.data_dir));
    say("control_socket", path(&settings.control_socket));
    say("country", text(&settings.country.code()));
    say(
        "language",
        text(settings.language.as_deref().unwrap_or("auto")),
    );
    say(
        "log.format",
        text(if settings.log_json { "json" } else { "text" }),
    );
    say("sessions.max", settings.sessions_max.to_string());
    say("web.allowed_hosts", list(settings.allowed_hosts.clone()));
    say("web.plain_http", settings.plain_http.to_string());
    if let Some((cert, key)) = &settings.tls {
        say("web.tls_cert", path(cert));
        say("web.tls_key", path(key));
    }
    say("web.trusted_proxies", list(proxies.collect()));
    say("pairing.code_ttl", settings.code_ttl.as_secs().to_string());
    say(
        "pairing.code_grace",
        settings.code_grace.as_secs().to_string(),
    );
    say(
        "pairing.requests_per_number",
        settings.requests_per_number.to_string(),
    );
    if let Some(url) = &settings.whatsapp_url {
        say("whatsapp.url", text(url));
    }
    say(
        "whatsapp.connect_timeout",
        settings.connect_timeout.as_secs().to_string(),
    );
    file
}
