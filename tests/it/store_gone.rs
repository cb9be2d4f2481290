//! Gone is gone: what a thief can open of a link that was wiped, and what a start makes of keys that are not the store's.

use std::collections::{BTreeSet, HashSet};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use hairpin::store::{OpenError, Options, Store};

use crate::store_calls::{Draw, traits};
use crate::store_support::{SALON, backend, copy, new_link, open, seed, tables_of};
use crate::store_thief::{
    BLOCK, KEYS, NUMBER, STORE, Salon, Sealed, Secret, TRACES, contains, derived, opened, read,
    sealed, sealed_in, secrets, traces,
};

#[tokio::test]
async fn nothing_of_a_link_lies_in_the_files_as_it_is_not_even_while_it_lives() {
    let salon = Salon::new().await;
    let (store, keys) = (
        read(salon.folder.path(), STORE),
        read(salon.folder.path(), KEYS),
    );
    assert_eq!(traces([&store, &keys]), BTreeSet::new());
    for (epoch, secret) in &salon.life.keys {
        assert!(
            !contains(&store, secret),
            "the secret of {epoch} is in the store"
        );
        for label in [&b"hairpin seal v1"[..], b"hairpin name v1"] {
            let key = derived(secret, label);
            assert!(!contains(&store, &key) && !contains(&keys, &key));
        }
    }
    // The canaries are of every kind of row that there is, and the thief knows how to open each.
    let mut draw = Draw::new(seed());
    let rows = backend(&salon.store, "another").await;
    for method in traits().iter().flat_map(|store| &store.methods) {
        for _ in 0..3 {
            method.draw(&mut draw).make(&rows).await.expect("fresh");
        }
    }
    let kinds = |rows: &HashSet<Sealed>, epoch: &str| -> BTreeSet<String> {
        let of = rows
            .iter()
            .filter_map(|sealed| sealed.table.split_once('.'));
        of.filter(|(of, _)| *of == epoch)
            .map(|(_, kind)| kind.to_owned())
            .collect()
    };
    let all = sealed(salon.folder.path());
    let planted = kinds(&salon.life.rows, &tables_of(salon.life.epoch));
    let another = salon.store.link("another").expect("read").expect("a link");
    let drawn = kinds(&all, &tables_of(another.epoch));
    assert!(
        planted.is_superset(&drawn),
        "{:?}",
        drawn.difference(&planted)
    );
    let found = opened(&salon.life.rows, &salon.life.keys);
    assert!(found.len() >= salon.life.rows.len(), "every row opens");
    assert_eq!(traces(&found), BTreeSet::from(TRACES));
    salon.store.close().await;
}

#[tokio::test]
async fn when_a_wipe_is_acknowledged_no_key_in_hand_opens_anything_of_the_link() {
    let salon = Salon::new().await;
    let after = salon.wipe().await;
    let keys = read(after.path(), KEYS);
    let left = secrets(&keys);
    assert_eq!(
        left.len(),
        4,
        "the house's, the neighbour's, the new link's and the spare"
    );
    let gone: Vec<&Secret> = salon
        .life
        .keys
        .iter()
        .filter(|key| !left.contains(key))
        .collect();
    assert_eq!(gone.len(), 1);
    for file in [&keys, &read(after.path(), STORE)] {
        for secret in [
            gone[0].1,
            derived(&gone[0].1, b"hairpin seal v1"),
            derived(&gone[0].1, b"hairpin name v1"),
        ] {
            assert!(!contains(file, &secret));
        }
    }
    // The thief's notes and the keys that are left: the neighbour and the house open, the link does not.
    let found = opened(&salon.life.rows, &left);
    assert!(found.iter().any(|row| row == b"stays"));
    assert_eq!(traces(&found), BTreeSet::new());
    salon.store.close().await;
}

#[tokio::test]
async fn a_wipe_writes_two_blocks_of_the_key_file_and_leaves_every_other_as_it_was() {
    let salon = Salon::new().await;
    for number in 0..5 {
        backend(&salon.store, &format!("more-{number}")).await;
    }
    let before = read(salon.folder.path(), KEYS);
    salon.wipe().await;
    let after = read(salon.folder.path(), KEYS);
    let other: Vec<_> = before
        .chunks(BLOCK)
        .map(Some)
        .chain([None])
        .zip(after.chunks(BLOCK))
        .filter(|(before, after)| *before != Some(after))
        .collect();
    assert_eq!(other.len(), 2);
    let was_used = |block: &&[u8]| block.iter().any(|byte| *byte != 0);
    let (old, new) = if other[0].0.as_ref().is_some_and(was_used) {
        (other[0], other[1])
    } else {
        (other[1], other[0])
    };
    let (_, wiped) = secrets(old.0.expect("used"))[0];
    assert!(!contains(&after, &wiped), "overwritten");
    let (_, spare) = secrets(old.1)[0];
    assert!(
        !contains(&before, &spare),
        "with one that nobody had before"
    );
    assert!(new.1.starts_with(b"HPK1"), "in a block that was free");
    assert!(!new.0.as_ref().is_some_and(was_used));
    // The next wipe finds its key there and writes none.
    let row = salon.store.link(SALON).expect("read").expect("a link");
    let again = salon
        .store
        .replace_link(SALON, Some(row.epoch), Some(new_link()), Vec::new());
    again.await.expect("wiped");
    let later = read(salon.folder.path(), KEYS);
    assert_eq!(later.len(), after.len());
    let same = |(at, block): (usize, &[u8])| (block == &after[at * BLOCK..][..BLOCK]).then_some(at);
    let kept: Vec<_> = later.chunks(BLOCK).enumerate().filter_map(same).collect();
    assert_eq!(
        kept.len(),
        later.len() / BLOCK - 1,
        "one block was written, the old one"
    );
    assert!(contains(&later, &spare));
    salon.store.close().await;
}

