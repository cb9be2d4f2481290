//! Owns one WhatsApp client over one connection: start, ask for a code, tell, stop.
//! A client is never reused: every attempt builds a new one over the store. It never decides what comes next.

pub mod backoff;
mod event;
mod runtime;
mod version;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use whatsapp_rust::pair_code::{PairCodeOptions, PairCodeRejection, PairError};
use whatsapp_rust::store::persistence_manager::PersistenceManager;
use whatsapp_rust::traits::Backend;
use whatsapp_rust::transport::TokioWebSocketTransportFactory;
use whatsapp_rust::waproto::whatsapp::device_props::PlatformType;
use whatsapp_rust::{Client, ErrorChainExt};

use event::{BeforeFinish, Handler};
use runtime::TrackedRuntime;

pub use event::{Close, LinkEvent, Paired, Refusal};
pub use version::Versions;

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

    /// Starts a client over `backend`. With stored credentials it logs in, else it registers.
    ///
    /// `before_finish` runs, blocking, when the phone has accepted us and before we answer;
    /// it returns whether the answer may go out.
    ///
    /// # Errors
    /// When the backend cannot be read or written.
    pub async fn start(
        &self,
        backend: Arc<dyn Backend>,
        before_finish: Option<BeforeFinish>,
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
            .build()
            .await
            .map_err(|_| StartError)?
            .into_client();
        client.enable_auto_reconnect.store(false, Ordering::Relaxed);
        let handler = Handler::new(sink, before_finish);
        client.subscribe_handler(handler.clone()).detach();

        let link = Link(Arc::new(Inner {
            client,
            tasks,
            handler,
            persistence,
            connected: AtomicBool::new(false),
        }));
        link.run();
        Ok((link, events))
    }

    /// Whether WhatsApp answers now: a registration connection that is thrown away.
    pub async fn probe(&self, within: Duration) -> bool {
        let attempt = async {
            let backend = Arc::new(whatsapp_rust::wacore::store::in_memory::InMemoryBackend::new());
            let (link, mut events) = self.start(backend, None).await.ok()?;
            let mut answered = None;
            while let Some(event) = events.recv().await {
                match event {
                    // The refs of a registration are WhatsApp's own answer, not only a socket's.
                    LinkEvent::Qr { .. } => {
                        answered = Some(());
                        break;
                    }
                    LinkEvent::Closed(_) => break,
                    _ => {}
                }
            }
            // Its credentials were never anybody's: nothing to flush, and the answer need not wait.
            tokio::spawn(async move { link.stop(LINGER).await });
            answered
        };
        matches!(tokio::time::timeout(within, attempt).await, Ok(Some(())))
    }
}

/// A running client. Clones are the same client.
#[derive(Clone)]
pub struct Link(Arc<Inner>);

struct Inner {
    client: Arc<Client>,
    tasks: TrackedRuntime,
    handler: Arc<Handler>,
    persistence: Arc<PersistenceManager>,
    connected: AtomicBool,
}

impl Link {
    /// Spawns the connection; its end is reported once.
    fn run(&self) {
        let inner = Arc::clone(&self.0);
        let opener = Arc::clone(&self.0);
        let tasks = self.0.tasks.clone();
        // The lease lives as long as the connection: 515, 429 and `primary_hello` raise no event.
        let lease = inner.client.acquire_raw_node_forwarding();
        tasks.run(async move {
            if opener
                .client
                .wait_for_socket(Duration::from_hours(1))
                .await
                .is_ok()
            {
                opener.connected.store(true, Ordering::SeqCst);
            }
        });
        // Not a tracked task: it must report the end even while the tracked ones are drained.
        tokio::spawn(async move {
            let _lease = lease;
            let run = inner.client.run();
            tokio::pin!(run);
            tokio::select! {
                () = &mut run => {}
                () = inner.handler.ending.notified() => {
                    if inner.handler.refuse_finish.load(Ordering::SeqCst) {
                        inner.client.signal_shutdown_sync();
                    }
                    if tokio::time::timeout(LINGER, &mut run).await.is_err() {
                        inner.client.signal_shutdown_sync();
                        let _ = tokio::time::timeout(LINGER, &mut run).await;
                    }
                }
            }
            inner.connected.store(false, Ordering::SeqCst);
            inner
                .handler
                .tell(LinkEvent::Closed(inner.handler.closed_because()));
        });
    }

    /// Asks WhatsApp for a code for the number (E.164 digits); the answer comes as an event.
    pub fn request_code(&self, digits: &str) {
        let inner = Arc::clone(&self.0);
        let phone_number = digits.to_owned();
        self.0.handler.asking(true);
        self.0.tasks.run(async move {
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
                inner.handler.tell(LinkEvent::CodeRefused(refusal(&error)));
            }
        });
    }

    /// Withdraws the code: it can no longer link anything.
    pub async fn cancel_code(&self) {
        self.0.client.cancel_pair_code().await;
    }

    /// Writes the device to the store now.
    ///
    /// # Errors
    /// When the store does not take it.
    pub async fn flush(&self) -> Result<(), StartError> {
        self.0.persistence.flush().await.map_err(|_| StartError)
    }

    /// Tells WhatsApp to forget this device; whether WhatsApp confirmed it.
    pub async fn tell_logout(&self, within: Duration) -> bool {
        use whatsapp_rust::wacore::iq::devices::RemoveCompanionDeviceSpec;
        let Some(jid) = self.0.client.pn() else {
            return false;
        };
        let answer = tokio::time::timeout(
            within,
            self.0.client.execute(RemoveCompanionDeviceSpec::new(&jid)),
        )
        .await;
        // A device that is forgotten is cut off at once, which may be quicker than the answer is read.
        matches!(answer, Ok(Ok(()))) || self.0.handler.closed_because() == Close::LoggedOut
    }

    /// Whether the connection stands.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.connected.load(Ordering::SeqCst)
    }

    /// Stops the client and awaits its tasks: afterwards it writes nothing any more.
    /// What it still has to flush gets `within`.
    pub async fn stop(&self, within: Duration) {
        if tokio::time::timeout(within, self.0.client.disconnect())
            .await
            .is_err()
        {
            self.0.client.signal_shutdown_sync();
        }
        self.0.tasks.drain(DRAIN).await;
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
