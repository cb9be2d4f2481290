//! Every byte of a small store flipped once, in both files, files cut short, and values that change places.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use redb::TableDefinition;
use tempfile::TempDir;

use crate::store_crash::{epoch_in, epochs_named};
use crate::store_small::{End, Outcome, Rows, Small, tables};
use crate::store_support::{folder, long};

/// How many bytes of the store's pages are flipped where there is no time for all.
const SOME: usize = 1500;
const PAGE: usize = 4096;
/// What redb says of the whole file, at its beginning.
const HEAD: usize = 320;
/// What a used block of the key file holds; the rest of it is zeros.
const BLOCK_USED: usize = 105;

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

/// Flips about `some` bytes, one at a time; where there is time, one in `stride`.
async fn flip_all(small: &Arc<Small>, some: usize, stride: usize) -> BTreeMap<Outcome, usize> {
    let all = in_use(&small.store);
    let stride = if long() { stride } else { all.len() / some };
    // The file's own head is worth every byte.
    let head = all.iter().copied().take_while(|&at| at < HEAD);
    let body = all.iter().copied().skip(HEAD).step_by(stride);
    let flips: Vec<usize> = head.chain(body).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let parts = flips.chunks(flips.len().div_ceil(threads)).map(|part| {
        let (small, part) = (Arc::clone(small), part.to_vec());
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let home: TempDir = folder();
            part.into_iter()
                .map(|at| {
                    let store = flipped(&small.store, at);
                    let what = format!("store byte {at}");
                    runtime.block_on(small.try_out(home.path(), &what, &store, &small.keys))
                })
                .collect::<Vec<_>>()
        })
    });
    let mut seen: BTreeMap<Outcome, usize> = BTreeMap::new();
    for part in parts.collect::<Vec<_>>() {
        for outcome in part.await.expect("no panic") {
            *seen.entry(outcome).or_default() += 1;
        }
    }
    println!("{} bytes in use, every {stride}.: {seen:?}", all.len());
    seen
}

#[tokio::test]
async fn a_flipped_byte_of_the_store_is_found_or_does_not_matter() {
    let small = Arc::new(Small::new(End::Closed).await);
    let seen = flip_all(&small, SOME, 1).await;
    assert!(seen[&Outcome::Right] > 0, "what is not in use may change");
    assert!(seen[&Outcome::Refused] > SOME / 5, "what is in use may not");
}

/// The file of a killed program: whatever does not open of its last commit looks as if the power had gone in it.
#[tokio::test]
async fn a_flipped_byte_after_a_kill_costs_the_last_write_at_most() {
    let small = Arc::new(Small::new(End::AfterWrite).await);
    let seen = flip_all(&small, SOME / 2, 8).await;
    assert!(
        seen[&Outcome::Refused] > SOME / 10,
        "what is in use may not"
    );
}

/// What is before the last commit has no key any more.
#[tokio::test]
async fn a_flipped_byte_after_a_wipe_and_a_kill_brings_nothing_back() {
    let small = Arc::new(Small::new(End::AfterWipe).await);
    let seen = flip_all(&small, SOME / 2, 8).await;
    assert_eq!(seen.get(&Outcome::Before), None, "the old link is gone");
    assert!(
        seen[&Outcome::Refused] > SOME / 10,
        "what is in use may not"
    );
}

