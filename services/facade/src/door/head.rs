//! Looks at the bytes of requests before they are parsed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::activity::Activity;

/// What a client that knows that it will be understood begins HTTP/2 with.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a peer has to read a last answer before the connection is gone: bytes that nobody reads would take the answer with them.
const LINGER: Duration = Duration::from_millis(500);

/// How much of what it still sends is read meanwhile.
const LINGER_BYTES_MAX: usize = 1 << 20;

/// A connection whose heads are looked at.
///
/// A head that gives its body two lengths, or a length and chunks, is where two readers of one connection part ways, and one request
/// becomes two ("request smuggling"). The parser takes the one it prefers; here such a connection is told apart.
pub(super) struct Heads<S> {
    stream: S,
    /// What was read to know the protocol.
    ahead: BytesMut,
    /// None for HTTP/2, where frames have one length.
    scan: Option<Scan>,
    activity: Arc<Activity>,
    linger: Option<Linger>,
}

struct Linger {
    over: Pin<Box<Sleep>>,
    left: usize,
}

impl<S: AsyncRead + Unpin> Heads<S> {
    /// A connection over `stream`, and whether it speaks HTTP/2.
    ///
    /// # Errors
    /// Those of reading from it.
    pub(super) async fn read(mut stream: S, activity: Arc<Activity>) -> io::Result<(Self, bool)> {
        let mut ahead = BytesMut::with_capacity(1_024);
        let is_http2 = loop {
            let known = ahead.len().min(HTTP2_PREFACE.len());
            if ahead[..known] != HTTP2_PREFACE[..known] {
                break false;
            }
            if known == HTTP2_PREFACE.len() {
                break true;
            }
            if stream.read_buf(&mut ahead).await? == 0 {
                break false;
            }
        };
        let scan = (!is_http2).then(Scan::default);
        if is_http2 {
            activity.rest();
        }
        Ok((Self { stream, ahead, scan, activity, linger: None }, is_http2))
    }
}

impl<S> Heads<S> {
    fn look(&mut self, bytes: &[u8]) {
        let Some(scan) = &mut self.scan else { return };
        if !bytes.is_empty() && self.activity.reads_head() && scan.finds_ambiguity(bytes) {
            self.activity.mistrust();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heads<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if self.ahead.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        } else {
            let count = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead[..count]);
            self.ahead.advance(count);
        }
        self.look(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Heads<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, linger, .. } = &mut *self;
        if linger.is_none() {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
        }
        let linger =
            linger.get_or_insert_with(|| Linger { over: Box::pin(sleep(LINGER)), left: LINGER_BYTES_MAX });
        while linger.left > 0 {
            let mut discarded = [0; 8_192];
            let mut buffer = ReadBuf::new(&mut discarded);
            let read = Pin::new(&mut *stream).poll_read(cx, &mut buffer);
            let count = buffer.filled().len();
            match read {
                Poll::Ready(Ok(())) if count > 0 => linger.left = linger.left.saturating_sub(count),
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
        }
        linger.over.as_mut().poll(cx).map(Ok)
    }
}

/// The longest name that is looked for, with its colon.
const NAME_BYTES_MAX: usize = b"transfer-encoding:".len();

/// What is known of the head that is being read.
#[derive(Default)]
struct Scan {
    /// How the present line begins, and how long it is, without its end.
    line: [u8; NAME_BYTES_MAX],
    line_bytes: usize,
    lines: usize,
    lengths: usize,
    codings: usize,
    /// Whether a body follows: how far it goes is not looked at.
    is_over: bool,
}

impl Scan {
    /// Whether one of the heads, of which `bytes` come next, has more than one way to be read.
    fn finds_ambiguity(&mut self, bytes: &[u8]) -> bool {
        if self.is_over {
            *self = Self::default();
        }
        for &byte in bytes {
            match byte {
                b'\n' if self.ends_head() => {
                    self.is_over = self.lengths + self.codings > 0;
                    if self.is_over {
                        return false;
                    }
                    // Another request may follow at once.
                    *self = Self::default();
                }
                b'\n' => {
                    self.end_line();
                    if self.lengths > 1 || (self.lengths > 0 && self.codings > 0) {
                        return true;
                    }
                }
                b'\r' => {}
                _ => {
                    if let Some(place) = self.line.get_mut(self.line_bytes) {
                        *place = byte;
                    }
                    self.line_bytes += 1;
                }
            }
        }
        false
    }

    /// Whether the line that ends here is the empty one after a head; those before it mean nothing.
    fn ends_head(&self) -> bool {
        self.line_bytes == 0 && self.lines > 0
    }

    fn end_line(&mut self) {
        let line = &self.line[..self.line_bytes.min(NAME_BYTES_MAX)];
        let is_named = |name: &[u8]| line.get(..name.len()).is_some_and(|it| it.eq_ignore_ascii_case(name));
        self.lengths += usize::from(is_named(b"content-length:"));
        self.codings += usize::from(is_named(b"transfer-encoding:"));
        self.lines += usize::from(self.line_bytes > 0);
        self.line_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(head: &str, expected: bool) {
        let bytes = head.replace('\n', "\r\n").into_bytes();
        // However the bytes are cut.
        for size in [1, 2, 7, bytes.len()] {
            let mut scan = Scan::default();
            let found = bytes.chunks(size).any(|bytes| !scan.is_over && scan.finds_ambiguity(bytes));
            assert_eq!(found, expected, "{head:?} in pieces of {size}");
        }
    }

    #[test]
    fn finds_heads_that_can_be_read_in_two_ways() {
        check("PUT / HTTP/1.1\nContent-Length: 5\nHost: h\ncontent-length: 5\n\nabcde", true);
        check("PUT / HTTP/1.1\ntransfer-ENCODING: chunked\nContent-Length: 5\n\n", true);
        check("PUT / HTTP/1.1\nContent-Length:5\nTransfer-Encoding:chunked\n\n", true);
        check("\nGET / HTTP/1.1\nHost: h\n\nPUT / HTTP/1.1\nContent-Length: 1\nContent-Length: 1\n\nb", true);
    }

    #[test]
    fn trusts_heads_that_can_be_read_in_one() {
        check("GET / HTTP/1.1\nHost: h\n\nPUT / HTTP/1.1\nContent-Length: 1\n\nb", false);
        check("PUT / HTTP/1.1\nContent-Length: 40\n\nContent-Length: 1\nContent-Length: 2\n", false);
        check("PUT / HTTP/1.1\nX-Content-Length: 1\nContent-Length: 1\nContent-Length-X: 1\n\n", false);
        check("PUT / HTTP/1.1\nTransfer-Encoding: chunked\nTE: trailers\n\n5\nabcde\n0\n\n", false);
    }
}
