//! Owns the control routes: the person and the trouble, for whoever is not written in Rust.

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::fault::{Fault, Kick};
use crate::http::{Body, text};
use crate::phone::Phone;
use crate::server::Sim;

const LARGEST_BODY: usize = 64 * 1024;

#[derive(Deserialize)]
struct EnterCode {
    phone: String,
    code: String,
}

#[derive(Deserialize)]
struct ScanQr {
    phone: String,
    value: String,
}

#[derive(Deserialize)]
struct KickPhone {
    phone: String,
    #[serde(flatten)]
    kick: Kick,
}

#[derive(Deserialize)]
struct Unlink {
    phone: String,
    device: u16,
}

#[derive(Deserialize)]
struct SendText {
    phone: String,
    device: u16,
    text: String,
}

#[derive(Deserialize)]
struct PhoneAs {
    typed: String,
    reported: String,
}

/// Answers `/ctl/{what}`.
pub(crate) async fn answer(sim: &Sim, what: String, request: Request<Incoming>) -> Response<Body> {
    if request.method() == Method::GET {
        return match what.as_str() {
            "phones" => reply(&json!(
                sim.phones().iter().map(describe).collect::<Vec<_>>()
            )),
            "events" => reply(&json!(sim.events())),
            _ => text(StatusCode::NOT_FOUND, "GET /ctl/phones or /ctl/events"),
        };
    }
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "GET or POST");
    }
    let Ok(body) = Limited::new(request.into_body(), LARGEST_BODY)
        .collect()
        .await
    else {
        return text(StatusCode::PAYLOAD_TOO_LARGE, "at most 64 KiB");
    };
    match act(sim, &what, &body.to_bytes()).await {
        Some(Ok(done)) => reply(&done),
        Some(Err(error)) => reply(&json!({"ok": false, "error": error})),
        None => text(StatusCode::NOT_FOUND, "no such control"),
    }
}

async fn act(sim: &Sim, what: &str, body: &[u8]) -> Option<Result<Value, String>> {
    Some(match what {
        "enter-code" => enter_code(sim, body).await,
        "scan-qr" => scan_qr(sim, body).await,
        "send-text" => send_text(sim, body).await,
        "unlink" => unlink(sim, body).await,
        "phone-as" => read::<PhoneAs>(body).map(|alias| {
            let _ = sim.phone_as(&alias.typed, &alias.reported);
            json!({"ok": true})
        }),
        "fault" => read::<Fault>(body).map(|fault| {
            sim.fault(fault);
            json!({"ok": true})
        }),
        "clear-faults" => {
            sim.clear_faults();
            Ok(json!({"ok": true}))
        }
        "kick" => read::<KickPhone>(body).map(
            |order| json!({"ok": true, "kicked": sim.kick(&digits(&order.phone), &order.kick)}),
        ),
        "rotate-server-key" => {
            sim.rotate_server_key();
            Ok(json!({"ok": true}))
        }
        _ => return None,
    })
}

async fn enter_code(sim: &Sim, body: &[u8]) -> Result<Value, String> {
    let order: EnterCode = read(body)?;
    let linked = phone(sim, &order.phone)?.enter_code(&order.code).await;
    linked
        .map(|device| json!({"ok": true, "device": device}))
        .map_err(|e| e.to_string())
}

async fn scan_qr(sim: &Sim, body: &[u8]) -> Result<Value, String> {
    let order: ScanQr = read(body)?;
    let linked = phone(sim, &order.phone)?.scan_qr(&order.value).await;
    linked
        .map(|device| json!({"ok": true, "device": device}))
        .map_err(|e| e.to_string())
}

async fn send_text(sim: &Sim, body: &[u8]) -> Result<Value, String> {
    let order: SendText = read(body)?;
    let sent = phone(sim, &order.phone)?
        .send_text(order.device, &order.text)
        .await;
    sent.map(|id| json!({"ok": true, "id": id}))
        .map_err(|e| e.to_string())
}

async fn unlink(sim: &Sim, body: &[u8]) -> Result<Value, String> {
    let order: Unlink = read(body)?;
    let removed = phone(sim, &order.phone)?.remove_device(order.device).await;
    removed
        .then(|| json!({"ok": true}))
        .ok_or_else(|| "no such companion".to_owned())
}

fn phone(sim: &Sim, typed: &str) -> Result<Phone, String> {
    let number = digits(typed);
    if (7..=15).contains(&number.len()) {
        Ok(sim.phone(&number))
    } else {
        Err("not a phone number".to_owned())
    }
}

/// People write `+7 900 …` here too.
fn digits(typed: &str) -> String {
    typed.chars().filter(char::is_ascii_digit).collect()
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|e| e.to_string())
}

fn describe(phone: &Phone) -> Value {
    json!({"phone": phone.number(), "lid": phone.lid(), "devices": phone.devices()})
}

fn reply(value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{value}\n")));
    response.headers_mut().insert(
        hyper::header::CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("application/json"),
    );
    response
}
