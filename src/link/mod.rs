//! Owns one WhatsApp client over one connection: start, ask for a code, tell, stop.
//! A client is never reused: every attempt builds a new one over the store. It never decides what comes next.

pub mod backoff;
mod event;
mod runtime;
mod version;
mod watch;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use whatsapp_rust::pair_code::{PairCodeOptions, PairCodeRejection, PairError};
use whatsapp_rust::store::persistence_manager::PersistenceManager;
use whatsapp_rust::traits::Backend;
use whatsapp_rust::transport::TokioWebSocketTransportFactory;
use whatsapp_rust::waproto::whatsapp::device_props::PlatformType;
use whatsapp_rust::{CacheConfig, Client, ErrorChainExt, MsgSecretPolicy};

use event::Handler;
use runtime::TrackedRuntime;

pub use event::{BeforeFinish, Close, LinkEvent, Paired, Refusal};
pub use version::{Version, VersionSource, Versions, WhatsAppPage};

/// What a session wants to have a hand in.
#[derive(Default)]
pub struct Hooks {
    /// Runs, blocking, when the phone has accepted us and before we answer; whether the answer may go out.
    pub before_finish: Option<BeforeFinish>,
    /// Notified by the backend when the store fails this client.
    pub store_trouble: Arc<Notify>,
}

/// How long the stream may linger after it announced its end.
const LINGER: Duration = Duration::from_secs(2);
/// How long tasks may run on after a stop before they are cut. Everything is flushed by then; what lingers only
/// sleeps (the QR rotation, the minute of silence).
const DRAIN: Duration = Duration::from_millis(100);

/// What every client of this appliance needs to connect.
#[derive(Clone)]
pub struct Connector {
    url: Option<String>,
    versions: Arc<Versions>,
}

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the store does not give or take the device's credentials")]
pub struct StartError;

impl Connector {
    /// Connects to `url`, or to WhatsApp's own address.
    #[must_use]
    pub fn new(url: Option<String>, versions: Arc<Versions>) -> Self {
        Self { url, versions }
    }

    /// The versions that clients announce.
    #[must_use]
    pub fn versions(&self) -> &Arc<Versions> {
        &self.versions
    }

    /// Starts a client over `backend`. With stored credentials it logs in, else it registers.
    ///
    /// # Errors
    /// When the backend cannot be read or written.
    pub async fn start(
        &self,
        backend: Arc<dyn Backend>,
        hooks: Hooks,
    ) -> Result<(Link, mpsc::UnboundedReceiver<LinkEvent>), StartError> {
        let (sink, events) = mpsc::unbounded_channel();
        let tasks = TrackedRuntime::default();
        let persistence = Arc::new(
            PersistenceManager::new(backend)
                .await
                .map_err(|_| StartError)?,
        );
        // Not part of the stored device: WhatsApp refuses a pairing code whose display it does not know.
        persistence
            .modify_device(|device| {
                let props = Arc::make_mut(&mut device.device_props);
                props.os = Some("Linux".to_owned());
                props.platform_type = Some(PlatformType::CHROME);
            })
            .await;
        let mut transport = TokioWebSocketTransportFactory::new();
        if let Some(url) = &self.url {
            transport = transport.with_url(url);
        }
        let client = Client::builder()
            .with_runtime(tasks.clone())
            .with_persistence_manager(Arc::clone(&persistence))
            .with_transport_factory(transport)
            .with_http_client_arc(self.versions.http())
            .with_version_override(self.versions.current())
            .with_skip_history_sync(true)
            .with_cache_config(nothing_of_messages())
            .build()
            .await
            .map_err(|_| StartError)?
            .into_client();
        client.enable_auto_reconnect.store(false, Ordering::Relaxed);
        let handler = Handler::new(sink, hooks.before_finish);
        client.subscribe_handler(handler.clone()).detach();

        let inner = Arc::new(Inner {
            client,
            tasks,
            handler,
            persistence,
            connected: AtomicBool::new(false),
            running: Mutex::new(None),
        });
        run(&inner, hooks.store_trouble);
        Ok((Link(Arc::new(Held(inner))), events))
    }

    /// Whether WhatsApp answers now: a registration connection that is thrown away.
    ///
    /// # Errors
    /// Why not, where that was told.
    pub async fn probe(&self, within: Duration) -> Result<(), Close> {
        let attempt = async {
            let backend = Arc::new(whatsapp_rust::wacore::store::in_memory::InMemoryBackend::new());
            let (link, mut events) = self
                .start(backend, Hooks::default())
                .await
                .map_err(|_| Close::Lost)?;
            let mut answered = Err(Close::Lost);
            while let Some(event) = events.recv().await {
                match event {
                    // The refs of a registration are WhatsApp's own answer, not only a socket's.
                    LinkEvent::Qr { .. } => {
                        answered = Ok(());
                        break;
                    }
                    LinkEvent::Closed(close) => {
                        answered = Err(close);
                        break;
                    }
                    _ => {}
                }
            }
            // Its credentials were never anybody's: nothing to flush, and the answer need not wait.
            tokio::spawn(async move { link.stop(LINGER).await });
            answered
        };
        // Whoever gives up drops the link, and with it its connection.
        tokio::time::timeout(within, attempt)
            .await
            .unwrap_or(Err(Close::Lost))
    }
}

/// Nothing of a message is kept: what this appliance does needs none.
fn nothing_of_messages() -> CacheConfig {
    CacheConfig {
        msg_secret_policy: MsgSecretPolicy::Disabled,
        seed_msg_secrets_from_history: false,
        ..CacheConfig::default()
    }
}

/// A running client. Clones are the same client; when the last is dropped, its connection is.
#[derive(Clone)]
pub struct Link(Arc<Held>);

