//! Owns the way of every request: refused here unless Host, Origin, route, method, key and body are right.
//! No handler sees what this file refuses, and every answer leaves through it with the same headers.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use warp::Filter as _;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::guard::{Admitted, Guard};
use super::problem::Problem;
use super::serve::{Arrival, stopped};
use super::throttle::Way;
use super::tls::Tls;
use super::{Door, Route, Wants, Web, api, assets, body, login, routes_of, ws};
use crate::access::Pass;
use crate::error::Code;
use crate::session::{Asker, By};
use crate::words::Lang;

/// What handlers know of a request beyond its own words.
#[derive(Debug, Clone)]
pub(super) struct Ctx {
    /// Whoever asks has the key, or a login.
    pub(super) pass: Option<Pass>,
    pub(super) client: IpAddr,
    pub(super) https: bool,
    pub(super) lang: Lang,
    pub(super) user_agent: Option<String>,
    pub(super) stop: watch::Receiver<bool>,
}

impl Ctx {
    /// Who asks, for the journal.
    pub(super) fn asker(&self, by: By) -> Asker {
        Asker {
            by,
            user_agent: self.user_agent.clone(),
        }
    }

    /// Returns once the key or the login of whoever asks is over; without either, never.
    pub(super) async fn pass_ended(&self) {
        match self.pass.clone() {
            Some(mut pass) => pass.ended().await,
            None => std::future::pending().await,
        }
    }
}

type Answering = Pin<Box<dyn Future<Output = Response> + Send>>;

/// The door.
pub(super) struct Edge {
    web: Arc<Web>,
    guard: Guard,
    filters: Box<dyn Fn(Request<Full<Bytes>>) -> Answering + Send + Sync>,
    stop: watch::Receiver<bool>,
}

impl Edge {
    pub(super) fn new(web: Arc<Web>, stop: watch::Receiver<bool>) -> Self {
        let filters = login::filters(&web)
            .or(api::filters(&web))
            .unify()
            .or(ws::filter(&web))
            .unify()
            .or(assets::filter(&web))
            .unify()
            .boxed();
        Self::with(web, stop, filters)
    }

    /// The door of what these filters answer.
    pub(super) fn with(
        web: Arc<Web>,
        stop: watch::Receiver<bool>,
        filters: BoxedFilter<(Response,)>,
    ) -> Self {
        let filters = filters
            .recover(|rejection: warp::Rejection| async move {
                // The route list let it through, so it is the query or the headers that a filter did not like.
                let problem = if rejection.is_not_found() {
                    Problem::not_found()
                } else {
                    Problem::bad_message()
                };
                Ok::<_, std::convert::Infallible>(problem.carried())
            })
            .unify();
        let service = TowerToHyperService::new(warp::service(filters));
        Self {
            guard: Guard::new(&web.settings),
            web,
            filters: Box::new(move |request| {
                let answer = service.call(request);
                Box::pin(async move {
                    match answer.await {
                        Ok(response) => response,
                        Err(never) => match never {},
                    }
                })
            }),
            stop,
        }
    }

    /// The certificate, where the listener speaks TLS.
    pub(super) fn tls(&self) -> Option<&Tls> {
        self.web.settings.tls.as_ref()
    }

    pub(super) fn is_proxy(&self, peer: IpAddr) -> bool {
        self.guard.is_proxy(peer)
    }

    /// Answers a request, whatever it is.
    pub(super) async fn answer(&self, request: Request<Incoming>, arrival: &Arrival) -> Response {
        let lang = self.lang(request.headers());
        let mut response = match self.admit(request, arrival, lang).await {
            Ok(response) => response,
            Err(problem) => problem.respond(lang),
        };
        dress(&mut response);
        response
    }

    async fn admit(
        &self,
        mut request: Request<Incoming>,
        arrival: &Arrival,
        lang: Lang,
    ) -> Result<Response, Problem> {
        if *request.method() == Method::HEAD {
            // hyper remembers, and leaves the body out.
            *request.method_mut() = Method::GET;
        }
        let admitted = self
            .guard
            .check(&request, arrival.peer.ip(), arrival.local)
            .ok_or_else(Problem::foreign)?;
        let (door, wants) = self.find_route(&request, &admitted).await?;
        let pass = self.pass(&request, &admitted, door).await?;
        if *self.stop.borrow() && door != Door::Open {
            return Err(Code::ShuttingDown.into());
        }
        let mut request = body::read(request, wants, self.web.settings.limits.body).await?;
        // The key may have been rotated, or the login ended, while the body was on its way.
        if pass.as_ref().is_some_and(Pass::is_over) {
            return Err(Problem::unauthorized());
        }
        // Only now: until here it cost the client nothing to keep us busy.
        let _busy = arrival.entry.busy();
        let ctx = Ctx {
            pass,
            client: admitted.client,
            https: admitted.https,
            lang,
            user_agent: user_agent(request.headers()),
            stop: self.stop.clone(),
        };
        request.extensions_mut().insert(ctx);
        let mut stop = self.stop.clone();
        let response = tokio::select! {
            biased; // an answer that is ready goes out even now
            response = (self.filters)(request.map(Full::new)) => response,
            () = stopped(&mut stop) => return Err(Code::ShuttingDown.into()),
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // It is a WebSocket from now on, which is busy until it closes.
            arrival.entry.busy_for_good();
        }
        Problem::uncarried(response)
    }

