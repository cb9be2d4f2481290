//! Owns one page's WebSocket: what it may send, what it is sent, and when it closes.
//! A request that waits for WhatsApp never blocks it, and a page that reads nothing never blocks anybody else.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message as Frame, Utf8Bytes};
use warp::Filter as _;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::Web;
use super::body::LARGEST;
use super::edge::Ctx;
use super::pages::Place;
use super::problem::{Outcome, Problem, carry, phone_refusal};
use super::serve::stopped;
use super::wire::{self, Text};
use super::ws_message::{self, Ask, Message, Wrong};
use super::ws_page::{Page, Step};
use crate::access::Pass;
use crate::error::Code;
use crate::session::{self, By, CodeRequest, PairingCode, RequestError, SessionEvent, View};
use crate::words::Lang;

pub(super) const PATH: &str = "/ws";

/// One page's requests that are not answered yet; a person has one or two.
const MOST_WAITING: usize = 8;
/// Room for what pages usually send, which every socket keeps; a longer message makes its own.
const USUAL: usize = 512;
/// How long the other side may take to close after we said that we do.
const FAREWELL: Duration = Duration::from_millis(300);
const FAREWELL_SHORT: Duration = Duration::from_millis(100);

/// A client's connection after the handshake.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

#[derive(Deserialize)]
struct Query {
    session: Option<String>,
    lang: Option<String>,
}

/// Why a socket closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Close {
    /// The other side closed, is gone, or takes nothing.
    Gone,
    Stopping,
    NotText,
    Malformed,
    BadText,
    Flooding,
    /// Newer ones of the same client took its place.
    Crowded,
    TooLarge,
    LoggedOut,
    Removed,
}

impl Close {
    const fn code(self) -> Option<u16> {
        match self {
            Self::Gone => None,
            Self::Stopping => Some(1001),
            Self::Malformed => Some(1002),
            Self::NotText => Some(1003),
            Self::BadText => Some(1007),
            Self::Flooding | Self::Crowded => Some(1008),
            Self::TooLarge => Some(1009),
            Self::LoggedOut => Some(4401),
            Self::Removed => Some(4404),
        }
    }
}

/// `GET /ws`. warp's own filter would give every socket a read buffer of 128 KiB, for messages of 4.
pub(super) fn filter(web: &Arc<Web>) -> BoxedFilter<(Response,)> {
    let web = Arc::clone(web);
    warp::path!("ws")
        .and(warp::get())
        .and(warp::ext::get::<Ctx>())
        .and(warp::query::<Query>())
        .and(warp::header::headers_cloned())
        .and(warp::ext::optional::<OnUpgrade>())
        .map(
            move |ctx: Ctx, query: Query, headers: HeaderMap, upgrade: Option<OnUpgrade>| {
                carry(open(&web, ctx, query, &headers, upgrade))
            },
        )
        .boxed()
}

fn open(
    web: &Arc<Web>,
    ctx: Ctx,
    query: Query,
    headers: &HeaderMap,
    upgrade: Option<OnUpgrade>,
) -> Outcome {
    let (response, socket) = begin(headers, upgrade, LARGEST)?;
    // The edge lets nobody in here without one.
    let pass = ctx.pass.clone().ok_or_else(Problem::unauthorized)?;
    let id = query.session.unwrap_or_else(|| session::DEFAULT.to_owned());
    let lang = query
        .lang
        .as_deref()
        .and_then(Lang::of_tag)
        .unwrap_or(ctx.lang);
    web.sessions.view(&id).ok_or(Code::NoSuchSession)?;
    let web = Arc::clone(web);
    tokio::spawn(async move {
        let Some(socket) = socket.await else {
            return;
        };
        let _counted = Counted::new(&web);
        Conversation::new(web, ctx, pass, Page::new(id, lang), socket)
            .run()
            .await;
    });
    Ok(response)
}

