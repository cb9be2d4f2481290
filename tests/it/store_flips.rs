//! Every byte of a small store flipped once, in both files: what is then opened and read is right or a typed error, never
//! an empty start and never a panic, and nothing is thrown away.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hairpin::store::{JournalEntry, JournalWhat, OpenError, Options, Store, StoreError};
use tempfile::TempDir;
use whatsapp_rust::traits::Backend;

use crate::store_calls::{Call, Draw, traits};
use crate::store_support::{
    LINE, NOW, SALON, backend, cause, copy, folder, long, next_epoch, open, reads, seed,
};

/// How many bytes of the store's pages are flipped where there is no time for all.
const SOME: usize = 1500;
/// One question in so many is asked of a flipped store where there is no time for all; another one each time.
const SAMPLE: usize = 8;
const PAGE: usize = 4096;
/// What redb says of the whole file, at its beginning.
const HEAD: usize = 320;
/// What a used block of the key file holds; the rest of it is zeros.
const BLOCK_USED: usize = 105;

type Answers = BTreeMap<String, Result<String, String>>;

/// The files of a small store, and everything that it answers.
struct Small {
    store: Vec<u8>,
    keys: Vec<u8>,
    questions: Vec<Call>,
    answers: Answers,
    /// Before the last commit, where the store was not closed after it.
    before: Option<Answers>,
    turn: Cell<usize>,
}

/// How the files of a small store came to lie there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    /// Killed right after a write was acknowledged.
    AfterWrite,
    /// Killed right after a wipe was acknowledged.
    AfterWipe,
}

/// Why a store does not answer. Each is for people to read, and none is a panic.
fn typed(error: StoreError) -> String {
    // A writer that has died looks like a closed store.
    assert_ne!(error, StoreError::Closed, "the writer has died");
    error.to_string()
}

/// Everything that a store answers, by question.
async fn ask<'q>(store: &Store, questions: impl Iterator<Item = &'q Call> + Clone) -> Answers {
    let mut answers = BTreeMap::new();
    let mut say = |name: String, answer: Result<String, StoreError>| {
        answers.insert(name, answer.map_err(typed));
    };
    let debug = |answer: &dyn std::fmt::Debug| format!("{answer:?}");
    say("check".into(), store.check().map(|()| String::new()));
    say("sessions".into(), store.sessions().map(|all| debug(&all)));
    say(
        "journal".into(),
        store.journal(None, 100).map(|all| debug(&all)),
    );
    say(
        "setting".into(),
        store.setting("version").map(|value| debug(&value)),
    );
    say(
        "budget".into(),
        store.budget_left(LINE, NOW, 1).map(|left| debug(&left)),
    );
    for session in [SALON, "branch", "nobody"] {
        let link = store.link(session);
        // What an error hides is asked all the same, under the epoch it should have.
        let epoch = link.as_ref().ok().and_then(Option::as_ref);
        let epoch = epoch.map(|row| row.epoch);
        say(
            format!("{session}: link"),
            link.map(|row| {
                row.map_or_else(String::new, |row| {
                    let linked = row.linked.map(|linked| (linked.phone, linked.jid));
                    format!("{:?}", (row.epoch, row.line, row.intended, linked))
                })
            }),
        );
        let Some(epoch) = epoch else { continue };
        let rows: Arc<dyn Backend> = Arc::new(store.backend(session, epoch));
        for call in questions.clone() {
            let answer = call.make(&rows).await;
            say(
                format!("{session}: {}({})", call.name, call.arguments),
                answer.map_err(|error| cause(&error).expect("ours")),
            );
        }
    }
    answers
}

