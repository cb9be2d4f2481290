//! Owns the reading of a request's body: small, in time, and JSON or nothing.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use zeroize::Zeroize as _;

use super::Wants;
use super::problem::Problem;

/// The largest body, and the largest WebSocket message.
pub(super) const LARGEST: usize = 4 * 1024;

/// Reads the body of a request, whose content type has to be JSON if there is one.
pub(super) async fn read(
    request: Request<Incoming>,
    wants: Wants,
    time: Duration,
) -> Result<Request<Bytes>, Problem> {
    let (parts, body) = request.into_parts();
    let empty = body.is_end_stream();
    let typed = parts.headers.contains_key(header::CONTENT_TYPE);
    let must_be_json = typed || !empty || wants == Wants::Json;
    if must_be_json && !is_json(&parts.headers) {
        return Err(Problem::content_type());
    }
    if body.size_hint().lower() > LARGEST as u64 {
        return Err(Problem::too_large());
    }
    let read = Limited::new(body, LARGEST).collect();
    match tokio::time::timeout(time, read).await {
        Ok(Ok(body)) => Ok(Request::from_parts(parts, body.to_bytes())),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::too_large()),
        // The client broke off or sent nonsense; it will hardly read this.
        Ok(Err(_)) => Err(Problem::bad_message()),
        Err(_) => Err(Problem::too_slow()),
    }
}

/// The shape a body was asked to have.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    Fields::parse(body)
        .and_then(|fields| T::deserialize(&fields.0).ok())
        .ok_or_else(Problem::bad_message)
}

/// A JSON object that somebody sent: an object and nothing else, where serde would take a list of the fields for
/// one as well. A number or a key may stand in it, so it is zeroed when dropped.
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        // The parser's own words may quote the text, so they go nowhere.
        serde_json::from_slice(text).ok().map(Self)
    }

    /// A field; null is as good as none.
    pub(super) fn get(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }
}

impl Drop for Fields {
    fn drop(&mut self) {
        wipe(&mut Value::Object(std::mem::take(&mut self.0)));
    }
}

/// Zeroes all text in it. The parser bounds how deep it goes.
fn wipe(value: &mut Value) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
        Value::String(text) => text.zeroize(),
        Value::Array(values) => values.iter_mut().for_each(wipe),
        Value::Object(fields) => {
            for (mut name, mut value) in std::mem::take(fields) {
                name.zeroize();
                wipe(&mut value);
            }
        }
    }
}

pub(super) fn is_json(headers: &HeaderMap) -> bool {
    if headers.contains_key(header::CONTENT_ENCODING) {
        return false;
    }
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(only), None) = (types.next(), types.next()) else {
        return false;
    };
    let Ok(text) = only.to_str() else {
        return false;
    };
    let mut pieces = text.split(';').map(str::trim);
    let essence = pieces.next().unwrap_or_default();
    essence.eq_ignore_ascii_case("application/json")
        && pieces.all(|p| {
            p.eq_ignore_ascii_case("charset=utf-8") || p.eq_ignore_ascii_case("charset=\"utf-8\"")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_the_fields_is_no_object() {
        #[derive(serde::Deserialize)]
        struct One {
            name: String,
        }
        let good: One = parse(br#"{"name":"a"}"#).map_err(drop).expect("an object");
        assert_eq!(good.name, "a");
        for bad in [
            &br#"["a"]"#[..],
            br#""a""#,
            b"{}",
            b"",
            br#"{"name":"a"} 1"#,
        ] {
            assert!(parse::<One>(bad).is_err());
        }
    }

    #[test]
    fn what_somebody_sent_is_zeroed() {
        let mut value = serde_json::json!(["hp-KEY", {"a": "79001234567"}, 7, null]);
        wipe(&mut value);
        assert_eq!(value, serde_json::json!(["", {}, 7, null]));
    }

    #[test]
    fn only_json_is_json() {
        for (text, right) in [
            ("application/json", true),
            ("Application/JSON; charset=UTF-8", true),
            ("application/json; charset=koi8-r", false),
            ("application/x-www-form-urlencoded", false),
            ("text/plain", false),
            ("application/json, text/plain", false),
            ("application/jsonp", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, text.parse().expect("a header"));
            assert_eq!(is_json(&headers), right, "{text}");
            headers.append(header::CONTENT_TYPE, text.parse().expect("a header"));
            assert!(!is_json(&headers), "twice {text}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
