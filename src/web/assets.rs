//! Owns the page's files, which live inside the binary, once as they are and once gzipped.

mod slim;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use bytes::Bytes;
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
use crate::phone::Country;
use crate::words::Lang;

#[derive(RustEmbed)]
#[folder = "static/"]
struct Files;

/// The files again, gzipped before compiling: `(name, bytes)` of those that got smaller by it.
const GZIPPED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/gzipped.rs"));

const PAGE: &str = "/index.html";

/// Where the page finds what the settings say, which languages there are, and what the numbering plan says.
const HOUSE: &str = "/js/house.js";
// As they are in the slimmed file.
const LANGUAGES: &str = "languages:{}";
const CALLING: &str = "calling:''";
const LANGUAGE: &str = "language:''";
const COUNTRY: &str = "country:'RU'";

/// One file, ready to be sent.
#[derive(Clone)]
struct Asset {
    body: Bytes,
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
    // Made ready once: whoever asks shares the bytes, however long it takes them.
    let mut assets: HashMap<String, Asset> = Files::iter()
        .map(|name| format!("/{name}"))
        .filter_map(|path| Some((path.clone(), Asset::new(find(&path)?))))
        .collect();
    if let Some(page) = assets.get(PAGE).cloned() {
        assets.insert("/".to_owned(), page);
    }
    if let Some(house) = house(&web.settings) {
        assets.insert(HOUSE.to_owned(), house);
    }
    warp::get()
        .and(warp::path::full())
        .and(warp::header::headers_cloned())
        .and_then(move |path: FullPath, headers: HeaderMap| {
            let asset = assets.get(path.as_str());
            let answer = asset.map(|asset| asset.answer(&headers));
            std::future::ready(answer.ok_or_else(warp::reject::not_found))
        })
        .boxed()
}

/// The page's languages by their tags: what each file in `i18n` calls itself.
fn languages() -> BTreeMap<String, String> {
    #[derive(serde::Deserialize)]
    struct Named {
        name: String,
    }
    let named = |path: Cow<'static, str>| {
        let tag = path
            .strip_prefix("i18n/")?
            .strip_suffix(".json")?
            .to_owned();
        let text = Files::get(&path)?;
        let Named { name } = serde_json::from_slice(&text.data).ok()?;
        Some((tag, name))
    };
    Files::iter().filter_map(named).collect()
}

/// The calling codes, each with its countries: `1CAUS…7KZRU…`.
fn calling() -> String {
    let mut codes: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for (country, code) in Country::all() {
        codes.entry(code).or_default().push(country.code());
    }
    let groups = codes.into_iter().map(|(code, mut countries)| {
        countries.sort();
        format!("{code}{}", countries.concat())
    });
    groups.collect()
}

/// The file that tells the page its languages, the calling codes, and the settings' language and country.
fn house(settings: &WebSettings) -> Option<Asset> {
    let asset = Asset::new(find(HOUSE)?);
    let text = String::from_utf8_lossy(&asset.body);
    let language = settings.language.map_or("", Lang::tag);
    let country = settings.country.code();
    // A map of texts: nothing in it can fail, so the fallback is never taken.
    let languages = serde_json::to_string(&languages()).unwrap_or_default();
    let text = text
        .replacen(LANGUAGE, &format!("language: '{language}'"), 1)
        .replacen(COUNTRY, &format!("country: '{country}'"), 1)
        .replacen(CALLING, &format!("calling: '{}'", calling()), 1)
        .replacen(LANGUAGES, &format!("languages: {languages}"), 1);
    Some(Asset {
        gzipped: None,
        kind: asset.kind,
        etag: hex(&Sha256::digest(text.as_bytes())),
        body: text.into(),
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
        let slim = slim::slim(&found.name, &found.file.data);
        let body = match slim.map_or(found.file.data, Cow::Owned) {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => bytes.into(),
        };
        Self {
            gzipped: gzipped.map(|(_, bytes)| *bytes),
            kind: found.kind,
            etag: hex(&Sha256::digest(&body)),
            body,
        }
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        let gzipped = self.gzipped.filter(|_| takes_gzip(headers));
        // Other bytes, another tag.
        let way = if gzipped.is_some() { "-gzip" } else { "" };
        let etag = format!("\"{}{way}\"", self.etag);
        let mut response = if is_known(headers, &etag) {
            empty(StatusCode::NOT_MODIFIED)
        } else {
            let body = gzipped.map_or_else(|| self.body.clone(), Bytes::from_static);
            let mut response = http::Response::new(body).into_response();
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
