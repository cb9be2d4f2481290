//! Owns the phone and its person: typing a code, scanning a QR, looking at linked devices, unlinking one.

use std::time::Instant;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use thiserror::Error;
use tokio::sync::oneshot;
use wacore::pair::PairUtils;
use wacore::pair_code::PairCodeUtils;
use wacore_binary::Node;

use crate::event::Step;
use crate::fault::Kick;
use crate::link::{Half, accept};
use crate::message;
use crate::server::Sim;
use crate::signal::raw;
use crate::world::{Order, PairSuccess, PrimaryHello};

/// One phone with WhatsApp on it. Cheap to clone; all clones are the same phone.
#[derive(Clone)]
pub struct Phone {
    sim: Sim,
    /// As WhatsApp reports it.
    number: String,
}

/// A companion in the phone's list of linked devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinkedDevice {
    /// Its device id, never used twice by one phone.
    pub id: u16,
    /// What it called itself.
    pub platform: String,
    /// Since when it is linked, in seconds since 1970.
    pub linked: u64,
    /// Whether it is logged in right now.
    pub online: bool,
}

/// Why a code that was typed did not link.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EnterCodeError {
    /// Nobody asked for a code for this number.
    #[error("nobody waits for a code for this number")]
    NoPendingCode,
    /// The two sides do not mean the same code.
    #[error("that is not the code")]
    WrongCode,
    /// The code was asked for too long ago.
    #[error("the code has expired")]
    Expired,
    /// The code was tried as often as one may.
    #[error("the code was tried too often")]
    TooManyTries,
    /// The companion's connection has gone, and the code with it.
    #[error("the companion has gone")]
    ConnectionGone,
    /// The companion did not answer in time.
    #[error("the companion does not answer")]
    NoAnswer,
    /// The phone has as many companions as it may have.
    #[error("too many linked devices")]
    TooManyDevices,
    /// One side refused, and this is what it said.
    #[error("refused: {0}")]
    Refused(String),
}

/// What the phone has learnt by sending `primary_hello`.
struct Opened {
    conn: u64,
    adv_secret: [u8; 32],
    companion: [u8; 32],
}

impl Phone {
    pub(crate) fn new(sim: Sim, number: String) -> Self {
        Self { sim, number }
    }

    /// The number as WhatsApp reports it.
    #[must_use]
    pub fn number(&self) -> &str {
        &self.number
    }

    /// The account's LID, digits only.
    #[must_use]
    pub fn lid(&self) -> String {
        self.sim.inner.world().account(&self.number).lid.clone()
    }

    /// Types a pairing code, with or without the dash, in any case. Returns the new companion's device id.
    ///
    /// Everything is really done: the keys are unwrapped, exchanged and opened, the acceptance is signed, and the
    /// companion's signature is checked. Dropping the future does not undo what was already sent.
    pub async fn enter_code(&self, code: &str) -> Result<u16, EnterCodeError> {
        let opened = self.exchange(code, None).await?;
        self.accept(opened.conn, opened.companion, opened.adv_secret)
            .await
    }

    /// Types a code and then does nothing more: the companion has seen `primary_hello` and waits for the acceptance
    /// that never comes. Returns as soon as it was sent.
    pub async fn send_primary_hello_only(&self, code: &str) -> Result<(), EnterCodeError> {
        let (sent, was_sent) = oneshot::channel();
        let phone = self.clone();
        let code = code.to_owned();
        let exchange = tokio::spawn(async move { phone.exchange(&code, Some(sent)).await });
        match was_sent.await {
            Ok(()) => Ok(()),
            // It failed before; or it was dropped together with the simulator.
            Err(_) => match exchange.await {
                Ok(Err(error)) => Err(error),
                _ => Err(EnterCodeError::ConnectionGone),
            },
        }
    }

