//! Owns reading and writing of sealed rows: nothing else in the store touches redb's tables.
//! Every row passes through here, so that every value is sealed and every write of a link is fenced by its epoch.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

use redb::{
    MultimapTableHandle, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    TableError, TableHandle, WriteTransaction,
};

use super::Epoch;
use super::error::StoreError;
use super::seal::DataKey;
use super::tables::{Family, House, Table};

type Bytes = &'static [u8];
/// A row's key and its opened value.
pub(super) type Row = (Vec<u8>, Vec<u8>);

/// Data keys by epoch, as the key file holds them now.
pub(super) type KeyRing = HashMap<Epoch, Arc<DataKey>>;

/// Where one link's rows lie and what seals them. Only [`Rows::fence`] gives one out.
#[derive(Clone)]
pub(super) struct Scope {
    key: Arc<DataKey>,
}

impl Scope {
    pub(super) fn table(&self, family: Family) -> Table {
        Table::Of(self.key.epoch(), family)
    }

    /// A row's name under the epoch's key: it does not tell whom it stands for.
    pub(super) fn name(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.key.name(parts)
    }
}

/// Reading, the same in a read and in a write transaction.
pub(super) trait Rows {
    fn key_of(&self, epoch: Epoch) -> Option<Arc<DataKey>>;

    /// The sealed value of one row.
    fn raw_get(&self, table: &str, row: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// The sealed rows of a range, in key order; at most `most`.
    fn raw_range(
        &self,
        table: &str,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        most: usize,
        newest_first: bool,
    ) -> Result<Vec<Row>, StoreError>;

    fn key(&self, table: Table) -> Result<Arc<DataKey>, StoreError> {
        match table {
            Table::House(_) => self.key_of(Epoch::HOUSE).ok_or(StoreError::Damaged),
            // The block goes with the wipe: without it the epoch is gone.
            Table::Of(epoch, _) => self.key_of(epoch).ok_or(StoreError::StaleEpoch),
        }
    }

    fn get(&self, table: Table, row: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let name = table.name();
        match self.raw_get(&name, row)? {
            None => Ok(None),
            Some(sealed) => self
                .open(table, &name, &*self.key(table)?, row, &sealed)
                .map(Some),
        }
    }

    /// Opens a value of a table with the table's key, and what goes with a link with that link's as well.
    fn open(
        &self,
        table: Table,
        name: &str,
        key: &DataKey,
        row: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let value = key.open(name, row, sealed)?;
        if !table.goes_with_a_link() {
            return Ok(value);
        }
        let (epoch, sealed) = value.split_first_chunk().ok_or(StoreError::Damaged)?;
        self.key_of(Epoch(u64::from_be_bytes(*epoch)))
            .ok_or(StoreError::Damaged)?
            .open(name, row, sealed)
    }

    fn has(&self, table: Table, row: &[u8]) -> Result<bool, StoreError> {
        Ok(self.raw_get(&table.name(), row)?.is_some())
    }

    /// All rows of a table in key order.
    fn all(&self, table: Table) -> Result<Vec<Row>, StoreError> {
        self.range(
            table,
            (Bound::Unbounded, Bound::Unbounded),
            usize::MAX,
            false,
        )
    }

    /// All rows whose key begins with `prefix`.
    fn prefixed(&self, table: Table, prefix: &[u8]) -> Result<Vec<Row>, StoreError> {
        let end = after_prefix(prefix);
        let upper = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.range(table, (Bound::Included(prefix), upper), usize::MAX, false)
    }

    fn range(
        &self,
        table: Table,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        most: usize,
        newest_first: bool,
    ) -> Result<Vec<Row>, StoreError> {
        let name = table.name();
        let rows = self.raw_range(&name, range, most, newest_first)?;
        if rows.is_empty() {
            return Ok(rows);
        }
        let key = self.key(table)?;
        rows.into_iter()
            .map(|(row, sealed)| {
                let value = self.open(table, &name, &key, &row, &sealed)?;
                Ok((row, value))
            })
            .collect()
    }

    /// The only way to a link's rows: the session's present epoch must be this one.
    fn fence(&self, session: &str, epoch: Epoch) -> Result<Scope, StoreError> {
        if self.present_epoch(session)? != Some(epoch) {
            return Err(StoreError::StaleEpoch);
        }
        let key = self.key_of(epoch).ok_or(StoreError::Damaged)?;
        Ok(Scope { key })
    }

    /// Whether what a wipe left is still to be swept out of the file.
    fn wants_sweep(&self) -> Result<bool, StoreError> {
        self.has(SWEEP.0, SWEEP.1)
    }

    fn present_epoch(&self, session: &str) -> Result<Option<Epoch>, StoreError> {
        self.get(Table::House(House::Epochs), session.as_bytes())?
            .map(|bytes| {
                bytes
                    .try_into()
                    .map(|bytes| Epoch(u64::from_be_bytes(bytes)))
                    .map_err(|_| StoreError::Damaged)
            })
            .transpose()
    }
}

/// The first key that does not begin with the prefix; none when there is no such key.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

/// A read transaction.
pub(super) struct Reader<'k> {
    transaction: ReadTransaction,
    keys: &'k KeyRing,
}

