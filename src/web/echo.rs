//! Owns, in tests only, a WebSocket that sends back what it is sent, over our own accept loop, door and handshake:
//! what Autobahn's suite talks to (`tests/autobahn/run`).

use std::process::Stdio;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{SinkExt as _, StreamExt as _};
use http::HeaderMap;
use hyper::upgrade::OnUpgrade;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio_tungstenite::tungstenite::Message;
use warp::Filter as _;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::edge::Edge;
use super::problem::carry;
use super::serve::serve_edge;
use super::ws::{self, Close, Socket};
use super::{Counts, Sessions, Web, WebSettings};
use crate::access::Access;
use crate::phone::Country;
use crate::session::{Asker, CodeRequest, PairingCode, RequestError, SessionEvent, Status, View};

/// The largest message of the suite has 16 MiB.
const MOST: usize = 17 << 20;

/// All of it but compression.
const CASES: usize = 301;

/// An echo has no sessions, and nobody asks it for any.
struct Nothing;

#[async_trait]
impl Sessions for Nothing {
    fn list(&self) -> Vec<Status> {
        Vec::new()
    }
    fn view(&self, _: &str) -> Option<View> {
        None
    }
    fn subscribe(&self, _: &str) -> Option<(View, broadcast::Receiver<SessionEvent>)> {
        None
    }
    async fn request_code(&self, _: &str, _: CodeRequest) -> Result<PairingCode, RequestError> {
        unreachable!()
    }
    async fn cancel(&self, _: &str, _: Asker) -> Result<(), RequestError> {
        unreachable!()
    }
    async fn reconnect(&self, _: &str, _: Asker) -> Result<(), RequestError> {
        unreachable!()
    }
    async fn unlink(&self, _: &str, _: Asker) -> Result<(), RequestError> {
        unreachable!()
    }
    async fn put(&self, _: &str, _: &str) -> Result<bool, RequestError> {
        unreachable!()
    }
    async fn remove(&self, _: &str, _: Asker) -> Result<(), RequestError> {
        unreachable!()
    }
    fn audit(&self, _: Option<&str>, _: usize) -> Result<Value, RequestError> {
        unreachable!()
    }
    fn healthy(&self) -> bool {
        true
    }
    fn metrics_json(&self) -> Value {
        Value::Null
    }
    fn metrics_text(&self) -> String {
        String::new()
    }
}

async fn echo(mut socket: Socket) {
    loop {
        let over = match socket.next().await {
            None => Close::Gone,
            Some(Err(error)) => ws::broken(&error),
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                match socket.send(message).await {
                    Ok(()) => continue,
                    Err(_) => Close::Gone,
                }
            }
            Some(Ok(message)) if message.is_close() => Close::Gone,
            // Pings are answered while the next message is waited for.
            Some(Ok(_)) => continue,
        };
        return ws::part(&mut socket, over).await;
    }
}

fn filter() -> BoxedFilter<(Response,)> {
    warp::path!("ws")
        .and(warp::header::headers_cloned())
        .and(warp::ext::optional::<OnUpgrade>())
        .map(|headers: HeaderMap, upgrade: Option<OnUpgrade>| {
            carry(
                ws::begin(&headers, upgrade, MOST).map(|(response, socket)| {
                    tokio::spawn(async move {
                        if let Some(socket) = socket.await {
                            echo(socket).await;
                        }
                    });
                    response
                }),
            )
        })
        .boxed()
}

/// Hands every connection on with the key and our own name in its head, neither of which the suite can say.
async fn with_key(listener: TcpListener, to: std::net::SocketAddr, key: String) {
    loop {
        let (mut client, _) = listener.accept().await.expect("accepted");
        let mut server = TcpStream::connect(to).await.expect("connected");
        let key = key.clone();
        tokio::spawn(async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match client.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => return,
                }
            }
            let head = String::from_utf8(head).expect("text");
            let lines = head.trim_end().lines().map(|line| {
                if line.to_ascii_lowercase().starts_with("host:") {
                    format!("Host: {to}\r\nAuthorization: Bearer {key}\r\n")
                } else {
                    format!("{line}\r\n")
                }
            });
            let head = lines.collect::<String>() + "\r\n";
            if server.write_all(head.as_bytes()).await.is_ok() {
                // However it ends, the suite has seen it.
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/autobahn/run brings the suite"]
async fn autobahns_suite_fails_in_no_case() {
    let suite = std::env::var("HAIRPIN_AUTOBAHN").expect("the suite's program");
    let reports = tempfile::tempdir().expect("a folder");
    let data = tempfile::tempdir().expect("a folder");
    let access = Arc::new(Access::open(data.path()).expect("a key"));
    let key = access.key().reveal().to_owned();
    let country = Country::parse("RU").expect("a country");
    let settings = WebSettings::new(country);
    let web = Web::new(
        Arc::new(Nothing),
        access,
        settings,
        Arc::new(Counts::default()),
    );
    let web = Arc::new(web);
    let (stop, stopping) = watch::channel(false);
    let edge = Edge::with(Arc::clone(&web), stopping.clone(), filter());
    let ours = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let front = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let to = ours.local_addr().expect("an address");
    let address = front.local_addr().expect("an address");
    let served = tokio::spawn(async move { serve_edge(ours, &web, edge, stopping).await });
    let handing = tokio::spawn(with_key(front, to, key));

    let suite = tokio::process::Command::new(suite)
        .args(["--mode", "fuzzingclient", "--parallelism", "4"])
        // Of compression, which we do not offer.
        .args(["--exclude", "12.*", "--exclude", "13.*", "--outdir"])
        .arg(reports.path())
        .arg(format!("ws://{address}/ws"))
        .stdout(Stdio::inherit())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .status()
        .await
        .expect("run");
    handing.abort();
    stop.send_replace(true);
    served.await.expect("no panic");

    let index = std::fs::read(reports.path().join("index.json")).expect("a report");
    let index: Value = serde_json::from_slice(&index).expect("JSON");
    let agents: Vec<&Value> = index.as_object().expect("agents").values().collect();
    let cases = agents
        .iter()
        .flat_map(|agent| agent.as_object().expect("cases"));
    let mut counts = std::collections::BTreeMap::<(String, String), Vec<&String>>::new();
    for (case, verdict) in cases {
        let verdict = |field: &str| verdict[field].as_str().expect("a verdict").to_owned();
        let both = (verdict("behavior"), verdict("behaviorClose"));
        counts.entry(both).or_default().push(case);
    }
    let mut all = 0;
    for ((behaviour, close), cases) in &counts {
        all += cases.len();
        println!("{behaviour}, closing {close}: {}", cases.len());
        let good = ["OK", "NON-STRICT", "INFORMATIONAL"];
        assert!(
            good.contains(&behaviour.as_str()) && ["OK", "INFORMATIONAL"].contains(&close.as_str()),
            "{behaviour}, closing {close}: {cases:?}"
        );
    }
    assert!(suite.success());
    assert_eq!(all, CASES, "cases were run");
}
