//! Owns the web layer: the one list of everything that answers, and who may ask it.
//! It never opens the store; whatever it knows of sessions comes through [`Sessions`].
//!
//! A request's way: `serve` (sockets, limits) → `edge` (Host and Origin, this list, key, body) → `filters`
//! (warp: one endpoint family per file) → `edge` again (headers every answer carries).

mod api;
mod assets;
mod body;
mod conns;
#[cfg(test)]
mod echo;
mod edge;
mod guard;
mod login;
mod pages;
mod peer;
mod port;
#[doc(hidden)]
pub mod probe;
mod problem;
mod qr;
mod serve;
mod throttle;
mod tls;
mod wire;
mod ws;
mod ws_message;
mod ws_page;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use tokio::sync::watch;

use crate::access::Access;
use crate::phone::Country;
use crate::words::Lang;
use pages::Pages;
use throttle::Throttle;

pub use guard::{is_authority, own_names};
pub use port::Sessions;
pub use serve::serve;
pub use tls::{Tls, TlsError};

/// Who may ask a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Anybody whose Host and Origin are right.
    Open,
    /// Anybody, and whoever has the key is told more.
    OpenMoreWithKey,
    /// Whoever has the key or a login.
    Key,
}

/// What a route wants in its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// Nothing.
    Nothing,
    /// One JSON object.
    Json,
}

/// One thing that answers.
#[derive(Debug)]
pub struct Route {
    /// The method; `GET` answers `HEAD` too.
    pub method: Method,
    /// The path; `{id}` stands for one segment.
    pub path: &'static str,
    /// Who may ask.
    pub door: Door,
    /// What body it takes.
    pub wants: Wants,
}

const fn route(method: Method, path: &'static str, door: Door, wants: Wants) -> Route {
    Route {
        method,
        path,
        door,
        wants,
    }
}

/// Everything that answers but the page's own files. What is not in it is refused before any handler sees it.
pub const ROUTES: &[Route] = &[
    route(Method::POST, "/login", Door::Open, Wants::Json),
    route(Method::POST, "/logout", Door::Key, Wants::Nothing),
    route(Method::GET, "/ws", Door::Key, Wants::Nothing),
    route(Method::POST, "/api/v1/phone", Door::Key, Wants::Json),
    route(Method::GET, "/api/v1/sessions", Door::Key, Wants::Nothing),
    route(
        Method::GET,
        "/api/v1/sessions/{id}",
        Door::Key,
        Wants::Nothing,
    ),
    route(Method::PUT, "/api/v1/sessions/{id}", Door::Key, Wants::Json),
    route(
        Method::DELETE,
        "/api/v1/sessions/{id}",
        Door::Key,
        Wants::Nothing,
    ),
    route(
        Method::DELETE,
        "/api/v1/sessions/{id}/link",
        Door::Key,
        Wants::Nothing,
    ),
    route(
        Method::POST,
        "/api/v1/sessions/{id}/reconnect",
        Door::Key,
        Wants::Nothing,
    ),
    route(
        Method::POST,
        "/api/v1/sessions/{id}/pairing-code",
        Door::Key,
        Wants::Json,
    ),
    route(
        Method::DELETE,
        "/api/v1/sessions/{id}/pairing-code",
        Door::Key,
        Wants::Nothing,
    ),
    route(Method::GET, "/api/v1/audit", Door::Key, Wants::Nothing),
    route(Method::GET, "/api/v1/metrics", Door::Key, Wants::Nothing),
    route(Method::GET, "/metrics", Door::Key, Wants::Nothing),
    route(Method::GET, "/openapi.json", Door::Key, Wants::Nothing),
    route(Method::GET, "/healthz", Door::Open, Wants::Nothing),
    route(
        Method::GET,
        "/readyz",
        Door::OpenMoreWithKey,
        Wants::Nothing,
    ),
];

/// What the settings say about the web.
#[derive(Debug, Clone)]
pub struct WebSettings {
    /// How numbers without a country code are read.
    pub country: Country,
    /// The language of the page, unless it follows the browser.
    pub language: Option<Lang>,
    /// Further names the page answers to, with a port where it is not our own.
    pub allowed_hosts: Vec<String>,
    /// Addresses whose `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<IpAddr>,
    /// The certificate, where the listener speaks TLS.
    pub tls: Option<Tls>,
    /// Times and sizes.
    pub limits: Limits,
}

