//! Owns a small store whose files are tampered with, everything that it can be asked, and the judgement of what it then says:
//! right or a typed error, never an empty start, never a panic, and nothing thrown away.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hairpin::store::{JournalEntry, JournalWhat, OpenError, Options, Store, StoreError};
use redb::{ReadableDatabase, ReadableTable, TableDefinition, TableHandle};
use whatsapp_rust::traits::Backend;

use crate::store_calls::{Call, Draw, traits};
use crate::store_support::{
    LINE, NOW, SALON, backend, cause, copy, folder, next_epoch, open, reads, seed,
};

/// How often each reading method is drawn: whatever could have been stored is asked for.
const DRAWS: usize = 300;
/// So many of the questions are asked of a tampered store where there is no time for all; others each time.
const SAMPLE: usize = 25;
/// Where redb's header says how the file is divided. A repair works that out anew from the file's length.
const DIVISION: std::ops::Range<usize> = 24..32;

pub type Answers = BTreeMap<String, Result<String, String>>;

/// The files of a small store, and everything that it answers.
pub struct Small {
    pub store: Vec<u8>,
    pub keys: Vec<u8>,
    pub questions: Vec<Call>,
    pub answers: Answers,
    /// Before the last commit, where the store was not closed after it.
    before: Option<Answers>,
    turn: AtomicUsize,
}

/// How the files of a small store came to lie there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
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
pub async fn ask<'q>(store: &Store, questions: impl Iterator<Item = &'q Call> + Clone) -> Answers {
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
    pub async fn new(end: End) -> Self {
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
        let mut questions = BTreeMap::new();
        for method in traits().iter().flat_map(|store| &store.methods) {
            if reads(method.name) {
                for _ in 0..DRAWS {
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
            turn: AtomicUsize::new(0),
        }
    }

    /// Lays the files into a folder, opens them, asks some of the questions.
    pub async fn try_out(&self, folder: &Path, what: &str, store: &[u8], keys: &[u8]) -> Outcome {
        let step = self.questions.len() / SAMPLE;
        self.try_some(folder, what, (store, keys), step).await
    }

    /// The same with every question.
    pub async fn try_all(&self, folder: &Path, what: &str, store: &[u8], keys: &[u8]) -> Outcome {
        self.try_some(folder, what, (store, keys), 1).await
    }

    async fn try_some(
        &self,
        folder: &Path,
        what: &str,
        (store, keys): (&[u8], &[u8]),
        step: usize,
    ) -> Outcome {
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
                if matches!(error, OpenError::Damaged(_)) {
                    let mut left = std::fs::read(&store_file).expect("there");
                    if left.len() == store.len() && left.len() > DIVISION.end {
                        left[DIVISION].copy_from_slice(&store[DIVISION]);
                    }
                    // A row that does not open is seen when redb has opened the file, and closed it.
                    assert!(
                        left == store || tables(&left) == tables(store),
                        "{what}: the damaged file was touched"
                    );
                }
                Outcome::Refused
            }
            Ok(opened) => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                let some = self.questions.iter().skip(turn % step);
                let answers = ask(&opened, some.step_by(step)).await;
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
pub enum Outcome {
    /// Everything is as it was.
    Right,
    /// It opened, and what it answered is right; the rest were errors.
    Partly,
    /// Everything is as it was before the last commit.
    Before,
    /// It did not open, and says why.
    Refused,
}

pub type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// A store's tables as they lie in the file, without the layout's number.
pub fn tables(store: &[u8]) -> BTreeMap<String, Rows> {
    let folder = folder();
    let file = folder.path().join("hairpin.redb");
    std::fs::write(&file, store).expect("written");
    let database = redb::Database::open(&file).expect("a store");
    let transaction = database.begin_read().expect("readable");
    let names = transaction.list_tables().expect("readable");
    let names = names.map(|table| table.name().to_owned());
    names
        .filter(|name| name != "layout")
        .map(|name| {
            let definition = TableDefinition::<&[u8], &[u8]>::new(&name);
            let table = transaction.open_table(definition).expect("readable");
            let rows = table.iter().expect("readable").map(|row| {
                let (key, value) = row.expect("readable");
                (key.value().to_vec(), value.value().to_vec())
            });
            let rows = rows.collect();
            (name, rows)
        })
        .collect()
}
