//! What monitoring sees: everything the contract names from the start, and a dashboard and alerts that ask for nothing else.

use std::collections::{BTreeMap, BTreeSet};

use hairpin::metrics::Metrics;
use serde_json::{Value, json};

use crate::rig::Rig;

const DASHBOARD: &str = include_str!("../../packaging/grafana/hairpin.json");
const RULES: &str = include_str!("../../packaging/prometheus/hairpin.rules.yml");

/// Sample name → label → values, as the program gives them.
fn given() -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
    let metrics = Metrics::new();
    metrics.set_states([("salon", "UNLINKED")]);
    let json = metrics.json();
    let mut given = BTreeMap::new();
    for (name, samples) in json.as_object().expect("an object") {
        let labels: &mut BTreeMap<String, BTreeSet<String>> =
            given.entry(name.clone()).or_default();
        for sample in samples.as_array().expect("a list") {
            for (label, value) in sample["labels"].as_object().expect("labels") {
                labels
                    .entry(label.clone())
                    .or_default()
                    .insert(value.as_str().expect("text").to_owned());
            }
        }
    }
    given
}

/// Every selector in the expressions: a name, and what its labels are matched with.
fn selectors(text: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("hairpin_") {
        let rest = &text[at..];
        let end = rest
            .find(|sign: char| !sign.is_ascii_alphanumeric() && sign != '_')
            .unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let mut matchers = Vec::new();
        if let Some(inside) = after.strip_prefix('{') {
            let inside = &inside[..inside.find('}').expect("closed")];
            for matcher in inside.split(',') {
                let (label, value) = matcher.split_once('=').expect("a matcher");
                matchers.push((
                    label.trim().to_owned(),
                    value.trim_start_matches('~').trim_matches('"').to_owned(),
                ));
            }
        }
        found.push((name.to_owned(), matchers));
    }
    found
}

fn all_exist(place: &str, expressions: &[String]) {
    let given = given();
    let mut asked = 0;
    for expression in expressions {
        for (name, matchers) in selectors(expression) {
            asked += 1;
            let labels = given
                .get(&name)
                .unwrap_or_else(|| panic!("{place}: there is no {name}"));
            for (label, pattern) in matchers {
                let values = labels
                    .get(&label)
                    .unwrap_or_else(|| panic!("{place}: {name} has no {label}"));
                // What the reader chooses from is no value of ours.
                for value in pattern.split('|').filter(|value| !value.starts_with('$')) {
                    assert!(
                        values.contains(value),
                        "{place}: {name} is never {label}={value}"
                    );
                }
            }
        }
    }
    assert!(asked >= 10, "{place} asks for something: {asked}");
}

#[test]
fn the_dashboard_asks_only_for_what_there_is() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let mut expressions = Vec::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        assert!(ids.insert(panel["id"].as_u64().expect("an id")));
        assert!(!panel["description"].as_str().expect("text").is_empty());
        for target in panel["targets"].as_array().expect("targets") {
            expressions.push(target["expr"].as_str().expect("an expression").to_owned());
        }
    }
    let variable = &dashboard["templating"]["list"][0]["query"]["query"];
    assert_eq!(variable, "label_values(hairpin_link_state, session)");
    all_exist("the dashboard", &expressions);
}

#[test]
fn the_alerts_ask_only_for_what_there_is_and_say_what_to_do() {
    let expressions: Vec<String> = RULES
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: "))
        .map(str::to_owned)
        .collect();
    all_exist("the alerts", &expressions);
    let rules: Vec<&str> = RULES.split("- alert: ").skip(1).collect();
    assert_eq!(rules.len(), expressions.len());
    for rule in rules {
        for part in [
            "expr: ",
            "for: ",
            "severity: ",
            "summary: ",
            "description: ",
        ] {
            assert!(rule.contains(part), "{part} is missing in {rule}");
        }
    }
}

#[test]
fn everything_that_is_counted_is_on_the_dashboard_or_alerted_about() {
    for name in given().keys() {
        let family = name
            .trim_end_matches("_bucket")
            .trim_end_matches("_count")
            .trim_end_matches("_sum");
        assert!(
            DASHBOARD.contains(family) || RULES.contains(family),
            "nobody looks at {family}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_the_contract_is_there_at_zero_for_every_session_from_the_start() {
    let mut rig = Rig::new().await;
    for id in ["second", "third"] {
        let put = rig
            .ask(
                "PUT",
                &format!("/api/v1/sessions/{id}"),
                Some(json!({ "name": "More" })),
            )
            .await;
        assert_eq!(put.status, 201);
    }
    rig.restart().await;
    let json = rig.ask("GET", "/api/v1/metrics", None).await.json();
    let states = json["hairpin_link_state"].as_array().expect("a list");
    for session in ["salon", "second", "third"] {
        let of: Vec<&Value> = states
            .iter()
            .filter(|sample| sample["labels"]["session"] == session)
            .collect();
        assert_eq!(of.len(), 16, "{session}");
        for sample in of {
            let now = f64::from(sample["labels"]["state"] == "UNLINKED");
            assert_eq!(sample["value"], now, "{session}: {sample}");
        }
    }
    for (name, samples) in json.as_object().expect("an object") {
        let counts = name.ends_with("_total") || name.ends_with("_count");
        // The program has written its own slots by now.
        if counts && !name.contains("store_commit") {
            for sample in samples.as_array().expect("a list") {
                assert_eq!(sample["value"], 0.0, "{name}: {sample}");
            }
        }
    }
    for name in [
        "hairpin_pairing_requests_total",
        "hairpin_phone_mismatch_total",
        "hairpin_wipe_duration_seconds_bucket",
        "hairpin_wipe_failures_total",
        "hairpin_credential_age_on_mismatch_seconds_bucket",
        "hairpin_pairing_duration_seconds_bucket",
        "hairpin_code_request_duration_seconds_bucket",
        "hairpin_reconnects_total",
        "hairpin_store_commit_duration_seconds_bucket",
        "hairpin_store_size_bytes",
        "hairpin_websocket_connections",
        "hairpin_login_failures_total",
        "hairpin_build_info",
    ] {
        assert!(json[name].is_array(), "{name} is missing");
    }
    rig.stop().await;
}
