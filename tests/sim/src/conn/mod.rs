//! Owns one connection from accepted socket to its end: the task, its loop, what is logged, where trouble strikes.

mod pairing;
mod session;

pub(crate) use self::session::signed_node;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hyper::upgrade::Upgraded;
use tokio::sync::{Notify, mpsc};
use wacore_binary::builder::NodeBuilder;
use wacore_binary::marshal::{marshal, unmarshal_ref};
use wacore_binary::util::unpack;
use wacore_binary::{Node, NodeRef};
use wacore_noise::NoiseCipher;
use waproto::whatsapp as wa;

use crate::event::Step;
use crate::fault::{self, Action, Kick, Refusal};
use crate::node;
use crate::server::Inner;
use crate::wire::{End, Wire};
use crate::world::{Handle, Order};

use self::pairing::Pairing;
use self::session::Session;

/// What a step says about what was asked there.
pub(crate) enum Verdict {
    Go,
    Silent,
    Refuse(Refusal),
}

/// Unregisters the connection, however its task ends.
struct Registered {
    inner: Arc<Inner>,
    id: u64,
    number: Option<String>,
    why: String,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.inner.world().forget_conn(self.id);
        self.inner.log.push(
            self.id,
            self.number.as_deref(),
            Step::Closed,
            std::mem::take(&mut self.why),
        );
    }
}

/// Runs one accepted WebSocket to its end.
pub(crate) async fn run(inner: Arc<Inner>, upgraded: Upgraded) {
    let (orders, inbox) = mpsc::unbounded_channel();
    let cut = Arc::new(Notify::new());
    let id = {
        let mut world = inner.world();
        world.last_conn += 1;
        let id = world.last_conn;
        let handle = Handle {
            orders,
            cut: Arc::clone(&cut),
            login: None,
            asked: None,
        };
        world.conns.insert(id, handle);
        id
    };
    let mut registered = Registered {
        inner: Arc::clone(&inner),
        id,
        number: None,
        why: "the simulator was stopped".to_owned(),
    };
    let mut wire = Wire::new(upgraded).await;
    let mut base = Base {
        inner,
        id,
        number: None,
    };
    let end = tokio::select! {
        end = live(&mut base, &mut wire, inbox) => end,
        () = cut.notified() => End::Cut,
    };
    if let Some(handle) = base.inner.world().conns.get_mut(&id) {
        // It only lingers: nothing can befall it any more.
        handle.asked = None;
    }
    registered.number = base.number.clone();
    registered.why = end.to_string();
    match end {
        End::Said(_) => linger(&mut wire, base.inner.cfg.linger).await,
        End::Bad(_) => wire.close().await,
        End::Peer | End::Cut => {}
    }
}

/// Gives the client time to read the last word before the socket goes.
async fn linger(wire: &mut Wire, limit: Duration) {
    let _ = tokio::time::timeout(limit, async { while wire.frame().await.is_ok() {} }).await;
    wire.close().await;
}

