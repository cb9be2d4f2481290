//! Owns the names of all tables, each with its invariant, and the list that a wipe must empty.

use super::Epoch;

/// A table outside any epoch; sealed under the house key (epoch 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum House {
    /// Layout version and the highest epoch ever given out.
    Meta,
    /// Session id → its name and birth.
    Sessions,
    /// Session id → its present epoch. What every write is fenced by.
    Epochs,
    /// Session id → the link's row. There is one exactly where there is an epoch. It says whose the link is:
    /// sealed under the epoch's key as well, so that no copy in a freed page opens once the link is wiped.
    Links,
    /// Running number → what happened. Bounded by age and count in the transaction that appends.
    Journal,
    /// Name → value, outside any link: the companion version.
    Settings,
    /// Keyed hash of a line and the moment → nothing: requests of the last hour.
    Budget,
}

impl House {
    pub(super) const ALL: [Self; 7] = [
        Self::Meta,
        Self::Sessions,
        Self::Epochs,
        Self::Links,
        Self::Journal,
        Self::Settings,
        Self::Budget,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Sessions => "sessions",
            Self::Epochs => "epochs",
            Self::Links => "links",
            Self::Journal => "journal",
            Self::Settings => "settings",
            Self::Budget => "budget",
        }
    }
}

/// A table of one epoch: every epoch has a set of its own, so that a wipe drops tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Family {
    /// The device: one row, `device`.
    Device,
    /// Address → identity key.
    Identities,
    /// Address → Signal session.
    Sessions,
    /// Address → sender key.
    SenderKeys,
    /// Hash of a user, then of an address → nothing: which users have Signal state.
    SignalUsers,
    /// Id (big endian) → pre-key and whether it was uploaded.
    PreKeys,
    /// Id (big endian) → signed pre-key.
    SignedPreKeys,
    /// Hash of a key id → app-state sync key; and which was set last.
    SyncKeys,
    /// Collection → hash state.
    SyncVersions,
    /// Hash of the collection, then of the index → value MAC.
    MutationMacs,
    /// Hash of the group, then of the device → device and whether it has the key.
    SenderKeyDevices,
    /// Hash of the device, then of the group → the row's name in the table above.
    SenderKeyDevicesByDevice,
    /// Hidden id → mapping.
    LidMappings,
    /// Number → the names of its hidden ids in the table above, the one put last at the end.
    PnMappings,
    /// Address and message → base key.
    BaseKeys,
    /// User → device list.
    DeviceLists,
    /// Group → cached metadata.
    Groups,
    /// Contact → privacy token.
    TcTokens,
    /// Last sign of life (big endian), then name → nothing: expiry of the table above.
    TcTokensByTime,
    /// Chat and message → payload.
    SentMessages,
    /// Time (big endian), then name → nothing: expiry of the table above.
    SentMessagesByTime,
    /// Chat, sender and id → buffered message.
    PendingInbound,
    /// Time (big endian), then name → nothing: expiry of the table above.
    PendingInboundByTime,
    /// Chat, sender and id → message secret.
    MsgSecrets,
    /// Deadline (big endian), then name → nothing: expiry of the table above.
    MsgSecretsByDeadline,
}

impl Family {
    /// What a wipe drops. A table that is not in here cannot be opened.
    pub(super) const ALL: [Self; 25] = [
        Self::Device,
        Self::Identities,
        Self::Sessions,
        Self::SenderKeys,
        Self::SignalUsers,
        Self::PreKeys,
        Self::SignedPreKeys,
        Self::SyncKeys,
        Self::SyncVersions,
        Self::MutationMacs,
        Self::SenderKeyDevices,
        Self::SenderKeyDevicesByDevice,
        Self::LidMappings,
        Self::PnMappings,
        Self::BaseKeys,
        Self::DeviceLists,
        Self::Groups,
        Self::TcTokens,
        Self::TcTokensByTime,
        Self::SentMessages,
        Self::SentMessagesByTime,
        Self::PendingInbound,
        Self::PendingInboundByTime,
        Self::MsgSecrets,
        Self::MsgSecretsByDeadline,
    ];

    const fn suffix(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Identities => "identities",
            Self::Sessions => "sessions",
            Self::SenderKeys => "sender_keys",
            Self::SignalUsers => "signal_users",
            Self::PreKeys => "prekeys",
            Self::SignedPreKeys => "signed_prekeys",
            Self::SyncKeys => "sync_keys",
            Self::SyncVersions => "sync_versions",
            Self::MutationMacs => "mutation_macs",
            Self::SenderKeyDevices => "sender_key_devices",
            Self::SenderKeyDevicesByDevice => "sender_key_devices_by_device",
            Self::LidMappings => "lid_mappings",
            Self::PnMappings => "pn_mappings",
            Self::BaseKeys => "base_keys",
            Self::DeviceLists => "device_lists",
            Self::Groups => "groups",
            Self::TcTokens => "tc_tokens",
            Self::TcTokensByTime => "tc_tokens_by_time",
            Self::SentMessages => "sent_messages",
            Self::SentMessagesByTime => "sent_messages_by_time",
            Self::PendingInbound => "pending_inbound",
            Self::PendingInboundByTime => "pending_inbound_by_time",
            Self::MsgSecrets => "msg_secrets",
            Self::MsgSecretsByDeadline => "msg_secrets_by_deadline",
        }
    }
}

/// A table that can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    House(House),
    Of(Epoch, Family),
}

impl Table {
    /// Whether its values are sealed under the key of the link that they are about, and then under the house's.
    pub(super) const fn goes_with_a_link(self) -> bool {
        matches!(self, Self::House(House::Links))
    }

    pub(super) fn name(self) -> String {
        match self {
            Self::House(house) => house.name().to_owned(),
            Self::Of(epoch, family) => format!("e{:016x}.{}", epoch.0, family.suffix()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_table_has_a_name_of_its_own() {
        let names: HashSet<String> = House::ALL
            .map(|house| Table::House(house).name())
            .into_iter()
            .chain(Family::ALL.map(|family| Table::Of(Epoch(1), family).name()))
            .chain(Family::ALL.map(|family| Table::Of(Epoch(2), family).name()))
            .collect();
        assert_eq!(names.len(), House::ALL.len() + 2 * Family::ALL.len());
    }
}
