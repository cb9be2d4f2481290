//! Owns the spare: an epoch whose secret is durable before anybody asks for one. What is overwritten for a wipe is
//! overwritten with it, in the same sync, so that the next wipe waits for one sync less.
//! Its number is never given out but with it: no epoch ever has two secrets, whatever a sync that failed has left.
//! To a start that finds it the spare is a block like any other that the store does not name, and is overwritten.

use std::io;
use std::sync::Arc;

use super::{Block, Epoch, Keys, empty};
use crate::store::seal::{DataKey, Secret};

impl Keys {
    /// Gives the spare out, if there is one: from now on it is an epoch like any other.
    pub(in crate::store) fn take_spare(&mut self) -> Option<Epoch> {
        let (epoch, key) = self.spare.take()?;
        self.keys.insert(epoch, key);
        for slot in self.slots(|block| *block == Block::Spare) {
            self.blocks[slot] = Block::Used(epoch, self.present());
        }
        Some(epoch)
    }

    /// Gives the spare up; where it was.
    pub(super) fn drop_spare(&mut self) -> Option<usize> {
        self.spare = None;
        let slot = self.slots(|block| *block == Block::Spare).pop()?;
        self.blocks[slot] = Block::Spoiled;
        Some(slot)
    }

    /// Overwrites blocks, the first of them with a new spare. Written and synced together: a sync that failed
    /// may have lost the writes, so they are written again next time.
    pub(super) fn overwrite_but_for_a_spare(
        &mut self,
        slots: &[usize],
        epoch: Epoch,
    ) -> io::Result<()> {
        let Some((first, rest)) = slots.split_first() else {
            return Ok(());
        };
        self.drop_spare();
        let made = Secret::random().and_then(|secret| {
            let page = self.page(epoch, &secret)?;
            Ok((page, Arc::new(DataKey::new(epoch, &secret))))
        });
        let Ok((page, key)) = made else {
            // Nothing random is to be had: zeros do not wait for it.
            return self.overwrite(slots);
        };
        self.write(*first, &page)?;
        let zeros = empty();
        for slot in rest {
            self.write(*slot, &zeros)?;
        }
        self.file.sync_data()?;
        self.blocks[*first] = Block::Spare;
        for slot in rest {
            self.blocks[*slot] = Block::Empty;
        }
        self.spare = Some((epoch, key));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;
    use crate::store::disk::{Disk as _, DiskFile, Folder};
    use crate::store::keys::{BLOCK, FILE, WrappingKey, epochs_in};

    /// The real file, whose syncs are counted and may fail.
    #[derive(Debug)]
    struct Counted {
        file: Box<dyn DiskFile>,
        syncs: Arc<AtomicUsize>,
        writes: Arc<AtomicUsize>,
        fails: Arc<AtomicBool>,
    }

    impl DiskFile for Counted {
        fn len(&self) -> io::Result<u64> {
            self.file.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.file.read(offset, out)
        }
        fn set_len(&self, length: u64) -> io::Result<()> {
            self.file.set_len(length)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.syncs.fetch_add(1, Ordering::Relaxed);
            if self.fails.load(Ordering::Relaxed) {
                return Err(io::Error::other("no sync"));
            }
            self.file.sync_data()
        }
        fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            self.writes.fetch_add(1, Ordering::Relaxed);
            self.file.write(offset, bytes)
        }
    }

    struct Bench {
        folder: tempfile::TempDir,
        syncs: Arc<AtomicUsize>,
        writes: Arc<AtomicUsize>,
        fails: Arc<AtomicBool>,
    }

    fn wrapping() -> WrappingKey {
        WrappingKey::from_credential(&[1; 32])
    }

    impl Bench {
        /// A key file with the house's key and the first link's.
        fn new() -> (Self, Keys) {
            let bench = Self {
                folder: tempfile::tempdir().expect("a folder"),
                syncs: Arc::default(),
                writes: Arc::default(),
                fails: Arc::default(),
            };
            let made = Folder::new(bench.path()).create(FILE).expect("made");
            let mut keys = Keys::create(bench.counted(made), Some(wrapping()));
            keys.add(&[Epoch::HOUSE, Epoch(1)]).expect("added");
            (bench, keys)
        }

