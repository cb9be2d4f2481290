//! Owns the page's files, which live inside the binary.

use std::borrow::Cow;
use std::fmt::Write as _;

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};
use rust_embed::{EmbeddedFile, RustEmbed};
use warp::Filter as _;
use warp::Reply as _;
use warp::filters::BoxedFilter;
use warp::path::FullPath;
use warp::reply::Response;

use super::problem::empty;

#[derive(RustEmbed)]
#[folder = "static/"]
struct Files;

/// Whether a path is one of the page's files.
pub(super) fn exists(path: &str) -> bool {
    find(path).is_some()
}

/// The page's files, each by its path. What is no file of it is left to the other filters' refusals.
pub(super) fn filter() -> BoxedFilter<(Response,)> {
    warp::get()
        .and(warp::path::full())
        .and(warp::header::headers_cloned())
        .and_then(|path: FullPath, headers: HeaderMap| {
            std::future::ready(answer(path.as_str(), &headers).ok_or_else(warp::reject::not_found))
        })
        .boxed()
}

/// The file of a path and its type; a file of no known type (notes, dot files) is no part of the page.
fn find(path: &str) -> Option<(EmbeddedFile, &'static str)> {
    let name = match path.strip_prefix('/')? {
        "" => "index.html",
        name => name,
    };
    let kind = content_type(name)?;
    Some((Files::get(name)?, kind))
}

fn answer(path: &str, headers: &HeaderMap) -> Option<Response> {
    let (file, kind) = find(path)?;
    let etag = etag(&file);
    let mut response = if is_known(headers, &etag) {
        empty(StatusCode::NOT_MODIFIED)
    } else {
        let mut response = match file.data {
            Cow::Borrowed(bytes) => bytes.into_response(),
            Cow::Owned(bytes) => bytes.into_response(),
        };
        let kind = HeaderValue::from_static(kind);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    };
    let headers = response.headers_mut();
    // Names carry no version, so a browser asks each time and is mostly told 304.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Quoted hex is a valid header.
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    Some(response)
}

fn etag(file: &EmbeddedFile) -> String {
    let hash = file.metadata.sha256_hash();
    let mut etag = String::with_capacity(34);
    etag.push('"');
    for byte in &hash[..16] {
        // Writing to a string cannot fail.
        let _ = write!(etag, "{byte:02x}");
    }
    etag.push('"');
    etag
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
