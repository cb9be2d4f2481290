//! Owns the encoding of records: a version byte, then bincode of our own mirror structs, with a limit.
//! The only file that knows bincode. A released layout never changes: a new one gets a new version byte.

use bincode::config::{self, Configuration, Fixint, Limit, LittleEndian};
use bincode::de::Decoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};

use super::error::StoreError;
use crate::secret::SecretText;

/// The largest record of our own; upstream's blobs are stored as they are.
const LARGEST: usize = 16 << 20;
/// What reading one may take in memory: its lists take more there than in the file, but not four times as much, so
/// that whatever is written can be read.
const LIMIT: usize = 4 * LARGEST;
const V1: u8 = 1;

fn config() -> Configuration<LittleEndian, Fixint, Limit<LIMIT>> {
    config::standard()
        .with_fixed_int_encoding()
        .with_limit::<LIMIT>()
}

/// Encodes a record of the present version.
pub(super) fn encode<T: Encode>(record: &T) -> Result<Vec<u8>, StoreError> {
    let mut out = vec![V1];
    bincode::encode_into_std_write(record, &mut out, config()).map_err(|_| StoreError::TooLarge)?;
    // The limit in the configuration is one of reading.
    if out.len() > LARGEST {
        return Err(StoreError::TooLarge);
    }
    Ok(out)
}

/// Decodes a record of any version known; bytes left over are damage.
pub(super) fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, StoreError> {
    let (&version, rest) = bytes.split_first().ok_or(StoreError::Damaged)?;
    if version != V1 {
        return Err(StoreError::Damaged);
    }
    let (record, used) =
        bincode::decode_from_slice(rest, config()).map_err(|_| StoreError::Damaged)?;
    if used == rest.len() {
        Ok(record)
    } else {
        Err(StoreError::Damaged)
    }
}

/// Reads a record and writes it again.
pub(super) fn again<T: Decode<()> + Encode>(bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
    encode(&decode::<T>(bytes)?)
}

/// In the file it is the text.
impl Encode for SecretText {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.reveal().encode(encoder)
    }
}

impl<Context> Decode<Context> for SecretText {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        String::decode(decoder).map(Self::new)
    }
}

bincode::impl_borrow_decode!(SecretText);

/// A session's slot.
#[derive(Debug, Encode, Decode)]
pub(super) struct SessionRecord {
    pub(super) name: String,
    pub(super) created_at: i64,
}

/// A link.
#[derive(Encode, Decode)]
pub(super) struct LinkRecord {
    pub(super) epoch: u64,
    pub(super) link_id: String,
    pub(super) line: SecretText,
    pub(super) intended: SecretText,
    pub(super) created_at: i64,
    pub(super) linked: Option<LinkedRecord>,
    pub(super) last_connected: Option<i64>,
    pub(super) ended: Option<(i64, u8)>,
    pub(super) halted: Option<(i64, u8, Option<i64>)>,
    pub(super) finishing: bool,
    pub(super) restored: bool,
}

/// Whom it is linked to.
#[derive(Encode, Decode)]
pub(super) struct LinkedRecord {
    pub(super) at: i64,
    pub(super) phone: SecretText,
    pub(super) jid: SecretText,
    pub(super) lid: Option<SecretText>,
}

/// A journal entry.
#[derive(Encode, Decode)]
pub(super) struct JournalRecord {
    pub(super) time: i64,
    pub(super) session: String,
    pub(super) what: u8,
    pub(super) phone: Option<String>,
    pub(super) old_phone: Option<String>,
    pub(super) by: Option<String>,
    pub(super) user_agent: Option<String>,
    pub(super) confirmed: Option<bool>,
    pub(super) was_linked: Option<bool>,
    pub(super) credential_age_seconds: Option<u64>,
    pub(super) last_connected: Option<i64>,
    pub(super) duration_ms: Option<u64>,
    pub(super) outcome: Option<String>,
}

/// An app-state sync key. It names itself: its row's name is hashed under a key that a restored link no longer has.
#[derive(Encode, Decode)]
pub(super) struct SyncKeyRecord {
    pub(super) key_id: Vec<u8>,
    pub(super) key_data: Vec<u8>,
    pub(super) fingerprint: Vec<u8>,
    pub(super) timestamp: i64,
}

