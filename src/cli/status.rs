//! Owns `hairpin status`.

use serde::Serialize;

use super::reach::{self, Reached};
use super::term;
use crate::config::Settings;
use crate::control::{Answer, Ask, StatusLine};
use crate::exit::ExitError;
use crate::session;
use crate::store::{Store, StoreError};

/// A status as `--json` gives it: that of the HTTP API, and whether an appliance runs.
#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    status: StatusLine,
    running: bool,
}

pub(super) async fn status(settings: &Settings, json: bool) -> Result<(), ExitError> {
    let (statuses, running, fault) =
        match reach::appliance_or_store(settings, &Ask::Status {}).await? {
            Reached::Appliance(mut answers) => {
                let fault = match answers.pop() {
                    Some(Answer::End) => None,
                    Some(Answer::Failed(failure)) => Some(reach::refused(&failure)),
                    _ => return Err(reach::strange()),
                };
                let statuses = answers
                    .into_iter()
                    .map(|answer| match answer {
                        Answer::Status(status) => Ok(status),
                        _ => Err(reach::strange()),
                    })
                    .collect::<Result<Vec<_>, _>>()?;
                (statuses, true, fault)
            }
            Reached::Without(store) => {
                let statuses = stored(&store, term::now())?;
                (statuses, false, None)
            }
        };
    // Told to stop before it had looked: there is nothing to list.
    let known = fault.is_none() || !statuses.is_empty();
    if json && known {
        let lines: Vec<Line> = statuses
            .into_iter()
            .map(|status| Line { status, running })
            .collect();
        term::say(&serde_json::to_string(&lines).unwrap_or_default())?;
    } else {
        if !running {
            term::say("The appliance is not running; its store says:")?;
        }
        for line in table(&statuses, term::now()) {
            term::say(&line)?;
        }
    }
    fault.map_or(Ok(()), Err)
}

fn stored(store: &Store, now: i64) -> Result<Vec<StatusLine>, StoreError> {
    let mut sessions = store.sessions()?;
    sessions.sort_by_key(|row| (row.id != session::DEFAULT, row.id.clone()));
    sessions
        .iter()
        .map(|row| Ok(session::at_rest(row, store.link(&row.id)?, now).into()))
        .collect()
}

/// One line each, in columns.
fn table(statuses: &[StatusLine], now: i64) -> Vec<String> {
    let phone = |status: &StatusLine| status.phone.clone().unwrap_or_else(|| "-".to_owned());
    let width = |of: &dyn Fn(&StatusLine) -> usize| statuses.iter().map(of).max().unwrap_or(0);
    let ids = width(&|status| status.session.chars().count());
    let states = width(&|status| status.state.len());
    let phones = width(&|status| phone(status).len());
    statuses
        .iter()
        .map(|status| {
            let mut line = format!(
                "{:ids$}  {:states$}  {:phones$}  since {}",
                term::clean(&status.session),
                term::clean(&status.state),
                phone(status),
                term::moment(status.since)
            );
            if let Ok(ago) = u64::try_from(now.saturating_sub(status.since) / 1000) {
                line.push_str(&format!(" ({} ago)", term::span(ago)));
            }
            if let Some(until) = status.until {
                line.push_str(&format!(", until {}", term::moment(until)));
            }
            if let Some(reason) = &status.reason {
                line.push_str(&format!(", {}", term::clean(reason)));
            }
            line
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_status(session: &str, state: &str, phone: Option<&str>) -> StatusLine {
        StatusLine {
            session: session.into(),
            state: state.into(),
            name: session.into(),
            phone: phone.map(str::to_owned),
            since: 1_764_046_501_000,
            last_connected: None,
            until: None,
            reason: None,
        }
    }

    #[test]
    fn the_columns_stand_below_each_other() {
        let mut banned = a_status("second-chair", "BANNED", Some("79007***321"));
        banned.until = Some(1_764_050_101_000);
        banned.reason = Some("BANNED".into());
        let lines = table(
            &[a_status("salon", "UNLINKED", None), banned],
            1_764_046_671_000,
        );
        assert_eq!(
            lines,
            [
                "salon         UNLINKED  -            since 2025-11-25 04:55:01 UTC (2 min 50 s ago)",
                "second-chair  BANNED    79007***321  since 2025-11-25 04:55:01 UTC (2 min 50 s ago), until 2025-11-25 05:55:01 UTC, BANNED",
            ]
        );
    }

    #[test]
    fn a_clock_that_was_set_back_is_no_reason_to_fail() {
        let lines = table(&[a_status("salon", "CONNECTED", None)], 0);
        assert_eq!(
            lines,
            ["salon  CONNECTED  -  since 2025-11-25 04:55:01 UTC"]
        );
    }
}
