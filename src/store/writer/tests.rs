//! What only the store's own rooms can try: faults in its work, and what is left in the file after a sweep.

use std::collections::HashSet;
use std::io;
use std::ops::Bound;

use whatsapp_rust::traits::SignalStore;

use super::*;
use crate::store::disk::{Disk, DiskFile, Folder, close_and_lock_the_file};
use crate::store::keys::{self, epochs_in};
use crate::store::tables::Family;
use crate::store::tx::Rows;
use crate::store::{NewLink, Options, Store};

fn next(line: &str) -> NewLink {
    NewLink {
        line: line.into(),
        intended: line.into(),
        now: 5,
    }
}

#[tokio::test]
async fn a_fault_in_one_piece_of_work_reaches_its_own_caller_and_nobody_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path(), Options::default()).expect("opened");
    let faulty = |before: bool| {
        store.write::<()>(move |writer| {
            if !before {
                writer.put(Table::House(House::Settings), b"half", b"done")?;
            }
            panic!("a fault in the test's own work");
        })
    };
    let (before, one, after, two) = tokio::join!(
        faulty(true),
        store.put_setting("one", vec![1]),
        faulty(false),
        store.put_setting("two", vec![2]),
    );
    assert_eq!(before, Err(StoreError::Fault));
    assert_eq!(after, Err(StoreError::Fault));
    assert_eq!((one, two), (Ok(()), Ok(())));
    store
        .put_setting("three", vec![3])
        .await
        .expect("it goes on");
    let kept = |name: &str| store.setting(name).expect("read");
    assert_eq!(kept("one"), Some(vec![1]));
    assert_eq!(kept("two"), Some(vec![2]));
    assert_eq!(kept("three"), Some(vec![3]));
    assert_eq!(kept("half"), None, "nothing half-done is kept");
    assert_eq!(store.check(), Ok(()));
    store.close().await;
}

#[tokio::test]
async fn a_fault_in_a_reader_is_an_error_and_the_file_is_checked_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path(), Options::default()).expect("opened");
    store.put_setting("one", vec![1]).await.expect("written");
    let read = store.read::<()>(|_| panic!("a fault in the test's own reading"));
    assert_eq!(read, Err(StoreError::Fault));
    // The writer thread takes what is queued in order: behind this the file is open again.
    store.put_setting("two", vec![2]).await.expect("written");
    assert_eq!(store.setting("one"), Ok(Some(vec![1])));
    store.close().await;
}

/// The real folder, whose store cannot be read while that is wanted.
#[derive(Debug)]
struct Unreadable {
    folder: Folder,
    fails: Arc<AtomicBool>,
}

impl Disk for Unreadable {
    fn folder(&self) -> &std::path::Path {
        self.folder.folder()
    }
    fn prepare(&self, create: bool) -> io::Result<()> {
        self.folder.prepare(create)
    }
    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        self.folder.size(name)
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(UnreadableFile {
            file: self.folder.open(name)?,
            fails: Arc::clone(&self.fails),
        }))
    }
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.folder.create(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.folder.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.folder.remove(name)
    }
    fn sync(&self) -> io::Result<()> {
        self.folder.sync()
    }
}

#[derive(Debug)]
struct UnreadableFile {
    file: Box<dyn DiskFile>,
    fails: Arc<AtomicBool>,
}

impl DiskFile for UnreadableFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(io::Error::other("no read"));
        }
        self.file.read(offset, out)
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write(offset, bytes)
    }
    close_and_lock_the_file!();
}

