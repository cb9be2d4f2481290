//! Owns the phone's Signal side: its keys, and one session per linked companion.

use std::sync::Arc;

use async_trait::async_trait;
use rand::RngExt as _;
use tokio::sync::Mutex;
use wacore::messages::MessageUtils;
use wacore_libsignal::protocol::error::Result as SignalResult;
use wacore_libsignal::protocol::{
    CiphertextMessage, IdentityChange, IdentityKey, IdentityKeyPair, IdentityKeyStore, KeyPair,
    PreKeyBundle, ProtocolAddress, PublicKey, SessionRecord, SessionStore, SignalProtocolError,
    UsePQRatchet, message_encrypt, process_prekey_bundle,
};
use wacore_libsignal::protocol::{Direction, SignedPreKeyId};
use waproto::whatsapp as wa;

use crate::world::SignedPreKey;

/// The keys of a phone.
pub(crate) struct SelfKeys {
    /// Signal identity and account signing key in one, as on WhatsApp.
    pub(crate) identity: KeyPair,
    pub(crate) registration: u32,
    pub(crate) signed: SignedPreKey,
}

impl SelfKeys {
    pub(crate) fn generate() -> Self {
        let mut rng = rand::rng();
        let identity = KeyPair::generate(&mut rng);
        let signed = KeyPair::generate(&mut rng);
        let signature = identity
            .calculate_signature(&signed.public_key.serialize(), &mut rng)
            .map(|s| s.to_vec())
            // Signing with a fresh key of our own cannot fail; an empty one would be refused.
            .unwrap_or_default();
        Self {
            registration: rng.random_range(1..16_380),
            signed: SignedPreKey {
                id: 1,
                public: raw(&signed.public_key),
                signature,
            },
            identity,
        }
    }
}

/// The phone's session with one companion. Shared, because encrypting waits and the world's lock must not.
#[derive(Clone, Default)]
pub(crate) struct Peer(Arc<Mutex<Option<SessionRecord>>>);

/// What the first message to a companion is encrypted with.
pub(crate) struct Bundle {
    pub(crate) registration: u32,
    pub(crate) identity: [u8; 32],
    pub(crate) signed: SignedPreKey,
    pub(crate) pre_key: Option<(u32, [u8; 32])>,
}

impl Peer {
    /// Whether a first message was already encrypted.
    pub(crate) async fn is_started(&self) -> bool {
        self.0.lock().await.is_some()
    }

    /// Encrypts for the companion; starts the session with `bundle` if there is none.
    /// Returns the `type` of the `enc` node and the ciphertext.
    pub(crate) async fn encrypt(
        &self,
        own: &KeyPair,
        own_registration: u32,
        bundle: Option<Bundle>,
        message: &wa::Message,
    ) -> SignalResult<(&'static str, Vec<u8>)> {
        let mut kept = self.0.lock().await;
        // There is one session in this store: the address is only a label.
        let address = ProtocolAddress::new("companion", 0.into());
        let mut session = OneSession(kept.take());
        let mut identity = OneIdentity {
            own: IdentityKeyPair::from(own.clone()),
            registration: own_registration,
        };
        let done = async {
            if session.0.is_none() {
                let bundle =
                    bundle.ok_or_else(|| SignalProtocolError::SessionNotFound(address.clone()))?;
                process_prekey_bundle(
                    &address,
                    &mut session,
                    &mut identity,
                    &bundle.open()?,
                    // Not the thread's own generator: this future moves between threads.
                    &mut rand::make_rng::<rand::rngs::StdRng>(),
                    UsePQRatchet::No,
                )
                .await?;
            }
            let plain = MessageUtils::encode_and_pad(message);
            message_encrypt(&plain, &address, &mut session, &mut identity).await
        }
        .await;
        *kept = session.0;
        let done = done?;
        let kind = match done {
            CiphertextMessage::PreKeySignalMessage(_) => "pkmsg",
            _ => "msg",
        };
        Ok((kind, done.serialize().to_vec()))
    }
}

impl Bundle {
    fn open(&self) -> SignalResult<PreKeyBundle> {
        let key = |bytes: &[u8; 32]| PublicKey::from_djb_public_key_bytes(bytes);
        let pre_key = match &self.pre_key {
            Some((id, public)) => Some(((*id).into(), key(public)?)),
            None => None,
        };
        PreKeyBundle::new(
            self.registration,
            0.into(),
            pre_key,
            SignedPreKeyId::from(self.signed.id),
            key(&self.signed.public)?,
            self.signed.signature.clone(),
            IdentityKey::new(key(&self.identity)?),
        )
    }
}

/// Whether `signature` over a signed pre-key is by `identity`.
pub(crate) fn signed_by(identity: &[u8; 32], signed: &SignedPreKey) -> bool {
    let (Ok(identity), Ok(public)) = (
        PublicKey::from_djb_public_key_bytes(identity),
        PublicKey::from_djb_public_key_bytes(&signed.public),
    ) else {
        return false;
    };
    identity.verify_signature(&public.serialize(), &signed.signature)
}

/// A public key as its 32 bytes.
pub(crate) fn raw(key: &PublicKey) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(key.public_key_bytes());
    bytes
}

struct OneSession(Option<SessionRecord>);

#[async_trait]
impl SessionStore for OneSession {
    async fn load_session(&self, _: &ProtocolAddress) -> SignalResult<Option<SessionRecord>> {
        Ok(self.0.clone())
    }

    async fn has_session(&self, _: &ProtocolAddress) -> SignalResult<bool> {
        Ok(self.0.is_some())
    }

    async fn store_session(
        &mut self,
        _: &ProtocolAddress,
        record: SessionRecord,
    ) -> SignalResult<()> {
        self.0 = Some(record);
        Ok(())
    }
}

struct OneIdentity {
    own: IdentityKeyPair,
    registration: u32,
}

#[async_trait]
impl IdentityKeyStore for OneIdentity {
    async fn get_identity_key_pair(&self) -> SignalResult<IdentityKeyPair> {
        Ok(self.own.clone())
    }

    async fn get_local_registration_id(&self) -> SignalResult<u32> {
        Ok(self.registration)
    }

    async fn save_identity(
        &mut self,
        _: &ProtocolAddress,
        _: &IdentityKey,
    ) -> SignalResult<IdentityChange> {
        Ok(IdentityChange::NewOrUnchanged)
    }

    async fn is_trusted_identity(
        &self,
        _: &ProtocolAddress,
        _: &IdentityKey,
        _: Direction,
    ) -> SignalResult<bool> {
        // The link itself vouched for it: the account has signed this identity.
        Ok(true)
    }

    async fn get_identity(&self, _: &ProtocolAddress) -> SignalResult<Option<IdentityKey>> {
        Ok(None)
    }
}
