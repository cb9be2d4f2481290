//! Owns the pairing journal: what happened, to whom (masked), asked by whom. Bounded by age and count.

use std::ops::Bound;

use serde::Serialize;

use super::error::StoreError;
use super::record::{self, JournalRecord};
use super::tables::{House, Table};
use super::tx::{Rows, Writer};

const TABLE: Table = Table::House(House::Journal);
/// Entries beyond this many go, the oldest first.
const MOST: u64 = 10_000;
/// Entries older than this go (400 days, in milliseconds).
const OLDEST_MS: i64 = 400 * 24 * 60 * 60 * 1000;
/// The longest user agent that is kept, in characters.
const AGENT: usize = 120;

/// What a journal entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum JournalWhat {
    /// Somebody asked for a code.
    Requested,
    /// A link of another line was wiped for it.
    MismatchWiped,
    /// Dead credentials of the same line were wiped for it.
    LeftoversWiped,
    /// A code was shown.
    CodeShown,
    /// A code ended; the outcome says why.
    CodeEnded,
    /// A phone was linked.
    Linked,
    /// WhatsApp linked another number than the one asked for.
    WrongPhone,
    /// Somebody unlinked.
    Unlinked,
    /// The phone removed the link.
    LoggedOut,
    /// A backup was restored.
    Restored,
}

impl JournalWhat {
    /// In the order of their numbers in the file.
    const ALL: [Self; 10] = [
        Self::Requested,
        Self::MismatchWiped,
        Self::LeftoversWiped,
        Self::CodeShown,
        Self::CodeEnded,
        Self::Linked,
        Self::WrongPhone,
        Self::Unlinked,
        Self::LoggedOut,
        Self::Restored,
    ];

    fn number(self) -> u8 {
        Self::ALL
            .iter()
            .position(|&what| what == self)
            .and_then(|at| u8::try_from(at).ok())
            .unwrap_or(u8::MAX)
    }
}

/// One entry. Numbers in it are masked already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JournalEntry {
    /// When, in Unix milliseconds.
    pub time: i64,
    /// Which session.
    pub session: String,
    /// What happened.
    pub what: JournalWhat,
    /// The masked number it is about.
    pub phone: Option<String>,
    /// The masked number of the old link.
    pub old_phone: Option<String>,
    /// Who asked: `page`, `api`, `terminal`.
    pub by: Option<String>,
    /// With what, shortened.
    pub user_agent: Option<String>,
    /// Whether a person agreed to the replacement of a live link.
    pub confirmed: Option<bool>,
    /// Whether the old link was ever linked.
    pub was_linked: Option<bool>,
    /// How old the old credentials were.
    pub credential_age_seconds: Option<u64>,
    /// When the old link was last connected, in Unix milliseconds.
    pub last_connected: Option<i64>,
    /// How long it took.
    pub duration_ms: Option<u64>,
    /// How it ended.
    pub outcome: Option<String>,
}

impl JournalEntry {
    /// An entry that says only what and when.
    #[must_use]
    pub fn new(time: i64, session: &str, what: JournalWhat) -> Self {
        Self {
            time,
            session: session.to_owned(),
            what,
            phone: None,
            old_phone: None,
            by: None,
            user_agent: None,
            confirmed: None,
            was_linked: None,
            credential_age_seconds: None,
            last_connected: None,
            duration_ms: None,
            outcome: None,
        }
    }

    fn to_record(&self) -> JournalRecord {
        JournalRecord {
            time: self.time,
            session: self.session.clone(),
            what: self.what.number(),
            phone: self.phone.clone(),
            old_phone: self.old_phone.clone(),
            by: self.by.clone(),
            user_agent: self
                .user_agent
                .as_ref()
                .map(|agent| agent.chars().take(AGENT).collect()),
            confirmed: self.confirmed,
            was_linked: self.was_linked,
            credential_age_seconds: self.credential_age_seconds,
            last_connected: self.last_connected,
            duration_ms: self.duration_ms,
            outcome: self.outcome.clone(),
        }
    }

    /// An entry as it is stored.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        Self::from_record(record::decode(bytes)?)
    }

    /// An entry as it is to be stored.
    pub(super) fn encode(&self) -> Result<Vec<u8>, StoreError> {
        record::encode(&self.to_record())
    }

    fn from_record(record: JournalRecord) -> Result<Self, StoreError> {
        Ok(Self {
            time: record.time,
            session: record.session,
            what: *JournalWhat::ALL
                .get(usize::from(record.what))
                .ok_or(StoreError::Damaged)?,
            phone: record.phone,
            old_phone: record.old_phone,
            by: record.by,
            user_agent: record.user_agent,
            confirmed: record.confirmed,
            was_linked: record.was_linked,
            credential_age_seconds: record.credential_age_seconds,
            last_connected: record.last_connected,
            duration_ms: record.duration_ms,
            outcome: record.outcome,
        })
    }
}

/// Appends, and lets go of what is too old or too much, in the same transaction.
pub(super) fn append(writer: &Writer<'_>, entries: &[JournalEntry]) -> Result<(), StoreError> {
    if entries.is_empty() {
        return Ok(());
    }
    let encoded = entries
        .iter()
        .map(JournalEntry::encode)
        .collect::<Result<Vec<_>, _>>()?;
    let whole = (Bound::Unbounded, Bound::Unbounded);
    let last = match writer.raw_range(&TABLE.name(), whole, 1, true)?.first() {
        Some((key, _)) => number(key)?,
        None => 0,
    };
    let keys: Vec<[u8; 8]> = (last + 1..)
        .take(encoded.len())
        .map(u64::to_be_bytes)
        .collect();
    writer.put_all(TABLE, keys.iter().zip(&encoded))?;
    let newest = last + encoded.len() as u64;
    if newest > MOST {
        let cut = (newest - MOST).to_be_bytes();
        writer.delete_range(TABLE, (Bound::Unbounded, Bound::Included(&cut[..])))?;
    }
    // The oldest first: the loop ends at the first that is young enough.
    let now = entries.iter().map(|entry| entry.time).max().unwrap_or(0);
    while let Some((key, value)) = writer.range(TABLE, whole, 1, false)?.pop() {
        let entry = record::decode::<JournalRecord>(&value)?;
        if entry.time >= now - OLDEST_MS {
            break;
        }
        writer.delete(TABLE, &key)?;
    }
    Ok(())
}

/// The newest entries, of one session or of all.
pub(super) fn newest(
    rows: &impl Rows,
    session: Option<&str>,
    limit: usize,
) -> Result<Vec<JournalEntry>, StoreError> {
    let mut found = Vec::new();
    let mut before: Option<Vec<u8>> = None;
    while found.len() < limit {
        let upper = before.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let page = rows.range(TABLE, (Bound::Unbounded, upper), 256, true)?;
        let Some((oldest, _)) = page.last() else {
            break;
        };
        before = Some(oldest.clone());
        for (_, value) in page {
            let entry = JournalEntry::decode(&value)?;
            if session.is_none_or(|session| session == entry.session) && found.len() < limit {
                found.push(entry);
            }
        }
    }
    Ok(found)
}

fn number(key: &[u8]) -> Result<u64, StoreError> {
    key.try_into()
        .map(u64::from_be_bytes)
        .map_err(|_| StoreError::Damaged)
}
