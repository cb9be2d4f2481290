//! Owns Chromium: one chromedriver for all tests, a browser of its own for each, and what only its debugging protocol knows.
//! Nothing here outlives the tests: the driver hangs on a pipe of this process, and each browser on its driver.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use fantoccini::actions::{InputSource as _, KeyAction, KeyActions};
use fantoccini::elements::Element;
use fantoccini::wd::{TimeoutConfiguration, WebDriverCompatibleCommand, WindowHandle};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::rig::PATIENCE;

/// Browsers at a time: each is half a dozen processes.
static SEATS: Semaphore = Semaphore::const_new(2);

/// One chromedriver, shared by all tests of this process.
struct Driver {
    address: String,
    /// The shell that watches over it ends it when this pipe closes, however this process ends.
    _leash: ChildStdin,
    _output: BufReader<ChildStdout>,
    _shell: Child,
    _home: TempDir,
}

impl Driver {
    fn shared() -> &'static Self {
        static DRIVER: OnceLock<Driver> = OnceLock::new();
        DRIVER.get_or_init(Self::start)
    }

    fn start() -> Self {
        // It takes a free port for one kind of address, which may be taken for the other: then it ends at once.
        (0..10).find_map(|_| Self::try_start()).expect(
            "chromedriver starts (as `chromedriver --port=0` does, and says on which port it is)",
        )
    }

    fn try_start() -> Option<Self> {
        // Ends with its standard input, and the driver with it; browsers end with their driver's pipe. The shell
        // itself lets go of the output, so that its end is the driver's.
        const WATCH: &str = r#""$0" "$@" </dev/null & exec >/dev/null; read -r _; kill "$!""#;
        let home = tempfile::tempdir().expect("a folder");
        let mut shell = Command::new("/bin/sh")
            .args(["-c", WATCH])
            .arg(find(&["chromedriver"]))
            .arg("--port=0")
            .env("HOME", home.path())
            .env_remove("XDG_CONFIG_HOME")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let leash = shell.stdin.take().expect("a pipe");
        let mut output = BufReader::new(shell.stdout.take().expect("a pipe"));
        let mut line = String::new();
        let port = loop {
            line.clear();
            if output.read_line(&mut line).expect("chromedriver's words") == 0 {
                drop(leash);
                shell.wait().expect("ended");
                return None;
            }
            if let Some((_, port)) = line.trim_end().rsplit_once("successfully on port ") {
                break port.trim_end_matches('.').to_owned();
            }
        };
        Some(Self {
            address: format!("http://127.0.0.1:{port}"),
            _leash: leash,
            _output: output,
            _shell: shell,
            _home: home,
        })
    }
}

/// The first of these programs that is installed.
fn find(names: &[&str]) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .flat_map(|folder| names.iter().map(move |name| folder.join(name)))
        .find(|program| program.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "{} is not installed: the browser tests need Chromium and its driver (Debian: apt-get install chromium chromium-driver)",
            names[0]
        )
    })
}

/// Whose browser it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// What the browser asks for, as in `Accept-Language`.
    pub languages: &'static str,
    pub width: u32,
    pub dark: bool,
    /// The size of text that its owner has set, in hundredths of the usual one.
    pub text: u32,
}

impl Default for Look {
    fn default() -> Self {
        Self {
            languages: "en",
            width: 1280,
            dark: false,
            text: 100,
        }
    }
}

/// One browser with a profile of its own.
pub struct Browser {
    client: Client,
    process: Option<rustix::process::Pid>,
    // Dropped last, in this order.
    _profile: TempDir,
    _seat: SemaphorePermit<'static>,
}

/// A command that the drivers' common standard does not have.
#[derive(Debug)]
struct Own {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Own {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!(
            "session/{}/{}",
            session.unwrap_or_default(),
            self.path
        ))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.body.to_string()))
    }
}

