//! Owns the sealed form of a backup: who can open it, and that nothing in it was changed, cut off or moved.
//! It knows nothing of what is inside.
//!
//! ```text
//! magic 8 | version 2 | way 1 | kdf 1 | rounds 4 | salt 16 | chunk 4 | nonce 12 | sealed file key 48 | checksum 32
//! chunk | chunk | … | last chunk
//! ```
//!
//! The file key is random, and sealed under a key that comes from the passphrase or from systemd's credential, with
//! all of the header before it as associated data. The checksum is no secret: it tells a damaged header from a wrong
//! passphrase. Every chunk is sealed under the file key, with its number and whether it is the last one as its nonce
//! and the whole header as associated data: chunks that are cut off, moved or of another file do not open.
//! Magic and version keep their places for ever, so that any version can name a newer one.

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::error::{BackupError, StoreError};
use super::keys::WrappingKey;
use crate::secret::SecretText;

const MAGIC: &[u8; 8] = b"HAIRPINB";
const VERSION: u16 = 1;
const HEADER: usize = 128;
/// Where the sealed file key's associated data ends.
const BOUND: usize = 48;
/// Where the checksum begins.
const SUMMED: usize = 96;
/// Plain bytes of a chunk; the last one may be shorter.
const CHUNK: u32 = 64 << 10;
const TAG: usize = 16;

const PASSPHRASE: u8 = 1;
const CREDENTIAL: u8 = 2;
const NO_KDF: u8 = 0;
const PBKDF2_SHA256: u8 = 1;

/// OWASP's figure for PBKDF2 with HMAC-SHA256. A memory-hard function would cost a thief with graphics cards more;
/// it would also cost another dependency, and the memory that the smallest appliance has. The header names the
/// function, so that a later version may choose another and still read these files.
const ROUNDS: u32 = 600_000;
/// A header that asks for more work than this is not ours: nobody's file keeps a machine busy for minutes.
const MOST_ROUNDS: u32 = 20_000_000;

/// What a backup is sealed with, and what opens it. Redacts itself.
#[derive(Debug, Clone)]
pub enum BackupKey {
    /// A passphrase that somebody remembers.
    Passphrase(SecretText),
    /// The key that systemd gives.
    Credential(WrappingKey),
}

/// What opens a backup, as its file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupWay {
    /// A passphrase.
    Passphrase,
    /// The key that systemd gives.
    Credential,
}

/// Seals bytes into a file. Takes a moment with a passphrase: that is its purpose.
pub(super) fn seal(key: &BackupKey, plain: &[u8]) -> Result<Vec<u8>, StoreError> {
    seal_with(key, ROUNDS, plain)
}

fn seal_with(key: &BackupKey, rounds: u32, plain: &[u8]) -> Result<Vec<u8>, StoreError> {
    let (way, kdf, rounds) = match key {
        BackupKey::Passphrase(_) => (PASSPHRASE, PBKDF2_SHA256, rounds),
        BackupKey::Credential(_) => (CREDENTIAL, NO_KDF, 0),
    };
    let mut random = Zeroizing::new([0; 60]);
    getrandom::fill(&mut *random).map_err(|_| StoreError::Disk)?;
    let (file_key, rest) = random.split_at(32);
    let (salt, nonce) = rest.split_at(16);
    let file_key = array::<32>(file_key);
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..10].copy_from_slice(&VERSION.to_be_bytes());
    header[10] = way;
    header[11] = kdf;
    header[12..16].copy_from_slice(&rounds.to_be_bytes());
    header[16..32].copy_from_slice(salt);
    header[32..36].copy_from_slice(&CHUNK.to_be_bytes());
    header[36..48].copy_from_slice(nonce);
    let outer = match key {
        BackupKey::Passphrase(passphrase) => stretched(passphrase, salt, rounds),
        BackupKey::Credential(credential) => credential.for_backup(salt),
    };
    let sealed = cipher(&outer)
        .encrypt(
            &Nonce::from(*array::<12>(nonce)),
            Payload {
                msg: &*file_key,
                aad: &header[..BOUND],
            },
        )
        .map_err(|_| StoreError::TooLarge)?;
    header[BOUND..SUMMED].copy_from_slice(&sealed);
    let checksum = Sha256::digest(&header[..SUMMED]);
    header[SUMMED..].copy_from_slice(&checksum);

    let cipher = cipher(&file_key);
    let chunk = CHUNK as usize;
    // An empty payload still has its last chunk.
    let chunks = plain.len().div_ceil(chunk).max(1);
    let mut out = Vec::with_capacity(HEADER + plain.len() + chunks * TAG);
    out.extend_from_slice(&header);
    for number in 0..chunks {
        let bytes = &plain[number * chunk..plain.len().min((number + 1) * chunk)];
        let nonce = nonce_of(number, number + 1 == chunks).ok_or(StoreError::TooLarge)?;
        let sealed = cipher
            .encrypt(
                &Nonce::from(nonce),
                Payload {
                    msg: bytes,
                    aad: &header,
                },
            )
            .map_err(|_| StoreError::TooLarge)?;
        out.extend_from_slice(&sealed);
    }
    Ok(out)
}

