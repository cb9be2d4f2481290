//! Owns the one type for text that must not leak: numbers, pairing codes, QR values, keys as text.
//! It must never print itself; whoever needs the text says `reveal()`.

use serde::{Deserialize, Deserializer, Serialize};
use zeroize::{ZeroizeOnDrop, Zeroizing};

/// Text that redacts itself and is zeroed when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Takes the text over.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself: only for whoever is meant to see it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&str> for SecretText {
    fn from(text: &str) -> Self {
        Self::new(text.to_owned())
    }
}

impl ZeroizeOnDrop for SecretText {}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretText(***)")
    }
}

/// A value as JSON that is zeroed when dropped. Measured first, so that it never grows: what a text outgrows is given
/// back as it was. There is room for a line's end.
pub(crate) fn json(value: &impl Serialize) -> Zeroizing<String> {
    let mut measured = Measured(1);
    // Our types have string keys only and no failing serializers, and neither place is ever full.
    let _ = serde_json::to_writer(&mut measured, value);
    let mut bytes = Vec::with_capacity(measured.0);
    let _ = serde_json::to_writer(&mut bytes, value);
    Zeroizing::new(String::from_utf8(bytes).unwrap_or_default())
}

/// How much was written to it.
struct Measured(usize);

impl std::io::Write for Measured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_json_never_grows() {
        let long = "я\n".repeat(1000);
        let mut text = json(&[&long, "ABCD-EFGH"]);
        let place = text.as_ptr();
        text.push('\n');
        assert_eq!(text.as_ptr(), place);
        assert_eq!(
            *text,
            serde_json::to_string(&[&long, "ABCD-EFGH"]).expect("JSON") + "\n"
        );
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        let secret: SecretText = serde_json::from_str("\"hp-KEY\"").expect("text");
        assert_eq!(secret.reveal(), "hp-KEY");
        assert!(!format!("{secret:?}").contains("KEY"));
    }
}
