//! Owns the counters (contract section 6): their names, their help, their two outputs.
//! A label never holds a number; the help of a metric is its field's doc comment.

use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use serde_json::{Map, Value, json};

use crate::error::Code;

/// How a request for a code ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(
    non_camel_case_types,
    reason = "the variant's name is the label's value"
)]
enum Outcome {
    shown,
    already_linked,
    needs_confirmation,
    rate_limited,
    whatsapp_refused,
    whatsapp_unreachable,
    store_unavailable,
    cancelled,
    superseded,
    other,
}

const OUTCOMES: [Outcome; 10] = [
    Outcome::shown,
    Outcome::already_linked,
    Outcome::needs_confirmation,
    Outcome::rate_limited,
    Outcome::whatsapp_refused,
    Outcome::whatsapp_unreachable,
    Outcome::store_unavailable,
    Outcome::cancelled,
    Outcome::superseded,
    Outcome::other,
];

/// Why a link connects again.
const REASONS: [&str; 7] = [
    "restart", "lost", "too_fast", "asked", "ban_over", "update", "store",
];

/// The states of contract section 3.
pub(crate) const STATES: [&str; 16] = [
    "UNLINKED",
    "CONNECTING",
    "AWAITING_CODE_ENTRY",
    "AWAITING_SCAN",
    "LINKING",
    "CONNECTED",
    "RECONNECTING",
    "LOGGED_OUT",
    "REPLACED",
    "BANNED",
    "LOCKED",
    "PASSKEY_REQUIRED",
    "OUTDATED",
    "HALF_LINKED",
    "STORE_UNAVAILABLE",
    "FAILED",
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByWasLinked {
    was_linked: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByState {
    session: String,
    state: String,
}

/// Everything the appliance counts.
pub struct Metrics {
    registry: Registry,
    pairing_requests: Family<ByOutcome, Counter>,
    phone_mismatch: Family<ByWasLinked, Counter>,
    wipe_duration: Histogram,
    wipe_failures: Counter,
    credential_age: Histogram,
    pairing_duration: Histogram,
    code_request_duration: Histogram,
    link_state: Family<ByState, Gauge>,
    reconnects: Family<ByReason, Counter>,
    store_commit_duration: Histogram,
    store_size: Gauge,
    websockets: Gauge,
    login_failures: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All of them, at zero.
    #[must_use]
    pub fn new() -> Self {
        // Half a millisecond to a second: a commit takes one sync of a disk.
        let commits = || Histogram::new([0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0]);
        let people = || Histogram::new([0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0]);
        let metrics = Self {
            registry: Registry::with_prefix("hairpin"),
            pairing_requests: Family::default(),
            phone_mismatch: Family::default(),
            wipe_duration: commits(),
            wipe_failures: Counter::default(),
            // A minute to a year.
            credential_age: Histogram::new([
                60.0,
                3_600.0,
                86_400.0,
                604_800.0,
                2_592_000.0,
                31_536_000.0,
            ]),
            pairing_duration: people(),
            code_request_duration: people(),
            link_state: Family::default(),
            reconnects: Family::default(),
            store_commit_duration: commits(),
            store_size: Gauge::default(),
            websockets: Gauge::default(),
            login_failures: Counter::default(),
        };
        for outcome in OUTCOMES {
            drop(
                metrics
                    .pairing_requests
                    .get_or_create(&ByOutcome { outcome }),
            );
        }
        for was_linked in [true, false] {
            drop(metrics.phone_mismatch.get_or_create(&ByWasLinked {
                was_linked: was_linked.to_string(),
            }));
        }
        for reason in REASONS {
            drop(metrics.reconnects.get_or_create(&ByReason {
                reason: reason.to_owned(),
            }));
        }
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        let r = &mut self.registry;
        r.register(
            "pairing_requests",
            "Requests for a pairing code, by outcome",
            self.pairing_requests.clone(),
        );
        r.register(
            "phone_mismatch",
            "Old links of another line that were wiped for a new number",
            self.phone_mismatch.clone(),
        );
        r.register(
            "wipe_duration_seconds",
            "How long a wipe took, until it was durable",
            self.wipe_duration.clone(),
        );
        r.register(
            "wipe_failures",
            "Wipes that failed",
            self.wipe_failures.clone(),
        );
        r.register(
            "credential_age_on_mismatch_seconds",
            "How old the wiped credentials of another line were",
            self.credential_age.clone(),
        );
        r.register(
            "pairing_duration_seconds",
            "From asked to linked",
            self.pairing_duration.clone(),
        );
        r.register(
            "code_request_duration_seconds",
            "From asked to shown",
            self.code_request_duration.clone(),
        );
        r.register(
            "link_state",
            "1 for the state a session is in",
            self.link_state.clone(),
        );
        r.register(
            "reconnects",
            "New connections of a link, by reason",
            self.reconnects.clone(),
        );
        r.register(
            "store_commit_duration_seconds",
            "How long a durable commit of the store took",
            self.store_commit_duration.clone(),
        );
        r.register(
            "store_size_bytes",
            "Size of the store's file",
            self.store_size.clone(),
        );
        r.register(
            "websocket_connections",
            "Page sockets that are open",
            self.websockets.clone(),
        );
        r.register(
            "login_failures",
            "Wrong access keys",
            self.login_failures.clone(),
        );
        r.register(
            "build",
            "What is running",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        self
    }

    /// A request for a code ended, after so long.
    pub fn request_ended(&self, result: Result<Duration, Code>) {
        let outcome = match result {
            Ok(took) => {
                self.code_request_duration.observe(took.as_secs_f64());
                Outcome::shown
            }
            Err(Code::AlreadyLinked) => Outcome::already_linked,
            Err(Code::ReplaceConfirmationRequired) => Outcome::needs_confirmation,
            Err(Code::RateLimited) => Outcome::rate_limited,
            Err(Code::WhatsappUnreachable) => Outcome::whatsapp_unreachable,
            Err(
                Code::WhatsappRateLimited
                | Code::WhatsappRejected
                | Code::CodeNotAvailable
                | Code::PasskeyRequired
                | Code::ClientOutdated
                | Code::Banned
                | Code::Locked,
            ) => Outcome::whatsapp_refused,
            Err(Code::StoreUnavailable) => Outcome::store_unavailable,
            Err(Code::Cancelled) => Outcome::cancelled,
            Err(Code::Superseded) => Outcome::superseded,
            Err(_) => Outcome::other,
        };
        self.pairing_requests
            .get_or_create(&ByOutcome { outcome })
            .inc();
    }

    /// An old link of another line was wiped.
    pub fn mismatch(&self, was_linked: bool, age_seconds: u64) {
        self.phone_mismatch
            .get_or_create(&ByWasLinked {
                was_linked: was_linked.to_string(),
            })
            .inc();
        // Ages stay far below 2^52 seconds.
        #[allow(
            clippy::cast_precision_loss,
            reason = "an age in seconds is far below 2^52"
        )]
        self.credential_age.observe(age_seconds as f64);
    }

    /// A wipe took so long, or failed.
    pub fn wiped(&self, took: Option<Duration>) {
        match took {
            Some(took) => self.wipe_duration.observe(took.as_secs_f64()),
            None => {
                self.wipe_failures.inc();
            }
        }
    }

    /// A phone was linked, so long after it was asked for.
    pub fn linked(&self, took: Duration) {
        self.pairing_duration.observe(took.as_secs_f64());
    }

    /// A link connects again; the reason is one of those that are there from the start.
    pub fn reconnect(&self, reason: &str) {
        self.reconnects
            .get_or_create(&ByReason {
                reason: reason.to_owned(),
            })
            .inc();
    }

    /// All sessions and the state of each, named as the contract does.
    pub fn set_states<'s>(&self, all: impl IntoIterator<Item = (&'s str, &'s str)>) {
        self.link_state.clear();
        for (session, state) in all {
            for other in STATES {
                self.link_state
                    .get_or_create(&ByState {
                        session: session.to_owned(),
                        state: other.to_owned(),
                    })
                    .set(i64::from(other == state));
            }
        }
    }

    /// The store committed, after so long.
    pub fn committed(&self, took: Duration) {
        self.store_commit_duration.observe(took.as_secs_f64());
    }

    /// Sets what is read off elsewhere at the moment somebody looks.
    pub fn set_gauges(&self, store_bytes: u64, websockets: i64, login_failures: u64) {
        self.store_size
            .set(i64::try_from(store_bytes).unwrap_or(i64::MAX));
        self.websockets.set(websockets);
        self.login_failures
            .inc_by(login_failures.saturating_sub(self.login_failures.get()));
    }

    /// Prometheus text, version 0.0.4. The encoder speaks `OpenMetrics`, whose type `info` and whose names of
    /// counters without their `_total` the older format does not know.
    #[must_use]
    pub fn text(&self) -> String {
        let mut open = String::new();
        if encode(&mut open, &self.registry).is_err() {
            // Writing into a String does not fail.
            open.clear();
        }
        let mut text = String::with_capacity(open.len());
        let mut help = None;
        for line in open.lines() {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            match words[..] {
                // Its name depends on the type, which comes after it.
                ["#", "HELP", _, words] => help = Some(words),
                ["#", "TYPE", name, kind] => {
                    let (name, kind) = match kind {
                        "counter" => (format!("{name}_total"), kind),
                        "info" => (format!("{name}_info"), "gauge"),
                        _ => (name.to_owned(), kind),
                    };
                    if let Some(words) = help.take() {
                        text += &format!("# HELP {name} {words}\n");
                    }
                    text += &format!("# TYPE {name} {kind}\n");
                }
                ["#", ..] => {}
                _ => {
                    text += line;
                    text.push('\n');
                }
            }
        }
        text
    }

    /// The same samples as JSON: name → list of `{labels, value}`.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut all = Map::new();
        for line in self.text().lines().filter(|line| !line.starts_with('#')) {
            let Some((sample, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
            let labels: Map<String, Value> = labels
                .trim_end_matches('}')
                .split(',')
                .filter_map(|label| label.split_once('='))
                .map(|(key, value)| (key.to_owned(), json!(value.trim_matches('"'))))
                .collect();
            let value = value
                .parse::<f64>()
                .map_or(Value::Null, |value| json!(value));
            let list = all
                .entry(name.to_owned())
                .or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(list) = list {
                list.push(json!({ "labels": labels, "value": value }));
            }
        }
        Value::Object(all)
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_of_the_contract_is_there_at_zero() {
        let metrics = Metrics::new();
        metrics.set_states([("salon", "AWAITING_CODE_ENTRY")]);
        let text = metrics.text();
        for sample in [
            "hairpin_pairing_requests_total{outcome=\"shown\"} 0",
            "hairpin_phone_mismatch_total{was_linked=\"true\"} 0",
            "hairpin_wipe_duration_seconds_count 0",
            "hairpin_wipe_failures_total 0",
            "hairpin_credential_age_on_mismatch_seconds_count 0",
            "hairpin_pairing_duration_seconds_count 0",
            "hairpin_code_request_duration_seconds_count 0",
            "hairpin_link_state{session=\"salon\",state=\"AWAITING_CODE_ENTRY\"} 1",
            "hairpin_link_state{session=\"salon\",state=\"CONNECTED\"} 0",
            "hairpin_reconnects_total{reason=\"lost\"} 0",
            "hairpin_store_commit_duration_seconds_count 0",
            "hairpin_store_size_bytes 0",
            "hairpin_websocket_connections 0",
            "hairpin_login_failures_total 0",
        ] {
            assert!(text.contains(sample), "{sample} is missing in\n{text}");
        }
        assert!(text.contains("hairpin_build_info{version="));
        for head in [
            "# TYPE hairpin_wipe_failures_total counter",
            "# TYPE hairpin_build_info gauge",
            "# TYPE hairpin_wipe_duration_seconds histogram",
        ] {
            assert!(text.contains(head), "{head} is missing in\n{text}");
        }
        for line in text.lines().filter(|line| line.starts_with('#')) {
            assert!(
                line.starts_with("# HELP ") || line.starts_with("# TYPE "),
                "{line}"
            );
        }
        let json = metrics.json();
        assert_eq!(json["hairpin_wipe_failures_total"][0]["value"], 0.0);
    }
}
