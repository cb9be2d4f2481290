//! Owns the reading of what a page sends: one JSON object, in the promised shape or refused.

use serde::Deserialize as _;
use serde_json::Value;

use super::api::CodeBody;
use super::body::Fields;

/// The longest `id` that is echoed, in characters.
const LONGEST_ID: usize = 64;

/// What a page wants.
pub(super) enum Ask {
    /// A pairing code.
    Code(CodeBody),
    /// The end of the code.
    Cancel,
    /// Another try.
    Reconnect,
    /// The end of the link.
    Unlink,
}

/// A message in the right shape.
pub(super) struct Message {
    pub(super) id: Option<String>,
    pub(super) ask: Ask,
}

/// A message in a wrong shape; its id is kept if that much could be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) id: Option<String>,
}

/// Reads one message.
pub(super) fn parse(text: &str) -> Result<Message, Wrong> {
    let Some(message) = Fields::parse(text.as_bytes()) else {
        return Err(Wrong { id: None });
    };
    let id = match message.get("id") {
        Value::Null => None,
        Value::String(id) if id.chars().count() <= LONGEST_ID => Some(id.clone()),
        _ => return Err(Wrong { id: None }),
    };
    let (event, data) = (message.get("event"), message.get("data"));
    let nothing = matches!(data, Value::Null | Value::Object(_));
    let ask = match (event.as_str(), data) {
        (Some("request-pairing-code"), data @ Value::Object(_)) => {
            CodeBody::deserialize(data).ok().map(Ask::Code)
        }
        (Some("cancel-pairing"), _) if nothing => Some(Ask::Cancel),
        (Some("reconnect"), _) if nothing => Some(Ask::Reconnect),
        (Some("unlink"), _) if nothing => Some(Ask::Unlink),
        _ => None,
    };
    match ask {
        Some(ask) => Ok(Message { id, ask }),
        None => Err(Wrong { id }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_for_a_code_is_read() {
        let text = r#"{"event":"request-pairing-code","data":{"phoneNumber":"1","country":"BR","replace":"k"},"id":"7"}"#;
        let message = parse(text).expect("right");
        assert_eq!(message.id.as_deref(), Some("7"));
        let Ask::Code(body) = message.ask else {
            panic!("another ask");
        };
        assert_eq!(body.phone_number.reveal(), "1");
        assert_eq!(body.country.as_deref(), Some("BR"));
        assert_eq!(body.replace.as_deref(), Some("k"));
    }

    #[test]
    fn whatever_may_be_left_out_may_be_left_out() {
        for text in [
            r#"{"event":"request-pairing-code","data":{"phoneNumber":"1"}}"#,
            r#"{"event":"request-pairing-code","data":{"phoneNumber":"1","replace":null,"country":null},"id":null}"#,
            r#"{"event":"cancel-pairing","data":{}}"#,
            r#"{"event":"reconnect"}"#,
            r#"{"event":"unlink","data":{},"id":""}"#,
        ] {
            assert!(parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn wrong_shapes_are_refused_with_their_id() {
        for data in [
            "[]",
            "\"1\"",
            "{}",
            r#"{"phoneNumber":null}"#,
            r#"{"phoneNumber":79001234567}"#,
            r#"{"phoneNumber":"1","replace":true}"#,
            r#"{"phoneNumber":"1","country":7}"#,
        ] {
            let text = format!(r#"{{"event":"request-pairing-code","data":{data},"id":"x"}}"#);
            let id = Some("x".to_owned());
            assert_eq!(parse(&text).err(), Some(Wrong { id }), "{text}");
        }
    }

    #[test]
    fn a_message_without_an_event_is_refused_with_its_id() {
        for text in [r#"{"id":"7","data":{}}"#, r#"{"id":"7","event":null}"#] {
            let id = Some("7".to_owned());
            assert_eq!(parse(text).err(), Some(Wrong { id }), "{text}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let long = format!(r#"{{"event":"unlink","id":"{}"}}"#, "я".repeat(65));
        let deep = "[".repeat(4000);
        for text in [
            "",
            "null",
            "[]",
            "hello",
            r#"["unlink"]"#,
            r#"["cancel-pairing",{},null]"#,
            r#"{"data":{}}"#,
            r#"{"event":7}"#,
            r#"{"event":"constructor","data":{}}"#,
            r#"{"event":"unlink","id":7}"#,
            r#"{"event":"unlink","data":[]}"#,
            r#"{"event":"unlink"} {}"#,
            &long,
            &deep,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
