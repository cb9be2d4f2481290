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
