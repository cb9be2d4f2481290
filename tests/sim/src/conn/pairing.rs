//! Owns the life of a connection that registers: refs, `companion_hello`, `companion_finish`, `pair-success`, 515.

use std::convert::Infallible;
use std::time::Instant;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::sync::{mpsc, oneshot};
use wacore::crypto::md5_digest;
use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Node, NodeRef};
use waproto::buffa::Message as _;
use waproto::whatsapp as wa;

use super::{Conn, Verdict, check_payload, parse, plain};
use crate::event::Step;
use crate::fault::Refusal;
use crate::link::{check_device_signature, is_public_key};
use crate::node::{self, attr, big_endian, child_array, child_bytes, first, leaf};
use crate::phone::EnterCodeError;
use crate::signal::{Peer, signed_by};
use crate::wire::End;
use crate::world::{
    Device, Finish, Order, PairSuccess, Pending, PrimaryHello, QrRef, SignedPreKey,
};

/// How many refs one `pair-device` carries.
const REFS: u32 = 6;

/// What WhatsApp knows a companion can run in. Anything else: 400.
const BROWSERS: [&str; 6] = ["Chrome", "Edge", "Firefox", "IE", "Opera", "Safari"];

/// What WhatsApp knows a companion can run on. Anything else: 400.
const SYSTEMS: [&str; 9] = [
    "Windows",
    "Mac OS",
    "Linux",
    "Android",
    "iOS",
    "Ubuntu",
    "Debian",
    "Fedora",
    "Chrome OS",
];

pub(super) struct Pairing<'c> {
    conn: Conn<'c>,
    companion: Companion,
    /// When this connection asked for codes.
    asked: Vec<Instant>,
    /// The phone waits for `companion_finish` with this ref.
    finish: Option<(Vec<u8>, oneshot::Sender<Finish>)>,
    /// The phone waits for `pair-device-sign` to the iq with this id.
    sign: Option<(String, Box<PairSuccess>)>,
}

/// What the registration said about the companion.
struct Companion {
    identity: [u8; 32],
    registration: u32,
    signed: SignedPreKey,
    platform: String,
}

/// A `companion_hello` as it should be.
struct Hello {
    wrapped: [u8; 80],
}

impl<'c> Pairing<'c> {
    pub(super) async fn start(
        mut conn: Conn<'c>,
        payload: &wa::ClientPayload,
        mut inbox: mpsc::UnboundedReceiver<Order>,
    ) -> Result<Infallible, End> {
        check_payload(payload)?;
        let companion = Companion::read(payload).map_err(End::bad)?;
        conn.step(Step::Register, &companion.platform).await?;
        let mut pairing = Self {
            conn,
            companion,
            asked: Vec::new(),
            finish: None,
            sign: None,
        };
        pairing.send_refs().await?;
        loop {
            tokio::select! {
                plain = pairing.conn.receive() => {
                    let plain = plain?;
                    pairing.on_stanza(&parse(&plain)?).await?;
                }
                Some(order) = inbox.recv() => pairing.on_order(order).await?,
            }
        }
    }

    async fn send_refs(&mut self) -> Result<(), End> {
        let now = Instant::now();
        let mut refs = Vec::new();
        {
            let inner = self.conn.inner();
            let mut world = inner.world();
            for index in 0..REFS {
                let reference = format!("2@{}", BASE64_STANDARD.encode(rand::random::<[u8; 48]>()));
                let until = now + inner.cfg.qr_first + inner.cfg.qr_next * index;
                let qr = QrRef {
                    conn: self.conn.base.id,
                    until,
                    noise: self.conn.client,
                    identity: self.companion.identity,
                };
                world.refs.insert(reference.clone(), qr);
                refs.push(leaf("ref", reference.into_bytes()));
            }
        }
        let id = self.conn.fresh_id();
        let pair_device = NodeBuilder::new("pair-device").children(refs).build();
        self.conn
            .send(&node::request(&id, "set", pair_device))
            .await?;
        self.conn.step(Step::PairDevice, "").await?;
        Ok(())
    }

