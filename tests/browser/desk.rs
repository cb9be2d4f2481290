//! Owns a reception desk: the appliance, a simulated WhatsApp, and a browser that shows the page.
//! Whoever leaves it has proved that the page made no error, broke no policy and asked no other host.

use std::cell::Cell;

use serde_json::Value;

use crate::chrome::{Browser, Look};
use crate::rig::{PATIENCE, Rig};

pub struct Desk {
    pub rig: Rig,
    pub page: Browser,
    /// Refusals that a test provokes, as `"STATUS /path"`: Chromium itself writes them into its console.
    pub expected: Vec<&'static str>,
    /// Whether the address with the key was opened, which a browser without a login may do.
    one_click: Cell<bool>,
    /// Whether the appliance is away for a while, which Chromium writes there too.
    pub outage: bool,
}

impl Desk {
    /// With the page open and logged in.
    pub async fn new() -> Self {
        Self::with(&[], Look::default()).await
    }

    pub async fn with(settings: &[(&'static str, &str)], look: Look) -> Self {
        let desk = Self::closed(settings, look).await;
        desk.open().await;
        desk.page.until(&on("unlinked")).await;
        desk
    }

    /// With a browser that shows nothing yet.
    pub async fn closed(settings: &[(&'static str, &str)], look: Look) -> Self {
        Self::around(Rig::with(settings), look).await
    }

    /// Around an appliance of one's own, with a browser that shows nothing yet.
    pub async fn around(rig: impl Future<Output = Rig>, look: Look) -> Self {
        let (rig, page) = tokio::join!(rig, Browser::open(look));
        Self {
            rig,
            page,
            expected: Vec::new(),
            one_click: Cell::new(false),
            outage: false,
        }
    }

    /// Opens the one-click address; the page asks first whether there is a login already.
    pub async fn open(&self) {
        self.one_click.set(true);
        let appliance = self.rig.appliance.as_ref().expect("running");
        self.page.go(appliance.open_address().reveal()).await;
    }

    /// Keeps the address over a restart, as an appliance does.
    pub fn pin(&mut self) {
        let address = self.rig.address.to_string();
        self.rig.settings.insert("listen", address);
    }

    /// Waits for a face.
    pub async fn face(&self, name: &str) {
        self.page.until(&on(name)).await;
    }

    /// Types a number and asks for its code.
    pub async fn ask_for(&self, number: &str) {
        self.page.type_in("#phone", number).await;
        self.page.click("#get-code").await;
    }

    /// The code, once it is shown.
    pub async fn code(&self) -> String {
        self.face("code").await;
        self.page
            .until("document.getElementById('code').dataset.code")
            .await;
        let code = self
            .page
            .value("document.getElementById('code').dataset.code")
            .await;
        code.as_str().expect("a code").to_owned()
    }

    /// The seconds that the countdown shows.
    pub async fn seconds(&self) -> u32 {
        let shown = self.page.text("#countdown").await;
        shown.parse().expect("seconds")
    }

    /// Links a phone by way of the page.
    pub async fn link(&self, number: &str) {
        self.ask_for(number).await;
        let code = self.code().await;
        let linked = self.rig.sim.phone(number).enter_code(&code).await;
        linked.expect("linked");
        self.face("linked").await;
    }

    /// Ends it all, and proves that the page was clean.
    pub async fn leave(mut self) {
        let problems = self.problems().await;
        assert!(problems.is_empty(), "{problems:#?}");
        self.page.close().await;
        self.rig.stop().await;
    }

    /// Everything bad that the page has done since the last look.
    pub async fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for entry in self.page.log("browser").await {
            let level = entry["level"].as_str().expect("a level");
            let message = entry["message"].as_str().expect("a message");
            if !matches!(level, "DEBUG" | "INFO") && !self.is_expected(message) {
                problems.push(format!("the console says {entry}"));
            }
        }
        let mut requests = 0;
        for entry in self.page.log("performance").await {
            let text = entry["message"].as_str().expect("a message");
            let message: Value = serde_json::from_str(text).expect("JSON");
            let message = &message["message"];
            let url = match message["method"].as_str().expect("a method") {
                "Network.requestWillBeSent" => &message["params"]["request"]["url"],
                "Network.webSocketCreated" => &message["params"]["url"],
                _ => continue,
            };
            let url = url.as_str().expect("an address");
            if !self.is_own(url) {
                problems.push(format!("a request to {url}"));
            }
            requests += 1;
        }
        assert!(requests > 0, "the log of requests is on");
        problems
    }

    fn is_expected(&self, message: &str) -> bool {
        let own = &self.rig.address.to_string();
        let unreached = message.contains("net::ERR_CONNECTION_") || message.contains("WebSocket");
        if self.outage && unreached && message.contains(own) {
            return true;
        }
        let stranger = self.one_click.get().then_some("401 /api/v1/sessions");
        let mut expected = self.expected.iter().copied().chain(stranger);
        expected.any(|expected| {
            let (status, path) = expected.split_once(' ').expect("a status and a path");
            let ways = ["http", "https"].map(|scheme| format!("{scheme}://{own}{path} "));
            ways.iter().any(|way| message.starts_with(way))
                && message.contains(&format!("status of {status} "))
        })
    }

    fn is_own(&self, url: &str) -> bool {
        let (scheme, rest) = url.split_once(':').expect("a scheme");
        match scheme {
            "http" | "https" | "ws" | "wss" => rest
                .trim_start_matches('/')
                .starts_with(&format!("{}/", self.rig.address)),
            // The browser's own first tab. The one asks nobody, the other no page can ask.
            "data" | "chrome" => true,
            _ => false,
        }
    }
}

/// Whether the page shows a face, in JavaScript.
pub fn on(face: &str) -> String {
    format!("document.getElementById('main')?.dataset.face === '{face}'")
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_page_must_not_do_is_noticed() {
    let desk = Desk::new().await;
    assert_eq!(desk.problems().await, Vec::<String>::new());
    for (bad, noticed) in [
        ("console.error('a fault')", "a fault"),
        (
            "setTimeout(() => { throw new Error('uncaught') })",
            "uncaught",
        ),
        (
            "document.body.append(Object.assign(document.createElement('script'), { text: 'window.ran = 1' }))",
            "Content Security Policy",
        ),
        (
            "document.body.setAttribute('style', 'color: red')",
            "Content Security Policy",
        ),
        (
            "void fetch('http://elsewhere.example/').catch(() => 0)",
            "http://elsewhere.example/",
        ),
        ("void fetch('/api/v1/nothing')", "404"),
    ] {
        desk.page.js(bad, &[]).await;
        let mut problems = Vec::new();
        let wait = async {
            while !problems.iter().any(|p: &String| p.contains(noticed)) {
                desk.page
                    .value("fetch('/healthz').then((answer) => answer.status)")
                    .await;
                problems.extend(desk.problems().await);
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "{noticed}: {problems:?}");
    }
    assert_eq!(desk.page.value("window.ran").await, Value::Null);
    desk.page.close().await;
}
