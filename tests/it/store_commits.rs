//! Group commit: whatever waits is one commit, a lone write waits for nobody, order is kept, and a piece that fails
//! fails alone.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::poll;
use hairpin::store::{JournalEntry, JournalWhat, Options, Store, StoreError};
use whatsapp_rust::traits::{Backend, PendingInboundRow};

use crate::rig::PATIENCE;
use crate::store_support::{NOW, SALON, backend, cause, folder, new_link, open};

/// A store whose writer thread can be held right after a commit, so that work piles up behind it.
struct Gate {
    store: Store,
    commits: Arc<AtomicUsize>,
    /// Whoever commits while there is one of these waits until its other end is gone.
    held: Arc<Mutex<Option<mpsc::Receiver<()>>>>,
}

type Waiting<T> = BoxFuture<'static, Result<T, StoreError>>;

impl Gate {
    fn open(folder: &Path) -> Self {
        let commits = Arc::new(AtomicUsize::new(0));
        let held: Arc<Mutex<Option<mpsc::Receiver<()>>>> = Arc::default();
        let on_commit = {
            let (commits, held) = (Arc::clone(&commits), Arc::clone(&held));
            move |_: Duration| {
                commits.fetch_add(1, Ordering::SeqCst);
                let gate = held.lock().expect("unbroken").take();
                if let Some(gate) = gate {
                    gate.recv().expect_err("opened by letting go");
                }
            }
        };
        let options = Options {
            on_commit: Some(Arc::new(on_commit)),
            ..Options::default()
        };
        Self {
            store: Store::open(folder, options).expect("opened"),
            commits,
            held,
        }
    }

    fn commits(&self) -> usize {
        self.commits.load(Ordering::SeqCst)
    }

    /// Lets the work pile up while the writer is held, then lets go: the answers, and how many commits they took.
    async fn pile<T>(&self, work: Vec<Waiting<T>>) -> (Vec<Result<T, StoreError>>, usize) {
        let (letting_go, gate) = mpsc::channel();
        *self.held.lock().expect("unbroken") = Some(gate);
        let mut first: Waiting<()> = {
            let store = self.store.clone();
            Box::pin(async move { store.put_setting("first", Vec::new()).await })
        };
        assert!(poll!(&mut first).is_pending());
        while self.held.lock().expect("unbroken").is_some() {
            tokio::task::yield_now().await;
        }
        // It is committed, but its writer stands: from here on everything waits, in this order.
        let mut waiting = Vec::new();
        for mut piece in work {
            assert!(poll!(&mut piece).is_pending());
            waiting.push(piece);
        }
        let before = self.commits();
        drop(letting_go);
        let answers = async {
            first.await.expect("committed");
            let mut answers = Vec::new();
            for piece in waiting {
                answers.push(piece.await);
            }
            answers
        };
        let answers = tokio::time::timeout(PATIENCE, answers)
            .await
            .expect("nobody hangs");
        (answers, self.commits() - before)
    }

    fn put(&self, name: &str, value: u32) -> Waiting<()> {
        let (store, name) = (self.store.clone(), name.to_owned());
        Box::pin(async move { store.put_setting(&name, value.to_be_bytes().to_vec()).await })
    }

    fn note(&self, number: i64) -> Waiting<()> {
        let store = self.store.clone();
        let entry = JournalEntry::new(number, SALON, JournalWhat::Requested);
        Box::pin(async move { store.append_journal(vec![entry]).await })
    }
}

/// A write whose second half cannot be stored, after its first half was.
fn half(rows: &Arc<dyn Backend>) -> Waiting<()> {
    let rows = Arc::clone(rows);
    Box::pin(async move {
        let (small, large) = (vec![1], vec![2; 17 << 20]);
        let row = |id, message| PendingInboundRow {
            chat: "120363000000000001@g.us",
            sender: "79001234567@c.us",
            id,
            message,
        };
        let both = [row("SMALL", &small), row("LARGE", &large)];
        rows.store_pending_inbound_batch(&both)
            .await
            .map_err(|error| cause(&error).expect("ours"))
    })
}

async fn small(rows: &Arc<dyn Backend>) -> Option<Vec<u8>> {
    rows.get_pending_inbound("120363000000000001@g.us", "79001234567@c.us", "SMALL")
        .await
        .expect("readable")
}

