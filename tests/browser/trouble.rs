//! What goes wrong is told in plain words, with a way on.

use std::time::Duration;

use hairpin_sim::{Fault, Step};

use crate::chrome::Look;
use crate::desk::Desk;
use crate::rig::ANNA;

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_is_none_is_refused_in_plain_words_while_it_is_typed_and_when_it_is_sent() {
    let mut desk = Desk::new().await;
    desk.expected = vec!["422 /api/v1/phone"];
    let page = &desk.page;
    page.click("#get-code").await;
    page.shows("#verdict", "Type a phone number.").await;
    assert_eq!(page.focus().await, "phone");
    for (typed, told) in [
        ("1111111111", "There is no such number"),
        ("8 900 123-45-67 ext. 890", "An extension cannot be linked"),
        ("salon", "something else than digits"),
        ("8 900 123-45-67-89-01-23-45", "too many digits"),
    ] {
        page.type_in("#phone", typed).await;
        page.shows("#verdict.bad", told).await;
        assert_eq!(
            page.value("document.getElementById('phone').ariaInvalid")
                .await,
            "true"
        );
    }
    page.picture("bad-number-en-1280-light").await;
    page.click("#get-code").await;
    page.until("document.activeElement.id === 'phone'").await;
    page.shows("#verdict.bad", "too many digits").await;
    page.type_in("#phone", "5511987654321").await;
    page.shows("#verdict.good", "+55 11 98765-4321 · Brazil")
        .await;
    assert_eq!(
        desk.rig.sim.total_connections(),
        0,
        "WhatsApp was not asked"
    );
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_whatsapp_wants_a_pause_the_page_says_so_and_counts_it_down() {
    let desk = Desk::new().await;
    let page = &desk.page;
    desk.rig.sim.fault(Fault::refuse_hello(429).backoff(3));
    desk.ask_for(ANNA).await;
    page.shows("#error-text", "WhatsApp gives no code for now")
        .await;
    page.until("/^Again in [123] seconds?$/.test(document.getElementById('get-code').textContent)")
        .await;
    page.picture("rate-limited-en-1280-light").await;
    assert_eq!(
        page.value("document.getElementById('get-code').ariaDisabled")
            .await,
        "true"
    );
    let asked = desk.rig.sim.hellos(ANNA);
    page.click("#get-code").await;
    page.until("document.getElementById('get-code').textContent === 'Get the code'")
        .await;
    assert_eq!(desk.rig.sim.hellos(ANNA), asked, "the button waited");
    page.click("#get-code").await;
    desk.code().await;
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_number_has_asked_too_often_the_page_says_how_long_to_wait() {
    let desk = Desk::with(&[("pairing.requests_per_number", "1")], Look::default()).await;
    let page = &desk.page;
    desk.ask_for(ANNA).await;
    desk.code().await;
    page.click("#cancel").await;
    desk.face("unlinked").await;
    desk.ask_for(ANNA).await;
    page.shows("#error-text", "Too many requests").await;
    page.until(
        "/^Again in (60|59) minutes$/.test(document.getElementById('get-code').textContent)",
    )
    .await;
    page.choose("#language", "ru").await;
    page.until(
        "/^Снова через (60|59) минут$/.test(document.getElementById('get-code').textContent)",
    )
    .await;
    assert_eq!(desk.rig.sim.hellos(ANNA), 1);
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_whatsapp_a_request_says_so_and_can_be_repeated() {
    let desk = Desk::with(&[("whatsapp.connect_timeout", "2")], Look::default()).await;
    let page = &desk.page;
    let silent = Fault::delay(Step::Open, Duration::from_mins(1));
    desk.rig.sim.fault(silent.standing());
    desk.ask_for(ANNA).await;
    page.shows("#connecting-h", "Getting the code").await;
    page.picture("connecting-en-1280-light").await;
    page.shows("#error-text", "WhatsApp cannot be reached")
        .await;
    desk.face("unlinked").await;
    page.picture("unreachable-en-1280-light").await;
    desk.rig.sim.clear_faults();
    page.click("#get-code").await;
    desk.code().await;
    desk.leave().await;
}
