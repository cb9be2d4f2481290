//! Owns how a refusal looks over HTTP: RFC 9457 problem details with our codes.
//! It must never carry what the client sent.

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderName, HeaderValue};
use serde::Serialize;
use warp::Reply as _;
use warp::reply::Response;

use crate::access::AccessError;
use crate::error::Code;
use crate::phone::PhoneError;
use crate::secret;
use crate::session::RequestError;
use crate::words::{self, Lang};

/// What a handler comes back with.
pub(super) type Outcome = Result<Response, Problem>;

/// A handler's answer on its way out of the filters.
pub(super) fn carry(outcome: Outcome) -> Response {
    outcome.unwrap_or_else(Problem::carried)
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    status: StatusCode,
    /// Boxed: refusals travel in results, and are rare.
    error: Box<RequestError>,
    allow: Option<String>,
    /// Whether the connection ends with it, because the rest of the request is not worth reading.
    last: bool,
}

/// The body. `message` says the same as `detail`: it is the name that the WebSocket and the terminal use.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Details<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: Code,
    reason: Option<&'static str>,
    message: &'a str,
    retry_after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    old_phone: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link_id: Option<&'a str>,
}

impl Problem {
    pub(super) fn unauthorized() -> Self {
        Code::Unauthorized.into()
    }

    pub(super) fn foreign() -> Self {
        Self {
            last: true,
            ..Code::ForbiddenOrigin.into()
        }
    }

    pub(super) fn bad_message() -> Self {
        Code::BadMessage.into()
    }

    pub(super) fn not_found() -> Self {
        Self::shape(StatusCode::NOT_FOUND, "not_found")
    }

    pub(super) fn method_not_allowed(allow: String) -> Self {
        Self {
            allow: Some(allow),
            ..Self::shape(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed")
        }
    }

    pub(super) fn content_type() -> Self {
        Self {
            last: true,
            ..Self::shape(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type")
        }
    }

    pub(super) fn too_large() -> Self {
        Self {
            last: true,
            ..Self::shape(StatusCode::PAYLOAD_TOO_LARGE, "too_large")
        }
    }

    pub(super) fn too_slow() -> Self {
        Self {
            last: true,
            ..Self::shape(StatusCode::REQUEST_TIMEOUT, "too_slow")
        }
    }

    pub(super) fn upgrade() -> Self {
        Self::shape(StatusCode::BAD_REQUEST, "upgrade")
    }

    pub(super) fn bad_id() -> Self {
        Self::shape(StatusCode::UNPROCESSABLE_ENTITY, "bad_id")
    }

    pub(super) fn bad_name() -> Self {
        Self::shape(StatusCode::UNPROCESSABLE_ENTITY, "bad_name")
    }

    pub(super) fn default_session() -> Self {
        Self::shape(StatusCode::CONFLICT, "default_session")
    }

    pub(super) fn too_many_keys(wait: u64) -> Self {
        Self::from(RequestError {
            reason: Some("login"),
            retry_after: Some(wait),
            ..Code::RateLimited.into()
        })
    }

    /// Inside an answer, as far as the edge: only the edge knows the language.
    pub(super) fn carried(self) -> Response {
        let mut response = empty(self.status);
        response.extensions_mut().insert(self);
        response
    }

    /// What [`Self::carried`] put in.
    pub(super) fn uncarried(mut response: Response) -> Outcome {
        match response.extensions_mut().remove::<Self>() {
            Some(problem) => Err(problem),
            None => Ok(response),
        }
    }

    fn shape(status: StatusCode, reason: &'static str) -> Self {
        Self {
            status,
            ..Self::from(RequestError {
                reason: Some(reason),
                ..Code::BadMessage.into()
            })
        }
    }

    /// The answer, in a language.
    pub(super) fn respond(&self, lang: Lang) -> Response {
        let message = words::message(self.error.code, self.error.reason, lang);
        let details = Details {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: message,
            code: self.error.code,
            reason: self.error.reason,
            message,
            retry_after: self.error.retry_after,
            old_phone: self.error.old_phone.as_deref(),
            link_id: self.error.link_id.as_deref(),
        };
        let mut response = json(self.status, &details);
        let headers = response.headers_mut();
        let mut set = |name: HeaderName, value: Result<HeaderValue, _>| {
            // All of these are short ASCII, so none is refused as a header.
            if let Ok(value) = value {
                headers.insert(name, value);
            }
        };
        set(header::CONTENT_TYPE, "application/problem+json".parse());
        set(header::CONTENT_LANGUAGE, lang.tag().parse());
        if let Some(wait) = self.error.retry_after {
            set(header::RETRY_AFTER, wait.to_string().parse());
        }
        if let Some(allow) = &self.allow {
            set(header::ALLOW, allow.parse());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            set(header::WWW_AUTHENTICATE, "Bearer realm=\"hairpin\"".parse());
        }
        if self.last {
            set(header::CONNECTION, "close".parse());
        }
        response
    }
}

impl From<RequestError> for Problem {
    fn from(error: RequestError) -> Self {
        // Every status in the contract is a valid one.
        let status = StatusCode::from_u16(error.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self {
            status,
            error: Box::new(error),
            allow: None,
            last: false,
        }
    }
}

impl From<PhoneError> for Problem {
    fn from(error: PhoneError) -> Self {
        phone_refusal(error).into()
    }
}

impl From<Code> for Problem {
    fn from(code: Code) -> Self {
        RequestError::from(code).into()
    }
}

impl From<AccessError> for Problem {
    fn from(error: AccessError) -> Self {
        tracing::error!(%error, "a login could not be made");
        Code::Internal.into()
    }
}

/// A number's refusal, as over the WebSocket too.
pub(super) fn phone_refusal(error: PhoneError) -> RequestError {
    RequestError {
        reason: Some(error.reason()),
        ..error.code().into()
    }
}

/// A JSON answer; it may hold a code or a number, so it is zeroed when it has been sent.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let body = Bytes::from_owner(secret::json(value));
    let mut response = http::Response::new(body).into_response();
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response {
    status.into_response()
}