    async fn on_order(&mut self, order: Order) -> Result<(), End> {
        match order {
            Order::PrimaryHello(hello) => self.pass_on_hello(hello).await,
            Order::PairSuccess(success) => self.pass_on_success(success).await,
            Order::Kick(kick) => {
                self.conn.log(Step::Trouble, format!("{kick:?}"));
                self.conn.strike(&kick).await
            }
            Order::Message { .. } => Ok(()),
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
            // Telemetry of the official client.
            "ib" | "presence" => Ok(()),
            other => Err(End::bad(format!("<{other}> before login"))),
        }
    }

    async fn on_iq(&mut self, iq: &NodeRef<'_>) -> Result<(), End> {
        let id = attr(iq, "id");
        let child = first(iq);
        match attr(iq, "type").as_str() {
            "result" | "error" => match &self.sign {
                Some((expected, _)) if *expected == id => self.on_sign(iq).await,
                _ => Ok(()),
            },
            "get" if attr(iq, "xmlns") == "w:p" => self.conn.answer(iq, Vec::new()).await,
            "get" if attr(iq, "xmlns") == "md" => match child.map(|c| c.tag.as_ref()) {
                Some("ref") => {
                    let reference =
                        format!("2@{}", BASE64_STANDARD.encode(rand::random::<[u8; 48]>()));
                    self.conn
                        .answer(iq, vec![leaf("ref", reference.into_bytes())])
                        .await
                }
                Some("passkey_request_options") => {
                    self.conn.answer(iq, vec![super::passkey_options()]).await
                }
                _ => self.conn.refuse(iq, &plain(501)).await,
            },
            "set" if attr(iq, "xmlns") == "md" => match child {
                Some(reg) if reg.tag == "link_code_companion_reg" => {
                    match attr(reg, "stage").as_str() {
                        "companion_hello" => self.on_hello(iq, reg).await,
                        "companion_finish" => self.on_finish(iq, reg).await,
                        _ => self.conn.refuse(iq, &plain(400)).await,
                    }
                }
                _ => self.conn.refuse(iq, &plain(501)).await,
            },
            _ => self.conn.refuse(iq, &plain(501)).await,
        }
    }

    async fn on_hello(&mut self, iq: &NodeRef<'_>, reg: &NodeRef<'_>) -> Result<(), End> {
        let checked = self.check_hello(reg);
        let verdict = match &checked {
            Ok(_) => self.conn.step(Step::Hello, "").await?,
            Err(refusal) => Verdict::Refuse(refusal.clone()),
        };
        let hello = match (verdict, checked) {
            (Verdict::Go, Ok(hello)) => hello,
            (Verdict::Refuse(refusal), checked) => {
                let why = if checked.is_ok() {
                    "ordered"
                } else {
                    "checked"
                };
                let note = format!("{} {why}", refusal.code);
                self.conn.refuse(iq, &refusal).await?;
                self.conn.step(Step::HelloRefused, &note).await?;
                return Ok(());
            }
            _ => return Ok(()),
        };
        let reference = BASE64_STANDARD
            .encode(rand::random::<[u8; 24]>())
            .into_bytes();
        let pending = Pending {
            conn: self.conn.base.id,
            reference: reference.clone(),
            wrapped: hello.wrapped,
            asked: Instant::now(),
            tries: 0,
            gone: false,
        };
        let number = self.conn.number().to_owned();
        self.conn.inner().world().pending.insert(number, pending);
        self.conn.reference = Some(reference.clone());
        self.finish = None;
        let answer = NodeBuilder::new("link_code_companion_reg")
            .attr("stage", "companion_hello")
            .children([leaf("link_code_pairing_ref", reference)])
            .build();
        self.conn.answer(iq, vec![answer]).await?;
        self.conn.step(Step::HelloAnswered, "").await?;
        Ok(())
    }

