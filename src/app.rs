//! Owns the start order and the stop order of the appliance, one screen each.

mod port;
mod pulse;

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

use crate::access::Access;
use crate::certificate;
use crate::clock;
use crate::config::Settings;
use crate::control;
use crate::exit::ExitError;
use crate::link::{Connector, VersionSource, Versions, WhatsAppPage};
use crate::metrics::Metrics;
use crate::secret::SecretText;
use crate::session::{self, Sessions};
use crate::store::{Disk, Folder, Occupied, OpenError, Options, Store, WrappingKey};
use crate::web::{self, Counts, Tls, Web, WebSettings};
use crate::words::Lang;
use crate::{systemd, telemetry};
use port::Port;

pub use pulse::Pulse;

/// How often the companion version is looked up.
const VERSION_EVERY: Duration = Duration::from_hours(24);
/// How long a blocking look-up may hold up the end of the process.
const LAST_TASKS: Duration = Duration::from_millis(200);
/// How long a store may be held by somebody who only looks into it, or by an appliance that has just been stopped.
const HELD: Duration = Duration::from_secs(1);
/// How long the page's place is waited for under a service manager, which would only start the program again: an address
/// that the network has not given yet, or a program that is just ending.
const PLACE_WITHIN: Duration = Duration::from_secs(5);
const PLACE_AGAIN: Duration = Duration::from_millis(100);
/// The companion version's name among the store's settings.
const VERSION: &str = "companion_version";
/// How often the numbers' hashes are looked at that count requests: they are there for an hour, and little longer.
const BUDGET_EVERY: Duration = Duration::from_mins(1);
/// The logins' name among the store's settings.
const LOGINS: &str = "logins";
/// How old the kept times of the logins' last use may be.
const LOGINS_EVERY: Duration = Duration::from_mins(30);
/// How often it is tried to open a store that the disk did not give.
const STORE_AGAIN: Duration = Duration::from_secs(1);
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
            let line = Zeroizing::new(format!(
                "Open it with {}",
                appliance.open_address().reveal()
            ));
            announce(&line);
        }
        systemd::ready();
        let pulse = tokio::spawn(appliance.pulse().feed());
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        // From here on the time to stop in counts, not the watchdog's. Awaited: its end is that it was cut short.
        pulse.abort();
        let _ = pulse.await;
        systemd::stopping();
        appliance.stop().await;
        Ok(())
    });
    // A look-up of a name that nobody answers cannot be interrupted; nothing depends on it.
    runtime.shutdown_timeout(LAST_TASKS);
    result
}

