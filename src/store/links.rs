//! Owns the links: whom a session is or was linked to, and the one transaction that replaces a link.

use super::Epoch;
use super::error::StoreError;
use super::journal::{self, JournalEntry};
use super::record::{self, LinkRecord, LinkedRecord};
use super::tables::{House, Table};
use super::tx::{Rows, Writer};
use crate::mask;
use crate::secret::SecretText;

const LINKS: Table = Table::House(House::Links);
const EPOCHS: Table = Table::House(House::Epochs);
const META: Table = Table::House(House::Meta);

/// What is stored of a link. Shows itself without its numbers.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkRow {
    /// Where its rows lie.
    pub epoch: Epoch,
    /// Names this very link, for whoever agrees to its replacement.
    pub link_id: String,
    /// The line in normal form: what a number that is asked for is compared with.
    pub line: SecretText,
    /// The number that was asked for, E.164 digits.
    pub intended: SecretText,
    /// When it was asked for, in Unix milliseconds.
    pub created_at: i64,
    /// Set once the phone has accepted us and everything is durable.
    pub linked: Option<Linked>,
    /// When it was last connected, in Unix milliseconds.
    pub last_connected: Option<i64>,
    /// Set once it can never carry messages again.
    pub ended: Option<Ended>,
    /// Set while it must not be connected.
    pub halted: Option<Halted>,
    /// The phone's acceptance has arrived, and our answer may have gone out.
    pub finishing: bool,
    /// It came from a backup: conversations start anew.
    pub restored: bool,
}

/// Whom a link is linked to.
#[derive(Clone, PartialEq, Eq)]
pub struct Linked {
    /// Since when, in Unix milliseconds.
    pub at: i64,
    /// The account's number as WhatsApp writes it, digits.
    pub phone: SecretText,
    /// This device's id.
    pub jid: SecretText,
    /// The account's hidden id.
    pub lid: Option<SecretText>,
}

/// When and why a link ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// When, in Unix milliseconds.
    pub at: i64,
    /// Why.
    pub reason: EndedReason,
}

/// Why a link can never carry messages again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedReason {
    /// The phone or WhatsApp logged it out.
    LoggedOut,
    /// The phone removed the device.
    DeviceRemoved,
    /// Another number than the one asked for was linked.
    WrongPhone,
    /// The phone lists it, but its keys are not here.
    HalfLinked,
}

/// Why and until when a link rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Halted {
    /// Since when, in Unix milliseconds.
    pub at: i64,
    /// Why.
    pub reason: HaltedReason,
    /// Until when, in Unix milliseconds, where that is known.
    pub until: Option<i64>,
}

/// Why a link must not be connected for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HaltedReason {
    /// Another client uses the credentials.
    Replaced,
    /// The account is banned for a while.
    Banned,
    /// The account is locked.
    Locked,
    /// The companion version is too old.
    Outdated,
    /// WhatsApp refused otherwise.
    Failed,
}

/// A link that is asked for.
#[derive(Clone)]
pub struct NewLink {
    /// The line in normal form (`Phone::line_key`).
    pub line: SecretText,
    /// The number itself, E.164 digits.
    pub intended: SecretText,
    /// Now, in Unix milliseconds.
    pub now: i64,
}

impl LinkRow {
    /// The number as it may be shown.
    #[must_use]
    pub fn masked(&self) -> String {
        let linked = self.linked.as_ref().map(|linked| &linked.phone);
        mask::digits(linked.unwrap_or(&self.intended).reveal())
    }

    fn new(epoch: Epoch, link_id: String, new: &NewLink) -> Self {
        Self {
            epoch,
            link_id,
            line: new.line.clone(),
            intended: new.intended.clone(),
            created_at: new.now,
            linked: None,
            last_connected: None,
            ended: None,
            halted: None,
            finishing: false,
            restored: false,
        }
    }
}

impl std::fmt::Debug for LinkRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkRow")
            .field("epoch", &self.epoch)
            .field("phone", &self.masked())
            .field("linked", &self.linked.is_some())
            .field("ended", &self.ended)
            .field("halted", &self.halted)
            .field("finishing", &self.finishing)
            .finish_non_exhaustive()
    }
}

pub(super) fn read(rows: &impl Rows, session: &str) -> Result<Option<LinkRow>, StoreError> {
    rows.get(LINKS, session.as_bytes())?
        .map(|bytes| decode(&bytes))
        .transpose()
}

/// A link's row as it is stored.
pub(super) fn decode(bytes: &[u8]) -> Result<LinkRow, StoreError> {
    from_record(record::decode(bytes)?)
}

/// The other way round.
pub(super) fn encode(row: &LinkRow) -> Result<Vec<u8>, StoreError> {
    record::encode(&to_record(row))
}

/// Brings a link in under an epoch that was never used.
pub(super) fn bring_in(
    writer: &Writer<'_>,
    session: &str,
    row: &LinkRow,
) -> Result<(), StoreError> {
    open_epoch(writer, session, row.epoch)?;
    put(writer, session, row)
}

