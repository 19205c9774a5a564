//! What was asked, and what came of it.

use std::io::{self, Read};

const HEAD_BYTES_MAX: usize = 64 * 1024;
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A request as it arrived.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The query, without the question mark; empty where there is none.
    pub query: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
    /// Names in lower case, in the order received.
    pub headers: Vec<(String, String)>,
    /// The body, over HTTP/1.1 alone.
    pub body: Vec<u8>,
}

impl Request {
    /// Returns the first header called `name` (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn target(mut self, target: &str) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        path.clone_into(&mut self.path);
        query.clone_into(&mut self.query);
        self
    }

    /// Reads one request; none where the peer has closed instead.
    pub(super) fn read(stream: &mut impl Read) -> io::Result<Option<Self>> {
        let Some(head) = read_head(stream)? else {
            return Ok(None);
        };
        let mut lines = head.split("\r\n");
        let mut first = lines.next().unwrap_or_default().split(' ');
        let mut next = || first.next().unwrap_or_default().to_owned();
        let (method, target, version) = (next(), next(), next());
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let request = Self { method, version, headers, ..Self::default() }.target(&target);
        let length = request.header("content-length").and_then(|length| length.parse().ok());
        let mut body = vec![0; length.unwrap_or(0).min(BODY_BYTES_MAX)];
        stream.read_exact(&mut body)?;
        Ok(Some(Self { body, ..request }))
    }
}

/// A request and its answer.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// The place in the order of arrival, over the life of the registry.
    pub number: usize,
    /// What was asked.
    pub request: Request,
    /// The status of the answer; 0 while there is none.
    pub status: u16,
    /// How many bytes of body were handed to the socket.
    pub sent_bytes: u64,
}

fn read_head(stream: &mut impl Read) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 || head.len() >= HEAD_BYTES_MAX {
            return Ok(None);
        }
        head.push(byte[0]);
        // A client that tries TLS first would wait long for an answer to its greeting.
        if !head[0].is_ascii_uppercase() {
            return Ok(None);
        }
    }
    head.truncate(head.len() - 4);
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}
