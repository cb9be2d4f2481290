//! Owns the life of a connection that logs in: credentials, what a client needs answered, messages, pings.

use std::convert::Infallible;
use std::time::Duration;

use sha1::{Digest as _, Sha1};
use tokio::sync::mpsc;
use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Node, NodeRef, SERVER_JID};
use waproto::whatsapp as wa;

use super::{Conn, Verdict, check_payload, parse, plain};
use crate::event::Step;
use crate::fault::Kick;
use crate::link::is_public_key;
use crate::message;
use crate::node::{self, attr, child_array, child_bytes, child_number, first, leaf, three_bytes};
use crate::signal::signed_by;
use crate::wire::End;
use crate::world::{Order, SignedPreKey};

/// More one-time keys than any client uploads at once (812).
const MOST_PRE_KEYS: usize = 5_000;

pub(super) struct Session<'c> {
    conn: Conn<'c>,
    number: String,
    device: u16,
    active: bool,
    /// The id of the message that carried the app-state key here.
    key_share: Option<String>,
    /// The ping that was not answered yet.
    ping: Option<String>,
}

impl<'c> Session<'c> {
    pub(super) async fn start(
        mut conn: Conn<'c>,
        payload: &wa::ClientPayload,
        mut inbox: mpsc::UnboundedReceiver<Order>,
    ) -> Result<Infallible, End> {
        check_payload(payload)?;
        let number = payload.username.unwrap_or_default().to_string();
        let claimed = payload.device.and_then(|id| u16::try_from(id).ok());
        conn.base.number = Some(number.clone());
        let known = claimed.filter(|id| {
            let mut world = conn.inner().world();
            world
                .device(&number, *id)
                .is_some_and(|device| device.noise == conn.client)
        });
        conn.login = known.map(|id| (number.clone(), id));
        let verdict = conn.step(Step::Login, &format!("{claimed:?}")).await?;
        if let Verdict::Silent = verdict {
            return std::future::pending().await;
        }
        let Some(device) = known else {
            conn.log(Step::LoginRefused, "401");
            let failed = conn.end(node::failure(401, None), "failure 401").await;
            return Err(failed.err().unwrap_or(End::Peer));
        };
        let mut session = Self {
            conn,
            number,
            device,
            active: false,
            key_share: None,
            ping: None,
        };
        session.take_over()?;
        session.welcome().await?;
        let every = session.conn.inner().cfg.ping_every;
        let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        loop {
            tokio::select! {
                plain = session.conn.receive() => {
                    let plain = plain?;
                    session.on_stanza(&parse(&plain)?).await?;
                }
                Some(order) = inbox.recv() => session.on_order(order).await?,
                _ = pings.tick() => session.ping(every).await?,
            }
        }
    }

    /// Makes this the companion's connection; an older one is told that it was replaced.
    fn take_over(&self) -> Result<(), End> {
        let id = self.conn.base.id;
        let mut world = self.conn.inner().world();
        // Unlinked since it was judged: somebody else said so, and they have no connection to tell.
        let Some(device) = world.device(&self.number, self.device) else {
            return Err(End::Said("unlinked during login".to_owned()));
        };
        let older = device.conn.replace(id);
        if let Some(handle) = older.and_then(|older| world.conns.get(&older)) {
            let _ = handle.orders.send(Order::Kick(Kick::Replaced));
        }
        if let Some(handle) = world.conns.get_mut(&id) {
            handle.login = Some((self.number.clone(), self.device));
        }
        Ok(())
    }

    async fn welcome(&mut self) -> Result<(), End> {
        let lid = {
            let mut world = self.conn.inner().world();
            world.account(&self.number).lid.clone()
        };
        let success = NodeBuilder::new("success")
            .attr("t", node::now().to_string())
            .attr("props", "27")
            .attr("abprops", "10")
            .attr("location", "sim")
            .attr("lid", format!("{lid}:{}@lid", self.device))
            .build();
        self.conn.send(&success).await?;
        // Which edge knows this companion: it comes back in front of the next prologue.
        let edge = NodeBuilder::new("ib")
            .attr("from", SERVER_JID)
            .children([NodeBuilder::new("edge_routing")
                .children([leaf("routing_info", *b"\x08\x0dsim")])
                .build()])
            .build();
        self.conn.send(&edge).await?;
        self.conn
            .step(Step::LoggedIn, &self.device.to_string())
            .await?;
        Ok(())
    }

