//! Owns the other side of the tests: a whatsapp-rust client as anybody would build it, with its own in-memory store.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use wacore::store::InMemoryBackend;
use whatsapp_rust::bot::{Bot, BotHandle};
use whatsapp_rust::http::{HttpClient, HttpRequest, HttpResponse};
use whatsapp_rust::pair_code::{PairCodeOptions, PairError};
use whatsapp_rust::store::traits::Backend;
use whatsapp_rust::transport::TokioWebSocketTransportFactory;
use whatsapp_rust::types::events::Event;
use whatsapp_rust::{Client, TokioRuntime};

/// One companion; the store outlives the client, as a file would.
pub struct Companion {
    pub backend: Arc<InMemoryBackend>,
    pub client: Arc<Client>,
    handle: BotHandle,
    seen: Arc<Mutex<Vec<Arc<Event>>>>,
    changed: watch::Receiver<usize>,
}

struct NoHttp;

#[async_trait::async_trait]
impl HttpClient for NoHttp {
    async fn execute(&self, _: HttpRequest) -> anyhow::Result<HttpResponse> {
        anyhow::bail!("these tests fetch nothing")
    }
}

impl Companion {
    pub async fn start(url: &str) -> Self {
        Self::start_with(url, Arc::new(InMemoryBackend::new())).await
    }

    pub async fn start_with(url: &str, backend: Arc<InMemoryBackend>) -> Self {
        let seen: Arc<Mutex<Vec<Arc<Event>>>> = Arc::default();
        let (count, changed) = watch::channel(0);
        let sink = Arc::clone(&seen);
        let bot = Bot::builder()
            .with_backend_arc(Arc::clone(&backend) as Arc<dyn Backend>)
            .with_transport_factory(TokioWebSocketTransportFactory::new().with_url(url))
            .with_http_client(NoHttp)
            .with_runtime(TokioRuntime)
            .with_version((2, 3000, 1_026_131_876))
            .skip_history_sync()
            .on_event(move |event, _client| {
                let (sink, count) = (Arc::clone(&sink), count.clone());
                async move {
                    sink.lock().unwrap().push(event);
                    count.send_modify(|n| *n += 1);
                }
            })
            .build()
            .await
            .expect("a client");
        let client = bot.client();
        Self {
            backend,
            client,
            handle: bot.spawn(),
            seen,
            changed,
        }
    }

    /// The first event that fits, of those seen or to come.
    pub async fn see<T>(&self, what: &str, fits: impl Fn(&Event) -> Option<T>) -> T {
        let mut changed = self.changed.clone();
        let found = async {
            loop {
                changed.borrow_and_update();
                if let Some(found) = self.seen.lock().unwrap().iter().find_map(|e| fits(e)) {
                    return found;
                }
                changed.changed().await.expect("the client lives");
            }
        };
        match tokio::time::timeout(Duration::from_secs(40), found).await {
            Ok(found) => found,
            Err(_) => panic!("never saw {what}, but {:#?}", self.kinds()),
        }
    }

    pub fn kinds(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .map(|e| format!("{e:?}").chars().take(120).collect())
            .collect()
    }

    pub async fn connected(&self) {
        self.see("Connected", |e| {
            matches!(e, Event::Connected(_)).then_some(())
        })
        .await;
    }

    /// Asks for a code once the server has said that it is ready for it.
    pub async fn ask(&self, number: &str) -> Result<String, PairError> {
        self.qr().await;
        self.ask_now(number).await
    }

    pub async fn ask_now(&self, number: &str) -> Result<String, PairError> {
        self.client
            .pair_with_code(PairCodeOptions {
                phone_number: number.to_owned(),
                ..Default::default()
            })
            .await
    }

    /// The first QR value.
    pub async fn qr(&self) -> String {
        self.see("PairingQrCode", |e| match e {
            Event::PairingQrCode(qr) => Some(qr.code.clone()),
            _ => None,
        })
        .await
    }

    /// Stops as a program does that ends; what it has stored stays.
    pub async fn stop(self) -> Arc<InMemoryBackend> {
        self.client.disconnect().await;
        drop(self.handle);
        self.backend
    }
}
