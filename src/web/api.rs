//! Owns the HTTP API: what each route answers once the edge has let a request in.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use warp::Filter as _;
use warp::Reply as _;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::Web;
use super::body;
use super::edge::Ctx;
use super::problem::{Outcome, Problem, carry, empty, json};
use super::wire::{CodeData, PhoneData};
use crate::error::Code;
use crate::phone::{Country, Phone, PhoneError};
use crate::secret::SecretText;
use crate::session::{self, By, CodeRequest, RequestError, State, Status};

const OPENAPI: &str = include_str!("openapi.json");
/// Carries a number as its country writes it.
const GROUPED: HeaderName = HeaderName::from_static("hairpin-number");
/// Entries of the journal when nobody says how many, and at most: it keeps no more.
const AUDIT: usize = 100;
const AUDIT_MOST: usize = 10_000;

#[derive(Deserialize)]
struct PhoneBody {
    number: SecretText,
    country: Option<String>,
}

/// A request for a code, by the API or the WebSocket.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CodeBody {
    pub(super) phone_number: SecretText,
    pub(super) country: Option<String>,
    pub(super) replace: Option<String>,
}

#[derive(Deserialize)]
struct NameBody {
    name: String,
}

#[derive(Deserialize)]
struct AuditQuery {
    session: Option<String>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    sessions: Option<Vec<SessionState>>,
}

#[derive(Serialize)]
struct SessionState {
    session: String,
    state: State,
}

/// All of the API. The list in `mod.rs` says what may be asked; here stands who answers.
pub(super) fn filters(web: &Arc<Web>) -> BoxedFilter<(Response,)> {
    let here = Arc::clone(web);
    let web = warp::any().map(move || Arc::clone(&here));
    let ctx = warp::ext::get::<Ctx>;
    let body = warp::body::bytes;
    let session = || warp::path!("api" / "v1" / "sessions" / String);
    let link = || warp::path!("api" / "v1" / "sessions" / String / "link");
    let code = || warp::path!("api" / "v1" / "sessions" / String / "pairing-code");
    let again = || warp::path!("api" / "v1" / "sessions" / String / "reconnect");

    let phone = warp::path!("api" / "v1" / "phone")
        .and(warp::post())
        .and(web.clone())
        .and(body())
        .map(|web: Arc<Web>, body: Bytes| carry(web.phone(&body)));
    let list = warp::path!("api" / "v1" / "sessions")
        .and(warp::get())
        .and(web.clone())
        .map(|web: Arc<Web>| json(StatusCode::OK, &web.sessions.list()));
    let one = session()
        .and(warp::get())
        .and(web.clone())
        .map(|id: String, web: Arc<Web>| carry(web.status(&id).map(|s| json(StatusCode::OK, &s))));
    let put =
        session()
            .and(warp::put())
            .and(web.clone())
            .and(body())
            .then(|id: String, web: Arc<Web>, body: Bytes| async move {
                carry(web.put(&id, &body).await)
            });
    let remove = session()
        .and(warp::delete())
        .and(web.clone())
        .and(ctx())
        .then(
            |id: String, web: Arc<Web>, ctx: Ctx| async move { carry(web.remove(&id, &ctx).await) },
        );
    let unlink = link().and(warp::delete()).and(web.clone()).and(ctx()).then(
        |id: String, web: Arc<Web>, ctx: Ctx| async move {
            let done = web.sessions.unlink(&id, ctx.asker(By::Api)).await;
            carry(answered(done, StatusCode::NO_CONTENT))
        },
    );
    let reconnect = again().and(warp::post()).and(web.clone()).and(ctx()).then(
        |id: String, web: Arc<Web>, ctx: Ctx| async move {
            let done = web.sessions.reconnect(&id, ctx.asker(By::Api)).await;
            carry(answered(done, StatusCode::ACCEPTED))
        },
    );
    let request = code()
        .and(warp::post())
        .and(web.clone())
        .and(ctx())
        .and(body())
        .then(
            |id: String, web: Arc<Web>, ctx: Ctx, body: Bytes| async move {
                carry(web.request_code(&id, &ctx, &body).await)
            },
        );
    let cancel = code().and(warp::delete()).and(web.clone()).and(ctx()).then(
        |id: String, web: Arc<Web>, ctx: Ctx| async move {
            let done = web.sessions.cancel(&id, ctx.asker(By::Api)).await;
            carry(answered(done, StatusCode::NO_CONTENT))
        },
    );
    let sessions = list.or(one).unify().or(put).unify().or(remove).unify();
    let links = unlink
        .or(reconnect)
        .unify()
        .or(request)
        .unify()
        .or(cancel)
        .unify();
    sessions
        .or(links)
        .unify()
        .or(phone)
        .unify()
        .or(reports(&web.boxed()))
        .unify()
        .boxed()
}