    /// Scans a QR code, given as the text in it. Returns the new companion's device id.
    pub async fn scan_qr(&self, value: &str) -> Result<u16, EnterCodeError> {
        let refused = |why: &str| EnterCodeError::Refused(why.to_owned());
        let (reference, noise, identity) =
            PairUtils::parse_qr_code(value).map_err(|e| EnterCodeError::Refused(e.to_string()))?;
        // `ref,noise,identity,adv secret,client type`: the older form without the type is refused since 2026.
        let mut rest = value.split(',').skip(3);
        let adv_secret = rest
            .next()
            .and_then(|secret| BASE64_STANDARD.decode(secret).ok())
            .and_then(|secret| secret.try_into().ok())
            .ok_or_else(|| refused("the ADV secret in the QR code is not 32 bytes"))?;
        if rest.next().is_none_or(|kind| kind.len() != 1) {
            return Err(refused("no client type in the QR code"));
        }
        let conn = {
            let world = self.sim.inner.world();
            let qr = world
                .refs
                .get(&reference)
                .ok_or(EnterCodeError::ConnectionGone)?;
            if Instant::now() > qr.until {
                return Err(EnterCodeError::Expired);
            }
            if qr.noise != noise || qr.identity != identity {
                return Err(refused("the keys in the QR code are not the companion's"));
            }
            qr.conn
        };
        self.accept(conn, identity, adv_secret).await
    }

    /// The companions in the phone's list.
    #[must_use]
    pub fn devices(&self) -> Vec<LinkedDevice> {
        let mut world = self.sim.inner.world();
        let account = world.account(&self.number);
        let listed = |(id, device): (&u16, &crate::world::Device)| LinkedDevice {
            id: *id,
            platform: device.platform.clone(),
            linked: device.linked,
            online: device.conn.is_some(),
        };
        account.devices.iter().map(listed).collect()
    }

    /// Unlinks a companion: its credentials are dead, and if it is logged in it is told so. Whether it was linked.
    pub async fn remove_device(&self, id: u16) -> bool {
        let inner = &self.sim.inner;
        let (conn, orders) = {
            let mut world = inner.world();
            let conn = world.device(&self.number, id).and_then(|d| d.conn);
            if !world.unlink(&self.number, id) {
                return false;
            }
            let orders = conn.and_then(|conn| Some(world.conns.get(&conn)?.orders.clone()));
            (conn.unwrap_or_default(), orders)
        };
        inner
            .log
            .push(conn, Some(&self.number), Step::Unlinked, id.to_string());
        if let Some(orders) = orders {
            let _ = orders.send(Order::Kick(Kick::DeviceRemoved));
            // Told, or gone by itself.
            orders.closed().await;
        }
        true
    }

    /// Writes to itself from the phone, as "message yourself": a really encrypted message to one companion.
    /// Returns the message's id. The companion must be logged in and must have uploaded its pre-keys.
    pub async fn send_text(&self, device: u16, text: &str) -> Result<String, SendError> {
        self.send(
            device,
            message::text(&self.sim.inner, &self.number, device, text),
        )
        .await
    }

    /// Offers a piece of its history to one companion, as a phone does after linking. Returns the message's id.
    pub async fn send_history(&self, device: u16, inline: Vec<u8>) -> Result<String, SendError> {
        let history = message::history(&self.sim.inner, &self.number, device, inline);
        self.send(device, history).await
    }

    async fn send(
        &self,
        device: u16,
        sealed: impl Future<Output = Result<(String, Node), String>>,
    ) -> Result<String, SendError> {
        let orders = {
            let mut world = self.sim.inner.world();
            let linked = world
                .device(&self.number, device)
                .ok_or(SendError::NotLinked)?;
            let conn = linked.conn.ok_or(SendError::Offline)?;
            let handle = world.conns.get(&conn).ok_or(SendError::Offline)?;
            handle.orders.clone()
        };
        let (id, stanza) = sealed.await.map_err(SendError::Encryption)?;
        let order = Order::Message {
            id: id.clone(),
            stanza,
        };
        orders.send(order).map_err(|_| SendError::Offline)?;
        Ok(id)
    }