    /// Which door the request stands at.
    async fn find_route(
        &self,
        request: &Request<Incoming>,
        admitted: &Admitted,
    ) -> Result<(Door, Wants), Problem> {
        let path = request.uri().path();
        let method = request.method();
        check_upgrade(request.headers(), path)?;
        let mut routes: Vec<&Route> = routes_of(path).collect();
        if let Some(route) = routes.iter().find(|route| route.method == *method) {
            return Ok((route.door, route.wants));
        }
        if assets::exists(path) {
            return if *method == Method::GET {
                Ok((Door::Open, Wants::Nothing))
            } else {
                Err(Problem::method_not_allowed("GET, HEAD".to_owned()))
            };
        }
        // Strangers are not told what there is behind the door.
        if path.starts_with("/api/") || routes.iter().any(|route| route.door == Door::Key) {
            self.pass(request, admitted, Door::Key).await?;
        }
        if routes.is_empty() {
            return Err(Problem::not_found());
        }
        routes.sort_by_key(|route| route.method.as_str().to_owned());
        let mut allow: Vec<&str> = routes.iter().map(|route| route.method.as_str()).collect();
        if allow.contains(&"GET") {
            allow.push("HEAD");
        }
        Err(Problem::method_not_allowed(allow.join(", ")))
    }

    /// Checks the key or the login, where the door wants one or shows more to whoever has it.
    async fn pass(
        &self,
        request: &Request<Incoming>,
        admitted: &Admitted,
        door: Door,
    ) -> Result<Option<Pass>, Problem> {
        let headers = request.headers();
        if door != Door::OpenMoreWithKey && is_cross_site(headers) && !is_page(request) {
            return Err(Problem::foreign());
        }
        if door == Door::Open {
            return Ok(None);
        }
        let pass = if headers.contains_key(header::AUTHORIZATION) {
            self.by_bearer(headers, admitted.client).await
        } else {
            login::token(headers, admitted.https)
                .and_then(|token| self.web.access.by_token(token))
                .ok_or_else(Problem::unauthorized)
        };
        match (pass, door) {
            (Ok(pass), _) => {
                let is_socket = request.uri().path() == ws::PATH;
                if is_socket && pass.is_cookie() && !admitted.origin {
                    return Err(Problem::foreign());
                }
                Ok(Some(pass))
            }
            (Err(_), Door::OpenMoreWithKey) => Ok(None),
            (Err(problem), _) => Err(problem),
        }
    }

    async fn by_bearer(&self, headers: &HeaderMap, client: IpAddr) -> Result<Pass, Problem> {
        let key = bearer(headers).ok_or_else(Problem::unauthorized)?;
        let throttle = &self.web.throttle;
        throttle
            .admit(client, Way::Bearer, Instant::now())
            .map_err(Problem::too_many_keys)?;
        if let Some(pass) = self.web.access.by_key(key) {
            throttle.succeeded(client, Way::Bearer);
            return Ok(pass);
        }
        self.web.refuse_key(client, Way::Bearer).await;
        Err(Problem::unauthorized())
    }

    fn lang(&self, headers: &HeaderMap) -> Lang {
        liked(headers)
            .or(self.web.settings.language)
            .unwrap_or(Lang::En)
    }
}

impl std::fmt::Debug for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Edge").finish_non_exhaustive()
    }
}

/// Only the WebSocket is upgraded to, and only on its own path: no HTTP/2 slips past the door.
pub(super) fn check_upgrade(headers: &HeaderMap, path: &str) -> Result<(), Problem> {
    let Some(upgrade) = headers.get(header::UPGRADE) else {
        return Ok(());
    };
    if path == ws::PATH && upgrade.as_bytes().eq_ignore_ascii_case(b"websocket") {
        Ok(())
    } else {
        Err(Problem::upgrade())
    }
}

/// Whether a browser says that another site caused this.
pub(super) fn is_cross_site(headers: &HeaderMap) -> bool {
    headers
        .get("sec-fetch-site")
        .is_some_and(|site| site != "same-origin" && site != "none")
}

/// Following a link from elsewhere to the page itself is fine.
fn is_page<B>(request: &Request<B>) -> bool {
    let path = request.uri().path();
    assets::exists(path) || path == "/healthz"
}

pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(only), None) = (values.next(), values.next()) else {
        return None;
    };
    let (scheme, key) = only.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(key)
}

/// The language that a browser likes best, of those that we speak.
pub(super) fn liked(headers: &HeaderMap) -> Option<Lang> {
    let value = headers.get(header::ACCEPT_LANGUAGE)?;
    value.to_str().ok().and_then(Lang::of_header)
}

/// The user agent, shortened, in plain ASCII.
pub(super) fn user_agent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::USER_AGENT)?.as_bytes();
    let plain = text.iter().copied().filter(|b| (b' '..=b'~').contains(b));
    Some(plain.take(120).map(char::from).collect())
}

/// The headers that every answer carries.
fn dress(response: &mut Response) {
    const ALWAYS: [(HeaderName, &str); 7] = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
             manifest-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("permissions-policy"),
            "camera=(), geolocation=(), microphone=(), payment=(), usb=(), clipboard-write=(self)",
        ),
    ];
    let headers = response.headers_mut();
    for (name, value) in ALWAYS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
}
