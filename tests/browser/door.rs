//! The page's door: a key typed, a wrong one refused in words, and out again.

use hairpin::certificate::SelfSigned;

use crate::chrome::Look;
use crate::desk::Desk;
use crate::rig::ANNA;

#[tokio::test(flavor = "multi_thread")]
async fn the_key_can_be_typed_and_a_wrong_one_is_refused_in_words() {
    let mut desk = Desk::closed(&[], Look::default()).await;
    // The page finds out that it is not logged in, and the wrong key is refused.
    desk.expected = vec!["401 /api/v1/sessions", "401 /login"];
    let page = &desk.page;
    page.go(&format!("http://{}/", desk.rig.address)).await;
    desk.face("login").await;
    assert_eq!(page.focus().await, "access-key");
    page.picture("login-en-1280-light").await;
    page.type_in("#access-key", "not-the-key").await;
    page.click("#login-button").await;
    page.shows("#error-text", "This key does not fit").await;
    assert_eq!(page.focus().await, "access-key", "ready for another try");
    page.picture("login-refused-en-1280-light").await;

    page.type_in("#access-key", &desk.rig.key).await;
    page.press("\u{e007}").await;
    desk.face("unlinked").await;
    assert_eq!(page.text("#error").await, "");
    assert_eq!(
        page.value("document.getElementById('access-key').value")
            .await,
        ""
    );
    page.reload().await;
    desk.face("unlinked").await;

    page.click("#logout").await;
    desk.face("login").await;
    page.reload().await;
    desk.face("login").await;
    assert_eq!(page.text("footer").await, "", "strangers see no sessions");
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_wrong_keys_make_the_door_wait_and_it_counts_the_seconds() {
    let mut desk = Desk::closed(&[], Look::default()).await;
    desk.expected = vec!["401 /api/v1/sessions", "401 /login", "429 /login"];
    let page = &desk.page;
    page.go(&format!("http://{}/", desk.rig.address)).await;
    desk.face("login").await;
    page.type_in("#access-key", "not-the-key").await;
    let waits = "/^Again in [123]?[0-9] seconds$/.test(document.getElementById('login-button').textContent)";
    for tries in 1.. {
        page.click("#login-button").await;
        // Every click is a try: the button is deaf until the last one is answered.
        page.until(&format!(
            "document.getElementById('login-button').ariaDisabled !== 'true' || {waits}"
        ))
        .await;
        if page.value(waits).await == true {
            break;
        }
        assert!(tries < 20, "the door never waits");
    }
    page.picture("locked-out-en-1280-light").await;
    let was = page.text("#login-button").await;
    page.until(&format!(
        "document.getElementById('login-button').textContent !== {was:?}"
    ))
    .await;
    assert_eq!(
        page.value("document.getElementById('login-button').ariaDisabled")
            .await,
        "true"
    );
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_link_spends_no_try_where_there_is_a_login_or_no_key_in_it() {
    let mut desk = Desk::closed(&[], Look::default()).await;
    desk.expected = vec!["401 /api/v1/sessions"];
    let page = &desk.page;
    let link = |key: &str| format!("http://{}/?{}#key={key}", desk.rig.address, key.len());
    for no_key in [
        "x",
        "hp-00000",
        "hp-%zz",
        "hp-00000-00000-00000-00000-00000-00000-00000",
    ] {
        page.go(&link(no_key)).await;
        desk.face("login").await;
        assert_eq!(page.value("location.hash").await, "");
        assert_eq!(page.text("#error").await, "", "{no_key}");
    }
    page.type_in("#access-key", &desk.rig.key).await;
    page.click("#login-button").await;
    desk.face("unlinked").await;
    page.go(&link("hp-00000-00000-00000-00000-00000-00000"))
        .await;
    desk.face("unlinked").await;
    // The page's log would hold a refused login.
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_the_page_links_a_phone_like_anywhere_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = SelfSigned::make(&["127.0.0.1".to_owned()], 1).expect("a certificate");
    let (cert, key) = (
        folder.path().join("cert.pem"),
        folder.path().join("key.pem"),
    );
    std::fs::write(&cert, &made.cert).expect("written");
    std::fs::write(&key, made.key.as_bytes()).expect("written");
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let settings = [("web.tls_cert", cert.as_str()), ("web.tls_key", &key)];
    let desk = Desk::closed(&settings, Look::default()).await;
    desk.open().await;
    desk.face("unlinked").await;
    assert_eq!(desk.page.value("location.protocol").await, "https:");
    assert_eq!(desk.page.value("isSecureContext").await, true);
    desk.link(ANNA).await;
    assert_eq!(
        desk.page.value("document.cookie").await,
        "",
        "no script reads it"
    );
    desk.leave().await;
}