impl<'k> Reader<'k> {
    pub(super) fn new(database: &redb::Database, keys: &'k KeyRing) -> Result<Self, StoreError> {
        Ok(Self {
            transaction: database.begin_read()?,
            keys,
        })
    }

    /// Over a transaction that was begun while the keys were these.
    pub(super) fn over(transaction: ReadTransaction, keys: &'k KeyRing) -> Self {
        Self { transaction, keys }
    }

    /// The names of all tables in the file, ours or not.
    pub(super) fn tables(&self) -> Result<Vec<String>, StoreError> {
        let plain = self.transaction.list_tables()?;
        let multi = self.transaction.list_multimap_tables()?;
        Ok(plain
            .map(|table| table.name().to_owned())
            .chain(multi.map(|table| table.name().to_owned()))
            .collect())
    }
}

/// A table that was never written is empty.
fn absent<T: Default>(error: TableError) -> Result<T, StoreError> {
    match error {
        TableError::TableDoesNotExist(_) => Ok(T::default()),
        error => Err(error.into()),
    }
}

fn get_in(
    table: &impl ReadableTable<Bytes, Bytes>,
    row: &[u8],
) -> Result<Option<Vec<u8>>, StoreError> {
    count::touch();
    Ok(table.get(row)?.map(|value| value.value().to_vec()))
}

fn range_in(
    table: &impl ReadableTable<Bytes, Bytes>,
    range: (Bound<&[u8]>, Bound<&[u8]>),
    most: usize,
    newest_first: bool,
) -> Result<Vec<Row>, StoreError> {
    let copy =
        |row: Result<(redb::AccessGuard<Bytes>, redb::AccessGuard<Bytes>), redb::StorageError>| {
            count::touch();
            let (key, value) = row?;
            Ok((key.value().to_vec(), value.value().to_vec()))
        };
    let rows = table.range::<&[u8]>(range)?;
    if newest_first {
        rows.rev().take(most).map(copy).collect()
    } else {
        rows.take(most).map(copy).collect()
    }
}

impl Rows for Reader<'_> {
    fn key_of(&self, epoch: Epoch) -> Option<Arc<DataKey>> {
        self.keys.get(&epoch).cloned()
    }

    fn raw_get(&self, table: &str, row: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self
            .transaction
            .open_table(TableDefinition::<Bytes, Bytes>::new(table))
        {
            Ok(table) => get_in(&table, row),
            Err(error) => absent(error),
        }
    }

    fn raw_range(
        &self,
        table: &str,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        most: usize,
        newest_first: bool,
    ) -> Result<Vec<Row>, StoreError> {
        match self
            .transaction
            .open_table(TableDefinition::<Bytes, Bytes>::new(table))
        {
            Ok(table) => range_in(&table, range, most, newest_first),
            Err(error) => absent(error),
        }
    }
}

/// A write transaction, shared by everything that is committed together.
pub(super) struct Writer<'t> {
    transaction: &'t WriteTransaction,
    keys: &'t KeyRing,
    /// Whether the work at hand has changed anything: if it then fails, the whole transaction must go.
    touched: RefCell<bool>,
    /// Epochs whose blocks are overwritten once this is durable.
    retired: RefCell<Vec<Epoch>>,
}

/// The row that says that a wipe's sealed bytes may still lie in free pages. Written with the wipe, taken away once
/// the file is compacted: a crash in between is finished by the next start.
const SWEEP: (Table, &[u8]) = (Table::House(House::Meta), b"sweep");

impl<'t> Writer<'t> {
    pub(super) fn new(transaction: &'t WriteTransaction, keys: &'t KeyRing) -> Self {
        Self {
            transaction,
            keys,
            touched: RefCell::new(false),
            retired: RefCell::new(Vec::new()),
        }
    }

    /// Begins a new piece of work.
    pub(super) fn next_work(&self) {
        self.touched.replace(false);
    }

    pub(super) fn was_touched(&self) -> bool {
        *self.touched.borrow()
    }

    /// What the work at hand, and whatever came before it, retired.
    pub(super) fn retired(&self) -> usize {
        self.retired.borrow().len()
    }

