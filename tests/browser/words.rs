//! Plurals, times and numbers as each language writes them; what a browser needs to install the page.

use serde_json::{Value, json};

use crate::chrome::Look;
use crate::desk::Desk;

async fn said(desk: &Desk, expression: &str) -> Value {
    let script =
        format!("return import('/js/i18n.js').then(({{ t, soon, countryName }}) => {expression})");
    desk.page.js(&script, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn plural_forms_and_times_are_right_in_both_languages() {
    let look = Look {
        languages: "ru",
        ..Look::default()
    };
    let desk = Desk::with(&[], look).await;
    let seconds = "[0, 1, 2, 4, 5, 11, 12, 21, 22, 25, 101, 111, 122].map((n) => n + ' ' + t('code.left', { n }))";
    assert_eq!(
        said(&desk, seconds).await,
        json!([
            "0 секунд осталось",
            "1 секунда осталась",
            "2 секунды осталось",
            "4 секунды осталось",
            "5 секунд осталось",
            "11 секунд осталось",
            "12 секунд осталось",
            "21 секунда осталась",
            "22 секунды осталось",
            "25 секунд осталось",
            "101 секунда осталась",
            "111 секунд осталось",
            "122 секунды осталось",
        ])
    );
    let linked = "[1, 3, 7, 21].map((n) => t('health.linked', { n }))";
    assert_eq!(
        said(&desk, linked).await,
        json!([
            "На связи 1 номер",
            "На связи 3 номера",
            "На связи 7 номеров",
            "На связи 21 номер"
        ])
    );
    let again = "[1, 3, 90, 91, 1260, 3400].map((n) => t('again', { when: soon(n) }))";
    assert_eq!(
        said(&desk, again).await,
        json!([
            "Снова через 1 секунду",
            "Снова через 3 секунды",
            "Снова через 90 секунд",
            "Снова через 2 минуты",
            "Снова через 21 минуту",
            "Снова через 57 минут",
        ])
    );
    assert_eq!(said(&desk, "countryName('DE')").await, "Германия");

    desk.page.choose("#language", "en").await;
    desk.page
        .shows("section:not([hidden]) h2", "Link WhatsApp")
        .await;
    assert_eq!(
        said(
            &desk,
            "[1, 2, 21].map((n) => n + ' ' + t('code.left', { n }))"
        )
        .await,
        json!(["1 second left", "2 seconds left", "21 seconds left"])
    );
    assert_eq!(
        said(&desk, again).await,
        json!([
            "Again in 1 second",
            "Again in 3 seconds",
            "Again in 90 seconds",
            "Again in 2 minutes",
            "Again in 21 minutes",
            "Again in 57 minutes",
        ])
    );
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_settings_language_wins_over_the_browsers_and_the_chosen_one_over_both() {
    let desk = Desk::with(&[("language", "ru"), ("country", "DE")], Look::default()).await;
    let page = &desk.page;
    page.shows("section:not([hidden]) h2", "Привязать WhatsApp")
        .await;
    page.shows("#country-shown", "+49").await;
    page.choose("#language", "en").await;
    page.shows("section:not([hidden]) h2", "Link WhatsApp")
        .await;
    page.reload().await;
    page.shows("section:not([hidden]) h2", "Link WhatsApp")
        .await;
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_can_be_installed() {
    let desk = Desk::new().await;
    let page = &desk.page;
    let manifest = page.cdp("Page.getAppManifest", json!({})).await;
    assert_eq!(manifest["errors"], json!([]));
    let text = manifest["data"].as_str().expect("a manifest");
    let read: Value = serde_json::from_str(text).expect("JSON");
    assert_eq!(
        (&read["name"], &read["start_url"]),
        (&json!("Hairpin"), &json!("/"))
    );
    assert_eq!(read["display"], "standalone");
    let missing = page.cdp("Page.getInstallabilityErrors", json!({})).await;
    assert_eq!(missing["installabilityErrors"], json!([]));
    for icon in [
        "document.querySelector('link[rel=icon]').href",
        "'/icon.svg'",
    ] {
        let kind = page
            .value(&format!(
                "fetch({icon}).then((answer) => answer.headers.get('content-type'))"
            ))
            .await;
        assert_eq!(kind, "image/svg+xml");
    }
    desk.leave().await;
}