    async fn ping(&mut self, every: Duration) -> Result<(), End> {
        if self.ping.is_some() {
            return Err(End::bad(format!("a ping unanswered for {every:?}")));
        }
        let id = self.conn.fresh_id();
        let ping = NodeBuilder::new("iq")
            .attr("from", SERVER_JID)
            .attr("type", "get")
            .attr("xmlns", "urn:xmpp:ping")
            .attr("id", id.as_str())
            .build();
        self.conn.send(&ping).await?;
        self.ping = Some(id);
        Ok(())
    }

    async fn on_order(&mut self, order: Order) -> Result<(), End> {
        match order {
            Order::Kick(kick) => {
                self.conn.log(Step::Trouble, format!("{kick:?}"));
                self.conn.strike(&kick).await
            }
            Order::Message { id, stanza } => {
                self.conn.send(&stanza).await?;
                self.conn.log(Step::MessageSent, id);
                Ok(())
            }
            // Meant for a registration that this connection no longer is.
            Order::PrimaryHello(_) | Order::PairSuccess(_) => Ok(()),
        }
    }

    async fn on_stanza(&mut self, stanza: &NodeRef<'_>) -> Result<(), End> {
        match stanza.tag.as_ref() {
            "iq" => self.on_iq(stanza).await,
            "ack" => {
                let note = format!("{} {}", attr(stanza, "class"), attr(stanza, "id"));
                self.conn.log(Step::Acked, note);
                Ok(())
            }
            "receipt" => {
                let note = format!("{} {}", attr(stanza, "type"), attr(stanza, "id"));
                self.conn.log(Step::Receipt, note);
                if self.key_share.as_ref() == Some(&attr(stanza, "id")) {
                    self.with_device(|device| device.key_shared = true)?;
                }
                self.acknowledge(stanza).await
            }
            "message" | "call" | "notification" => self.acknowledge(stanza).await,
            "ib" | "presence" | "chatstate" => Ok(()),
            other => Err(End::bad(format!("<{other}>"))),
        }
    }

    async fn acknowledge(&mut self, stanza: &NodeRef<'_>) -> Result<(), End> {
        let ack = NodeBuilder::new("ack")
            .attr("class", stanza.tag.as_ref())
            .attr("id", attr(stanza, "id"))
            .attr("from", attr(stanza, "to"))
            .attr("t", node::now().to_string())
            .build();
        self.conn.send(&ack).await
    }

    async fn on_iq(&mut self, iq: &NodeRef<'_>) -> Result<(), End> {
        let kind = attr(iq, "type");
        if kind == "result" || kind == "error" {
            if self.ping.as_deref() == Some(attr(iq, "id").as_str()) {
                self.ping = None;
                self.conn.log(Step::Pong, "");
            }
            return Ok(());
        }
        let xmlns = attr(iq, "xmlns");
        let tag = first(iq).map_or("", |child| child.tag.as_ref());
        match (xmlns.as_str(), kind.as_str(), tag) {
            ("w:p", "get", _) => {
                let verdict = self.conn.step(Step::Ping, "").await?;
                self.conn.answer_as(verdict, iq, Vec::new()).await?;
                Ok(())
            }
            ("passive", "set", "active") => self.on_active(iq).await,
            ("encrypt", "set", "rotate") => self.on_rotate(iq).await,
            ("encrypt", "set", _) => self.on_pre_keys(iq).await,
            ("encrypt", "get", "count") => {
                let count = self.with_device(|device| device.pre_keys.len())?;
                let count = NodeBuilder::new("count").attr("value", count.to_string());
                self.conn.answer(iq, vec![count.build()]).await
            }
            ("encrypt", "get", "digest") => self.on_digest(iq).await,
            ("encrypt", "get", "key") => self.on_key_fetch(iq).await,
            ("w:sync:app:state", "set", "sync") => self.on_app_state(iq).await,
            ("md", "set", "remove-companion-device") => self.on_logout(iq).await,
            ("usync", "get", "usync") => self.on_usync(iq).await,
            ("abt", "get", _) => {
                let props = NodeBuilder::new("props").attr("protocol", "1").build();
                self.conn.answer(iq, vec![props]).await
            }
            ("blocklist", "get", _) => {
                self.conn
                    .answer(iq, vec![NodeBuilder::new("list").build()])
                    .await
            }
            ("privacy", "get", _) => {
                self.conn
                    .answer(iq, vec![NodeBuilder::new("privacy").build()])
                    .await
            }
            (_, "set", _) => self.conn.answer(iq, Vec::new()).await,
            _ => self.conn.refuse(iq, &plain(501)).await,
        }
    }

