//! Owns the cryptography of linking, as the phone and the server do it. No network, no waiting.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use wacore::adv::{AdvValidation, validate_adv_with_identity_key};
use wacore::crypto::hkdf_sha256_into;
use wacore::pair_code::PairCodeUtils;
use wacore_libsignal::crypto::aes_256_gcm_decrypt;
use wacore_libsignal::protocol::{KeyPair, PublicKey};
use waproto::buffa::Message as _;
use waproto::codec;
use waproto::whatsapp::{self as wa, ADVEncryptionType};

use crate::node::now;
use crate::signal::raw;
use crate::world::Finish;

/// What the phone made of a typed code: its own half of the exchange.
pub(crate) struct Half {
    ephemeral: KeyPair,
    companion_ephemeral: [u8; 32],
    /// To be sent in `primary_hello`.
    pub(crate) wrapped: [u8; 80],
}

impl Half {
    /// Unwraps the companion's key with the code and wraps our own. Two PBKDF2 runs: never on an async thread.
    /// A wrong code is not noticed here: wrapping is not authenticated, it only yields a wrong key.
    pub(crate) fn new(companion_wrapped: &[u8; 80], code: &str) -> Result<Self, String> {
        let companion_ephemeral =
            PairCodeUtils::decrypt_primary_ephemeral_pub(companion_wrapped, code)
                .map_err(|e| e.to_string())?;
        let ephemeral = KeyPair::generate(&mut rand::rng());
        let wrapped = PairCodeUtils::encrypt_ephemeral_pub(&raw(&ephemeral.public_key), code);
        Ok(Self {
            ephemeral,
            companion_ephemeral,
            wrapped,
        })
    }

    /// Opens the companion's bundle. The ADV secret, or `None`: the two sides did not mean the same code.
    pub(crate) fn open(&self, finish: &Finish, identity: &KeyPair) -> Option<[u8; 32]> {
        let shared = agree(&self.ephemeral, &self.companion_ephemeral)?;
        let (salt, rest) = finish.bundle.split_at(32);
        let (iv, sealed) = rest.split_at(12);
        let mut key = [0; 32];
        hkdf_sha256_into(
            &shared,
            Some(salt),
            b"link_code_pairing_key_bundle_encryption_key",
            &mut key,
        )
        .ok()?;
        let mut bundle = Vec::with_capacity(96);
        aes_256_gcm_decrypt(&key, iv.try_into().ok()?, b"", sealed, &mut bundle).ok()?;

        let (companion, rest) = bundle.split_at_checked(32)?;
        let (primary, random) = rest.split_at_checked(32)?;
        if companion != finish.identity || primary != raw(&identity.public_key) {
            return None;
        }
        let identities = agree(identity, &finish.identity)?;
        let mut secret = [0; 32];
        hkdf_sha256_into(
            &[&shared[..], &identities, random].concat(),
            None,
            b"adv_secret",
            &mut secret,
        )
        .ok()?;
        Some(secret)
    }
}

/// What the account signs for a new companion.
pub(crate) struct Acceptance {
    pub(crate) details: Vec<u8>,
    pub(crate) signature: Vec<u8>,
    pub(crate) container: Vec<u8>,
}