impl Browser {
    pub async fn open(look: Look) -> Self {
        let seat = SEATS.acquire().await.expect("never closed");
        let profile = tempfile::tempdir().expect("a folder");
        let mut args = vec![
            "--headless=new".to_owned(),
            // The browser ends with its driver.
            "--remote-debugging-pipe".to_owned(),
            format!("--user-data-dir={}", profile.path().display()),
            // Nothing but the loopback address can be reached, whatever the browser or the page would like.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
        ];
        if rustix::process::geteuid().is_root() {
            // Chromium refuses its sandbox to root; it opens nothing but our own page.
            args.push("--no-sandbox".to_owned());
        }
        let Value::Object(wanted) = json!({
            // The test's own certificate is nobody else's.
            "acceptInsecureCerts": true,
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
            "goog:chromeOptions": {
                "binary": find(&["chromium", "chromium-browser", "google-chrome"]),
                "args": args,
                "prefs": { "webkit.webprefs.default_font_size": 16 * look.text / 100 },
            },
        }) else {
            unreachable!("that is an object")
        };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(wanted)
            .connect(&Driver::shared().address)
            .await
            .expect("Chromium and its driver are of one version");
        let mut patience = TimeoutConfiguration::default();
        patience.set_script(Some(PATIENCE));
        client.update_timeouts(patience).await.expect("set");
        let process = client
            .capabilities()
            .and_then(|got| got["goog:processID"].as_i64())
            .and_then(|id| i32::try_from(id).ok())
            .and_then(rustix::process::Pid::from_raw);
        let browser = Self {
            client,
            process,
            _profile: profile,
            _seat: seat,
        };
        browser.look(look).await;
        browser
    }

    /// Becomes somebody else's browser; the language counts from the next page on.
    pub async fn look(&self, look: Look) {
        let version = self.cdp("Browser.getVersion", json!({})).await;
        self.cdp(
            "Emulation.setUserAgentOverride",
            json!({ "userAgent": version["userAgent"], "acceptLanguage": look.languages }),
        )
        .await;
        self.width(look.width).await;
        self.media(
            "",
            &[(
                "prefers-color-scheme",
                if look.dark { "dark" } else { "light" },
            )],
        )
        .await;
    }

