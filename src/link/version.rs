//! Owns the companion version that clients announce: compiled in, refreshed in the background, kept in the store.
//! Fetching it never delays a connection, and where nobody may be asked, nobody is.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use whatsapp_rust::http::HttpClient;
use whatsapp_rust::wacore::store::Device;

/// A companion version.
pub type Version = (u32, u32, u32);

/// How long the present version may take to be told.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the present version is told.
#[async_trait]
pub trait VersionSource: Send + Sync {
    /// The present version; none when it cannot be had.
    async fn latest(&self) -> Option<Version>;
}

/// WhatsApp's own page.
pub struct WhatsAppPage(Arc<dyn HttpClient>);

impl Default for WhatsAppPage {
    fn default() -> Self {
        Self(Arc::new(whatsapp_rust::http::UreqHttpClient::new()))
    }
}

#[async_trait]
impl VersionSource for WhatsAppPage {
    async fn latest(&self) -> Option<Version> {
        whatsapp_rust::version::fetch_latest_app_version(&self.0)
            .await
            .ok()
    }
}

/// The version in use.
pub struct Versions {
    /// None where a server of one's own is spoken to: nobody else is to hear of it.
    source: Option<Arc<dyn VersionSource>>,
    http: Arc<dyn HttpClient>,
    current: watch::Sender<Version>,
}

impl Versions {
    /// Starts with `kept`, the version found in the store, or with the one compiled in, whichever is newer; asks nobody
    /// for a newer one.
    #[must_use]
    pub fn new(kept: Option<Version>) -> Arc<Self> {
        Self::with_source(kept, None)
    }

    /// The same, with somebody to ask.
    #[must_use]
    pub fn with_source(kept: Option<Version>, source: Option<Arc<dyn VersionSource>>) -> Arc<Self> {
        let device = Device::new();
        let compiled_in = (
            device.app_version_primary,
            device.app_version_secondary,
            device.app_version_tertiary,
        );
        Arc::new(Self {
            source,
            http: Arc::new(whatsapp_rust::http::UreqHttpClient::new()),
            current: watch::Sender::new(kept.unwrap_or(compiled_in).max(compiled_in)),
        })
    }

    /// The version to announce.
    #[must_use]
    pub fn current(&self) -> Version {
        *self.current.borrow()
    }

    /// The version to announce, now and whenever it changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Version> {
        self.current.subscribe()
    }

    /// Asks for the present version and uses it from now on.
    /// Returns it when it is new; a source that does not answer changes nothing.
    pub async fn refresh(&self) -> Option<Version> {
        let source = self.source.as_ref()?;
        let fetched = tokio::time::timeout(PATIENCE, source.latest())
            .await
            .ok()??;
        self.current
            .send_if_modified(|current| {
                let newer = fetched > *current;
                if newer {
                    *current = fetched;
                }
                newer
            })
            .then_some(fetched)
    }

    pub(super) fn http(&self) -> Arc<dyn HttpClient> {
        Arc::clone(&self.http)
    }
}
