//! Every call that the store makes of its disk, broken once: the request hears of it, nothing acknowledged is lost,
//! nothing refused turns up, and the store goes on by itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hairpin::store::{Folder, OpenError, Options, Store, StoreError};

use crate::store_crash::{check_keys, epochs_held, epochs_wanted};
use crate::store_cut::{Cut, Kind};
use crate::store_lab::{Breaking, Fault, Lab, Plan};
use crate::store_model::{NOW, Op, State, difference, look, perform, random};

/// Longer than any step may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

enum Step {
    Do(Op),
    /// Closes the store, which sweeps what a wipe left, and opens it again.
    Reopen,
}

/// Every kind of call: birth, growth, wipes to a new epoch and to none, compaction, a start that finds a store.
fn scenario() -> Vec<Step> {
    use Step::{Do, Reopen};
    let (anna, boris) = (Some("79001234567"), Some("79007654321"));
    vec![
        Do(Op::PutSession("salon", "Salon".to_owned())),
        Do(Op::Wipe("salon", anna)),
        Do(Op::Device("salon", 0)),
        Do(Op::PreKeys("salon", vec![0, 1, 2, 3], 1)),
        Do(Op::Signal("salon", 0, vec![2; 40_000])),
        Do(Op::Seen("salon", NOW)),
        Do(Op::Wipe("salon", boris)),
        Do(Op::Device("salon", 1)),
        Do(Op::Budget("79007654321", NOW)),
        Reopen,
        Do(Op::Identity("salon", 1, 7)),
        Do(Op::PutSession("second", "Second".to_owned())),
        Do(Op::Wipe("second", anna)),
        Do(Op::Setting("one", vec![3; 5_000])),
        Do(Op::Wipe("salon", None)),
        Do(Op::Journal(NOW + 1)),
        Do(Op::RemoveSession("second")),
        Reopen,
        Do(Op::Wipe("salon", anna)),
        Do(Op::SenderKey("salon", 2, vec![9; 100])),
    ]
}

fn open(lab: &Lab) -> Result<Store, OpenError> {
    Store::open_on(lab.arc(), Options::default())
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| panic!("{what} never ended"))
}