#[tokio::test]
async fn keys_from_before_a_wipe_that_are_put_back_open_nothing_and_do_not_stay() {
    let salon = Salon::new().await;
    let old = read(salon.folder.path(), KEYS);
    salon.wipe().await;
    salon.store.close().await;
    let whole = copy(salon.folder.path());
    let new = read(whole.path(), KEYS);
    // The old file in the place of the new one: the present link has no key in it.
    std::fs::write(whole.path().join(KEYS), &old).expect("written");
    let store = read(whole.path(), STORE);
    let refused = Store::open(whole.path(), Options::default()).err();
    assert!(
        matches!(refused, Some(OpenError::KeysMissing)),
        "{refused:?}"
    );
    assert_eq!(sealed_in(&store), sealed(whole.path()), "untouched");
    assert_eq!(read(whole.path(), KEYS), old, "untouched");
    // The old link's block beside the new one's: the store does not name it, and it goes.
    let wiped = salon
        .life
        .keys
        .iter()
        .find(|key| !secrets(&new).contains(key));
    let (_, wiped) = wiped.expect("one is gone");
    let block = old.chunks(BLOCK).find(|block| contains(block, wiped));
    std::fs::write(
        whole.path().join(KEYS),
        [&new, block.expect("its block")].concat(),
    )
    .expect("written");
    let store = open(whole.path());
    assert!(
        !contains(&read(whole.path(), KEYS), wiped),
        "overwritten by the start"
    );
    let row = store.link(SALON).expect("readable").expect("the new link");
    assert_eq!(row.line, new_link().line);
    store.close().await;
}

#[tokio::test]
async fn a_store_without_its_keys_is_refused_and_gets_no_new_ones() {
    let salon = Salon::new().await;
    salon.store.close().await;
    let store = read(salon.folder.path(), STORE);
    let keys = read(salon.folder.path(), KEYS);
    std::fs::remove_file(salon.folder.path().join(KEYS)).expect("removed");
    let refused = Store::open(salon.folder.path(), Options::default()).err();
    let refused = refused.expect("refused");
    assert!(matches!(refused, OpenError::KeysMissing), "{refused:?}");
    assert!(refused.to_string().contains("hairpin.keys"), "{refused}");
    assert!(!salon.folder.path().join(KEYS).exists());
    assert_eq!(
        sealed_in(&store),
        sealed_in(&read(salon.folder.path(), STORE))
    );
    // Put back, they open it as it was.
    std::fs::write(salon.folder.path().join(KEYS), keys).expect("written");
    let store = open(salon.folder.path());
    let row = store.link(SALON).expect("readable").expect("the link");
    assert_eq!(row.line.reveal(), NUMBER);
    store.close().await;
}

#[tokio::test]
async fn keys_without_their_store_are_not_thrown_away_for_an_empty_one() {
    let salon = Salon::new().await;
    salon.store.close().await;
    let keys = read(salon.folder.path(), KEYS);
    std::fs::remove_file(salon.folder.path().join(STORE)).expect("removed");
    let refused = Store::open(salon.folder.path(), Options::default()).err();
    assert!(
        matches!(refused, Some(OpenError::Damaged(_))),
        "{refused:?}"
    );
    assert!(
        !salon.folder.path().join(STORE).exists(),
        "never an empty start"
    );
    assert_eq!(read(salon.folder.path(), KEYS), keys);
}

#[tokio::test]
async fn nobody_else_may_read_the_files_whatever_they_were_before() {
    let salon = Salon::new().await;
    let folder = salon.folder.path().to_owned();
    let modes = || {
        [folder.clone(), folder.join(STORE), folder.join(KEYS)].map(|path| {
            let about = std::fs::metadata(path).expect("there");
            about.permissions().mode() & 0o777
        })
    };
    assert_eq!(modes(), [0o700, 0o600, 0o600]);
    salon.store.close().await;
    for (path, mode) in [
        (folder.clone(), 0o755),
        (folder.join(STORE), 0o644),
        (folder.join(KEYS), 0o640),
    ] {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("set");
    }
    open(&folder).close().await;
    assert_eq!(modes(), [0o700, 0o600, 0o600]);
}