    async fn on_active(&mut self, iq: &NodeRef<'_>) -> Result<(), End> {
        let verdict = self.conn.step(Step::Active, "").await?;
        if self.conn.answer_as(verdict, iq, Vec::new()).await? && !self.active {
            self.active = true;
            let offline = NodeBuilder::new("offline").attr("count", "0").build();
            let ib = NodeBuilder::new("ib")
                .attr("from", SERVER_JID)
                .children([offline])
                .build();
            self.conn.send(&ib).await?;
            self.share_key().await?;
        }
        Ok(())
    }

    async fn on_pre_keys(&mut self, iq: &NodeRef<'_>) -> Result<(), End> {
        let Some((signed, keys)) = self.read_pre_keys(iq)? else {
            return self.conn.refuse(iq, &plain(406)).await;
        };
        let verdict = self
            .conn
            .step(Step::PreKeys, &keys.len().to_string())
            .await?;
        if self.conn.answer_as(verdict, iq, Vec::new()).await? {
            self.with_device(|device| {
                device.signed = signed;
                for (id, public) in keys {
                    device.pre_keys.retain(|(known, _)| *known != id);
                    device.pre_keys.push_back((id, public));
                }
                while device.pre_keys.len() > MOST_PRE_KEYS {
                    device.pre_keys.pop_front();
                }
            })?;
            self.share_key().await?;
        }
        Ok(())
    }

    /// The uploaded keys; `None`: malformed, or not this companion's.
    #[allow(clippy::type_complexity)] // Two things that are used once, right above.
    fn read_pre_keys(
        &self,
        iq: &NodeRef<'_>,
    ) -> Result<Option<(SignedPreKey, Vec<(u32, [u8; 32])>)>, End> {
        let (identity, registration) =
            self.with_device(|device| (device.identity, device.registration))?;
        let Some(signed) = iq.get_optional_child("skey").and_then(read_signed) else {
            return Ok(None);
        };
        let right = child_array(iq, "identity") == Some(identity)
            && child_number(iq, "registration") == Some(registration)
            && child_bytes(iq, "type") == Some(&[5])
            && signed_by(&identity, &signed);
        let keys = iq
            .get_optional_child("list")
            .and_then(NodeRef::children)
            .unwrap_or_default()
            .iter()
            .map(|key| Some((child_number(key, "id")?, child_array(key, "value")?)))
            .map(|key| key.filter(|(_, public)| is_public_key(public)))
            .collect::<Option<Vec<_>>>();
        Ok(keys
            .filter(|keys| right && !keys.is_empty() && keys.len() <= MOST_PRE_KEYS)
            .map(|keys| (signed, keys)))
    }

    async fn on_rotate(&mut self, iq: &NodeRef<'_>) -> Result<(), End> {
        let identity = self.with_device(|device| device.identity)?;
        let signed = iq
            .get_optional_child_by_tag(&["rotate", "skey"])
            .and_then(read_signed)
            .filter(|signed| signed_by(&identity, signed));
        match signed {
            Some(signed) => {
                self.with_device(|device| device.signed = signed)?;
                self.conn.answer(iq, Vec::new()).await
            }
            None => self.conn.refuse(iq, &plain(406)).await,
        }
    }

    async fn on_digest(&mut self, iq: &NodeRef<'_>) -> Result<(), End> {
        let digest = self.with_device(|device| {
            if device.pre_keys.is_empty() {
                return None;
            }
            let mut hash = Sha1::new();
            hash.update(device.identity);
            hash.update(device.signed.public);
            hash.update(&device.signed.signature);
            for (_, public) in &device.pre_keys {
                hash.update(public);
            }
            let ids = device
                .pre_keys
                .iter()
                .map(|(id, _)| leaf("id", three_bytes(*id)));
            Some(
                NodeBuilder::new("digest")
                    .children([
                        leaf("registration", device.registration.to_be_bytes()),
                        leaf("type", [5]),
                        leaf("identity", device.identity),
                        signed_node(&device.signed),
                        NodeBuilder::new("list").children(ids).build(),
                        leaf("hash", hash.finalize().to_vec()),
                    ])
                    .build(),
            )
        })?;
        match digest {
            Some(digest) => self.conn.answer(iq, vec![digest]).await,
            None => self.conn.refuse(iq, &plain(404)).await,
        }
    }

