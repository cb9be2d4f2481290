//! Owns `hairpin.keys`: one block per epoch, holding the secret under which the epoch's values are sealed.
//! Kept outside redb: a freed page of a copy-on-write file would keep an overwritten key.
//! A block is written and synced before the store names its epoch, and overwritten once the epoch is wiped.

mod rotate;

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::Epoch;
use super::error::OpenError;
use super::seal::{DataKey, Secret};

/// The file's name in the data folder.
pub(crate) const FILE: &str = "hairpin.keys";
/// A block is a page: a torn write of one leaves its neighbours alone.
const BLOCK: u64 = 4096;
/// What a used block holds: magic 4, flags 1, epoch 8, nonce 12, secret and tag 48, checksum 32.
const USED: usize = 105;
const MAGIC: &[u8; 4] = b"HPK1";
const PLAIN: u8 = 1;
const WRAPPED: u8 = 2;

/// The key that systemd gives (`LoadCredentialEncrypted=hairpin-key`), under which secrets are wrapped;
/// and the one before it, while it is being replaced.
#[derive(Clone)]
pub struct WrappingKey {
    present: Zeroizing<[u8; 32]>,
    old: Option<Zeroizing<[u8; 32]>>,
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
    pub(super) fn for_backup(&self, salt: &[u8]) -> Zeroizing<[u8; 32]> {
        derived(&*self.present, &[b"hairpin backup v1", salt])
    }

    /// What may have sealed a backup's file key.
    pub(super) fn all_for_backup(&self, salt: &[u8]) -> Vec<Zeroizing<[u8; 32]>> {
        [Some(&self.present), self.old.as_ref()]
            .into_iter()
            .flatten()
            .map(|key| derived(&**key, &[b"hairpin backup v1", salt]))
            .collect()
    }
}

fn derived(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(super::seal::hmac(key, parts))
}

impl std::fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WrappingKey(***)")
    }
}

/// What a block's secret lies under; the last is what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Under {
    /// Nothing but the file's mode.
    Plain,
    /// The wrapping key that is being replaced.
    Old,
    /// The present wrapping key.
    Present,
}

/// The open key file. Owned by the writer thread; readers get [`DataKey`]s.
pub(super) struct Keys {
    file: File,
    path: PathBuf,
    wrapping: Option<WrappingKey>,
    slots: HashMap<Epoch, u64>,
    under: HashMap<Epoch, Under>,
    /// Second blocks of an epoch, which a rotation that was cut short has left: they go with the first.
    doubles: Vec<(Epoch, u64)>,
    keys: HashMap<Epoch, Arc<DataKey>>,
    free: Vec<u64>,
    blocks: u64,
}