/// Answers a handshake. What waits behind it is the socket for messages of at most so many bytes; none, when the
/// client has gone before our answer reached it.
pub(super) fn begin(
    headers: &HeaderMap,
    upgrade: Option<OnUpgrade>,
    most: usize,
) -> Result<(Response, impl Future<Output = Option<Socket>> + use<>), Problem> {
    let upgrade = upgrade.ok_or_else(Problem::upgrade)?;
    let accept = accept(headers).ok_or_else(Problem::upgrade)?;
    let mut response = Response::default();
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    response.headers_mut().extend(fields);
    let config = WebSocketConfig::default()
        .read_buffer_size(USUAL)
        .max_message_size(Some(most))
        .max_frame_size(Some(most));
    let socket = async move {
        let io = TokioIo::new(upgrade.await.ok()?);
        Some(WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await)
    };
    Ok((response, socket))
}

/// The answer to a handshake (RFC 6455, section 4.2); none if it is none.
pub(super) fn accept(headers: &HeaderMap) -> Option<HeaderValue> {
    let says = |name: HeaderName, wanted: &str| {
        let mut values = headers.get_all(name).iter();
        values.any(|value| {
            value.to_str().is_ok_and(|text| {
                let mut words = text.split(',');
                words.any(|word| word.trim().eq_ignore_ascii_case(wanted))
            })
        })
    };
    let is_handshake = says(header::CONNECTION, "upgrade")
        && says(header::UPGRADE, "websocket")
        && says(header::SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    let accept = is_handshake.then(|| derive_accept_key(key.as_bytes()))?;
    HeaderValue::from_str(&accept).ok()
}

/// Keeps the gauge right however a conversation ends.
struct Counted(Arc<super::Counts>);

impl Counted {
    fn new(web: &Web) -> Self {
        // Relaxed: a gauge that orders nothing.
        web.counts.websockets.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&web.counts))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.websockets.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer that was waited for.
struct Answer {
    id: Option<String>,
    result: Result<PairingCode, RequestError>,
}

struct Conversation {
    web: Arc<Web>,
    place: Place,
    ctx: Ctx,
    pass: Pass,
    stop: watch::Receiver<bool>,
    page: Page,
    socket: Socket,
    /// Requests for a code; dropping the socket drops them, and nobody waits any more.
    codes: JoinSet<Answer>,
    /// The others, with the id to echo.
    others: JoinSet<(Option<String>, Result<(), RequestError>)>,
    budget: Budget,
}

impl Conversation {
    fn new(web: Arc<Web>, ctx: Ctx, pass: Pass, page: Page, socket: Socket) -> Self {
        Self {
            place: web
                .pages
                .admit(ctx.client, web.settings.limits.sockets_per_client),
            stop: ctx.stop.clone(),
            budget: Budget::new(web.settings.limits.messages),
            web,
            ctx,
            pass,
            page,
            socket,
            codes: JoinSet::new(),
            others: JoinSet::new(),
        }
    }

    async fn run(mut self) {
        let close = match self.talk().await {
            Ok(never) => match never {},
            Err(close) => close,
        };
        // What was asked for is done even if nobody stays to hear of it.
        self.others.detach_all();
        part(&mut self.socket, close).await;
    }

    async fn talk(&mut self) -> Result<std::convert::Infallible, Close> {
        let mut events = self.greet().await?;
        let limits = self.web.settings.limits.clone();
        let mut ping = tokio::time::interval_at(Instant::now() + limits.ping, limits.ping);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            let held = self.page.held_until();
            // In this order: ends first, and news before answers, so that no answer shows what the news took back.
            let frames = tokio::select! {
                biased;
                () = stopped(&mut self.stop) => return Err(Close::Stopping),
                () = self.pass.ended() => return Err(Close::LoggedOut),
                () = self.place.over() => return Err(Close::Crowded),
                event = events.recv() => match event {
                    Ok(event) => match self.page.event(event) {
                        Step::Send(frames) => frames,
                        Step::Gone => return Err(Close::Removed),
                    },
                    // Too slow for the news, or they come from elsewhere now: it gets the whole picture instead.
                    Err(RecvError::Lagged(_) | RecvError::Closed) => {
                        events = self.greet().await?;
                        Vec::new()
                    }
                },
                Some(answer) = self.codes.join_next() => self.code_answer(answer),
                Some(answer) = self.others.join_next() => self.other_answer(answer),
                () = until(held) => self.page.release().into_iter().collect(),
                _ = ping.tick() => {
                    if heard.elapsed() > limits.silence {
                        return Err(Close::Gone);
                    }
                    self.send(Frame::Ping(Bytes::new())).await?;
                    Vec::new()
                }
                message = self.socket.next() => {
                    heard = Instant::now();
                    self.message(message)?
                }
            };
            for frame in frames {
                self.send(text(frame)).await?;
            }
        }
    }

    /// Subscribes and sends the whole picture.
    async fn greet(&mut self) -> Result<broadcast::Receiver<SessionEvent>, Close> {
        let subscribed = self.web.sessions.subscribe(self.page.session());
        let (view, events) = subscribed.ok_or(Close::Removed)?;
        for frame in self.page.snapshot(&view) {
            self.send(text(frame)).await?;
        }
        Ok(events)
    }

    /// Sends a message, unless its reader stalls or the conversation is over.
    async fn send(&mut self, message: Frame) -> Result<(), Close> {
        let stall = self.web.settings.limits.stall;
        tokio::select! {
            biased;
            () = stopped(&mut self.stop) => Err(Close::Stopping),
            () = self.pass.ended() => Err(Close::LoggedOut),
            () = self.place.over() => Err(Close::Crowded),
            sent = tokio::time::timeout(stall, self.socket.send(message)) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(Close::Gone),
            }
        }
    }

    fn code_answer(&mut self, answer: Result<Answer, tokio::task::JoinError>) -> Vec<Text> {
        let Answer { id, result } = answer.unwrap_or_else(|_| Answer {
            id: None,
            result: Err(Code::Internal.into()),
        });
        let view = self.view();
        let live = view.as_ref().and_then(|view| view.code.as_ref());
        self.page.answered(result, live, id.as_deref())
    }

    fn other_answer(
        &mut self,
        answer: Result<(Option<String>, Result<(), RequestError>), tokio::task::JoinError>,
    ) -> Vec<Text> {
        let (id, result) = answer.unwrap_or_else(|_| (None, Err(Code::Internal.into())));
        match (result, id) {
            (Err(error), id) => vec![self.page.error(&error, id.as_deref())],
            // Whoever gave an id waits for an answer; everybody else sees the news.
            (Ok(()), Some(id)) => self
                .view()
                .map(|view| wire::status(&view.status, Some(&id)))
                .into_iter()
                .collect(),
            (Ok(()), None) => Vec::new(),
        }
    }

    fn view(&self) -> Option<View> {
        self.web.sessions.view(self.page.session())
    }

    /// What came from the page; the answer is what to send at once.
    fn message(
        &mut self,
        message: Option<Result<Frame, tungstenite::Error>>,
    ) -> Result<Vec<Text>, Close> {
        let message = match message {
            None => return Err(Close::Gone),
            Some(Err(error)) => return Err(broken(&error)),
            Some(Ok(message)) => message,
        };
        if message.is_close() {
            return Err(Close::Gone);
        }
        // Control frames cost from the same budget: a flood of pings is a flood.
        let affordable = self.budget.take()?;
        let text = match message {
            Frame::Text(text) => text,
            Frame::Ping(_) | Frame::Pong(_) => {
                self.web.access.touch(&self.pass);
                return Ok(Vec::new());
            }
            _ => return Err(Close::NotText),
        };
        let parsed = ws_message::parse(text.as_str());
        if !affordable {
            let id = parsed.map_or_else(|wrong| wrong.id, |message| message.id);
            return Ok(vec![self.too_many(id.as_deref())]);
        }
        self.web.access.touch(&self.pass);
        Ok(match parsed {
            Ok(message) => self.begin(message).into_iter().collect(),
            Err(Wrong { id }) => {
                vec![self.page.error(&Code::BadMessage.into(), id.as_deref())]
            }
        })
    }

    /// Starts what was asked for; the answer is a refusal on the spot.
    fn begin(&mut self, message: Message) -> Option<Text> {
        let Message { id, ask } = message;
        if self.codes.len() + self.others.len() >= MOST_WAITING {
            return Some(self.too_many(id.as_deref()));
        }
        let asker = self.ctx.asker(By::Page);
        let sessions = Arc::clone(&self.web.sessions);
        let session = self.page.session().to_owned();
        match ask {
            Ask::Code(body) => {
                let parsed = self
                    .web
                    .parse_phone(body.phone_number.reveal(), body.country.as_deref());
                let phone = match parsed {
                    Ok(phone) => phone,
                    Err(error) => {
                        return Some(self.page.error(&phone_refusal(error), id.as_deref()));
                    }
                };
                let request = CodeRequest {
                    phone,
                    replace: body.replace,
                    asker,
                };
                self.page.asked();
                self.codes.spawn(begun(async move {
                    let result = sessions.request_code(&session, request).await;
                    Answer { id, result }
                }));
            }
            Ask::Cancel => {
                self.others.spawn(begun(async move {
                    (id, sessions.cancel(&session, asker).await)
                }));
            }
            Ask::Reconnect => {
                self.others.spawn(begun(async move {
                    (id, sessions.reconnect(&session, asker).await)
                }));
            }
            Ask::Unlink => {
                self.others.spawn(begun(async move {
                    (id, sessions.unlink(&session, asker).await)
                }));
            }
        }
        None
    }

    fn too_many(&self, id: Option<&str>) -> Text {
        let error = RequestError {
            reason: Some("messages"),
            retry_after: Some(1),
            ..Code::RateLimited.into()
        };
        self.page.error(&error, id)
    }
}

