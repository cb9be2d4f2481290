//! Damaged stores: the input is a list of changes to the files of a store that an earlier version wrote.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use hairpin::store::{OpenError, Options, Store, StoreError};
use redb::{ReadableTable, TableDefinition, TableHandle};
use tokio::runtime::{Builder, Runtime};

const STORE: &[u8] = include_bytes!("../../tests/layouts/1/hairpin.redb");
const KEYS: &[u8] = include_bytes!("../../tests/layouts/1/hairpin.keys");
/// More changes than this find nothing that fewer do not.
const MOST: usize = 8;
const PAGE: usize = 4096;
/// What the store is asked, whatever became of it.
const SESSIONS: [&str; 6] = ["salon", "second", "third", "fourth", "fifth", "nobody"];

type Table<'t> = TableDefinition<'t, &'static [u8], &'static [u8]>;
type Answers = BTreeMap<String, Result<String, StoreError>>;

/// It answers right or not at all; it never starts empty, and never panics.
pub fn run(input: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, keys) = changed(folder.path(), input);
    let files = ["hairpin.keys", "hairpin.redb"].map(|name| folder.path().join(name));
    std::fs::write(&files[0], &keys).expect("written");
    std::fs::write(&files[1], &store).expect("written");
    // Looked at as the other commands do, then opened as the appliance does, which would make a store that is missing.
    let looked = Store::look(folder.path(), None);
    judge("looked at", looked.map(|store| ask(&store)));
    assert!(
        std::fs::read(&files[1]).expect("there") == store,
        "looking changed it"
    );
    let opened = Store::open(folder.path(), Options::default());
    let refused = opened.is_err();
    judge(
        "opened",
        opened.map(|store| {
            let answers = ask_all(&store);
            wait(store.close());
            answers
        }),
    );
    if refused {
        assert!(
            std::fs::read(&files[0]).expect("there") == keys,
            "the keys were touched"
        );
    }
    let mut left: Vec<_> = std::fs::read_dir(folder.path())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    left.sort();
    assert_eq!(left, files, "nothing is set aside by itself");
}

fn judge(what: &str, answers: Result<Answers, OpenError>) {
    match answers {
        Err(
            OpenError::Damaged(_)
            | OpenError::KeysMissing
            | OpenError::KeysWrong
            | OpenError::Newer(_),
        ) => {}
        Err(other) => panic!("{what}: {other:?}"),
        Ok(answers) => {
            for (question, answer) in answers {
                match answer {
                    Ok(answer) => {
                        assert_eq!(right().get(&question), Some(&answer), "{what}: {question}");
                    }
                    // A writer that has died looks like a closed store.
                    Err(error) => assert_ne!(error, StoreError::Closed, "{what}: {question}"),
                }
            }
        }
    }
}

/// What the store answers when nobody changed it.
fn right() -> &'static BTreeMap<String, String> {
    static RIGHT: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    RIGHT.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("hairpin.keys"), KEYS).expect("written");
        std::fs::write(folder.path().join("hairpin.redb"), STORE).expect("written");
        let store = Store::look(folder.path(), None).expect("a sound store");
        let answers = ask_all(&store).into_iter();
        answers
            .map(|(question, answer)| (question, answer.expect("a sound answer")))
            .collect()
    })
}

fn ask(store: &Store) -> Answers {
    let mut answers = Answers::new();
    let mut say = |question: String, answer: Result<String, StoreError>| {
        answers.insert(question, answer);
    };
    say(
        "sessions".into(),
        store.sessions().map(|all| format!("{all:?}")),
    );
    say(
        "journal".into(),
        store.journal(None, 100).map(|all| format!("{all:?}")),
    );
    for name in ["companion_version", "logins"] {
        say(
            name.into(),
            store.setting(name).map(|value| format!("{value:?}")),
        );
    }
    for session in SESSIONS {
        let link = store.link(session);
        say(
            session.into(),
            link.map(|link| {
                link.map_or_else(String::new, |row| {
                    let linked = row
                        .linked
                        .as_ref()
                        .map(|linked| (&linked.phone, &linked.jid));
                    format!(
                        "{row:?} {:?}",
                        (&row.line, &row.intended, &row.link_id, linked)
                    )
                })
            }),
        );
    }
    answers
}

