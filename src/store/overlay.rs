//! Owns a file that redb believes to write while the store is looked over: what it writes is kept in memory. Once it is
//! known that the store is whole and ours, all of it is done to the file, in its order and with its syncs, as if redb did
//! it then; a store that is refused stays as it was, to the byte.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::StorageBackend;

use super::disk::{DiskFile, close_and_lock_the_file};

/// What is kept of a write: whole blocks of this size.
const BLOCK: u64 = 4096;

/// A file, and what was written over it. Clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Overlay {
    file: Arc<dyn DiskFile>,
    stage: Arc<RwLock<Stage>>,
}

#[derive(Debug)]
enum Stage {
    /// Nothing was asked of the file yet: redb locks it first.
    Before,
    Over(State),
    /// Everything goes to the file.
    Through,
    /// Only some of it reached the file: it is opened anew, or not at all.
    Broken,
}

#[derive(Debug)]
struct State {
    length: u64,
    /// How much of the file still shows through: cut off and grown again it is zeros.
    through: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
    /// What is to be done to the file.
    changes: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
    Sync,
}

impl State {
    /// Whether nothing lies over these bytes of the file: almost all of what an opening reads.
    fn shows_through(&self, offset: u64, length: u64) -> bool {
        let end = offset + length;
        end <= self.through
            && (self.blocks)
                .range(offset / BLOCK..end.div_ceil(BLOCK))
                .next()
                .is_none()
    }
}

impl Overlay {
    /// Over a file.
    pub(super) fn over(file: Arc<dyn DiskFile>) -> Self {
        Self {
            file,
            stage: Arc::new(RwLock::new(Stage::Before)),
        }
    }

    /// Does to the file whatever was done to this, and steps aside.
    pub(super) fn release(&self) -> io::Result<()> {
        let mut now = self.stage_alone();
        let changes = match std::mem::replace(&mut *now, Stage::Broken) {
            Stage::Over(state) => state.changes,
            Stage::Before | Stage::Through => Vec::new(),
            Stage::Broken => return Err(broken()),
        };
        for change in changes {
            match change {
                Change::Write(offset, data) => self.file.write(offset, &data)?,
                Change::Length(length) => self.file.set_len(length)?,
                Change::Sync => self.file.sync_data()?,
            }
        }
        *now = Stage::Through;
        Ok(())
    }

    fn stage(&self) -> RwLockReadGuard<'_, Stage> {
        self.stage.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn stage_alone(&self) -> RwLockWriteGuard<'_, Stage> {
        self.stage.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to what is over the file; none when that is the file itself.
    fn change(&self, change: impl FnOnce(&mut State) -> io::Result<()>) -> Option<io::Result<()>> {
        if matches!(*self.stage(), Stage::Through) {
            return None;
        }
        Some(match &mut *self.stage_alone() {
            Stage::Over(state) => change(state),
            Stage::Before | Stage::Through | Stage::Broken => Err(broken()),
        })
    }

    /// A block as it is now.
    fn block(&self, state: &State, number: u64) -> io::Result<Vec<u8>> {
        if let Some(block) = state.blocks.get(&number) {
            return Ok(block.clone());
        }
        let start = number * BLOCK;
        let mut block = vec![0; usize::try_from(BLOCK).unwrap_or_default()];
        let there = state.through.saturating_sub(start).min(BLOCK);
        let there = usize::try_from(there).unwrap_or_default();
        if there > 0 {
            self.file.read(start, &mut block[..there])?;
        }
        Ok(block)
    }
}

