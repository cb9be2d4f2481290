//! Every face of the page, looked at from all sides: nothing too wide, nothing that axe finds, a picture of each.

use std::time::Duration;

use hairpin_sim::{Fault, Kick, Step};

use crate::chrome::Look;
use crate::desk::Desk;
use crate::inspect::{look_around, look_in, speak};
use crate::rig::{ANNA, BORIS};

#[tokio::test(flavor = "multi_thread")]
async fn the_door_and_the_form_look_right_from_all_sides() {
    let mut desk = Desk::closed(&[], Look::default()).await;
    desk.expected = vec!["401 /api/v1/sessions", "401 /login", "422 /api/v1/phone"];
    let page = &desk.page;
    page.go(&format!("http://{}/", desk.rig.address)).await;
    desk.face("login").await;
    look_around(&desk, "login").await;
    page.type_in("#access-key", "not-the-key").await;
    page.click("#login-button").await;
    page.shows("#error-text", "This key does not fit").await;
    look_in(&desk, "login-refused", "en").await;

    desk.open().await;
    page.reload().await;
    desk.face("unlinked").await;
    look_around(&desk, "unlinked").await;
    page.type_in("#phone", "8 900 123-45-67").await;
    page.shows("#verdict.good", "+7 900").await;
    look_around(&desk, "number-read").await;
    for (language, told) in [("en", "no such number"), ("ru", "не бывает")] {
        speak(&desk, language).await;
        page.type_in("#phone", "1111111111").await;
        page.shows("#verdict.bad", told).await;
        page.click("#get-code").await;
        page.shows("#verdict.bad", told).await;
        look_in(&desk, "number-refused", language).await;
    }
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_code_and_what_leads_to_it_look_right_from_all_sides() {
    let desk = Desk::with(&[("whatsapp.connect_timeout", "300")], Look::default()).await;
    let page = &desk.page;
    desk.rig.link("salon", BORIS).await;
    let phone = desk.rig.sim.phone(BORIS);
    phone.remove_device(phone.devices()[0].id).await;
    desk.face("trouble").await;
    page.shows("#trouble-h", "The phone ended the link").await;
    page.click("#trouble-action").await;

    let slow = Fault::delay(Step::Open, Duration::from_mins(5));
    desk.rig.sim.fault(slow);
    desk.ask_for(ANNA).await;
    page.shows("#connecting-h", "Getting the code").await;
    look_around(&desk, "asking").await;
    page.click("#stop").await;
    desk.face("unlinked").await;

    // The note about the old link belongs to the request that removed it, so there is another old link.
    desk.rig.link("salon", BORIS).await;
    desk.face("linked").await;
    page.click("#link-other").await;
    desk.ask_for(ANNA).await;
    page.click("#dialog-yes").await;
    let code = desk.code().await;
    page.until("document.querySelector('#qr svg')").await;
    page.shows("#replaced", "79007***321").await;
    look_around(&desk, "code").await;

    desk.rig
        .sim
        .phone(ANNA)
        .send_primary_hello_only(&code)
        .await
        .expect("taken");
    desk.face("linking").await;
    look_around(&desk, "linking").await;
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_linked_face_its_questions_and_panels_look_right_from_all_sides() {
    let desk = Desk::new().await;
    let page = &desk.page;
    desk.link(ANNA).await;
    look_around(&desk, "linked").await;
    page.click("#sessions summary").await;
    page.click("#journal summary").await;
    page.until("document.querySelectorAll('#journal-list li').length > 2")
        .await;
    look_around(&desk, "panels").await;
    for language in ["en", "ru"] {
        speak(&desk, language).await;
        page.click("#unlink").await;
        look_in(&desk, "unlink-question", language).await;
        page.click("#dialog-no").await;
        page.click("#session-add").await;
        look_in(&desk, "name-question", language).await;
        page.click("#dialog-no").await;
        page.click("#link-other").await;
        desk.ask_for(BORIS).await;
        page.until("document.querySelector('dialog[open]')").await;
        look_in(&desk, "replace-question", language).await;
        page.click("#dialog-no").await;
        desk.ask_for(ANNA).await;
        page.until("document.querySelector('#relink').checkVisibility()")
            .await;
        look_in(&desk, "already-linked", language).await;
        page.click("#back").await;
        desk.face("linked").await;
    }
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_ended_and_what_there_is_instead_look_right_from_all_sides() {
    let desk = Desk::with(&[("pairing.code_ttl", "12")], Look::default()).await;
    let page = &desk.page;
    desk.ask_for(ANNA).await;
    page.shows("#over-h", "The code has run out").await;
    look_around(&desk, "expired").await;

    desk.rig.sim.fault(Fault::refuse_hello(452));
    page.click("#new-code").await;
    desk.face("trouble").await;
    page.shows("#trouble-h", "WhatsApp gives no code").await;
    page.until("document.querySelector('#qr svg')?.checkVisibility()")
        .await;
    assert_eq!(page.text("#error").await, "", "told once");
    look_around(&desk, "awaiting-scan").await;
    page.click("#trouble-action").await;
    desk.face("unlinked").await;

    desk.rig.sim.clear_faults();
    desk.ask_for(ANNA).await;
    desk.code().await;
    desk.rig.sim.kick(ANNA, &Kick::Passkey);
    page.shows("#trouble-h", "WhatsApp asks for a passkey")
        .await;
    assert_eq!(page.text("#error").await, "", "told once");
    look_around(&desk, "passkey-required").await;
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_trouble_of_a_link_looks_right_from_all_sides() {
    let desk = Desk::new().await;
    let failure = |reason, expire| Kick::Failure { reason, expire };
    for (name, told, kick) in [
        (
            "logged-out",
            "The phone ended the link",
            Kick::DeviceRemoved,
        ),
        ("replaced", "The link is used elsewhere", Kick::Replaced),
        (
            "banned",
            "WhatsApp blocked the number",
            failure(402, Some(86_400)),
        ),
        ("locked", "The account is locked", failure(403, None)),
        ("outdated", "Hairpin needs an update", failure(405, None)),
        ("failed", "Something went wrong", failure(413, None)),
        ("reconnecting", "Reconnecting", Kick::Cut),
    ] {
        desk.rig.link("salon", ANNA).await;
        desk.face("linked").await;
        if kick == Kick::Cut {
            // An outage, so that it stays like this.
            desk.rig.sim.stop().await;
        } else {
            desk.rig.sim.kick(ANNA, &kick);
        }
        desk.page.shows("#trouble-h", told).await;
        assert_ne!(desk.page.text("#trouble-action").await, "");
        assert_eq!(
            desk.page
                .value("[...document.querySelectorAll('main button:not(.link)')].filter((one) => one.checkVisibility()).length")
                .await,
            1,
            "{name}: one button"
        );
        look_around(&desk, name).await;
        let unlinked = desk
            .rig
            .ask("DELETE", "/api/v1/sessions/salon/link", None)
            .await;
        assert_eq!(unlinked.status, 204, "{name}");
        desk.face("unlinked").await;
    }
    // Unlinked here, but WhatsApp could not be told.
    desk.page.shows("#unlinked-why", "remove this device").await;
    look_around(&desk, "unlinked-untold").await;
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_troubles_of_the_appliance_itself_look_right_from_all_sides() {
    let mut desk = Desk::new().await;
    let page = &desk.page;
    // A crash between the phone's acceptance and the first login.
    desk.ask_for(ANNA).await;
    desk.code().await;
    let epoch = desk.rig.stored("salon").await.expect("asked for").epoch;
    desk.rig
        .in_store(async |store| {
            let half = Box::new(|row: &mut hairpin::store::LinkRow| row.finishing = true);
            store
                .update_link("salon", epoch, half, Vec::new())
                .await
                .expect("written")
        })
        .await;
    desk.rig.start().await;
    desk.open().await;
    page.shows("#trouble-h", "Linked only halfway").await;
    look_around(&desk, "half-linked").await;

    desk.rig.stop().await;
    let file = desk.rig.data().join("hairpin.redb");
    std::fs::write(&file, vec![0x5a; 1 << 16]).expect("damaged");
    desk.rig.start().await;
    desk.open().await;
    page.shows("#trouble-h", "Hairpin cannot save").await;
    look_around(&desk, "store-unavailable").await;

    for language in ["en", "ru"] {
        speak(&desk, language).await;
        desk.rig.stop().await;
        desk.face("noserver").await;
        look_in(&desk, "no-server", language).await;
        desk.rig.start().await;
        desk.open().await;
        desk.face("trouble").await;
    }
    desk.page.close().await;
}
