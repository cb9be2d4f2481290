//! Owns `hairpin audit`.

use serde::Deserialize;
use serde_json::Value;

use super::reach::{self, Reached};
use super::term;
use crate::config::Settings;
use crate::control::{Answer, Ask};
use crate::exit::ExitError;

/// All that the journal keeps.
const ALL: usize = 10_000;

/// An entry, as it is shown; fields that a later version adds are shown by `--json` only.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    time: i64,
    session: String,
    what: String,
    phone: Option<String>,
    old_phone: Option<String>,
    by: Option<String>,
    user_agent: Option<String>,
    confirmed: Option<bool>,
    was_linked: Option<bool>,
    credential_age_seconds: Option<u64>,
    last_connected: Option<i64>,
    duration_ms: Option<u64>,
    outcome: Option<String>,
}

pub(super) async fn audit(settings: &Settings, json: bool) -> Result<(), ExitError> {
    let entries = match reach::appliance_or_store(settings, &Ask::Audit {}).await? {
        Reached::Appliance(mut answers) => {
            match answers.pop() {
                Some(Answer::End) => {}
                Some(Answer::Failed(failure)) => return Err(reach::refused(&failure)),
                _ => return Err(reach::strange()),
            }
            answers
                .into_iter()
                .map(|answer| match answer {
                    Answer::Entry { entry } => Ok(entry),
                    _ => Err(reach::strange()),
                })
                .collect::<Result<Vec<Value>, _>>()?
        }
        Reached::Without(store) => store
            .journal(None, ALL)?
            .into_iter()
            // Our own entries have string keys only, so none is lost.
            .filter_map(|entry| serde_json::to_value(entry).ok())
            .collect(),
    };
    if json {
        return term::say(&Value::Array(entries).to_string());
    }
    for entry in entries {
        match serde_json::from_value(entry) {
            Ok(entry) => term::say(&line(&entry))?,
            Err(_) => return Err(reach::strange()),
        }
    }
    Ok(())
}

fn line(entry: &Entry) -> String {
    let mut line = format!(
        "{}  {}  {}",
        term::moment(entry.time),
        entry.session,
        entry.what
    );
    if let Some(phone) = &entry.phone {
        line.push_str(&format!("  {phone}"));
    }
    let mut more = Vec::new();
    if let Some(old) = &entry.old_phone {
        more.push(format!("old link {old}"));
    }
    match entry.was_linked {
        Some(true) => more.push("it was linked".to_owned()),
        Some(false) => more.push("it was never linked".to_owned()),
        None => {}
    }
    if let Some(age) = entry.credential_age_seconds {
        more.push(format!("its credentials were {} old", term::span(age)));
    }
    if let Some(last) = entry.last_connected {
        more.push(format!("last connected {}", term::moment(last)));
    }
    match entry.confirmed {
        Some(true) => more.push("confirmed".to_owned()),
        Some(false) => more.push("not asked about".to_owned()),
        None => {}
    }
    if let Some(outcome) = &entry.outcome {
        more.push(outcome.replace('_', " "));
    }
    if let Some(took) = entry.duration_ms {
        more.push(format!("took {}.{} s", took / 1000, took % 1000 / 100));
    }
    if let Some(by) = &entry.by {
        more.push(match &entry.user_agent {
            Some(agent) => format!("by {by} ({agent})"),
            None => format!("by {by}"),
        });
    }
    if !more.is_empty() {
        line.push_str(": ");
        line.push_str(&more.join(", "));
    }
    term::clean(&line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{JournalEntry, JournalWhat};

    fn shown(entry: &JournalEntry) -> String {
        let value = serde_json::to_value(entry).expect("JSON");
        line(&serde_json::from_value(value).expect("an entry"))
    }

    #[test]
    fn an_entry_is_one_line_that_answers_what_is_asked_of_it() {
        let entry = JournalEntry {
            phone: Some("79001***567".into()),
            old_phone: Some("79007***321".into()),
            by: Some("page".into()),
            user_agent: Some("Firefox\u{1b}[2J".into()),
            confirmed: Some(true),
            was_linked: Some(true),
            credential_age_seconds: Some(90_061),
            last_connected: Some(1_764_046_501_000),
            duration_ms: Some(1_250),
            outcome: Some("phone_still_lists_it".into()),
            ..JournalEntry::new(1_764_046_671_000, "salon", JournalWhat::MismatchWiped)
        };
        assert_eq!(
            shown(&entry),
            "2025-11-25 04:57:51 UTC  salon  mismatch_wiped  79001***567: old link 79007***321, it was linked, \
             its credentials were 1 d 1 h old, last connected 2025-11-25 04:55:01 UTC, confirmed, \
             phone still lists it, took 1.2 s, by page (Firefox?[2J)"
        );
        assert_eq!(
            shown(&JournalEntry::new(0, "salon", JournalWhat::Restored)),
            "1970-01-01 00:00:00 UTC  salon  restored"
        );
    }
}
