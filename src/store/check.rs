//! Owns verifying an open store: every row unseals and decodes, everything that belongs together is there, and
//! nothing else is. It says what the store holds, without secrets, and never changes anything.

use std::collections::HashSet;
use std::fmt::{self, Display};
use std::ops::Bound;

use serde::Serialize;
use whatsapp_rust::wacore::appstate::hash::HashState;
use whatsapp_rust::wacore::store::Device;

use super::birth::LAYOUT;
use super::error::{Flaw, StoreError};
use super::journal::JournalEntry;
use super::links::{self, LinkRow};
use super::record::{self, SessionRecord};
use super::rows::app_sync;
use super::sweep::FILLER_NAME;
use super::tables::{Family, House, Table};
use super::tx::{Reader, Row, Rows};
use super::{Epoch, ROOM, Store};

/// Rows that are held in memory at a time.
const PAGE: usize = 512;
/// The one table outside any sealing.
const LAYOUT_TABLE: &str = "layout";

/// What a sound store holds. Numbers in it are masked already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The layout of the file.
    pub layout: u32,
    /// The file's length.
    pub bytes: u64,
    /// All rows, of whatever kind.
    pub rows: u64,
    /// Keys in the key file that rows are sealed under.
    pub keys: usize,
    /// Entries of the journal.
    pub journal: u64,
    /// Values outside any link.
    pub settings: u64,
    /// The slots.
    pub sessions: Vec<SlotReport>,
}

/// What a slot holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SlotReport {
    /// Its id.
    pub session: String,
    /// What people call it.
    pub name: String,
    /// Its link.
    pub link: Option<LinkReport>,
}

/// What is stored of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, each of which is said"
)]
pub struct LinkReport {
    /// Masked.
    pub phone: String,
    /// Whether a phone has accepted it.
    pub linked: bool,
    /// Whether it can never carry messages again.
    pub ended: bool,
    /// Whether it came from a backup.
    pub restored: bool,
    /// Whether it has a device with its keys.
    pub device: bool,
    /// Signal sessions.
    pub conversations: u64,
    /// One-time pre-keys.
    pub pre_keys: u64,
    /// App-state keys.
    pub sync_keys: u64,
    /// Contacts whose hidden id is known.
    pub contacts: u64,
    /// Rows of every kind.
    pub rows: u64,
}

impl Display for Report {
    /// Lines for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {}, {}, {}, {}, layout {}",
            counted(self.sessions.len() as u64, "session"),
            counted(self.journal, "journal entry"),
            counted(self.settings, "setting"),
            counted(self.rows, "row"),
            counted(self.bytes, "byte"),
            self.layout
        )?;
        for slot in &self.sessions {
            write!(f, "\n{} ({})", slot.session, clean(&slot.name))?;
            let Some(link) = &slot.link else {
                write!(f, ": no link")?;
                continue;
            };
            write!(f, ": {}", link.phone)?;
            let marks = [
                (!link.linked, "never linked"),
                (link.ended, "ended"),
                (link.restored, "restored"),
                (!link.device, "no device keys"),
            ];
            for (is, mark) in marks {
                if is {
                    write!(f, ", {mark}")?;
                }
            }
            write!(
                f,
                ", {}, {}, {}, {}",
                counted(link.conversations, "conversation"),
                counted(link.contacts, "contact"),
                counted(link.pre_keys, "pre-key"),
                counted(link.rows, "row")
            )?;
        }
        Ok(())
    }
}

fn counted(count: u64, what: &str) -> String {
    match (count, what.strip_suffix('y')) {
        (1, _) => format!("1 {what}"),
        (_, Some(stem)) if what.ends_with("ry") => format!("{count} {stem}ies"),
        _ => format!("{count} {what}s"),
    }
}

/// A name paints over no line.
fn clean(text: &str) -> String {
    text.chars()
        .map(|sign| if sign.is_control() { '?' } else { sign })
        .collect()
}

impl Store {
    /// Reads and decodes everything; blocking, and long: not for a request's thread.
    ///
    /// # Errors
    /// What is wrong.
    pub fn verify(&self) -> Result<Report, Flaw> {
        let bytes = self.size_bytes();
        self.read_long(|rows| Ok(verify(rows, bytes)))?
    }
}