    /// Other companions' and the phone's own keys, for the accounts this simulator knows.
    async fn on_key_fetch(&mut self, iq: &NodeRef<'_>) -> Result<(), End> {
        let asked: Vec<String> = iq
            .get_optional_child("key")
            .and_then(NodeRef::children)
            .unwrap_or_default()
            .iter()
            .map(|user| attr(user, "jid"))
            .collect();
        let users: Vec<Node> = {
            let mut world = self.conn.inner().world();
            asked
                .iter()
                .filter_map(|jid| message::key_bundle(&mut world, jid))
                .collect()
        };
        let list = NodeBuilder::new("list").children(users).build();
        self.conn.answer(iq, vec![list]).await
    }

    async fn on_app_state(&mut self, iq: &NodeRef<'_>) -> Result<(), End> {
        let collections: Vec<Node> = iq
            .get_optional_child("sync")
            .and_then(NodeRef::children)
            .unwrap_or_default()
            .iter()
            .map(|asked| {
                NodeBuilder::new("collection")
                    .attr("name", attr(asked, "name"))
                    .attr("version", attr(asked, "version"))
                    .attr("type", "result")
                    .build()
            })
            .collect();
        let verdict = self.conn.step(Step::AppState, "").await?;
        let sync = NodeBuilder::new("sync").children(collections).build();
        self.conn.answer_as(verdict, iq, vec![sync]).await?;
        Ok(())
    }

    async fn on_logout(&mut self, iq: &NodeRef<'_>) -> Result<(), End> {
        self.conn.answer(iq, Vec::new()).await?;
        self.conn.strike(&Kick::DeviceRemoved).await
    }

    async fn on_usync(&mut self, iq: &NodeRef<'_>) -> Result<(), End> {
        let asked: Vec<String> = iq
            .get_optional_child_by_tag(&["usync", "list"])
            .and_then(NodeRef::children)
            .unwrap_or_default()
            .iter()
            .map(|user| attr(user, "jid"))
            .collect();
        let (sid, users) = {
            let world = self.conn.inner().world();
            let users: Vec<Node> = asked
                .iter()
                .filter_map(|jid| message::device_list(&world, jid))
                .collect();
            let sid = iq.get_optional_child("usync").map(|u| attr(u, "sid"));
            (sid.unwrap_or_default(), users)
        };
        let usync = NodeBuilder::new("usync")
            .attr("sid", sid)
            .attr("mode", "query")
            .attr("context", "message")
            .attr("index", "0")
            .attr("last", "true")
            .children([NodeBuilder::new("list").children(users).build()])
            .build();
        self.conn.answer(iq, vec![usync]).await
    }

    /// What the phone does on its own once the companion can read it.
    async fn share_key(&mut self) -> Result<(), End> {
        let wanted = self.conn.inner().cfg.share_app_state_key
            && self.active
            && self.key_share.is_none()
            && self.with_device(|device| !device.key_shared && !device.pre_keys.is_empty())?;
        if !wanted {
            return Ok(());
        }
        let inner = self.conn.inner().clone();
        let (number, device) = (self.number.clone(), self.device);
        match message::key_share(&inner, &number, device).await {
            Ok((id, stanza)) => {
                self.conn.send(&stanza).await?;
                self.conn.log(Step::KeyShared, id.as_str());
                // Until there is a receipt for it, it is not received: the next connection gets it again.
                self.key_share = Some(id);
                Ok(())
            }
            Err(why) => Err(End::bad(why)),
        }
    }

    fn with_device<T>(
        &self,
        use_it: impl FnOnce(&mut crate::world::Device) -> T,
    ) -> Result<T, End> {
        let mut world = self.conn.inner().world();
        world
            .device(&self.number, self.device)
            .map(use_it)
            .ok_or_else(|| End::Said("unlinked".to_owned()))
    }
}

fn read_signed(skey: &NodeRef<'_>) -> Option<SignedPreKey> {
    Some(SignedPreKey {
        id: child_number(skey, "id")?,
        public: child_array(skey, "value")?,
        signature: child_bytes(skey, "signature")?.to_vec(),
    })
}

pub(crate) fn signed_node(signed: &SignedPreKey) -> Node {
    NodeBuilder::new("skey")
        .children([
            leaf("id", three_bytes(signed.id)),
            leaf("value", signed.public),
            leaf("signature", signed.signature.clone()),
        ])
        .build()
}
