//! The main job on the page: from a typed number to a linked phone, in both languages, and unlinked again.

use std::time::Duration;

use hairpin_sim::{Fault, Step};
use serde_json::json;

use crate::chrome::Look;
use crate::desk::{Desk, on};
use crate::rig::ANNA;

#[tokio::test(flavor = "multi_thread")]
async fn a_number_typed_becomes_a_code_in_large_letters_and_the_code_a_link() {
    let mut desk = Desk::new().await;
    // A number that is not whole yet.
    desk.expected = vec!["422 /api/v1/phone"];
    let page = &desk.page;
    assert_eq!(
        page.value("location.hash").await,
        "",
        "the key is gone from the address"
    );
    assert_eq!(page.focus().await, "phone");
    assert!(page.title().await.starts_with("Not linked"));

    page.type_in("#phone", "8 900 123").await;
    page.shows("#verdict", "Go on").await;
    page.type_in("#phone", "8 900 123-45-67").await;
    page.shows("#verdict.good", "+7 900 123-45-67").await;
    page.picture("unlinked-en-1280-light").await;
    page.click("#get-code").await;

    let code = desk.code().await;
    assert_eq!(
        page.text("#code").await.replace('\n', ""),
        code.replace('-', "")
    );
    let letter = page
        .value("Math.min(...[...document.querySelectorAll('#code b')].map((b) => parseFloat(getComputedStyle(b).fontSize)))")
        .await;
    assert!(
        letter.as_f64().expect("a size") >= 48.0,
        "large letters, not {letter}"
    );
    assert_eq!(
        page.value("document.querySelectorAll('#code b').length")
            .await,
        8
    );
    assert_eq!(page.text("#code-for").await, "For the number 79001***567");
    let left = page
        .text("#countdown")
        .await
        .parse::<u32>()
        .expect("seconds");
    assert!(
        (150..=170).contains(&left),
        "180 s less 10 s of grace, not {left}"
    );
    page.until(&format!(
        "Number(document.getElementById('countdown').textContent) < {left}"
    ))
    .await;
    assert_eq!(
        page.value("document.querySelectorAll('.steps li').length")
            .await,
        4
    );
    page.shows(".steps", "three dots").await;
    page.click("[name=os][value=iphone] + span").await;
    page.shows(".steps", "Settings").await;
    page.until("document.querySelector('#qr svg')").await;
    page.picture("code-en-1280-light").await;

    page.cdp(
        "Browser.grantPermissions",
        json!({ "permissions": ["clipboardReadWrite"] }),
    )
    .await;
    page.click("#copy-code").await;
    page.shows("#copy-code", "Copied").await;
    assert_eq!(
        page.value("navigator.clipboard.readText()").await,
        code.replace('-', ""),
        "the phone's field has a dash of its own"
    );

    // The phone takes its time, so that linking can be seen.
    desk.rig
        .sim
        .fault(Fault::delay(Step::PairSuccess, Duration::from_millis(1500)));
    let phone = desk.rig.sim.phone(ANNA);
    let (linked, ()) = tokio::join!(phone.enter_code(&code), async {
        desk.face("linking").await;
        assert_eq!(
            page.value("document.getElementById('main').dataset.state")
                .await,
            "LINKING"
        );
        page.picture("linking-en-1280-light").await;
    });
    linked.expect("linked");
    desk.face("linked").await;
    for _ in 0..2 {
        page.until("document.getElementById('main').dataset.state === 'CONNECTED'")
            .await;
        assert_eq!(page.text("#linked-phone").await, "79001***567");
        assert!(page.title().await.starts_with("Linked"));
        page.picture("linked-en-1280-light").await;
        // What was typed is nowhere any more.
        for full in ["9001234567", "900 123"] {
            let held = page
                .js(
                    "return document.documentElement.outerHTML.includes(arguments[0])
                        || document.getElementById('phone').value.includes(arguments[0])",
                    &[full.into()],
                )
                .await;
            assert_eq!(held, false, "{full}");
        }
        page.reload().await;
        desk.face("linked").await;
    }
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_is_shown_is_still_the_same_after_a_reload_and_a_cancel_ends_it() {
    let desk = Desk::new().await;
    let page = &desk.page;
    desk.ask_for("+7 900 123-45-67").await;
    let code = desk.code().await;
    let left: u32 = page.text("#countdown").await.parse().expect("seconds");
    page.reload().await;
    assert_eq!(desk.code().await, code);
    let now: u32 = page.text("#countdown").await.parse().expect("seconds");
    assert!(now <= left && now + 10 > left, "{now} of {left}");
    page.click("#cancel").await;
    desk.face("unlinked").await;
    assert_eq!(page.focus().await, "phone");
    assert!(
        desk.rig.sim.phone(ANNA).enter_code(&code).await.is_err(),
        "it links nothing any more"
    );
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_speaks_the_browsers_language_and_keeps_the_one_that_is_chosen() {
    let look = Look {
        languages: "ru-RU,ru,en",
        ..Look::default()
    };
    let mut desk = Desk::with(&[], look).await;
    let page = &desk.page;
    page.shows("section:not([hidden]) h2", "Привязать WhatsApp")
        .await;
    assert_eq!(page.value("document.documentElement.lang").await, "ru");
    assert!(page.title().await.starts_with("Не привязан"));
    page.picture("unlinked-ru-1280-light").await;
    desk.ask_for("123").await;
    page.shows("#verdict.bad", "не хватает цифр").await;
    desk.ask_for("8 (900) 123-45-67").await;
    desk.code().await;
    page.shows("section:not([hidden]) h2", "Введите этот код на телефоне")
        .await;
    page.shows(".steps", "три точки").await;
    page.until("/^секунд[аы]? ост/.test(document.getElementById('countdown-unit').textContent)")
        .await;
    page.picture("code-ru-1280-light").await;

    page.choose("#language", "en").await;
    page.shows("section:not([hidden]) h2", "Type this code on the phone")
        .await;
    page.until(&on("code")).await;
    page.reload().await;
    page.shows("section:not([hidden]) h2", "Type this code on the phone")
        .await;
    assert_eq!(page.value("document.documentElement.lang").await, "en");
    desk.expected = vec!["422 /api/v1/phone"];
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_code_is_copied_over_plain_http_too_and_nothing_is_claimed_that_did_not_happen() {
    let desk = Desk::closed(&[], Look::default()).await;
    let page = &desk.page;
    // Over plain HTTP beyond the machine itself there is no clipboard to speak to.
    page.before_every_page(
        "Object.defineProperty(Navigator.prototype, 'clipboard', { value: undefined });",
    )
    .await;
    desk.open().await;
    desk.face("unlinked").await;
    desk.ask_for(ANNA).await;
    let code = desk.code().await;
    page.js(
        "window.copied = [];
        document.addEventListener('copy', () => window.copied.push(document.activeElement.value));",
        &[],
    )
    .await;
    page.click("#copy-code").await;
    page.shows("#copy-code", "Copied").await;
    assert_eq!(
        page.value("window.copied").await,
        json!([code.replace('-', "")])
    );
    assert_eq!(page.focus().await, "copy-code", "the focus is back");
    page.until("document.getElementById('copy-code').textContent === 'Copy'")
        .await;
    page.value("document.execCommand = () => false").await;
    page.click("#copy-code").await;
    page.shows("#copy-code", "That did not work").await;
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_is_written_as_its_country_does_while_it_is_typed() {
    let mut desk = Desk::new().await;
    desk.expected = vec!["422 /api/v1/phone"];
    let page = &desk.page;
    page.type_in("#phone", "89001234567").await;
    page.until("document.getElementById('phone').value === '+7 900 123-45-67'")
        .await;
    page.shows("#verdict.good", "+7 900 123-45-67").await;
    // Whoever mends a digit in the middle keeps the caret there.
    page.press("\u{e012}\u{e012}\u{e017}4").await;
    page.shows("#verdict.good", "+7 900 123-45-47").await;
    assert_eq!(
        page.value("[document.getElementById('phone').value, document.getElementById('phone').selectionStart]")
            .await,
        json!(["+7 900 123-45-47", 15])
    );
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tab_tells_the_state_by_its_icon_and_the_page_how_far_one_is() {
    let desk = Desk::new().await;
    let page = &desk.page;
    let icon = async |name: &str| {
        page.until(&format!(
            "document.querySelector('link[rel=icon]').getAttribute('href') === '{name}'"
        ))
        .await;
        let kind = format!("fetch('{name}').then((answer) => answer.headers.get('content-type'))");
        assert_eq!(page.value(&kind).await, "image/svg+xml");
    };
    let steps =
        "[...document.querySelectorAll('#way li')].map((one) => one.ariaCurrent ?? one.className)";
    icon("/icon.svg").await;
    assert_eq!(page.value(steps).await, json!(["step", "", ""]));
    desk.ask_for(ANNA).await;
    let code = desk.code().await;
    assert_eq!(page.value(steps).await, json!(["done", "step", ""]));
    let phone = desk.rig.sim.phone(ANNA);
    phone.enter_code(&code).await.expect("linked");
    desk.face("linked").await;
    icon("/icon-good.svg").await;
    assert_eq!(page.text("#way").await, "", "there is no way left to go");
    phone.remove_device(phone.devices()[0].id).await;
    desk.face("trouble").await;
    icon("/icon-bad.svg").await;
    page.click("#trouble-action").await;
    desk.face("unlinked").await;
    icon("/icon.svg").await;
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unlinking_asks_first_and_then_nothing_is_linked() {
    let desk = Desk::new().await;
    let page = &desk.page;
    desk.link(ANNA).await;
    page.click("#unlink").await;
    page.shows("#dialog[open] h2", "Unlink 79001***567?").await;
    assert_eq!(page.focus().await, "dialog-no", "the safe answer");
    page.picture("unlink-question-en-1280-light").await;
    page.click("#dialog-no").await;
    page.until("!document.querySelector('dialog[open]')").await;
    assert_eq!(page.focus().await, "unlink", "back where it was asked");
    assert_eq!(desk.rig.status("salon").await["state"], "CONNECTED");

    page.click("#unlink").await;
    page.press("\u{e00c}").await;
    page.until("!document.querySelector('dialog[open]')").await;
    assert_eq!(
        desk.rig.status("salon").await["state"],
        "CONNECTED",
        "Escape is the safe answer"
    );

    page.click("#unlink").await;
    page.click("#dialog-yes").await;
    desk.face("unlinked").await;
    assert_eq!(
        desk.rig.sim.phone(ANNA).devices().len(),
        0,
        "WhatsApp was told"
    );
    desk.leave().await;
}
