//! Owns what the web layer's tests stand on: sessions that follow a script, a running server, a plain client.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{SinkExt as _, StreamExt as _};
use hairpin::access::Access;
use hairpin::error::Code;
use hairpin::phone::Country;
use hairpin::secret::SecretText;
use hairpin::session::{
    Asker, CodeRequest, EndReason, PairingCode, RequestError, SessionEvent, State, Status, View,
};
use hairpin::web::{Counts, Sessions, Web, WebSettings, serve};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// Long enough that only a fault reaches it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What the next request for a code comes to.
pub enum Plan {
    /// A code, told to everybody and to the asker.
    Code(PairingCode),
    /// A code that was live before: only the asker is told.
    Again(PairingCode),
    /// A refusal.
    Refuse(RequestError),
    /// Whatever is sent later; a code is told to everybody then.
    Later(oneshot::Receiver<Result<PairingCode, RequestError>>),
}

/// Sessions that do what a test wrote down; it stands for the session layer in these tests only.
#[derive(Default)]
pub struct Script {
    pub slots: Mutex<BTreeMap<String, (View, broadcast::Sender<SessionEvent>)>>,
    pub plans: Mutex<VecDeque<Plan>>,
    pub calls: Mutex<Vec<String>>,
    pub refuse: Mutex<Option<RequestError>>,
    pub sick: Mutex<bool>,
    /// The user agents that the journal would hear of.
    pub agents: Mutex<Vec<Option<String>>>,
}

pub fn a_code(text: &str) -> PairingCode {
    PairingCode {
        code: SecretText::new(text.into()),
        phone_number: "79001***567".into(),
        expires_at: 1_700_000_000_000,
        deadline: tokio::time::Instant::now() + Duration::from_millis(170_500),
        stopped: None,
        replaced: None,
    }
}

pub fn a_status(session: &str, state: State) -> Status {
    Status {
        session: session.into(),
        state,
        name: "Salon".into(),
        phone: None,
        since: 1,
        last_connected: None,
        until: None,
        reason: None,
    }
}

impl Script {
    pub fn add(&self, id: &str) {
        let view = View {
            status: a_status(id, State::Unlinked),
            code: None,
            qr: None,
        };
        let events = broadcast::Sender::new(8);
        self.slots.lock().unwrap().insert(id.into(), (view, events));
    }

    pub fn plan(&self, plan: Plan) {
        self.plans.lock().unwrap().push_back(plan);
    }

    pub fn tell(&self, id: &str, event: SessionEvent) {
        let mut slots = self.slots.lock().unwrap();
        let (view, events) = slots.get_mut(id).expect("a slot");
        match &event {
            SessionEvent::Status(status) => view.status = status.clone(),
            SessionEvent::Code(code) => view.code = Some(code.clone()),
            SessionEvent::CodeEnded(_) => view.code = None,
            SessionEvent::Qr(qr) => view.qr.clone_from(qr),
            SessionEvent::Error(_) | SessionEvent::Removed => {}
        }
        // Nobody may be listening.
        let _ = events.send(event);
    }