impl Keys {
    /// A new, empty file; durable only once the folder is synced.
    pub(super) fn create(path: &Path, wrapping: Option<WrappingKey>) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            wrapping,
            slots: HashMap::new(),
            under: HashMap::new(),
            doubles: Vec::new(),
            keys: HashMap::new(),
            free: Vec::new(),
            blocks: 0,
        })
    }

    /// Reads every block. A block that is neither used nor empty is damage, unless nothing names its epoch.
    pub(super) fn open(path: &Path, wrapping: Option<WrappingKey>) -> Result<Self, OpenError> {
        Self::load(OpenOptions::new().read(true).write(true), path, wrapping)
    }

    /// The same, for whoever changes nothing.
    pub(super) fn read(path: &Path, wrapping: Option<WrappingKey>) -> Result<Self, OpenError> {
        Self::load(OpenOptions::new().read(true), path, wrapping)
    }

    fn load(
        how: &OpenOptions,
        path: &Path,
        wrapping: Option<WrappingKey>,
    ) -> Result<Self, OpenError> {
        let file = match how.open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OpenError::KeysMissing);
            }
            Err(error) => return Err(error.into()),
        };
        let blocks = file.metadata()?.len().div_ceil(BLOCK);
        let mut keys = Self {
            file,
            path: path.to_owned(),
            wrapping,
            slots: HashMap::new(),
            under: HashMap::new(),
            doubles: Vec::new(),
            keys: HashMap::new(),
            free: Vec::new(),
            blocks,
        };
        for slot in 0..blocks {
            let mut block = Zeroizing::new([0; USED]);
            if keys.file.read_exact_at(&mut *block, slot * BLOCK).is_err() {
                // Cut short: a block that was never acknowledged.
                keys.free.push(slot);
                continue;
            }
            match keys.unwrap(&block)? {
                Some((epoch, secret, under)) => {
                    keys.found(epoch, slot, under);
                    keys.keys
                        .insert(epoch, Arc::new(DataKey::new(epoch, &secret)));
                }
                None => keys.free.push(slot),
            }
        }
        Ok(keys)
    }

    pub(super) fn get(&self, epoch: Epoch) -> Option<Arc<DataKey>> {
        self.keys.get(&epoch).cloned()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The epochs that have a block.
    pub(super) fn epochs(&self) -> Vec<Epoch> {
        self.slots.keys().copied().collect()
    }

    /// Writes a new secret for the epoch. Not durable before [`Self::sync`].
    pub(super) fn add(&mut self, epoch: Epoch) -> io::Result<()> {
        let secret = Secret::random()?;
        let slot = self.write(epoch, &secret)?;
        self.slots.insert(epoch, slot);
        self.under.insert(epoch, self.present());
        self.keys
            .insert(epoch, Arc::new(DataKey::new(epoch, &secret)));
        Ok(())
    }

    /// Writes a block where none is; where.
    fn write(&mut self, epoch: Epoch, secret: &Secret) -> io::Result<u64> {
        let block = self.wrap(epoch, secret)?;
        let slot = self.free.pop().unwrap_or(self.blocks);
        // A whole block, so that the file's length is always a multiple of it.
        let mut page = Zeroizing::new(vec![0; usize::try_from(BLOCK).unwrap_or(4096)]);
        page[..USED].copy_from_slice(&*block);
        if let Err(error) = self.file.write_all_at(&page, slot * BLOCK) {
            if slot < self.blocks {
                self.free.push(slot);
            }
            return Err(error);
        }
        self.blocks = self.blocks.max(slot + 1);
        Ok(slot)
    }

    /// Overwrites the epoch's block. Not durable before [`Self::sync`].
    pub(super) fn erase(&mut self, epoch: Epoch) -> io::Result<()> {
        self.keys.remove(&epoch);
        while let Some(at) = self.doubles.iter().position(|(of, _)| *of == epoch) {
            self.clear(self.doubles[at].1)?;
            self.doubles.swap_remove(at);
        }
        let Some(&slot) = self.slots.get(&epoch) else {
            return Ok(());
        };
        self.clear(slot)?;
        self.slots.remove(&epoch);
        self.under.remove(&epoch);
        Ok(())
    }

    /// Overwrites a block, which is free then.
    fn clear(&mut self, slot: u64) -> io::Result<()> {
        let page = vec![0; usize::try_from(BLOCK).unwrap_or(4096)];
        self.file.write_all_at(&page, slot * BLOCK)?;
        self.free.push(slot);
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn wrap(&self, epoch: Epoch, secret: &Secret) -> io::Result<Zeroizing<[u8; USED]>> {
        let mut block = Zeroizing::new([0; USED]);
        block[..4].copy_from_slice(MAGIC);
        block[5..13].copy_from_slice(&epoch.0.to_be_bytes());
        match &self.wrapping {
            None => {
                block[4] = PLAIN;
                block[25..57].copy_from_slice(&secret.0);
            }
            Some(wrapping) => {
                block[4] = WRAPPED;
                let mut nonce = [0; 12];
                getrandom::fill(&mut nonce).map_err(io::Error::other)?;
                block[13..25].copy_from_slice(&nonce);
                let wrapped = Aes256Gcm::new(&(*wrapping.present).into())
                    .encrypt(
                        &Nonce::from(nonce),
                        Payload {
                            msg: &secret.0,
                            aad: &epoch.0.to_be_bytes(),
                        },
                    )
                    .map_err(|_| io::Error::other("wrapping failed"))?;
                block[25..73].copy_from_slice(&wrapped);
            }
        }
        let checksum: [u8; 32] = Sha256::digest(&block[..73]).into();
        block[73..].copy_from_slice(&checksum);
        Ok(block)
    }

    /// The block's secret; `None` when it holds none.
    fn unwrap(&self, block: &[u8; USED]) -> Result<Option<(Epoch, Secret, Under)>, OpenError> {
        let Some(epoch) = epoch_of(block) else {
            // Empty, overwritten, torn or flipped: the store names the epochs it needs and finds it missing.
            return Ok(None);
        };
        let mut secret = Secret([0; 32]);
        if block[4] == PLAIN {
            secret.0.copy_from_slice(&block[25..57]);
            return Ok(Some((epoch, secret, Under::Plain)));
        }
        let wrapping = self.wrapping.as_ref().ok_or(OpenError::KeysWrong)?;
        let nonce: [u8; 12] = block[13..25].try_into().map_err(|_| OpenError::KeysWrong)?;
        let opened = |key: &Zeroizing<[u8; 32]>| {
            let payload = Payload {
                msg: &block[25..73],
                aad: &epoch.0.to_be_bytes(),
            };
            Aes256Gcm::new(&(**key).into())
                .decrypt(&Nonce::from(nonce), payload)
                .map(Zeroizing::new)
                .ok()
        };
        let (plain, under) = match (opened(&wrapping.present), &wrapping.old) {
            (Some(plain), _) => (plain, Under::Present),
            (None, Some(old)) => (opened(old).ok_or(OpenError::KeysWrong)?, Under::Old),
            (None, None) => return Err(OpenError::KeysWrong),
        };
        secret.0.copy_from_slice(&plain);
        Ok(Some((epoch, secret, under)))
    }
}

/// Whose block it is; nobody's when it is not as it was written.
fn epoch_of(block: &[u8]) -> Option<Epoch> {
    let checksum: [u8; 32] = Sha256::digest(block.get(..73)?).into();
    if block[..4] != *MAGIC || checksum != block[73..USED] {
        return None;
    }
    let epoch = block[5..13].try_into().ok()?;
    Some(Epoch(u64::from_be_bytes(epoch)))
}

/// The epochs of a key file's blocks, whatever they are wrapped under.
pub(super) fn epochs_in(file: &[u8]) -> impl Iterator<Item = Epoch> {
    file.chunks(usize::try_from(BLOCK).unwrap_or(4096))
        .filter(|block| block.len() >= USED)
        .filter_map(epoch_of)
}
