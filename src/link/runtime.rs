//! Owns the tasks that one client spawns, so that stopping it can await every one of them.
//! Without this a background save of a stopped client could outlive its stop.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use whatsapp_rust::Runtime;
use whatsapp_rust::wacore::runtime::AbortHandle;

/// A tokio runtime that knows the tasks spawned through it.
#[derive(Debug, Clone, Default)]
pub(super) struct TrackedRuntime {
    tasks: TaskTracker,
    /// Fired when waiting is over: what still runs is dropped at its next await.
    cut: CancellationToken,
}

impl TrackedRuntime {
    /// Runs a future as one of the client's tasks.
    pub(super) fn run(
        &self,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> tokio::task::AbortHandle {
        let cut = self.cut.clone();
        self.tasks
            .spawn(async move {
                tokio::select! {
                    () = cut.cancelled() => {}
                    () = future => {}
                }
            })
            .abort_handle()
    }

    /// Waits until every task has ended; after `patience` cuts those that remain.
    pub(super) async fn drain(&self, patience: Duration) {
        self.tasks.close();
        if tokio::time::timeout(patience, self.tasks.wait())
            .await
            .is_err()
        {
            self.cut();
            self.tasks.wait().await;
        }
        self.cut();
    }

    /// Drops every task at its next await.
    pub(super) fn cut(&self) {
        self.cut.cancel();
    }

    /// Comes when the tasks are cut.
    pub(super) async fn was_cut(&self) {
        self.cut.cancelled().await;
    }
}

impl Runtime for TrackedRuntime {
    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send + 'static>>) -> AbortHandle {
        let handle = self.run(future);
        AbortHandle::new(move || handle.abort())
    }

    fn spawn_detached(&self, future: Pin<Box<dyn Future<Output = ()> + Send + 'static>>) {
        self.run(future);
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn spawn_blocking(
        &self,
        work: Box<dyn FnOnce() + Send + 'static>,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let job = self.tasks.spawn_blocking(work);
        Box::pin(async move {
            // A panic in the work is reported by the library's own answer channel closing.
            let _ = job.await;
        })
    }

    fn yield_now(&self) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        None
    }
}