#[tokio::test]
async fn a_link_begun_on_a_handle_that_a_failed_read_broke_has_its_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let fails = Arc::new(AtomicBool::new(false));
    let disk = Unreadable {
        folder: Folder::new(folder.path()),
        fails: Arc::clone(&fails),
    };
    let options = Options {
        cache_bytes: 0,
        ..Options::default()
    };
    let store = Store::open_on(Arc::new(disk), options).expect("opened");
    let mut of = None;
    // The first link's key is written for it, the second's and third's are spares.
    for line in ["79001234567", "79001234568", "79001234569"] {
        {
            let database = store.shared.database();
            let database = database.as_ref().expect("open");
            fails.store(true, Ordering::SeqCst);
            assert!(database.begin_read().is_err(), "nothing can be read");
            fails.store(false, Ordering::SeqCst);
            assert!(database.begin_write().is_err(), "the handle is broken");
        }
        let file = std::fs::read(folder.path().join(keys::FILE)).expect("read");
        let spare = epochs_in(&file).max();
        let link = store
            .replace_link("salon", of, Some(next(line)), vec![])
            .await
            .expect("linked on a new handle");
        of = Some(link.link.expect("a link").epoch);
        assert!(
            of > spare,
            "a number with an overwritten key has no second one"
        );
        let backend = store.backend("salon", of.expect("an epoch"));
        backend
            .put_session("1@s.whatsapp.net:0", b"kept")
            .await
            .expect("written");
    }
    store.close().await;
    let store = Store::open(folder.path(), Options::default()).expect("opened");
    let row = store.link("salon").expect("read").expect("a link");
    assert_eq!(row.masked(), "79001***569");
    let kept = store
        .backend("salon", row.epoch)
        .get_session("1@s.whatsapp.net:0")
        .await
        .expect("read");
    assert_eq!(kept.as_deref(), Some(&b"kept"[..]));
    store.close().await;
}

/// The first bytes of every sealed value of an epoch, as they lie in the file.
fn sealed(store: &Store, epoch: Epoch) -> HashSet<[u8; 8]> {
    store
        .read(|rows| {
            let mut all = HashSet::new();
            for family in Family::ALL {
                let table = Table::Of(epoch, family).name();
                let whole = (Bound::Unbounded, Bound::Unbounded);
                for (_, value) in rows.raw_range(&table, whole, usize::MAX, false)? {
                    all.extend(value.first_chunk::<8>().copied());
                }
            }
            Ok(all)
        })
        .expect("read")
}

fn found(folder: &std::path::Path, wanted: &HashSet<[u8; 8]>) -> usize {
    let file = std::fs::read(folder.join(birth::FILE)).expect("read");
    file.windows(8)
        .filter(|bytes| {
            bytes
                .first_chunk::<8>()
                .is_some_and(|bytes| wanted.contains(bytes))
        })
        .count()
}

#[tokio::test]
async fn within_a_second_of_a_wipe_even_its_sealed_bytes_are_out_of_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path(), Options::default()).expect("opened");
    let mut links = Vec::new();
    for session in ["salon", "second", "third"] {
        let wiped = store
            .replace_link(session, None, Some(next("79001234567")), vec![])
            .await
            .expect("opened");
        links.push((session, wiped.link.expect("a link").epoch));
    }
    // Of all three in turn, so that their pages lie among each other.
    for number in 0..120_usize {
        for (session, epoch) in &links {
            let backend = store.backend(session, *epoch);
            let address = format!("7900000{number:04}@s.whatsapp.net:0");
            let length = if number % 20 == 0 { 9_000 } else { 350 };
            backend
                .put_session(&address, &vec![7; length])
                .await
                .expect("written");
        }
    }
    let (_, epoch) = links[1];
    let old = sealed(&store, epoch);
    // Each session, and that its user has one.
    assert_eq!(old.len(), 240);
    assert!(found(folder.path(), &old) >= 240);
    store
        .replace_link("second", Some(epoch), Some(next("79007654321")), vec![])
        .await
        .expect("wiped");
    let wiped = Instant::now();
    while found(folder.path(), &old) > 0 {
        assert!(
            wiped.elapsed() < Duration::from_secs(10),
            "{} sealed values are still in the file",
            found(folder.path(), &old)
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (session, epoch) in [links[0], links[2]] {
        assert_eq!(sealed(&store, epoch).len(), 240, "{session} is whole");
    }
    store.close().await;
}
