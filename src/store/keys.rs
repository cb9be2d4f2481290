//! Owns `hairpin.keys`: one block per epoch, holding the secret under which the epoch's values are sealed.
//! Kept outside redb: a freed page of a copy-on-write file would keep an overwritten key.
//! A block is written and synced before the store names its epoch, and overwritten once the epoch is wiped; the sync
//! that makes an old secret's end durable does the same for the next epoch's beginning (`spare`).

mod rotate;
mod spare;
mod wrapping;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::Epoch;
use super::disk::DiskFile;
use super::error::OpenError;
use super::seal::{DataKey, Secret};
use super::tx::KeyRing;

pub use wrapping::WrappingKey;

/// The file's name in the data folder.
pub(crate) const FILE: &str = "hairpin.keys";
/// A block is a page: a torn write of one leaves its neighbours alone.
pub(super) const BLOCK: u64 = 4096;
/// What a used block holds: magic 4, flags 1, epoch 8, nonce 12, secret and tag 48, checksum 32.
const USED: usize = 105;
const MAGIC: &[u8; 4] = b"HPK1";
const PLAIN: u8 = 1;
const WRAPPED: u8 = 2;

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

/// What a block of the file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    /// An epoch's secret. A rotation that was cut short leaves two of one epoch.
    Used(Epoch, Under),
    /// An epoch's secret under a credential that is not given: nobody's, unless the store misses the epoch.
    Foreign(Epoch),
    /// The spare, durably.
    Spare,
    /// Zeros, durably.
    Empty,
    /// Neither, or not known to be durable: nobody's, to be overwritten.
    Spoiled,
}

/// The open key file. Owned by the writer thread; readers get [`DataKey`]s.
pub(super) struct Keys {
    file: Box<dyn DiskFile>,
    wrapping: Option<WrappingKey>,
    blocks: Vec<Block>,
    keys: HashMap<Epoch, Arc<DataKey>>,
    /// The secret in the block that is marked so, and its epoch. Nobody has sealed anything under it.
    spare: Option<(Epoch, Arc<DataKey>)>,
}

impl Keys {
    /// Over a new, empty file; durable only once its folder is synced.
    pub(super) fn create(file: Box<dyn DiskFile>, wrapping: Option<WrappingKey>) -> Self {
        Self {
            file,
            wrapping,
            blocks: Vec::new(),
            keys: HashMap::new(),
            spare: None,
        }
    }

    /// Reads every block. What is no secret is nobody's, zeros included: a sync that failed may have lost them, and
    /// what is read then is not what the disk holds.
    pub(super) fn open(
        file: Box<dyn DiskFile>,
        wrapping: Option<WrappingKey>,
    ) -> Result<Self, OpenError> {
        let length = file.len()?;
        let mut keys = Self::create(file, wrapping);
        for slot in 0..length.div_ceil(BLOCK) {
            let mut page = empty();
            let whole = length - slot * BLOCK >= BLOCK;
            if whole {
                keys.file.read(slot * BLOCK, &mut page)?;
            }
            let block = match page.first_chunk::<USED>().filter(|_| whole) {
                // Cut short: a block that was never acknowledged.
                None => Block::Spoiled,
                // Empty, overwritten, torn or flipped: the store names the epochs it needs and finds it missing.
                Some(used) => match epoch_of(used) {
                    None => Block::Spoiled,
                    Some(epoch) => match keys.unwrap(used) {
                        None => Block::Foreign(epoch),
                        Some((secret, under)) => {
                            keys.keys
                                .insert(epoch, Arc::new(DataKey::new(epoch, &secret)));
                            Block::Used(epoch, under)
                        }
                    },
                },
            };
            keys.blocks.push(block);
        }
        Ok(keys)
    }

    /// All keys, for readers.
    pub(super) fn ring(&self) -> KeyRing {
        self.keys.clone()
    }

    /// The epochs that have a block.
    pub(super) fn epochs(&self) -> Vec<Epoch> {
        self.blocks
            .iter()
            .filter_map(|block| match block {
                Block::Used(epoch, _) | Block::Foreign(epoch) => Some(*epoch),
                Block::Spare | Block::Empty | Block::Spoiled => None,
            })
            .collect()
    }

    /// Why an epoch that the store names has no key here.
    pub(super) fn without(&self, epoch: Epoch) -> OpenError {
        if self.blocks.contains(&Block::Foreign(epoch)) {
            OpenError::KeysWrong
        } else {
            OpenError::KeysMissing
        }
    }

    /// Gives each epoch a new secret, but for one that took the spare; durable when this returns. After an error none
    /// of them has one.
    pub(super) fn add(&mut self, epochs: &[Epoch]) -> io::Result<()> {
        let without: Vec<Epoch> = epochs
            .iter()
            .copied()
            .filter(|epoch| !self.keys.contains_key(epoch))
            .collect();
        if without.is_empty() {
            return Ok(());
        }
        let added = without
            .iter()
            .try_for_each(|epoch| self.write_secret(*epoch))
            .and_then(|()| self.file.sync_data());
        if added.is_err() {
            for epoch in epochs {
                self.keys.remove(epoch);
                self.mark(*epoch, Block::Spoiled);
            }
        }
        added
    }

