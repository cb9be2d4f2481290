//! Power cuts: random operations on a disk that keeps a record, cut at any moment, in every way in which what was not
//! synced may be found. Each image opens by itself, is whole, and holds what was acknowledged; so does each backup.
//! Long because every cut is checked by one piece of code, whatever led to it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use hairpin::store::{Backup, BackupKey, Disk, DiskFile, Options, Store, StoreError, WrappingKey};
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::rig::PATIENCE;
use crate::store_cut::{Cut, Image, Kind};
use crate::store_lab::{Event, Fault, FileId, Lab};
use crate::store_model::{NOW, Op, SESSIONS, State, difference, look, next_ops, perform, random};
use crate::store_support::{folder, number_of, seed};

const STORE: &str = "hairpin.redb";
const KEYS: &str = "hairpin.keys";
const BLOCK: usize = 4096;
/// The key file is the first that is made, the store the second.
const KEY_FILE: FileId = 0;
const STORE_FILE: FileId = 1;
const BACKUP: &str = "salon.backup";

/// What was done, and what the disk got to see of it.
struct Run {
    events: Vec<Event>,
    /// The state after so many operations.
    states: Vec<State>,
    /// After so many operations, the link of this epoch is gone.
    wiped: Vec<(usize, u64)>,
    /// In the order in which they were kept.
    backups: Vec<Kept>,
    /// So many events lie too far back to cut at.
    settled: usize,
    /// How the store is opened.
    options: Options,
}

/// A backup that was taken.
#[derive(Clone)]
struct Kept {
    /// Once more operations than these were begun, it is there for certain.
    by: usize,
    bytes: Vec<u8>,
}

fn backup_key() -> BackupKey {
    BackupKey::Credential(WrappingKey::from_credential(b"sixteen bytes of another"))
}

/// Keeps a backup as the command does: under a name of its own until it is durable.
fn keep(disk: &Lab, number: usize, bytes: &[u8]) {
    let unfinished = format!(".{BACKUP}.{number}.part");
    let file = disk.create(&unfinished).expect("made");
    // Whoever writes a file gives it to the kernel in pieces.
    for (piece, bytes) in bytes.chunks(1500).enumerate() {
        file.write(piece as u64 * 1500, bytes).expect("written");
    }
    file.sync_data().expect("synced");
    disk.rename(&unfinished, BACKUP).expect("renamed");
    disk.sync().expect("synced");
}

/// What a backup carries of a state; of a device, that there is one.
fn carried(state: &State) -> State {
    let mut state = state.clone();
    state.budget.clear();
    for link in state.links.values_mut() {
        link.rows
            .retain(|(family, _), _| matches!(*family, "device" | "sync key"));
        if let Some(device) = link.rows.get_mut(&("device", 0)) {
            device.clear();
        }
    }
    state
}

/// Restores a backup: it holds one of the states, and nothing else.
async fn restores(bytes: &[u8], states: &[State]) {
    let folder = folder();
    let backup = Backup::open(bytes, &backup_key()).expect("whole");
    let restored = backup.restore(folder.path(), None, NOW);
    let sessions = restored.await.expect("restored").sessions;
    let store = Store::open(folder.path(), Options::default()).expect("opened");
    let mut seen = carried(&look(&store).await.expect("readable"));
    store.close().await;
    // One entry a slot, for the restoring itself.
    seen.journal.drain(..sessions);
    assert!(
        states.iter().any(|state| carried(state) == seen),
        "{}",
        difference(&seen, &carried(states.last().expect("at least one")))
    );
}

/// A record, as the disk is taken to have kept it.
type Told = fn(&Run, &Event) -> bool;

/// With and without a key from systemd; with a cache that holds everything, and one that holds nothing.
fn options(random: &mut StdRng) -> Options {
    let credential = b"sixteen bytes of a credential";
    Options {
        wrapping_key: random
            .random::<bool>()
            .then(|| WrappingKey::from_credential(credential)),
        cache_bytes: if random.random() { 4 << 20 } else { 0 },
        ..Options::default()
    }
}