/// Times and sizes that keep one client from harming another.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For a request's head, and for an idle connection.
    pub head: Duration,
    /// For a request's body.
    pub body: Duration,
    /// For a client to take anything of what it is sent.
    pub stall: Duration,
    /// Between two pings of a WebSocket.
    pub ping: Duration,
    /// Without a sign of life from a WebSocket.
    pub silence: Duration,
    /// Idle connections of one address, once they are older than `young`.
    pub idle_per_address: usize,
    /// Idle connections of one address whatever their age: a burst of clients is no attack.
    pub idle_per_address_at_once: usize,
    /// Idle connections in all.
    pub idle: usize,
    /// Connections in all, busy ones included.
    pub connections: usize,
    /// WebSockets of one client; people have a few tabs, and behind one address there may be a whole salon.
    pub sockets_per_client: usize,
    /// How long a new connection may idle before it counts against its address.
    pub young: Duration,
    /// Messages a WebSocket may send at once; it earns a quarter of them back each second.
    pub messages: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(5),
            body: Duration::from_secs(10),
            stall: Duration::from_secs(10),
            ping: Duration::from_secs(20),
            silence: Duration::from_secs(50),
            idle_per_address: 8,
            idle_per_address_at_once: 128,
            idle: 224,
            connections: 512,
            sockets_per_client: 64,
            young: Duration::from_secs(1),
            messages: 20,
        }
    }
}

impl WebSettings {
    /// Plain HTTP, the browser's language, no further names, no proxy.
    #[must_use]
    pub fn new(country: Country) -> Self {
        Self {
            country,
            language: None,
            allowed_hosts: Vec::new(),
            trusted_proxies: Vec::new(),
            tls: None,
            limits: Limits::default(),
        }
    }
}

/// What the web layer counts, for the metrics.
#[derive(Debug, Default)]
pub struct Counts {
    websockets: AtomicI64,
    login_failures: AtomicU64,
}

impl Counts {
    /// WebSockets that are open now.
    #[must_use]
    pub fn websockets(&self) -> i64 {
        // Relaxed: a gauge that orders nothing.
        self.websockets.load(Ordering::Relaxed)
    }

    /// Wrong keys since the start.
    #[must_use]
    pub fn login_failures(&self) -> u64 {
        // Relaxed: a counter that orders nothing.
        self.login_failures.load(Ordering::Relaxed)
    }
}

/// Everything the web layer works with.
pub struct Web {
    sessions: Arc<dyn Sessions>,
    access: Arc<Access>,
    settings: WebSettings,
    counts: Arc<Counts>,
    throttle: Throttle,
    /// How often the accept loop was asked whether it turns, and the last question that it answered.
    asked: watch::Sender<u64>,
    answered: watch::Sender<u64>,
    pages: Arc<Pages>,
}

impl Web {
    /// Puts it together; `counts` is shared with whoever shows the metrics.
    #[must_use]
    pub fn new(
        sessions: Arc<dyn Sessions>,
        access: Arc<Access>,
        settings: WebSettings,
        counts: Arc<Counts>,
    ) -> Self {
        Self {
            sessions,
            access,
            settings,
            counts,
            throttle: Throttle::default(),
            asked: watch::Sender::new(0),
            answered: watch::Sender::new(0),
            pages: Arc::default(),
        }
    }

    /// Whether the accept loop turns: true once it says so. Nobody answers while nobody serves.
    pub async fn turns(&self) -> bool {
        let mut asked = 0;
        self.asked.send_modify(|count| {
            *count += 1;
            asked = *count;
        });
        let mut answered = self.answered.subscribe();
        answered.wait_for(|count| *count >= asked).await.is_ok()
    }
}

impl std::fmt::Debug for Web {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Web")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// The routes of a path, whatever their method.
fn routes_of(path: &str) -> impl Iterator<Item = &'static Route> + '_ {
    ROUTES.iter().filter(move |route| matches(route.path, path))
}

fn matches(pattern: &str, path: &str) -> bool {
    let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return true,
            (Some("{id}"), Some(segment)) if !segment.is_empty() => {}
            (Some(wanted), Some(segment)) if wanted == segment => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_belongs_to_a_route_only_whole() {
        let found = |path| routes_of(path).count();
        assert_eq!(found("/api/v1/sessions/salon"), 3);
        assert_eq!(found("/api/v1/sessions/"), 0);
        assert_eq!(found("/api/v1/sessions/salon/"), 0);
        assert_eq!(found("/api/v1/sessions/salon/link/more"), 0);
        assert_eq!(found("//api/v1/sessions"), 0);
        assert_eq!(found("/"), 0);
    }
}