fn session(rows: &Arc<dyn Backend>, number: u8) -> Waiting<()> {
    let rows = Arc::clone(rows);
    Box::pin(async move {
        rows.put_session(&format!("7900123456{number}@c.us"), &[number])
            .await
            .map_err(|error| cause(&error).expect("ours"))
    })
}

#[tokio::test]
async fn whatever_waits_is_one_commit() {
    let folder = folder();
    let gate = Gate::open(folder.path());
    let work = (0..500).map(|number| gate.put("many", number)).collect();
    let (answers, commits) = gate.pile(work).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(commits, 1);
    // One transaction's memory is bounded all the same.
    let work = (0..1200).map(|number| gate.put("more", number)).collect();
    let (answers, commits) = gate.pile(work).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(commits, 3);
    gate.store.close().await;
}

#[tokio::test]
async fn a_lone_write_waits_for_nobody() {
    let folder = folder();
    let took: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let options = Options {
        on_commit: Some(Arc::new({
            let took = Arc::clone(&took);
            move |commit| took.lock().expect("unbroken").push(commit)
        })),
        ..Options::default()
    };
    let store = Store::open(folder.path(), options).expect("opened");
    let mut waited = Vec::new();
    for number in 0..100_u8 {
        let started = Instant::now();
        store
            .put_setting("lone", vec![number])
            .await
            .expect("written");
        waited.push(started.elapsed());
    }
    let took = took.lock().expect("unbroken").clone();
    assert_eq!(took.len(), 100, "each is a commit of its own");
    // A busy machine makes some of them wait, a wait for company would make all of them.
    let over = waited
        .iter()
        .zip(&took)
        .map(|(all, commit)| all.saturating_sub(*commit));
    let least = over.min().expect("a hundred");
    assert!(
        least < Duration::from_millis(1),
        "{least:?} besides the commit"
    );
    store.close().await;
}

#[tokio::test]
async fn what_is_committed_together_keeps_its_order() {
    let folder = folder();
    let gate = Gate::open(folder.path());
    let mut work = Vec::new();
    for number in 0..200 {
        work.push(gate.note(i64::from(number)));
        work.push(gate.put("order", number));
    }
    let (answers, commits) = gate.pile(work).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(commits, 1);
    let notes: Vec<i64> = gate
        .store
        .journal(None, 1000)
        .expect("readable")
        .iter()
        .map(|entry| entry.time)
        .collect();
    assert_eq!(notes, (0..200).rev().collect::<Vec<_>>(), "newest first");
    let last = gate.store.setting("order").expect("readable");
    assert_eq!(last, Some(199_u32.to_be_bytes().to_vec()));
    gate.store.close().await;
}

#[tokio::test]
async fn a_wipe_among_writes_divides_them() {
    let folder = folder();
    let gate = Gate::open(folder.path());
    let rows = backend(&gate.store, SALON).await;
    let present = gate.store.link(SALON).expect("readable").expect("a link");
    let wipe = || -> Waiting<()> {
        let store = gate.store.clone();
        Box::pin(async move {
            let next = Some(new_link());
            store
                .replace_link(SALON, Some(present.epoch), next, Vec::new())
                .await
                .map(|_| ())
        })
    };
    let mut work: Vec<Waiting<()>> = (0..3).map(|number| session(&rows, number)).collect();
    // Both name the same link: the first has it, the second is too late.
    work.extend([wipe(), wipe()]);
    work.extend((3..6).map(|number| session(&rows, number)));
    let (answers, commits) = gate.pile(work).await;
    let stale = Err(StoreError::StaleEpoch);
    let ok = Ok(());
    assert_eq!(answers, [ok, ok, ok, ok, stale, stale, stale, stale]);
    assert_eq!(commits, 1);
    let row = gate.store.link(SALON).expect("readable").expect("a link");
    let new: Arc<dyn Backend> = Arc::new(gate.store.backend(SALON, row.epoch));
    for number in 0..6 {
        let address = format!("7900123456{number}@c.us");
        assert!(!new.has_session(&address).await.expect("readable"));
    }
    gate.store.close().await;
    // The wipe that came too late had a key made for it: it is gone again, and only the spare is there for the next one.
    let blocks = std::fs::read(folder.path().join("hairpin.keys")).expect("the key file");
    let used = blocks
        .chunks(4096)
        .filter(|block| block.starts_with(b"HPK1"))
        .count();
    assert_eq!(used, 3, "the house's, the present link's and the spare");
}

