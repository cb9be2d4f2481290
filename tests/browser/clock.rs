//! The code's time: counted from the server's clock, told at 60, 30 and 10 seconds, and over when it is over.

use hairpin_sim::Kick;
use serde_json::json;

use crate::chrome::Look;
use crate::desk::Desk;
use crate::rig::ANNA;

/// Both of the page's clocks stand still, until they are put forward together: `skip(milliseconds)`.
const SKIP: &str = "
    let skipped = 0;
    window.skip = (ms) => { skipped += ms; };
    for (const clock of [performance, Date]) {
        const start = clock.now();
        clock.now = () => start + skipped;
    }";

/// The wall's clock is wrong by so many milliseconds from the start; `wrong(milliseconds)` makes it more.
const WRONG: &str = "
    const Right = Date;
    let off = OFF;
    window.wrong = (ms) => { off += ms; };
    window.Date = class extends Right {
        constructor(...given) { given.length ? super(...given) : super(Right.now() + off); }
        static now() { return Right.now() + off; }
    };";

/// A sleeping tablet hears nothing: while `asleep`, what comes over the WebSocket is lost.
const ASLEEP: &str = "
    window.WebSocket = class extends WebSocket {
        set onmessage(hear) { this.addEventListener('message', (event) => window.asleep || hear(event)); }
    };";

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_clock_that_is_off_by_an_hour_changes_nothing() {
    for off in [3_600_000, -3_600_000] {
        let desk = Desk::closed(&[], Look::default()).await;
        let page = &desk.page;
        page.before_every_page(&WRONG.replace("OFF", &off.to_string()))
            .await;
        desk.open().await;
        desk.face("unlinked").await;
        desk.ask_for(ANNA).await;
        desk.code().await;
        for _ in 0..2 {
            let left = desk.seconds().await;
            assert!((150..=170).contains(&left), "{left}");
            let arc = page
                .value("Number(document.getElementById('arc').getAttribute('stroke-dashoffset'))")
                .await;
            assert!(
                arc.as_f64().is_some_and(|arc| (0.0..12.0).contains(&arc)),
                "{arc}"
            );
            // On paper it is the server's time that counts.
            let expires = desk.rig.code("salon", ANNA, None).await.json()["expiresAt"].clone();
            let shown = page
                .js(
                    "const told = document.getElementById('valid-until').textContent;
                    const ends = new Intl.DateTimeFormat('en', { timeStyle: 'short' });
                    return [-500, 500].some((ms) => told.includes(ends.format(arguments[0] + ms)))",
                    &[expires],
                )
                .await;
            assert_eq!(shown, true);
            page.reload().await;
            desk.code().await;
        }
        desk.leave().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_countdown_is_told_at_sixty_thirty_and_ten_seconds_only() {
    let desk = Desk::closed(&[], Look::default()).await;
    let page = &desk.page;
    page.before_every_page(SKIP).await;
    desk.open().await;
    desk.face("unlinked").await;
    page.js(
        "window.told = [];
        new MutationObserver(() => {
            const text = document.getElementById('live').textContent;
            if (text && text !== window.told.at(-1)) window.told.push(text);
        }).observe(document.getElementById('live'), { childList: true, characterData: true, subtree: true });",
        &[],
    )
    .await;
    desk.ask_for(ANNA).await;
    let code = desk.code().await;
    page.until("window.told.length").await;
    let letters = |group: &str| {
        let letters: Vec<String> = group.chars().map(String::from).collect();
        letters.join(", ")
    };
    let spoken = format!("Code: {}; {}", letters(&code[..4]), letters(&code[5..]));
    assert_eq!(
        page.value("window.told").await,
        json!([spoken]),
        "letter by letter"
    );
    assert_eq!(
        page.value("document.getElementById('code').ariaLabel")
            .await,
        json!(spoken)
    );
    assert_eq!(
        page.value("document.querySelector('[role=timer]').ariaLive")
            .await,
        "off"
    );

    for seconds in [150, 90, 62, 61, 60, 59, 45, 31, 30, 29, 20, 11, 10, 9, 5, 1] {
        let ahead = desk.seconds().await - seconds;
        page.js("skip(arguments[0] * 1000)", &[ahead.into()]).await;
        page.shows("#countdown", &seconds.to_string()).await;
        let late = "document.querySelector('.lead').classList.contains('late')";
        assert_eq!(page.value(late).await, seconds <= 30, "{seconds}");
        if [60, 30, 10].contains(&seconds) {
            page.until(&format!("window.told.at(-1) === '{seconds} seconds left'"))
                .await;
        }
    }
    page.js("skip(4000)", &[]).await;
    page.shows("#over-h", "The code has run out").await;
    page.until("window.told.at(-1) === 'The code has run out'")
        .await;
    assert_eq!(
        page.value("window.told.slice(1)").await,
        json!([
            "60 seconds left",
            "30 seconds left",
            "10 seconds left",
            "The code has run out"
        ])
    );
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_whose_time_is_over_gives_way_to_one_button_for_the_next() {
    let desk = Desk::with(&[("pairing.code_ttl", "13")], Look::default()).await;
    let page = &desk.page;
    desk.ask_for(ANNA).await;
    let first = desk.code().await;
    page.shows("#over-h", "The code has run out").await;
    assert_eq!(page.text("#code").await, "");
    assert_eq!(
        page.value("document.getElementById('code').dataset.code")
            .await,
        "",
        "nor in the page"
    );
    assert_eq!(
        page.text("section:not([hidden]) .main").await,
        "Get a new code"
    );
    assert_eq!(page.focus().await, "new-code");
    assert_eq!(
        desk.rig.sim.hellos(ANNA),
        1,
        "no new one unless a person asks"
    );
    page.press("\u{e007}").await;
    let second = desk.code().await;
    assert_ne!(first, second);
    desk.rig
        .sim
        .phone(ANNA)
        .enter_code(&second)
        .await
        .expect("linked");
    desk.face("linked").await;
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_never_changes_under_the_readers_eyes() {
    let desk = Desk::new().await;
    let page = &desk.page;
    desk.ask_for(ANNA).await;
    let first = desk.code().await;
    page.js(
        "window.codes = new Set();
        new MutationObserver(() => window.codes.add(document.getElementById('code').dataset.code))
            .observe(document.getElementById('code'), { attributes: true, attributeFilter: ['data-code'] });",
        &[],
    )
    .await;
    // Somebody else asks for the same line, and WhatsApp wants another code.
    let again = desk.rig.code("salon", ANNA, None).await;
    assert_eq!(again.json()["code"], first.as_str());
    desk.rig.sim.kick(
        ANNA,
        &Kick::RefreshCode {
            force_manual: false,
        },
    );
    page.shows("#over-h", "WhatsApp withdrew the code").await;
    assert_eq!(
        page.value("[...window.codes]").await,
        json!([""]),
        "it went, and none came"
    );
    page.click("#new-code").await;
    assert_ne!(desk.code().await, first);
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_opened_while_the_phone_links_sees_that_and_the_codes_clock_stands() {
    let desk = Desk::closed(&[], Look::default()).await;
    let page = &desk.page;
    page.before_every_page(SKIP).await;
    desk.open().await;
    desk.face("unlinked").await;
    desk.ask_for(ANNA).await;
    let code = desk.code().await;
    let phone = desk.rig.sim.phone(ANNA);
    phone.send_primary_hello_only(&code).await.expect("taken");
    desk.face("linking").await;
    page.reload().await;
    desk.face("linking").await;
    let left = async || {
        let mut page = desk.rig.page("salon").await;
        page.next_of("pairing-code").await["data"]["expiresIn"].clone()
    };
    let (first, since) = (left().await, std::time::Instant::now());
    while since.elapsed() < std::time::Duration::from_millis(2100) {
        assert_eq!(left().await, first, "the clock stands");
    }
    // The page's own clock goes far beyond the code's end: it is the phone's turn all the same.
    page.js("skip(300_000)", &[]).await;
    page.until("document.querySelector('#way [aria-current]').textContent === 'Linked'")
        .await;
    desk.face("linking").await;
    assert_eq!(page.text("#code").await, "");
    assert_eq!(
        page.value("document.getElementById('code').dataset.code")
            .await,
        "",
        "it is of no use any more"
    );
    desk.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tablet_that_slept_shows_the_present_truth_when_it_wakes() {
    let desk = Desk::closed(&[], Look::default()).await;
    let page = &desk.page;
    page.before_every_page(&format!("{ASLEEP}{}", WRONG.replace("OFF", "0")))
        .await;
    desk.open().await;
    desk.face("unlinked").await;
    page.value("window.asleep = true").await;
    desk.rig.link("salon", ANNA).await;
    desk.face("unlinked").await;
    // Its monotonic clock stood still, the wall's went on.
    page.value("window.asleep = false").await;
    page.value("wrong(600_000)").await;
    desk.face("linked").await;
    assert_eq!(page.text("#linked-phone").await, "79001***567");
    desk.leave().await;
}
