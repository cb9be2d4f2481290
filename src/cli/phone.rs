//! Owns `hairpin phone`: how a number is read, or why it is refused.

use std::io::BufRead as _;

use serde_json::json;

use super::term;
use crate::exit::ExitError;
use crate::phone::{Country, Phone, PhoneError};
use crate::words::{self, Lang};

pub(super) fn phone(
    number: Option<&str>,
    country: Option<&str>,
    default: Country,
    json: bool,
) -> Result<(), ExitError> {
    let country = country.map_or(Ok(default), Country::parse);
    let read = |text: &str| country.and_then(|country| Phone::parse(text, country));
    let mut refused = None;
    let mut answer = |text: &str, many: bool| -> Result<(), ExitError> {
        let result = read(text);
        let line = match &result {
            Ok(phone) if json => reading(phone).to_string(),
            Ok(phone) => format!(
                "{} ({}, {})",
                phone.e164().reveal(),
                phone
                    .country()
                    .map_or_else(|| "?".to_owned(), Country::code),
                phone.kind().replace('_', " ")
            ),
            Err(error) if json => refusal(*error, Lang::En).to_string(),
            Err(error) if many => format!("refused: {}", sentence(*error, Lang::En)),
            Err(_) => String::new(),
        };
        if !line.is_empty() {
            term::say(&line)?;
        }
        if let Err(error) = result {
            refused = Some(error);
        }
        Ok(())
    };
    if let Some("-") = number {
        for line in std::io::stdin().lock().split(b'\n') {
            let line = line.map_err(|error| {
                ExitError::failed(format!("standard input cannot be read: {error}"))
            })?;
            // What is no text is no number, and gets its answer like every other line.
            answer(&String::from_utf8_lossy(&line), true)?;
        }
        // Each refusal stands on its own line already.
        refused.map_or(Ok(()), |_| Err(ExitError::wrong_use("")))
    } else {
        let typed = match number {
            Some(number) => number.to_owned(),
            None => term::ask_for_number()?.to_string(),
        };
        answer(&typed, false)?;
        match refused {
            None => Ok(()),
            Some(_) if json => Err(ExitError::wrong_use("")),
            Some(error) => Err(ExitError::wrong_use(sentence(error, Lang::En))),
        }
    }
}

/// How a number is read, as the terminal and the API say it.
#[must_use]
pub fn reading(phone: &Phone) -> serde_json::Value {
    json!({
        "e164": phone.e164().reveal(),
        "country": phone.country().map(Country::code),
        "kind": phone.kind(),
        "masked": phone.masked(),
    })
}

/// Why a number is refused, as the terminal says it.
#[must_use]
pub fn refusal(error: PhoneError, lang: Lang) -> serde_json::Value {
    json!({
        "code": error.code(),
        "reason": error.reason(),
        "message": sentence(error, lang),
    })
}

pub(super) fn sentence(error: PhoneError, lang: Lang) -> String {
    words::message(error.code(), Some(error.reason()), lang).to_owned()
}