impl Small {
    async fn new(end: End) -> Self {
        let folder = folder();
        let store = open(folder.path());
        let mut draw = Draw::new(seed());
        for session in [SALON, "branch"] {
            // One link before: its block in the key file is free again.
            backend(&store, session).await;
            let rows = backend(&store, session).await;
            for method in traits().iter().flat_map(|store| &store.methods) {
                for _ in 0..6 {
                    method.draw(&mut draw).make(&rows).await.expect("fresh");
                }
            }
        }
        let entry = JournalEntry::new(NOW, SALON, JournalWhat::Linked);
        store.append_journal(vec![entry]).await.expect("written");
        store
            .put_setting("version", b"2.3000.1".to_vec())
            .await
            .expect("written");
        store.budget_record(LINE, NOW).await.expect("written");
        // Whatever could have been stored is asked for.
        let mut questions = BTreeMap::new();
        for method in traits().iter().flat_map(|store| &store.methods) {
            if reads(method.name) {
                for _ in 0..12 {
                    let call = method.draw(&mut draw);
                    questions.insert((call.name, call.arguments.clone()), call);
                }
            }
        }
        let questions: Vec<Call> = questions.into_values().collect();
        let mut before = None;
        match end {
            End::Closed => {
                // Closing right after a wipe sweeps the file: little is left in it that is not in use.
                backend(&store, "third").await;
                let removed = store.remove_session("third", Vec::new()).await;
                removed.expect("removed");
            }
            End::AfterWrite => {
                before = Some(ask(&store, questions.iter()).await);
                let version = b"2.3000.2".to_vec();
                let written = store.put_setting("version", version).await;
                written.expect("written");
            }
            End::AfterWipe => {
                before = Some(ask(&store, questions.iter()).await);
                next_epoch(&store, SALON).await;
            }
        }
        let killed = (end != End::Closed).then(|| copy(folder.path()));
        let answers = ask(&store, questions.iter()).await;
        assert!(answers.values().all(Result::is_ok), "a sound store");
        store.close().await;
        let files = killed.unwrap_or(folder);
        Self {
            store: std::fs::read(files.path().join("hairpin.redb")).expect("readable"),
            keys: std::fs::read(files.path().join("hairpin.keys")).expect("readable"),
            questions,
            answers,
            before,
            turn: Cell::new(0),
        }
    }

    /// Lays the files into a folder, opens them, asks everything.
    async fn try_out(&self, folder: &Path, what: &str, store: &[u8], keys: &[u8]) -> Outcome {
        let (store_file, key_file) = (folder.join("hairpin.redb"), folder.join("hairpin.keys"));
        std::fs::write(&store_file, store).expect("written");
        std::fs::write(&key_file, keys).expect("written");
        let outcome = match Store::open(folder, Options::default()) {
            Err(error) => {
                assert!(
                    matches!(
                        error,
                        OpenError::Damaged(_) | OpenError::KeysMissing | OpenError::KeysWrong
                    ),
                    "{what}: {error:?}"
                );
                assert!(
                    std::fs::read(&key_file).expect("there") == keys,
                    "{what}: the key file was touched although the store does not open"
                );
                let left = std::fs::read(&store_file).expect("there");
                if matches!(error, OpenError::Damaged(_)) {
                    assert!(left == store, "{what}: the damaged file was touched");
                }
                Outcome::Refused
            }
            Ok(opened) => {
                let some = self.questions.iter().skip(self.turn.get() % SAMPLE);
                self.turn.set(self.turn.get() + 1);
                let answers = ask(&opened, some.step_by(if long() { 1 } else { SAMPLE })).await;
                let differs = |right: &Answers| {
                    let mut answers = answers.iter().filter(|(_, answer)| answer.is_ok());
                    answers.find(|(question, answer)| right.get(*question) != Some(answer))
                };
                let outcome = if differs(&self.answers).is_none() {
                    if answers.values().all(Result::is_ok) {
                        Outcome::Right
                    } else {
                        Outcome::Partly
                    }
                } else {
                    // All of it as one commit before, or wrong.
                    let before = self.before.as_ref();
                    let wrong = differs(before.unwrap_or(&self.answers));
                    assert_eq!(wrong, None, "{what}");
                    Outcome::Before
                };
                opened.close().await;
                outcome
            }
        };
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["hairpin.keys", "hairpin.redb"], "{what}");
        outcome
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Everything is as it was.
    Right,
    /// It opened, and what it answered is right; the rest were errors.
    Partly,
    /// Everything is as it was before the last commit.
    Before,
    /// It did not open, and says why.
    Refused,
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut flipped = bytes.to_vec();
    flipped[at] ^= 1 << (at % 8);
    flipped
}

/// Where there is something in a file: pages that hold more than zeros.
fn in_use(bytes: &[u8]) -> Vec<usize> {
    bytes
        .chunks(PAGE)
        .enumerate()
        .filter(|(_, page)| page.iter().any(|&byte| byte != 0))
        .flat_map(|(number, page)| (0..page.len()).map(move |at| number * PAGE + at))
        .collect()
}

/// Flips about `some` bytes, one at a time; all of them where there is time.
async fn flip_all(small: &Small, some: usize) -> BTreeMap<Outcome, usize> {
    let all = in_use(&small.store);
    let stride = if long() { 1 } else { all.len() / some };
    // The file's own head is worth every byte.
    let head = all.iter().copied().take_while(|&at| at < HEAD);
    let body = all.iter().copied().skip(HEAD).step_by(stride);
    let home: TempDir = folder();
    let mut seen: BTreeMap<Outcome, usize> = BTreeMap::new();
    for at in head.chain(body) {
        let store = flipped(&small.store, at);
        let what = format!("store byte {at}");
        let outcome = small.try_out(home.path(), &what, &store, &small.keys).await;
        *seen.entry(outcome).or_default() += 1;
    }
    println!("{} bytes in use, every {stride}.: {seen:?}", all.len());
    seen
}