    pub(super) fn into_retired(self) -> Vec<Epoch> {
        self.retired.into_inner()
    }

    pub(super) fn put(&self, table: Table, row: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.put_all(table, [(row, value)])
    }

    /// Many rows of one table: it is opened once.
    pub(super) fn put_all<R: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        table: Table,
        rows: impl IntoIterator<Item = (R, V)>,
    ) -> Result<(), StoreError> {
        let key = self.key(table)?;
        let name = table.name();
        self.touched.replace(true);
        let mut open = self
            .transaction
            .open_table(TableDefinition::<Bytes, Bytes>::new(&name))?;
        for (row, value) in rows {
            let sealed = key.seal(&name, row.as_ref(), value.as_ref())?;
            count::touch();
            open.insert(row.as_ref(), sealed.as_slice())?;
        }
        Ok(())
    }

    /// What the house knows of a link: sealed under the link's key first, so that it goes with it.
    pub(super) fn put_of_link(
        &self,
        epoch: Epoch,
        table: Table,
        row: &[u8],
        value: &[u8],
    ) -> Result<(), StoreError> {
        let key = self.key_of(epoch).ok_or(StoreError::StaleEpoch)?;
        let sealed = key.seal(&table.name(), row, value)?;
        self.put(table, row, &[&epoch.0.to_be_bytes()[..], &sealed].concat())
    }

    /// Removes a row; whether there was one.
    pub(super) fn delete(&self, table: Table, row: &[u8]) -> Result<bool, StoreError> {
        Ok(self.delete_all(table, [row])? > 0)
    }

    /// Removes rows; how many there were.
    pub(super) fn delete_all<R: AsRef<[u8]>>(
        &self,
        table: Table,
        rows: impl IntoIterator<Item = R>,
    ) -> Result<usize, StoreError> {
        let name = table.name();
        self.touched.replace(true);
        let mut open = self
            .transaction
            .open_table(TableDefinition::<Bytes, Bytes>::new(&name))?;
        let mut removed = 0;
        for row in rows {
            count::touch();
            removed += usize::from(open.remove(row.as_ref())?.is_some());
        }
        Ok(removed)
    }

    /// Removes everything in a range; the keys that were in it.
    pub(super) fn delete_range(
        &self,
        table: Table,
        range: (Bound<&[u8]>, Bound<&[u8]>),
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let keys: Vec<Vec<u8>> = self
            .raw_range(&table.name(), range, usize::MAX, false)?
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        if !keys.is_empty() {
            self.delete_all(table, &keys)?;
        }
        Ok(keys)
    }

    /// Drops a whole table.
    pub(super) fn drop_table(&self, table: Table) -> Result<(), StoreError> {
        self.touched.replace(true);
        self.transaction
            .delete_table(TableDefinition::<Bytes, Bytes>::new(&table.name()))?;
        Ok(())
    }

    /// Drops every table of an epoch and lets its key go with the commit.
    pub(super) fn retire(&self, epoch: Epoch) -> Result<(), StoreError> {
        for family in Family::ALL {
            self.drop_table(Table::Of(epoch, family))?;
        }
        self.put(SWEEP.0, SWEEP.1, &[])?;
        self.retired.borrow_mut().push(epoch);
        Ok(())
    }

    /// The file has been compacted; whether it was to be.
    pub(super) fn swept(&self) -> Result<bool, StoreError> {
        self.delete(SWEEP.0, SWEEP.1)
    }
}

impl Rows for Writer<'_> {
    fn key_of(&self, epoch: Epoch) -> Option<Arc<DataKey>> {
        self.keys.get(&epoch).cloned()
    }

    fn raw_get(&self, table: &str, row: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let open = self
            .transaction
            .open_table(TableDefinition::<Bytes, Bytes>::new(table))?;
        get_in(&open, row)
    }

    fn raw_range(
        &self,
        table: &str,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        most: usize,
        newest_first: bool,
    ) -> Result<Vec<Row>, StoreError> {
        let open = self
            .transaction
            .open_table(TableDefinition::<Bytes, Bytes>::new(table))?;
        range_in(&open, range, most, newest_first)
    }
}

/// How many rows a thread has touched. Only tests count: what an index is asked must not grow with what lies beside it.
pub(super) mod count {
    #[cfg(test)]
    thread_local! {
        static ROWS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    pub(super) fn touch() {
        #[cfg(test)]
        ROWS.set(ROWS.get() + 1);
    }

    /// So far.
    #[cfg(test)]
    pub(in crate::store) fn rows() -> usize {
        ROWS.get()
    }
}