    /// Counts the request and says whether it is as it should be.
    fn check_hello(&mut self, reg: &NodeRef<'_>) -> Result<Hello, Refusal> {
        let number = attr(reg, "jid")
            .strip_suffix("@s.whatsapp.net")
            .filter(|n| (7..=15).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit()))
            .filter(|n| !n.starts_with('0'))
            .map(str::to_owned)
            .ok_or_else(|| plain(400))?;
        let now = Instant::now();
        let cfg = self.conn.inner().cfg.clone();
        let for_number = {
            let mut world = self.conn.inner().world();
            let number = world.reported(&number);
            let times = world.hellos.entry(number.clone()).or_default();
            times.push(now);
            let recent = times
                .iter()
                .filter(|t| now.duration_since(**t) < cfg.hello_window)
                .count();
            if let Some(handle) = world.conns.get_mut(&self.conn.base.id) {
                handle.asked = Some(number.clone());
            }
            drop(world);
            self.conn.base.number = Some(number);
            recent
        };
        self.asked
            .retain(|t| now.duration_since(*t) < cfg.hello_window);
        self.asked.push(now);
        if self.asked.len() > cfg.hellos_per_connection {
            let backoff = u32::try_from(cfg.hello_window.as_secs()).ok();
            return Err(Refusal { code: 429, backoff });
        }
        if for_number > cfg.hellos_per_number {
            return Err(plain(400));
        }
        Hello::read(reg, &self.conn.client).ok_or_else(|| plain(400))
    }

    async fn pass_on_hello(&mut self, hello: PrimaryHello) -> Result<(), End> {
        let PrimaryHello {
            number,
            reference,
            wrapped,
            identity,
            finish,
            sent,
        } = hello;
        // The code may have been replaced while the phone was computing.
        if self.conn.reference.as_ref() != Some(&reference) || self.conn.number() != number {
            return Ok(());
        }
        if let Verdict::Silent = self.conn.step(Step::PrimaryHello, "").await? {
            // The phone goes on waiting for an answer that cannot come.
            self.finish = Some((Vec::new(), finish));
            return Ok(());
        }
        let reg = NodeBuilder::new("link_code_companion_reg")
            .attr("stage", "primary_hello")
            .children([
                leaf("link_code_pairing_ref", reference.clone()),
                leaf("link_code_pairing_wrapped_primary_ephemeral_pub", wrapped),
                leaf("primary_identity_pub", identity),
            ])
            .build();
        let id = self.conn.fresh_id();
        self.conn
            .send(&node::notification(&id, "link_code_companion_reg", reg))
            .await?;
        self.finish = Some((reference, finish));
        let _ = sent.send(());
        self.conn.step(Step::PrimaryHelloSent, "").await?;
        Ok(())
    }

    async fn on_finish(&mut self, iq: &NodeRef<'_>, reg: &NodeRef<'_>) -> Result<(), End> {
        let checked = self.check_finish(reg);
        let verdict = match &checked {
            Ok(_) => self.conn.step(Step::Finish, "").await?,
            Err(why) => {
                self.conn.log(Step::FinishRefused, *why);
                Verdict::Refuse(plain(400))
            }
        };
        if self.conn.answer_as(verdict, iq, Vec::new()).await?
            && let Ok(finish) = checked
            && let Some((_, phone)) = self.finish.take()
        {
            let _ = phone.send(finish);
            self.conn.step(Step::FinishAnswered, "").await?;
        }
        Ok(())
    }

    fn check_finish(&self, reg: &NodeRef<'_>) -> Result<Finish, &'static str> {
        let Some((reference, _)) = &self.finish else {
            return Err("nobody typed a code");
        };
        if child_bytes(reg, "link_code_pairing_ref") != Some(reference) {
            return Err("wrong ref");
        }
        let jid = attr(reg, "jid");
        let typed = jid.strip_suffix("@s.whatsapp.net").unwrap_or_default();
        if self.conn.inner().world().reported(typed) != self.conn.number() {
            return Err("another number than in companion_hello");
        }
        let identity = child_array(reg, "companion_identity_public")
            .filter(|identity| *identity == self.companion.identity)
            .ok_or("another identity than registered")?;
        let bundle = child_array(reg, "link_code_pairing_wrapped_key_bundle")
            .ok_or("the bundle is not 156 bytes")?;
        Ok(Finish { bundle, identity })
    }

    async fn pass_on_success(&mut self, success: Box<PairSuccess>) -> Result<(), End> {
        self.conn.base.number = Some(success.number.clone());
        let verdict = self.conn.step(Step::PairSuccess, "").await?;
        let id = self.conn.fresh_id();
        if let Verdict::Silent = verdict {
            self.sign = Some((id, success));
            return Ok(());
        }
        let pair_success = self.success_node(&success);
        self.conn
            .send(&node::request(&id, "set", pair_success))
            .await?;
        self.sign = Some((id, success));
        self.conn.step(Step::PairSuccessSent, "").await?;
        Ok(())
    }

    fn success_node(&self, success: &PairSuccess) -> Node {
        let number = &success.number;
        let mut world = self.conn.inner().world();
        let account = world.account(number);
        let device = account.next_device_id();
        let jid = format!("{number}:{device}@s.whatsapp.net");
        let lid = format!("{}:{device}@lid", account.lid);
        let props = wa::ClientPairingProps {
            is_chat_db_lid_migrated: Some(true),
            ..Default::default()
        };
        NodeBuilder::new("pair-success")
            .children([
                leaf("device-identity", success.container.clone()),
                NodeBuilder::new("biz")
                    .attr("name", account.name.as_str())
                    .build(),
                NodeBuilder::new("platform").attr("name", "smba").build(),
                NodeBuilder::new("device")
                    .attr("jid", jid)
                    .attr("lid", lid)
                    .build(),
                leaf("client-props", props.encode_to_vec()),
            ])
            .build()
    }

    async fn on_sign(&mut self, iq: &NodeRef<'_>) -> Result<(), End> {
        let Some((_, success)) = self.sign.take() else {
            return Ok(());
        };
        if attr(iq, "type") == "error" {
            let error = iq.get_optional_child("error");
            let text = error.map(|e| format!("{} {}", attr(e, "code"), attr(e, "text")));
            let text = text.unwrap_or_default();
            self.conn.log(Step::PairRefused, text.as_str());
            let _ = success.done.send(Err(EnterCodeError::Refused(text)));
            return Ok(());
        }
        if let Err(why) = self.check_sign(iq, &success) {
            self.conn.log(Step::PairRefused, why);
            let _ = success
                .done
                .send(Err(EnterCodeError::Refused(why.to_owned())));
            return Err(End::bad(why));
        }
        if let Verdict::Silent = self.conn.step(Step::Sign, "").await? {
            return Ok(());
        }
        let signed_identity = iq
            .get_optional_child("pair-device-sign")
            .and_then(|sign| child_bytes(sign, "device-identity"))
            .unwrap_or_default()
            .to_vec();
        let id = self.record(&success, signed_identity);
        let _ = success.done.send(Ok(id));
        if let Verdict::Silent = self.conn.step(Step::Linked, &id.to_string()).await? {
            return Ok(());
        }
        tokio::time::sleep(self.conn.inner().cfg.restart_after).await;
        self.conn.log(Step::RestartSent, "");
        self.conn
            .end(node::stream_error(515, None), "restart after pairing")
            .await
    }

    fn check_sign(&self, iq: &NodeRef<'_>, success: &PairSuccess) -> Result<(), &'static str> {
        let identity = iq
            .get_optional_child("pair-device-sign")
            .and_then(|sign| sign.get_optional_child("device-identity"))
            .ok_or("no device identity")?;
        if attr(identity, "key-index") != success.key_index.to_string() {
            return Err("wrong key index");
        }
        check_device_signature(
            identity.content_bytes().unwrap_or_default(),
            &success.details,
            &success.account_signature,
            &success.account_key,
            &self.companion.identity,
        )
    }

    fn record(&self, success: &PairSuccess, signed_identity: Vec<u8>) -> u16 {
        let mut world = self.conn.inner().world();
        world.pending.remove(&success.number);
        world.refs.retain(|_, qr| qr.conn != self.conn.base.id);
        world.account(&success.number).link(Device {
            key_index: success.key_index,
            platform: self.companion.platform.clone(),
            linked: node::now(),
            noise: self.conn.client,
            identity: self.companion.identity,
            registration: self.companion.registration,
            signed: self.companion.signed.clone(),
            signed_identity,
            pre_keys: std::collections::VecDeque::new(),
            key_shared: false,
            conn: None,
            peer: Peer::default(),
        })
    }
}

impl Companion {
    fn read(payload: &wa::ClientPayload) -> Result<Self, &'static str> {
        let data = payload
            .device_pairing_data
            .as_option()
            .ok_or("neither a login nor a registration")?;
        let bytes = |field: &Option<Vec<u8>>| field.clone().unwrap_or_default();
        let key = |field: &Option<Vec<u8>>, what| -> Result<[u8; 32], &'static str> {
            bytes(field)
                .try_into()
                .ok()
                .filter(is_public_key)
                .ok_or(what)
        };
        let identity = key(&data.e_ident, "no identity key")?;
        let signed = SignedPreKey {
            id: big_endian(&bytes(&data.e_skey_id)).ok_or("no signed pre-key id")?,
            public: key(&data.e_skey_val, "no signed pre-key")?,
            signature: bytes(&data.e_skey_sig),
        };
        if bytes(&data.e_keytype) != [5] {
            return Err("unknown key type");
        }
        if !signed_by(&identity, &signed) {
            return Err("the signed pre-key's signature is wrong");
        }
        let version = &payload.user_agent.app_version;
        let version = format!(
            "{}.{}.{}",
            version.primary.unwrap_or(0),
            version.secondary.unwrap_or(0),
            version.tertiary.unwrap_or(0)
        );
        if bytes(&data.build_hash) != md5_digest(version.as_bytes()) {
            return Err("the build hash is not that of the version");
        }
        let props = wa::DeviceProps::decode_from_slice(&bytes(&data.device_props))
            .map_err(|_| "no device props")?;
        Ok(Self {
            identity,
            registration: big_endian(&bytes(&data.e_regid)).ok_or("no registration id")?,
            signed,
            platform: props.os.unwrap_or_default(),
        })
    }
}

