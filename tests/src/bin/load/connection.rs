//! A bare HTTP/1.1 client: kept alive, no TLS, no redirects, no chunks.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::Outcome;

const BUFFER_BYTES: usize = 256 * 1024;
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// A connection that asks one thing after the other.
pub(crate) struct Connection {
    host: String,
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects to `host` (`ADDRESS:PORT`).
    pub(crate) async fn open(host: &str) -> Outcome<Self> {
        let stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        Ok(Self { host: host.to_owned(), stream, buffer: vec![0; BUFFER_BYTES] })
    }

    /// Sends a GET and hands the body over piece by piece.
    pub(crate) async fn get(&mut self, path: &str, mut take: impl FnMut(&[u8])) -> Outcome<()> {
        let host = &self.host;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {ACCEPT}\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        let (head_bytes, filled) = self.read_head().await?;
        let head = std::str::from_utf8(&self.buffer[..head_bytes])?;
        let mut lines = head.lines();
        let status = lines.next().unwrap_or_default();
        if !status.starts_with("HTTP/1.1 200") {
            return Err(format!("{path}: {status}").into());
        }
        let mut fields = lines.filter_map(|line| line.split_once(':'));
        let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let (_, length) = length.ok_or_else(|| format!("{path}: an answer without a length"))?;
        let mut left: usize = length.trim().parse()?;
        let mut pieces = head_bytes..filled;
        loop {
            if pieces.len() > left {
                return Err(format!("{path}: more bytes than the answer has").into());
            }
            left -= pieces.len();
            take(&self.buffer[pieces]);
            if left == 0 {
                return Ok(());
            }
            pieces = 0..self.read(0).await?;
        }
    }

    /// Fills the buffer up to the end of a head at least; returns where the head ends and how much was read.
    async fn read_head(&mut self) -> Outcome<(usize, usize)> {
        let mut filled = 0;
        loop {
            filled += self.read(filled).await?;
            let end = self.buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                return Ok((end + 4, filled));
            }
        }
    }

    /// Reads into the buffer from `start`; returns how much, at least one byte.
    async fn read(&mut self, start: usize) -> Outcome<usize> {
        match self.stream.read(&mut self.buffer[start..]).await? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            bytes => Ok(bytes),
        }
    }
}
