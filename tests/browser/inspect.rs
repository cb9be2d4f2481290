//! Owns the look at a face from all sides: both languages, both themes, three widths, and what axe finds in it.

use serde_json::{Value, json};

use crate::desk::Desk;

/// Development only; its licence lies beside it.
const AXE: &str = include_str!("axe/axe.min.js");

/// The rules of WCAG 2.2, levels A and AA, and what axe's authors hold good besides.
const RULES: [&str; 6] = [
    "wcag2a",
    "wcag2aa",
    "wcag21a",
    "wcag21aa",
    "wcag22aa",
    "best-practice",
];

/// What a finger needs, in CSS pixels.
const FINGER: u32 = 44;

const WIDTHS: [u32; 3] = [320, 768, 1280];

/// Looks at the present face in both languages.
pub async fn look_around(desk: &Desk, name: &str) {
    for language in ["en", "ru"] {
        speak(desk, language).await;
        look_in(desk, name, language).await;
    }
    speak(desk, "en").await;
}

/// Switches the page's language; the face stays what it is.
pub async fn speak(desk: &Desk, language: &str) {
    let page = &desk.page;
    let face = page
        .value("document.getElementById('main').dataset.face")
        .await;
    let face = face.as_str().expect("a face").to_owned();
    page.js(
        "const select = document.getElementById('language');
        if (select.value === arguments[0]) return;
        select.value = arguments[0];
        select.dispatchEvent(new Event('change'));",
        &[language.into()],
    )
    .await;
    page.until(&format!("document.documentElement.lang === '{language}'"))
        .await;
    desk.face(&face).await;
}

/// Looks at the present face in the language it speaks already.
pub async fn look_in(desk: &Desk, name: &str, language: &str) {
    let page = &desk.page;
    let title = page.title().await;
    let (state, _) = title.split_once(" · ").expect("state and name");
    assert_ne!(state, "", "{name}: a tab tells the state");
    for dark in [false, true] {
        let theme = if dark { "dark" } else { "light" };
        page.media("", &[("prefers-color-scheme", theme)]).await;
        for width in WIDTHS {
            let view = format!("{name}-{language}-{width}-{theme}");
            page.width(width).await;
            fits(desk, &view).await;
            // Every language, theme and width has its turn.
            if matches!(
                (language, theme, width),
                ("en", "light", 1280)
                    | ("en", "dark", 320)
                    | ("ru", "light", 320)
                    | ("ru", "dark", 768)
            ) {
                page.picture(&view).await;
                axe(desk, &view).await;
            }
        }
    }
    page.media("", &[("prefers-color-scheme", "light")]).await;
}

/// Nothing sticks out to the side, and nothing has to be scrolled to there.
pub async fn fits(desk: &Desk, view: &str) {
    let found = desk
        .page
        .js(
            "const root = document.documentElement;
            const wide = [...document.querySelectorAll('body *')]
                .filter((one) => one.checkVisibility() && !one.closest('.unseen, svg, .pick input, .country select'))
                .filter((one) => { const { left, right } = one.getBoundingClientRect(); return left < -1 || right > root.clientWidth + 1; })
                .map((one) => one.id || one.outerHTML.slice(0, 80));
            return [root.scrollWidth - root.clientWidth, wide]",
            &[],
        )
        .await;
    assert_eq!(found, json!([0, []]), "{view} is too wide");
    let small = desk
        .page
        .js(
            "return [...document.querySelectorAll('button, select, input, summary, a, .pick span')]
                .filter((one) => one.checkVisibility() && !one.matches('.pick input'))
                .map((one) => [one, one.getBoundingClientRect()])
                .filter(([, { width, height }]) => height < arguments[0] - 0.1 || width < arguments[0] - 0.1)
                .map(([one, { width, height }]) => `${one.id || one.outerHTML.slice(0, 80)} ${width} x ${height}`)",
            &[FINGER.into()],
        )
        .await;
    assert_eq!(small, json!([]), "{view} is too small for a finger");
}

/// What axe finds.
pub async fn axe(desk: &Desk, view: &str) {
    let page = &desk.page;
    if page.value("typeof axe").await == "undefined" {
        page.js(&format!("{AXE}\nwindow.axe = axe;"), &[]).await;
    }
    let found = page
        .js(
            "return axe.run({ runOnly: arguments[0], resultTypes: ['violations'] }).then(({ violations, passes }) => ({
                checked: passes.length,
                violations: violations.map(({ id, help, nodes }) => [id, help, nodes.map((node) => node.html + ' ' + node.failureSummary)]),
            }))",
            &[json!(RULES)],
        )
        .await;
    assert!(
        found["checked"].as_u64() > Some(5),
        "{view}: axe has looked"
    );
    assert_eq!(
        found["violations"],
        Value::Array(Vec::new()),
        "{view}: {found:#}"
    );
}