/// From here on the epoch is the session's, and never given out again.
fn open_epoch(writer: &Writer<'_>, session: &str, epoch: Epoch) -> Result<(), StoreError> {
    writer.put(EPOCHS, session.as_bytes(), &epoch.0.to_be_bytes())?;
    writer.put(META, b"next_epoch", &(epoch.0 + 1).to_be_bytes())
}

/// THE wipe: everything of the old epoch goes, the next one opens, the journal says so; one transaction.
pub(super) fn replace(
    writer: &Writer<'_>,
    session: &str,
    expected: Option<Epoch>,
    next: Option<(&NewLink, Epoch, &str)>,
    entries: &[JournalEntry],
) -> Result<Option<LinkRow>, StoreError> {
    let present = writer.present_epoch(session)?;
    if present != expected {
        return Err(StoreError::StaleEpoch);
    }
    if let Some(old) = present {
        writer.retire(old)?;
    }
    let row = if let Some((new, epoch, link_id)) = next {
        let row = LinkRow::new(epoch, link_id.to_owned(), new);
        open_epoch(writer, session, epoch)?;
        put(writer, session, &row)?;
        Some(row)
    } else {
        writer.delete(EPOCHS, session.as_bytes())?;
        writer.delete(LINKS, session.as_bytes())?;
        None
    };
    journal::append(writer, entries)?;
    Ok(row)
}

/// Changes a link's row, if it still is the one.
pub(super) fn update(
    writer: &Writer<'_>,
    session: &str,
    epoch: Epoch,
    change: &dyn Fn(&mut LinkRow),
    entries: &[JournalEntry],
) -> Result<LinkRow, StoreError> {
    if writer.present_epoch(session)? != Some(epoch) {
        return Err(StoreError::StaleEpoch);
    }
    let mut row = read(writer, session)?.ok_or(StoreError::StaleEpoch)?;
    change(&mut row);
    // A change is of what the row says, never of which link it is.
    row.epoch = epoch;
    put(writer, session, &row)?;
    journal::append(writer, entries)?;
    Ok(row)
}

fn put(writer: &Writer<'_>, session: &str, row: &LinkRow) -> Result<(), StoreError> {
    writer.put_of_link(row.epoch, LINKS, session.as_bytes(), &encode(row)?)
}

const ENDED: [EndedReason; 4] = [
    EndedReason::LoggedOut,
    EndedReason::DeviceRemoved,
    EndedReason::WrongPhone,
    EndedReason::HalfLinked,
];

const HALTED: [HaltedReason; 5] = [
    HaltedReason::Replaced,
    HaltedReason::Banned,
    HaltedReason::Locked,
    HaltedReason::Outdated,
    HaltedReason::Failed,
];

/// A reason's number in the file is its place in the list.
fn number<T: PartialEq>(all: &[T], reason: &T) -> u8 {
    all.iter()
        .position(|other| other == reason)
        .and_then(|at| u8::try_from(at).ok())
        .unwrap_or(u8::MAX)
}

fn to_record(row: &LinkRow) -> LinkRecord {
    LinkRecord {
        epoch: row.epoch.0,
        link_id: row.link_id.clone(),
        line: row.line.clone(),
        intended: row.intended.clone(),
        created_at: row.created_at,
        linked: row.linked.as_ref().map(|linked| LinkedRecord {
            at: linked.at,
            phone: linked.phone.clone(),
            jid: linked.jid.clone(),
            lid: linked.lid.clone(),
        }),
        last_connected: row.last_connected,
        ended: row
            .ended
            .map(|ended| (ended.at, number(&ENDED, &ended.reason))),
        halted: row
            .halted
            .map(|halted| (halted.at, number(&HALTED, &halted.reason), halted.until)),
        finishing: row.finishing,
        restored: row.restored,
    }
}

fn from_record(record: LinkRecord) -> Result<LinkRow, StoreError> {
    Ok(LinkRow {
        epoch: Epoch(record.epoch),
        link_id: record.link_id,
        line: record.line,
        intended: record.intended,
        created_at: record.created_at,
        linked: record.linked.map(|linked| Linked {
            at: linked.at,
            phone: linked.phone,
            jid: linked.jid,
            lid: linked.lid,
        }),
        last_connected: record.last_connected,
        ended: record
            .ended
            .map(|(at, reason)| {
                ENDED
                    .get(usize::from(reason))
                    .map(|&reason| Ended { at, reason })
                    .ok_or(StoreError::Damaged)
            })
            .transpose()?,
        halted: record
            .halted
            .map(|(at, reason, until)| {
                HALTED
                    .get(usize::from(reason))
                    .map(|&reason| Halted { at, reason, until })
                    .ok_or(StoreError::Damaged)
            })
            .transpose()?,
        finishing: record.finishing,
        restored: record.restored,
    })
}
