//! A server that goes away and comes back, and tabs beside each other: always the present truth, by itself.

use std::time::Duration;

use crate::chrome::Look;
use crate::desk::Desk;
use crate::rig::{ANNA, BORIS};

#[tokio::test(flavor = "multi_thread")]
async fn a_page_outlives_a_restart_of_the_appliance_and_says_so_meanwhile() {
    let mut desk = Desk::new().await;
    desk.pin();
    desk.outage = true;
    desk.ask_for(ANNA).await;
    desk.code().await;
    desk.page.value("window.here = 1").await;
    desk.rig.stop().await;
    desk.page
        .shows("#notice", "The connection is lost. Trying again")
        .await;
    desk.face("noserver").await;
    desk.page
        .shows("#trouble-h", "Hairpin does not answer")
        .await;
    desk.page.picture("lost-en-1280-light").await;
    assert!(
        desk.page
            .title()
            .await
            .starts_with("Hairpin does not answer")
    );
    // The language is asked of the server, which is away: the page stays as it is.
    desk.page.choose("#language", "ru").await;
    desk.page
        .until("document.getElementById('language').value === 'en'")
        .await;

    desk.rig.start().await;
    // Codes live in memory: after a restart there is none, and the page must not show one.
    desk.face("unlinked").await;
    desk.page
        .until("!document.getElementById('notice').textContent")
        .await;
    assert_eq!(
        desk.page
            .value("document.getElementById('code').dataset.code")
            .await,
        ""
    );
    desk.link(ANNA).await;

    desk.rig.stop().await;
    desk.face("noserver").await;
    desk.rig.start().await;
    desk.face("linked").await;
    assert_eq!(
        desk.page.value("window.here").await,
        1,
        "nobody had to reload"
    );
    assert_eq!(desk.page.text("#linked-phone").await, "79001***567");

    // Whoever cannot wait presses the button.
    desk.rig.stop().await;
    desk.face("noserver").await;
    desk.rig.start().await;
    // By script: the page may be back by itself before a mouse could get there.
    desk.page
        .js("document.getElementById('trouble-action').click()", &[])
        .await;
    desk.face("linked").await;
    desk.leave().await;
}

/// What comes over the first connection is lost from the moment that the test says so.
const DEAF: &str = "let first = true;
        window.WebSocket = class extends WebSocket {
            set onmessage(hear) {
                const mine = first;
                first = false;
                this.addEventListener('message', (event) => (mine && window.deaf) || hear(event));
            }
        };";

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_went_deaf_is_found_out_when_somebody_looks() {
    let desk = Desk::closed(&[], Look::default()).await;
    let page = &desk.page;
    page.before_every_page(DEAF).await;
    desk.open().await;
    desk.face("unlinked").await;
    page.value("window.deaf = true").await;
    desk.rig.link("salon", ANNA).await;
    desk.face("unlinked").await;
    page.js("document.dispatchEvent(new Event('visibilitychange'))", &[])
        .await;
    desk.face("linked").await;
    assert_eq!(page.text("#linked-phone").await, "79001***567");
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_still_on_its_way_is_left_alone() {
    // On a busy machine the answer over HTTP comes before the new socket is through.
    let desk = Desk::closed(&[], Look::default()).await;
    let page = &desk.page;
    page.before_every_page(&format!(
        "{DEAF}
        window.dials = 0;
        window.WebSocket = class extends WebSocket {{
            slow = window.deaf;
            constructor(...given) {{
                super(...given);
                window.dials += 1;
            }}
            get readyState() {{ return this.slow ? WebSocket.CONNECTING : super.readyState; }}
            set onopen(hear) {{ super.onopen = () => this.slow || hear(); }}
            set onmessage(hear) {{ super.onmessage = (event) => this.slow || hear(event); }}
        }};"
    ))
    .await;
    desk.open().await;
    desk.face("unlinked").await;
    page.value("window.deaf = true").await;
    desk.rig.link("salon", ANNA).await;
    let asked = "performance.getEntriesByType('resource').filter((one) => one.name.endsWith('/sessions')).length";
    let before = page.value(asked).await;
    page.js("document.dispatchEvent(new Event('visibilitychange'))", &[])
        .await;
    page.until(&format!("{asked} > {before}")).await;
    // What the answer leads to is done before a later question has its own.
    page.value("fetch('/healthz').then((answer) => answer.text())")
        .await;
    assert_eq!(page.value("window.dials").await, 2);
    page.value("window.deaf = false").await;
    page.js("dispatchEvent(new Event('online'))", &[]).await;
    desk.face("linked").await;
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_comes_back_into_sight_never_shows_a_code_that_is_dead() {
    // However it comes back: a tab that was hidden for a while, the way back from another page, a network that returns.
    for (back, comes) in [
        (
            "document.dispatchEvent(new Event('visibilitychange'))",
            "a tab",
        ),
        (
            "dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))",
            "a page",
        ),
        ("dispatchEvent(new Event('online'))", "a network"),
    ] {
        let desk = Desk::closed(&[], Look::default()).await;
        let page = &desk.page;
        page.before_every_page(&format!(
            "{DEAF}
            const now = Date.now.bind(Date);
            Date.now = () => now() + (window.later || 0);
            const steady = performance.now.bind(performance);
            performance.now = () => steady() + (window.later || 0);"
        ))
        .await;
        desk.open().await;
        desk.face("unlinked").await;
        desk.ask_for(ANNA).await;
        desk.code().await;
        page.js(
            "window.deaf = true;
            Object.defineProperty(document, 'hidden', { get: () => window.away, configurable: true });
            window.away = true;
            document.dispatchEvent(new Event('visibilitychange'));",
            &[],
        )
        .await;
        // The state is the same, the code is another.
        let other = desk.rig.code("salon", BORIS, None).await.json()["code"].clone();
        page.js("window.later = 6000; window.away = false", &[])
            .await;
        page.js(back, &[]).await;
        let shown = format!("document.getElementById('code').dataset.code === {other}");
        tokio::time::timeout(Duration::from_secs(10), page.until(&shown))
            .await
            .expect(comes);
        page.shows("#code-for", "79007***321").await;
        desk.leave().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tabs_show_the_same_and_what_one_does_the_other_sees() {
    let desk = Desk::new().await;
    let page = &desk.page;
    let [first, second] = page.second_tab().await;
    page.go(&format!("http://{}/", desk.rig.address)).await;
    desk.face("unlinked").await;
    desk.ask_for(ANNA).await;
    let code = desk.code().await;

    page.turn_to(&first).await;
    assert_eq!(desk.code().await, code, "one code, in both");
    page.click("#cancel").await;
    desk.face("unlinked").await;
    page.turn_to(&second).await;
    desk.face("unlinked").await;
    assert!(
        !page.text("main").await.contains("run out"),
        "cancelled, not run out"
    );

    desk.link(ANNA).await;
    page.turn_to(&first).await;
    desk.face("linked").await;
    page.click("#unlink").await;
    page.click("#dialog-yes").await;
    desk.face("unlinked").await;
    page.turn_to(&second).await;
    desk.face("unlinked").await;

    page.click("#logout").await;
    desk.face("login").await;
    page.turn_to(&first).await;
    desk.face("login").await;
    desk.leave().await;
}
