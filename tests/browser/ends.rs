//! How a code can end, other than by linking: told in words, with one button for the next.

use hairpin_sim::{Fault, Kick, Sim, SimConfig, Step};
use serde_json::json;

use crate::chrome::Look;
use crate::desk::Desk;
use crate::inspect::speak;
use crate::rig::{ANNA, BORIS, Rig};

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_whatsapp_or_the_phone_ended_says_why_and_offers_the_next() {
    // The phone may try as often as it likes; the appliance counts.
    let phone = SimConfig {
        tries_per_code: 9,
        ..SimConfig::default()
    };
    let rig = async { Rig::with_sim(Sim::start_with(phone).await, &[]).await };
    let desk = Desk::around(rig, Look::default()).await;
    desk.open().await;
    desk.face("unlinked").await;
    let (page, sim) = (&desk.page, &desk.rig.sim);
    desk.ask_for(ANNA).await;
    let mut shown = Vec::new();
    for (language, [failed, refresh, attempts, button]) in [
        (
            "en",
            [
                "The linking did not succeed",
                "WhatsApp withdrew the code",
                "The code was mistyped too often",
                "Get a new code",
            ],
        ),
        (
            "ru",
            [
                "Привязать не получилось",
                "WhatsApp отозвал код",
                "Код слишком много раз ввели неверно",
                "Получить новый код",
            ],
        ),
    ] {
        desk.code().await;
        speak(&desk, language).await;
        for told in [failed, refresh, attempts] {
            let code = desk.code().await;
            assert!(!shown.contains(&code), "a code of its own each time");
            if told == failed {
                sim.fault(Fault::cut(Step::Finish));
                assert!(sim.phone(ANNA).enter_code(&code).await.is_err());
            } else if told == refresh {
                let force_manual = false;
                sim.kick(ANNA, &Kick::RefreshCode { force_manual });
            } else {
                for _ in 0..4 {
                    assert!(sim.phone(ANNA).enter_code("ABCD2345").await.is_err());
                }
            }
            page.shows("#over-h", told).await;
            assert_eq!(page.text("section:not([hidden]) .main").await, button);
            assert!(page.title().await.starts_with(told), "a tab tells it");
            page.click("#new-code").await;
            shown.push(code);
        }
    }
    let code = desk.code().await;
    sim.phone(ANNA).enter_code(&code).await.expect("linked");
    desk.face("linked").await;
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_for_another_number_that_somebody_else_asked_for_is_told_as_such() {
    let desk = Desk::new().await;
    let page = &desk.page;
    desk.ask_for(ANNA).await;
    let first = desk.code().await;
    page.js(
        "window.told = [];
        new MutationObserver(() => window.told.push(document.getElementById('live').textContent))
            .observe(document.getElementById('live'), { childList: true, characterData: true, subtree: true });",
        &[],
    )
    .await;
    let second = desk.rig.code("salon", BORIS, None).await.json()["code"].clone();
    page.until(&format!(
        "document.getElementById('code').dataset.code === {second}"
    ))
    .await;
    assert_ne!(second, json!(first));
    page.shows("#replaced", "A code for another number was asked for")
        .await;
    page.shows("#code-for", "79007***321").await;
    page.until(
        "window.told.some((text) => /^A code for another number was asked for Code: /.test(text))",
    )
    .await;
    page.picture("superseded-en-1280-light").await;

    // Whoever asks for another number in this page knows that.
    page.click("#cancel").await;
    desk.ask_for(ANNA).await;
    desk.code().await;
    let told = page.text("#replaced").await;
    assert_eq!(told, "An unfinished link to 79007***321 was removed.");
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_scanned_by_another_phone_links_nothing_and_says_so() {
    let desk = Desk::new().await;
    let page = &desk.page;
    desk.ask_for(ANNA).await;
    desk.code().await;
    page.until("document.querySelector('#qr svg')?.checkVisibility()")
        .await;
    let mut other = desk.rig.page("salon").await;
    let qr = other.next_of("qr").await["data"]["value"].clone();
    let scanned = desk.rig.sim.phone(BORIS);
    let scanned = scanned.scan_qr(qr.as_str().expect("a picture")).await;
    scanned.expect("any phone can");
    page.shows("#error-text", "Another number").await;
    desk.rig.state("salon", "UNLINKED").await;
    page.picture("wrong-phone-en-1280-light").await;
    assert_eq!(desk.rig.sim.phone(BORIS).devices().len(), 0);
    desk.leave().await;
}