#[tokio::test]
async fn a_piece_that_fails_half_way_fails_alone_and_leaves_nothing() {
    let folder = folder();
    let gate = Gate::open(folder.path());
    let rows = backend(&gate.store, SALON).await;
    let mut work: Vec<Waiting<()>> = (0..20).map(|number| gate.note(number)).collect();
    work.push(half(&rows));
    // A new link in the same batch gets its key all the same.
    work.push({
        let store = gate.store.clone();
        Box::pin(async move {
            store
                .replace_link("branch", None, Some(new_link()), Vec::new())
                .await
                .map(|_| ())
        })
    });
    work.extend((20..40).map(|number| gate.note(number)));
    let (answers, _) = gate.pile(work).await;
    for (at, answer) in answers.iter().enumerate() {
        let wanted = if at == 20 {
            Err(StoreError::TooLarge)
        } else {
            Ok(())
        };
        assert_eq!(*answer, wanted, "number {at}");
    }
    assert_eq!(small(&rows).await, None, "its first half neither");
    let check = async |store: &Store| {
        let notes: Vec<i64> = store
            .journal(None, 1000)
            .expect("readable")
            .iter()
            .map(|entry| entry.time)
            .collect();
        assert_eq!(
            notes,
            (0..40).rev().collect::<Vec<_>>(),
            "each once, in order"
        );
        let row = store.link("branch").expect("readable").expect("a link");
        let branch: Arc<dyn Backend> = Arc::new(store.backend("branch", row.epoch));
        session(&branch, 1).await.expect("a link that works");
    };
    check(&gate.store).await;
    gate.store.close().await;
    let store = open(folder.path());
    check(&store).await;
    store.close().await;
}

#[tokio::test]
async fn a_piece_that_is_refused_outright_costs_the_others_nothing() {
    let folder = folder();
    let gate = Gate::open(folder.path());
    let old = backend(&gate.store, SALON).await;
    let rows = backend(&gate.store, SALON).await;
    let work = (0..60)
        .map(|number| session(if number % 3 == 0 { &old } else { &rows }, number))
        .collect();
    let (answers, commits) = gate.pile(work).await;
    for (at, answer) in answers.iter().enumerate() {
        let wanted = if at % 3 == 0 {
            Err(StoreError::StaleEpoch)
        } else {
            Ok(())
        };
        assert_eq!(*answer, wanted, "number {at}");
    }
    assert_eq!(commits, 1);
    gate.store.close().await;
}

#[tokio::test]
async fn who_stops_waiting_stops_nobody_else() {
    let folder = folder();
    let gate = Gate::open(folder.path());
    let (letting_go, held) = mpsc::channel();
    *gate.held.lock().expect("unbroken") = Some(held);
    let mut gone: Vec<Waiting<()>> = (0..10).map(|number| gate.put("gone", number)).collect();
    for piece in &mut gone {
        assert!(poll!(piece).is_pending());
    }
    let mut stays = gate.put("stays", 7);
    assert!(poll!(&mut stays).is_pending());
    drop(gone);
    drop(letting_go);
    tokio::time::timeout(PATIENCE, stays)
        .await
        .expect("not left hanging")
        .expect("written");
    // What was handed in is written, though nobody waits for it.
    let gone = gate.store.setting("gone").expect("readable");
    assert_eq!(gone, Some(9_u32.to_be_bytes().to_vec()));
    gate.store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_commits_what_was_handed_in_and_refuses_what_comes_later() {
    let folder = folder();
    let gate = Gate::open(folder.path());
    backend(&gate.store, SALON).await;
    let (letting_go, held) = mpsc::channel();
    *gate.held.lock().expect("unbroken") = Some(held);
    let mut handed_in: Vec<Waiting<()>> = (0..50).map(|number| gate.note(NOW + number)).collect();
    for piece in &mut handed_in {
        assert!(poll!(piece).is_pending());
    }
    let closing = tokio::spawn({
        let store = gate.store.clone();
        async move { store.close().await }
    });
    while gate.store.check() != Err(StoreError::Closed) {
        tokio::task::yield_now().await;
    }
    let late = gate.put("late", 1).await;
    assert_eq!(late, Err(StoreError::Closed));
    drop(letting_go);
    for piece in handed_in {
        let answer = tokio::time::timeout(PATIENCE, piece).await;
        answer.expect("nobody hangs").expect("committed");
    }
    closing.await.expect("closed");
    let store = open(folder.path());
    assert_eq!(store.journal(None, 100).expect("readable").len(), 50);
    assert_eq!(store.setting("late").expect("readable"), None);
    store.close().await;
}