/// Waits until what a wipe left is out of the file, as it is done within a second.
pub async fn swept(store: &Store) {
    let started = Instant::now();
    while !store.is_swept().expect("readable") {
        assert!(started.elapsed() < PATIENCE, "never swept");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Does random operations, one by one and several at once, with restarts in between, and backups meanwhile.
async fn run(random: &mut StdRng, length: usize) -> Run {
    let lab = Lab::recording();
    let mut states = vec![State::default()];
    let mut wiped = Vec::new();
    let mut backups: Vec<Kept> = Vec::new();
    let mut epochs: BTreeMap<&str, u64> = BTreeMap::new();
    let options = options(random);
    let mut store = Store::open_on(lab.arc(), options.clone()).expect("made");
    lab.mark(0, 0);
    while states.len() <= length {
        if random.random_ratio(1, 12) {
            store.close().await;
            store = Store::open_on(lab.arc(), options.clone()).expect("opened again");
            continue;
        }
        if random.random_ratio(1, 40) {
            swept(&store).await;
            continue;
        }
        let done = states.len() - 1;
        let ops = next_ops(random, &mut states);
        for (after, op) in (done + 1..).zip(&ops) {
            if let Some(gone) = op.wipes().and_then(|session| epochs.remove(session)) {
                wiped.push((after, gone));
            }
        }
        let begun = done + ops.len();
        lab.mark(begun, done);
        let backup = random.random_ratio(1, 12).then(|| {
            let (store, lab, number) = (store.clone(), lab.clone(), backups.len());
            tokio::task::spawn_blocking(move || {
                let bytes = store.backup(&backup_key(), NOW).expect("taken");
                keep(&lab, number, &bytes);
                bytes
            })
        });
        let mut all: FuturesOrdered<_> = ops.iter().map(|op| perform(&store, op)).collect();
        let mut acknowledged = done;
        while let Some(result) = all.next().await {
            result.expect("nothing is broken");
            acknowledged += 1;
            lab.mark(begun, acknowledged);
        }
        for session in ops.iter().filter_map(Op::wipes) {
            if let Some(row) = store.link(session).expect("readable") {
                epochs.insert(session, number_of(row.epoch));
            }
        }
        if let Some(backup) = backup {
            let bytes = backup.await.expect("kept");
            restores(&bytes, &states[done..=begun]).await;
            backups.push(Kept { by: begun, bytes });
        }
    }
    store.close().await;
    Run {
        events: lab.events(),
        states,
        wiped,
        backups,
        settled: 0,
        options,
    }
}

/// What may be found at a cut: nothing before the store was there, else any of the states that were under way.
struct Allowed<'r> {
    run: &'r Run,
    /// None before the store was opened for the first time.
    marks: Option<(usize, usize)>,
}

impl Allowed<'_> {
    fn states(&self) -> &[State] {
        let (begun, done) = self.marks.unwrap_or((0, 0));
        &self.run.states[done..=begun]
    }

    /// Epochs of links that are gone for certain.
    fn gone(&self) -> BTreeSet<u64> {
        let done = self.marks.map_or(0, |(_, done)| done);
        let gone = self.run.wiped.iter().filter(|(after, _)| *after <= done);
        gone.map(|(_, epoch)| *epoch).collect()
    }
}

/// Opens an image and says what is wrong with it.
async fn check(image: &Image, allowed: &Allowed<'_>) -> Result<(), String> {
    let empty = Vec::new();
    let gone = allowed.gone();
    for block in image.get(KEYS).unwrap_or(&empty).chunks(BLOCK) {
        if let Some(epoch) = epoch_in(block)
            && gone.contains(&epoch)
        {
            return Err(format!("the key of epoch {epoch} is found after its wipe"));
        }
    }
    if !image.contains_key(STORE) && allowed.marks.is_some() {
        return Err("the store is gone".to_owned());
    }
    check_backups(image, allowed)?;
    let lab = Lab::holding(image.clone());
    let store = Store::open_on(lab.arc(), allowed.run.options.clone())
        .map_err(|error| format!("open: {error}"))?;
    let seen = look(&store)
        .await
        .map_err(|error| format!("look: {error}"))?;
    // Whatever is left to do, it is told as sound.
    store.verify().map_err(|flaw| format!("verify: {flaw}"))?;
    let states = allowed.states();
    if !states.contains(&seen) {
        let nearest = states.last().expect("at least one");
        return Err(format!("the wrong state: {}", difference(&seen, nearest)));
    }
    // What the image lacks is done by the start: keys of nobody, and the sealed bytes of a wiped link.
    let wanted = epochs_wanted(&store).map_err(|error| format!("links: {error}"))?;
    check_keys(&lab.files()[KEYS], &wanted)?;
    store.close().await;
    let named = epochs_named(&lab.files()[STORE]);
    if let Some(left) = named.intersection(&gone).next() {
        return Err(format!(
            "epoch {left} is found after its wipe was swept out"
        ));
    }
    whole(lab.files()[STORE].clone())
}

