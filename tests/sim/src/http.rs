//! Owns the door: accepting sockets, the WebSocket upgrade, and which path goes where.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::server::Sim;
use crate::{conn, ctl};

pub(crate) type Body = Full<Bytes>;

/// Accepts until stopped; then every connection has been cut. Aborting it cuts them too, but some time later.
pub(crate) async fn accept_loop(
    listener: TcpListener,
    handle: impl Fn() -> Option<Sim>,
    stop: Arc<Notify>,
) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let Some(sim) = handle() else { return };
                    tasks.spawn(serve(sim, stream));
                }
                // Out of file descriptors, most likely: wait for some to come back.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = tasks.join_next() => {}
            () = stop.notified() => break,
        }
    }
    drop(listener);
    tasks.shutdown().await;
}

async fn serve(sim: Sim, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let inner = Arc::clone(&sim.inner);
    // Holds the upgraded socket, so that its life goes on in this very task.
    let upgraded: Arc<Mutex<Option<OnUpgrade>>> = Arc::default();
    let slot = Arc::clone(&upgraded);
    let service = service_fn(move |request| {
        let (sim, slot) = (sim.clone(), Arc::clone(&slot));
        async move { Ok::<_, Infallible>(route(&sim, request, &slot).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    let upgrade = upgraded
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    if let (Ok(()), Some(upgrade)) = (served, upgrade)
        && let Ok(socket) = upgrade.await
    {
        conn::run(inner, socket).await;
    }
}

async fn route(
    sim: &Sim,
    mut request: Request<Incoming>,
    slot: &Mutex<Option<OnUpgrade>>,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    if path == "/ws/chat" {
        let Some(accept) = accept_key(&request) else {
            return text(StatusCode::UPGRADE_REQUIRED, "a WebSocket is spoken here");
        };
        *slot.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(hyper::upgrade::on(&mut request));
        return Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_ACCEPT, accept)
            .body(Body::default())
            .unwrap_or_else(|_| text(StatusCode::BAD_REQUEST, "bad key"));
    }
    // A page in a browser must not be able to play the person.
    if request.headers().contains_key("origin") {
        return text(StatusCode::FORBIDDEN, "not for browsers");
    }
    match path.strip_prefix("/ctl/") {
        Some(what) => ctl::answer(sim, what.to_owned(), request).await,
        None => text(StatusCode::NOT_FOUND, "see /ws/chat and /ctl/"),
    }
}

fn accept_key(request: &Request<Incoming>) -> Option<String> {
    let headers = request.headers();
    let wants = headers
        .get(UPGRADE)?
        .to_str()
        .ok()?
        .eq_ignore_ascii_case("websocket");
    let key = headers.get(SEC_WEBSOCKET_KEY)?;
    (wants && request.method() == Method::GET).then(|| derive_accept_key(key.as_bytes()))
}

pub(crate) fn text(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{text}\n")));
    *response.status_mut() = status;
    response
}