/// A file whose header is in order.
pub(super) struct Envelope<'f> {
    header: &'f [u8; HEADER],
    body: &'f [u8],
    way: BackupWay,
    rounds: u32,
    chunk: usize,
}

impl<'f> Envelope<'f> {
    /// Reads the header; nothing is opened yet.
    pub(super) fn read(file: &'f [u8]) -> Result<Self, BackupError> {
        let known = file.len().min(MAGIC.len());
        if known == 0 || file[..known] != MAGIC[..known] {
            return Err(BackupError::Foreign);
        }
        let version = file.get(8..10).ok_or(BackupError::Cut)?;
        let version = u16::from_be_bytes(*array::<2>(version));
        if version > VERSION {
            return Err(BackupError::Newer(u32::from(version)));
        }
        let (header, body) = file.split_first_chunk::<HEADER>().ok_or(BackupError::Cut)?;
        let checksum: [u8; 32] = Sha256::digest(&header[..SUMMED]).into();
        if checksum != header[SUMMED..] {
            return Err(BackupError::Damaged);
        }
        let rounds = u32::from_be_bytes(*array::<4>(&header[12..16]));
        let way = match (header[10], header[11], rounds) {
            (PASSPHRASE, PBKDF2_SHA256, 1..=MOST_ROUNDS) => BackupWay::Passphrase,
            (CREDENTIAL, NO_KDF, _) => BackupWay::Credential,
            _ => return Err(BackupError::Damaged),
        };
        let chunk = u32::from_be_bytes(*array::<4>(&header[32..36]));
        if version != VERSION || chunk != CHUNK {
            return Err(BackupError::Damaged);
        }
        Ok(Self {
            header,
            body,
            way,
            rounds,
            chunk: chunk as usize,
        })
    }

    /// What opens it.
    pub(super) fn way(&self) -> BackupWay {
        self.way
    }

    /// Opens all of it, or nothing.
    pub(super) fn open(&self, key: &BackupKey) -> Result<Zeroizing<Vec<u8>>, BackupError> {
        let cipher = cipher(&self.file_key(key)?);
        let sealed = self.chunk + TAG;
        let chunks = self.body.len().div_ceil(sealed).max(1);
        let mut plain = Zeroizing::new(Vec::with_capacity(self.body.len()));
        for number in 0..chunks {
            let bytes = &self.body[number * sealed..self.body.len().min((number + 1) * sealed)];
            let last = number + 1 == chunks;
            let opened = |last| {
                let nonce = nonce_of(number, last)?;
                let payload = Payload {
                    msg: bytes,
                    aad: self.header.as_slice(),
                };
                cipher.decrypt(&Nonce::from(nonce), payload).ok()
            };
            match opened(last).map(Zeroizing::new) {
                Some(bytes) => plain.extend_from_slice(&bytes),
                // A whole chunk that says more follow, and none does.
                None if last && opened(false).is_some() => return Err(BackupError::Cut),
                None => return Err(BackupError::Damaged),
            }
        }
        Ok(plain)
    }

