//! Owns bringing every block under the present wrapping key: from none when a credential appears, or from the old one
//! when it is replaced. One block after another: the secret is durable in a block of its own before its old block is
//! overwritten, so that a power cut leaves it once or twice, and never not at all.

use std::io;
use std::os::unix::fs::FileExt;

use zeroize::Zeroizing;

use super::{BLOCK, Keys, USED, Under};
use crate::store::Epoch;

impl Keys {
    /// Takes note of a block that was read. Two of one epoch hold the same secret: the better wrapped one counts.
    pub(super) fn found(&mut self, epoch: Epoch, slot: u64, under: Under) {
        match self.slots.get(&epoch) {
            Some(_) if self.under.get(&epoch) >= Some(&under) => {
                self.doubles.push((epoch, slot));
                return;
            }
            Some(&worse) => self.doubles.push((epoch, worse)),
            None => {}
        }
        self.slots.insert(epoch, slot);
        self.under.insert(epoch, under);
    }

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
        self.clear_doubles()?;
        let present = self.present();
        let mut old: Vec<Epoch> = self
            .under
            .iter()
            .filter(|(_, under)| **under < present)
            .map(|(epoch, _)| *epoch)
            .collect();
        old.sort_unstable();
        for &epoch in &old {
            self.rewrap(epoch)?;
        }
        Ok(old.len())
    }

    fn rewrap(&mut self, epoch: Epoch) -> io::Result<()> {
        let Some(&slot) = self.slots.get(&epoch) else {
            return Ok(());
        };
        let mut block = Zeroizing::new([0; USED]);
        self.file.read_exact_at(&mut *block, slot * BLOCK)?;
        let (_, secret, _) = self
            .unwrap(&block)
            .map_err(io::Error::other)?
            .filter(|(of, ..)| *of == epoch)
            .ok_or_else(|| io::Error::other("a key block has changed"))?;
        let new = self.write(epoch, &secret)?;
        // Known before it is durable: a wipe that comes after a failed sync overwrites both.
        self.found(epoch, new, self.present());
        self.clear_doubles()
    }

    fn clear_doubles(&mut self) -> io::Result<()> {
        if self.doubles.is_empty() {
            return Ok(());
        }
        // What was only read back may not be durable either.
        self.sync()?;
        while let Some(&(_, slot)) = self.doubles.last() {
            self.clear(slot)?;
            self.doubles.pop();
        }
        self.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::keys::{FILE, WrappingKey};
    use crate::store::{NewLink, OpenError, Options, Store};
    use std::path::Path;

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

    /// Three links, and a hole where a fourth was.
    async fn fill(folder: &Path, wrapping: Option<WrappingKey>) {
        let store = Store::open(folder, options(wrapping)).expect("opened");
        for session in ["a", "b", "c", "d"] {
            store.put_session(session, session, 1).await.expect("added");
            let next = NewLink {
                line: format!("7900123456{}", session.len()),
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
        assert_eq!(marks.iter().flatten().count(), 4);
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

    #[tokio::test]
    async fn a_cut_anywhere_in_a_rotation_loses_no_key_and_the_next_start_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        fill(folder.path(), Some(first())).await;
        let both = || Some(second().or_old(&FIRST));
        let path = folder.path().join(FILE);
        // Everything that the rotation writes, in its order.
        let mut keys = Keys::open(&path, both()).expect("opened");
        let mut epochs = keys.epochs();
        epochs.sort_unstable();
        let mut images = vec![std::fs::read(&path).expect("read")];
        for epoch in epochs {
            let old = keys.slots[&epoch];
            let mut block = Zeroizing::new([0; USED]);
            keys.file
                .read_exact_at(&mut *block, old * BLOCK)
                .expect("read");
            let (_, secret, _) = keys.unwrap(&block).expect("opened").expect("a secret");
            let new = keys.write(epoch, &secret).expect("written");
            images.push(std::fs::read(&path).expect("read"));
            keys.found(epoch, new, Under::Present);
            assert_eq!(keys.doubles, [(epoch, old)]);
            keys.clear_doubles().expect("cleared");
            images.push(std::fs::read(&path).expect("read"));
        }
        drop(keys);
        // And every write torn in the middle of its block.
        let torn: Vec<Vec<u8>> = images
            .windows(2)
            .map(|pair| {
                let mut torn = pair[1].clone();
                torn.resize(pair[0].len().max(pair[1].len()), 0);
                for (at, byte) in torn.iter_mut().enumerate() {
                    if at % 4096 >= 64 {
                        *byte = pair[0].get(at).copied().unwrap_or(0);
                    }
                }
                torn
            })
            .collect();
        for image in images.into_iter().chain(torn) {
            std::fs::write(&path, &image).expect("put back");
            sound(folder.path(), both()).expect("nothing lost");
            start(folder.path(), both()).await.expect("opened");
            sound(folder.path(), Some(second())).expect("all of it is new");
            assert_eq!(
                marks(folder.path()).iter().flatten().count(),
                4,
                "no double"
            );
        }
    }

    #[tokio::test]
    async fn a_wipe_overwrites_both_blocks_of_an_epoch_that_has_two() {
        let folder = tempfile::tempdir().expect("a folder");
        fill(folder.path(), Some(first())).await;
        let path = folder.path().join(FILE);
        let mut keys = Keys::open(&path, Some(first())).expect("opened");
        let epoch = *keys.epochs().iter().max().expect("one");
        let slot = keys.slots[&epoch];
        let mut block = Zeroizing::new([0; USED]);
        keys.file
            .read_exact_at(&mut *block, slot * BLOCK)
            .expect("read");
        let (_, secret, _) = keys.unwrap(&block).expect("opened").expect("a secret");
        keys.write(epoch, &secret).expect("written");
        let mut keys = Keys::open(&path, Some(first())).expect("opened");
        assert_eq!(keys.doubles.len(), 1);
        keys.erase(epoch).expect("erased");
        keys.sync().expect("synced");
        let keys = Keys::open(&path, Some(first())).expect("opened");
        assert!(keys.get(epoch).is_none());
    }
}