#[tokio::test]
async fn a_flipped_byte_of_the_store_is_found_or_does_not_matter() {
    let small = Small::new(End::Closed).await;
    let seen = flip_all(&small, SOME).await;
    assert!(seen[&Outcome::Right] > 0, "what is not in use may change");
    assert!(seen[&Outcome::Refused] > SOME / 4, "what is in use may not");
}

/// The file of a killed program: whatever does not open of its last commit looks as if the power had gone in it.
#[tokio::test]
async fn a_flipped_byte_after_a_kill_costs_the_last_write_at_most() {
    let small = Small::new(End::AfterWrite).await;
    let seen = flip_all(&small, SOME / 2).await;
    assert!(seen[&Outcome::Refused] > SOME / 8, "what is in use may not");
}

/// What is before the last commit has no key any more.
#[tokio::test]
async fn a_flipped_byte_after_a_wipe_and_a_kill_brings_nothing_back() {
    let small = Small::new(End::AfterWipe).await;
    let seen = flip_all(&small, SOME / 2).await;
    assert_eq!(seen.get(&Outcome::Before), None, "the old link is gone");
    assert!(seen[&Outcome::Refused] > SOME / 8, "what is in use may not");
}

#[tokio::test]
async fn a_flipped_byte_of_the_keys_is_found_or_does_not_matter() {
    let small = Small::new(End::Closed).await;
    let home: TempDir = folder();
    let mut seen: BTreeMap<Outcome, usize> = BTreeMap::new();
    for at in 0..small.keys.len() {
        let (block, within) = (at / PAGE, at % PAGE);
        if !long() && within >= BLOCK_USED && at % 251 != 0 {
            continue;
        }
        let keys = flipped(&small.keys, at);
        let what = format!("key file byte {at}");
        let outcome = small.try_out(home.path(), &what, &small.store, &keys).await;
        let used = small.keys[block * PAGE..].starts_with(b"HPK1");
        let wanted = if used && within < BLOCK_USED {
            // Never a new key, never an empty link.
            Outcome::Refused
        } else {
            Outcome::Right
        };
        assert_eq!(outcome, wanted, "{what}");
        if outcome == Outcome::Refused && within % 8 == 0 {
            // Nothing was thrown away meanwhile: with the right byte everything is there.
            std::fs::write(home.path().join("hairpin.keys"), &small.keys).expect("written");
            let store = open(home.path());
            let answers = ask(&store, small.questions.iter()).await;
            assert!(answers == small.answers, "{what}, and back");
            store.close().await;
        }
        *seen.entry(outcome).or_default() += 1;
    }
    println!("{seen:?}");
    assert_eq!(
        seen[&Outcome::Refused],
        3 * BLOCK_USED,
        "the house and two links"
    );
}

#[tokio::test]
async fn a_file_cut_short_or_grown_or_replaced_by_zeros_is_never_an_empty_start() {
    let small = Small::new(End::Closed).await;
    let home: TempDir = folder();
    let length = small.store.len();
    for cut in [0, 1, 9, 511, PAGE, length / 2, length - PAGE, length - 1] {
        let what = format!("store of {cut} bytes");
        let outcome = small
            .try_out(home.path(), &what, &small.store[..cut], &small.keys)
            .await;
        assert_eq!(outcome, Outcome::Refused, "{what}");
    }
    for more in [1, PAGE] {
        let what = format!("{more} more bytes");
        let longer = [&small.store[..], &vec![0xA5; more]].concat();
        let outcome = small
            .try_out(home.path(), &what, &longer, &small.keys)
            .await;
        assert!(outcome != Outcome::Partly, "{what}: {outcome:?}");
    }
    let zeros = vec![0; length];
    let outcome = small
        .try_out(home.path(), "zeros", &zeros, &small.keys)
        .await;
    assert_eq!(outcome, Outcome::Refused);
    for cut in [0, 1, 104, PAGE, small.keys.len() - PAGE] {
        let what = format!("key file of {cut} bytes");
        let outcome = small
            .try_out(home.path(), &what, &small.store, &small.keys[..cut])
            .await;
        assert_eq!(outcome, Outcome::Refused, "{what}");
    }
    let zeros = vec![0; small.keys.len()];
    let outcome = small
        .try_out(home.path(), "no keys", &small.store, &zeros)
        .await;
    assert_eq!(outcome, Outcome::Refused);
    // And the files as they were still open.
    let outcome = small
        .try_out(home.path(), "whole", &small.store, &small.keys)
        .await;
    assert_eq!(outcome, Outcome::Right);
}
