//! Owns disks for tests: one in memory with every write and sync on record, and one of the file system, either of
//! which breaks calls on demand.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hairpin::store::{Disk, DiskFile};

/// How a call breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Any call: an I/O error.
    Io,
    /// What needs room: no space left.
    Full,
    /// A write: its first half is written, then no space is left.
    Short,
    /// A sync of a file: an I/O error, and what was written since the last one never reaches the disk, although
    /// readers go on seeing it and the next sync reports nothing. (So does Linux.)
    Lost,
    /// A sync of a file: an I/O error, and what was written since the last one may reach the disk or not.
    Unsynced,
    /// Whatever changes anything: read-only.
    ReadOnly,
}

impl Fault {
    fn breaks(self, call: Call) -> bool {
        match self {
            Self::Io => true,
            Self::Full => matches!(call, Call::Create | Call::Write | Call::SetLen | Call::Sync),
            Self::Short => call == Call::Write,
            Self::Lost | Self::Unsynced => call == Call::Sync,
            Self::ReadOnly => !matches!(call, Call::Read | Call::Look),
        }
    }

    fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Self::Io | Self::Lost | Self::Unsynced => 5,
            Self::Full | Self::Short => 28,
            Self::ReadOnly => 30,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Look,
    Open,
    Create,
    Names,
    SyncNames,
    Read,
    Write,
    SetLen,
    Sync,
}

/// Which calls break.
#[derive(Debug, Default)]
pub struct Plan(Mutex<PlanState>);

#[derive(Debug, Default)]
struct PlanState {
    fault: Option<Fault>,
    /// So many calls of the fault's kind go well first.
    after: u64,
    lasting: bool,
    /// What breaks from then on, after so many more calls of its kind.
    then: Option<(Fault, u64)>,
    hits: u64,
}

impl Plan {
    /// Breaks one call, after so many that go well.
    pub fn once(&self, fault: Fault, after: u64) {
        self.set(fault, after, false);
    }

    /// Breaks every call from then on, until it is healed.
    pub fn lasting(&self, fault: Fault, after: u64) {
        self.set(fault, after, true);
    }

    /// Breaks one call, and after so many more of the other fault's kind all of those.
    pub fn once_and_then(&self, fault: Fault, then: Fault, after: u64) {
        self.set(fault, 0, false);
        self.state().then = Some((then, after));
    }

    pub fn heal(&self) {
        self.state().fault = None;
    }

    /// How often a call was broken.
    pub fn hits(&self) -> u64 {
        self.state().hits
    }

    fn set(&self, fault: Fault, after: u64, lasting: bool) {
        let mut state = self.state();
        *state = PlanState {
            fault: Some(fault),
            after,
            lasting,
            then: None,
            hits: 0,
        };
    }

    fn state(&self) -> MutexGuard<'_, PlanState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault that breaks this call.
    fn strikes(&self, call: Call) -> Option<Fault> {
        let mut state = self.state();
        let fault = state.fault.filter(|fault| fault.breaks(call))?;
        if state.after > 0 {
            state.after -= 1;
            return None;
        }
        state.hits += 1;
        if !state.lasting {
            let then = state.then.take();
            state.lasting = then.is_some();
            state.fault = then.map(|(fault, _)| fault);
            state.after = then.map_or(0, |(_, after)| after);
        }
        Some(fault)
    }

    fn pass(&self, call: Call) -> io::Result<()> {
        match self.strikes(call) {
            Some(fault) => Err(fault.error()),
            None => Ok(()),
        }
    }
}

pub type FileId = usize;

/// What reached the disk, in its order.
#[derive(Clone)]
pub enum Event {
    Create {
        name: String,
        file: FileId,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        name: String,
    },
    SyncNames,
    Write {
        file: FileId,
        offset: u64,
        data: Arc<[u8]>,
    },
    SetLen {
        file: FileId,
        length: u64,
    },
    Sync {
        file: FileId,
    },
    /// See [`Fault::Lost`].
    Lost {
        file: FileId,
    },
    /// The test's own: so many operations were begun, and acknowledged.
    Mark {
        begun: usize,
        done: usize,
    },
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Default)]
pub struct Lab {
    world: Arc<Mutex<World>>,
    pub plan: Arc<Plan>,
}

