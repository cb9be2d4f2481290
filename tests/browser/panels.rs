//! Several numbers, and the journal for whoever looks after the machine.

use crate::desk::Desk;
use crate::rig::{ANNA, BORIS};

#[tokio::test(flavor = "multi_thread")]
async fn several_numbers_are_added_renamed_linked_and_removed() {
    let mut desk = Desk::new().await;
    // The page of a number that is removed finds out by being refused.
    desk.expected = vec!["404 /ws"];
    let page = &desk.page;
    desk.link(ANNA).await;
    page.click("#sessions summary").await;
    page.shows("#session-list", "Salon").await;
    page.shows("#session-list", "Linked 79001***567").await;
    assert!(
        !page.text("#session-list").await.contains("Remove"),
        "the first one stays"
    );

    page.click("#session-add").await;
    page.until("document.activeElement.id === 'dialog-field'")
        .await;
    page.press("Second chair\u{e007}").await;
    page.shows("#session-list", "Second chair").await;
    page.shows("#session-list", "Not linked").await;
    page.click("#session-list a[href='?session=second-chair']")
        .await;
    desk.face("unlinked").await;
    page.shows("#salon-name", "Second chair").await;
    assert_eq!(page.title().await, "Not linked · Second chair");
    assert_eq!(
        page.text("#session-list [aria-current]").await,
        "Second chair"
    );
    desk.link(BORIS).await;
    assert_eq!(page.text("#linked-phone").await, "79007***321");
    page.shows("#session-list", "Linked 79007***321").await;
    page.shows("#session-list", "Linked 79001***567").await;

    page.click("#session-list button[aria-label='Rename: Second chair']")
        .await;
    page.press("Colour\u{e007}").await;
    page.shows("#salon-name", "Colour").await;
    // Two numbers of one name, and one that has no Latin letter.
    for name in ["Colour", "Ночной салон"] {
        page.click("#session-add").await;
        page.until("document.activeElement.id === 'dialog-field'")
            .await;
        page.type_in("#dialog-field", name).await;
        page.click("#dialog-yes").await;
        page.shows("#session-list", name).await;
    }
    page.until("document.querySelectorAll('#session-list li').length === 4")
        .await;
    page.picture("several-numbers-en-1280-light").await;

    page.click("#session-list button[aria-label='Remove: Colour']")
        .await;
    page.shows("dialog[open] h2", "Remove: Colour?").await;
    assert_eq!(page.focus().await, "dialog-no");
    page.click("#dialog-no").await;
    page.click("#session-list button[aria-label='Remove: Colour']")
        .await;
    page.click("#dialog-yes").await;
    page.until("document.querySelectorAll('#session-list li').length === 3")
        .await;
    // Removed from elsewhere while its page is open.
    let open = page
        .value("new URLSearchParams(location.search).get('session')")
        .await;
    if open == "second-chair" {
        desk.rig
            .ask("DELETE", "/api/v1/sessions/second-chair", None)
            .await;
    }
    page.until("location.search === ''").await;
    desk.face("linked").await;
    assert_eq!(page.text("#linked-phone").await, "79001***567");
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_tells_what_happened_and_how_the_machine_is() {
    let desk = Desk::new().await;
    let page = &desk.page;
    page.click("#journal summary").await;
    page.shows("#journal-list", "Nothing has happened yet")
        .await;
    page.shows("#health", "Storage is fine · 0 numbers are connected")
        .await;
    desk.link(ANNA).await;
    page.click("#journal summary").await;
    page.click("#journal summary").await;
    page.shows("#health", "Storage is fine · 1 number is connected")
        .await;
    for told in ["Code asked for", "Code shown", "Linked", "79001***567"] {
        page.shows("#journal-list", told).await;
    }
    page.click("#unlink").await;
    page.click("#dialog-yes").await;
    desk.face("unlinked").await;
    page.click("#journal summary").await;
    page.click("#journal summary").await;
    page.shows("#journal-list", "Unlinked").await;
    page.shows("#health", "0 numbers are connected").await;
    desk.leave().await;
}
