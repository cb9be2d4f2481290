//! Owns the page's files, which live inside the binary, once as they are and once gzipped.

use std::borrow::Cow;
use std::fmt::Write as _;

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};
use rust_embed::{EmbeddedFile, RustEmbed};
use sha2::{Digest as _, Sha256};
use warp::Filter as _;
use warp::Reply as _;
use warp::filters::BoxedFilter;
use warp::path::FullPath;
use warp::reply::Response;

use super::problem::empty;
use super::{Web, WebSettings};
use crate::words::Lang;

#[derive(RustEmbed)]
#[folder = "static/"]
struct Files;

/// The files again, gzipped before compiling: `(name, bytes)` of those that got smaller by it.
const GZIPPED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/gzipped.rs"));

const PAGE: &str = "/index.html";

/// Where the page finds what the settings say.
const HOUSE: &str = "/js/house.js";
const LANGUAGE: &str = "language: ''";
const COUNTRY: &str = "country: 'RU'";

/// One file, ready to be sent.
#[derive(Clone)]
struct Asset {
    body: Cow<'static, [u8]>,
    gzipped: Option<&'static [u8]>,
    kind: &'static str,
    etag: String,
}

/// Whether a path is one of the page's files.
pub(super) fn exists(path: &str) -> bool {
    find(path).is_some()
}

/// The page's files, each by its path. What is no file of it is left to the other filters' refusals.
pub(super) fn filter(web: &Web) -> BoxedFilter<(Response,)> {
    let house = house(&web.settings);
    warp::get()
        .and(warp::path::full())
        .and(warp::header::headers_cloned())
        .and_then(move |path: FullPath, headers: HeaderMap| {
            let asset = match path.as_str() {
                HOUSE => house.clone(),
                path => find(path).map(Asset::new),
            };
            let answer = asset.map(|asset| asset.answer(&headers));
            std::future::ready(answer.ok_or_else(warp::reject::not_found))
        })
        .boxed()
}

/// The file that tells the page the settings' language and country.
fn house(settings: &WebSettings) -> Option<Asset> {
    let found = find(HOUSE)?;
    let text = String::from_utf8_lossy(&found.file.data);
    let language = settings.language.map_or("", Lang::tag);
    let country = settings.country.code();
    let text = text
        .replacen(LANGUAGE, &format!("language: '{language}'"), 1)
        .replacen(COUNTRY, &format!("country: '{country}'"), 1);
    Some(Asset {
        gzipped: None,
        kind: found.kind,
        etag: hex(&Sha256::digest(text.as_bytes())),
        body: Cow::Owned(text.into_bytes()),
    })
}

struct Found {
    file: EmbeddedFile,
    name: String,
    kind: &'static str,
}

/// The file of a path; a file of no known type (notes, dot files) is no part of the page.
fn find(path: &str) -> Option<Found> {
    let name = match path {
        "/" => PAGE,
        path => path,
    };
    let name = name.strip_prefix('/')?;
    let kind = content_type(name)?;
    Some(Found {
        file: Files::get(name)?,
        name: name.to_owned(),
        kind,
    })
}

impl Asset {
    fn new(found: Found) -> Self {
        let gzipped = GZIPPED.iter().find(|(name, _)| *name == found.name);
        Self {
            gzipped: gzipped.map(|(_, bytes)| *bytes),
            kind: found.kind,
            etag: hex(&found.file.metadata.sha256_hash()),
            body: found.file.data,
        }
    }

    fn answer(self, headers: &HeaderMap) -> Response {
        let gzipped = self.gzipped.filter(|_| takes_gzip(headers));
        // Other bytes, another tag.
        let way = if gzipped.is_some() { "-gzip" } else { "" };
        let etag = format!("\"{}{way}\"", self.etag);
        let mut response = if is_known(headers, &etag) {
            empty(StatusCode::NOT_MODIFIED)
        } else {
            let mut response = match (gzipped, self.body) {
                (Some(bytes), _) | (None, Cow::Borrowed(bytes)) => bytes.into_response(),
                (None, Cow::Owned(bytes)) => bytes.into_response(),
            };
            let sent = response.headers_mut();
            sent.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
            if gzipped.is_some() {
                sent.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            response
        };
        let headers = response.headers_mut();
        // Names carry no version, so a browser asks each time and is mostly told 304.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if self.gzipped.is_some() {
            headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        }
        // Quoted hex is a valid header.
        if let Ok(etag) = HeaderValue::from_str(&etag) {
            headers.insert(header::ETAG, etag);
        }
        response
    }
}

fn hex(hash: &[u8]) -> String {
    let mut hex = String::with_capacity(32);
    for byte in hash.iter().take(16) {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == etag || tag == "*")
}

/// Whether gzip is asked for by its name, or by `*`, and not refused with `q=0`.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let mut any = false;
    for line in headers.get_all(header::ACCEPT_ENCODING) {
        for way in line.to_str().unwrap_or_default().split(',') {
            let (name, weight) = way.split_once(';').unwrap_or((way, ""));
            let weight = weight.trim().strip_prefix("q=").unwrap_or("1");
            let wanted = weight.parse::<f32>().is_ok_and(|weight| weight > 0.0);
            match name.trim() {
                name if name.eq_ignore_ascii_case("gzip") => return wanted,
                "*" => any = wanted,
                _ => {}
            }
        }
    }
    any
}

fn content_type(name: &str) -> Option<&'static str> {
    let (_, extension) = name.rsplit_once('.')?;
    Some(match extension {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "webmanifest" => "application/manifest+json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "txt" => "text/plain; charset=utf-8",
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
