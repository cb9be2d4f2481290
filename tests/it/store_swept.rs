//! After a wipe not even sealed bytes stay in the file, however busy the store is and whatever interrupts it; and the file
//! becomes as small as what is left in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hairpin::store::Store;
use tokio::task::JoinHandle;
use whatsapp_rust::traits::SignalStore;

use crate::store_support::{SALON, in_use, new_link, next_epoch, open, tables_of};
use crate::store_thief::{Life, Salon, left, sealed, swept};

/// What a wipe promises, the answer not counted.
const A_SECOND: Duration = Duration::from_secs(1);

/// Wipes one link after the other. How long the quickest took to go: a busy machine makes some of them wait, a promise
/// that is not kept all of them.
async fn quickest(salon: &mut Salon, load: impl Fn(&Store) -> Load) -> Duration {
    let mut quickest = Duration::MAX;
    for _ in 0..5 {
        let own = salon.life.own();
        assert!(own.len() > 20, "{} rows", own.len());
        assert!(left(salon.folder.path(), &own) > own.len());
        let load = load(&salon.store);
        salon.wipe().await;
        quickest = quickest.min(swept(salon.folder.path(), &own).await);
        load.end().await;
        salon.life = Life::begin(salon.folder.path(), &salon.store).await;
    }
    quickest
}

/// Whatever else the store has to do, until it is dropped.
#[derive(Default)]
struct Load {
    over: Arc<AtomicBool>,
    all: Vec<JoinHandle<u32>>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl Load {
    /// Writers and readers without a pause.
    fn on(store: &Store) -> Self {
        let mut load = Self::default();
        let row = store.link("branch").expect("readable").expect("a link");
        for number in 0..3_u32 {
            let (writing, over) = (store.clone(), Arc::clone(&load.over));
            load.all.push(tokio::spawn(async move {
                let rows = writing.backend("branch", row.epoch);
                let address = format!("7900123456{number}@c.us");
                let mut writes = 0_u32;
                while !over.load(Ordering::Relaxed) {
                    let put = rows.put_session(&address, &writes.to_be_bytes()).await;
                    put.expect("written");
                    writes += 1;
                }
                writes
            }));
            let (reading, over) = (store.clone(), Arc::clone(&load.over));
            load.all.push(tokio::task::spawn_blocking(move || {
                let mut reads = 0;
                while !over.load(Ordering::Relaxed) {
                    reading.sessions().expect("readable");
                    reads += 1;
                }
                reads
            }));
        }
        load
    }

    /// One wipe after the other, and nothing else.
    fn of_wipes(store: &Store) -> Self {
        let mut load = Self::default();
        let (wiping, over) = (store.clone(), Arc::clone(&load.over));
        load.all.push(tokio::spawn(async move {
            let mut wipes = 0;
            let mut beat = tokio::time::interval(Duration::from_millis(50));
            while !over.load(Ordering::Relaxed) {
                beat.tick().await;
                next_epoch(&wiping, "branch").await;
                wipes += 1;
            }
            wipes
        }));
        load
    }

    async fn end(mut self) {
        self.over.store(true, Ordering::Relaxed);
        for each in self.all.drain(..) {
            assert!(each.await.expect("no panic") > 0, "it was busy");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn within_a_second_of_a_wipe_not_even_sealed_bytes_are_left() {
    let mut salon = Salon::new().await;
    let took = quickest(&mut salon, |_| Load::default()).await;
    assert!(took < A_SECOND, "{took:?}");
    salon.store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn within_a_second_of_a_wipe_it_is_swept_out_although_others_follow() {
    let mut salon = Salon::new().await;
    let took = quickest(&mut salon, Load::of_wipes).await;
    assert!(took < A_SECOND, "{took:?}");
    salon.store.close().await;
}

/// The writer is never idle, and somebody always reads.
#[tokio::test(flavor = "multi_thread")]
async fn within_a_second_of_a_wipe_it_is_swept_out_however_busy_the_store_is() {
    let mut salon = Salon::new().await;
    let took = quickest(&mut salon, Load::on).await;
    assert!(took < A_SECOND, "{took:?}");
    salon.store.close().await;
}

#[tokio::test]
async fn a_kill_between_the_answer_and_the_sweep_is_finished_by_the_next_start() {
    let mut salon = Salon::new().await;
    // Taken after the answer, and mostly before the sweep.
    let (killed, own) = loop {
        let killed = salon.wipe().await;
        let own = salon.life.own();
        if left(killed.path(), &own) > own.len() {
            break (killed, own);
        }
        salon.life = Life::begin(salon.folder.path(), &salon.store).await;
    };
    salon.store.close().await;
    let store = open(killed.path());
    let row = store.link(SALON).expect("readable").expect("the new link");
    assert_eq!(row.line, new_link().line);
    swept(killed.path(), &own).await;
    store.close().await;
    // Stopped before that, it is done while stopping.
    let mut salon = Salon::new().await;
    let own = salon.life.own();
    salon.wipe().await;
    salon.store.close().await;
    assert_eq!(left(salon.folder.path(), &own), 0);
    salon.store = open(salon.folder.path());
    salon.store.close().await;
}

#[tokio::test]
async fn a_wipe_leaves_a_file_of_at_most_twice_what_is_in_use() {
    let salon = Salon::new().await;
    let neighbour = salon.store.link("branch").expect("readable");
    let neighbour = neighbour.expect("a link").epoch;
    let branch = salon.store.backend("branch", neighbour);
    let rows = salon.store.backend(SALON, salon.life.epoch);
    let session = |number: u32| -> (Arc<str>, Bytes) {
        let address = format!("7900{number:07}@c.us");
        (Arc::from(address), Bytes::from(vec![7; 350]))
    };
    // A little of the neighbour's among much of the salon's; rewritten, as ratchets are.
    for part in 0..60 {
        let few: Vec<_> = (0..10)
            .map(|number| session(part % 20 * 10 + number))
            .collect();
        let many: Vec<_> = (0..100)
            .map(|number| session(part % 20 * 100 + number))
            .collect();
        branch.put_sessions_batch(&few).await.expect("written");
        rows.put_sessions_batch(&many).await.expect("written");
    }
    let size = || salon.store.size_bytes();
    let full = size();
    let own = sealed(salon.folder.path());
    let own = own
        .into_iter()
        .filter(|sealed| sealed.table.starts_with(&tables_of(salon.life.epoch)));
    salon.wipe().await;
    swept(salon.folder.path(), &own.collect()).await;
    assert!(size() < full / 3, "{} of {full}", size());
    // From here on, whatever is written.
    for number in 0..40 {
        let in_use = in_use(salon.folder.path());
        assert!(size() <= 2 * in_use, "{} for {in_use}", size());
        let written = branch.put_sessions_batch(&[session(number)]).await;
        written.expect("written");
    }
    let wiped = salon
        .store
        .replace_link("branch", Some(neighbour), None, Vec::new())
        .await;
    wiped.expect("wiped");
    salon.store.close().await;
    let in_use = in_use(salon.folder.path());
    assert!(size() <= 2 * in_use, "{} for {in_use}", size());
}