    pub fn listeners(&self, id: &str) -> usize {
        self.slots.lock().unwrap()[id].1.receiver_count()
    }

    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    fn call(&self, what: &str, id: &str, asker: Option<Asker>) -> Result<(), RequestError> {
        self.calls.lock().unwrap().push(format!("{what} {id}"));
        if let Some(asker) = asker {
            self.agents.lock().unwrap().push(asker.user_agent);
        }
        if !self.slots.lock().unwrap().contains_key(id) {
            return Err(Code::NoSuchSession.into());
        }
        self.refuse.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl Sessions for Script {
    fn list(&self) -> Vec<Status> {
        let slots = self.slots.lock().unwrap();
        slots
            .values()
            .map(|(view, _)| view.status.clone())
            .collect()
    }

    fn view(&self, id: &str) -> Option<View> {
        Some(self.slots.lock().unwrap().get(id)?.0.clone())
    }

    fn subscribe(&self, id: &str) -> Option<(View, broadcast::Receiver<SessionEvent>)> {
        let slots = self.slots.lock().unwrap();
        let (view, events) = slots.get(id)?;
        Some((view.clone(), events.subscribe()))
    }

    async fn request_code(
        &self,
        id: &str,
        request: CodeRequest,
    ) -> Result<PairingCode, RequestError> {
        self.call("code", id, Some(request.asker))?;
        let plan = self.plans.lock().unwrap().pop_front().expect("a plan");
        let code = match plan {
            Plan::Code(code) => code,
            Plan::Again(code) => return Ok(code),
            Plan::Refuse(error) => return Err(error),
            Plan::Later(later) => later.await.expect("an outcome")?,
        };
        self.tell(id, SessionEvent::Code(code.clone()));
        Ok(code)
    }

    async fn cancel(&self, id: &str, asker: Asker) -> Result<(), RequestError> {
        self.call("cancel", id, Some(asker))?;
        self.tell(id, SessionEvent::CodeEnded(EndReason::Cancelled));
        Ok(())
    }

    async fn reconnect(&self, id: &str, asker: Asker) -> Result<(), RequestError> {
        self.call("reconnect", id, Some(asker))
    }

    async fn unlink(&self, id: &str, asker: Asker) -> Result<(), RequestError> {
        self.call("unlink", id, Some(asker))
    }

    async fn put(&self, id: &str, name: &str) -> Result<bool, RequestError> {
        let added = !self.slots.lock().unwrap().contains_key(id);
        if added {
            self.add(id);
        }
        self.call("put", id, None)?;
        self.slots
            .lock()
            .unwrap()
            .get_mut(id)
            .expect("a slot")
            .0
            .status
            .name = name.into();
        Ok(added)
    }

    async fn remove(&self, id: &str, asker: Asker) -> Result<(), RequestError> {
        self.call("remove", id, Some(asker))?;
        self.tell(id, SessionEvent::Removed);
        self.slots.lock().unwrap().remove(id);
        Ok(())
    }

    fn audit(&self, session: Option<&str>, limit: usize) -> Result<Value, RequestError> {
        Ok(json!([{"session": session, "limit": limit}]))
    }

    fn healthy(&self) -> bool {
        !*self.sick.lock().unwrap()
    }

    fn metrics_json(&self) -> Value {
        json!({"hairpin_reconnects_total": 0})
    }

    fn metrics_text(&self) -> String {
        "hairpin_reconnects_total 0\n".into()
    }
}

/// A running server. `stop` proves that it leaves nothing behind.
pub struct App {
    pub address: SocketAddr,
    pub key: String,
    pub script: Arc<Script>,
    pub access: Arc<Access>,
    pub counts: Arc<Counts>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

/// An answer to a plain request.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

pub async fn start() -> App {
    start_with(|_| {}).await
}

pub async fn start_with(change: impl FnOnce(&mut WebSettings)) -> App {
    let dir = tempfile::tempdir().expect("a folder");
    let access = Arc::new(Access::open(dir.path()).expect("a key"));
    let script = Arc::new(Script::default());
    script.add("salon");
    let mut settings = WebSettings::new(Country::parse("RU").expect("a country"));
    change(&mut settings);
    let counts = Arc::new(Counts::default());
    let web = Web::new(
        Arc::clone(&script) as Arc<dyn Sessions>,
        Arc::clone(&access),
        settings,
        Arc::clone(&counts),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopping) = watch::channel(false);
    let task = tokio::spawn(serve(listener, Arc::new(web), stopping));
    App {
        address,
        key: access.key().reveal().to_owned(),
        script,
        access,
        counts,
        stop,
        task,
        _dir: dir,
    }
}

impl App {
    pub fn begin_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Stops; the server has to be gone within a second and a half, connections included.
    pub async fn stop(self) {
        self.begin_stop();
        tokio::time::timeout(Duration::from_millis(1500), self.task)
            .await
            .expect("stopped in time")
            .expect("no panic");
    }

    pub fn bearer(&self) -> (&'static str, String) {
        ("Authorization", format!("Bearer {}", self.key))
    }

    /// A request with the key.
    pub async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let mut headers = vec![self.bearer()];
        let body = body.map(|body| body.to_string());
        if body.is_some() {
            headers.push(("Content-Type", "application/json".into()));
        }
        self.send(method, path, &headers, body.as_deref().unwrap_or_default())
            .await
    }

    /// A request with exactly these headers, and the right `Host` unless one is among them.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, String)],
        body: &str,
    ) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            write!(head, "Host: {}\r\n", self.address).expect("memory");
        }
        if !body.is_empty() {
            write!(head, "Content-Length: {}\r\n", body.len()).expect("memory");
        }
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n").expect("memory");
        }
        let mut stream = self.dial().await;
        let request = format!("{head}\r\n{body}");
        stream.write_all(request.as_bytes()).await.expect("sent");
        read_answer(&mut stream).await
    }

    pub async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connected")
    }

    /// Logs in; the answer is the cookie pair.
    pub async fn login(&self) -> String {
        let body = json!({ "accessKey": self.key }).to_string();
        let json = ("Content-Type", "application/json".to_owned());
        let answer = self.send("POST", "/login", &[json], &body).await;
        assert_eq!(answer.status, 204);
        let cookie = answer.header("set-cookie");
        cookie.split(';').next().expect("a pair").to_owned()
    }

    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    pub async fn socket(&self, query: &str) -> Socket {
        self.try_socket(query, &[self.bearer()])
            .await
            .expect("upgraded")
    }

    /// Opens a WebSocket, or comes back with the status of the refusal.
    pub async fn try_socket(
        &self,
        query: &str,
        headers: &[(&'static str, String)],
    ) -> Result<Socket, u16> {
        let url = format!("ws://{}/ws{query}", self.address);
        let mut request = url.into_client_request().expect("a request");
        for (name, value) in headers {
            request
                .headers_mut()
                .insert(*name, value.parse().expect("a header"));
        }
        match tokio_tungstenite::connect_async(request).await {
            Ok((inner, _)) => Ok(Socket { inner }),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("no WebSocket: {error}"),
        }
    }
}

/// Reads to the end of the connection.
pub async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> Answer {
    let mut raw = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut raw)).await;
    read.expect("answered in time").expect("no reset");
    let split = raw.windows(4).position(|w| w == b"\r\n\r\n");
    let split = split.unwrap_or_else(|| panic!("a head in {:?}", String::from_utf8_lossy(&raw)));
    let head = String::from_utf8(raw[..split].to_vec()).expect("text");
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    Answer {
        status: status.and_then(|s| s.parse().ok()).expect("a status"),
        headers: lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect(),
        body: raw[split + 4..].to_vec(),
    }
}

/// A page's end of a WebSocket.
#[derive(Debug)]
pub struct Socket {
    pub inner: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Socket {
    pub async fn send(&mut self, value: Value) {
        self.send_text(&value.to_string()).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        self.inner.send(Message::text(text)).await.expect("sent");
    }

    /// The next frame of the page's protocol.
    pub async fn next(&mut self) -> Value {
        loop {
            match self.raw().await {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).expect("JSON"),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("no frame but {other:?}"),
            }
        }
    }

    /// The next frame of one event; others are passed over.
    pub async fn next_of(&mut self, event: &str) -> Value {
        loop {
            let frame = self.next().await;
            if frame["event"] == event {
                return frame;
            }
        }
    }

    /// The close code that ends it all.
    pub async fn closed(&mut self) -> u16 {
        loop {
            match self.raw().await {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(Message::Close(None))) => return 1005,
                Some(Ok(_)) => {}
                _ => return 1006,
            }
        }
    }

    async fn raw(&mut self) -> Option<Result<Message, Error>> {
        let next = tokio::time::timeout(PATIENCE, self.inner.next());
        next.await.expect("something in time")
    }
}

/// Waits until it is so.
pub async fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let wait = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "{what}");
}
