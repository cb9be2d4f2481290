//! Owns `hairpin check`.

use super::reach::{self, Reached};
use super::term;
use crate::config::Settings;
use crate::control::{Answer, Ask};
use crate::exit::ExitError;

pub(super) async fn check(settings: &Settings) -> Result<(), ExitError> {
    let report = match reach::appliance_or_store(settings, &Ask::Check {}).await? {
        Reached::Appliance(mut answers) => match answers.pop() {
            Some(Answer::Checked { report }) => report,
            Some(Answer::Failed(failure)) => return Err(reach::refused(&failure)),
            _ => return Err(reach::strange()),
        },
        Reached::Without(store) => store.verify()?.to_string(),
    };
    term::say(&format!(
        "The store in {} is sound.\n{report}",
        settings.data_dir.display()
    ))
}