    fn file_key(&self, key: &BackupKey) -> Result<Zeroizing<[u8; 32]>, BackupError> {
        let salt = &self.header[16..32];
        let (candidates, wrong) = match (key, self.way) {
            (BackupKey::Passphrase(passphrase), BackupWay::Passphrase) => (
                vec![stretched(passphrase, salt, self.rounds)],
                BackupError::WrongPassphrase,
            ),
            (BackupKey::Credential(credential), BackupWay::Credential) => (
                credential.all_for_backup(salt),
                BackupError::WrongCredential,
            ),
            (BackupKey::Credential(_), BackupWay::Passphrase) => {
                return Err(BackupError::WantsPassphrase);
            }
            (BackupKey::Passphrase(_), BackupWay::Credential) => {
                return Err(BackupError::WantsCredential);
            }
        };
        let nonce = Nonce::from(*array::<12>(&self.header[36..48]));
        candidates
            .iter()
            .find_map(|outer| {
                let payload = Payload {
                    msg: &self.header[BOUND..SUMMED],
                    aad: &self.header[..BOUND],
                };
                cipher(outer).decrypt(&nonce, payload).ok()
            })
            .map(|file_key| array::<32>(&Zeroizing::new(file_key)))
            .ok_or(wrong)
    }
}

fn stretched(passphrase: &SecretText, salt: &[u8], rounds: u32) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    pbkdf2::pbkdf2_hmac::<Sha256>(passphrase.reveal().as_bytes(), salt, rounds, &mut *key);
    key
}

fn cipher(key: &Zeroizing<[u8; 32]>) -> Aes256Gcm {
    Aes256Gcm::new(&(**key).into())
}

/// The file key seals one file, so a chunk's number is never used twice with it.
fn nonce_of(number: usize, last: bool) -> Option<[u8; 12]> {
    let mut nonce = [0; 12];
    nonce[7] = u8::from(last);
    nonce[8..].copy_from_slice(&u32::try_from(number).ok()?.to_be_bytes());
    Some(nonce)
}