/// Where what listens there is found. "Every interface" is no address that anybody could open, or that the page would
/// answer to as its own.
fn reachable(bound: SocketAddr) -> SocketAddr {
    if !bound.ip().is_unspecified() {
        return bound;
    }
    let own = certificate::own_address().filter(|own| bound.is_ipv6() || own.is_ipv4());
    SocketAddr::new(own.unwrap_or(Ipv4Addr::LOCALHOST.into()), bound.port())
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
    page: Arc<Web>,
    web: tokio::task::JoinHandle<()>,
    /// None where the disk had no room for it.
    control: Option<control::Server>,
    port: Arc<Port>,
    /// Waits for a disk that did not give the store.
    waiting: Option<tokio::task::JoinHandle<()>>,
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
        let options = options(credential.clone(), &metrics);
        let opened = first_open(&disk, &options).await?;
        let access = Access::open(&settings.data_dir)
            .map_err(|error| ExitError::failed(error.to_string()))?;
        let access = Arc::new(access);
        let listener = bind_page(settings.listen).await.map_err(|error| {
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
        let port = Arc::new(Port::new(metrics, Arc::clone(&counts)));
        let (stop, stopped) = watch::channel(false);
        let mut waiting = None;
        match opened {
            Ok(store) => port.fill(run(&settings, store, &access, port.metrics()).await?),
            Err(error) => {
                tracing::error!(%error, "the store cannot be used; the page says so");
                let folder = &settings.data_dir;
                let occupied =
                    Occupied::take(folder).map_err(|error| ExitError::of_store(folder, &error))?;
                port.refuse(ExitError::of_store(folder, &error), occupied);
                // What is damaged, newer or without its keys is mended by people, who stop the appliance for it.
                if let OpenError::Io(_) = error {
                    let wait = Wait {
                        settings: settings.clone(),
                        disk,
                        options,
                        port: Arc::clone(&port),
                        access: Arc::clone(&access),
                    };
                    waiting = Some(tokio::spawn(wait.for_store(stopped.clone())));
                }
            }
        }
        let control = control.map(|socket| {
            let opened = Arc::clone(&port);
            socket.serve(control::House {
                sessions: Arc::clone(&port) as Arc<dyn web::Sessions>,
                access: Arc::clone(&access),
                store: Box::new(move || opened.store()),
                credential,
                grace: settings.code_grace,
            })
        });
        let web = Arc::new(Web::new(
            Arc::clone(&port) as Arc<dyn web::Sessions>,
            Arc::clone(&access),
            web_settings(&settings, tls),
            counts,
        ));
        let page = Arc::clone(&web);
        let web = tokio::spawn(web::serve(listener, web, stopped));
        info!(address = %bound, "serving the page");
        Ok(Self {
            access,
            address: format!("{scheme}://{}/", reachable(bound)),
            stop,
            page,
            web,
            control,
            port,
            waiting,
        })
    }

    /// Where the page is.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where the page is, with the access key in the fragment, which no server ever sees.
    #[must_use]
    pub fn open_address(&self) -> SecretText {
        SecretText::new(format!(
            "{}#key={}",
            self.address,
            self.access.key().reveal()
        ))
    }

    /// The access key, for whoever started this in its own process.
    #[must_use]
    pub fn access_key(&self) -> SecretText {
        self.access.key()
    }

    /// Tells whether everything turns.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        Pulse::new(Arc::clone(&self.page), Arc::clone(&self.port))
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
            if let Some(waiting) = self.waiting
                && let Err(error) = waiting.await
            {
                warn!(%error, "the wait for the store ended badly");
            }
            if let Some(running) = self.port.running() {
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
    async fn stop(&self, access: &Access) {
        if let Some(versions) = &self.versions {
            versions.abort();
        }
        self.budget.abort();
        self.sessions.stop().await;
        self.logins.abort();
        put_logins(access, &self.store).await;
        self.store.close().await;
    }
}

/// Binds where the page is served.
async fn bind_page(listen: SocketAddr) -> io::Result<TcpListener> {
    let patience = if systemd::manages() {
        PLACE_WITHIN
    } else {
        Duration::ZERO
    };
    let until = Instant::now() + patience;
    loop {
        match TcpListener::bind(listen).await {
            Err(error)
                if Instant::now() < until
                    && matches!(
                        error.kind(),
                        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable
                    ) =>
            {
                tokio::time::sleep(PLACE_AGAIN).await;
            }
            done => return done,
        }
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

/// How the store is opened.
fn options(wrapping_key: Option<WrappingKey>, metrics: &Arc<Metrics>) -> Options {
    let timed = Arc::clone(metrics);
    Options {
        wrapping_key,
        on_commit: Some(Arc::new(move |took| timed.committed(took))),
        ..Options::default()
    }
}

/// A disk may let whoever opens a store wait.
async fn open(disk: &Arc<dyn Disk>, options: &Options) -> Result<Store, OpenError> {
    let (disk, options) = (Arc::clone(disk), options.clone());
    tokio::task::spawn_blocking(move || Store::open_on(disk, options))
        .await
        .unwrap_or_else(|fault| Err(OpenError::Io(std::io::Error::other(fault))))
}

/// The store, or why the page has to say that there is none. Another process's store is no page's affair.
async fn first_open(
    disk: &Arc<dyn Disk>,
    options: &Options,
) -> Result<Result<Store, OpenError>, ExitError> {
    let folder = disk.folder();
    let patience = Instant::now() + HELD;
    let opened = loop {
        match open(disk, options).await {
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
            holder(folder)
        ))),
        // Without a folder there is no place for an access key either.
        Err(OpenError::Io(error)) if !folder.is_dir() => Err(ExitError::failed(format!(
            "the folder {} cannot be made: {error}; make it, or choose another with --data-dir",
            folder.display()
        ))),
        other => Ok(other),
    }
}

/// Everything that the sessions need once there is a store for them.
struct Wait {
    settings: Settings,
    disk: Arc<dyn Disk>,
    options: Options,
    port: Arc<Port>,
    access: Arc<Access>,
}

impl Wait {
    /// Tries to open the store until the disk gives it; then everything runs as if it had been there from the start.
    async fn for_store(self, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                // Without a sender there is nobody left to wait for.
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(STORE_AGAIN) => {}
            }
            // The store takes the folder for itself.
            self.port.let_in();
            let store = match open(&self.disk, &self.options).await {
                Ok(store) => store,
                Err(error) => {
                    let folder = &self.settings.data_dir;
                    // Somebody may have come in meanwhile, who is gone by and by.
                    if let Ok(occupied) = Occupied::take(folder) {
                        self.port
                            .refuse(ExitError::of_store(folder, &error), occupied);
                    }
                    if let OpenError::Io(_) | OpenError::InUse = error {
                        continue;
                    }
                    tracing::error!(%error, "the disk is back, but the store cannot be used");
                    return;
                }
            };
            let begun = run(
                &self.settings,
                store.clone(),
                &self.access,
                self.port.metrics(),
            );
            match begun.await {
                Ok(running) => {
                    info!("the store can be used again");
                    return self.port.fill(running);
                }
                Err(error) => {
                    warn!(%error, "the disk is back, but not for long");
                    store.close().await;
                }
            }
        }
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
    if let Ok(Some(kept)) = store.setting(LOGINS) {
        access.take_logins_back(&kept);
    }
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
