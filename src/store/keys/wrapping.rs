//! Owns the key that secrets are wrapped under, and that seals backups where nobody types a passphrase.

use std::io;
use std::path::Path;

use zeroize::Zeroizing;

/// The key that systemd gives (`LoadCredentialEncrypted=hairpin-key`), under which secrets are wrapped;
/// and the one before it, while it is being replaced.
#[derive(Clone)]
pub struct WrappingKey {
    pub(super) present: Zeroizing<[u8; 32]>,
    pub(super) old: Option<Zeroizing<[u8; 32]>>,
}

impl WrappingKey {
    /// Derives it from the credential's bytes, whatever their number.
    #[must_use]
    pub fn from_credential(bytes: &[u8]) -> Self {
        Self {
            present: derived(bytes, &[b"hairpin wrap v1"]),
            old: None,
        }
    }

    /// The same, and what was wrapped under another credential opens as well.
    #[must_use]
    pub fn or_old(self, bytes: &[u8]) -> Self {
        Self {
            old: Some(derived(bytes, &[b"hairpin wrap v1"])),
            ..self
        }
    }

    /// Reads `$CREDENTIALS_DIRECTORY/hairpin-key`, if there is one, and `hairpin-key-old` beside it.
    ///
    /// # Errors
    /// When one is there and cannot be read, or is shorter than 16 bytes.
    pub fn from_folder(folder: Option<&Path>) -> io::Result<Option<Self>> {
        let Some(folder) = folder else {
            return Ok(None);
        };
        let read = |name: &str| match std::fs::read(folder.join(name)) {
            Ok(bytes) if bytes.len() < 16 => Err(io::Error::other(format!(
                "the credential {name} is shorter than 16 bytes"
            ))),
            Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let Some(present) = read("hairpin-key")? else {
            return Ok(None);
        };
        let key = Self::from_credential(&present);
        Ok(Some(match read("hairpin-key-old")? {
            Some(old) => key.or_old(&old),
            None => key,
        }))
    }

    /// What seals a backup's file key.
    pub(in crate::store) fn for_backup(&self, salt: &[u8]) -> Zeroizing<[u8; 32]> {
        derived(&*self.present, &[b"hairpin backup v1", salt])
    }

    /// What may have sealed a backup's file key.
    pub(in crate::store) fn all_for_backup(&self, salt: &[u8]) -> Vec<Zeroizing<[u8; 32]>> {
        [Some(&self.present), self.old.as_ref()]
            .into_iter()
            .flatten()
            .map(|key| derived(&**key, &[b"hairpin backup v1", salt]))
            .collect()
    }
}

fn derived(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(crate::store::seal::hmac(key, parts))
}

impl std::fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WrappingKey(***)")
    }
}