/// Routes that only tell how things are.
fn reports(web: &BoxedFilter<(Arc<Web>,)>) -> BoxedFilter<(Response,)> {
    let audit = warp::path!("api" / "v1" / "audit")
        .and(warp::get())
        .and(web.clone())
        .and(warp::query::<AuditQuery>())
        .map(|web: Arc<Web>, query: AuditQuery| carry(web.audit(&query)));
    let metrics = warp::path!("api" / "v1" / "metrics")
        .and(warp::get())
        .and(web.clone())
        .map(|web: Arc<Web>| json(StatusCode::OK, &web.sessions.metrics_json()));
    let metrics_text = warp::path!("metrics")
        .and(warp::get())
        .and(web.clone())
        .map(|web: Arc<Web>| {
            let text = web.sessions.metrics_text();
            typed(text, "text/plain; version=0.0.4; charset=utf-8")
        });
    let openapi = warp::path!("openapi.json")
        .and(warp::get())
        .map(|| typed(OPENAPI.to_owned(), "application/json"));
    let health = warp::path!("healthz")
        .and(warp::get())
        .and(web.clone())
        .map(|web: Arc<Web>| web.health());
    let ready = warp::path!("readyz")
        .and(warp::get())
        .and(web.clone())
        .and(warp::ext::get::<Ctx>())
        .map(|web: Arc<Web>, ctx: Ctx| web.ready(&ctx));
    let told = audit.or(metrics).unify().or(metrics_text).unify();
    told.or(openapi)
        .unify()
        .or(health)
        .unify()
        .or(ready)
        .unify()
        .boxed()
}

impl Web {
    /// Reads a number as the settings and the asker's country say.
    pub(super) fn parse_phone(
        &self,
        number: &str,
        country: Option<&str>,
    ) -> Result<Phone, PhoneError> {
        let country = match country {
            Some(code) => Country::parse(code)?,
            None => self.settings.country,
        };
        Phone::parse(number, country)
    }

    fn phone(&self, body: &[u8]) -> Outcome {
        let PhoneBody { number, country } = body::parse(body)?;
        let phone = self.parse_phone(number.reveal(), country.as_deref())?;
        let mut response = json(StatusCode::OK, &PhoneData::of(&phone));
        // For the eye only, so it stands beside what `hairpin phone --json` says. It is ASCII text.
        if let Ok(mut grouped) = HeaderValue::from_str(phone.international().reveal()) {
            grouped.set_sensitive(true);
            response.headers_mut().insert(GROUPED, grouped);
        }
        Ok(response)
    }

    fn status(&self, id: &str) -> Result<Status, Problem> {
        let view = self.sessions.view(id).ok_or(Code::NoSuchSession)?;
        Ok(view.status)
    }