/// A backup is found whole, or, where nobody was told that it is there, not at all; half a file is refused.
fn check_backups(image: &Image, allowed: &Allowed<'_>) -> Result<(), String> {
    let taken = &allowed.run.backups;
    let begun = allowed.marks.map_or(0, |(begun, _)| begun);
    let told = taken.iter().rposition(|kept| kept.by < begun);
    let names = image.iter().filter(|(name, _)| name.contains(BACKUP));
    for (name, bytes) in names.clone() {
        let known = taken.iter().position(|kept| kept.bytes == *bytes);
        match (known, Backup::open(bytes, &backup_key())) {
            (Some(_), Ok(_)) => {}
            (Some(_), Err(error)) => return Err(format!("{name}: {error}")),
            (None, Ok(_)) => return Err(format!("{name} opens and was never taken")),
            (None, Err(_)) if name == BACKUP => return Err("half a backup has its name".to_owned()),
            (None, Err(_)) => {}
        }
        if name == BACKUP && known < told {
            return Err("an older backup is found".to_owned());
        }
    }
    if told.is_some() && !image.contains_key(BACKUP) {
        return Err("a backup is gone".to_owned());
    }
    Ok(())
}

/// Whose block of the key file this is.
pub fn epoch_in(block: &[u8]) -> Option<u64> {
    let bytes = block.get(5..13)?.try_into().ok()?;
    (block[..4] == *b"HPK1").then(|| u64::from_be_bytes(bytes))
}

/// Whose keys there are in a key file, or anywhere on a disk.
pub fn epochs_held(blocks: &[u8]) -> Vec<u64> {
    blocks.chunks(BLOCK).filter_map(epoch_in).collect()
}

/// The epochs that must have a key: the house's, and each link's.
pub fn epochs_wanted(store: &Store) -> Result<BTreeSet<u64>, StoreError> {
    let slots = store.sessions()?.into_iter().map(|row| row.id);
    let mut wanted = BTreeSet::from([0]);
    for session in slots.chain(SESSIONS.map(str::to_owned)) {
        wanted.extend(store.link(&session)?.map(|row| number_of(row.epoch)));
    }
    Ok(wanted)
}

/// Keys that are held and that nobody wants.
#[derive(Debug)]
pub struct Unwanted {
    /// Older than one that is wanted: of a link that is gone.
    pub stale: usize,
    /// Later than all of them: the spare, of a link that is coming, or of the last one where none came after it.
    pub later: usize,
}

impl Unwanted {
    /// An error when one that is wanted is missing.
    pub fn among(held: &[u64], wanted: &BTreeSet<u64>) -> Result<Self, String> {
        let held: BTreeSet<u64> = held.iter().copied().collect();
        if let Some(missing) = wanted.difference(&held).next() {
            return Err(format!("the key of epoch {missing} is missing"));
        }
        let last = wanted.last().copied().unwrap_or_default();
        let (later, stale): (Vec<u64>, _) =
            held.difference(wanted).partition(|epoch| **epoch > last);
        Ok(Self {
            stale: stale.len(),
            later: later.len(),
        })
    }
}

