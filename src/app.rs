//! Owns the start order and the stop order of the appliance, one screen each.

use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, watch};
use tracing::{debug, info, warn};

use crate::access::Access;
use crate::clock;
use crate::config::Settings;
use crate::control;
use crate::error::Code;
use crate::exit::ExitError;
use crate::link::{Connector, VersionSource, Versions, WhatsAppPage};
use crate::metrics::Metrics;
use crate::session::{
    self, Asker, CodeRequest, PairingCode, RequestError, SessionEvent, Sessions, State, Status,
    View,
};
use crate::store::{Disk, Folder, Occupied, OpenError, Options, Store, WrappingKey};
use crate::web::{self, Counts, Tls, Web, WebSettings};
use crate::words::Lang;
use crate::{systemd, telemetry};

/// How often the companion version is looked up.
const VERSION_EVERY: Duration = Duration::from_hours(24);
/// How long a blocking look-up may hold up the end of the process.
const LAST_TASKS: Duration = Duration::from_millis(200);
/// How long a store may be held by somebody who only looks into it, or by an appliance that has just been stopped.
const HELD: Duration = Duration::from_secs(1);
/// The companion version's name among the store's settings.
const VERSION: &str = "companion_version";
/// How often the numbers' hashes are looked at that count requests: they are there for an hour, and little longer.
const BUDGET_EVERY: Duration = Duration::from_mins(1);
/// The logins' name among the store's settings.
const LOGINS: &str = "logins";
/// How old the kept times of the logins' last use may be.
const LOGINS_EVERY: Duration = Duration::from_mins(30);
/// When to try again what could not be written.
const LOGINS_AGAIN: Duration = Duration::from_secs(10);

/// Runs the appliance until it is told to stop.
///
/// # Errors
/// What keeps it from starting, with its exit code.
pub fn serve(settings: Settings, open_key: bool) -> Result<(), ExitError> {
    settings.may_serve()?;
    if open_key && telemetry::stdout_is_journal() {
        return Err(ExitError::wrong_use(
            "--open-key would write the access key into the journal; use `hairpin access-key` in a terminal",
        ));
    }
    telemetry::init(settings.log_json);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            ExitError::failed(format!("the program cannot start its threads: {error}"))
        })?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())
            .map_err(|error| ExitError::failed(format!("signals cannot be received: {error}")))?;
        let appliance = Appliance::start(settings).await?;
        announce(&format!("Hairpin is at {}", appliance.address()));
        if open_key {
            announce(&format!("Open it with {}", appliance.open_address()));
        }
        systemd::ready();
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        systemd::stopping();
        appliance.stop().await;
        Ok(())
    });
    // A look-up of a name that nobody answers cannot be interrupted; nothing depends on it.
    runtime.shutdown_timeout(LAST_TASKS);
    result
}

