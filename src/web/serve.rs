//! Owns the accept loop and the stop: HTTP/1.1 only, with a deadline for every head, and no connection left behind.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::conns::{Conns, Entry, Slot};
use super::edge::Edge;
use super::peer::Peer;
use super::{Limits, Web};

/// How long open connections may take to end.
const STOP: Duration = Duration::from_millis(800);
/// How long dropped tasks may take to be gone.
const GONE: Duration = Duration::from_millis(150);
/// Between two looks for logins whose time is over.
const SWEEP: Duration = Duration::from_secs(30);
/// After an accept that failed (no file descriptors left): ending connections give some back.
const BREATHE: Duration = Duration::from_millis(50);
/// hyper wants 8 KiB at least; a head that is longer is refused.
const HEAD_BYTES: usize = 16 * 1024;
const HEADERS: usize = 64;

/// Where a connection arrived, and from whom.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) entry: Arc<Entry>,
}

/// Returns when the program stops: the flag is up, or whoever could raise it is gone.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Serves the page until `stop` becomes true; returns within a second of that, with every connection gone.
pub async fn serve(listener: TcpListener, web: Arc<Web>, stop: watch::Receiver<bool>) {
    let edge = Edge::new(Arc::clone(&web), stop.clone());
    serve_edge(listener, &web, edge, stop).await;
}

/// The same behind any door.
pub(super) async fn serve_edge(
    listener: TcpListener,
    web: &Web,
    edge: Edge,
    mut stop: watch::Receiver<bool>,
) {
    let edge = Arc::new(edge);
    let limits = web.settings.limits.clone();
    let conns = Conns::new(limits.clone());
    let mut asked = web.asked.subscribe();
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            // Never an error: its sender lives in what this holds.
            _ = asked.changed() => {
                web.answered.send_replace(*asked.borrow_and_update());
            }
            _ = sweep.tick() => web.access.sweep(),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let shared = edge.is_proxy(peer.ip());
                    // With no slot the stream is dropped here: everybody inside is at work.
                    if let Some(slot) = conns.admit(peer.ip().to_canonical(), shared) {
                        open(stream, peer, slot, &edge, &limits, stop.clone());
                    }
                    // Let the connections read before the next one may make them give way.
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection could not be accepted");
                    tokio::time::sleep(BREATHE).await;
                }
            }
        }
    }
    drop(listener);
    conns.begin_stop();
    if tokio::time::timeout(STOP, conns.empty()).await.is_err() {
        conns.end_all();
        // Whoever is not gone by now is only being dropped.
        let _ = tokio::time::timeout(GONE, conns.empty()).await;
    }
}

fn open(
    stream: TcpStream,
    peer: SocketAddr,
    slot: Slot,
    edge: &Arc<Edge>,
    limits: &Limits,
    stop: watch::Receiver<bool>,
) {
    // Fails only if the client has gone already.
    let Ok(local) = stream.local_addr() else {
        return;
    };
    // Answers are small and written whole; waiting for more would only delay them.
    let _ = stream.set_nodelay(true);
    let arrival = Arrival {
        peer,
        local,
        entry: Arc::clone(slot.entry()),
    };
    let socket = Peer::new(stream, slot, limits.stall);
    tokio::spawn(drive(socket, arrival, Arc::clone(edge), limits.head, stop));
}

async fn drive(
    mut socket: Peer,
    arrival: Arrival,
    edge: Arc<Edge>,
    head: Duration,
    mut stop: watch::Receiver<bool>,
) {
    // Whoever says nothing gets no buffers.
    let spoke = tokio::select! {
        biased;
        () = arrival.entry.killed() => return,
        () = stopped(&mut stop) => return,
        first = tokio::time::timeout(head, socket.first_byte()) => first,
    };
    if !matches!(spoke, Ok(Ok(_))) {
        return;
    }
    // Boxed: each takes only its own room, and only once it is needed.
    if edge.tls().is_some() {
        Box::pin(shake(socket, arrival, edge, head, stop)).await;
    } else {
        Box::pin(converse(socket, arrival, edge, head, stop)).await;
    }
}

/// Speaks TLS first.
async fn shake(
    socket: Peer,
    arrival: Arrival,
    edge: Arc<Edge>,
    head: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let Some(tls) = edge.tls() else {
        return;
    };
    let entry = Arc::clone(&arrival.entry);
    let socket = tokio::select! {
        biased;
        () = entry.killed() => return,
        () = stopped(&mut stop) => return,
        shaken = tokio::time::timeout(head, tls.accept(socket)) => match shaken {
            Ok(Ok(socket)) => socket,
            // Too slow, or no TLS: the client's affair, so it is not logged.
            _ => return,
        }
    };
    converse(socket, arrival, edge, head, stop).await;
}

async fn converse<S>(
    socket: S,
    arrival: Arrival,
    edge: Arc<Edge>,
    head: Duration,
    mut stop: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let entry = Arc::clone(&arrival.entry);
    let service = service_fn(move |request| {
        let (edge, arrival) = (Arc::clone(&edge), arrival.clone());
        // Boxed: hyper keeps room for an answer even while nothing is asked.
        Box::pin(
            async move { Ok::<_, std::convert::Infallible>(edge.answer(request, &arrival).await) },
        )
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    tokio::pin!(connection);
    // What goes wrong on a connection is the client's affair (a bad head, a reset), so it is not logged.
    tokio::select! {
        biased;
        () = entry.killed() => {}
        _ = connection.as_mut() => {}
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                () = entry.killed() => {}
                _ = connection.as_mut() => {}
            }
        }
    }
}
