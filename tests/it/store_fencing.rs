//! Whoever still holds a handle of a link that is over: every call of every trait is refused, and the files stay as they are.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hairpin::store::{Store, StoreError};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use whatsapp_rust::store::persistence_manager::PersistenceManager;
use whatsapp_rust::traits::Backend;
use whatsapp_rust::wacore::runtime::{AbortHandle, Runtime, ShutdownNotifier};
use whatsapp_rust::wacore::stats::StorageResourceReport;

use crate::store_calls::{Draw, traits};
use crate::store_support::{Held, SALON, backend, cause, folder, next_epoch, open, seed, swept};

/// A store with a link that is full of rows, and a neighbour's.
struct Full {
    folder: TempDir,
    store: Store,
    rows: Arc<dyn Backend>,
    draw: Draw,
    /// A sealed row of the link as it lies in the file.
    sealed: Vec<u8>,
}

impl Full {
    async fn new() -> Self {
        let folder = folder();
        let store = open(folder.path());
        let rows = backend(&store, SALON).await;
        let neighbour = backend(&store, "branch").await;
        let mut draw = Draw::new(seed());
        for rows in [&rows, &neighbour] {
            for store in traits() {
                for method in store.methods {
                    method.draw(&mut draw).make(rows).await.expect("fresh");
                }
            }
        }
        let held = Held::of(folder.path());
        let (_, device) = held
            .tables
            .iter()
            .find(|(name, _)| name.ends_with(".device"))
            .expect("a device");
        let sealed = device.values().next().expect("a row").clone();
        Self {
            folder,
            store,
            rows,
            draw,
            sealed,
        }
    }

    /// Every call of every trait, each with a few arguments: none may do anything.
    async fn refuses_everything(mut self, why: &str) {
        // What a wipe still has to do is done: from here on nothing may move.
        swept(&self.store, &self.sealed).await;
        let before = Held::of(self.folder.path());
        for store in traits() {
            for method in &store.methods {
                let name = format!("{why}: {}::{}", store.name, method.name);
                for _ in 0..3 {
                    let call = method.draw(&mut self.draw);
                    match call.make(&self.rows).await {
                        Err(error) => assert_eq!(
                            cause(&error),
                            Some(StoreError::StaleEpoch),
                            "{name}({}): {error:?}",
                            call.arguments
                        ),
                        // It has no way to fail, and tells nothing of any row.
                        Ok(answer) => assert_eq!(
                            answer,
                            format!("{:?}", StorageResourceReport::default()),
                            "{name}({}) was let through",
                            call.arguments
                        ),
                    }
                }
                let after = Held::of(self.folder.path());
                assert!(after == before, "{name} changed the files");
            }
        }
        self.store.close().await;
    }
}

#[tokio::test]
async fn a_handle_of_a_replaced_link_can_neither_write_nor_read() {
    let full = Full::new().await;
    let epoch = next_epoch(&full.store, SALON).await;
    let new: Arc<dyn Backend> = Arc::new(full.store.backend(SALON, epoch));
    // The new link has rows of its own, under the very names that the old handle will use.
    let mut draw = Draw::new(seed());
    for store in traits() {
        for method in store.methods {
            method.draw(&mut draw).make(&new).await.expect("fresh");
        }
    }
    full.refuses_everything("replaced").await;
}

#[tokio::test]
async fn a_handle_of_an_unlinked_slot_can_neither_write_nor_read() {
    let full = Full::new().await;
    let row = full.store.link(SALON).expect("readable").expect("a link");
    full.store
        .replace_link(SALON, Some(row.epoch), None, Vec::new())
        .await
        .expect("wiped");
    full.refuses_everything("unlinked").await;
}

#[tokio::test]
async fn a_handle_of_a_removed_session_can_neither_write_nor_read() {
    let full = Full::new().await;
    full.store
        .remove_session(SALON, Vec::new())
        .await
        .expect("removed");
    full.refuses_everything("removed").await;
}

