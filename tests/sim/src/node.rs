//! Owns how stanzas are read and written: small helpers over wacore's nodes.

use std::time::{SystemTime, UNIX_EPOCH};

use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Node, NodeRef, SERVER_JID};

use crate::fault::{Refusal, text_of};

/// The attribute as text; empty if it is not there.
pub(crate) fn attr(node: &NodeRef<'_>, name: &str) -> String {
    node.get_attr(name)
        .map(|value| value.as_str().into_owned())
        .unwrap_or_default()
}

/// The bytes of the child `tag`, or nothing.
pub(crate) fn child_bytes<'n>(node: &'n NodeRef<'_>, tag: &str) -> Option<&'n [u8]> {
    let child = node.get_optional_child(tag)?;
    child
        .content_bytes()
        .or_else(|| child.content_str().map(str::as_bytes))
}

/// The bytes of the child `tag`, if they are exactly `N`.
pub(crate) fn child_array<const N: usize>(node: &NodeRef<'_>, tag: &str) -> Option<[u8; N]> {
    child_bytes(node, tag)?.try_into().ok()
}

/// A big-endian number in the child `tag`: one to four bytes.
pub(crate) fn child_number(node: &NodeRef<'_>, tag: &str) -> Option<u32> {
    big_endian(child_bytes(node, tag)?)
}

pub(crate) fn big_endian(bytes: &[u8]) -> Option<u32> {
    (1..=4).contains(&bytes.len()).then(|| {
        bytes
            .iter()
            .fold(0, |number, byte| number << 8 | u32::from(*byte))
    })
}

/// An id as Signal keys have it on the wire: three bytes, big-endian.
pub(crate) fn three_bytes(id: u32) -> Vec<u8> {
    id.to_be_bytes()[1..].to_vec()
}

/// The first child.
pub(crate) fn first<'n, 'a>(node: &'n NodeRef<'a>) -> Option<&'n NodeRef<'a>> {
    node.children()?.first()
}

/// A leaf with bytes.
pub(crate) fn leaf(tag: &'static str, bytes: impl Into<Vec<u8>>) -> Node {
    NodeBuilder::new(tag).bytes(bytes).build()
}

/// `<iq type=result>` for `id`.
pub(crate) fn result(id: &str, children: Vec<Node>) -> Node {
    let iq = NodeBuilder::new("iq").attrs([("from", SERVER_JID), ("type", "result"), ("id", id)]);
    if children.is_empty() {
        iq.build()
    } else {
        iq.children(children).build()
    }
}

/// `<iq type=error>` for `id`.
pub(crate) fn error(id: &str, refusal: &Refusal) -> Node {
    let mut error = NodeBuilder::new("error")
        .attr("code", refusal.code.to_string())
        .attr("text", text_of(refusal.code));
    if let Some(seconds) = refusal.backoff {
        error = error.attr("backoff", seconds.to_string());
    }
    NodeBuilder::new("iq")
        .attrs([("from", SERVER_JID), ("type", "error"), ("id", id)])
        .children([error.build()])
        .build()
}

/// An iq the server starts.
pub(crate) fn request(id: &str, kind: &'static str, child: Node) -> Node {
    NodeBuilder::new("iq")
        .attr("from", SERVER_JID)
        .attr("type", kind)
        .attr("id", id)
        .attr("t", now().to_string())
        .children([child])
        .build()
}

/// A notification from the server itself.
pub(crate) fn notification(id: &str, kind: &'static str, child: Node) -> Node {
    NodeBuilder::new("notification")
        .attr("from", SERVER_JID)
        .attr("type", kind)
        .attr("id", id)
        .attr("t", now().to_string())
        .children([child])
        .build()
}

/// `<stream:error>`.
pub(crate) fn stream_error(code: u16, conflict: Option<&'static str>) -> Node {
    let error = NodeBuilder::new("stream:error").attr("code", code.to_string());
    match conflict {
        Some(kind) => error
            .children([NodeBuilder::new("conflict").attr("type", kind).build()])
            .build(),
        None => error.build(),
    }
}

/// `<failure>`.
pub(crate) fn failure(reason: u16, expire: Option<u64>) -> Node {
    let mut failure = NodeBuilder::new("failure")
        .attr("reason", reason.to_string())
        .attr("location", "sim");
    if reason == 402 {
        // 101: the kind of ban WhatsApp gives for "too many people blocked you".
        failure = failure
            .attr("code", "101")
            .attr("expire", expire.unwrap_or(3600).to_string());
    }
    failure.build()
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