fn broken() -> io::Error {
    io::Error::other("the file is not open")
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        match &*self.stage() {
            Stage::Before => {}
            Stage::Over(state) => return Ok(state.length),
            Stage::Through => return self.file.len(),
            Stage::Broken => return Err(broken()),
        }
        let length = self.file.len()?;
        *self.stage_alone() = Stage::Over(State {
            length,
            through: length,
            blocks: BTreeMap::new(),
            changes: Vec::new(),
        });
        Ok(length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let now = self.stage();
        let state = match &*now {
            Stage::Over(state) => state,
            Stage::Through => {
                drop(now);
                return self.file.read(offset, out);
            }
            Stage::Before | Stage::Broken => return Err(broken()),
        };
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > state.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if state.shows_through(offset, out.len() as u64) {
            return self.file.read(offset, out);
        }
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let block = self.block(state, at / BLOCK)?;
            let from = usize::try_from(at % BLOCK).unwrap_or_default();
            let count = (block.len() - from).min(out.len() - done);
            out[done..done + count].copy_from_slice(&block[from..from + count]);
            done += count;
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let over = self.change(|state| {
            if length < state.length {
                state.through = state.through.min(length);
                state.blocks.split_off(&length.div_ceil(BLOCK));
                if let Some(block) = state.blocks.get_mut(&(length / BLOCK)) {
                    block[usize::try_from(length % BLOCK).unwrap_or_default()..].fill(0);
                }
            }
            state.length = length;
            state.changes.push(Change::Length(length));
            Ok(())
        });
        over.unwrap_or_else(|| self.file.set_len(length))
    }

    fn sync_data(&self) -> io::Result<()> {
        let over = self.change(|state| {
            state.changes.push(Change::Sync);
            Ok(())
        });
        over.unwrap_or_else(|| self.file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let over = self.change(|state| {
            state.length = state.length.max(offset + data.len() as u64);
            let mut done = 0;
            while done < data.len() {
                let at = offset + done as u64;
                let mut block = self.block(state, at / BLOCK)?;
                let from = usize::try_from(at % BLOCK).unwrap_or_default();
                let count = (block.len() - from).min(data.len() - done);
                block[from..from + count].copy_from_slice(&data[done..done + count]);
                state.blocks.insert(at / BLOCK, block);
                done += count;
            }
            state.changes.push(Change::Write(offset, data.to_vec()));
            Ok(())
        });
        over.unwrap_or_else(|| self.file.write(offset, data))
    }

    // The locks are the file's: nobody else writes it while it shows through.

    close_and_lock_the_file!();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::{Disk as _, Folder};
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, Vec<u8>),
        Length(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..20_000u64, prop::collection::vec(any::<u8>(), 1..6000))
                .prop_map(|(at, bytes)| Step::Write(at, bytes)),
            (0..30_000u64).prop_map(Step::Length),
        ]
    }

    /// Does a step to the overlay, and to what it is held against.
    fn take(overlay: &Overlay, model: &mut Vec<u8>, step: Step) {
        match step {
            Step::Write(at, bytes) => {
                let at = usize::try_from(at).expect("small");
                if model.len() < at + bytes.len() {
                    model.resize(at + bytes.len(), 0);
                }
                model[at..at + bytes.len()].copy_from_slice(&bytes);
                overlay.write(at as u64, &bytes).expect("written");
            }
            Step::Length(length) => {
                model.resize(usize::try_from(length).expect("small"), 0);
                overlay.set_len(length).expect("set");
            }
        }
    }

    fn seen(overlay: &Overlay) -> Vec<u8> {
        let length = overlay.len().expect("a length");
        let mut out = vec![1; usize::try_from(length).expect("small")];
        overlay.read(0, &mut out).expect("read");
        out
    }

    proptest! {
        #[test]
        fn it_reads_as_a_file_would_and_the_file_stays_as_it_is_until_it_is_released(
            first in prop::collection::vec(any::<u8>(), 0..20_000),
            steps in prop::collection::vec(step(), 0..20),
            later in prop::collection::vec(step(), 0..5),
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("file");
            std::fs::write(&path, &first).expect("written");
            let file = Folder::new(folder.path()).open("file").expect("opened");
            let overlay = Overlay::over(Arc::from(file));
            let mut model = first.clone();
            prop_assert_eq!(overlay.len().expect("a length"), model.len() as u64);
            for step in steps {
                take(&overlay, &mut model, step);
                prop_assert_eq!(&seen(&overlay), &model);
            }
            prop_assert!(overlay.read(model.len() as u64, &mut [0]).is_err());
            prop_assert_eq!(std::fs::read(&path).expect("read"), first);
            overlay.release().expect("released");
            prop_assert_eq!(&std::fs::read(&path).expect("read"), &model);
            for step in later {
                take(&overlay, &mut model, step);
                prop_assert_eq!(&seen(&overlay), &model);
                prop_assert_eq!(&std::fs::read(&path).expect("read"), &model);
            }
        }
    }
}