fn verify(rows: &Reader<'_>, bytes: u64) -> Result<Report, Flaw> {
    let present = present(rows)?;
    let mut unknown: HashSet<String> = rows.tables()?.into_iter().collect();
    unknown.remove(LAYOUT_TABLE);
    for table in House::ALL.map(Table::House) {
        unknown.remove(&table.name());
    }
    for (_, epoch) in &present {
        for family in Family::ALL {
            unknown.remove(&Table::Of(*epoch, family).name());
        }
    }
    // A sweep that was cut short is due again, and takes it away.
    if rows.wants_sweep()? {
        unknown.remove(FILLER_NAME);
    }
    if let Some(table) = unknown.into_iter().min() {
        return Err(Flaw::Row {
            table: clean(&table),
            what: "this table is none of the store's",
        });
    }

    let mut total = 0;
    let mut slots = Vec::new();
    let mut with_link: HashSet<String> = HashSet::new();
    let mut counts = [0; House::ALL.len()];
    for (house, count) in House::ALL.into_iter().zip(&mut counts) {
        *count = each(rows, Table::House(house), |row, value| match house {
            House::Meta => match (row, <[u8; 8]>::try_from(value)) {
                (b"next_epoch", Ok(next)) => {
                    let next = u64::from_be_bytes(next);
                    present.iter().all(|(_, epoch)| epoch.0 < next)
                }
                // Marks have no value; room for a wipe is taken for a moment.
                _ => value.is_empty() || row.starts_with(ROOM),
            },
            House::Sessions => match (
                String::from_utf8(row.to_vec()),
                record::decode::<SessionRecord>(value),
            ) {
                (Ok(id), Ok(record)) => {
                    slots.push((id, record.name));
                    true
                }
                _ => false,
            },
            House::Epochs => true,
            House::Links => match String::from_utf8(row.to_vec()) {
                Ok(id) => {
                    let good = links::decode(value).is_ok_and(|link| {
                        present
                            .iter()
                            .any(|(of, epoch)| *of == id && *epoch == link.epoch)
                    });
                    with_link.insert(id);
                    good
                }
                Err(_) => false,
            },
            House::Journal => row.len() == 8 && JournalEntry::decode(value).is_ok(),
            House::Settings => std::str::from_utf8(row).is_ok(),
            House::Budget => row.len() == 40 && value.is_empty(),
        })?;
        total += *count;
    }
    if let Some((_, epoch)) = present.iter().find(|(id, _)| !with_link.contains(id)) {
        return Err(Flaw::Row {
            table: Table::House(House::Links).name(),
            what: if *epoch == Epoch::HOUSE {
                "an epoch that no link can have"
            } else {
                "a link's row is missing"
            },
        });
    }

    let mut sessions = Vec::new();
    for (session, name) in slots {
        let link = match links::read(rows, &session)? {
            Some(link) => Some(of_link(rows, &session, &link)?),
            None => None,
        };
        total += link.as_ref().map_or(0, |link| link.rows);
        sessions.push(SlotReport {
            session,
            name,
            link,
        });
    }
    let count_of = |house| {
        House::ALL
            .into_iter()
            .zip(counts)
            .find(|(other, _)| *other == house)
            .map_or(0, |(_, count)| count)
    };
    Ok(Report {
        layout: LAYOUT,
        bytes,
        rows: total,
        keys: 1 + present.len(),
        journal: count_of(House::Journal),
        settings: count_of(House::Settings),
        sessions,
    })
}

/// Every link's epoch; each has its key.
fn present(rows: &Reader<'_>) -> Result<Vec<(String, Epoch)>, Flaw> {
    let mut present = Vec::new();
    let table = Table::House(House::Epochs);
    let mut keyless = false;
    each(rows, table, |row, value| {
        match (String::from_utf8(row.to_vec()), value.try_into()) {
            (Ok(id), Ok(bytes)) => {
                let epoch = Epoch(u64::from_be_bytes(bytes));
                keyless |= rows.key_of(epoch).is_none();
                present.push((id, epoch));
                true
            }
            _ => false,
        }
    })?;
    if keyless {
        return Err(Flaw::Row {
            table: table.name(),
            what: "a link's key is missing in hairpin.keys",
        });
    }
    Ok(present)
}

