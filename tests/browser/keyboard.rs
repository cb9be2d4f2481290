//! The whole flow by keyboard alone: every stop can be seen, and the focus is where it belongs.

use crate::chrome::Look;
use crate::desk::Desk;
use crate::rig::{ANNA, BORIS};

const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";
const ESCAPE: &str = "\u{e00c}";
const SPACE: &str = " ";
const RIGHT: &str = "\u{e014}";

/// Goes from stop to stop until it is at this one; each on the way must be seen to have the focus.
async fn tab_to(desk: &Desk, css: &str) {
    let page = &desk.page;
    for _ in 0..40 {
        page.press(TAB).await;
        let seen = page
            .value(
                "(() => {
                    const at = document.activeElement;
                    if (at === document.body) return true;
                    const shown = at.matches('.pick input') ? at.nextElementSibling : at.closest('.field') ?? at;
                    const { outlineStyle, outlineWidth } = getComputedStyle(shown);
                    const { top, bottom } = shown.getBoundingClientRect();
                    return outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2 && bottom > 0 && top < innerHeight;
                })()",
            )
            .await;
        let stop = page
            .value("document.activeElement.outerHTML.slice(0, 80)")
            .await;
        assert_eq!(seen, true, "the focus cannot be seen on {stop}");
        let there = format!("document.activeElement.matches({css:?})");
        if page.value(&there).await == true {
            return;
        }
    }
    panic!("no way to {css}");
}

/// Whether the heading of the present face has the focus.
async fn at_heading(desk: &Desk, words: &str) {
    let heading = format!(
        "document.activeElement.localName === 'h2' && document.activeElement.textContent === '{words}'"
    );
    desk.page.until(&heading).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_can_be_done_without_a_mouse() {
    let mut desk = Desk::closed(&[], Look::default()).await;
    desk.expected = vec!["401 /api/v1/sessions"];
    let page = &desk.page;
    page.go(&format!("http://{}/", desk.rig.address)).await;
    desk.face("login").await;
    page.press(&format!("{}{ENTER}", desk.rig.key)).await;
    desk.face("unlinked").await;
    page.until("document.activeElement.id === 'phone'").await;
    page.press(&format!("8 900 123-45-67{ENTER}")).await;
    let code = desk.code().await;
    at_heading(&desk, "Type this code on the phone").await;
    tab_to(&desk, "#copy-code").await;
    page.press(ENTER).await;
    page.shows("#copy-code", "Copied").await;
    assert_eq!(page.focus().await, "copy-code");
    page.press(TAB).await;
    assert_eq!(page.value("document.activeElement.value").await, "android");
    page.press(RIGHT).await;
    page.shows(".steps", "Settings").await;
    tab_to(&desk, "#cancel").await;

    desk.rig
        .sim
        .phone(ANNA)
        .enter_code(&code)
        .await
        .expect("linked");
    at_heading(&desk, "All done, it is linked").await;
    tab_to(&desk, "#link-other").await;
    page.press(ENTER).await;
    page.until("document.activeElement.id === 'phone'").await;
    page.press(&format!("8 900 765-43-21{ENTER}")).await;
    page.until("document.activeElement.id === 'dialog-no'")
        .await;
    page.press(ESCAPE).await;
    page.until("!document.querySelector('dialog[open]')").await;
    let status = desk.rig.status("salon").await;
    assert_eq!(
        status["phone"], "79001***567",
        "Escape keeps what is linked"
    );
    tab_to(&desk, "#get-code").await;
    page.press(SPACE).await;
    page.until("document.activeElement.id === 'dialog-no'")
        .await;
    tab_to(&desk, "#dialog-yes").await;
    page.press(ENTER).await;
    let code = desk.code().await;
    at_heading(&desk, "Type this code on the phone").await;
    desk.rig
        .sim
        .phone(BORIS)
        .enter_code(&code)
        .await
        .expect("linked");
    at_heading(&desk, "All done, it is linked").await;

    tab_to(&desk, "#unlink").await;
    page.press(ENTER).await;
    page.until("document.activeElement.id === 'dialog-no'")
        .await;
    page.press(ENTER).await;
    page.until("document.activeElement.id === 'unlink'").await;
    page.press(ENTER).await;
    page.until("document.activeElement.id === 'dialog-no'")
        .await;
    tab_to(&desk, "#dialog-yes").await;
    page.press(SPACE).await;
    page.until("document.activeElement.id === 'phone'").await;
    desk.face("unlinked").await;
    tab_to(&desk, "#sessions summary").await;
    page.press(ENTER).await;
    tab_to(&desk, "#session-add").await;
    page.press(ENTER).await;
    page.until("document.activeElement.id === 'dialog-field'")
        .await;
    page.press(&format!("Second{ENTER}")).await;
    page.shows("#session-list", "Second").await;
    page.until("document.activeElement.id === 'session-add'")
        .await;
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_country_is_found_by_the_first_letters_of_its_name() {
    let desk = Desk::new().await;
    let page = &desk.page;
    page.value("document.getElementById('country').focus() ?? null")
        .await;
    page.press("germ").await;
    page.until("document.getElementById('country').value === 'DE'")
        .await;
    page.shows("#country-shown", "+49").await;
    page.reload().await;
    desk.face("unlinked").await;
    page.shows("#country-shown", "+49").await;
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_face_leaves_the_focus_to_whoever_is_busy_elsewhere_but_tells_it() {
    let desk = Desk::new().await;
    let page = &desk.page;
    page.value("document.getElementById('language').focus() ?? null")
        .await;
    desk.rig.link("salon", ANNA).await;
    desk.face("linked").await;
    assert_eq!(page.focus().await, "language");
    page.until("document.getElementById('live').textContent === 'All done, it is linked'")
        .await;
    desk.leave().await;
}