/// Signs the companion's identity and seals the result with the ADV secret.
pub(crate) fn accept(
    account: &KeyPair,
    companion: &[u8; 32],
    key_index: u32,
    adv_secret: &[u8; 32],
) -> Option<Acceptance> {
    let details = wa::ADVDeviceIdentity {
        raw_id: Some(rand::random::<u32>() >> 1),
        timestamp: Some(now()),
        key_index: Some(key_index),
        account_type: Some(ADVEncryptionType::E2EE),
        device_type: Some(ADVEncryptionType::E2EE),
    }
    .encode_to_vec();
    let signature = account
        .calculate_signature(
            &[&[6, 0], &details[..], companion].concat(),
            &mut rand::rng(),
        )
        .ok()?
        .to_vec();
    let signed = codec::adv_signed_device_identity_to_vec(&wa::ADVSignedDeviceIdentity {
        details: Some(details.clone()),
        account_signature_key: Some(raw(&account.public_key).to_vec()),
        account_signature: Some(signature.clone()),
        device_signature: None,
    });
    let mut mac = Hmac::<Sha256>::new_from_slice(adv_secret).ok()?;
    mac.update(&signed);
    let container = wa::ADVSignedDeviceIdentityHMAC {
        hmac: Some(mac.finalize().into_bytes().to_vec()),
        details: Some(signed),
        account_type: Some(ADVEncryptionType::E2EE),
    }
    .encode_to_vec();
    Some(Acceptance {
        details,
        signature,
        container,
    })
}

/// Checks what the companion sends back: the same details and account signature, and its own signature over them.
pub(crate) fn check_device_signature(
    answer: &[u8],
    details: &[u8],
    account_signature: &[u8],
    account_key: &[u8; 32],
    companion: &[u8; 32],
) -> Result<(), &'static str> {
    let signed =
        codec::adv_signed_device_identity_decode(answer).map_err(|_| "not a device identity")?;
    if signed.details.as_deref() != Some(details) {
        return Err("other details than the account signed");
    }
    if signed.account_signature.as_deref() != Some(account_signature) {
        return Err("another account signature");
    }
    // A companion may leave out the account key: the server knows it.
    match validate_adv_with_identity_key(answer, companion, Some(account_key)) {
        AdvValidation::Valid => Ok(()),
        _ => Err("the device signature is wrong"),
    }
}

/// Whether the bytes are a curve point a real companion could have.
pub(crate) fn is_public_key(bytes: &[u8; 32]) -> bool {
    *bytes != [0; 32] && PublicKey::from_djb_public_key_bytes(bytes).is_ok()
}

fn agree(ours: &KeyPair, theirs: &[u8; 32]) -> Option<[u8; 32]> {
    let theirs = PublicKey::from_djb_public_key_bytes(theirs).ok()?;
    ours.calculate_agreement(&theirs).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The companion's answer, with a signature over what it is told to sign.
    fn answer(accepted: &Acceptance, companion: &KeyPair, signs: &[u8]) -> Vec<u8> {
        codec::adv_signed_device_identity_to_vec(&wa::ADVSignedDeviceIdentity {
            details: Some(accepted.details.clone()),
            account_signature_key: None,
            account_signature: Some(accepted.signature.clone()),
            device_signature: Some(
                companion
                    .calculate_signature(signs, &mut rand::rng())
                    .expect("signed")
                    .to_vec(),
            ),
        })
    }

    #[test]
    fn a_device_signature_by_another_key_or_over_other_bytes_is_refused() {
        let account = KeyPair::generate(&mut rand::rng());
        let companion = KeyPair::generate(&mut rand::rng());
        let (key, identity) = (raw(&account.public_key), raw(&companion.public_key));
        let accepted = accept(&account, &identity, 1, &[7; 32]).expect("accepted");
        let signs = [&[6, 1], &accepted.details[..], &identity, &key].concat();
        let check = |answer: &[u8], signature: &[u8]| {
            check_device_signature(answer, &accepted.details, signature, &key, &identity)
        };
        let right = answer(&accepted, &companion, &signs);
        assert_eq!(check(&right, &accepted.signature), Ok(()));
        assert!(
            check(&right, &[0; 64]).is_err(),
            "another account signature"
        );
        let other = answer(&accepted, &account, &signs);
        assert!(check(&other, &accepted.signature).is_err(), "another key");
        let other = answer(&accepted, &companion, &signs[1..]);
        assert!(check(&other, &accepted.signature).is_err(), "other bytes");
        assert!(check(b"nonsense", &accepted.signature).is_err());
    }
}