    async fn put(&self, id: &str, body: &[u8]) -> Outcome {
        if !is_session_id(id) {
            return Err(Problem::bad_id());
        }
        let NameBody { name } = body::parse(body)?;
        let name = name.trim();
        let length = name.chars().count();
        if !(1..=64).contains(&length) || name.chars().any(char::is_control) {
            return Err(Problem::bad_name());
        }
        let added = self.sessions.put(id, name).await?;
        let status = if added {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        let mut response = match self.sessions.view(id) {
            Some(view) => json(status, &view.status),
            // Somebody removed it meanwhile.
            None => empty(status),
        };
        // An id is plain ASCII, which every header takes.
        if added && let Ok(location) = HeaderValue::from_str(&format!("/api/v1/sessions/{id}")) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        Ok(response)
    }

    async fn remove(&self, id: &str, ctx: &Ctx) -> Outcome {
        if id == session::DEFAULT {
            return Err(Problem::default_session());
        }
        let done = self.sessions.remove(id, ctx.asker(By::Api)).await;
        answered(done, StatusCode::NO_CONTENT)
    }

    async fn request_code(&self, id: &str, ctx: &Ctx, body: &[u8]) -> Outcome {
        let CodeBody {
            phone_number,
            country,
            replace,
        } = body::parse(body)?;
        // An unknown session is told before a wrong number: it is the address that is wrong.
        self.status(id)?;
        let phone = self.parse_phone(phone_number.reveal(), country.as_deref())?;
        let request = CodeRequest {
            phone,
            replace,
            asker: ctx.asker(By::Api),
        };
        let code = tokio::select! {
            biased; // whoever has lost the key or the login is shown no code, not even one that is ready
            () = ctx.pass_ended() => return Err(Problem::unauthorized()),
            code = self.sessions.request_code(id, request) => code?,
        };
        Ok(json(StatusCode::OK, &CodeData::now(id, &code)))
    }

    fn audit(&self, query: &AuditQuery) -> Outcome {
        let limit = query.limit.unwrap_or(AUDIT).min(AUDIT_MOST);
        let entries = self.sessions.audit(query.session.as_deref(), limit)?;
        Ok(json(StatusCode::OK, &entries))
    }

    fn health(&self) -> Response {
        if self.sessions.healthy() {
            json(StatusCode::OK, &Health { status: "ok" })
        } else {
            let health = Health {
                status: "unavailable",
            };
            json(StatusCode::SERVICE_UNAVAILABLE, &health)
        }
    }

    fn ready(&self, ctx: &Ctx) -> Response {
        let sessions = self.sessions.list();
        let ready = is_ready(&sessions);
        let told = ctx.pass.is_some().then(|| {
            let states = sessions.into_iter().map(|s| SessionState {
                session: s.session,
                state: s.state,
            });
            states.collect()
        });
        let status = if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        let readiness = Readiness {
            ready,
            sessions: told,
        };
        json(status, &readiness)
    }
}

/// At least one link, and every one of them connected.
fn is_ready(sessions: &[Status]) -> bool {
    let mut connected = 0;
    for status in sessions {
        match status.state {
            State::Connected => connected += 1,
            State::Unlinked
            | State::Connecting
            | State::AwaitingCodeEntry
            | State::AwaitingScan
            | State::Linking
            | State::PasskeyRequired => {}
            // A slot without a link may be refused without anything being missed.
            State::Failed | State::Banned | State::Locked | State::Outdated
                if status.phone.is_none() => {}
            State::Failed
            | State::Reconnecting
            | State::LoggedOut
            | State::Replaced
            | State::Banned
            | State::Locked
            | State::Outdated
            | State::HalfLinked
            | State::StoreUnavailable => return false,
        }
    }
    connected > 0
}

fn is_session_id(id: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=32).contains(&id.len()) && !id.starts_with('-') && id.bytes().all(allowed)
}

fn answered(done: Result<(), RequestError>, status: StatusCode) -> Outcome {
    Ok(done.map(|()| empty(status))?)
}

fn typed(text: String, kind: &'static str) -> Response {
    let mut response = text.into_response();
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests;
