//! The page over TLS, and the command that makes a certificate for it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use futures_util::SinkExt as _;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::rig::{ANNA, Rig};
use crate::web_support::{Answer, read_answer};

/// `hairpin tls-self-signed` in a folder.
fn self_signed(folder: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hairpin"))
        .args(["tls-self-signed", "--data-dir"])
        .arg(folder)
        .args(more)
        .env_clear()
        .output()
        .expect("run")
}

fn said(output: &Output) -> String {
    let bytes = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8(bytes).expect("text")
}

/// An appliance that serves HTTPS with a pair made by the program itself.
async fn with_tls(folder: &Path) -> Rig {
    let made = self_signed(folder, &[]);
    assert!(made.status.success(), "{}", said(&made));
    let at = |name| folder.join(name).display().to_string();
    Rig::with(&[
        ("web.tls_cert", &at("tls-cert.pem")),
        ("web.tls_key", &at("tls-key.pem")),
    ])
    .await
}

/// A client that trusts this certificate and no other.
async fn connect(address: SocketAddr, cert: &Path) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(cert).expect("a certificate"))
        .expect("trusted");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::from(address.ip());
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

async fn ask(rig: &Rig, cert: &Path, head: &str, body: &str) -> Answer {
    let mut stream = connect(rig.address, cert).await.expect("TLS");
    let request = format!(
        "{head}\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        rig.address,
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    read_answer(&mut stream).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_its_login_and_its_socket_work_over_tls_and_nothing_works_without() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut rig = with_tls(folder.path()).await;
    let cert = folder.path().join("tls-cert.pem");
    let address = rig.address;
    let shown = rig.appliance.as_ref().expect("running").open_address();
    assert!(
        shown
            .reveal()
            .starts_with(&format!("https://{address}/#key="))
    );
    let page = ask(&rig, &cert, "GET / HTTP/1.1", "").await;
    assert_eq!(page.status, 200);

    let key = json!({ "accessKey": rig.key }).to_string();
    let post = "POST /login HTTP/1.1\r\nContent-Type: application/json";
    let from = |scheme: &str| format!("{post}\r\nOrigin: {scheme}://{address}");
    let refused = ask(&rig, &cert, &from("http"), &key).await;
    assert_eq!(refused.status, 403, "that origin is another one");
    let login = ask(&rig, &cert, &from("https"), &key).await;
    assert_eq!(login.status, 204);
    let cookie = login.headers["set-cookie"].clone();
    assert!(cookie.starts_with("__Host-hairpin=") && cookie.contains("; Secure"));

    let (pair, _) = cookie.split_once(';').expect("attributes");
    let mut request = format!("wss://{address}/ws?session=salon")
        .into_client_request()
        .expect("a request");
    for (name, value) in [("cookie", pair), ("origin", &format!("https://{address}"))] {
        let value = value.parse().expect("a value");
        request.headers_mut().insert(
            http::HeaderName::from_bytes(name.as_bytes()).expect("a name"),
            value,
        );
    }
    let stream = connect(address, &cert).await.expect("TLS");
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream)
        .await
        .expect("upgraded");
    let order = json!({ "event": "request-pairing-code", "data": { "phoneNumber": ANNA } });
    socket
        .send(Message::text(order.to_string()))
        .await
        .expect("sent");
    let code = loop {
        let frame = futures_util::StreamExt::next(&mut socket).await;
        let frame = frame.expect("open").expect("a frame");
        let Message::Text(text) = frame else { continue };
        let frame: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        if frame["event"] == "pairing-code" {
            break frame["data"]["code"].as_str().expect("a code").to_owned();
        }
    };
    rig.sim.phone(ANNA).enter_code(&code).await.expect("linked");

    // Who forgets the `s` is told, and gets nothing else.
    let mut plain = TcpStream::connect(address).await.expect("connected");
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\n\r\n");
    plain.write_all(request.as_bytes()).await.expect("sent");
    let answer = read_answer(&mut plain).await;
    assert_eq!(answer.status, 400);
    assert!(String::from_utf8_lossy(&answer.body).contains("https://"));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_changes_is_served_by_the_next_handshake_and_never_half() {
    let (folder, next) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut rig = with_tls(folder.path()).await;
    assert!(self_signed(next.path(), &[]).status.success());
    let at = |name: &str| folder.path().join(name);
    let (old, new) = (
        folder.path().join("old.pem"),
        next.path().join("tls-cert.pem"),
    );
    fs::copy(at("tls-cert.pem"), &old).expect("copied");
    let mut open = connect(rig.address, &old).await.expect("TLS");

    // The key alone would be half of a pair.
    fs::copy(next.path().join("tls-key.pem"), at("tls-key.pem")).expect("copied");
    connect(rig.address, &old).await.expect("the old one still");
    assert!(connect(rig.address, &new).await.is_err());
    fs::write(at("tls-cert.pem"), "-----BEGIN CERTIFICATE-----\n").expect("written");
    connect(rig.address, &old).await.expect("the old one still");
    fs::remove_file(at("tls-cert.pem")).expect("removed");
    connect(rig.address, &old).await.expect("the old one still");

    fs::copy(&new, at("tls-cert.pem")).expect("copied");
    connect(rig.address, &new).await.expect("the new one");
    assert!(connect(rig.address, &old).await.is_err());
    // Whoever is connected notices nothing.
    let request = format!(
        "GET /healthz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        rig.address
    );
    open.write_all(request.as_bytes()).await.expect("sent");
    assert_eq!(read_answer(&mut open).await.status, 200);
    rig.stop().await;
}

#[test]
fn the_command_makes_a_pair_for_this_machine_and_never_replaces_one_unasked() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let made = self_signed(&data, &["salon.example", "192.0.2.7"]);
    let told = said(&made);
    assert!(made.status.success(), "{told}");
    let (cert, key) = (data.join("tls-cert.pem"), data.join("tls-key.pem"));
    for path in [&cert, &key] {
        let rights = fs::metadata(path).expect("written").permissions();
        assert_eq!(rights.mode() & 0o777, 0o600, "{}", path.display());
        assert!(told.contains(&path.display().to_string()));
    }
    for name in [
        "localhost",
        "127.0.0.1",
        "::1",
        "salon.example",
        "192.0.2.7",
    ] {
        assert!(told.contains(name), "{name}: {told}");
    }
    // As another program reads it.
    let openssl = |args: &[&str]| {
        let output = Command::new("openssl")
            .args(["x509", "-noout", "-in"])
            .arg(&cert)
            .args(args)
            .output()
            .expect("openssl");
        said(&output)
    };
    let shown = openssl(&["-fingerprint", "-sha256"]);
    let (_, fingerprint) = shown.trim().split_once('=').expect("a fingerprint");
    assert!(told.contains(&format!("SHA-256 fingerprint: {fingerprint}")));
    let names = openssl(&["-ext", "subjectAltName,basicConstraints"]);
    assert!(names.contains("DNS:salon.example") && names.contains("IP Address:192.0.2.7"));
    assert!(names.contains("CA:FALSE"));
    assert!(
        openssl(&["-checkend", "71193600"]).contains("will not expire"),
        "824 days"
    );
    assert!(
        openssl(&["-checkend", "71366400"]).contains("will expire"),
        "826 days"
    );

    let before = fs::read(&cert).expect("there");
    let again = self_signed(&data, &[]);
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again).contains("--force"), "{}", said(&again));
    assert_eq!(fs::read(&cert).expect("there"), before);
    assert!(self_signed(&data, &["--force"]).status.success());
    assert_ne!(fs::read(&cert).expect("there"), before);

    let bad = self_signed(&data, &["--force", "s\u{e4}lon"]);
    assert_eq!(bad.status.code(), Some(2));
    assert_eq!(said(&bad).lines().count(), 1, "{}", said(&bad));
}

#[test]
fn serving_with_a_pair_that_is_none_ends_with_2_and_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let serve = |cert: &Path, key: &Path| {
        let output = Command::new(env!("CARGO_BIN_EXE_hairpin"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(folder.path().join("data"))
            .env_clear()
            .env("HAIRPIN_WEB_TLS_CERT", cert)
            .env("HAIRPIN_WEB_TLS_KEY", key)
            .output()
            .expect("run");
        (output.status.code(), said(&output))
    };
    let none = folder.path().join("none.pem");
    let (code, told) = serve(&none, &none);
    assert_eq!(code, Some(2), "{told}");
    assert!(
        told.contains("web.tls_cert: ") && told.contains("cannot be read"),
        "{told}"
    );
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(!folder.path().join("data").exists(), "nothing was begun");
}