/// Begins it here and now, so that what a page asks for reaches the session in the order in which it was asked.
fn begun<T>(
    work: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = T> + Send + 'static
where
    T: Send + 'static,
{
    let mut work = Box::pin(work);
    let first = work.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    async move {
        match first {
            Poll::Ready(done) => done,
            // Asked again by the task, whoever is waited for learns whom to wake.
            Poll::Pending => work.await,
        }
    }
}

/// Says why it is over. Whoever does not listen is left without.
pub(super) async fn part(socket: &mut Socket, close: Close) {
    let time = match close {
        // Time is short, or there are too many.
        Close::Stopping | Close::Crowded => FAREWELL_SHORT,
        _ => FAREWELL,
    };
    let farewell = async {
        let Some(code) = close.code() else {
            // The echo of the other side's own close.
            return socket.flush().await;
        };
        let close = CloseFrame {
            code: code.into(),
            reason: "".into(),
        };
        socket.send(Frame::Close(Some(close))).await?;
        // Hear the other side out, so that it hears us.
        while matches!(socket.next().await, Some(Ok(_))) {}
        Ok(())
    };
    let _ = tokio::time::timeout(time, farewell).await;
}

/// Which close code an unreadable message gets.
pub(super) fn broken(error: &tungstenite::Error) -> Close {
    match error {
        tungstenite::Error::Capacity(_) => Close::TooLarge,
        tungstenite::Error::Utf8(_) => Close::BadText,
        tungstenite::Error::Protocol(
            tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
        ) => Close::Gone,
        tungstenite::Error::Protocol(_) => Close::Malformed,
        _ => Close::Gone,
    }
}

/// A frame that is zeroed when it has been sent.
fn text(text: Text) -> Frame {
    // It is UTF-8, so it is taken.
    Utf8Bytes::try_from(Bytes::from_owner(text)).map_or_else(|_| Frame::text(""), Frame::Text)
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// How many messages a page may still send.
struct Budget {
    most: u32,
    left: f64,
    since: Instant,
    over: u32,
}

impl Budget {
    fn new(most: u32) -> Self {
        Self {
            most,
            left: f64::from(most),
            since: Instant::now(),
            over: 0,
        }
    }

    /// Takes one message off; false when there was none left.
    fn take(&mut self) -> Result<bool, Close> {
        let now = Instant::now();
        let earned = (now - self.since).as_secs_f64() * f64::from(self.most) / 4.0;
        self.left = (self.left + earned).min(f64::from(self.most));
        self.since = now;
        if self.left >= 1.0 {
            self.left -= 1.0;
            self.over = 0;
            return Ok(true);
        }
        self.over += 1;
        // Told often enough to wait.
        if self.over > self.most {
            Err(Close::Flooding)
        } else {
            Ok(false)
        }
    }
}