/// Ends the client with its last holder: one that was given up half-way must not go on by itself.
struct Held(Arc<Inner>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.client.signal_shutdown_sync();
        self.0.tasks.cut();
    }
}

struct Inner {
    client: Arc<Client>,
    tasks: TrackedRuntime,
    handler: Arc<Handler>,
    persistence: Arc<PersistenceManager>,
    connected: AtomicBool,
    /// The task that owns the connection; awaited by whoever stops the client. Locked to take it out only.
    running: Mutex<Option<JoinHandle<()>>>,
}

/// Spawns the connection; its end is reported once.
fn run(inner: &Arc<Inner>, store_trouble: Arc<Notify>) {
    let watched = Arc::clone(inner);
    inner.tasks.run(async move {
        if watched
            .client
            .wait_for_socket(Duration::from_hours(1))
            .await
            .is_ok()
        {
            watched.connected.store(true, Ordering::SeqCst);
            watch::until_dead(&watched.client).await;
            watched.handler.abandon(Close::Lost);
        }
    });
    let teller = Arc::clone(inner);
    inner.tasks.run(async move {
        store_trouble.notified().await;
        teller.handler.tell(LinkEvent::StoreTrouble);
    });
    let running = Arc::clone(inner);
    // Not a tracked task: it must report the end even while the tracked ones are drained.
    let task = tokio::spawn(async move {
        // The lease lives as long as the connection: 515, 429 and `primary_hello` raise no event.
        let _lease = running.client.acquire_raw_node_forwarding();
        tokio::select! {
            () = connection(&running) => {}
            // A client that is stopped while it connects would not notice by itself.
            () = running.tasks.was_cut() => {}
        }
        running.connected.store(false, Ordering::SeqCst);
        running
            .handler
            .tell(LinkEvent::Closed(running.handler.closed_because()));
    });
    *inner.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
}

/// One connection, from its start to its end.
async fn connection(inner: &Arc<Inner>) {
    let run = inner.client.run();
    tokio::pin!(run);
    tokio::select! {
        () = &mut run => return,
        () = inner.handler.ending.notified() => {}
    }
    if !inner.handler.abandoned.load(Ordering::SeqCst)
        && tokio::time::timeout(LINGER, &mut run).await.is_ok()
    {
        return;
    }
    inner.client.signal_shutdown_sync();
    // A dead socket may not even take its own end.
    let _ = tokio::time::timeout(LINGER, &mut run).await;
}

impl Link {
    /// Asks WhatsApp for a code for the number (E.164 digits); the answer comes as an event.
    pub fn request_code(&self, digits: &str) {
        let inner = Arc::clone(&self.0.0);
        let phone_number = digits.to_owned();
        inner.handler.asking(true);
        self.0.0.tasks.run(async move {
            let answer = inner
                .client
                .pair_with_code(PairCodeOptions {
                    phone_number,
                    ..PairCodeOptions::default()
                })
                .await;
            inner.handler.asking(false);
            if let Err(error) = answer
                && !error.lost_the_flow_to_another_request()
            {
                let refusal = refusal(&error);
                // The stream said why it ends: that is told with its end, and says more than that no answer came.
                if refusal != Refusal::NoAnswer || !inner.handler.knows_its_end() {
                    inner.handler.tell(LinkEvent::CodeRefused(refusal));
                }
            }
        });
    }

    /// Withdraws the code: it can no longer link anything.
    pub async fn cancel_code(&self) {
        self.0.0.client.cancel_pair_code().await;
    }

    /// Writes the device to the store now.
    ///
    /// # Errors
    /// When the store does not take it.
    pub async fn flush(&self) -> Result<(), StartError> {
        self.0.0.persistence.flush().await.map_err(|_| StartError)
    }

    /// Tells WhatsApp to forget this device; whether WhatsApp confirmed it.
    pub async fn tell_logout(&self, within: Duration) -> bool {
        use whatsapp_rust::wacore::iq::devices::RemoveCompanionDeviceSpec;
        let Some(jid) = self.0.0.client.pn() else {
            return false;
        };
        let answer = tokio::time::timeout(
            within,
            self.0
                .0
                .client
                .execute(RemoveCompanionDeviceSpec::new(&jid)),
        )
        .await;
        // A device that is forgotten is cut off at once, which may be quicker than the answer is read.
        matches!(answer, Ok(Ok(())))
            || matches!(
                self.0.0.handler.closed_because(),
                Close::LoggedOut | Close::Removed
            )
    }

    /// Whether the connection stands and WhatsApp has let us in.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.0.connected.load(Ordering::SeqCst) && self.0.0.client.is_logged_in()
    }

    /// Stops the client and awaits its tasks: afterwards it has no connection and writes nothing any more.
    /// What it still has to flush gets `within`.
    pub async fn stop(&self, within: Duration) {
        if tokio::time::timeout(within, self.0.0.client.disconnect())
            .await
            .is_err()
        {
            self.0.0.client.signal_shutdown_sync();
        }
        self.0.0.tasks.drain(DRAIN).await;
        let running = self
            .0
            .0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(running) = running {
            // It ends as soon as its tasks are cut; a panic in it has been logged.
            let _ = running.await;
        }
    }
}

/// Whose fault a missing code is.
fn refusal(error: &PairError) -> Refusal {
    match error.rejection() {
        Some(PairCodeRejection::BadRequest | PairCodeRejection::RateOverlimit) => {
            Refusal::TooMany(error.backoff())
        }
        Some(PairCodeRejection::FeatureNotAvailable) => Refusal::NotAvailable,
        Some(_) => Refusal::Rejected,
        None if error.server_rejection().is_some() => Refusal::Rejected,
        None => match error {
            PairError::RequestFailed(_) => Refusal::NoAnswer,
            _ => Refusal::Rejected,
        },
    }
}