/// The same, and every row of every table, read as whoever needs it reads it.
fn ask_all(store: &Store) -> Answers {
    let mut answers = ask(store);
    if let Ok(report) = store.verify() {
        let mut report = serde_json::to_value(report).expect("JSON");
        for field in ["bytes", "rows"] {
            // The house has marks that come and go.
            report.as_object_mut().expect("an object").remove(field);
        }
        answers.insert("verify".into(), Ok(report.to_string()));
    }
    answers
}

/// The two files with the changes made to them.
fn changed(folder: &Path, mut input: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut store, mut keys) = (STORE.to_vec(), KEYS.to_vec());
    let mut rows: Vec<(u8, [u8; 4])> = Vec::new();
    for _ in 0..MOST {
        let Some((&[what, a, b, c, d], after)) = input.split_first_chunk::<5>() else {
            break;
        };
        input = after;
        // Both files have pages of zeros, where nothing can be broken.
        let page = |file: &[u8], number: u8| {
            let used = used(file);
            let page = used.get(usize::from(number) % used.len().max(1));
            page.copied().unwrap_or_default() * PAGE
        };
        let at = |file: &[u8]| page(file, a) + usize::from(u16::from_le_bytes([b, c])) % PAGE;
        match what % 8 {
            0 => {
                let at = at(&store);
                store.get_mut(at).into_iter().for_each(|byte| *byte ^= d);
            }
            1 => {
                let at = at(&keys);
                keys.get_mut(at).into_iter().for_each(|byte| *byte ^= d);
            }
            2 => {
                let (now, after) = input.split_at(input.len().min(usize::from(d)));
                input = after;
                let at = at(&store);
                let bytes = store.iter_mut().skip(at);
                bytes.zip(now).for_each(|(byte, now)| *byte = *now);
            }
            3 => {
                // A page in the place of another, as a disk may do it.
                let (from, to) = (page(&store, a), page(&store, b));
                if from.max(to) + PAGE <= store.len() {
                    store.copy_within(from..from + PAGE, to);
                }
            }
            4 => store.truncate(usize::from(a) * usize::from(u16::from_le_bytes([b, c])) / 16),
            5 => keys.truncate(usize::from(a) * usize::from(u16::from_le_bytes([b, c])) / 256),
            _ => rows.push((what, [a, b, c, d])),
        }
    }
    if !rows.is_empty()
        && let Some(with) = with_rows(folder, &store, &rows)
    {
        store = with;
    }
    (store, keys)
}

/// Which pages of a file hold anything.
fn used(file: &[u8]) -> Vec<usize> {
    let pages = file.chunks(PAGE).enumerate();
    pages
        .filter(|(_, page)| page.iter().any(|&byte| byte != 0))
        .map(|(number, _)| number)
        .collect()
}

/// The store with other values in some rows, whose checksums are right: what redb cannot see.
fn with_rows(folder: &Path, store: &[u8], changes: &[(u8, [u8; 4])]) -> Option<Vec<u8>> {
    if store != STORE {
        // redb's own panics at a file that was changed otherwise are no concern here.
        return None;
    }
    let file = folder.join("changed");
    std::fs::write(&file, store).expect("written");
    let database = redb::Database::open(&file).expect("a store");
    let transaction = database.begin_write().expect("writable");
    let names: Vec<String> = {
        let names = transaction.list_tables().expect("readable");
        let names = names.map(|table| table.name().to_owned());
        names.filter(|name| name != "layout").collect()
    };
    for &(what, [a, b, c, d]) in changes {
        let name = &names[usize::from(a) % names.len()];
        let mut table = transaction.open_table(Table::new(name)).expect("readable");
        let rows: Vec<(Vec<u8>, Vec<u8>)> = table
            .iter()
            .expect("readable")
            .map(|row| {
                let (key, value) = row.expect("readable");
                (key.value().to_vec(), value.value().to_vec())
            })
            .collect();
        if rows.is_empty() {
            continue;
        }
        let (key, value) = &rows[usize::from(b) % rows.len()];
        let value = if what % 2 == 0 {
            let mut value = value.clone();
            match value.len() {
                0 => value.push(d),
                length => value[usize::from(c) % length] ^= d,
            }
            value
        } else {
            rows[usize::from(c) % rows.len()].1.clone()
        };
        table.insert(&key[..], &value[..]).expect("written");
    }
    transaction.commit().expect("written");
    drop(database);
    let with = std::fs::read(&file).expect("readable");
    std::fs::remove_file(&file).expect("removed");
    Some(with)
}

/// Waits for what another thread does.
fn wait<T>(work: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let built = || Builder::new_current_thread().build().expect("a runtime");
    RUNTIME.get_or_init(built).block_on(work)
}