        fn path(&self) -> &Path {
            self.folder.path()
        }

        fn counted(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
            Box::new(Counted {
                file,
                syncs: Arc::clone(&self.syncs),
                writes: Arc::clone(&self.writes),
                fails: Arc::clone(&self.fails),
            })
        }

        /// What a start reads.
        fn open(&self) -> Keys {
            let file = Folder::new(self.path()).open(FILE).expect("there");
            Keys::open(self.counted(file), Some(wrapping())).expect("opened")
        }

        fn bytes(&self) -> Vec<u8> {
            std::fs::read(self.path().join(FILE)).expect("read")
        }

        /// The epochs in the file, in their order.
        fn epochs(&self) -> Vec<u64> {
            let bytes = self.bytes();
            let mut epochs: Vec<u64> = epochs_in(&bytes).map(|epoch| epoch.0).collect();
            epochs.sort_unstable();
            epochs
        }

        /// Syncs and writes since the last look.
        fn cost(&self) -> (usize, usize) {
            (
                self.syncs.swap(0, Ordering::Relaxed),
                self.writes.swap(0, Ordering::Relaxed),
            )
        }
    }

    #[test]
    fn a_wipe_after_another_one_writes_and_syncs_its_key_no_more() {
        let (bench, mut keys) = Bench::new();
        let first = bench.bytes();
        bench.cost();
        keys.add(&[Epoch(2)]).expect("added");
        assert_eq!(bench.cost(), (1, 1), "there is no spare yet");
        keys.erase(&[Epoch(1)], Epoch(3)).expect("erased");
        assert_eq!(bench.cost(), (1, 1), "the old block, and the spare in it");
        let slot = usize::try_from(BLOCK).expect("small");
        assert_ne!(bench.bytes()[slot..2 * slot], first[slot..2 * slot]);
        assert!(!keys.ring().contains_key(&Epoch(3)), "nobody's yet");
        for next in 3..6 {
            let before = bench.bytes();
            assert_eq!(keys.take_spare(), Some(Epoch(next)));
            assert_eq!(keys.take_spare(), None);
            keys.add(&[Epoch(next)]).expect("added");
            assert_eq!(bench.cost(), (0, 0));
            assert_eq!(bench.bytes(), before);
            assert_eq!(bench.epochs(), [0, next - 1, next]);
            // What is sealed under it is opened after a start as well.
            let sealed = keys.ring()[&Epoch(next)]
                .seal("t", b"r", b"v")
                .expect("sealed");
            let later = bench.open();
            let opened = later.ring()[&Epoch(next)].open("t", b"r", &sealed);
            assert_eq!(opened.expect("opened"), b"v");
            keys.erase(&[Epoch(next - 1)], Epoch(next + 1))
                .expect("erased");
            assert_eq!(bench.cost(), (1, 1));
        }
        assert_eq!(bench.bytes().len() as u64, 3 * BLOCK, "and never grows");
    }

    #[test]
    fn several_at_once_share_one_spare_and_leave_one() {
        let (bench, mut keys) = Bench::new();
        keys.erase(&[Epoch(1)], Epoch(2)).expect("erased");
        // Whoever does not ask for it leaves it to be overwritten.
        keys.add(&[Epoch(5), Epoch(6)]).expect("added");
        assert_eq!(bench.epochs(), [0, 2, 5, 6]);
        keys.erase(&[Epoch(5)], Epoch(7)).expect("erased");
        assert_eq!(bench.epochs(), [0, 6, 7]);
        assert_eq!(keys.take_spare(), Some(Epoch(7)));
        keys.add(&[Epoch(7), Epoch(8)]).expect("added");
        assert_eq!(bench.epochs(), [0, 6, 7, 8]);
        keys.erase(&[Epoch(6), Epoch(7), Epoch(8)], Epoch(9))
            .expect("erased");
        assert_eq!(bench.epochs(), [0, 9]);
    }

