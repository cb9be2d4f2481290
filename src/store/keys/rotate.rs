//! Owns bringing every block under the present wrapping key: from none when a credential appears, or from the old one
//! when it is replaced. Every secret is durable in a block of its own before any old block is overwritten, so that a
//! power cut leaves it once or twice, and never not at all.

use std::io;

use zeroize::Zeroizing;

use super::{BLOCK, Block, Keys, USED, Under, epoch_of};
use crate::store::seal::Secret;

impl Keys {
    /// What new blocks lie under.
    pub(super) fn present(&self) -> Under {
        if self.wrapping.is_some() {
            Under::Present
        } else {
            Under::Plain
        }
    }

    /// Brings every block under the present wrapping key, if there is one; how many were moved. What fails is done
    /// by the next start: everything stays readable until then.
    pub(in crate::store) fn rotate(&mut self) -> io::Result<usize> {
        let present = self.present();
        let old: Vec<usize> = (0..self.blocks.len())
            .filter(|&slot| matches!(self.blocks[slot], Block::Used(_, under) if under < present))
            .collect();
        if old.is_empty() {
            return Ok(0);
        }
        for &slot in &old {
            self.rewrap(slot, present)?;
        }
        // Also what was only read back, from a rotation before this one, may not be durable yet.
        self.file.sync_data()?;
        self.overwrite(&old)?;
        Ok(old.len())
    }

    /// A second block with the same secret. One that is there already is written again: a sync that failed may have
    /// lost it.
    fn rewrap(&mut self, slot: usize, present: Under) -> io::Result<()> {
        let Block::Used(epoch, _) = self.blocks[slot] else {
            return Ok(());
        };
        let secret = self.secret_in(slot)?;
        let second = Block::Used(epoch, present);
        let there = self.blocks.iter().position(|block| *block == second);
        let to = there.unwrap_or_else(|| self.free());
        self.write_block(to, epoch, &secret)
    }

