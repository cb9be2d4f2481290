//! Owns `hairpin unlink`.

use std::time::Duration;

use super::{reach, term};
use crate::config::Settings;
use crate::control::{Answer, Ask, TalkError};
use crate::exit::ExitError;

/// Telling WhatsApp and wiping are bounded; this is longer than both.
const UNLINKING: Duration = Duration::from_mins(1);

pub(super) async fn unlink(settings: &Settings, session: &str) -> Result<(), ExitError> {
    let ask = Ask::Unlink {
        session: session.to_owned(),
    };
    let mut conversation = reach::appliance(settings, &ask).await?;
    match conversation.next_within(UNLINKING).await {
        Ok(Answer::Unlinked { phone, told }) => term::say(&said(phone.as_deref(), told)),
        Ok(Answer::Failed(failure)) if failure.code == "NO_SUCH_SESSION" => {
            Err(no_such_session(session))
        }
        Ok(Answer::Failed(failure)) => Err(reach::refused(&failure)),
        Ok(_) | Err(TalkError::Strange) => Err(reach::strange()),
        Err(TalkError::Gone) => Err(reach::gone()),
        Err(TalkError::Silent) => Err(reach::silent(settings)),
    }
}

/// There is no such slot.
pub(super) fn no_such_session(session: &str) -> ExitError {
    ExitError::failed(format!(
        "there is no session {session:?}; `hairpin status` lists those there are"
    ))
}

fn said(phone: Option<&str>, told: Option<bool>) -> String {
    let phone = phone.unwrap_or("?");
    match told {
        Some(true) => format!("{phone} is unlinked and wiped; the phone lists the device no more."),
        Some(false) => format!(
            "{phone} is unlinked and wiped here, but WhatsApp could not be told: the phone still lists the device; remove it there under Linked devices."
        ),
        None if phone != "?" => {
            format!("{phone} was not linked any more; what was left of it is wiped.")
        }
        None => "Nothing was linked.".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::said;

    #[test]
    fn what_whatsapp_was_told_is_said() {
        assert!(said(Some("79001***567"), Some(true)).contains("no more"));
        assert!(said(Some("79001***567"), Some(false)).contains("still lists"));
        assert!(said(Some("79001***567"), None).contains("left of it"));
        assert_eq!(said(None, None), "Nothing was linked.");
    }
}