    fn write_secret(&mut self, epoch: Epoch) -> io::Result<()> {
        let secret = Secret::random()?;
        let slot = self.free();
        self.write_block(slot, epoch, &secret)?;
        self.keys
            .insert(epoch, Arc::new(DataKey::new(epoch, &secret)));
        Ok(())
    }

    /// Writes a secret into a block.
    fn write_block(&mut self, slot: usize, epoch: Epoch, secret: &Secret) -> io::Result<()> {
        let page = self.page(epoch, secret)?;
        self.blocks[slot] = Block::Spoiled;
        self.write(slot, &page)?;
        self.blocks[slot] = Block::Used(epoch, self.present());
        Ok(())
    }

    /// Overwrites the epochs' blocks, and whatever else is nobody's: what an erasure before this one has failed to
    /// overwrite goes with it. Leaves a spare under a number that was never given out; durable when this returns.
    /// After an error it may be asked again, with another number.
    pub(super) fn erase(&mut self, epochs: &[Epoch], spare: Epoch) -> io::Result<()> {
        self.keys.retain(|epoch, _| !epochs.contains(epoch));
        self.overwrite_but_for_a_spare(&self.of_nobody(), spare)
    }

    /// Overwrites every block that is not one of these epochs', and is not known to be empty; leaves a spare
    /// under a number that was never given out in the first of them. Syncs in any case: what was overwritten before
    /// the program was killed looks as if it were durable.
    pub(super) fn keep_only(&mut self, epochs: &[Epoch], spare: Epoch) -> io::Result<()> {
        self.keys.retain(|epoch, _| epochs.contains(epoch));
        let slots = self.of_nobody();
        if slots.is_empty() {
            return self.file.sync_data();
        }
        self.overwrite_but_for_a_spare(&slots, spare)
    }

    /// The blocks that belong to no epoch with a key, and are not known to be empty.
    fn of_nobody(&self) -> Vec<usize> {
        self.slots(|block| match block {
            Block::Used(epoch, _) => !self.keys.contains_key(epoch),
            Block::Empty => false,
            Block::Foreign(_) | Block::Spare | Block::Spoiled => true,
        })
    }

    /// Whether a block can be written now: tries it with one that nobody needs.
    pub(super) fn probe(&mut self) -> io::Result<()> {
        let slot = self.drop_spare().unwrap_or_else(|| self.free());
        self.overwrite(&[slot])
    }

    fn slots(&self, which: impl Fn(&Block) -> bool) -> Vec<usize> {
        let all = self.blocks.iter().enumerate();
        all.filter(|(_, block)| which(block))
            .map(|(slot, _)| slot)
            .collect()
    }

    /// Written and synced together: a sync that failed may have lost the write, so it is written again next time.
    fn overwrite(&mut self, slots: &[usize]) -> io::Result<()> {
        if slots.is_empty() {
            return Ok(());
        }
        let page = empty();
        for slot in slots {
            self.write(*slot, &page)?;
        }
        self.file.sync_data()?;
        for slot in slots {
            self.blocks[*slot] = Block::Empty;
        }
        Ok(())
    }

    /// An empty block, at the end if there is none before.
    fn free(&mut self) -> usize {
        if let Some(slot) = self.blocks.iter().position(|block| *block == Block::Empty) {
            return slot;
        }
        self.blocks.push(Block::Empty);
        self.blocks.len() - 1
    }

    fn mark(&mut self, epoch: Epoch, as_what: Block) {
        for block in &mut self.blocks {
            if matches!(block, Block::Used(of, _) if *of == epoch) {
                *block = as_what;
            }
        }
    }

    fn write(&self, slot: usize, page: &[u8]) -> io::Result<()> {
        self.file.write(slot as u64 * BLOCK, page)
    }

    /// A secret as a whole block, so that the file's length is always a multiple of it.
    fn page(&self, epoch: Epoch, secret: &Secret) -> io::Result<Zeroizing<Vec<u8>>> {
        let mut page = empty();
        page[..USED].copy_from_slice(&*self.wrap(epoch, secret)?);
        Ok(page)
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

    /// The secret of a block that is as it was written; `None` when no key that is given opens it.
    fn unwrap(&self, block: &[u8; USED]) -> Option<(Secret, Under)> {
        let mut secret = Secret([0; 32]);
        if block[4] == PLAIN {
            secret.0.copy_from_slice(&block[25..57]);
            return Some((secret, Under::Plain));
        }
        let wrapping = self.wrapping.as_ref()?;
        let nonce: [u8; 12] = block[13..25].try_into().ok()?;
        let opened = |key: &Zeroizing<[u8; 32]>| {
            let payload = Payload {
                msg: &block[25..73],
                aad: &block[5..13],
            };
            Aes256Gcm::new(&(**key).into())
                .decrypt(&Nonce::from(nonce), payload)
                .map(Zeroizing::new)
                .ok()
        };
        let present = opened(&wrapping.present).map(|plain| (plain, Under::Present));
        let (plain, under) = present.or_else(|| {
            let old = wrapping.old.as_ref()?;
            Some((opened(old)?, Under::Old))
        })?;
        secret.0.copy_from_slice(&plain);
        Some((secret, under))
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

/// A block of zeros.
fn empty() -> Zeroizing<Vec<u8>> {
    Zeroizing::new(vec![0; usize::try_from(BLOCK).unwrap_or(4096)])
}
