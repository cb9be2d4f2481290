//! Owns `hairpin backup`: the running appliance seals it, or this program does when none runs.

use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::reach::{self, Reached};
use super::term;
use crate::app;
use crate::config::Settings;
use crate::control::{Answer, Ask, Text};
use crate::exit::ExitError;
use crate::store::BackupKey;
use crate::upkeep::{Destination, passphrase};

const PASSPHRASE: &str = "its passphrase";
const CREDENTIAL: &str = "the credential hairpin-key";

pub(super) async fn backup(
    settings: &Settings,
    file: &Path,
    by_passphrase: bool,
) -> Result<(), ExitError> {
    let destination = Destination::of(file, &settings.data_dir)?;
    let mut chosen = match passphrase::from_environment()? {
        None if by_passphrase => Some(passphrase::typed_twice()?),
        set => set,
    };
    loop {
        let ask = Ask::Backup {
            passphrase: chosen.clone().map(Text::from),
        };
        let mut answers = match reach::appliance_or_store(settings, &ask).await? {
            Reached::Appliance(answers) => answers,
            Reached::Without(store) => {
                let key = match chosen {
                    Some(passphrase) => BackupKey::Passphrase(passphrase),
                    None => passphrase::for_backup(app::wrapping_key()?)?,
                };
                let opener = match key {
                    BackupKey::Passphrase(_) => PASSPHRASE,
                    BackupKey::Credential(_) => CREDENTIAL,
                };
                return destination.take(&store.backup(&key, term::now())?, opener);
            }
        };
        match answers.pop() {
            Some(Answer::WantsPassphrase) if chosen.is_none() => {
                chosen = Some(passphrase::typed_twice()?);
            }
            Some(Answer::End) => {
                let opener = chosen.map_or(CREDENTIAL, |_| PASSPHRASE);
                return destination.take(&joined(answers)?, opener);
            }
            Some(Answer::Failed(failure)) => return Err(reach::refused(&failure)),
            _ => return Err(reach::strange()),
        }
    }
}

/// The whole of what came in pieces.
fn joined(answers: Vec<Answer>) -> Result<Vec<u8>, ExitError> {
    let mut whole = Vec::new();
    for answer in answers {
        let Answer::Piece { bytes } = answer else {
            return Err(reach::strange());
        };
        BASE64_STANDARD
            .decode_vec(bytes, &mut whole)
            .map_err(|_| reach::strange())?;
    }
    Ok(whole)
}
