//! Owns `hairpin access-key`.

use super::reach::{self, Reached};
use super::term;
use crate::access::{Access, AccessError};
use crate::config::Settings;
use crate::control::{Answer, Ask};
use crate::exit::ExitError;
use crate::store::Hold;

pub(super) async fn access_key(settings: &Settings, rotate: bool) -> Result<(), ExitError> {
    let ask = Ask::AccessKey { rotate };
    let folder = &settings.data_dir;
    let reached = if rotate {
        // No appliance may start on the old key while the new one is being written.
        reach::appliance_or(settings, &ask, || Hold::on(folder)).await?
    } else {
        reach::appliance_or(settings, &ask, || Ok(None)).await?
    };
    let _hold = match reached {
        Reached::Appliance(mut answers) => {
            return match answers.pop() {
                Some(Answer::Key { key }) => term::say(key.reveal()),
                Some(Answer::Failed(failure)) => Err(reach::refused(&failure)),
                _ => Err(reach::strange()),
            };
        }
        Reached::Without(hold) => hold,
    };
    let present = match Access::read(folder) {
        // Whatever it holds is about to go.
        Err(AccessError::Malformed { .. }) if rotate => None,
        Ok(Some(key)) => Some(key),
        Ok(None) => return Err(none_yet(settings)),
        Err(error) => return Err(unusable(&error)),
    };
    let key = match present {
        Some(key) if !rotate => key,
        _ => Access::replace(folder).map_err(|error| unusable(&error))?,
    };
    term::say(key.reveal())
}

fn none_yet(settings: &Settings) -> ExitError {
    ExitError::not_running(format!(
        "there is no access key in {} yet; `hairpin serve` makes one at its first start",
        settings.data_dir.display()
    ))
}

fn unusable(error: &AccessError) -> ExitError {
    let denied = matches!(error, AccessError::Io { source, .. }
        if source.kind() == std::io::ErrorKind::PermissionDenied);
    let mend = if denied {
        "; run this as root, or as the user the appliance runs as"
    } else {
        ""
    };
    ExitError::failed(format!("{error}{mend}"))
}
