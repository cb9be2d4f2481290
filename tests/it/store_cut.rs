//! Owns what a power cut leaves: from the record of a disk, every set of files that may be found afterwards.

use std::collections::BTreeMap;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use crate::store_lab::{Event, FileId, write_into};

/// The files that are found.
pub type Image = BTreeMap<String, Vec<u8>>;

/// Which of the writes that were not synced yet are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// None.
    Nothing,
    /// All.
    Everything,
    /// Those up to a moment.
    Prefix,
    DropOne,
    OnlyOne,
    Subset,
    /// Some, in another order: of two writes to one place the older may win.
    Reordered,
    /// Of each write only some of its 512-byte sectors.
    Torn,
    /// All but the changes of length.
    NoLengths,
    /// Files as with [`Self::Everything`]; nothing of what was done to names.
    NoNames,
}

impl Kind {
    pub const ALL: [Self; 10] = [
        Self::Nothing,
        Self::Everything,
        Self::Prefix,
        Self::DropOne,
        Self::OnlyOne,
        Self::Subset,
        Self::Reordered,
        Self::Torn,
        Self::NoLengths,
        Self::NoNames,
    ];
}

/// A disk as it is known to be, and what is under way to it. Fed with a record up to the cut.
#[derive(Default)]
pub struct Cut {
    names: BTreeMap<String, FileId>,
    files: BTreeMap<FileId, Vec<u8>>,
    pending_names: Vec<Event>,
    pending: Vec<Event>,
}

impl Cut {
    pub fn feed(&mut self, event: &Event) {
        match event {
            Event::Create { .. } | Event::Rename { .. } | Event::Remove { .. } => {
                self.pending_names.push(event.clone());
            }
            Event::SyncNames => {
                for event in std::mem::take(&mut self.pending_names) {
                    name(&mut self.names, &event);
                }
            }
            Event::Write { .. } | Event::SetLen { .. } => self.pending.push(event.clone()),
            Event::Sync { file } => {
                let (synced, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending)
                    .into_iter()
                    .partition(|event| file_of(event) == *file);
                self.pending = rest;
                let content = self.files.entry(*file).or_default();
                for event in &synced {
                    change(content, event);
                }
            }
            Event::Lost { file } => self
                .pending
                .retain(|event| file_of(event) != *file || matches!(event, Event::SetLen { .. })),
            Event::Mark { .. } => {}
        }
    }

    /// Whether anything is under way.
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.pending_names.is_empty()
    }

    /// Files that may be found if the power is cut now.
    pub fn image(&self, kind: Kind, random: &mut StdRng) -> Image {
        let whole = &self.pending;
        let pick = |random: &mut StdRng| random.random_range(0..whole.len().max(1));
        let chosen: Vec<Event> = match kind {
            Kind::Nothing => Vec::new(),
            Kind::Everything | Kind::NoNames => whole.clone(),
            Kind::Prefix => whole[..random.random_range(0..=whole.len())].to_vec(),
            Kind::DropOne => {
                let dropped = pick(random);
                let kept = whole.iter().enumerate().filter(|(at, _)| *at != dropped);
                kept.map(|(_, event)| event.clone()).collect()
            }
            Kind::OnlyOne => whole.get(pick(random)).cloned().into_iter().collect(),
            Kind::Subset => {
                let half = whole.iter().filter(|_| random.random());
                half.cloned().collect()
            }
            Kind::Reordered => {
                let mut some: Vec<Event> = whole.clone();
                some.shuffle(random);
                some.truncate(random.random_range(0..=whole.len()));
                some
            }
            Kind::Torn => whole.iter().flat_map(|event| torn(event, random)).collect(),
            Kind::NoLengths => {
                let writes = whole
                    .iter()
                    .filter(|event| matches!(event, Event::Write { .. }));
                writes.cloned().collect()
            }
        };
        let mut files = self.files.clone();
        for event in &chosen {
            change(files.entry(file_of(event)).or_default(), event);
        }
        let mut names = self.names.clone();
        let renamed = match kind {
            Kind::Nothing | Kind::NoNames => 0,
            Kind::Everything => self.pending_names.len(),
            _ => random.random_range(0..=self.pending_names.len()),
        };
        for event in &self.pending_names[..renamed] {
            name(&mut names, event);
        }
        names
            .into_iter()
            .map(|(name, file)| (name, files.get(&file).cloned().unwrap_or_default()))
            .collect()
    }
}

fn file_of(event: &Event) -> FileId {
    match event {
        Event::Write { file, .. } | Event::SetLen { file, .. } => *file,
        _ => unreachable!("only changes of files are under way"),
    }
}

fn change(content: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Write { offset, data, .. } => write_into(content, *offset, data),
        Event::SetLen { length, .. } => {
            content.resize(usize::try_from(*length).expect("small files"), 0);
        }
        _ => unreachable!("only changes of files are under way"),
    }
}

fn name(names: &mut BTreeMap<String, FileId>, event: &Event) {
    match event {
        Event::Create { name, file } => {
            names.insert(name.clone(), *file);
        }
        Event::Rename { from, to } => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        Event::Remove { name } => {
            names.remove(name);
        }
        _ => unreachable!("only changes of names are under way"),
    }
}

/// Some of a write's sectors.
fn torn(event: &Event, random: &mut StdRng) -> Vec<Event> {
    const SECTOR: usize = 512;
    let Event::Write { file, offset, data } = event else {
        return vec![event.clone()];
    };
    let mut sectors = Vec::new();
    let mut start = 0;
    while start < data.len() {
        // Sectors are the disk's, wherever the write begins.
        let into = usize::try_from(*offset % SECTOR as u64).expect("small") + start;
        let end = (start + SECTOR - into % SECTOR).min(data.len());
        if random.random() {
            sectors.push(Event::Write {
                file: *file,
                offset: offset + start as u64,
                data: data[start..end].into(),
            });
        }
        start = end;
    }
    sectors
}