/// Says something to whoever started the program. A closed output is that reader's own wish.
fn announce(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// The running appliance.
pub struct Appliance {
    access: Arc<Access>,
    address: String,
    stop: watch::Sender<bool>,
    web: tokio::task::JoinHandle<()>,
    /// None where the disk had no room for it.
    control: Option<control::Server>,
    running: Option<Running>,
}

/// What runs when the store can be used.
struct Running {
    sessions: Arc<Sessions>,
    store: Store,
    versions: Option<tokio::task::JoinHandle<()>>,
    logins: tokio::task::JoinHandle<()>,
    budget: tokio::task::JoinHandle<()>,
}

impl Appliance {
    /// Starts everything, in the order in which each needs the one before.
    ///
    /// # Errors
    /// What keeps it from starting, with its exit code.
    pub async fn start(settings: Settings) -> Result<Self, ExitError> {
        let disk = Arc::new(Folder::new(&settings.data_dir));
        Self::start_on(settings, disk).await
    }

    /// The same with the store on a disk of one's own; no setting leads here.
    ///
    /// # Errors
    /// What keeps it from starting, with its exit code.
    pub async fn start_on(settings: Settings, disk: Arc<dyn Disk>) -> Result<Self, ExitError> {
        let tls = match &settings.tls {
            Some((cert, key)) => Some(
                Tls::open(cert, key).map_err(|error| ExitError::wrong_use(error.to_string()))?,
            ),
            None => None,
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let metrics = Arc::new(Metrics::new());
        let credential = wrapping_key()?;
        let opened = open_store(disk, credential.clone(), &metrics).await?;
        let access = Access::open(&settings.data_dir)
            .map_err(|error| ExitError::failed(error.to_string()))?;
        let access = Arc::new(access);
        let listener = TcpListener::bind(settings.listen).await.map_err(|error| {
            ExitError::failed(format!(
                "the page cannot be served on {}: {error}; choose another place with --listen",
                settings.listen
            ))
        })?;
        let bound = listener
            .local_addr()
            .map_err(|error| ExitError::failed(format!("the page has no address: {error}")))?;
        let control = bind_control(&settings.control_socket)?;
        let counts = Arc::new(Counts::default());
        let (port, running): (Arc<dyn web::Sessions>, Result<Running, ExitError>) = match opened {
            Ok(store) => {
                if let Ok(Some(kept)) = store.setting(LOGINS) {
                    access.take_logins_back(&kept);
                }
                let running = run(&settings, store, &access, Arc::clone(&metrics)).await?;
                let port = Port {
                    sessions: Arc::clone(&running.sessions),
                    store: running.store.clone(),
                    metrics,
                    looking: Mutex::new(()),
                    counts: Arc::clone(&counts),
                };
                (Arc::new(port), Ok(running))
            }
            Err(error) => {
                tracing::error!(%error, "the store cannot be used; the page says so");
                metrics.set_states([(session::DEFAULT, State::StoreUnavailable.as_str())]);
                let occupied = Occupied::take(&settings.data_dir)
                    .map_err(|error| ExitError::of_store(&settings.data_dir, &error))?;
                (
                    Arc::new(Unavailable {
                        metrics,
                        events: broadcast::channel(1).0,
                        _occupied: occupied,
                    }),
                    Err(ExitError::of_store(&settings.data_dir, &error)),
                )
            }
        };
        let control = control.map(|socket| {
            socket.serve(control::House {
                sessions: Arc::clone(&port),
                access: Arc::clone(&access),
                store: running
                    .as_ref()
                    .map(|running| running.store.clone())
                    .map_err(Clone::clone),
                credential,
                grace: settings.code_grace,
            })
        });
        let web = Arc::new(Web::new(
            port,
            Arc::clone(&access),
            web_settings(&settings, tls),
            counts,
        ));
        let (stop, stopped) = watch::channel(false);
        let web = tokio::spawn(web::serve(listener, web, stopped));
        info!(address = %bound, "serving the page");
        Ok(Self {
            access,
            address: format!("{scheme}://{bound}/"),
            stop,
            web,
            control,
            running: running.ok(),
        })
    }

    /// Where the page is.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where the page is, with the access key in the fragment, which no server ever sees.
    #[must_use]
    pub fn open_address(&self) -> String {
        format!("{}#key={}", self.address, self.access.key().reveal())
    }

    /// The access key, for whoever started this in its own process.
    #[must_use]
    pub fn access_key(&self) -> crate::secret::SecretText {
        self.access.key()
    }

    /// Stops everything, in the reverse order: nobody is served any more, every link has flushed,
    /// everything queued is committed.
    pub async fn stop(self) {
        info!("stopping");
        // Nobody listens once the web task is gone.
        let _ = self.stop.send(true);
        let web = async {
            if let Err(error) = self.web.await {
                warn!(%error, "the web task ended badly");
            }
        };
        let rest = async {
            if let Some(running) = self.running {
                running.stop(&self.access).await;
            }
        };
        let control = async {
            if let Some(control) = self.control {
                control.stop().await;
            }
        };
        tokio::join!(web, control, rest);
        info!("stopped");
    }
}

impl Running {
    async fn stop(self, access: &Access) {
        if let Some(versions) = self.versions {
            versions.abort();
        }
        self.budget.abort();
        self.sessions.stop().await;
        self.logins.abort();
        put_logins(access, &self.store).await;
        self.store.close().await;
    }
}

/// The control socket. A disk that takes nothing keeps no link down: the appliance then runs without a terminal.
fn bind_control(path: &Path) -> Result<Option<control::Socket>, ExitError> {
    match control::bind(path) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if error.is_disk() => {
            tracing::error!(%error, "no command can reach this appliance until its next start");
            Ok(None)
        }
        Err(error) => Err(ExitError::wrong_use(error.to_string())),
    }
}

/// The key that systemd gives, if it gives one.
///
/// # Errors
/// When it is there and cannot be used.
pub fn wrapping_key() -> Result<Option<WrappingKey>, ExitError> {
    std::env::var_os("CREDENTIALS_DIRECTORY")
        .map_or(Ok(None), |given| {
            WrappingKey::from_folder(Some(Path::new(&given)))
        })
        .map_err(|error| {
            ExitError::wrong_use(format!(
                "the credential hairpin-key cannot be used: {error}"
            ))
        })
}

/// The store, or why the page has to say that there is none. Another process's store is no page's affair.
async fn open_store(
    disk: Arc<dyn Disk>,
    wrapping_key: Option<WrappingKey>,
    metrics: &Arc<Metrics>,
) -> Result<Result<Store, OpenError>, ExitError> {
    let timed = Arc::clone(metrics);
    let options = Options {
        wrapping_key,
        on_commit: Some(Arc::new(move |took| timed.committed(took))),
        ..Options::default()
    };
    let folder = disk.folder().to_owned();
    let patience = Instant::now() + HELD;
    let opened = loop {
        match Store::open_on(Arc::clone(&disk), options.clone()) {
            Err(OpenError::InUse) if Instant::now() < patience => {
                tokio::time::sleep(HELD / 20).await;
            }
            opened => break opened,
        }
    };
    match opened {
        Err(OpenError::InUse) => Err(ExitError::in_use(format!(
            "the store in {} is in use by {}; is the appliance running already? stop it first",
            folder.display(),
            holder(&folder)
        ))),
        // Without a folder there is no place for an access key either.
        Err(OpenError::Io(error)) if !folder.is_dir() => Err(ExitError::failed(format!(
            "the folder {} cannot be made: {error}; make it, or choose another with --data-dir",
            folder.display()
        ))),
        other => Ok(other),
    }
}

/// Who has a store, in words.
#[must_use]
pub fn holder(folder: &Path) -> String {
    Store::holder(folder).map_or_else(
        || "another process".to_owned(),
        |process| format!("process {process}"),
    )
}

async fn run(
    settings: &Settings,
    store: Store,
    access: &Arc<Access>,
    metrics: Arc<Metrics>,
) -> Result<Running, ExitError> {
    let kept = store
        .setting(VERSION)
        .ok()
        .flatten()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let own_server = settings.whatsapp_url.is_some();
    // A server of one's own has its own idea of versions, and nobody else is to hear of it.
    let source = (!own_server).then(|| Arc::new(WhatsAppPage::default()) as Arc<dyn VersionSource>);
    let versions = Versions::with_source(kept, source);
    let connector = Connector::new(settings.whatsapp_url.clone(), Arc::clone(&versions));
    let sessions = Sessions::start(
        store.clone(),
        connector,
        session::Settings {
            code_ttl: settings.code_ttl,
            code_grace: settings.code_grace,
            connect_timeout: settings.connect_timeout,
            requests_per_number: settings.requests_per_number,
            most: settings.sessions_max,
        },
        metrics,
    )
    .await
    .map_err(|error| ExitError::failed(format!("the store cannot be used: {error}")))?;
    let versions = (!own_server).then(|| tokio::spawn(keep_version(versions, store.clone())));
    let logins = tokio::spawn(keep_logins(Arc::clone(access), store.clone()));
    let budget = tokio::spawn(forget_budget(store.clone()));
    Ok(Running {
        sessions,
        store,
        versions,
        logins,
        budget,
    })
}

/// Keeps the logins in the store, so that a restart sends nobody back to the door.
async fn keep_logins(access: Arc<Access>, store: Store) {
    let mut changes = access.keep_logins();
    let mut every = LOGINS_EVERY;
    loop {
        // Either way there is something to write: a change, or when each was last used.
        let _ = tokio::time::timeout(every, changes.changed()).await;
        every = if put_logins(&access, &store).await {
            LOGINS_EVERY
        } else {
            LOGINS_AGAIN
        };
    }
}

async fn put_logins(access: &Access, store: &Store) -> bool {
    let (change, logins) = access.kept_logins();
    let put = store.put_setting(LOGINS, logins).await;
    if let Err(error) = &put {
        warn!(%error, "the logins were not kept; until they are, a restart forgets who came in and who left");
    }
    access.logins_were_kept(change);
    put.is_ok()
}

/// Forgets who asked for a code once that counts no more, also where nobody asks again.
async fn forget_budget(store: Store) {
    loop {
        if let Err(error) = store.budget_forget(clock::wall()).await {
            debug!(%error, "requests that count no more were not forgotten yet");
        }
        tokio::time::sleep(BUDGET_EVERY).await;
    }
}

/// Looks the companion version up in the background: a connection never waits for it.
async fn keep_version(versions: Arc<Versions>, store: Store) {
    loop {
        if let Some(version) = versions.refresh().await {
            info!(?version, "a newer companion version");
            match serde_json::to_vec(&version) {
                Ok(bytes) => {
                    if let Err(error) = store.put_setting(VERSION, bytes).await {
                        warn!(%error, "the companion version was not kept");
                    }
                }
                Err(error) => warn!(%error, "the companion version was not kept"),
            }
        }
        tokio::time::sleep(VERSION_EVERY).await;
    }
}

fn web_settings(settings: &Settings, tls: Option<Tls>) -> WebSettings {
    WebSettings {
        tls,
        language: settings.language.as_deref().and_then(Lang::of_tag),
        allowed_hosts: settings.allowed_hosts.clone(),
        trusted_proxies: settings.trusted_proxies.clone(),
        ..WebSettings::new(settings.country)
    }
}

/// The sessions, as the web layer wants them.
struct Port {
    sessions: Arc<Sessions>,
    store: Store,
    metrics: Arc<Metrics>,
    /// Held for one look at the metrics: what is read off elsewhere is written and told in one go.
    looking: Mutex<()>,
    counts: Arc<Counts>,
}

impl Port {
    fn session(&self, id: &str) -> Result<session::Session, RequestError> {
        self.sessions
            .get(id)
            .ok_or_else(|| Code::NoSuchSession.into())
    }

    /// Reads off elsewhere what is not counted as it happens, and tells it while nobody else reads: the states are
    /// those that everybody sees at this moment, never those of a moment before or after.
    fn look<T>(&self, told: impl FnOnce(&Metrics) -> T) -> T {
        let _one_at_a_time = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        self.metrics.set_gauges(
            self.store.size_bytes(),
            self.counts.websockets(),
            self.counts.login_failures(),
        );
        let all = self.sessions.list();
        self.metrics.set_states(
            all.iter()
                .map(|status| (status.session.as_str(), status.state.as_str())),
        );
        told(&self.metrics)
    }
}

#[async_trait]
impl web::Sessions for Port {
    fn list(&self) -> Vec<Status> {
        self.sessions.list()
    }

    fn view(&self, id: &str) -> Option<View> {
        self.sessions.get(id).map(|session| session.view())
    }

    fn subscribe(&self, id: &str) -> Option<(View, broadcast::Receiver<SessionEvent>)> {
        self.sessions.get(id).map(|session| session.subscribe())
    }

    async fn request_code(
        &self,
        id: &str,
        request: CodeRequest,
    ) -> Result<PairingCode, RequestError> {
        self.session(id)?.request_code(request).await
    }

    async fn cancel(&self, id: &str, _asker: Asker) -> Result<(), RequestError> {
        self.session(id)?.cancel().await
    }

    async fn reconnect(&self, id: &str, _asker: Asker) -> Result<(), RequestError> {
        self.session(id)?.reconnect().await
    }

    async fn unlink(&self, id: &str, asker: Asker) -> Result<(), RequestError> {
        self.session(id)?.unlink(asker).await
    }

    async fn put(&self, id: &str, name: &str) -> Result<bool, RequestError> {
        self.sessions.put(id, name).await
    }

    async fn remove(&self, id: &str, asker: Asker) -> Result<(), RequestError> {
        self.sessions.remove(id, asker).await
    }

    fn audit(&self, session: Option<&str>, limit: usize) -> Result<Value, RequestError> {
        let entries = self
            .sessions
            .journal(session, limit)
            .map_err(|_| RequestError::from(Code::StoreUnavailable))?;
        serde_json::to_value(entries).map_err(|_| Code::Internal.into())
    }

    fn healthy(&self) -> bool {
        self.sessions.healthy()
    }

    fn metrics_json(&self) -> Value {
        self.look(Metrics::json)
    }

    fn metrics_text(&self) -> String {
        self.look(Metrics::text)
    }
}

/// What the page shows while the store is damaged, newer or without its keys: the truth, and no empty start.
struct Unavailable {
    metrics: Arc<Metrics>,
    /// Nothing is ever sent; pages wait on it.
    events: broadcast::Sender<SessionEvent>,
    /// Whoever mends the store stops the appliance first: it would not notice.
    _occupied: Occupied,
}

impl Unavailable {
    fn look(id: &str) -> Option<View> {
        (id == session::DEFAULT).then(|| View {
            status: Status {
                session: id.to_owned(),
                state: State::StoreUnavailable,
                name: "Salon".to_owned(),
                phone: None,
                since: 0,
                last_connected: None,
                until: None,
                reason: Some(Code::StoreUnavailable),
            },
            code: None,
            qr: None,
        })
    }
}

#[async_trait]
impl web::Sessions for Unavailable {
    fn list(&self) -> Vec<Status> {
        Self::look(session::DEFAULT)
            .into_iter()
            .map(|view| view.status)
            .collect()
    }

    fn view(&self, id: &str) -> Option<View> {
        Self::look(id)
    }

    fn subscribe(&self, id: &str) -> Option<(View, broadcast::Receiver<SessionEvent>)> {
        Self::look(id).map(|view| (view, self.events.subscribe()))
    }

    async fn request_code(&self, _: &str, _: CodeRequest) -> Result<PairingCode, RequestError> {
        Err(Code::StoreUnavailable.into())
    }

    async fn cancel(&self, _: &str, _: Asker) -> Result<(), RequestError> {
        Err(Code::StoreUnavailable.into())
    }

    async fn reconnect(&self, _: &str, _: Asker) -> Result<(), RequestError> {
        Err(Code::StoreUnavailable.into())
    }

    async fn unlink(&self, _: &str, _: Asker) -> Result<(), RequestError> {
        Err(Code::StoreUnavailable.into())
    }

    async fn put(&self, _: &str, _: &str) -> Result<bool, RequestError> {
        Err(Code::StoreUnavailable.into())
    }

    async fn remove(&self, _: &str, _: Asker) -> Result<(), RequestError> {
        Err(Code::StoreUnavailable.into())
    }

    fn audit(&self, _: Option<&str>, _: usize) -> Result<Value, RequestError> {
        Err(Code::StoreUnavailable.into())
    }

    fn healthy(&self) -> bool {
        false
    }

    fn metrics_json(&self) -> Value {
        self.metrics.json()
    }

    fn metrics_text(&self) -> String {
        self.metrics.text()
    }
}
