//! The smallest HTTP/1.1 client that servers on loopback can be filled and watched with.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const IO_TIMEOUT: Duration = Duration::from_mins(1);

/// An answer, whole.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, in the order received.
    pub headers: Vec<(String, String)>,
    /// The body, decoded where it was chunked.
    pub body: Vec<u8>,
}

impl Response {
    /// Returns the first header called `name` (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Returns the body as text, with whatever is not UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends a GET for `target` to `authority` (`host:port`).
///
/// # Errors
/// Any failure to connect, or an answer that is not HTTP/1.1 or that ends early.
pub fn get(authority: &str, target: &str) -> io::Result<Response> {
    request("GET", authority, target, &[], &[])
}

/// Sends one request on a connection of its own.
///
/// # Errors
/// Any failure to connect, or an answer that is not HTTP/1.1 or that ends early.
pub fn request(
    method: &str,
    authority: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Response> {
    let mut sending = begin(method, authority, target, headers, body.len() as u64)?;
    // Who answers before all has come may close at once; the answer counts.
    let sent = sending.write(body);
    sending.answer().and_then(Arriving::finish).map_err(|error| sent.err().unwrap_or(error))
}

/// Sends the head of a request, of which `length` bytes of body are to follow.
///
/// # Errors
/// Any failure to connect.
pub fn begin(
    method: &str,
    authority: &str,
    target: &str,
    headers: &[(&str, &str)],
    length: u64,
) -> io::Result<Sending> {
    let mut stream = TcpStream::connect(authority)?;
    stream.set_read_timeout(Some(IO_TIMEOUT))?;
    stream.set_write_timeout(Some(IO_TIMEOUT))?;
    let mut head = format!(
        "{method} {target} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\nContent-Length: {length}\r\n"
    );
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    Ok(Sending { stream, is_head: method == "HEAD" })
}

/// Sends a GET and returns as soon as the head of the answer is there.
///
/// # Errors
/// Any failure to connect, or an answer that is not HTTP/1.1.
pub fn open(authority: &str, target: &str, headers: &[(&str, &str)]) -> io::Result<Arriving> {
    begin("GET", authority, target, headers, 0)?.answer()
}

/// A request on its way; dropped, it breaks off.
#[derive(Debug)]
pub struct Sending {
    stream: TcpStream,
    is_head: bool,
}

impl Sending {
    /// Sends a piece of the body.
    ///
    /// # Errors
    /// Any failure of the connection.
    pub fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.stream.write_all(piece)
    }

    /// Waits for the head of the answer.
    ///
    /// # Errors
    /// An answer that is not HTTP/1.1, or that does not come.
    pub fn answer(self) -> io::Result<Arriving> {
        let mut stream = BufReader::new(self.stream);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_until(b'\n', &mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let response = parse(&head).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Arriving { response, stream, is_head: self.is_head })
    }
}

/// An answer of which the body is still to come; dropped, the client has left.
#[derive(Debug)]
pub struct Arriving {
    response: Response,
    stream: BufReader<TcpStream>,
    is_head: bool,
}

impl Arriving {
    /// Returns the status and the headers, with what has been read of the body.
    pub fn so_far(&self) -> &Response {
        &self.response
    }

    /// Reads the next `bytes` of a body that is not chunked.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] where the answer ends before.
    pub fn read(&mut self, bytes: usize) -> io::Result<()> {
        let mut piece = vec![0; bytes];
        self.stream.read_exact(&mut piece)?;
        self.response.body.extend(piece);
        Ok(())
    }

    /// Reads the rest.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] where the answer ends before it is whole, or any failure of the connection.
    pub fn finish(mut self) -> io::Result<Response> {
        if self.is_head {
            return Ok(self.response);
        }
        if let Some(length) = self.response.header("content-length") {
            let length: usize = length.parse().map_err(|_| io::ErrorKind::InvalidData)?;
            let left = length.checked_sub(self.response.body.len()).ok_or(io::ErrorKind::InvalidData)?;
            self.read(left)?;
            return Ok(self.response);
        }
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest)?;
        if self.response.header("transfer-encoding") == Some("chunked") {
            rest = dechunk(&rest).ok_or(io::ErrorKind::UnexpectedEof)?;
        }
        self.response.body.extend(rest);
        Ok(self.response)
    }
}

fn parse(head: &[u8]) -> Option<Response> {
    let mut lines = std::str::from_utf8(head).ok()?.trim_end().split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some(Response { status, headers, body: Vec::new() })
}

fn dechunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        let data = end + 2;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(data..data + size)?);
        rest = rest.get(data + size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has `answer` answered to a request, and returns what was made of it.
    fn answered(answer: &'static [u8]) -> io::Result<Response> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]).unwrap();
            stream.write_all(answer).unwrap();
        });
        let response = get(&authority, "/");
        server.join().unwrap();
        response
    }

    #[test]
    fn decodes_a_chunked_body() {
        let answer =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        assert_eq!(answered(answer).unwrap().body, b"abcde");
    }

    #[test]
    fn refuses_a_body_shorter_than_announced() {
        for answer in [
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc".as_slice(),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Le",
        ] {
            assert_eq!(answered(answer).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
