use super::*;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

#[test]
fn the_first_start_makes_a_key_only_the_owner_can_read() {
    let dir = folder();
    let access = Access::open(dir.path()).expect("opens");
    let path = dir.path().join(KEY_FILE);
    assert_eq!(fs::metadata(&path).expect("is there").mode() & 0o777, 0o600);
    let again = Access::open(dir.path()).expect("opens again");
    assert_eq!(access.key(), again.key());
    assert!(!dir.path().join("access-key.new").exists());
}

#[test]
fn whoever_only_reads_makes_no_key() {
    let dir = folder();
    assert!(Access::read(dir.path()).expect("no error").is_none());
    assert!(!dir.path().join(KEY_FILE).exists());
}

#[test]
fn a_key_has_more_than_128_bits_and_the_same_one_never_comes_twice() {
    let key = generate().expect("random");
    let text = key.reveal();
    assert_eq!(text.len(), "hp-XXXXX-XXXXX-XXXXX-XXXXX-XXXXX-XXXXX".len());
    assert_ne!(text, generate().expect("random").reveal());
    assert!(!format!("{key:?}").contains(&text[3..8]));
}

#[test]
fn a_key_is_known_however_it_is_typed() {
    let dir = folder();
    let access = Access::open(dir.path()).expect("opens");
    let key = access.key().reveal().to_owned();
    for typed in [
        key.clone(),
        format!("  {key}\n"),
        key.to_lowercase(),
        key.replace('-', " ").replacen("hp ", "hp-", 1),
        key["hp-".len()..].replace('-', ""),
        key.replace('0', "o").replace('1', "l"),
    ] {
        assert!(access.by_key(&typed).is_some(), "{typed:?}");
    }
}

#[test]
fn a_wrong_key_is_not_known() {
    let dir = folder();
    let access = Access::open(dir.path()).expect("opens");
    let key = access.key().reveal().to_owned();
    let last = if key.ends_with('A') { "B" } else { "A" };
    for typed in [
        String::new(),
        "hp-".to_owned(),
        key[..key.len() - 1].to_owned(),
        format!("{key}0"),
        format!("{}{last}", &key[..key.len() - 1]),
        "я".repeat(30),
        "A".repeat(10_000),
    ] {
        assert!(access.by_key(&typed).is_none(), "{typed:?}");
        assert!(access.login(&typed).expect("no error").is_none());
    }
}

#[test]
fn rotation_ends_the_old_key_and_every_login() {
    let dir = folder();
    let access = Access::open(dir.path()).expect("opens");
    let old = access.key();
    let token = access.login(old.reveal()).expect("random").expect("right");
    let by_key = access.by_key(old.reveal()).expect("right");
    let by_token = access.by_token(token.reveal()).expect("logged in");
    assert!(by_token.is_cookie() && !by_key.is_cookie());

    let new = access.rotate().expect("rotates");

    assert!(by_key.alive.has_changed().is_err());
    assert!(by_token.alive.has_changed().is_err());
    assert!(access.by_key(old.reveal()).is_none());
    assert!(access.by_token(token.reveal()).is_none());
    assert!(access.by_key(new.reveal()).is_some());
    let on_disk = Access::read(dir.path()).expect("readable");
    assert_eq!(on_disk, Some(new));
}

#[test]
fn logging_out_ends_one_login_only() {
    let dir = folder();
    let access = Access::open(dir.path()).expect("opens");
    let key = access.key();
    let mut tokens = Vec::new();
    for _ in 0..2 {
        tokens.push(access.login(key.reveal()).expect("random").expect("right"));
    }
    let pass = access.by_token(tokens[0].reveal()).expect("logged in");
    access.logout(&pass);
    assert!(access.by_token(tokens[0].reveal()).is_none());
    assert!(access.by_token(tokens[1].reveal()).is_some());
    assert!(access.by_key(key.reveal()).is_some());
}

#[test]
fn a_file_open_to_others_is_closed_to_them() {
    let dir = folder();
    Access::open(dir.path()).expect("opens");
    let path = dir.path().join(KEY_FILE);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("widens");
    Access::open(dir.path()).expect("opens again");
    assert_eq!(fs::metadata(&path).expect("is there").mode() & 0o777, 0o600);
}

#[test]
fn a_file_with_something_else_in_it_is_an_error_that_says_the_mend() {
    let dir = folder();
    fs::write(dir.path().join(KEY_FILE), "hunter2\n").expect("writes");
    let error = Access::open(dir.path()).expect_err("no key in it");
    assert!(error.to_string().contains("access-key --rotate"));
    fs::write(dir.path().join(KEY_FILE), [0xff, 0xfe]).expect("writes");
    assert!(matches!(
        Access::open(dir.path()),
        Err(AccessError::Malformed { .. })
    ));
}

#[test]
fn a_login_survives_a_restart_but_neither_a_logout_nor_another_key() {
    let dir = folder();
    let earlier = Access::open(dir.path()).expect("opens");
    let key = earlier.key().reveal().to_owned();
    let login = || earlier.login(&key).expect("random").expect("the right key");
    let (stays, leaves) = (login(), login());
    let gone = earlier.by_token(leaves.reveal()).expect("logged in");
    earlier.logout(&gone);
    let (_, kept) = earlier.kept_logins();
    assert!(!String::from_utf8_lossy(&kept).contains(stays.reveal()));

    let later = Access::open(dir.path()).expect("opens");
    assert!(later.by_token(stays.reveal()).is_none());
    later.take_logins_back(&kept);
    assert!(later.by_token(stays.reveal()).is_some());
    assert!(later.by_token(leaves.reveal()).is_none());

    Access::replace(dir.path()).expect("written");
    let rotated = Access::open(dir.path()).expect("opens");
    rotated.take_logins_back(&kept);
    assert!(rotated.by_token(stays.reveal()).is_none());
    for nonsense in [&b""[..], b"{}", b"[1, 2]", &kept[..kept.len() / 2]] {
        later.take_logins_back(nonsense);
    }
}

#[tokio::test]
async fn whoever_keeps_the_logins_hears_of_each_change() {
    let dir = folder();
    let access = Access::open(dir.path()).expect("opens");
    let mut changes = access.keep_logins();
    let key = access.key().reveal().to_owned();
    let token = access.login(&key).expect("random").expect("the right key");
    changes.changed().await.expect("heard");
    access.logout(&access.by_token(token.reveal()).expect("logged in"));
    changes.changed().await.expect("heard");
    access.rotate().expect("written");
    changes.changed().await.expect("heard");
}

#[tokio::test]
async fn a_logout_is_settled_once_it_is_kept() {
    let dir = folder();
    let access = Access::open(dir.path()).expect("opens");
    let key = access.key().reveal().to_owned();
    let token = access.login(&key).expect("random").expect("the right key");
    // Nobody keeps logins: there is nothing to wait for.
    access.settled().await;
    let _changes = access.keep_logins();
    let (before, _) = access.kept_logins();
    access.logout(&access.by_token(token.reveal()).expect("logged in"));
    access.logins_were_kept(before);
    let mut settled = std::pin::pin!(access.settled());
    assert!(futures_util::poll!(&mut settled).is_pending());
    let (after, _) = access.kept_logins();
    access.logins_were_kept(after);
    settled.await;
}