#[derive(Default)]
struct World {
    names: BTreeMap<String, FileId>,
    files: Vec<Vec<u8>>,
    events: Option<Vec<Event>>,
}

impl World {
    fn record(&mut self, event: impl FnOnce() -> Event) {
        if let Some(events) = &mut self.events {
            events.push(event());
        }
    }

    fn replay(&mut self, event: &Event) {
        match event {
            Event::Create { name, file } => {
                self.files
                    .resize_with(self.files.len().max(*file + 1), Vec::new);
                self.names.insert(name.clone(), *file);
            }
            Event::Rename { from, to } => {
                let file = self.names.remove(from).expect("there");
                self.names.insert(to.clone(), file);
            }
            Event::Remove { name } => {
                self.names.remove(name);
            }
            Event::Write { file, offset, data } => {
                write_into(&mut self.files[*file], *offset, data);
            }
            Event::SetLen { file, length } => self.files[*file].resize(at(*length), 0),
            Event::SyncNames | Event::Sync { .. } | Event::Lost { .. } | Event::Mark { .. } => {}
        }
    }

    fn named(&self, name: &str) -> io::Result<FileId> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Lab {
    /// An empty disk that keeps a record.
    pub fn recording() -> Self {
        let lab = Self::default();
        lab.world().events = Some(Vec::new());
        lab
    }

    /// A disk that holds these files, all of them durable, and keeps a record.
    pub fn recording_on(files: BTreeMap<String, Vec<u8>>) -> Self {
        let lab = Self::holding(files);
        let mut world = lab.world();
        let mut events = Vec::new();
        for (name, file) in world.names.clone() {
            events.extend([
                Event::Create { name, file },
                Event::Write {
                    file,
                    offset: 0,
                    data: Arc::from(world.files[file].as_slice()),
                },
                Event::Sync { file },
            ]);
        }
        events.push(Event::SyncNames);
        world.events = Some(events);
        drop(world);
        lab
    }

    /// A disk as the next process finds it after a kill: what was written is there, synced or not.
    pub fn after_kill(events: &[Event]) -> Self {
        let lab = Self::recording();
        let mut world = lab.world();
        for event in events {
            world.replay(event);
        }
        world.events = Some(events.to_vec());
        drop(world);
        lab
    }

    /// A disk that holds these files, and keeps no record.
    pub fn holding(files: BTreeMap<String, Vec<u8>>) -> Self {
        let lab = Self::default();
        let mut world = lab.world();
        for (name, bytes) in files {
            let id = world.files.len();
            world.files.push(bytes);
            world.names.insert(name, id);
        }
        drop(world);
        lab
    }

    /// Adds a mark to the record.
    pub fn mark(&self, begun: usize, done: usize) {
        self.world().record(|| Event::Mark { begun, done });
    }

    /// The record so far.
    pub fn events(&self) -> Vec<Event> {
        self.world().events.clone().unwrap_or_default()
    }

    /// What readers see.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let world = self.world();
        world
            .names
            .iter()
            .map(|(name, id)| (name.clone(), world.files[*id].clone()))
            .collect()
    }

    pub fn arc(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, file: FileId) -> Box<dyn DiskFile> {
        Box::new(LabFile {
            lab: self.clone(),
            file,
        })
    }
}

impl fmt::Debug for Lab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lab")
    }
}

impl Disk for Lab {
    fn folder(&self) -> &Path {
        Path::new("/nowhere")
    }

    fn prepare(&self, _: bool) -> io::Result<()> {
        self.plan.pass(Call::Look)
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        self.plan.pass(Call::Look)?;
        let world = self.world();
        Ok(world
            .names
            .get(name)
            .map(|id| world.files[*id].len() as u64))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.plan.pass(Call::Open)?;
        let file = self.world().named(name)?;
        Ok(self.handle(file))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.plan.pass(Call::Create)?;
        let mut world = self.world();
        if world.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = world.files.len();
        world.files.push(Vec::new());
        world.names.insert(name.to_owned(), file);
        world.record(|| Event::Create {
            name: name.to_owned(),
            file,
        });
        drop(world);
        Ok(self.handle(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.plan.pass(Call::Names)?;
        let mut world = self.world();
        let file = world.named(from)?;
        world.names.remove(from);
        world.names.insert(to.to_owned(), file);
        world.record(|| Event::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
        });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.plan.pass(Call::Names)?;
        let mut world = self.world();
        if world.names.remove(name).is_some() {
            world.record(|| Event::Remove {
                name: name.to_owned(),
            });
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.plan.pass(Call::SyncNames)?;
        self.world().record(|| Event::SyncNames);
        Ok(())
    }
}

struct LabFile {
    lab: Lab,
    file: FileId,
}

impl fmt::Debug for LabFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LabFile")
    }
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).expect("small files")
}

