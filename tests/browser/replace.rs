//! Another number than the linked one: asked about, told, and never guessed.

use std::time::Duration;

use hairpin_sim::{Fault, Kick, Step};

use crate::chrome::Look;
use crate::desk::Desk;
use crate::rig::{ANNA, BORIS};

#[tokio::test(flavor = "multi_thread")]
async fn a_live_link_is_replaced_only_after_a_question_that_names_both_numbers() {
    let desk = Desk::new().await;
    let page = &desk.page;
    desk.link(ANNA).await;
    page.click("#link-other").await;
    desk.face("unlinked").await;
    desk.ask_for("8 900 765-43-21").await;
    page.shows("#dialog[open]", "79001***567 is linked now")
        .await;
    page.shows("#dialog[open] p", "+7 900 765-43-21").await;
    assert_eq!(page.text("#dialog-no").await, "Keep 79001***567");
    assert_eq!(
        page.text("#dialog-yes").await,
        "Replace with +7 900 765-43-21"
    );
    assert_eq!(page.focus().await, "dialog-no", "the safe answer");
    page.picture("replace-question-en-1280-light").await;

    page.click("#dialog-no").await;
    page.until("!document.querySelector('dialog[open]')").await;
    let status = desk.rig.status("salon").await;
    assert_eq!(
        (&status["state"], &status["phone"]),
        (&"CONNECTED".into(), &"79001***567".into())
    );
    assert_eq!(desk.rig.sim.phone(ANNA).devices().len(), 1);
    page.click("#back").await;
    desk.face("linked").await;

    // However fast and however bare it was typed.
    page.click("#link-other").await;
    desk.ask_for(BORIS).await;
    page.shows("#dialog[open]", "79001***567").await;
    assert_eq!(
        page.text("#dialog-yes").await,
        "Replace with +7 900 765-43-21"
    );
    page.click("#dialog-yes").await;
    let code = desk.code().await;
    page.shows(
        "#replaced",
        "An old link to 79001***567 was removed, because you asked for another number.",
    )
    .await;
    page.picture("replaced-en-1280-light").await;
    assert_eq!(
        desk.rig.sim.phone(ANNA).devices().len(),
        0,
        "WhatsApp was told"
    );
    desk.rig
        .sim
        .phone(BORIS)
        .enter_code(&code)
        .await
        .expect("linked");
    desk.face("linked").await;
    assert_eq!(page.text("#linked-phone").await, "79007***321");
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_changes_their_mind_before_the_old_link_is_gone_keeps_it() {
    let desk = Desk::with(&[("whatsapp.connect_timeout", "300")], Look::default()).await;
    let page = &desk.page;
    desk.link(ANNA).await;
    page.click("#link-other").await;
    // WhatsApp does not answer yet, and before it does nothing is given up.
    let slow = Fault::delay(Step::Register, Duration::from_mins(5));
    desk.rig.sim.fault(slow.standing());
    desk.ask_for(BORIS).await;
    page.click("#dialog-yes").await;
    page.shows("#connecting-h", "Getting the code").await;
    assert_eq!(desk.rig.status("salon").await["state"], "CONNECTED");
    page.click("#stop").await;
    desk.face("unlinked").await;
    assert_eq!(page.text("#error").await, "", "that was wanted");
    page.click("#back").await;
    desk.face("linked").await;
    assert_eq!(page.text("#linked-phone").await, "79001***567");
    assert_eq!(desk.rig.sim.phone(ANNA).devices().len(), 1);
    let journal = desk.rig.audit().await;
    assert!(
        journal
            .iter()
            .all(|entry| entry["what"] != "mismatch_wiped"),
        "{journal:?}"
    );
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_takes_a_live_links_place_can_be_cancelled_too() {
    let desk = Desk::new().await;
    let page = &desk.page;
    desk.link(ANNA).await;
    page.click("#link-other").await;
    // WhatsApp takes its time to forget the old link.
    desk.rig.sim.kick(ANNA, &Kick::FallSilent);
    desk.ask_for(BORIS).await;
    page.click("#dialog-yes").await;
    page.until("document.getElementById('main').dataset.state === 'CONNECTING'")
        .await;
    let status = desk.rig.status("salon").await;
    assert!(
        status["state"] == "CONNECTING" && status["lastConnected"].is_u64(),
        "the old link is being given up: {status}"
    );
    assert_eq!(page.text("#connecting-h").await, "Getting the code…");
    page.click("#stop").await;
    page.shows("#connecting-h", "One moment").await;
    assert_eq!(page.text("#stop").await, "", "once is enough");
    desk.face("unlinked").await;
    desk.rig.state("salon", "UNLINKED").await;
    assert_eq!(page.text("#error").await, "", "that was wanted");
    desk.link(BORIS).await;
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_of_another_number_is_told_beside_the_code() {
    let desk = Desk::new().await;
    let page = &desk.page;
    desk.link(BORIS).await;
    let phone = desk.rig.sim.phone(BORIS);
    phone.remove_device(phone.devices()[0].id).await;
    desk.face("trouble").await;
    page.shows("#trouble-h", "The phone ended the link").await;
    page.picture("logged-out-en-1280-light").await;
    page.click("#trouble-action").await;
    desk.face("unlinked").await;
    desk.ask_for(ANNA).await;
    let code = desk.code().await;
    page.shows("#replaced", "An old link to 79007***321 was removed")
        .await;
    desk.rig
        .sim
        .phone(ANNA)
        .enter_code(&code)
        .await
        .expect("linked");
    desk.face("linked").await;
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_linked_number_itself_is_told_to_be_linked_and_can_be_linked_anew() {
    let desk = Desk::new().await;
    let page = &desk.page;
    desk.link(ANNA).await;
    page.click("#link-other").await;
    desk.ask_for("+7 900 123-45-67").await;
    page.shows("#error-text", "This number is linked already")
        .await;
    page.picture("already-linked-en-1280-light").await;
    page.click("#relink").await;
    page.shows("#dialog[open]", "79001***567").await;
    page.click("#dialog-yes").await;
    let code = desk.code().await;
    desk.rig
        .sim
        .phone(ANNA)
        .enter_code(&code)
        .await
        .expect("linked");
    desk.face("linked").await;
    assert_eq!(
        desk.rig.sim.phone(ANNA).devices().len(),
        1,
        "the old one is gone"
    );
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_asked_again_at_once_is_not_answered_by_what_is_left_of_the_first() {
    let desk = Desk::new().await;
    let page = &desk.page;
    desk.link(ANNA).await;
    // A browser tells of a dialog's closing later: here after the next question has been opened.
    page.js(
        "const dialog = document.getElementById('dialog');
        window.closings = 0;
        dialog.addEventListener('close', () => { window.closings += 1; });
        for (const id of ['unlink', 'dialog-no', 'unlink']) document.getElementById(id).click();",
        &[],
    )
    .await;
    page.until("window.closings === 1").await;
    page.shows("#dialog[open]", "79001***567").await;
    page.click("#dialog-yes").await;
    desk.face("unlinked").await;
    assert_eq!(desk.rig.sim.phone(ANNA).devices().len(), 0);
    desk.leave().await;
}