/// A hidden id and its number.
#[derive(Encode, Decode)]
pub(super) struct LidRecord {
    pub(super) lid: String,
    pub(super) phone_number: String,
    pub(super) created_at: i64,
    pub(super) updated_at: i64,
    pub(super) learning_source: String,
}

/// The devices of a user: id, key index, hosted.
#[derive(Encode, Decode)]
pub(super) struct DeviceListRecord {
    pub(super) user: String,
    pub(super) devices: Vec<(u32, Option<u32>, bool)>,
    pub(super) timestamp: i64,
    pub(super) phash: Option<String>,
    pub(super) raw_id: Option<u32>,
}

/// A contact's privacy token.
#[derive(Encode, Decode)]
pub(super) struct TcTokenRecord {
    pub(super) jid: String,
    pub(super) token: Vec<u8>,
    pub(super) token_timestamp: i64,
    pub(super) sender_timestamp: Option<i64>,
}

/// Whether a device has a group's sender key.
#[derive(Encode, Decode)]
pub(super) struct SenderKeyDeviceRecord {
    pub(super) device: String,
    pub(super) has_key: bool,
}

/// A message, and when it came.
#[derive(Encode, Decode)]
pub(super) struct TimedRecord {
    pub(super) at: i64,
    pub(super) bytes: Vec<u8>,
}

/// A message secret.
#[derive(Encode, Decode)]
pub(super) struct MsgSecretRecord {
    pub(super) secret: [u8; 32],
    pub(super) expires_at: i64,
    pub(super) message_ts: i64,
}

/// What a backup says of itself, before everything else.
#[derive(Encode, Decode)]
pub(super) struct BackupHeadRecord {
    pub(super) made_at: i64,
    pub(super) program: String,
    pub(super) layout: u32,
    pub(super) next_epoch: u64,
}

/// Anything else in a backup: what it is, of which session, its name, and its bytes as they are stored.
#[derive(Encode, Decode)]
pub(super) struct BackupPartRecord {
    pub(super) kind: u8,
    pub(super) session: String,
    pub(super) name: Vec<u8>,
    pub(super) value: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_an_unknown_version_or_length_is_damage() {
        let good = encode(&SessionRecord {
            name: "Salon".to_owned(),
            created_at: 5,
        })
        .expect("small");
        assert!(decode::<SessionRecord>(&good).is_ok());
        let mut newer = good.clone();
        newer[0] = 2;
        assert!(matches!(
            decode::<SessionRecord>(&newer),
            Err(StoreError::Damaged)
        ));
        let mut longer = good.clone();
        longer.push(0);
        assert!(matches!(
            decode::<SessionRecord>(&longer),
            Err(StoreError::Damaged)
        ));
        assert!(matches!(
            decode::<SessionRecord>(&good[..4]),
            Err(StoreError::Damaged)
        ));
    }

    #[test]
    fn a_record_that_is_written_can_be_read_and_one_that_is_too_large_is_not_written() {
        let message = |length| TimedRecord {
            at: 5,
            bytes: vec![7; length],
        };
        // Version, moment and length come before the bytes.
        let most = LARGEST - 17;
        let largest = encode(&message(most)).expect("just small enough");
        assert_eq!(largest.len(), LARGEST);
        let read: TimedRecord = decode(&largest).expect("readable");
        assert_eq!(read.bytes.len(), most);
        assert_eq!(encode(&message(most + 1)), Err(StoreError::TooLarge));
        // A list whose items take least in the file and most in memory.
        let list = |length| DeviceListRecord {
            user: String::new(),
            devices: vec![(1, None, false); length],
            timestamp: 0,
            phash: None,
            raw_id: None,
        };
        let largest = encode(&list(LARGEST / 6 - 8)).expect("just small enough");
        let read: DeviceListRecord = decode(&largest).expect("readable");
        assert_eq!(read.devices.len(), LARGEST / 6 - 8);
        assert_eq!(encode(&list(LARGEST / 6 + 8)), Err(StoreError::TooLarge));
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_memory_is_asked_for() {
        // A name that claims to be 2^62 bytes long.
        let bytes = [&[V1][..], &(1u64 << 62).to_le_bytes()].concat();
        assert!(matches!(
            decode::<SessionRecord>(&bytes),
            Err(StoreError::Damaged)
        ));
    }
}