/// Writes into a file as the kernel does: what is skipped is zeros.
pub fn write_into(file: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let (start, end) = (at(offset), at(offset) + data.len());
    if file.len() < end {
        file.resize(end, 0);
    }
    file[start..end].copy_from_slice(data);
}

impl DiskFile for LabFile {
    fn len(&self) -> io::Result<u64> {
        self.lab.plan.pass(Call::Look)?;
        Ok(self.lab.world().files[self.file].len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.lab.plan.pass(Call::Read)?;
        let world = self.lab.world();
        let bytes = world.files[self.file]
            .get(at(offset)..at(offset) + out.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.lab.plan.pass(Call::SetLen)?;
        let mut world = self.lab.world();
        world.files[self.file].resize(at(length), 0);
        world.record(|| Event::SetLen {
            file: self.file,
            length,
        });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let broken = self.lab.plan.strikes(Call::Sync);
        let mut world = self.lab.world();
        match broken {
            None => world.record(|| Event::Sync { file: self.file }),
            Some(fault) => {
                if fault == Fault::Lost {
                    world.record(|| Event::Lost { file: self.file });
                }
                return Err(fault.error());
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let broken = self.lab.plan.strikes(Call::Write);
        let written = match broken {
            None => data,
            Some(Fault::Short) => &data[..data.len() / 2],
            Some(fault) => return Err(fault.error()),
        };
        let mut world = self.lab.world();
        write_into(&mut world.files[self.file], offset, written);
        world.record(|| Event::Write {
            file: self.file,
            offset,
            data: Arc::from(written),
        });
        match broken {
            None => Ok(()),
            Some(fault) => Err(fault.error()),
        }
    }
}

/// Another disk, whose calls break by a plan.
#[derive(Debug)]
pub struct Breaking<D> {
    inner: D,
    folder: PathBuf,
    plan: Arc<Plan>,
}

impl<D: Disk> Breaking<D> {
    pub fn new(inner: D, plan: &Arc<Plan>) -> Arc<Self> {
        Arc::new(Self {
            folder: inner.folder().to_owned(),
            inner,
            plan: Arc::clone(plan),
        })
    }

    fn file(&self, inner: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(BreakingFile {
            inner,
            plan: Arc::clone(&self.plan),
        })
    }
}

impl<D: Disk> Disk for Breaking<D> {
    fn folder(&self) -> &Path {
        &self.folder
    }

    fn prepare(&self, create: bool) -> io::Result<()> {
        self.plan.pass(Call::Look)?;
        self.inner.prepare(create)
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        self.plan.pass(Call::Look)?;
        self.inner.size(name)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.plan.pass(Call::Open)?;
        Ok(self.file(self.inner.open(name)?))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.plan.pass(Call::Create)?;
        Ok(self.file(self.inner.create(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.plan.pass(Call::Names)?;
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.plan.pass(Call::Names)?;
        self.inner.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        self.plan.pass(Call::SyncNames)?;
        self.inner.sync()
    }
}

/// Takes no locks: redb then works without them, as one test has one appliance.
#[derive(Debug)]
struct BreakingFile {
    inner: Box<dyn DiskFile>,
    plan: Arc<Plan>,
}

impl DiskFile for BreakingFile {
    fn len(&self) -> io::Result<u64> {
        self.plan.pass(Call::Look)?;
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.plan.pass(Call::Read)?;
        self.inner.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.plan.pass(Call::SetLen)?;
        self.inner.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.plan.pass(Call::Sync)?;
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match self.plan.strikes(Call::Write) {
            None => self.inner.write(offset, data),
            Some(fault) => {
                if fault == Fault::Short {
                    self.inner.write(offset, &data[..data.len() / 2])?;
                }
                Err(fault.error())
            }
        }
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
}