#[tokio::test]
async fn a_flipped_byte_of_the_keys_is_found_or_does_not_matter() {
    let small = Small::new(End::Closed).await;
    let home: TempDir = folder();
    let mut seen: BTreeMap<Outcome, usize> = BTreeMap::new();
    let named = epochs_named(&small.store);
    for at in 0..small.keys.len() {
        let (block, within) = (at / PAGE, at % PAGE);
        if !long() && within >= BLOCK_USED && at % 251 != 0 {
            continue;
        }
        let keys = flipped(&small.keys, at);
        let what = format!("key file byte {at}");
        let outcome = small.try_out(home.path(), &what, &small.store, &keys).await;
        // The house's, or a link's: nobody misses the spare.
        let epoch = epoch_in(&small.keys[block * PAGE..]);
        let used = epoch.is_some_and(|epoch| epoch == 0 || named.contains(&epoch));
        let wanted = if used && within < BLOCK_USED {
            // Never a new key, never an empty link.
            Outcome::Refused
        } else {
            Outcome::Right
        };
        assert_eq!(outcome, wanted, "{what}");
        if outcome == Outcome::Refused && within % 8 == 0 {
            // Nothing was thrown away meanwhile: with the right byte everything is there.
            let store = std::fs::read(home.path().join("hairpin.redb")).expect("there");
            let what = format!("{what}, and back");
            let outcome = small.try_out(home.path(), &what, &store, &small.keys).await;
            assert_eq!(outcome, Outcome::Right, "{what}");
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

/// The same store with other values in these rows of a table.
fn with(store: &[u8], table: &str, rows: &Rows) -> Vec<u8> {
    let folder = folder();
    let file = folder.path().join("hairpin.redb");
    std::fs::write(&file, store).expect("written");
    let database = redb::Database::open(&file).expect("a store");
    let transaction = database.begin_write().expect("writable");
    {
        let definition = TableDefinition::<&[u8], &[u8]>::new(table);
        let mut table = transaction.open_table(definition).expect("writable");
        for (key, value) in rows {
            table.insert(&key[..], &value[..]).expect("written");
        }
    }
    transaction.commit().expect("written");
    drop(database);
    std::fs::read(&file).expect("readable")
}

#[tokio::test]
async fn a_value_in_the_place_of_another_is_found_whichever_row_table_or_link_it_came_from() {
    let small = Small::new(End::Closed).await;
    let tables = tables(&small.store);
    let home: TempDir = folder();
    let (mut in_rows, mut across, mut unread) = (0, 0, 0);
    let mut found = BTreeSet::new();
    for (name, rows) in &tables {
        let mut swaps = Vec::new();
        // Each has the value of the row after it.
        if rows.len() > 1 {
            let next = rows.values().cycle().skip(1).cloned();
            let turned = rows.keys().cloned().zip(next).collect();
            swaps.push((format!("the rows of {name} turned"), turned));
            in_rows += 1;
        }
        for (other, theirs) in &tables {
            let (epoch, kind) = name.split_once('.').unwrap_or(("", name));
            let (their_epoch, their_kind) = other.split_once('.').unwrap_or(("", other));
            let row_of: Rows = if name == other {
                continue;
            } else if epoch == their_epoch {
                // Of rows with the same name: `salon` has one in several tables, and so has an address.
                rows.keys()
                    .filter_map(|key| Some((key.clone(), theirs.get(key)?.clone())))
                    .collect()
            } else if kind == their_kind {
                // The same kind of row of the other link.
                rows.keys().cloned().zip(theirs.values().cloned()).collect()
            } else {
                continue;
            };
            if !row_of.is_empty() {
                swaps.push((format!("values of {other} in {name}"), row_of));
                across += 1;
            }
        }
        for (what, swapped) in swaps {
            let store = with(&small.store, name, &swapped);
            if small.try_all(home.path(), &what, &store, &small.keys).await != Outcome::Right {
                found.insert(name.split('.').next_back());
                continue;
            }
            // Of an index only the names count; and whoever asks may not have met these few rows.
            let nothing = swapped.into_keys().map(|key| (key, Vec::new())).collect();
            let store = with(&small.store, name, &nothing);
            let outcome = small.try_all(home.path(), name, &store, &small.keys).await;
            assert_eq!(outcome, Outcome::Right, "{what} were not found");
            unread += 1;
        }
    }
    println!("{in_rows} turned, {across} mixed, {unread} unread: {found:?}");
    assert!(in_rows > 30 && across > 40 && unread < in_rows);
    assert!(found.len() > 12, "of most tables");
}