/// A session removed and added again under its name, by somebody else.
#[tokio::test]
async fn a_handle_of_a_session_of_the_same_name_before_can_neither_write_nor_read() {
    let full = Full::new().await;
    full.store
        .remove_session(SALON, Vec::new())
        .await
        .expect("removed");
    backend(&full.store, SALON).await;
    full.refuses_everything("added again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_race_a_wipe_come_before_it_or_fail() {
    let folder = folder();
    let store = open(folder.path());
    let mut old = backend(&store, SALON).await;
    for _ in 0..20 {
        let writers: Vec<JoinHandle<_>> = (0..16_u8)
            .map(|number| {
                let old = Arc::clone(&old);
                tokio::spawn(async move {
                    let address = format!("7900123456{number}@c.us");
                    old.put_session(&address, &[number]).await
                })
            })
            .collect();
        let epoch = next_epoch(&store, SALON).await;
        let new = store.backend(SALON, epoch);
        for writer in writers {
            if let Err(error) = writer.await.expect("no panic") {
                assert_eq!(cause(&error), Some(StoreError::StaleEpoch), "{error:?}");
            }
        }
        // Who comes in the end is too late in any case.
        let late = old.put_session("79001234567@c.us", &[1]).await;
        let late = late.expect_err("the link is over");
        assert_eq!(cause(&late), Some(StoreError::StaleEpoch), "{late:?}");
        let new: Arc<dyn Backend> = Arc::new(new);
        for number in 0..16_u8 {
            let address = format!("7900123456{number}@c.us");
            let found = new.get_session(&address).await.expect("readable");
            assert_eq!(found, None, "nothing came over");
        }
        old = new;
    }
    store.close().await;
}

/// Upstream's background saver, with its one task within reach.
#[derive(Default)]
struct Watched {
    task: Mutex<Option<JoinHandle<()>>>,
}

type Future<T> = Pin<Box<dyn std::future::Future<Output = T> + Send>>;

impl Runtime for Watched {
    fn spawn(&self, future: Future<()>) -> AbortHandle {
        *self.task.lock().expect("unbroken") = Some(tokio::spawn(future));
        AbortHandle::noop()
    }

    fn sleep(&self, duration: Duration) -> Future<()> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) -> Future<()> {
        Box::pin(async {
            tokio::task::spawn_blocking(work).await.expect("no panic");
        })
    }

    fn yield_now(&self) -> Option<Future<()>> {
        None
    }
}

/// The bug this product exists for: a client that is being stopped flushes what it still has in memory, and the old
/// credentials are back.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_flush_of_the_old_client_errs_and_brings_nothing_back() {
    let Full {
        folder,
        store,
        rows,
        sealed,
        ..
    } = Full::new().await;
    let manager = Arc::new(
        PersistenceManager::new(Arc::clone(&rows))
            .await
            .expect("a live link"),
    );
    let (runtime, shutdown) = (Arc::new(Watched::default()), ShutdownNotifier::new());
    let saver = Arc::clone(&manager).run_background_saver(
        Arc::clone(&runtime) as Arc<dyn Runtime>,
        Duration::from_hours(1),
        shutdown.subscribe(),
    );
    let rename = async |name: &str| {
        let name = name.to_owned();
        manager
            .modify_device(move |device| device.push_name = name)
            .await;
    };
    rename("Before the wipe").await;
    manager.flush().await.expect("a live link takes it");

    let epoch = next_epoch(&store, SALON).await;
    swept(&store, &sealed).await;
    let held = Held::of(folder.path());

    rename("After the wipe").await;
    shutdown.notify();
    let task = runtime.task.lock().expect("unbroken").take();
    task.expect("spawned").await.expect("the saver ends");
    drop(saver);
    let error = manager.flush().await.expect_err("there is no link");
    assert_eq!(cause(&error), Some(StoreError::StaleEpoch), "{error:?}");

    assert!(Held::of(folder.path()) == held, "nothing was written");
    let new: Arc<dyn Backend> = Arc::new(store.backend(SALON, epoch));
    assert!(!new.exists().await.expect("readable"), "nothing came back");
    // A manager over a dead handle cannot even begin.
    let begun = PersistenceManager::new(rows).await;
    let error = begun.err().expect("there is no link");
    assert_eq!(cause(&error), Some(StoreError::StaleEpoch), "{error:?}");
    store.close().await;
}
