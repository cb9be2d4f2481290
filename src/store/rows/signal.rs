//! Owns Signal's rows by address: identity keys, sessions, sender keys, and which users have any.

use super::Result;
use crate::store::error::StoreError;
use crate::store::tables::Family;
use crate::store::tx::{Rows, Scope, Writer};

/// Both kinds of state that an address can have.
#[derive(Clone, Copy)]
enum Kind {
    Identity,
    Session,
}

impl Kind {
    const fn family(self) -> Family {
        match self {
            Self::Identity => Family::Identities,
            Self::Session => Family::Sessions,
        }
    }

    const fn mark(self) -> &'static [u8] {
        match self {
            Self::Identity => b"i",
            Self::Session => b"s",
        }
    }
}

pub(in crate::store) fn put_identities<A: AsRef<str>>(
    writer: &Writer<'_>,
    scope: &Scope,
    rows: &[(A, [u8; 32])],
) -> Result<()> {
    put(writer, scope, Kind::Identity, rows)
}

pub(in crate::store) fn put_sessions<A: AsRef<str>, V: AsRef<[u8]>>(
    writer: &Writer<'_>,
    scope: &Scope,
    rows: &[(A, V)],
) -> Result<()> {
    put(writer, scope, Kind::Session, rows)
}

fn put<A: AsRef<str>, V: AsRef<[u8]>>(
    writer: &Writer<'_>,
    scope: &Scope,
    kind: Kind,
    rows: &[(A, V)],
) -> Result<()> {
    writer.put_all(
        scope.table(kind.family()),
        rows.iter()
            .map(|(address, value)| (name(scope, address.as_ref()), value)),
    )?;
    writer.put_all(
        scope.table(Family::SignalUsers),
        rows.iter()
            .map(|(address, _)| (user_row(scope, kind, address.as_ref()), [])),
    )
}

fn delete(writer: &Writer<'_>, scope: &Scope, kind: Kind, address: &str) -> Result<()> {
    writer.delete(scope.table(kind.family()), &name(scope, address))?;
    writer.delete(
        scope.table(Family::SignalUsers),
        &user_row(scope, kind, address),
    )?;
    Ok(())
}

pub(in crate::store) fn delete_identity(
    writer: &Writer<'_>,
    scope: &Scope,
    address: &str,
) -> Result<()> {
    delete(writer, scope, Kind::Identity, address)
}

pub(in crate::store) fn delete_session(
    writer: &Writer<'_>,
    scope: &Scope,
    address: &str,
) -> Result<()> {
    delete(writer, scope, Kind::Session, address)
}

pub(in crate::store) fn identity(
    rows: &impl Rows,
    scope: &Scope,
    address: &str,
) -> Result<Option<[u8; 32]>> {
    rows.get(scope.table(Family::Identities), &name(scope, address))?
        .map(|key| key.try_into().map_err(|_| StoreError::Damaged))
        .transpose()
}

pub(in crate::store) fn session(
    rows: &impl Rows,
    scope: &Scope,
    address: &str,
) -> Result<Option<Vec<u8>>> {
    rows.get(scope.table(Family::Sessions), &name(scope, address))
}

pub(in crate::store) fn has_session(
    rows: &impl Rows,
    scope: &Scope,
    address: &str,
) -> Result<bool> {
    rows.has(scope.table(Family::Sessions), &name(scope, address))
}

pub(in crate::store) fn has_state_for_user(
    rows: &impl Rows,
    scope: &Scope,
    user: &str,
) -> Result<bool> {
    Ok(!rows
        .prefixed(
            scope.table(Family::SignalUsers),
            &scope.name(&[b"user", user.as_bytes()]),
        )?
        .is_empty())
}

pub(in crate::store) fn put_sender_keys<A: AsRef<str>, V: AsRef<[u8]>>(
    writer: &Writer<'_>,
    scope: &Scope,
    rows: &[(A, V)],
) -> Result<()> {
    writer.put_all(
        scope.table(Family::SenderKeys),
        rows.iter()
            .map(|(address, value)| (name(scope, address.as_ref()), value)),
    )
}

pub(in crate::store) fn sender_key(
    rows: &impl Rows,
    scope: &Scope,
    address: &str,
) -> Result<Option<Vec<u8>>> {
    rows.get(scope.table(Family::SenderKeys), &name(scope, address))
}

pub(in crate::store) fn delete_sender_key(
    writer: &Writer<'_>,
    scope: &Scope,
    address: &str,
) -> Result<()> {
    writer.delete(scope.table(Family::SenderKeys), &name(scope, address))?;
    Ok(())
}

fn name(scope: &Scope, address: &str) -> [u8; 32] {
    scope.name(&[address.as_bytes()])
}

/// An address is `user@server` or `user:device@server`.
fn user_row(scope: &Scope, kind: Kind, address: &str) -> Vec<u8> {
    let user = address.split(['@', ':']).next().unwrap_or(address);
    [
        scope.name(&[b"user", user.as_bytes()]),
        scope.name(&[kind.mark(), address.as_bytes()]),
    ]
    .concat()
}
