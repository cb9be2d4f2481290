//! Owns logging in and out, and the cookie.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};
use serde::Deserialize;
use warp::Filter as _;
use warp::filters::BoxedFilter;
use warp::reply::Response;
use zeroize::Zeroizing;

use super::Web;
use super::body;
use super::edge::Ctx;
use super::problem::{Outcome, Problem, carry, empty};
use super::throttle::Way;
use crate::secret::SecretText;

/// The prefix makes browsers insist on TLS, on this host and on the whole path.
const COOKIE_TLS: &str = "__Host-hairpin";
const COOKIE: &str = "hairpin";
/// How long a logout may wait for the disk.
const SETTLE: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Login {
    access_key: SecretText,
}

/// `POST /login` and `POST /logout`.
pub(super) fn filters(web: &Arc<Web>) -> BoxedFilter<(Response,)> {
    let (for_login, for_logout) = (Arc::clone(web), Arc::clone(web));
    let login = warp::path!("login")
        .and(warp::post())
        .and(warp::ext::get::<Ctx>())
        .and(warp::body::bytes())
        .then(move |ctx: Ctx, body: Bytes| {
            let web = Arc::clone(&for_login);
            async move { carry(web.login(&ctx, &body).await) }
        });
    let logout = warp::path!("logout")
        .and(warp::post())
        .and(warp::ext::get::<Ctx>())
        .then(move |ctx: Ctx| {
            let web = Arc::clone(&for_logout);
            async move { web.logout(&ctx).await }
        });
    login.or(logout).unify().boxed()
}

/// The token in the cookie that fits the way the request came.
pub(super) fn token(headers: &HeaderMap, https: bool) -> Option<&str> {
    let wanted = cookie_name(https);
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == wanted).then_some(value))
}

const fn cookie_name(https: bool) -> &'static str {
    if https { COOKIE_TLS } else { COOKIE }
}

fn cookie(token: &str, https: bool) -> Option<HeaderValue> {
    let name = cookie_name(https);
    let secure = if https { "; Secure" } else { "" };
    // Without a token it removes the cookie.
    let age = if token.is_empty() { "; Max-Age=0" } else { "" };
    let text = Zeroizing::new(format!(
        "{name}={token}; Path=/; HttpOnly; SameSite=Strict{secure}{age}"
    ));
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl Web {
    /// Counts a wrong key, and holds its refusal back a little.
    pub(super) async fn refuse_key(&self, client: IpAddr, way: Way) {
        // Relaxed: a counter that orders nothing.
        self.counts.login_failures.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%client, ?way, "a wrong access key was presented");
        let hold = self.throttle.failed(client, way, Instant::now());
        tokio::time::sleep(hold).await;
    }

    async fn login(&self, ctx: &Ctx, body: &[u8]) -> Outcome {
        let Login { access_key } = body::parse(body)?;
        self.throttle
            .admit(ctx.client, Way::Login, Instant::now())
            .map_err(Problem::too_many_keys)?;
        let Some(token) = self.access.login(access_key.reveal())? else {
            self.refuse_key(ctx.client, Way::Login).await;
            return Err(Problem::unauthorized());
        };
        self.throttle.succeeded(ctx.client, Way::Login);
        let mut response = empty(StatusCode::NO_CONTENT);
        // A token is base64 text, which every header takes.
        if let Some(cookie) = cookie(token.reveal(), ctx.https) {
            response.headers_mut().insert(header::SET_COOKIE, cookie);
        }
        Ok(response)
    }

    async fn logout(&self, ctx: &Ctx) -> Response {
        if let Some(pass) = &ctx.pass {
            self.access.logout(pass);
            // Over is over, also if the power goes right after the answer.
            let _ = tokio::time::timeout(SETTLE, self.access.settled()).await;
        }
        let mut response = empty(StatusCode::NO_CONTENT);
        if let Some(cookie) = cookie("", ctx.https) {
            response.headers_mut().insert(header::SET_COOKIE, cookie);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_is_closed_to_scripts_and_other_sites() {
        let plain = cookie("abc", false).expect("a header");
        assert_eq!(plain, "hairpin=abc; Path=/; HttpOnly; SameSite=Strict");
        let tls = cookie("abc", true).expect("a header");
        assert_eq!(
            tls,
            "__Host-hairpin=abc; Path=/; HttpOnly; SameSite=Strict; Secure"
        );
        let gone = cookie("", false).expect("a header");
        assert_eq!(
            gone,
            "hairpin=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"
        );
    }

    #[test]
    fn the_token_is_found_among_other_cookies() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=b; hairpinx=no"));
        headers.append(
            header::COOKIE,
            HeaderValue::from_static("c; __Host-hairpin=tls; hairpin=yes"),
        );
        assert_eq!(token(&headers, false), Some("yes"));
        assert_eq!(token(&headers, true), Some("tls"));
        assert_eq!(token(&HeaderMap::new(), false), None);
    }
}