/// Waits until the store says that it can be used.
async fn well(store: &Store) {
    let started = Instant::now();
    while let Err(error) = store.check() {
        assert!(started.elapsed() < PATIENCE, "never well again: {error}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What the store holds once it can be used. Background work may meet the broken call after the store was well.
async fn seen_well(store: &Store) -> State {
    let started = Instant::now();
    loop {
        well(store).await;
        match look(store).await {
            Ok(seen) => return seen,
            Err(error) => assert!(started.elapsed() < PATIENCE, "never readable: {error}"),
        }
    }
}

fn assert_same(seen: &State, wanted: &State, when: &str) {
    assert!(seen == wanted, "{when}: {}", difference(seen, wanted));
}

/// What is durable, whatever is under way.
fn durable(lab: &Lab) -> Lab {
    let mut cut = Cut::default();
    for event in lab.events() {
        cut.feed(&event);
    }
    Lab::holding(cut.image(Kind::Nothing, &mut random(0)))
}

/// That the key file holds nothing but the house's key, the links', and at most the spare; nobody's that is `gone`.
fn no_key_too_many(lab: &Lab, store: &Store, known: &BTreeSet<u64>, name: &str) {
    let wanted = epochs_wanted(store).expect("readable");
    let file = &lab.files()["hairpin.keys"];
    check_keys(file, &wanted).unwrap_or_else(|error| panic!("{name}: {error}"));
    let back = epochs_held(file)
        .into_iter()
        .find(|epoch| known.contains(epoch) && !wanted.contains(epoch));
    assert_eq!(back, None, "{name}: the key of a link that is gone");
}

/// Which epochs have keys by right; a call that breaks just now is mended.
async fn wanted_by(lab: &Lab, store: &Store) -> BTreeSet<u64> {
    loop {
        if let Ok(wanted) = epochs_wanted(store) {
            return wanted;
        }
        lab.plan.heal();
        well(store).await;
    }
}

/// Waits until no key of a link that is gone would be left by a power cut: a start could tidy that up, the running
/// program must.
async fn gone_for_good(lab: &Lab, wanted: &BTreeSet<u64>, known: &BTreeSet<u64>, name: &str) {
    let started = Instant::now();
    loop {
        let cut = durable(lab);
        let held = epochs_held(&cut.files()["hairpin.keys"]);
        let left = held
            .iter()
            .find(|epoch| known.contains(epoch) && !wanted.contains(epoch));
        let Some(left) = left else { return };
        assert!(
            started.elapsed() < PATIENCE,
            "{name}: the key of epoch {left} stays"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Runs the scenario with one call broken, or with all from there on until somebody noticed. Whether it was hit.
async fn broken(fault: Fault, at: u64, lasting: bool) -> bool {
    let lab = Lab::recording();
    if lasting {
        lab.plan.lasting(fault, at);
    } else {
        lab.plan.once(fault, at);
    }
    let name = |step: usize| format!("{fault:?} at call {at}, lasting: {lasting}, step {step}");
    let mut state = State::default();
    // The epochs of all links there have been.
    let mut known = BTreeSet::from([0]);
    let mut open_store = None;
    for (number, step) in scenario().into_iter().enumerate() {
        let before = lab.plan.hits();
        if matches!(step, Step::Reopen)
            && let Some(store) = open_store.take()
        {
            within("closing", Store::close(&store)).await;
        }
        let store = match open_store.take() {
            Some(store) => store,
            None => match open(&lab) {
                Ok(store) => store,
                Err(OpenError::Io(_)) => {
                    lab.plan.heal();
                    open(&lab).unwrap_or_else(|error| panic!("{}: {error}", name(number)))
                }
                Err(error) => panic!("{}: {error}", name(number)),
            },
        };
        let mut refused = false;
        if let Step::Do(op) = &step {
            match within("an operation", perform(&store, op)).await {
                Ok(()) => state.apply(op),
                Err(StoreError::NotErased) => {
                    assert!(op.wipes().is_some(), "{}: {op:?}", name(number));
                    state.apply(op);
                }
                Err(StoreError::Disk) => {
                    refused = true;
                    if lasting {
                        assert!(
                            store.check().is_err(),
                            "{}: it says it is well",
                            name(number)
                        );
                    }
                }
                Err(error) => panic!("{}: {error}", name(number)),
            }
        }
        if lab.plan.hits() > before {
            lab.plan.heal();
            assert_same(&seen_well(&store).await, &state, &name(number));
        }
        if let Step::Do(op) = &step
            && refused
        {
            let again = within("an operation", perform(&store, op)).await;
            again.unwrap_or_else(|error| panic!("{}, again: {error}", name(number)));
            state.apply(op);
        }
        let wanted = wanted_by(&lab, &store).await;
        if lab.plan.hits() > before {
            lab.plan.heal();
            gone_for_good(&lab, &wanted, &known, &name(number)).await;
        }
        known.extend(wanted);
        open_store = Some(store);
    }
    let hit = lab.plan.hits() > 0;
    lab.plan.heal();
    let store = open_store.expect("open");
    assert_same(&seen_well(&store).await, &state, &name(98));
    let cut = durable(&lab);
    let after = open(&cut).unwrap_or_else(|error| panic!("{}: {error}", name(97)));
    let seen = look(&after).await.expect("readable");
    assert_same(&seen, &state, &format!("{}, after a power cut", name(97)));
    no_key_too_many(&cut, &after, &known, &name(97));
    within("closing", after.close()).await;
    within("closing", store.close()).await;
    let store = open(&lab).unwrap_or_else(|error| panic!("{}: {error}", name(99)));
    assert_same(&look(&store).await.expect("readable"), &state, &name(99));
    no_key_too_many(&lab, &store, &known, &name(99));
    within("closing", store.close()).await;
    hit
}

/// Breaks the calls of a kind one after the other, until there is none left; of those that stay broken, every so many.
async fn break_each(fault: Fault, lasting: bool, stride: u64) {
    let is_long = std::env::var_os("HAIRPIN_LONG").is_some();
    let stride = if is_long { 1 } else { stride };
    let mut at = rand::random_range(0..stride);
    let mut hits = 0;
    while broken(fault, at, lasting).await {
        hits += 1;
        at += stride;
    }
    println!("{fault:?}, lasting: {lasting}: {hits} calls broken");
    assert!(hits > 10, "the scenario makes more calls than that");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_that_fails_once_with_an_io_error_loses_nothing_and_is_forgotten() {
    break_each(Fault::Io, false, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_that_finds_the_disk_full_once_loses_nothing_and_is_forgotten() {
    break_each(Fault::Full, false, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_that_stops_half_way_loses_nothing_and_is_forgotten() {
    break_each(Fault::Short, false, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sync_that_fails_and_loses_its_writes_is_made_good() {
    break_each(Fault::Lost, false, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_stays_broken_is_told_at_once_and_used_again_once_it_is_mended() {
    break_each(Fault::Io, true, 29).await;
    break_each(Fault::Full, true, 29).await;
    break_each(Fault::ReadOnly, true, 29).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_folders_store_is_used_again_once_its_disk_takes_something() {
    let folder = tempfile::tempdir().expect("a folder");
    let plan = Arc::new(Plan::default());
    let disk = Breaking::new(Folder::new(folder.path()), &plan);
    let store = Store::open_on(disk, Options::default()).expect("made");
    let mut state = State::default();
    for (round, fault) in [Fault::Full, Fault::ReadOnly, Fault::Io, Fault::Short]
        .into_iter()
        .enumerate()
    {
        plan.lasting(fault, 0);
        let op = Op::Setting("one", vec![u8::try_from(round).expect("few"); 9_000]);
        let refused = within("an operation", perform(&store, &op)).await;
        assert_eq!(refused, Err(StoreError::Disk), "{fault:?}");
        assert_eq!(store.check(), Err(StoreError::Disk), "{fault:?}");
        plan.heal();
        well(&store).await;
        let seen = look(&store).await.expect("readable");
        assert_same(&seen, &state, &format!("after {fault:?}"));
        let again = within("an operation", perform(&store, &op)).await;
        again.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        state.apply(&op);
    }
    store.close().await;
    let store = Store::open(folder.path(), Options::default()).expect("opened");
    assert_same(&look(&store).await.expect("readable"), &state, "at the end");
    store.close().await;
}
