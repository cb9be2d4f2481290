//! Owns the port through which the web layer speaks to the sessions; nothing here knows how they work.

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::broadcast;

use crate::session::{Asker, CodeRequest, PairingCode, RequestError, SessionEvent, Status, View};

/// The sessions, as seen from the web.
///
/// Two promises the WebSocket rests on: a view is up to date before the event that tells of the change is sent,
/// and before `request_code` resolves, so that a code that is no longer live is never shown.
#[async_trait]
pub trait Sessions: Send + Sync + 'static {
    /// All statuses.
    fn list(&self) -> Vec<Status>;

    /// Everything a page shows of one session.
    fn view(&self, id: &str) -> Option<View>;

    /// The events of one session; subscribed before the view is taken, so nothing is missed.
    fn subscribe(&self, id: &str) -> Option<(View, broadcast::Receiver<SessionEvent>)>;

    /// Asks for a code; resolves once there is one, or with the refusal.
    async fn request_code(
        &self,
        id: &str,
        request: CodeRequest,
    ) -> Result<PairingCode, RequestError>;

    /// Ends the code, or the request for one.
    async fn cancel(&self, id: &str, asker: Asker) -> Result<(), RequestError>;

    /// Tries the link again now.
    async fn reconnect(&self, id: &str, asker: Asker) -> Result<(), RequestError>;

    /// Tells WhatsApp and wipes the link; the slot stays.
    async fn unlink(&self, id: &str, asker: Asker) -> Result<(), RequestError>;

    /// Adds a slot (true) or renames it (false). The id has been checked.
    async fn put(&self, id: &str, name: &str) -> Result<bool, RequestError>;

    /// Unlinks, wipes and removes a slot; never the default one.
    async fn remove(&self, id: &str, asker: Asker) -> Result<(), RequestError>;

    /// The newest journal entries.
    ///
    /// # Errors
    /// The store cannot be read.
    fn audit(&self, session: Option<&str>, limit: usize) -> Result<Value, RequestError>;

    /// Whether the store can be used.
    fn healthy(&self) -> bool;

    /// The counters as JSON.
    fn metrics_json(&self) -> Value;

    /// The counters as Prometheus text.
    fn metrics_text(&self) -> String;
}
