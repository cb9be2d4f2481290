//! Owns the secrets of single messages, and when they may go.

use whatsapp_rust::traits::{MsgSecretEntry, merge_msg_secret_expiry, merge_msg_secret_message_ts};

use super::{Result, count, take, through, timed};
use crate::store::record::{self, MsgSecretRecord};
use crate::store::tables::Family;
use crate::store::tx::{Rows, Scope, Writer};

pub(in crate::store) fn put(
    writer: &Writer<'_>,
    scope: &Scope,
    entries: &[MsgSecretEntry],
) -> Result<usize> {
    for entry in entries {
        let name = hash(scope, &entry.chat, &entry.sender, &entry.msg_id);
        let (mut expires_at, mut message_ts) = (entry.expires_at, entry.message_ts);
        if let Some(old) = by_name(writer, scope, &name)? {
            expires_at = merge_msg_secret_expiry(old.expires_at, expires_at);
            message_ts = merge_msg_secret_message_ts(old.message_ts, message_ts);
            if old.expires_at != 0 {
                writer.delete(
                    scope.table(Family::MsgSecretsByDeadline),
                    &timed(old.expires_at, &name),
                )?;
            }
        }
        let record = record::encode(&MsgSecretRecord {
            secret: entry.secret,
            expires_at,
            message_ts,
        })?;
        writer.put(scope.table(Family::MsgSecrets), &name, &record)?;
        // 0 is never.
        if expires_at != 0 {
            writer.put(
                scope.table(Family::MsgSecretsByDeadline),
                &timed(expires_at, &name),
                &[],
            )?;
        }
    }
    Ok(entries.len())
}

pub(in crate::store) fn get(
    rows: &impl Rows,
    scope: &Scope,
    chat: &str,
    sender: &str,
    id: &str,
) -> Result<Option<(Vec<u8>, i64)>> {
    Ok(by_name(rows, scope, &hash(scope, chat, sender, id))?
        .map(|record| (record.secret.to_vec(), record.message_ts)))
}

/// Removes those whose deadline is at or before `cutoff`.
pub(in crate::store) fn delete_expired(
    writer: &Writer<'_>,
    scope: &Scope,
    cutoff: i64,
) -> Result<u32> {
    let names = take(
        writer,
        scope,
        Family::MsgSecretsByDeadline,
        &through(cutoff),
    )?;
    writer
        .delete_all(scope.table(Family::MsgSecrets), &names)
        .map(count)
}

fn by_name(rows: &impl Rows, scope: &Scope, name: &[u8]) -> Result<Option<MsgSecretRecord>> {
    rows.get(scope.table(Family::MsgSecrets), name)?
        .map(|bytes| record::decode(&bytes))
        .transpose()
}

fn hash(scope: &Scope, chat: &str, sender: &str, id: &str) -> [u8; 32] {
    scope.name(&[chat.as_bytes(), sender.as_bytes(), id.as_bytes()])
}