/// That a settled key file holds what is wanted, each once, and at most the spare.
pub fn check_keys(file: &[u8], wanted: &BTreeSet<u64>) -> Result<(), String> {
    let held = epochs_held(file);
    let used = file
        .chunks(BLOCK)
        .filter(|block| block.iter().any(|byte| *byte != 0))
        .count();
    let unwanted = Unwanted::among(&held, wanted)?;
    if unwanted.stale > 0 || unwanted.later > 1 || used > wanted.len() + unwanted.later {
        return Err(format!(
            "{held:?} have keys, {wanted:?} are wanted, {used} blocks are used"
        ));
    }
    Ok(())
}

/// The epochs whose tables' names are found anywhere in the file.
pub fn epochs_named(file: &[u8]) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    for (at, _) in file
        .windows(4)
        .enumerate()
        .filter(|(_, bytes)| *bytes == b"e000")
    {
        if file.get(at + 17) == Some(&b'.')
            && let Ok(digits) = std::str::from_utf8(&file[at + 1..at + 17])
            && let Ok(epoch) = u64::from_str_radix(digits, 16)
        {
            found.insert(epoch);
        }
    }
    found
}

/// redb's own check.
pub fn whole(file: Vec<u8>) -> Result<(), String> {
    let backend = redb::backends::InMemoryBackend::new();
    backend
        .set_len(file.len() as u64)
        .and_then(|()| backend.write(0, &file))
        .map_err(|error| error.to_string())?;
    drop(file);
    let mut database = redb::Database::builder()
        .create_with_backend(backend)
        .map_err(|error| format!("redb: {error}"))?;
    match database.check_integrity() {
        Ok(true) => Ok(()),
        Ok(false) => Err("redb repaired it".to_owned()),
        Err(error) => Err(format!("redb's check: {error}")),
    }
}

/// Cuts the power at many moments of a run; how many images were looked at, and what was wrong with the first bad one.
async fn cut(
    run: &Run,
    random: &mut StdRng,
    images: usize,
    kept: Told,
) -> (usize, Result<(), String>) {
    let events: Vec<&Event> = run.events.iter().filter(|event| kept(run, event)).collect();
    // Most of them where most is under way: just before a sync.
    let syncs: Vec<usize> = (run.settled..events.len())
        .filter(|at| matches!(events[*at], Event::Sync { .. } | Event::SyncNames))
        .collect();
    let mut moments: Vec<usize> = (0..images)
        .map(|_| {
            if syncs.is_empty() || random.random_ratio(2, 5) {
                random.random_range(run.settled..events.len())
            } else {
                syncs[random.random_range(0..syncs.len())]
            }
        })
        .collect();
    moments.sort_unstable();
    let mut disk = Cut::default();
    let mut marks = None;
    let mut fed = 0;
    for (looked, at) in moments.into_iter().enumerate() {
        while fed < at {
            disk.feed(events[fed]);
            if let Event::Mark { begun, done } = events[fed] {
                marks = Some((*begun, *done));
            }
            fed += 1;
        }
        let kind = Kind::ALL[random.random_range(0..Kind::ALL.len())];
        let image = disk.image(kind, random);
        let allowed = Allowed { run, marks };
        if let Err(error) = check(&image, &allowed).await {
            return (looked + 1, Err(format!("{kind:?} at event {at}: {error}")));
        }
    }
    (images, Ok(()))
}

/// A generator, and what repeats it: as a rule the same, at full length another one every time.
pub fn begin(part: u64) -> (u64, StdRng) {
    let is_new = is_long() && std::env::var_os("HAIRPIN_SEED").is_none();
    let seed = if is_new { rand::random() } else { seed() };
    println!("HAIRPIN_SEED={seed} repeats this");
    (seed, random(seed ^ (part << 56)))
}

fn is_long() -> bool {
    std::env::var_os("HAIRPIN_LONG").is_some()
}

fn images(short: usize, long: usize) -> usize {
    if is_long() { long } else { short }
}

fn all(_: &Run, _: &Event) -> bool {
    true
}