    fn secret_in(&self, slot: usize) -> io::Result<Secret> {
        let mut block = Zeroizing::new([0; USED]);
        self.file.read(slot as u64 * BLOCK, &mut *block)?;
        epoch_of(&*block)
            .and_then(|_| self.unwrap(&block))
            .map(|(secret, _)| secret)
            .ok_or_else(|| io::Error::other("a key block has changed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::{Disk as _, DiskFile, Folder};
    use crate::store::keys::{FILE, WrappingKey, epochs_in};
    use crate::store::{Epoch, NewLink, OpenError, Options, Store};
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    const FIRST: [u8; 32] = [1; 32];
    const SECOND: [u8; 32] = [2; 32];

    fn options(wrapping: Option<WrappingKey>) -> Options {
        Options {
            wrapping_key: wrapping,
            ..Options::default()
        }
    }

    fn first() -> WrappingKey {
        WrappingKey::from_credential(&FIRST)
    }

    fn second() -> WrappingKey {
        WrappingKey::from_credential(&SECOND)
    }

    /// Three links, and the spare where a fourth was.
    async fn fill(folder: &Path, wrapping: Option<WrappingKey>) {
        let store = Store::open(folder, options(wrapping)).expect("opened");
        for session in ["a", "b", "c", "d"] {
            store.put_session(session, session, 1).await.expect("added");
            let next = NewLink {
                line: format!("7900123456{}", session.len()).into(),
                intended: "79001234567".into(),
                now: 1,
            };
            store
                .replace_link(session, None, Some(next), vec![])
                .await
                .expect("opened");
        }
        let row = store.link("b").expect("read").expect("a link");
        store
            .replace_link("b", Some(row.epoch), None, vec![])
            .await
            .expect("wiped");
        store.close().await;
    }

    fn sound(folder: &Path, wrapping: Option<WrappingKey>) -> Result<(), OpenError> {
        let looked = Store::look(folder, wrapping)?;
        let report = looked.verify().expect("sound");
        assert_eq!(report.keys, 4, "the house and three links");
        Ok(())
    }

    async fn start(folder: &Path, wrapping: Option<WrappingKey>) -> Result<(), OpenError> {
        Store::open(folder, options(wrapping))?.close().await;
        Ok(())
    }

    /// What every block of the file lies under; none for an empty one.
    fn marks(folder: &Path) -> Vec<Option<u8>> {
        let file = std::fs::read(folder.join(FILE)).expect("read");
        file.chunks(4096)
            .map(|block| block.starts_with(b"HPK1").then(|| block[4]))
            .collect()
    }

    #[tokio::test]
    async fn a_credential_that_appears_wraps_every_key_and_is_wanted_from_then_on() {
        let folder = tempfile::tempdir().expect("a folder");
        fill(folder.path(), None).await;
        let plain = std::fs::read(folder.path().join(FILE)).expect("read");
        start(folder.path(), Some(first())).await.expect("opened");
        let marks = marks(folder.path());
        assert_eq!(marks.iter().flatten().count(), 5, "four, and the spare");
        assert!(marks.iter().flatten().all(|mark| *mark == 2), "{marks:?}");
        // Nothing of the plain secrets is left.
        let wrapped = std::fs::read(folder.path().join(FILE)).expect("read");
        for block in plain.chunks(4096).filter(|block| block[4] == 1) {
            let secret = &block[25..57];
            assert!(!wrapped.windows(32).any(|window| window == secret));
        }
        sound(folder.path(), Some(first())).expect("sound");
        for wrong in [None, Some(second())] {
            assert!(matches!(
                sound(folder.path(), wrong.clone()),
                Err(OpenError::KeysWrong)
            ));
            let before = std::fs::read(folder.path().join(FILE)).expect("read");
            assert!(matches!(
                start(folder.path(), wrong).await,
                Err(OpenError::KeysWrong)
            ));
            let after = std::fs::read(folder.path().join(FILE)).expect("read");
            assert_eq!(before, after);
        }
    }

    #[tokio::test]
    async fn a_credential_is_replaced_while_the_old_one_is_given_once_more() {
        let folder = tempfile::tempdir().expect("a folder");
        fill(folder.path(), Some(first())).await;
        let both = second().or_old(&FIRST);
        // A looker changes nothing and sees all.
        let before = std::fs::read(folder.path().join(FILE)).expect("read");
        sound(folder.path(), Some(both.clone())).expect("sound");
        let after = std::fs::read(folder.path().join(FILE)).expect("read");
        assert_eq!(before, after);
        start(folder.path(), Some(both)).await.expect("opened");
        sound(folder.path(), Some(second())).expect("sound");
        assert!(matches!(
            sound(folder.path(), Some(first())),
            Err(OpenError::KeysWrong)
        ));
        start(folder.path(), Some(second())).await.expect("opened");
    }

    fn open(folder: &Path, wrapping: Option<WrappingKey>) -> Keys {
        let file = Folder::new(folder).open(FILE).expect("there");
        Keys::open(file, wrapping).expect("opened")
    }

    /// A file in memory, and what a power cut leaves of it: whatever was not synced is there, not there, or torn.
    #[derive(Debug, Default)]
    struct Tape {
        bytes: Vec<u8>,
        durable: Vec<u8>,
        pending: Vec<(usize, Vec<u8>)>,
        images: BTreeSet<Vec<u8>>,
    }

    impl Tape {
        fn cut(&mut self) {
            for there in 0..1u32 << self.pending.len() {
                let mut image = self.durable.clone();
                for (at, (offset, bytes)) in self.pending.iter().enumerate() {
                    if there & 1 << at != 0 {
                        put(&mut image, *offset, bytes);
                    }
                }
                if let Some((offset, bytes)) = self.pending.last() {
                    let mut torn = image.clone();
                    put(&mut torn, *offset, &bytes[..64]);
                    self.images.insert(torn);
                }
                self.images.insert(image);
            }
        }
    }

    fn put(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
        image.resize(image.len().max(offset + bytes.len()), 0);
        image[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    #[derive(Debug, Clone)]
    struct Taped(Arc<Mutex<Tape>>);

    impl DiskFile for Taped {
        fn len(&self) -> io::Result<u64> {
            Ok(self.0.lock().expect("no panic").bytes.len() as u64)
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            let offset = usize::try_from(offset).expect("small");
            let tape = self.0.lock().expect("no panic");
            out.copy_from_slice(&tape.bytes[offset..offset + out.len()]);
            Ok(())
        }

        fn set_len(&self, _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn sync_data(&self) -> io::Result<()> {
            let mut tape = self.0.lock().expect("no panic");
            for (offset, bytes) in std::mem::take(&mut tape.pending) {
                put(&mut tape.durable, offset, &bytes);
            }
            tape.cut();
            Ok(())
        }

        fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            let offset = usize::try_from(offset).expect("small");
            let mut tape = self.0.lock().expect("no panic");
            put(&mut tape.bytes, offset, bytes);
            tape.pending.push((offset, bytes.to_vec()));
            tape.cut();
            Ok(())
        }
    }

    /// The same with room for no more than so many bytes.
    #[derive(Debug)]
    struct Full(Taped, u64);
    impl DiskFile for Full {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }
        fn set_len(&self, length: u64) -> io::Result<()> {
            self.0.set_len(length)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.0.sync_data()
        }
        fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            if offset + bytes.len() as u64 > self.1 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0.write(offset, bytes)
        }
    }

    #[tokio::test]
    async fn a_cut_anywhere_in_a_rotation_loses_no_key_and_the_next_start_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        fill(folder.path(), Some(first())).await;
        let both = || Some(second().or_old(&FIRST));
        let path = folder.path().join(FILE);
        let whole = std::fs::read(&path).expect("read");
        let tape = Arc::new(Mutex::new(Tape {
            bytes: whole.clone(),
            durable: whole,
            ..Tape::default()
        }));
        let file = Box::new(Taped(Arc::clone(&tape)));
        let moved = Keys::open(file, both()).expect("opened").rotate();
        assert_eq!(moved.expect("rotated"), 5);
        let images = std::mem::take(&mut tape.lock().expect("no panic").images);
        // Four secrets and a spare written in any order, then five overwritten, and each torn.
        assert!(images.len() > 32, "{}", images.len());
        for image in images {
            std::fs::write(&path, &image).expect("put back");
            sound(folder.path(), both()).expect("nothing lost");
            start(folder.path(), both()).await.expect("opened");
            sound(folder.path(), Some(second())).expect("all of it is new");
            assert_eq!(
                marks(folder.path()).iter().flatten().count(),
                5,
                "no double"
            );
        }
    }

    #[tokio::test]
    async fn second_blocks_that_a_failed_sync_lost_are_written_again_before_the_first_go() {
        let folder = tempfile::tempdir().expect("a folder");
        fill(folder.path(), Some(first())).await;
        let both = || Some(second().or_old(&FIRST));
        let path = folder.path().join(FILE);
        let whole = std::fs::read(&path).expect("read");
        let tape = Arc::new(Mutex::new(Tape {
            bytes: whole.clone(),
            durable: whole,
            ..Tape::default()
        }));
        let taped = || Box::new(Taped(Arc::clone(&tape)));
        let mut keys = Keys::open(taped(), both()).expect("opened");
        for slot in 0..keys.blocks.len() {
            keys.rewrap(slot, Under::Present).expect("written");
        }
        // The next start reads what is in memory only; no sync writes that any more.
        let mut lost = tape.lock().expect("no panic");
        lost.pending.clear();
        lost.images.clear();
        drop(lost);
        let mut keys = Keys::open(taped(), both()).expect("opened");
        assert_eq!(keys.rotate().expect("rotated"), 5);
        let images = std::mem::take(&mut tape.lock().expect("no panic").images);
        for image in images {
            std::fs::write(&path, &image).expect("put back");
            sound(folder.path(), both()).expect("nothing lost");
        }
        sound(folder.path(), Some(second())).expect("all of it is new");
    }

    #[tokio::test]
    async fn a_wipe_overwrites_both_blocks_of_an_epoch_that_has_two() {
        let folder = tempfile::tempdir().expect("a folder");
        fill(folder.path(), Some(first())).await;
        let mut keys = open(folder.path(), Some(first()));
        let epoch = *keys.epochs().iter().max().expect("one");
        let slot = keys
            .blocks
            .iter()
            .position(|block| *block == Block::Used(epoch, Under::Present))
            .expect("a block");
        let secret = keys.secret_in(slot).expect("a secret");
        let free = keys.free();
        keys.write_block(free, epoch, &secret).expect("written");
        let mut keys = open(folder.path(), Some(first()));
        let of_epoch = |keys: &Keys| keys.epochs().iter().filter(|of| **of == epoch).count();
        assert_eq!(of_epoch(&keys), 2);
        keys.erase(&[epoch], Epoch(epoch.0 + 1)).expect("erased");
        let keys = open(folder.path(), Some(first()));
        assert_eq!(of_epoch(&keys), 0);
        assert!(!keys.ring().contains_key(&epoch));
    }

    #[tokio::test]
    async fn a_disk_that_takes_no_new_block_leaves_every_key_readable() {
        let folder = tempfile::tempdir().expect("a folder");
        fill(folder.path(), Some(first())).await;
        let path = folder.path().join(FILE);
        let whole = std::fs::read(&path).expect("read");
        let tape = Arc::new(Mutex::new(Tape {
            bytes: whole.clone(),
            durable: whole.clone(),
            ..Tape::default()
        }));
        // The spare is in the one block that a wipe left.
        let file = Full(Taped(Arc::clone(&tape)), whole.len() as u64);
        let both = Some(second().or_old(&FIRST));
        let mut keys = Keys::open(Box::new(file), both.clone()).expect("opened");
        let before = keys.epochs();
        let refused = keys.rotate().expect_err("full");
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
        assert!(before.iter().all(|epoch| keys.ring().contains_key(epoch)));
        std::fs::write(&path, &tape.lock().expect("no panic").bytes).expect("put back");
        sound(folder.path(), both).expect("nothing lost");
    }

    #[tokio::test]
    async fn whoever_goes_back_to_the_old_credential_is_not_kept_out_by_a_spare_under_the_new_one()
    {
        let folder = tempfile::tempdir().expect("a folder");
        fill(folder.path(), Some(first())).await;
        let path = folder.path().join(FILE);
        let whole = std::fs::read(&path).expect("read");
        let tape = Arc::new(Mutex::new(Tape {
            bytes: whole.clone(),
            durable: whole.clone(),
            ..Tape::default()
        }));
        let file = Full(Taped(Arc::clone(&tape)), whole.len() as u64);
        let mut keys = Keys::open(Box::new(file), Some(second().or_old(&FIRST))).expect("opened");
        // As a start does: what nobody names goes first.
        let mut named = keys.epochs();
        named.sort_unstable();
        let unnamed = named.pop().expect("the spare");
        keys.keep_only(&named, Epoch(unnamed.0 + 1)).expect("kept");
        keys.rotate().expect_err("full");
        std::fs::write(&path, &tape.lock().expect("no panic").bytes).expect("put back");
        assert!(matches!(
            start(folder.path(), Some(second())).await,
            Err(OpenError::KeysWrong)
        ));
        sound(folder.path(), Some(first())).expect("every link has its key");
        start(folder.path(), Some(first())).await.expect("opened");
        let spare = epochs_in(&std::fs::read(&path).expect("read")).max();
        assert!(spare > Some(Epoch(unnamed.0 + 1)), "a new one in its place");
    }
}