    /// From a typed code to the ADV secret: unwrap, `primary_hello`, `companion_finish`, open.
    async fn exchange(
        &self,
        code: &str,
        told: Option<oneshot::Sender<()>>,
    ) -> Result<Opened, EnterCodeError> {
        let code: String = code
            .chars()
            .filter(|c| *c != '-' && !c.is_whitespace())
            .map(|c| c.to_ascii_uppercase())
            .collect();
        // The phone's keyboard has no other characters: such a code never reaches the server.
        if !PairCodeUtils::validate_code(&code) {
            return Err(EnterCodeError::WrongCode);
        }
        let (conn, reference, wrapped) = self.spend_a_try()?;
        let half = tokio::task::spawn_blocking(move || Half::new(&wrapped, &code))
            .await
            .map_err(|e| EnterCodeError::Refused(e.to_string()))?
            .map_err(EnterCodeError::Refused)?;

        let identity = self.identity();
        let (finish, finished) = oneshot::channel();
        let (sent, was_sent) = oneshot::channel();
        let order = Order::PrimaryHello(PrimaryHello {
            number: self.number.clone(),
            reference,
            wrapped: half.wrapped,
            identity: raw(&identity.public_key),
            finish,
            sent,
        });
        self.order(conn, order)?;
        if let Some(told) = told
            && was_sent.await.is_ok()
        {
            let _ = told.send(());
        }
        let finish = self.patiently(finished).await?;
        let adv_secret = half
            .open(&finish, &identity)
            .ok_or(EnterCodeError::WrongCode)?;
        Ok(Opened {
            conn,
            adv_secret,
            companion: finish.identity,
        })
    }

    /// Finds the pending code and counts this try.
    fn spend_a_try(&self) -> Result<(u64, Vec<u8>, [u8; 80]), EnterCodeError> {
        let inner = &self.sim.inner;
        let mut world = inner.world();
        let pending = world
            .pending
            .get_mut(&self.number)
            .ok_or(EnterCodeError::NoPendingCode)?;
        if pending.gone {
            return Err(EnterCodeError::ConnectionGone);
        }
        if pending.asked.elapsed() > inner.cfg.code_ttl {
            return Err(EnterCodeError::Expired);
        }
        if pending.tries >= inner.cfg.tries_per_code {
            return Err(EnterCodeError::TooManyTries);
        }
        pending.tries += 1;
        Ok((pending.conn, pending.reference.clone(), pending.wrapped))
    }

    /// Signs the companion in, and waits until the server has recorded it.
    async fn accept(
        &self,
        conn: u64,
        companion: [u8; 32],
        adv_secret: [u8; 32],
    ) -> Result<u16, EnterCodeError> {
        let identity = self.identity();
        let key_index = {
            let inner = &self.sim.inner;
            let mut world = inner.world();
            let account = world.account(&self.number);
            if account.devices.len() >= inner.cfg.max_devices {
                return Err(EnterCodeError::TooManyDevices);
            }
            account.next_key_index += 1;
            account.next_key_index - 1
        };
        let acceptance = accept(&identity, &companion, key_index, &adv_secret)
            .ok_or_else(|| EnterCodeError::Refused("cannot sign".to_owned()))?;
        let (done, linked) = oneshot::channel();
        let success = PairSuccess {
            number: self.number.clone(),
            key_index,
            details: acceptance.details,
            account_signature: acceptance.signature,
            account_key: raw(&identity.public_key),
            container: acceptance.container,
            done,
        };
        self.order(conn, Order::PairSuccess(Box::new(success)))?;
        self.patiently(linked).await?
    }

    async fn patiently<T>(&self, answer: oneshot::Receiver<T>) -> Result<T, EnterCodeError> {
        match tokio::time::timeout(self.sim.inner.cfg.companion_patience, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(EnterCodeError::ConnectionGone),
            Err(_) => Err(EnterCodeError::NoAnswer),
        }
    }

    fn order(&self, conn: u64, order: Order) -> Result<(), EnterCodeError> {
        let world = self.sim.inner.world();
        let handle = world
            .conns
            .get(&conn)
            .ok_or(EnterCodeError::ConnectionGone)?;
        handle
            .orders
            .send(order)
            .map_err(|_| EnterCodeError::ConnectionGone)
    }

    fn identity(&self) -> wacore_libsignal::protocol::KeyPair {
        let mut world = self.sim.inner.world();
        world.account(&self.number).identity().clone()
    }
}

/// Why a message could not be sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// The phone does not list such a companion.
    #[error("no such companion")]
    NotLinked,
    /// It is not logged in. Nothing is kept for it.
    #[error("the companion is not logged in")]
    Offline,
    /// It has not uploaded keys that can be encrypted to.
    #[error("cannot encrypt: {0}")]
    Encryption(String),
}