/// Bytes whose number is known where it is called.
fn array<const N: usize>(bytes: &[u8]) -> Zeroizing<[u8; N]>
where
    [u8; N]: zeroize::Zeroize,
{
    let mut array = Zeroizing::new([0; N]);
    array.copy_from_slice(bytes);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase(text: &str) -> BackupKey {
        BackupKey::Passphrase(SecretText::new(text.to_owned()))
    }

    fn credential(bytes: &[u8]) -> BackupKey {
        BackupKey::Credential(WrappingKey::from_credential(bytes))
    }

    /// Cheap to open: the tests open it thousands of times.
    fn sealed(plain: &[u8]) -> Vec<u8> {
        seal_with(&passphrase("open sesame"), 2, plain).expect("sealed")
    }

    fn open(file: &[u8], key: &BackupKey) -> Result<Vec<u8>, BackupError> {
        Ok(Envelope::read(file)?.open(key)?.to_vec())
    }

    #[test]
    fn what_was_sealed_opens_at_every_length_around_a_chunk() {
        let chunk = CHUNK as usize;
        for length in [
            0,
            1,
            chunk - 1,
            chunk,
            chunk + 1,
            2 * chunk - 1,
            2 * chunk,
            3 * chunk + 7,
        ] {
            let plain: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[0]).collect();
            let file = sealed(&plain);
            assert_eq!(
                open(&file, &passphrase("open sesame")).expect("opened"),
                plain,
                "{length}"
            );
        }
    }

    #[test]
    fn every_flipped_byte_is_found_and_never_called_something_else_than_it_is() {
        let file = sealed(b"what a salon cannot lose");
        let key = passphrase("open sesame");
        for at in 0..file.len() {
            for bit in [0x01, 0x80] {
                let mut flipped = file.clone();
                flipped[at] ^= bit;
                let refused = open(&flipped, &key).expect_err("flipped");
                let expected = match at {
                    0..8 => matches!(refused, BackupError::Foreign),
                    8..10 => matches!(refused, BackupError::Newer(_) | BackupError::Damaged),
                    _ => matches!(refused, BackupError::Damaged),
                };
                assert!(expected, "byte {at}: {refused}");
            }
        }
    }

    #[test]
    fn a_file_that_was_cut_anywhere_is_refused() {
        let chunk = CHUNK as usize;
        let file = sealed(&vec![7; 2 * chunk + 100]);
        let key = passphrase("open sesame");
        for length in (1..HEADER).chain((HEADER..file.len()).step_by(4093)) {
            let refused = open(&file[..length], &key).expect_err("cut");
            assert!(
                matches!(refused, BackupError::Cut | BackupError::Damaged),
                "{length}: {refused}"
            );
        }
        // Between two chunks everything that is left is good, but for the last one's mark.
        for chunks in [1, 2] {
            let cut = &file[..HEADER + chunks * (chunk + TAG)];
            assert!(matches!(open(cut, &key), Err(BackupError::Cut)));
        }
        assert!(matches!(open(&[], &key), Err(BackupError::Foreign)));
    }

    #[test]
    fn chunks_that_change_places_repeat_or_come_from_another_file_are_found() {
        let chunk = CHUNK as usize + TAG;
        let plain = [vec![1; CHUNK as usize], vec![2; CHUNK as usize], vec![3; 9]].concat();
        let file = sealed(&plain);
        let other = sealed(&plain);
        let (header, body) = file.split_at(HEADER);
        let (first, rest) = body.split_at(chunk);
        let (second, last) = rest.split_at(chunk);
        let key = passphrase("open sesame");
        for pieces in [
            [header, second, first, last].concat(),
            [header, first, first, last].concat(),
            [header, first, last].concat(),
            [header, first, second, last, last].concat(),
            [header, &other[HEADER..HEADER + chunk], second, last].concat(),
            [&other[..HEADER], body].concat(),
            [header, body, b"more"].concat(),
        ] {
            assert!(matches!(open(&pieces, &key), Err(BackupError::Damaged)));
        }
    }

    #[test]
    fn only_its_own_passphrase_or_credential_opens_it() {
        let file = sealed(b"secret");
        assert!(matches!(
            open(&file, &passphrase("open sesam")),
            Err(BackupError::WrongPassphrase)
        ));
        assert!(matches!(
            open(&file, &credential(&[1; 32])),
            Err(BackupError::WantsPassphrase)
        ));
        let file = seal(&credential(&[1; 32]), b"secret").expect("sealed");
        assert_eq!(
            open(&file, &credential(&[1; 32])).expect("opened"),
            b"secret"
        );
        assert!(matches!(
            open(&file, &credential(&[2; 32])),
            Err(BackupError::WrongCredential)
        ));
        assert!(matches!(
            open(&file, &passphrase("open sesame")),
            Err(BackupError::WantsCredential)
        ));
    }

    #[test]
    fn two_backups_of_the_same_have_nothing_in_common_and_show_nothing_of_it() {
        let plain = b"79001234567 and a key of thirty-two bytes, in the clear";
        let (one, two) = (sealed(plain), sealed(plain));
        assert_ne!(one[16..32], two[16..32], "salts");
        assert_ne!(one[HEADER..], two[HEADER..]);
        for file in [one, two] {
            assert!(!file.windows(8).any(|window| &plain[..8] == window));
        }
    }

    #[test]
    fn a_newer_format_is_named_and_a_header_that_asks_for_hours_of_work_is_not_obeyed() {
        let mut file = sealed(b"x");
        file[9] = 7;
        assert!(matches!(
            open(&file, &passphrase("open sesame")),
            Err(BackupError::Newer(7))
        ));
        let mut file = sealed(b"x");
        file[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
        let checksum = Sha256::digest(&file[..SUMMED]);
        file[SUMMED..HEADER].copy_from_slice(&checksum);
        assert!(matches!(
            open(&file, &passphrase("open sesame")),
            Err(BackupError::Damaged)
        ));
    }

    #[test]
    fn what_ships_stretches_a_passphrase_as_long_as_is_asked_for_today() {
        const { assert!(ROUNDS >= 600_000) };
        let file = seal(&passphrase("open sesame"), b"x").expect("sealed");
        let rounds = u32::from_be_bytes(file[12..16].try_into().expect("four"));
        assert_eq!((file[11], rounds), (PBKDF2_SHA256, ROUNDS));
        assert_eq!(
            open(&file, &passphrase("open sesame")).expect("opened"),
            b"x"
        );
    }
}