fn of_link(rows: &Reader<'_>, session: &str, link: &LinkRow) -> Result<LinkReport, Flaw> {
    let scope = rows.fence(session, link.epoch)?;
    let mut report = LinkReport {
        phone: link.masked(),
        linked: link.linked.is_some(),
        ended: link.ended.is_some(),
        restored: link.restored,
        device: false,
        conversations: 0,
        pre_keys: 0,
        sync_keys: 0,
        contacts: 0,
        rows: 0,
    };
    // Hidden ids that no number has named yet.
    let mut nameless: HashSet<Vec<u8>> = HashSet::new();
    for family in Family::ALL {
        let count = each(rows, scope.table(family), |row, value| {
            match family {
                Family::LidMappings => _ = nameless.insert(row.to_vec()),
                // Each of them is named once; the families are read in their order.
                Family::PnMappings => {
                    let (names, rest) = value.as_chunks::<32>();
                    let each_once = names.iter().all(|name| nameless.remove(&name[..]));
                    if !each_once || !rest.is_empty() {
                        return false;
                    }
                }
                _ => {}
            }
            // A key that is another row's would never be found under its own name.
            if family == Family::SyncKeys && row != app_sync::LATEST {
                return record::decode::<record::SyncKeyRecord>(value)
                    .is_ok_and(|record| row == scope.name(&[&record.key_id]));
            }
            decodes(family, row, value)
        })?;
        report.rows += count;
        match family {
            Family::Device => report.device = count > 0,
            Family::Sessions => report.conversations = count,
            Family::PreKeys => report.pre_keys = count,
            Family::SyncKeys => report.sync_keys = count.saturating_sub(1),
            Family::LidMappings => report.contacts = count,
            _ => {}
        }
    }
    if !nameless.is_empty() {
        return Err(Flaw::Row {
            table: scope.table(Family::PnMappings).name(),
            what: "a contact's number is missing",
        });
    }
    Ok(report)
}

/// Whether a row is what its family holds.
fn decodes(family: Family, row: &[u8], value: &[u8]) -> bool {
    let by_name = row.len() == 32;
    let by_two_names = row.len() == 64;
    let by_number = row.len() == 4;
    // Eight bytes of time, and a name.
    let timed = row.len() == 40 && value.is_empty();
    match family {
        Family::Device => row == b"device" && serde_json::from_slice::<Device>(value).is_ok(),
        Family::Identities => by_name && value.len() == 32,
        Family::Sessions | Family::SenderKeys | Family::BaseKeys | Family::Groups => by_name,
        Family::SignalUsers | Family::SenderKeyDevicesByDevice => by_two_names && value.is_empty(),
        // A mark leads every one-time key.
        Family::PreKeys => by_number && !value.is_empty(),
        Family::SignedPreKeys => by_number,
        // What names the newest of them; the others are looked at by name.
        Family::SyncKeys => row == app_sync::LATEST,
        Family::SyncVersions => by_name && serde_json::from_slice::<HashState>(value).is_ok(),
        Family::MutationMacs => by_two_names,
        Family::SenderKeyDevices => {
            by_two_names && record::decode::<record::SenderKeyDeviceRecord>(value).is_ok()
        }
        Family::LidMappings => by_name && record::decode::<record::LidRecord>(value).is_ok(),
        Family::PnMappings => by_name && !value.is_empty(),
        Family::DeviceLists => by_name && record::decode::<record::DeviceListRecord>(value).is_ok(),
        Family::TcTokens => by_name && record::decode::<record::TcTokenRecord>(value).is_ok(),
        Family::SentMessages | Family::PendingInbound => {
            by_name && record::decode::<record::TimedRecord>(value).is_ok()
        }
        Family::MsgSecrets => by_name && record::decode::<record::MsgSecretRecord>(value).is_ok(),
        Family::TcTokensByTime
        | Family::SentMessagesByTime
        | Family::PendingInboundByTime
        | Family::MsgSecretsByDeadline => timed,
    }
}

/// Opens every row of a table, page by page; how many there are.
fn each(
    rows: &Reader<'_>,
    table: Table,
    mut good: impl FnMut(&[u8], &[u8]) -> bool,
) -> Result<u64, Flaw> {
    let flaw = |what| Flaw::Row {
        table: table.name(),
        what,
    };
    let mut count = 0;
    let mut after: Option<Vec<u8>> = None;
    loop {
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let page: Vec<Row> = match rows.range(table, (from, Bound::Unbounded), PAGE, false) {
            Ok(page) => page,
            Err(StoreError::Damaged) => return Err(flaw("a row does not open")),
            Err(StoreError::StaleEpoch) => return Err(flaw("its key is missing in hairpin.keys")),
            Err(error) => return Err(error.into()),
        };
        let Some((last, _)) = page.last() else {
            return Ok(count);
        };
        after = Some(last.clone());
        for (row, value) in &page {
            if !good(row, value) {
                return Err(flaw("a row is not what belongs there"));
            }
            count += 1;
        }
    }
}
