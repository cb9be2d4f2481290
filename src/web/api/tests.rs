use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::web::{Door, ROUTES, Wants};

fn status(state: State, last_connected: Option<i64>) -> Status {
    Status {
        session: "salon".into(),
        state,
        name: "Salon".into(),
        phone: last_connected.map(|_| "79001***567".into()),
        since: 0,
        last_connected,
        until: None,
        reason: None,
    }
}

#[test]
fn ready_means_something_is_linked_and_nothing_linked_is_down() {
    let on = status(State::Connected, Some(1));
    let never = status(State::Unlinked, None);
    assert!(!is_ready(&[]));
    assert!(!is_ready(std::slice::from_ref(&never)));
    assert!(is_ready(&[on.clone(), never]));
    assert!(is_ready(&[
        on.clone(),
        status(State::AwaitingCodeEntry, None)
    ]));
    for state in [State::Failed, State::Banned, State::Locked, State::Outdated] {
        assert!(is_ready(&[on.clone(), status(state, None)]), "{state:?}");
    }
    for state in [
        State::Reconnecting,
        State::LoggedOut,
        State::Replaced,
        State::Banned,
        State::Locked,
        State::Outdated,
        State::HalfLinked,
        State::StoreUnavailable,
        State::Failed,
    ] {
        assert!(
            !is_ready(&[on.clone(), status(state, Some(1))]),
            "{state:?}"
        );
    }
}

#[test]
fn session_ids_are_short_lower_case_words() {
    for id in ["a", "salon", "salon-2", "0", "a-", &"x".repeat(32)] {
        assert!(is_session_id(id), "{id}");
    }
    for id in [
        "",
        "-a",
        "Salon",
        "a_b",
        "a%20b",
        "салон",
        "..",
        &"x".repeat(33),
    ] {
        assert!(!is_session_id(id), "{id}");
    }
}

#[test]
fn the_description_lists_exactly_the_routes() {
    let api: Value = serde_json::from_str(OPENAPI).expect("JSON");
    assert_eq!(api["openapi"], "3.1.0");
    let mut described = BTreeSet::new();
    for (path, methods) in api["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            if method == "parameters" {
                continue;
            }
            described.insert(format!("{} {path}", method.to_uppercase()));
            let route = ROUTES
                .iter()
                .find(|r| r.path == path && r.method.as_str().eq_ignore_ascii_case(method))
                .unwrap_or_else(|| panic!("{method} {path} is no route"));
            let open = operation["security"] == serde_json::json!([]);
            assert_eq!(open, route.door == Door::Open, "{method} {path}: security");
            let wants = operation.get("requestBody").is_some();
            assert_eq!(wants, route.wants == Wants::Json, "{method} {path}: body");
        }
    }
    let routes: BTreeSet<String> = ROUTES
        .iter()
        .map(|r| format!("{} {}", r.method, r.path))
        .collect();
    assert_eq!(described, routes);
}

#[test]
fn the_description_names_every_error_code() {
    for code in Code::ALL {
        assert!(OPENAPI.contains(&format!("\"{code}\"")), "{code}");
    }
}

#[test]
fn every_reference_in_the_description_leads_somewhere() {
    let api: Value = serde_json::from_str(OPENAPI).expect("JSON");
    for piece in OPENAPI.split("\"$ref\": \"#").skip(1) {
        let pointer = piece.split('"').next().expect("a quoted pointer");
        assert!(api.pointer(pointer).is_some(), "{pointer}");
    }
}
