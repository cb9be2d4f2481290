//! Owns the companion version that clients announce: compiled in, refreshed in the background, kept in the store.
//! Fetching it never delays a connection.

use std::sync::{Arc, PoisonError, RwLock};

use whatsapp_rust::http::HttpClient;
use whatsapp_rust::wacore::store::Device;

/// The version in use.
pub struct Versions {
    http: Arc<dyn HttpClient>,
    current: RwLock<(u32, u32, u32)>,
}

impl Versions {
    /// Starts with `kept`, the version found in the store, or with the one compiled in, whichever is newer.
    #[must_use]
    pub fn new(kept: Option<(u32, u32, u32)>) -> Arc<Self> {
        let device = Device::new();
        let compiled_in = (
            device.app_version_primary,
            device.app_version_secondary,
            device.app_version_tertiary,
        );
        Arc::new(Self {
            http: Arc::new(whatsapp_rust::http::UreqHttpClient::new()),
            current: RwLock::new(kept.unwrap_or(compiled_in).max(compiled_in)),
        })
    }

    /// The version to announce.
    #[must_use]
    pub fn current(&self) -> (u32, u32, u32) {
        *self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks WhatsApp's own page for the present version and uses it from now on.
    /// Returns it when it is new; an unreachable page changes nothing.
    pub async fn refresh(&self) -> Option<(u32, u32, u32)> {
        let fetched = whatsapp_rust::version::fetch_latest_app_version(&self.http)
            .await
            .ok()?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if fetched > *current {
            *current = fetched;
            return Some(fetched);
        }
        None
    }

    pub(super) fn http(&self) -> Arc<dyn HttpClient> {
        Arc::clone(&self.http)
    }
}