    pub async fn width(&self, width: u32) {
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false }),
        )
        .await;
    }

    /// What the page's media queries find: the medium, and features by name.
    pub async fn media(&self, medium: &str, features: &[(&str, &str)]) {
        let features: Vec<Value> = features
            .iter()
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect();
        self.cdp(
            "Emulation.setEmulatedMedia",
            json!({ "media": medium, "features": features }),
        )
        .await;
    }

    /// A command of Chromium's debugging protocol.
    pub async fn cdp(&self, command: &str, params: Value) -> Value {
        let body = json!({ "cmd": command, "params": params });
        self.own("goog/cdp/execute", body).await
    }

    /// What was logged since the last look.
    pub async fn log(&self, kind: &str) -> Vec<Value> {
        let entries = self.own("se/log", json!({ "type": kind })).await;
        entries.as_array().expect("a list").clone()
    }

    async fn own(&self, path: &'static str, body: Value) -> Value {
        let answer = tokio::time::timeout(PATIENCE, self.client.issue_cmd(Own { path, body }));
        let answer = answer.await.expect("the browser answers");
        answer.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub async fn go(&self, address: &str) {
        self.client.goto(address).await.expect("opened");
    }

    /// Runs a script in every page that is opened from now on, before anything of the page itself.
    pub async fn before_every_page(&self, script: &str) {
        self.cdp(
            "Page.addScriptToEvaluateOnNewDocument",
            json!({ "source": script }),
        )
        .await;
    }

    /// Opens a second tab and turns to it; the answer is how to turn back to the first.
    pub async fn second_tab(&self) -> [WindowHandle; 2] {
        let first = self.client.window().await.expect("a tab");
        let second = self.client.new_window(true).await.expect("another").handle;
        self.turn_to(&second).await;
        [first, second]
    }

    pub async fn turn_to(&self, tab: &WindowHandle) {
        let turned = self.client.switch_to_window(tab.clone()).await;
        turned.expect("still open");
    }

    pub async fn reload(&self) {
        self.client.refresh().await.expect("reloaded");
    }

    pub async fn title(&self) -> String {
        self.client.title().await.expect("a title")
    }

    /// Runs a script's body in the page; `arguments` holds what it is given.
    pub async fn js(&self, script: &str, given: &[Value]) -> Value {
        let answer = tokio::time::timeout(PATIENCE, self.client.execute(script, given.to_vec()));
        let answer = answer.await.expect("the browser answers");
        answer.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// The value of a JavaScript expression; a promise is waited for.
    pub async fn value(&self, expression: &str) -> Value {
        let script = format!("return ({expression})");
        self.js(&script, &[]).await
    }

    /// Waits until a JavaScript expression is true.
    pub async fn until(&self, expression: &str) {
        let wait = async {
            while self.value(&format!("Boolean({expression})")).await != true {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(
            waited.is_ok(),
            "never came true: {expression}; {}",
            self.seen().await
        );
    }

    /// The text of an element as people see it; nothing if they see nothing of it.
    pub async fn text(&self, css: &str) -> String {
        let script = "const one = document.querySelector(arguments[0]);
            return one?.checkVisibility({ visibilityProperty: true }) ? one.innerText : ''";
        let text = self.js(script, &[css.into()]).await;
        // Numbers are kept together by spaces that do not break.
        text.as_str().expect("a text").replace('\u{a0}', " ")
    }

    /// What there is to see, for a test that fails.
    async fn seen(&self) -> String {
        let main = self.text("main").await;
        let console = self.log("browser").await;
        format!("the page says {main:?}, its console {console:?}")
    }

    /// Waits until an element can be seen with this text somewhere in it.
    pub async fn shows(&self, css: &str, text: &str) {
        let wait = async {
            while !self.text(css).await.contains(text) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            let found = self.text(css).await;
            panic!(
                "{css} never said {text:?}, but {found:?}; {}",
                self.seen().await
            );
        }
    }

    async fn visible(&self, css: &str) -> Element {
        self.until(&format!(
            "document.querySelector({css:?})?.checkVisibility()"
        ))
        .await;
        let found = self.client.find(Locator::Css(css)).await;
        found.unwrap_or_else(|error| panic!("{css}: {error}"))
    }

    /// Clicks with the mouse, where a person would: what is covered cannot be clicked.
    pub async fn click(&self, css: &str) {
        let clicked = self.visible(css).await.click().await;
        clicked.unwrap_or_else(|error| panic!("{css}: {error}"));
    }

    /// Replaces what stands in a field, key by key.
    pub async fn type_in(&self, css: &str, text: &str) {
        let field = self.visible(css).await;
        field.clear().await.expect("cleared");
        field.send_keys(text).await.expect("typed");
    }

    pub async fn choose(&self, css: &str, value: &str) {
        self.visible(css)
            .await
            .select_by_value(value)
            .await
            .expect("chosen");
    }

    /// Presses keys one after another, wherever the focus is.
    pub async fn press(&self, keys: &str) {
        let chain = keys
            .chars()
            .fold(KeyActions::new("keyboard".to_owned()), |chain, value| {
                chain
                    .then(KeyAction::Down { value })
                    .then(KeyAction::Up { value })
            });
        self.client.perform_actions(chain).await.expect("pressed");
    }

    /// The id of the element that has the focus.
    pub async fn focus(&self) -> String {
        let id = self.value("document.activeElement.id").await;
        id.as_str().expect("an id").to_owned()
    }

    /// The whole page as it looks now, kept as `artifacts/NAME.png`.
    pub async fn picture(&self, name: &str) {
        let size = self
            .value("[innerWidth, Math.max(innerHeight, document.documentElement.scrollHeight)]")
            .await;
        let shot = self
            .cdp(
                "Page.captureScreenshot",
                json!({
                    "format": "png",
                    "captureBeyondViewport": true,
                    "clip": { "x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1 },
                }),
            )
            .await;
        let data = shot["data"].as_str().expect("a picture");
        keep(
            &format!("{name}.png"),
            &BASE64_STANDARD.decode(data).expect("base64"),
        );
    }

    pub async fn close(mut self) {
        self.process = None;
        self.client.clone().close().await.expect("closed");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Not closed: its test has failed.
        if let Some(process) = self.process {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
    }
}

/// Keeps a file for whoever looks at the run.
pub fn keep(name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("artifacts");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join(name), bytes).expect("written");
}
