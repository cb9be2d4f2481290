//! Owns the page's files, which live inside the binary.

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

const PAGE: &str = "/index.html";

/// Where the page finds what the settings say.
const LANGUAGE: &str = "data-language=\"\"";
const COUNTRY: &str = "data-country=\"RU\"";

/// One file, ready to be sent.
#[derive(Clone)]
struct Asset {
    body: Cow<'static, [u8]>,
    kind: &'static str,
    etag: String,
}

/// Whether a path is one of the page's files.
pub(super) fn exists(path: &str) -> bool {
    find(path).is_some()
}

/// The page's files, each by its path. What is no file of it is left to the other filters' refusals.
pub(super) fn filter(web: &Web) -> BoxedFilter<(Response,)> {
    let page = page(&web.settings);
    warp::get()
        .and(warp::path::full())
        .and(warp::header::headers_cloned())
        .and_then(move |path: FullPath, headers: HeaderMap| {
            let asset = match path.as_str() {
                "/" | PAGE => page.clone(),
                path => find(path).map(|(file, kind)| {
                    let hash = file.metadata.sha256_hash();
                    Asset::new(file.data, kind, &hash)
                }),
            };
            let answer = asset.map(|asset| asset.answer(&headers));
            std::future::ready(answer.ok_or_else(warp::reject::not_found))
        })
        .boxed()
}

/// The page itself, with the settings' language and country written into it.
fn page(settings: &WebSettings) -> Option<Asset> {
    let (file, kind) = find(PAGE)?;
    let text = String::from_utf8_lossy(&file.data);
    let language = settings.language.map_or("", Lang::tag);
    let text = text
        .replacen(LANGUAGE, &format!("data-language=\"{language}\""), 1)
        .replacen(
            COUNTRY,
            &format!("data-country=\"{}\"", settings.country.code()),
            1,
        );
    let hash = Sha256::digest(text.as_bytes());
    Some(Asset::new(Cow::Owned(text.into_bytes()), kind, &hash))
}

/// The file of a path and its type; a file of no known type (notes, dot files) is no part of the page.
fn find(path: &str) -> Option<(EmbeddedFile, &'static str)> {
    let name = match path {
        "/" => PAGE,
        path => path,
    };
    let name = name.strip_prefix('/')?;
    let kind = content_type(name)?;
    Some((Files::get(name)?, kind))
}

impl Asset {
    fn new(body: Cow<'static, [u8]>, kind: &'static str, hash: &[u8]) -> Self {
        let etag = etag(hash);
        Self { body, kind, etag }
    }

    fn answer(self, headers: &HeaderMap) -> Response {
        let mut response = if is_known(headers, &self.etag) {
            empty(StatusCode::NOT_MODIFIED)
        } else {
            let mut response = match self.body {
                Cow::Borrowed(bytes) => bytes.into_response(),
                Cow::Owned(bytes) => bytes.into_response(),
            };
            let kind = HeaderValue::from_static(self.kind);
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        };
        let headers = response.headers_mut();
        // Names carry no version, so a browser asks each time and is mostly told 304.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // Quoted hex is a valid header.
        if let Ok(etag) = HeaderValue::from_str(&self.etag) {
            headers.insert(header::ETAG, etag);
        }
        response
    }
}

fn etag(hash: &[u8]) -> String {
    let mut etag = String::with_capacity(34);
    etag.push('"');
    for byte in hash.iter().take(16) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phone::Country;

    #[test]
    fn the_page_is_told_the_language_and_the_country_of_the_settings() {
        let settings = WebSettings {
            language: Some(Lang::Ru),
            ..WebSettings::new(Country::parse("BR").expect("a country"))
        };
        let page = page(&settings).expect("a page");
        let text = String::from_utf8(page.body.into_owned()).expect("text");
        assert!(text.contains("data-language=\"ru\"") && text.contains("data-country=\"BR\""));
    }

    #[test]
    fn only_files_of_a_known_type_are_served() {
        assert!(exists("/") && exists("/index.html"));
        for path in [
            "",
            "index.html",
            "/README.md",
            "/.gitkeep",
            "/..",
            "//index.html",
            "/js/",
        ] {
            assert!(!exists(path), "{path}");
        }
    }
}
