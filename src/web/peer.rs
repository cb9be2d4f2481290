//! Owns one client's socket: a client that takes nothing of what it is sent is dropped, and a connection that we
//! end first stays half open for a moment, so that our last words arrive.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::conns::Slot;

/// How long, and for how much, a client that still sends is listened to after our last words. Closing with unread
/// bytes would reset the connection, and the reset overtakes the answer.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_AT_STOP: Duration = Duration::from_millis(100);
const LINGER_BYTES: usize = 256 * 1024;
/// There may be many at once.
const LINGER_ROOM: usize = 512;

/// A client's socket and its place in the table of connections.
#[derive(Debug)]
pub(super) struct Peer {
    /// Both are there until the drop takes them.
    stream: Option<TcpStream>,
    slot: Option<Slot>,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    answered: bool,
    gone: bool,
}

impl Peer {
    pub(super) fn new(stream: TcpStream, slot: Slot, stall: Duration) -> Self {
        Self {
            stream: Some(stream),
            slot: Some(slot),
            stall,
            stalled: None,
            answered: false,
            gone: false,
        }
    }

    /// The first byte that the client sends, which stays to be read; an error if it sends none.
    pub(super) async fn first_byte(&mut self) -> io::Result<u8> {
        let mut first = [0];
        let stream = self.stream.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        match stream.peek(&mut first).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(first[0]),
        }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        Ok(Pin::new(stream))
    }

    /// Gives the client `stall` to take anything.
    fn watch_stall<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            self.answered = true;
            if let Some(slot) = &self.slot {
                slot.entry().progressed();
            }
            return written;
        }
        let deadline = Instant::now() + self.stall;
        let timer = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        ready!(timer.as_mut().poll(cx));
        self.gone = true;
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(self.stream()?.poll_read(cx, buf));
        if read.is_err() || (buf.filled().len() == before && buf.remaining() > 0) {
            self.gone = true;
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.stream()?.poll_write(cx, buf);
        self.watch_stall(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.stream()?.poll_write_vectored(cx, bufs);
        self.watch_stall(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let (Some(mut stream), Some(slot)) = (self.stream.take(), self.slot.take()) else {
            return;
        };
        if !self.answered || self.gone || slot.entry().is_shed() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let linger = if slot.is_stopping() {
            LINGER_AT_STOP
        } else {
            LINGER
        };
        runtime.spawn(async move {
            let rest = async {
                stream.shutdown().await?;
                let (mut left, mut sink) = (LINGER_BYTES, [0; LINGER_ROOM]);
                while left > 0 {
                    match stream.read(&mut sink).await? {
                        0 => break,
                        read => left = left.saturating_sub(read),
                    }
                }
                io::Result::Ok(())
            };
            // It is over either way; there is nobody left to tell.
            tokio::select! {
                _ = tokio::time::timeout(linger, rest) => {}
                () = slot.entry().killed() => {}
            }
        });
    }
}
