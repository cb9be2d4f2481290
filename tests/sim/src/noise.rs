//! Owns the server's half of the Noise handshake: XX, IK and XXfallback, and the certificate chain.

use std::time::{SystemTime, UNIX_EPOCH};

use wacore_binary::consts::{
    NOISE_PATTERN_IK, NOISE_PATTERN_XX, NOISE_PATTERN_XXFALLBACK, WA_CONN_HEADER,
};
use wacore_libsignal::protocol::KeyPair;
use wacore_noise::{NoiseCipher, NoiseHandshake};
use waproto::buffa::{Message as _, MessageField};
use waproto::codec;
use waproto::whatsapp::cert_chain::{NoiseCertificate, noise_certificate};
use waproto::whatsapp::{self as wa, HandshakeMessage, handshake_message};

use crate::wire::{End, Wire};

const DAY: u64 = 24 * 60 * 60;

/// The server's static key and the chain that vouches for it.
/// The chain is signed by a root of our own, so a client that checks it refuses this server: as it should.
pub(crate) struct ServerKey {
    pair: KeyPair,
    chain: Vec<u8>,
}

/// What a finished handshake yields.
pub(crate) struct Handshaken {
    pub(crate) pattern: &'static str,
    /// Client to server.
    pub(crate) read: NoiseCipher,
    /// Server to client.
    pub(crate) write: NoiseCipher,
    /// The client's Noise static key: what its credentials are recognised by.
    pub(crate) client: [u8; 32],
    pub(crate) payload: wa::ClientPayload,
}

impl ServerKey {
    pub(crate) fn generate() -> Self {
        let mut rng = rand::rng();
        let root = KeyPair::generate(&mut rng);
        let intermediate = KeyPair::generate(&mut rng);
        let pair = KeyPair::generate(&mut rng);
        let chain = wa::CertChain {
            leaf: MessageField::some(certificate(2, 1, &pair, &intermediate)),
            intermediate: MessageField::some(certificate(1, 0, &intermediate, &root)),
        };
        Self {
            pair,
            chain: chain.encode_to_vec(),
        }
    }

    fn public(&self) -> &[u8] {
        self.pair.public_key.public_key_bytes()
    }

    /// Answers the client's hello, whichever pattern it speaks, and reads its payload.
    pub(crate) async fn shake(&self, wire: &mut Wire) -> Result<Handshaken, End> {
        let hello = hello_of(&wire.frame().await?)?;
        let ephemeral = key32(hello.ephemeral.as_deref(), "client ephemeral")?;
        match (hello.r#static.as_deref(), hello.payload.as_deref()) {
            (Some(secret), Some(payload)) => match self.read_ik(&ephemeral, secret, payload) {
                Ok(opened) => self.answer_ik(wire, &ephemeral, opened).await,
                // Encrypted to a key we no longer have: answer in the XX shape, and the client falls back.
                Err(_) => self.xx(wire, &ephemeral, Pattern::XxFallback).await,
            },
            (None, None) => self.xx(wire, &ephemeral, Pattern::Xx).await,
            _ => Err(End::bad(
                "a client hello with a static key or a payload, but not both",
            )),
        }
    }

    async fn xx(
        &self,
        wire: &mut Wire,
        client_ephemeral: &[u8; 32],
        pattern: Pattern,
    ) -> Result<Handshaken, End> {
        let (protocol, name) = pattern.names();
        let mut noise = NoiseHandshake::new(protocol, &WA_CONN_HEADER).map_err(End::bad)?;
        noise.authenticate(client_ephemeral);
        let ephemeral = KeyPair::generate(&mut rand::rng());
        noise.authenticate(ephemeral.public_key.public_key_bytes());
        mix(&mut noise, &ephemeral, client_ephemeral)?;
        let secret = noise.encrypt(self.public()).map_err(End::bad)?;
        mix(&mut noise, &self.pair, client_ephemeral)?;
        let chain = noise.encrypt(&self.chain).map_err(End::bad)?;
        wire.send(server_hello(&ephemeral, Some(secret), chain))
            .await?;

        let finish = codec::handshake_message_decode(&wire.frame().await?)
            .map_err(End::bad)?
            .client_finish
            .into_option()
            .ok_or_else(|| End::bad("no client finish"))?;
        let (Some(secret), Some(payload)) = (finish.r#static, finish.payload) else {
            return Err(End::bad("a client finish without static key or payload"));
        };
        let client = noise.decrypt(&secret).map_err(End::bad)?;
        let client = key32(Some(&client), "client static")?;
        mix(&mut noise, &ephemeral, &client)?;
        let payload = noise.decrypt(&payload).map_err(End::bad)?;
        finish_handshake(noise, name, client, &payload)
    }

