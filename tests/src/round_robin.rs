//! A load balancer that knows nothing of what it balances.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

const HEAD_BYTES_MAX: usize = 64 << 10;
const IO_TIMEOUT: Duration = Duration::from_mins(2);

/// A proxy on loopback that gives each HTTP/1.1 request to the next of its servers in turn, whatever connection or client it is of.
#[derive(Debug)]
pub struct RoundRobin {
    host: String,
    served: Arc<[AtomicUsize]>,
    stopped: Arc<AtomicBool>,
}

impl RoundRobin {
    /// Starts a proxy before `servers` (`host:port`).
    pub fn start(servers: &[String]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port can be had");
        let host = listener.local_addr().expect("a listener has an address").to_string();
        let served: Arc<[AtomicUsize]> = servers.iter().map(|_| AtomicUsize::new(0)).collect();
        let stopped = Arc::new(AtomicBool::new(false));
        let proxy = Self { host, served: Arc::clone(&served), stopped: Arc::clone(&stopped) };
        let servers = servers.to_vec();
        thread::spawn(move || {
            for (turn, client) in listener.incoming().enumerate() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(client), place) = (client, turn % servers.len()) else { continue };
                served[place].fetch_add(1, Ordering::SeqCst);
                let server = servers[place].clone();
                // A broken connection is for the client to notice.
                thread::spawn(move || pass(client, &server));
            }
        });
        proxy
    }

    /// Returns `127.0.0.1:PORT`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns how many requests each server got.
    pub fn served(&self) -> Vec<usize> {
        self.served.iter().map(|count| count.load(Ordering::SeqCst)).collect()
    }
}

impl Drop for RoundRobin {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // The listener sleeps until somebody connects.
        let _ = TcpStream::connect(&self.host);
    }
}

/// Passes the one request that comes by `client` to `server`, and the answer back.
///
/// Both are told that the connection ends after it, so that the next request comes by another connection, and in turn.
fn pass(mut client: TcpStream, server: &str) -> io::Result<()> {
    client.set_read_timeout(Some(IO_TIMEOUT))?;
    let received = read_head(&mut client)?;
    let mut server = TcpStream::connect(server)?;
    server.set_read_timeout(Some(IO_TIMEOUT))?;
    server.write_all(&closing(&received))?;
    let (mut body, mut onward) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || io::copy(&mut body, &mut onward));
    let answered = io::copy(&mut server, &mut client);
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
    answered.map(drop)
}

/// Reads until the end of the head; there may be some body behind it.
fn read_head(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
    while !received.windows(4).any(|four| four == b"\r\n\r\n") {
        match client.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => received.extend_from_slice(&buffer[..count]),
        }
        if received.len() > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(received)
}

/// The request with `Connection: close` as its first header, and no other of that name.
fn closing(received: &[u8]) -> Vec<u8> {
    let end = received.windows(4).position(|four| four == b"\r\n\r\n").expect("the head is complete");
    let (head, rest) = received.split_at(end);
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let mut request = lines.next().unwrap_or_default().to_owned();
    request.push_str("\r\nConnection: close");
    for line in lines.filter(|line| !line.to_ascii_lowercase().starts_with("connection:")) {
        request.push_str("\r\n");
        request.push_str(line);
    }
    [request.as_bytes(), rest].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ScriptedRegistry;
    use crate::client;

    #[test]
    fn requests_go_to_the_servers_in_turn() {
        let registries = [ScriptedRegistry::start(), ScriptedRegistry::start()];
        let proxy = RoundRobin::start(&registries.each_ref().map(ScriptedRegistry::host));
        for _ in 0..4 {
            assert_eq!(client::get(proxy.host(), "/v2/").unwrap().status, 200);
        }
        assert_eq!(proxy.served(), [2, 2]);
        for registry in &registries {
            assert_eq!(registry.requests().len(), 2);
        }
    }

    #[test]
    fn requests_say_that_their_connection_ends() {
        let request = b"PUT / HTTP/1.1\r\nHost: a\r\nconnection: keep-alive\r\n\r\nbody";
        assert_eq!(closing(request), b"PUT / HTTP/1.1\r\nConnection: close\r\nHost: a\r\n\r\nbody");
    }
}
