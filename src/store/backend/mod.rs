//! Owns whatsapp-rust's view of one link's rows: every trait method is one delegation to `rows`, behind the epoch's fence.
//! A handle of a link that was wiped refuses everything.

mod app_sync;
mod device;
mod msg_secret;
mod protocol;
mod signal;

use std::sync::Arc;

use tokio::sync::Notify;

use super::error::StoreError;
use super::tx::{Reader, Rows, Scope, Writer};
use super::{Epoch, Store};

/// What upstream's traits return.
type Result<T> = whatsapp_rust::wacore::store::error::Result<T>;

/// The rows of one link. Good as long as its epoch is the session's present one.
#[derive(Clone)]
pub struct EpochBackend {
    store: Store,
    session: Arc<str>,
    epoch: Epoch,
    trouble: Arc<Notify>,
}

impl EpochBackend {
    pub(super) fn new(store: Store, session: &str, epoch: Epoch) -> Self {
        Self {
            store,
            session: Arc::from(session),
            epoch,
            trouble: Arc::default(),
        }
    }

    /// Notified when the disk fails this link: whoever wrote has lost something, and must begin anew from what is
    /// stored. An epoch that is over is no trouble.
    #[must_use]
    pub fn trouble(&self) -> Arc<Notify> {
        Arc::clone(&self.trouble)
    }

    fn told<T>(&self, result: std::result::Result<T, StoreError>) -> Result<T> {
        if let Err(StoreError::Disk) = result {
            self.trouble.notify_one();
        }
        Ok(result?)
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&Reader<'_>, &Scope) -> std::result::Result<T, StoreError>,
    ) -> Result<T> {
        self.told(self.store.read(|rows| {
            let scope = rows.fence(&self.session, self.epoch)?;
            read(rows, &scope)
        }))
    }

    async fn write<T: Send + 'static>(
        &self,
        mut write: impl FnMut(&Writer<'_>, &Scope) -> std::result::Result<T, StoreError>
        + Send
        + 'static,
    ) -> Result<T> {
        let (session, epoch) = (Arc::clone(&self.session), self.epoch);
        let result = self
            .store
            .write(move |writer| {
                // Inside the transaction: whoever still holds this handle cannot bring anything back.
                let scope = writer.fence(&session, epoch)?;
                write(writer, &scope)
            })
            .await;
        self.told(result)
    }
}
