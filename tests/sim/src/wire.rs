//! Owns one WebSocket as a stream of frames: the edge header, the prologue, lengths and limits.

use std::fmt::Display;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use wacore_binary::consts::WA_CONN_HEADER;
use wacore_noise::framing::{FrameDecoder, encode_frame};

/// Nothing a companion says comes near this: 812 pre-keys are 40 KiB.
const LARGEST: usize = 4 << 20;

/// Why a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The other side closed it.
    Peer,
    /// Trouble was ordered: cut without a word.
    Cut,
    /// The server has said its last word, and lingers until it was read.
    Said(String),
    /// The client did what a right client does not do.
    Bad(String),
}

impl End {
    pub(crate) fn bad(why: impl Display) -> Self {
        Self::Bad(why.to_string())
    }
}

impl Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Peer => f.write_str("closed by the client"),
            Self::Cut => f.write_str("cut"),
            Self::Said(what) => f.write_str(what),
            Self::Bad(why) => write!(f, "refused: {why}"),
        }
    }
}

pub(crate) struct Wire {
    socket: WebSocketStream<TokioIo<Upgraded>>,
    decoder: FrameDecoder,
    /// What came before the first frame, until the prologue was recognised.
    intro: Option<BytesMut>,
}

impl Wire {
    pub(crate) async fn new(upgraded: Upgraded) -> Self {
        let config = WebSocketConfig::default()
            .max_message_size(Some(LARGEST))
            .max_frame_size(Some(LARGEST));
        Self {
            socket: WebSocketStream::from_raw_socket(
                TokioIo::new(upgraded),
                Role::Server,
                Some(config),
            )
            .await,
            decoder: FrameDecoder::new(),
            intro: Some(BytesMut::new()),
        }
    }

    /// The next frame. Dropping the future loses nothing.
    pub(crate) async fn frame(&mut self) -> Result<BytesMut, End> {
        loop {
            if self.intro.is_none()
                && let Some(frame) = self.decoder.decode_frame()
            {
                return Ok(frame);
            }
            if self.decoder.buffered_len() > LARGEST {
                return Err(End::bad("a frame larger than 4 MiB"));
            }
            match self.socket.next().await {
                Some(Ok(Message::Binary(data))) => self.feed(&data)?,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Text(_) | Message::Frame(_))) => {
                    return Err(End::bad("a text message on a binary protocol"));
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(End::Peer),
            }
        }
    }

    pub(crate) async fn send(&mut self, payload: impl AsRef<[u8]>) -> Result<(), End> {
        let frame = encode_frame(payload.as_ref(), None).map_err(End::bad)?;
        self.socket
            .send(Message::Binary(Bytes::from(frame)))
            .await
            .map_err(|_| End::Peer)
    }

    /// Says goodbye properly.
    pub(crate) async fn close(&mut self) {
        let _ = self.socket.close(None).await;
    }

    fn feed(&mut self, data: &[u8]) -> Result<(), End> {
        let Some(intro) = &mut self.intro else {
            self.decoder.feed(data);
            return Ok(());
        };
        intro.extend_from_slice(data);
        if let Some(skip) = prologue_end(intro)? {
            self.decoder.feed(&intro[skip..]);
            self.intro = None;
        }
        Ok(())
    }
}

/// Where the first frame starts: after the optional edge header and the prologue. `None`: more bytes are needed.
fn prologue_end(intro: &[u8]) -> Result<Option<usize>, End> {
    let mut at = 0;
    if intro.starts_with(b"ED") {
        let Some(head) = intro.get(..7) else {
            return Ok(None);
        };
        if head[2..4] != [0, 1] {
            return Err(End::bad("an unknown edge header"));
        }
        at = 7 + usize::from(head[4]) * 65536 + usize::from(head[5]) * 256 + usize::from(head[6]);
        if at > LARGEST {
            return Err(End::bad("an edge header larger than 4 MiB"));
        }
    }
    match intro.get(at..at + WA_CONN_HEADER.len()) {
        None => Ok(None),
        Some(header) if header == WA_CONN_HEADER => Ok(Some(at + WA_CONN_HEADER.len())),
        Some(other) => Err(End::bad(format!("prologue {other:02x?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edge_header_is_skipped_and_a_foreign_prologue_refused() {
        assert_eq!(prologue_end(b"WA\x06\x03rest").unwrap(), Some(4));
        assert_eq!(
            prologue_end(b"ED\x00\x01\x00\x00\x02xxWA\x06\x03").unwrap(),
            Some(13)
        );
        assert_eq!(prologue_end(b"ED\x00\x01\x00\x00\x02x").unwrap(), None);
        assert_eq!(prologue_end(b"WA\x06").unwrap(), None);
        assert!(prologue_end(b"WA\x05\x02").is_err());
        assert!(prologue_end(b"ED\x00\x02\x00\x00\x00WA\x06\x03").is_err());
    }
}
