//! Owns the calls of `MsgSecretStore`.

use std::sync::Arc;

use whatsapp_rust::traits::MsgSecretEntry;

use super::{Draw, Trait, methods};

fn entry(draw: &mut Draw) -> MsgSecretEntry {
    MsgSecretEntry {
        chat: Arc::from(draw.group()),
        sender: Arc::from(draw.jid()),
        msg_id: Arc::from(draw.message()),
        secret: draw.array(),
        expires_at: if draw.chance(20) { 0 } else { draw.moment() },
        message_ts: if draw.chance(20) { 0 } else { draw.moment() },
    }
}

pub fn methods() -> Trait {
    methods! { "MsgSecretStore":
        put_msg_secret(d; chat = d.group(); sender = d.jid(); id = d.message(); secret = d.array::<32>()) |b|
            b.put_msg_secret(&chat, &sender, &id, &secret).await;
        put_msg_secrets(d; entries = d.some(6, entry)) |b|
            b.put_msg_secrets(entries).await;
        get_msg_secret(d; chat = d.group(); sender = d.jid(); id = d.message()) |b|
            b.get_msg_secret(&chat, &sender, &id).await;
        get_msg_secret_with_ts(d; chat = d.group(); sender = d.jid(); id = d.message()) |b|
            b.get_msg_secret_with_ts(&chat, &sender, &id).await;
        delete_expired_msg_secrets(d; cutoff = d.moment()) |b|
            b.delete_expired_msg_secrets(cutoff).await;
    }
}