impl Hello {
    fn read(reg: &NodeRef<'_>, client: &[u8; 32]) -> Option<Self> {
        let platform = child_bytes(reg, "companion_platform_id")?;
        let display = std::str::from_utf8(child_bytes(reg, "companion_platform_display")?).ok()?;
        child_bytes(reg, "link_code_pairing_nonce")?;
        let known = matches!(platform, [b'1'..=b'9'])
            && is_known_display(display)
            && child_array(reg, "companion_server_auth_key_pub").as_ref() == Some(client);
        let wrapped = child_array(reg, "link_code_pairing_wrapped_companion_ephemeral_pub")?;
        known.then_some(Self { wrapped })
    }
}

fn is_known_display(display: &str) -> bool {
    display
        .strip_suffix(')')
        .and_then(|rest| rest.split_once(" ("))
        .is_some_and(|(browser, system)| BROWSERS.contains(&browser) && SYSTEMS.contains(&system))
}

#[cfg(test)]
mod tests {
    use super::is_known_display;

    #[test]
    fn only_displays_whatsapp_knows_pass() {
        assert!(is_known_display("Chrome (Linux)"));
        assert!(is_known_display("Safari (Mac OS)"));
        assert!(!is_known_display("Hairpin (Linux)"));
        assert!(!is_known_display("Chrome (Hairpin)"));
        assert!(!is_known_display("Chrome"));
        assert!(!is_known_display(""));
    }
}
