//! Owns the way back from a commit that failed half-way, so that what was refused never turns up later.
//! redb never writes over pages that the last durable commit needs; its header, in the first page, says which those are.
//! When a sync fails after the header was written, nobody knows which header a reader will find. The one of the
//! last durable commit is then written again and synced before the file is opened anew: the failed commit
//! never was. (It also makes good what Linux does after a failed sync: it takes the lost pages for clean.)

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{DiskFile, close_and_lock_the_file};

/// redb keeps nothing but its header in the first page.
const PAGE: usize = 4096;

/// What is known of a file's first page. Outlives the handles the file is opened with.
#[derive(Debug, Default)]
pub(super) struct Header {
    state: Mutex<State>,
    /// So many handles are over.
    retired: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// As of the last sync that succeeded.
    durable: Option<Vec<u8>>,
    /// Written since, and not known to be durable.
    tried: Option<Vec<u8>>,
    /// How often a new one became durable.
    turns: u64,
}

impl Header {
    /// Grows with every commit that became durable, even if redb reports an error afterwards.
    pub(super) fn turns(&self) -> u64 {
        self.state().turns
    }

    /// The handle that the file has now is over: nothing it still does reaches the file.
    pub(super) fn retire(&self) {
        self.retired.fetch_add(1, Ordering::SeqCst);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file of an existing store, as redb gets to see it.
pub(super) struct Undoing {
    file: Box<dyn DiskFile>,
    header: Arc<Header>,
    /// Which handle it is.
    number: u64,
    begun: AtomicBool,
}

impl Undoing {
    pub(super) fn new(file: Box<dyn DiskFile>, header: Arc<Header>) -> Self {
        Self {
            file,
            number: header.retired.load(Ordering::SeqCst),
            header,
            begun: AtomicBool::new(false),
        }
    }

    /// A file that is only being made: there is nothing to go back to.
    pub(super) fn born(file: Box<dyn DiskFile>) -> Self {
        Self {
            file,
            header: Arc::default(),
            number: 0,
            begun: AtomicBool::new(true),
        }
    }

    fn is_live(&self) -> io::Result<()> {
        if self.header.retired.load(Ordering::SeqCst) == self.number {
            return Ok(());
        }
        Err(io::Error::other("the file was opened anew"))
    }

    /// Before redb reads anything, and under the lock that it has taken by then.
    fn begin(&self, length: u64) -> io::Result<()> {
        // redb would make a new database of an empty file: never an empty start.
        if length == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let length = usize::try_from(length).map_or(PAGE, |length| length.min(PAGE));
        let mut page = vec![0; length];
        self.file.read(0, &mut page)?;
        let mut state = self.header.state();
        if let (Some(durable), Some(tried)) = (&state.durable, &state.tried) {
            // Anything else was written by somebody else, who opened the file meanwhile.
            if is_of(&page, durable, tried) {
                self.file.write(0, durable)?;
                // At once: the opening may still fail, and whoever was refused is told so then.
                self.file.sync_data()?;
                state.tried = None;
                return Ok(());
            }
        }
        state.durable = Some(page);
        state.tried = None;
        Ok(())
    }
}

/// Whether every byte is one of ours: a write may have stopped anywhere.
fn is_of(page: &[u8], durable: &[u8], tried: &[u8]) -> bool {
    page.len() == durable.len()
        && page
            .iter()
            .enumerate()
            .all(|(at, byte)| *byte == durable[at] || tried.get(at) == Some(byte))
}

impl DiskFile for Undoing {
    fn len(&self) -> io::Result<u64> {
        self.is_live()?;
        let length = self.file.len()?;
        if !self.begun.load(Ordering::Acquire) {
            self.begin(length)?;
            self.begun.store(true, Ordering::Release);
        }
        Ok(length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.is_live()?;
        self.file.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.is_live()?;
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.is_live()?;
        self.file.sync_data()?;
        let mut state = self.header.state();
        if let Some(tried) = state.tried.take() {
            state.durable = Some(tried);
            state.turns += 1;
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.is_live()?;
        if let Ok(at) = usize::try_from(offset)
            && at < PAGE
        {
            let mut state = self.header.state();
            // Noted first: a write that fails may have written something.
            let mut page = match (state.tried.take(), &state.durable) {
                (Some(tried), _) => tried,
                (None, Some(durable)) => durable.clone(),
                (None, None) => Vec::new(),
            };
            let end = (at + data.len()).min(PAGE);
            if page.len() < end {
                page.resize(end, 0);
            }
            page[at..end].copy_from_slice(&data[..end - at]);
            state.tried = Some(page);
        }
        self.file.write(offset, data)
    }

    close_and_lock_the_file!();
}

impl fmt::Debug for Undoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}