    /// Opens an IK hello; an error means that it was not encrypted to our key.
    fn read_ik(
        &self,
        client_ephemeral: &[u8; 32],
        secret: &[u8],
        payload: &[u8],
    ) -> Result<(NoiseHandshake, [u8; 32], Vec<u8>), End> {
        let mut noise = NoiseHandshake::new(NOISE_PATTERN_IK, &WA_CONN_HEADER).map_err(End::bad)?;
        noise.authenticate(self.public());
        noise.authenticate(client_ephemeral);
        mix(&mut noise, &self.pair, client_ephemeral)?;
        let client = noise.decrypt(secret).map_err(End::bad)?;
        let client = key32(Some(&client), "client static")?;
        mix(&mut noise, &self.pair, &client)?;
        let payload = noise.decrypt(payload).map_err(End::bad)?;
        Ok((noise, client, payload))
    }

    async fn answer_ik(
        &self,
        wire: &mut Wire,
        client_ephemeral: &[u8; 32],
        (mut noise, client, payload): (NoiseHandshake, [u8; 32], Vec<u8>),
    ) -> Result<Handshaken, End> {
        let ephemeral = KeyPair::generate(&mut rand::rng());
        noise.authenticate(ephemeral.public_key.public_key_bytes());
        mix(&mut noise, &ephemeral, client_ephemeral)?;
        mix(&mut noise, &ephemeral, &client)?;
        let chain = noise.encrypt(&self.chain).map_err(End::bad)?;
        // No `static`: that is how the client knows that IK was accepted.
        wire.send(server_hello(&ephemeral, None, chain)).await?;
        finish_handshake(noise, "IK", client, &payload)
    }
}

#[derive(Clone, Copy)]
enum Pattern {
    Xx,
    XxFallback,
}

impl Pattern {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Xx => (NOISE_PATTERN_XX, "XX"),
            Self::XxFallback => (NOISE_PATTERN_XXFALLBACK, "XXfallback"),
        }
    }
}

fn finish_handshake(
    noise: NoiseHandshake,
    pattern: &'static str,
    client: [u8; 32],
    payload: &[u8],
) -> Result<Handshaken, End> {
    let payload = wa::ClientPayload::decode_from_slice(payload).map_err(End::bad)?;
    // The first half of the split is client to server: what the client calls its write key.
    let (read, write) = noise.finish().map_err(End::bad)?;
    Ok(Handshaken {
        pattern,
        read,
        write,
        client,
        payload,
    })
}

fn hello_of(frame: &[u8]) -> Result<handshake_message::ClientHello, End> {
    codec::handshake_message_decode(frame)
        .map_err(End::bad)?
        .client_hello
        .into_option()
        .ok_or_else(|| End::bad("no client hello"))
}

fn server_hello(ephemeral: &KeyPair, secret: Option<Vec<u8>>, payload: Vec<u8>) -> Vec<u8> {
    codec::handshake_message_to_vec(&HandshakeMessage {
        server_hello: MessageField::some(handshake_message::ServerHello {
            ephemeral: Some(ephemeral.public_key.public_key_bytes().to_vec()),
            r#static: secret,
            payload: Some(payload),
            ..Default::default()
        }),
        ..Default::default()
    })
}

fn mix(noise: &mut NoiseHandshake, ours: &KeyPair, theirs: &[u8; 32]) -> Result<(), End> {
    noise
        .mix_shared_secret(ours.private_key.serialize(), theirs)
        .map_err(End::bad)
}

fn key32(bytes: Option<&[u8]>, what: &str) -> Result<[u8; 32], End> {
    bytes
        .and_then(|b| b.try_into().ok())
        .ok_or_else(|| End::bad(format!("{what} is not 32 bytes")))
}

fn certificate(
    serial: u32,
    issuer_serial: u32,
    subject: &KeyPair,
    issuer: &KeyPair,
) -> NoiseCertificate {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let details = noise_certificate::Details {
        serial: Some(serial),
        issuer_serial: Some(issuer_serial),
        key: Some(subject.public_key.public_key_bytes().to_vec()),
        not_before: Some(now.saturating_sub(DAY)),
        not_after: Some(now + 365 * DAY),
    }
    .encode_to_vec();
    // Signing with a key of our own making cannot fail; an empty signature would be refused by any checker.
    let signature = issuer
        .calculate_signature(&details, &mut rand::rng())
        .map(|s| s.to_vec())
        .unwrap_or_default();
    NoiseCertificate {
        details: Some(details),
        signature: Some(signature),
    }
}