    #[test]
    fn a_start_overwrites_the_spare_it_finds_and_leaves_one_where_there_is_room() {
        let (bench, mut keys) = Bench::new();
        keys.keep_only(&[Epoch::HOUSE, Epoch(1)], Epoch(2))
            .expect("kept");
        assert_eq!(bench.epochs(), [0, 1], "the file does not grow for it");
        keys.erase(&[Epoch(1)], Epoch(2)).expect("erased");
        let found = bench.bytes();
        let mut later = bench.open();
        bench.cost();
        later.keep_only(&[Epoch::HOUSE], Epoch(3)).expect("kept");
        assert_eq!(bench.cost(), (1, 1));
        assert_eq!(bench.epochs(), [0, 3]);
        let slot = usize::try_from(BLOCK).expect("small");
        assert_ne!(bench.bytes()[slot + 25..][..48], found[slot + 25..][..48]);
        assert_eq!(later.take_spare(), Some(Epoch(3)));
    }

    #[test]
    fn a_sync_that_fails_leaves_no_spare_and_may_be_asked_again() {
        let (bench, mut keys) = Bench::new();
        bench.fails.store(true, Ordering::Relaxed);
        keys.erase(&[Epoch(1)], Epoch(2)).expect_err("no sync");
        assert_eq!(keys.take_spare(), None);
        assert!(!keys.ring().contains_key(&Epoch(1)));
        keys.add(&[Epoch(3)]).expect_err("no sync either");
        bench.fails.store(false, Ordering::Relaxed);
        bench.cost();
        keys.erase(&[Epoch(1)], Epoch(4)).expect("erased");
        assert_eq!(bench.cost(), (1, 2), "with what the refused ones have left");
        assert_eq!(bench.epochs(), [0, 4]);
        assert_eq!(keys.take_spare(), Some(Epoch(4)));
    }

    #[test]
    fn an_erasure_takes_along_what_one_before_it_has_failed_to_overwrite() {
        let (bench, mut keys) = Bench::new();
        keys.add(&[Epoch(2)]).expect("added");
        bench.fails.store(true, Ordering::Relaxed);
        keys.erase(&[Epoch(1)], Epoch(3)).expect_err("no sync");
        bench.fails.store(false, Ordering::Relaxed);
        bench.cost();
        keys.erase(&[Epoch(2)], Epoch(4)).expect("erased");
        assert_eq!(bench.cost(), (1, 2), "both blocks, in one sync");
        assert_eq!(bench.epochs(), [0, 4]);
    }

    #[test]
    fn a_start_writes_zeros_again_that_a_failed_sync_may_have_lost() {
        let (bench, mut keys) = Bench::new();
        keys.add(&[Epoch(2)]).expect("added");
        bench.fails.store(true, Ordering::Relaxed);
        keys.erase(&[Epoch(1), Epoch(2)], Epoch(3))
            .expect_err("no sync");
        bench.fails.store(false, Ordering::Relaxed);
        let mut later = bench.open();
        bench.cost();
        later.keep_only(&[Epoch::HOUSE], Epoch(4)).expect("kept");
        assert_eq!(bench.cost(), (1, 2), "the spare, and the zeros beside it");
        assert_eq!(bench.epochs(), [0, 4]);
    }

    #[test]
    fn a_probe_takes_the_spares_block_and_not_a_new_one() {
        let (bench, mut keys) = Bench::new();
        keys.erase(&[Epoch(1)], Epoch(2)).expect("erased");
        let length = bench.bytes().len();
        keys.probe().expect("written");
        assert_eq!(bench.bytes().len(), length);
        assert_eq!(bench.epochs(), [0]);
        assert_eq!(keys.take_spare(), None);
        keys.add(&[Epoch(3)]).expect("added");
        assert_eq!(bench.epochs(), [0, 3]);
        assert_eq!(bench.bytes().len(), length);
    }
}
