//! Owns a file that redb may believe to write: what it writes is kept in memory, and the file stays as it is.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use redb::StorageBackend;

use super::disk::{DiskFile, close_and_lock_the_file};

/// What is kept of a write: whole blocks of this size.
const BLOCK: u64 = 4096;

/// A file, and what was written over it.
#[derive(Debug)]
pub(super) struct Overlay {
    file: Box<dyn DiskFile>,
    shown: Mutex<State>,
}

#[derive(Debug)]
struct State {
    length: u64,
    /// How much of the file still shows through: cut off and grown again it is zeros.
    through: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Overlay {
    /// Over a file of this length.
    pub(super) fn over(file: Box<dyn DiskFile>, length: u64) -> Self {
        Self {
            file,
            shown: Mutex::new(State {
                length,
                through: length,
                blocks: BTreeMap::new(),
            }),
        }
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

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        let state = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(state.length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > state.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let block = self.block(&state, at / BLOCK)?;
            let from = usize::try_from(at % BLOCK).unwrap_or_default();
            let count = (block.len() - from).min(out.len() - done);
            out[done..done + count].copy_from_slice(&block[from..from + count]);
            done += count;
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if length < state.length {
            state.through = state.through.min(length);
            state.blocks.split_off(&length.div_ceil(BLOCK));
            if let Some(block) = state.blocks.get_mut(&(length / BLOCK)) {
                block[usize::try_from(length % BLOCK).unwrap_or_default()..].fill(0);
            }
        }
        state.length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        state.length = state.length.max(offset + data.len() as u64);
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let mut block = self.block(&state, at / BLOCK)?;
            let from = usize::try_from(at % BLOCK).unwrap_or_default();
            let count = (block.len() - from).min(data.len() - done);
            block[from..from + count].copy_from_slice(&data[done..done + count]);
            state.blocks.insert(at / BLOCK, block);
            done += count;
        }
        Ok(())
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

    proptest! {
        #[test]
        fn it_reads_as_a_file_would_and_the_file_stays_as_it_is(
            first in prop::collection::vec(any::<u8>(), 0..20_000),
            steps in prop::collection::vec(step(), 0..20),
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("file");
            std::fs::write(&path, &first).expect("written");
            let file = Folder::new(folder.path()).open("file").expect("opened");
            let overlay = Overlay::over(file, first.len() as u64);
            let mut model = first.clone();
            for step in steps {
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
                prop_assert_eq!(overlay.len().expect("a length"), model.len() as u64);
                let mut out = vec![1; model.len()];
                overlay.read(0, &mut out).expect("read");
                prop_assert_eq!(&out, &model);
            }
            prop_assert!(overlay.read(model.len() as u64, &mut [0]).is_err());
            prop_assert_eq!(std::fs::read(&path).expect("read"), first);
        }
    }
}
