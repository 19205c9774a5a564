//! HTTP/1.1 on a raw socket, for those answers that no HTTP library would send.

use std::fmt::Write as _;
use std::io::{self, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::answer::{Reply, answer};
use super::exchange::Request;
use super::tls::Authority;
use super::{Shared, locked};

const PIECE_BYTES: usize = 64 * 1024;
const ENDLESS_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Accepts connections until the registry stops.
pub(super) fn listen(listener: &TcpListener, shared: &Arc<Shared>, authority: Option<&Authority>) {
    let tls = authority.map(|authority| authority.server(&[b"http/1.1"]));
    for stream in listener.incoming() {
        if shared.is_stopping() {
            return;
        }
        let Ok(stream) = stream else { continue };
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let _ = stream.set_nodelay(true);
        if let Ok(second) = stream.try_clone() {
            locked(&shared.streams).push(second);
        }
        let (shared, tls) = (Arc::clone(shared), tls.clone());
        thread::spawn(move || {
            let _ = match tls {
                None => converse(&shared, stream),
                Some(tls) => rustls::ServerConnection::new(tls)
                    .map_err(io::Error::other)
                    .and_then(|session| converse(&shared, rustls::StreamOwned::new(session, stream))),
            };
        });
    }
}

/// A socket with or without TLS.
trait Socket: Read + Write {
    /// Returns whether the peer has gone.
    fn is_closed(&self) -> bool;
    /// Closes it both ways.
    fn close(&self);
}

impl Socket for TcpStream {
    fn is_closed(&self) -> bool {
        let _ = self.set_nonblocking(true);
        let closed = match self.peek(&mut [0]) {
            Ok(bytes) => bytes == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        };
        let _ = self.set_nonblocking(false);
        closed
    }

    fn close(&self) {
        let _ = self.shutdown(std::net::Shutdown::Both);
    }
}

impl Socket for rustls::StreamOwned<rustls::ServerConnection, TcpStream> {
    fn is_closed(&self) -> bool {
        self.sock.is_closed()
    }

    fn close(&self) {
        self.sock.close();
    }
}

fn converse(shared: &Shared, stream: impl Socket) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let request = Request::read(&mut stream);
        let Ok(Some(request)) = request else {
            stream.get_ref().close();
            return request.map(|_| ());
        };
        let number = shared.arrived(&request);
        let reply = answer(shared, &request);
        shared.update(number, |exchange| exchange.status = reply.status);
        let asked_to_close = request.header("connection") == Some("close");
        let sent = Sending { shared, number, socket: stream.get_mut(), sent_bytes: 0 }.send(&request, &reply);
        shared.left();
        if !matches!(sent, Ok(true)) || asked_to_close {
            stream.get_ref().close();
            return sent.map(|_| ());
        }
    }
}

struct Sending<'a, S> {
    shared: &'a Shared,
    number: usize,
    socket: &'a mut S,
    sent_bytes: u64,
}

impl<S: Socket> Sending<'_, S> {
    /// Sends `reply`; returns whether the connection can be used again.
    fn send(mut self, request: &Request, reply: &Reply) -> io::Result<bool> {
        if reply.delivery.silent {
            return Ok(false);
        }
        self.socket.write_all(head(reply).as_bytes())?;
        self.socket.flush()?;
        if request.method == "HEAD" {
            return Ok(true);
        }
        let whole = self.send_body(reply)?;
        if !whole {
            return Ok(false);
        }
        if reply.delivery.endless {
            self.send_endless()?;
            return Ok(false);
        }
        if reply.announced_bytes.is_none() {
            self.socket.write_all(b"0\r\n\r\n")?;
        }
        self.socket.flush()?;
        Ok(true)
    }

    /// Sends the body; returns false where it was cut on purpose.
    fn send_body(&mut self, reply: &Reply) -> io::Result<bool> {
        let total = reply.body.len() as u64;
        let end = reply.delivery.cut_after_bytes.map_or(total, |cut| cut.min(total));
        let mut hold = reply.delivery.hold.clone();
        loop {
            if let Some((_, gate)) = hold.take_if(|(at, _)| *at <= self.sent_bytes || self.sent_bytes == end)
            {
                self.socket.flush()?;
                let (shared, socket) = (self.shared, &*self.socket);
                if !gate.pass(|| shared.is_stopping() || socket.is_closed()) {
                    return Ok(false);
                }
            }
            if self.sent_bytes == end {
                self.socket.flush()?;
                return Ok(end == total && reply.delivery.cut_after_bytes.is_none());
            }
            let stop = hold.as_ref().map_or(end, |(at, _)| end.min(*at));
            let piece = piece_bytes(reply.delivery.rate).min(stop - self.sent_bytes);
            let start = usize::try_from(self.sent_bytes).expect("the body is in memory");
            let length = usize::try_from(piece).expect("the body is in memory");
            self.send_piece(&reply.body[start..start + length], reply.announced_bytes.is_none())?;
            if let Some(rate) = reply.delivery.rate {
                self.socket.flush()?;
                thread::sleep(Duration::from_millis(1000 * piece / rate));
            }
            if self.shared.is_stopping() {
                return Ok(false);
            }
        }
    }

    fn send_endless(&mut self) -> io::Result<()> {
        let zeros = vec![0; PIECE_BYTES];
        while self.sent_bytes < ENDLESS_BYTES_MAX && !self.shared.is_stopping() {
            self.send_piece(&zeros, true)?;
        }
        Ok(())
    }

    fn send_piece(&mut self, piece: &[u8], chunked: bool) -> io::Result<()> {
        if chunked {
            write!(self.socket, "{:x}\r\n", piece.len())?;
        }
        self.socket.write_all(piece)?;
        if chunked {
            self.socket.write_all(b"\r\n")?;
        }
        self.sent_bytes += piece.len() as u64;
        let sent_bytes = self.sent_bytes;
        self.shared.update(self.number, |exchange| exchange.sent_bytes = sent_bytes);
        Ok(())
    }
}

/// Returns how much to send at once: twenty pieces a second where there is a rate, but whole bytes.
fn piece_bytes(rate: Option<u64>) -> u64 {
    rate.map_or(PIECE_BYTES as u64, |rate| (rate / 20).max(1))
}

fn head(reply: &Reply) -> String {
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", reply.status);
    for (name, value) in &reply.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let framing = match reply.announced_bytes {
        Some(bytes) => format!("Content-Length: {bytes}"),
        None => "Transfer-Encoding: chunked".to_owned(),
    };
    head + &framing + "\r\n\r\n"
}
