//! Other ways to look at the page: large text, no motion, paper, and no script at all.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hairpin_sim::{Fault, Step};
use serde_json::json;

use crate::chrome::{Look, keep};
use crate::desk::Desk;
use crate::inspect::{axe, fits};
use crate::rig::{ANNA, BORIS};

#[tokio::test(flavor = "multi_thread")]
async fn text_of_twice_the_size_breaks_nothing() {
    let look = Look {
        text: 200,
        ..Look::default()
    };
    let desk = Desk::with(&[], look).await;
    let page = &desk.page;
    let size = page
        .value("getComputedStyle(document.documentElement).fontSize")
        .await;
    assert_eq!(size, "32px");
    let everywhere = async |name: &str| {
        for width in [320, 768, 1280] {
            page.width(width).await;
            let view = format!("{name}-large-{width}");
            fits(&desk, &view).await;
            page.picture(&view).await;
        }
        axe(&desk, name).await;
    };
    everywhere("unlinked").await;
    desk.ask_for(ANNA).await;
    let code = desk.code().await;
    everywhere("code").await;
    desk.rig
        .sim
        .phone(ANNA)
        .enter_code(&code)
        .await
        .expect("linked");
    desk.face("linked").await;
    everywhere("linked").await;
    page.click("#link-other").await;
    desk.ask_for(BORIS).await;
    page.until("document.querySelector('dialog[open]')").await;
    everywhere("replace-question").await;
    page.click("#dialog-no").await;
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_wants_no_motion_sees_none() {
    let desk = Desk::new().await;
    let page = &desk.page;
    desk.rig
        .sim
        .fault(Fault::delay(Step::Open, Duration::from_secs(15)));
    desk.ask_for(ANNA).await;
    page.shows("#connecting-h", "Getting the code").await;
    page.until("document.getAnimations().length === 3").await;
    page.media("", &[("prefers-reduced-motion", "reduce")])
        .await;
    page.until("document.getAnimations().length === 0").await;
    page.click("#stop").await;
    desk.face("unlinked").await;
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_code_can_be_printed_on_one_sheet() {
    let look = Look {
        dark: true,
        ..Look::default()
    };
    let desk = Desk::with(&[], look).await;
    let page = &desk.page;
    desk.ask_for(ANNA).await;
    desk.code().await;
    page.until("document.querySelector('#qr svg')").await;
    page.media("print", &[("prefers-color-scheme", "dark")])
        .await;
    page.shows("#valid-until", "Valid until").await;
    assert_eq!(
        page.value("document.querySelectorAll('#code b').length")
            .await,
        8
    );
    assert_eq!(
        page.value("[...document.querySelectorAll('button, select, footer, .clock, [type=radio] + span')].filter((one) => one.checkVisibility()).length")
            .await,
        0,
        "nothing that paper cannot do"
    );
    let [paper, ink] = ["--card", "--ink"].map(|name| {
        format!("getComputedStyle(document.documentElement).getPropertyValue('{name}')")
    });
    assert_eq!(page.value(&paper).await, "#fff", "dark or not");
    assert_eq!(page.value(&ink).await, "#2a2029");
    page.picture("code-on-paper").await;
    let printed = page
        .cdp(
            "Page.printToPDF",
            json!({ "paperWidth": 8.27, "paperHeight": 11.69 }),
        )
        .await;
    let data = printed["data"].as_str().expect("a PDF");
    let pdf = BASE64_STANDARD.decode(data).expect("base64");
    let text = String::from_utf8_lossy(&pdf);
    let pages = text.matches("/Type /Page\n").count() + text.matches("/Type /Page\r").count();
    assert_eq!(pages, 1);
    keep("code.pdf", &pdf);
    page.media("", &[]).await;
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_high_contrast_everything_that_colours_told_is_told_by_lines() {
    let desk = Desk::new().await;
    let page = &desk.page;
    let contrast = [
        ("forced-colors", "active"),
        ("prefers-color-scheme", "dark"),
    ];
    page.media("", &contrast).await;
    assert_eq!(
        page.value("matchMedia('(forced-colors: active)').matches")
            .await,
        true
    );
    page.picture("unlinked-contrast").await;
    desk.ask_for(ANNA).await;
    let code = desk.code().await;
    page.until("document.querySelector('#qr svg')").await;
    let style =
        |css: &str, what: &str| format!("getComputedStyle(document.querySelector('{css}')).{what}");
    let chosen = style(".pick :checked + span", "borderTopWidth");
    assert_eq!(page.value(&chosen).await, "3px");
    let other = style(".pick :not(:checked) + span", "borderTopWidth");
    assert_eq!(page.value(&other).await, "0px");
    let tile = style("#code b", "borderTopWidth");
    assert_eq!(page.value(&tile).await, "2px");
    let ground = style("#qr", "backgroundColor");
    assert_eq!(
        page.value(&ground).await,
        "rgb(255, 255, 255)",
        "a camera wants black on white"
    );
    page.picture("code-contrast").await;
    let phone = desk.rig.sim.phone(ANNA);
    phone.enter_code(&code).await.expect("linked");
    desk.face("linked").await;
    page.click("#sessions summary").await;
    let dot = style("#session-list .dot", "backgroundColor");
    assert_ne!(page.value(&dot).await, "rgba(0, 0, 0, 0)");
    page.picture("linked-contrast").await;
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_script_the_page_says_what_to_do() {
    let desk = Desk::closed(&[], Look::default()).await;
    let page = &desk.page;
    page.cdp(
        "Emulation.setScriptExecutionDisabled",
        json!({ "value": true }),
    )
    .await;
    page.go(&format!("http://{}/", desk.rig.address)).await;
    page.picture("no-script-en-1280-light").await;
    page.cdp(
        "Emulation.setScriptExecutionDisabled",
        json!({ "value": false }),
    )
    .await;
    let idle = "[...document.querySelectorAll('select, button, .dots')].filter((one) => one.checkVisibility()).length";
    assert_eq!(
        page.value(idle).await,
        0,
        "nothing that does nothing, nothing that seems to work"
    );
    let main = page.text("main").await;
    assert!(
        main.contains("needs JavaScript") && main.contains("hairpin link"),
        "{main}"
    );
    assert!(main.contains("нужен JavaScript"), "{main}");
    desk.leave().await;
}
