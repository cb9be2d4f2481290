//! Owns sealing: every stored value is AES-256-GCM under a key of its epoch, bound to its table and row.
//! A flipped bit, a swapped row or a value of another epoch does not open.

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::Epoch;
use super::error::StoreError;

/// The layout of what is sealed; part of every seal.
const SCHEMA: u8 = 1;
const NONCE: usize = 12;
const TAG: usize = 16;

/// The secret of one epoch, as it lies in its slot.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(super) struct Secret(pub(super) [u8; 32]);

impl Secret {
    /// A new one from the system's generator.
    pub(super) fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
        Ok(Self(bytes))
    }
}

/// What seals and names the rows of one epoch.
pub(super) struct DataKey {
    epoch: Epoch,
    cipher: Aes256Gcm,
    naming: Zeroizing<[u8; 32]>,
}

impl DataKey {
    pub(super) fn new(epoch: Epoch, secret: &Secret) -> Self {
        let sealing = Zeroizing::new(hmac(&secret.0, &[b"hairpin seal v1"]));
        Self {
            epoch,
            cipher: Aes256Gcm::new(&(*sealing).into()),
            naming: Zeroizing::new(hmac(&secret.0, &[b"hairpin name v1"])),
        }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// A row's name that tells nothing of the number or address it stands for.
    pub(super) fn name(&self, parts: &[&[u8]]) -> [u8; 32] {
        hmac(&*self.naming, parts)
    }

    pub(super) fn seal(
        &self,
        table: &str,
        row: &[u8],
        value: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(|_| StoreError::Disk)?;
        let aad = self.aad(table, row);
        let sealed = self
            .cipher
            .encrypt(
                &Nonce::from(nonce),
                Payload {
                    msg: value,
                    aad: &aad,
                },
            )
            .map_err(|_| StoreError::TooLarge)?;
        let mut out = Vec::with_capacity(NONCE + sealed.len());
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        Ok(out)
    }

    pub(super) fn open(
        &self,
        table: &str,
        row: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let (nonce, sealed) = sealed
            .split_first_chunk::<NONCE>()
            .filter(|(_, sealed)| sealed.len() >= TAG)
            .ok_or(StoreError::Damaged)?;
        let aad = self.aad(table, row);
        self.cipher
            .decrypt(
                &Nonce::from(*nonce),
                Payload {
                    msg: sealed,
                    aad: &aad,
                },
            )
            .map_err(|_| StoreError::Damaged)
    }

    /// Schema, epoch, table and row: each of fixed length or led by its length.
    fn aad(&self, table: &str, row: &[u8]) -> Vec<u8> {
        let mut aad = Vec::with_capacity(17 + table.len() + row.len());
        aad.push(SCHEMA);
        aad.extend_from_slice(&self.epoch.0.to_be_bytes());
        aad.extend_from_slice(&(table.len() as u64).to_be_bytes());
        aad.extend_from_slice(table.as_bytes());
        aad.extend_from_slice(row);
        aad
    }
}

/// HMAC-SHA256 over the parts, each led by its length.
pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length");
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_opens_only_where_it_was_sealed() {
        let key = DataKey::new(Epoch(7), &Secret([1; 32]));
        let sealed = key.seal("t", b"row", b"value").expect("sealed");
        assert_eq!(key.open("t", b"row", &sealed), Ok(b"value".to_vec()));
        assert_eq!(key.open("t", b"other", &sealed), Err(StoreError::Damaged));
        assert_eq!(key.open("u", b"row", &sealed), Err(StoreError::Damaged));
        let later = DataKey::new(Epoch(8), &Secret([1; 32]));
        assert_eq!(later.open("t", b"row", &sealed), Err(StoreError::Damaged));
        for at in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            assert_eq!(key.open("t", b"row", &flipped), Err(StoreError::Damaged));
        }
        assert_eq!(
            key.open("t", b"row", &sealed[..20]),
            Err(StoreError::Damaged)
        );
    }
}