async fn live(base: &mut Base, wire: &mut Wire, inbox: mpsc::UnboundedReceiver<Order>) -> End {
    match live_or_end(base, wire, inbox).await {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

async fn live_or_end(
    base: &mut Base,
    wire: &mut Wire,
    inbox: mpsc::UnboundedReceiver<Order>,
) -> Result<std::convert::Infallible, End> {
    // Before Noise there is nothing to say: whatever is ordered here, other than waiting, is a cut.
    match base.open_trouble(Step::Open) {
        None => {}
        Some(Action::Delay { time }) => tokio::time::sleep(time).await,
        Some(Action::Silence) => std::future::pending().await,
        Some(_) => return Err(End::Cut),
    }
    let key = base.inner.server_key();
    let shaken = tokio::time::timeout(base.inner.cfg.handshake_limit, key.shake(wire))
        .await
        .map_err(|_| End::bad("no Noise handshake in time"))??;
    let mut conn = Conn {
        base,
        wire,
        read: Counted::new(shaken.read),
        write: Counted::new(shaken.write),
        client: shaken.client,
        last_id: 0,
        reference: None,
        login: None,
    };
    conn.step(Step::Noise, shaken.pattern).await?;
    if shaken.payload.username.is_some() {
        Session::start(conn, &shaken.payload, inbox).await
    } else {
        Pairing::start(conn, &shaken.payload, inbox).await
    }
}

/// What outlives the handshake and is needed for the log.
struct Base {
    inner: Arc<Inner>,
    id: u64,
    number: Option<String>,
}

impl Base {
    fn open_trouble(&self, at: Step) -> Option<Action> {
        self.log(at, "");
        let action = fault::take(&mut self.inner.world().faults, at, self.number.as_deref())?;
        self.log(Step::Trouble, format!("{at:?}: {action:?}"));
        Some(action)
    }

    fn log(&self, step: Step, note: impl Into<String>) {
        self.inner
            .log
            .push(self.id, self.number.as_deref(), step, note.into());
    }
}

/// One direction of the transport.
struct Counted {
    cipher: NoiseCipher,
    count: u32,
}

impl Counted {
    fn new(cipher: NoiseCipher) -> Self {
        Self { cipher, count: 0 }
    }

    fn next(&mut self) -> Result<u32, End> {
        let now = self.count;
        self.count = now
            .checked_add(1)
            .ok_or_else(|| End::bad("counter exhausted"))?;
        Ok(now)
    }
}

/// An encrypted connection.
pub(crate) struct Conn<'c> {
    base: &'c mut Base,
    wire: &'c mut Wire,
    read: Counted,
    write: Counted,
    /// The client's Noise static key.
    client: [u8; 32],
    last_id: u32,
    /// The ref of the newest code this connection was given.
    reference: Option<Vec<u8>>,
    /// Whose companion is logged in here.
    login: Option<(String, u16)>,
}

impl Conn<'_> {
    fn inner(&self) -> &Arc<Inner> {
        &self.base.inner
    }

    fn number(&self) -> &str {
        self.base.number.as_deref().unwrap_or_default()
    }

    fn log(&self, step: Step, note: impl Into<String>) {
        self.base.log(step, note);
    }

    /// Logs a step and lets ordered trouble strike.
    async fn step(&mut self, at: Step, note: &str) -> Result<Verdict, End> {
        self.log(at, note);
        let action = fault::take(
            &mut self.base.inner.world().faults,
            at,
            self.base.number.as_deref(),
        );
        let Some(action) = action else {
            return Ok(Verdict::Go);
        };
        self.log(Step::Trouble, format!("{at:?}: {action:?}"));
        match action {
            Action::Cut => Err(End::Cut),
            Action::Delay { time } => {
                tokio::time::sleep(time).await;
                Ok(Verdict::Go)
            }
            Action::Silence => Ok(Verdict::Silent),
            Action::Refuse(refusal) => Ok(Verdict::Refuse(refusal)),
            Action::Kick { kick } => {
                self.strike(&kick).await?;
                // What does not end the connection takes the place of the answer.
                Ok(Verdict::Go)
            }
        }
    }

    /// Does what a kick says.
    async fn strike(&mut self, kick: &Kick) -> Result<(), End> {
        if kick.unlinks()
            && let Some((number, device)) = &self.login
        {
            let account = self.base.inner.world().unlink(number, *device);
            if account {
                self.log(Step::Unlinked, device.to_string());
            }
        }
        match kick {
            Kick::Cut => Err(End::Cut),
            Kick::StreamError { code } => {
                self.end(
                    node::stream_error(*code, None),
                    format!("stream error {code}"),
                )
                .await
            }
            Kick::DeviceRemoved => {
                self.end(
                    node::stream_error(401, Some("device_removed")),
                    "device_removed",
                )
                .await
            }
            Kick::Replaced => {
                self.end(node::stream_error(409, Some("replaced")), "replaced")
                    .await
            }
            Kick::Failure { reason, expire } => {
                self.end(node::failure(*reason, *expire), format!("failure {reason}"))
                    .await
            }
            Kick::FallSilent => loop {
                // Read, so that its end is noticed; heard is nothing of it.
                self.wire.frame().await?;
            },
            Kick::RefreshCode { force_manual } => self.ask_for_new_code(*force_manual).await,
            Kick::Passkey => {
                let id = self.fresh_id();
                let demand = node::notification(&id, "passkey_prologue_request", passkey_options());
                self.send(&demand).await?;
                self.log(Step::PasskeySent, "");
                Ok(())
            }
        }
    }

    /// The code this connection was given is dead from now on.
    async fn ask_for_new_code(&mut self, force_manual: bool) -> Result<(), End> {
        let Some(reference) = self.reference.take() else {
            return Ok(());
        };
        self.base
            .inner
            .world()
            .pending
            .retain(|_, pending| pending.reference != reference);
        let reg = NodeBuilder::new("link_code_companion_reg")
            .attr("stage", "refresh_code")
            .attr("force_manual_refresh", force_manual.to_string())
            .children([node::leaf("link_code_pairing_ref", reference)])
            .build();
        let id = self.fresh_id();
        self.send(&node::notification(&id, "link_code_companion_reg", reg))
            .await?;
        self.log(Step::RefreshSent, format!("force_manual={force_manual}"));
        Ok(())
    }

    /// Sends the last word.
    async fn end(&mut self, last: Node, why: impl Into<String>) -> Result<(), End> {
        self.send(&last).await?;
        Err(End::Said(why.into()))
    }

    async fn send(&mut self, stanza: &Node) -> Result<(), End> {
        let plain = marshal(stanza).map_err(End::bad)?;
        let count = self.write.next()?;
        let sealed = self
            .write
            .cipher
            .encrypt_with_counter(count, &plain)
            .map_err(End::bad)?;
        self.wire.send(sealed).await
    }

    /// The next stanza, decrypted and unpacked. Dropping the future loses nothing.
    async fn receive(&mut self) -> Result<Vec<u8>, End> {
        let mut frame = self.wire.frame().await?;
        let count = self.read.next()?;
        self.read
            .cipher
            .decrypt_in_place_with_counter(count, &mut frame)
            .map_err(|_| End::bad("a frame that does not decrypt"))?;
        Ok(unpack(&frame).map_err(End::bad)?.into_owned())
    }

    fn fresh_id(&mut self) -> String {
        self.last_id += 1;
        format!("sim-{}-{}", self.base.id, self.last_id)
    }

    async fn answer(&mut self, request: &NodeRef<'_>, children: Vec<Node>) -> Result<(), End> {
        let id = node::attr(request, "id");
        self.send(&node::result(&id, children)).await
    }

    async fn refuse(&mut self, request: &NodeRef<'_>, refusal: &Refusal) -> Result<(), End> {
        let id = node::attr(request, "id");
        self.send(&node::error(&id, refusal)).await
    }

    /// Answers with `children`, unless ordered otherwise.
    async fn answer_as(
        &mut self,
        verdict: Verdict,
        request: &NodeRef<'_>,
        children: Vec<Node>,
    ) -> Result<bool, End> {
        match verdict {
            Verdict::Go => self.answer(request, children).await.map(|()| true),
            Verdict::Silent => Ok(false),
            Verdict::Refuse(refusal) => self.refuse(request, &refusal).await.map(|()| false),
        }
    }
}

fn parse(plain: &[u8]) -> Result<NodeRef<'_>, End> {
    unmarshal_ref(plain).map_err(End::bad)
}

/// What every client payload must have, whatever it is for.
fn check_payload(payload: &wa::ClientPayload) -> Result<(), End> {
    let version = &payload.user_agent.app_version;
    if version.primary != Some(2) {
        return Err(End::bad("a client payload without an app version 2.x"));
    }
    Ok(())
}

/// What a browser would need to ask its authenticator for an assertion.
fn passkey_options() -> Node {
    let options = serde_json::json!({
        "challenge": BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()),
        "rpId": "whatsapp.com",
        "allowCredentials": [],
        "userVerification": "required",
        "timeout": 60_000,
    });
    node::leaf("passkey_request_options", options.to_string().into_bytes())
}

/// A refusal with a code and nothing else.
fn plain(code: u16) -> Refusal {
    Refusal {
        code,
        backoff: None,
    }
}
