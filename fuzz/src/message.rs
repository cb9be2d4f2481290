//! What a page may send over its WebSocket: an object in the promised shape is understood as it was meant, and
//! everything else is refused with no more than its id.

use hairpin::web::probe::{Said, message};
use serde_json::{Value, json};

const LONGEST_ID: usize = 64;

/// Text frames only: others never come this far.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let value = serde_json::from_str::<Value>(text).ok();
    // Of a name that is there twice the last one counts, here as there.
    let id = value.as_ref().and_then(|value| match &value["id"] {
        Value::String(id) if id.chars().count() <= LONGEST_ID => Some(id.clone()),
        _ => None,
    });
    match message(text) {
        Err(echoed) => {
            assert!(echoed.is_none() || echoed == id, "an id that was not sent");
        }
        Ok(said) => {
            let value = value.expect("what is understood is JSON");
            assert!(value.is_object(), "and an object");
            assert_eq!(said.id, id);
            assert_eq!(value["event"], said.event);
            assert!(matches!(&value["data"], Value::Null | Value::Object(_)));
            assert_eq!(
                said.code.is_some(),
                said.event == "request-pairing-code",
                "a number with a request for a code, and with nothing else"
            );
            if let Some((number, country, replace)) = &said.code {
                assert_eq!(value["data"]["phoneNumber"], **number);
                assert_eq!(value["data"]["country"], json!(country));
                assert_eq!(value["data"]["replace"], json!(replace));
            }
            assert_eq!(message(&again(&said)), Ok(said), "said in other words");
        }
    }
}

/// The same message as a page would write it.
fn again(said: &Said) -> String {
    let data = match &said.code {
        Some((number, country, replace)) => {
            json!({"phoneNumber": number, "country": country, "replace": replace})
        }
        None => json!({}),
    };
    json!({"id": said.id, "event": said.event, "data": data}).to_string()
}