/// Runs and cuts until so many images were looked at.
async fn cut_runs(part: u64, wanted: usize) {
    let (seed, mut random) = begin(part);
    let mut looked = 0;
    while looked < wanted {
        let run = run(&mut random, 24).await;
        let (images, found) = cut(&run, &mut random, 120.min(wanted - looked), all).await;
        looked += images;
        if let Err(error) = found {
            panic!("HAIRPIN_SEED={seed}, image {looked}: {error}");
        }
    }
    println!("{looked} images");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_power_cut_at_any_moment_the_store_holds_what_was_acknowledged() {
    cut_runs(1, images(1_000, 25_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_power_cut_at_any_other_moment_too() {
    cut_runs(2, images(1_000, 25_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_during_the_birth_leaves_no_store_or_a_whole_one() {
    let (seed, mut random) = begin(3);
    let options = options(&mut random);
    let lab = Lab::recording();
    let store = Store::open_on(lab.arc(), options.clone()).expect("made");
    lab.mark(0, 0);
    store.close().await;
    let run = Run {
        events: lab.events(),
        states: vec![State::default()],
        wiped: Vec::new(),
        backups: Vec::new(),
        settled: 0,
        options,
    };
    let mut disk = Cut::default();
    let mut marks = None;
    let mut looked = 0;
    for (at, event) in run.events.iter().enumerate() {
        for kind in Kind::ALL {
            // Nothing is known to be unsynced: every kind gives the same.
            if disk.is_settled() && kind != Kind::Nothing {
                continue;
            }
            for _ in 0..kind.chances() {
                let image = disk.image(kind, &mut random);
                let found = check(&image, &Allowed { run: &run, marks }).await;
                found.unwrap_or_else(|error| {
                    panic!("HAIRPIN_SEED={seed}, {kind:?} at event {at}: {error}")
                });
                looked += 1;
            }
        }
        disk.feed(event);
        if let Event::Mark { begun, done } = event {
            marks = Some((*begun, *done));
        }
    }
    println!("{looked} images of a birth");
    assert!(looked > 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_while_room_is_made_for_a_wipe_leaves_a_sound_store_and_no_room_behind() {
    let (seed, mut random) = begin(9);
    let lab = Lab::recording();
    let store = Store::open_on(lab.arc(), Options::default()).expect("made");
    store.put_setting("one", vec![1]).await.expect("written");
    let rows = store.verify().expect("sound").rows;
    let settled = lab.events().len();
    store.make_room().await.expect("there is room");
    store.close().await;
    let mut disk = Cut::default();
    for (at, event) in lab.events().iter().enumerate() {
        let is_cut = at >= settled && matches!(event, Event::Sync { .. });
        for kind in Kind::ALL.into_iter().filter(|_| is_cut) {
            let name = format!("HAIRPIN_SEED={seed}, {kind:?} at event {at}");
            let found = Lab::holding(disk.image(kind, &mut random));
            let store = Store::open_on(found.arc(), Options::default()).expect("opened");
            store
                .verify()
                .unwrap_or_else(|flaw| panic!("{name}: {flaw}"));
            store.close().await;
            let store = Store::open_on(found.arc(), Options::default()).expect("opened");
            assert_eq!(store.verify().expect("sound").rows, rows, "{name}");
            store.close().await;
        }
        disk.feed(event);
    }
}

/// The marks before an event.
fn marks_before(events: &[Event]) -> Option<(usize, usize)> {
    events.iter().rev().find_map(|event| match event {
        Event::Mark { begun, done } => Some((*begun, *done)),
        _ => None,
    })
}

/// The same backups, each of which may be there.
fn perhaps(backups: &[Kept]) -> Vec<Kept> {
    let mut backups = backups.to_vec();
    for kept in &mut backups {
        kept.by = usize::MAX;
    }
    backups
}

/// Opens what a disk holds, and does one thing more; the state that was found, and the record of it all.
async fn started(lab: &Lab, options: &Options) -> (State, usize, Vec<State>) {
    let store = Store::open_on(lab.arc(), options.clone()).expect("opened");
    let state = look(&store).await.expect("readable");
    let opened = lab.events().len();
    lab.mark(0, 0);
    let mut after = state.clone();
    let op = Op::Journal(NOW);
    after.apply(&op);
    lab.mark(1, 0);
    perform(&store, &op).await.expect("nothing is broken");
    lab.mark(1, 1);
    store.close().await;
    (state.clone(), opened, vec![state, after])
}

/// A start that finishes what a cut left is cut itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_during_the_start_after_a_power_cut_loses_nothing_either() {
    let (seed, mut random) = begin(4);
    let mut looked = 0;
    let wanted = images(200, 5_000);
    while looked < wanted {
        let first = run(&mut random, 12).await;
        let at = random.random_range(first.events.len() / 4..first.events.len());
        let marks = marks_before(&first.events[..at]);
        if marks.is_none() {
            continue;
        }
        let mut disk = Cut::default();
        for event in &first.events[..at] {
            disk.feed(event);
        }
        // What was found is durable now; the start goes on from there, and is on record.
        let lab = Lab::recording_on(disk.image(Kind::Subset, &mut random));
        let settled = lab.events().len();
        let (_, _, states) = started(&lab, &first.options).await;
        let gone = Allowed { run: &first, marks }.gone();
        let second = Run {
            events: lab.events(),
            states,
            wiped: gone.into_iter().map(|epoch| (0, epoch)).collect(),
            backups: perhaps(&first.backups),
            settled,
            options: first.options.clone(),
        };
        let (images, found) = cut(&second, &mut random, 20, all).await;
        looked += images;
        found.unwrap_or_else(|error| panic!("HAIRPIN_SEED={seed}, image {looked}: {error}"));
    }
    println!("{looked} images");
}

/// A kill leaves what was written and not synced where the next start sees it: what that start shows must be durable by
/// then, and a wipe that it shows must have taken its key with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_after_the_start_after_a_kill_takes_nothing_back_that_was_shown() {
    let (seed, mut random) = begin(6);
    let mut looked = 0;
    let wanted = images(300, 5_000);
    while looked < wanted {
        let first = run(&mut random, 24).await;
        // Just before a sync there is most to be taken for durable.
        let syncs = |of_keys: bool| {
            let is_one = move |event: &Event| match event {
                Event::Sync { file } => (*file == KEY_FILE) == of_keys,
                Event::SyncNames => !of_keys,
                _ => false,
            };
            let all = 0..first.events.len();
            all.filter(|at| is_one(&first.events[*at]))
                .collect::<Vec<_>>()
        };
        let moments = [syncs(true), syncs(false)];
        for kill in 0..8 {
            let moments = &moments[kill % 2];
            let at = moments[random.random_range(0..moments.len())];
            let killed = &first.events[..at];
            let Some((begun, done)) = marks_before(killed) else {
                continue;
            };
            let lab = Lab::after_kill(killed);
            let (found, opened, states) = started(&lab, &first.options).await;
            let allowed = &first.states[done..=begun];
            let Some(shown) = allowed.iter().position(|state| *state == found) else {
                panic!(
                    "HAIRPIN_SEED={seed}, killed at event {at}: {}",
                    difference(&found, &first.states[begun])
                );
            };
            let gone = first.wiped.iter().filter(|(by, _)| *by <= done + shown);
            let second = Run {
                events: lab.events(),
                states,
                wiped: gone.map(|(_, epoch)| (0, *epoch)).collect(),
                backups: perhaps(&first.backups),
                // Whatever was shown was shown by then.
                settled: opened + 1,
                options: first.options.clone(),
            };
            let (images, found) = cut(&second, &mut random, 4, all).await;
            looked += images;
            found.unwrap_or_else(|error| {
                panic!("HAIRPIN_SEED={seed}, image {looked}, killed at event {at}: {error}")
            });
        }
    }
    println!("{looked} images");
}

/// A sync that fails leaves it open whether its writes reach the disk. What follows must be good either way, the closing
/// included, after which nobody tries again.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_while_a_failed_commit_is_taken_back_loses_nothing() {
    let (seed, mut random) = begin(7);
    let mut looked = 0;
    let mut failed = 0;
    let wanted = images(600, 10_000);
    while looked < wanted {
        let lab = Lab::recording();
        let options = options(&mut random);
        let store = Store::open_on(lab.arc(), options.clone()).expect("made");
        let mut states = vec![State::default()];
        let mut wiped = Vec::new();
        lab.mark(0, 0);
        let (anna, boris) = ("79001234567", "79007654321");
        for op in [
            Op::Wipe("salon", Some(anna)),
            Op::Signal("salon", 0, vec![7; 30_000]),
            Op::Device("salon", 0),
            Op::Wipe("salon", Some(boris)),
            Op::Device("salon", 1),
        ] {
            let mut state = states.last().expect("one").clone();
            state.apply(&op);
            states.push(state);
            perform(&store, &op).await.expect("nothing is broken yet");
        }
        wiped.push((0, 1));
        let done = states.len() - 1;
        lab.mark(done, done);
        let settled = lab.events().len();
        lab.plan.once(Fault::Unsynced, random.random_range(0..14));
        // With its sweep.
        store.close().await;
        failed += usize::from(lab.plan.hits() > 0);
        let run = Run {
            events: lab.events(),
            states,
            wiped,
            backups: Vec::new(),
            settled,
            options,
        };
        let (images, found) = cut(&run, &mut random, 15, all).await;
        looked += images;
        found.unwrap_or_else(|error| panic!("HAIRPIN_SEED={seed}, image {looked}: {error}"));
    }
    println!("{looked} images, {failed} syncs failed");
    assert!(failed > 10);
}

/// Whoever was refused is not surprised later, also when the disk breaks for good before the file is open again.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_after_a_refusal_never_shows_what_was_refused() {
    let (seed, mut random) = begin(8);
    for round in 0..images(10, 200) {
        let lab = Lab::recording();
        let options = options(&mut random);
        let store = Store::open_on(lab.arc(), options.clone()).expect("made");
        let mut state = State::default();
        for op in [
            // The file is large enough from then on: to grow it there would be a sync before the commit's.
            Op::Setting("two", vec![1; 40_000]),
            Op::Setting("one", vec![1; 100]),
        ] {
            perform(&store, &op).await.expect("nothing is broken yet");
            state.apply(&op);
        }
        // The header of the last durable commit is written once more, and synced; then nothing goes.
        lab.plan.once_and_then(Fault::Unsynced, Fault::Full, 2);
        let before = lab.events().len();
        let refused = perform(&store, &Op::Setting("one", vec![2; 100])).await;
        assert_eq!(refused, Err(StoreError::Disk));
        let events = lab.events();
        let is_header = |event: &&Event| {
            matches!(
                event,
                Event::Write {
                    file: STORE_FILE,
                    offset: 0,
                    ..
                }
            )
        };
        let headers = events[before..].iter().filter(is_header).count();
        assert!(headers >= 2, "that of the commit, and the one before");
        let run = Run {
            events,
            states: vec![state],
            wiped: Vec::new(),
            backups: Vec::new(),
            settled: 0,
            options,
        };
        lab.plan.heal();
        let mut disk = Cut::default();
        for event in &run.events {
            disk.feed(event);
        }
        for _ in 0..30 {
            // Of what is not synced the first so many: the refused header without the one that follows it is among them.
            let image = disk.image(Kind::Prefix, &mut random);
            let allowed = Allowed {
                run: &run,
                marks: Some((0, 0)),
            };
            let found = check(&image, &allowed).await;
            found.unwrap_or_else(|error| panic!("HAIRPIN_SEED={seed}, round {round}: {error}"));
        }
        store.close().await;
    }
}

/// The same checks over a disk that does not keep to its word must find it out.
#[tokio::test(flavor = "multi_thread")]
async fn the_power_cuts_find_a_missing_sync_of_any_kind() {
    let without_store: Told =
        |_, event| !matches!(event, Event::Sync { file } if *file == STORE_FILE);
    let without_keys: Told = |_, event| !matches!(event, Event::Sync { file } if *file == KEY_FILE);
    let without_names: Told = |_, event| !matches!(event, Event::SyncNames);
    let (_, mut random) = begin(5);
    for (what, kept) in [
        ("the store", without_store),
        ("the keys", without_keys),
        ("names", without_names),
    ] {
        let mut looked = 0;
        loop {
            let run = run(&mut random, 24).await;
            let (images, found) = cut(&run, &mut random, 60, kept).await;
            looked += images;
            if let Err(error) = found {
                println!("without syncs of {what}, image {looked}: {error}");
                break;
            }
            assert!(
                looked < 600,
                "a disk without syncs of {what} goes unnoticed"
            );
        }
    }
}
