//! The bare loop of a pull: receive, hash, write. A lower bound for the benches, not a product.
//!
//! `floor HOST:PORT REPOSITORY TAG DIRECTORY` brings every blob of the image into DIRECTORY by two threads, over plain
//! HTTP, without authentication, retry, resume or fsync.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use serde_json::Value;
use sha2::{Digest, Sha256};

const THREADS: usize = 2;
const BUFFER_BYTES: usize = 1 << 20;
const HEAD_BYTES_MAX: usize = 16 * 1024;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, repository, tag, directory] = arguments.as_slice() else {
        return Err("usage: floor HOST:PORT REPOSITORY TAG DIRECTORY".into());
    };
    let blobs = Path::new(directory).join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let wanted = Mutex::new(blobs_of(&mut Connection::open(host)?, repository, tag)?);
    thread::scope(|scope| {
        let work = || bring(host, repository, &blobs, &wanted);
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })
}

/// Returns the digests of all blobs below `root`, through any index.
fn blobs_of(connection: &mut Connection, repository: &str, root: &str) -> Outcome<BTreeSet<String>> {
    let mut blobs = BTreeSet::new();
    let mut manifests = vec![root.to_owned()];
    while let Some(name) = manifests.pop() {
        let mut bytes = Vec::new();
        connection.get(&format!("/v2/{repository}/manifests/{name}"), |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        let document: Value = serde_json::from_slice(&bytes)?;
        let digest = |entry: &Value| entry["digest"].as_str().map(str::to_owned);
        let list = |key: &str| document[key].as_array().cloned().unwrap_or_default();
        manifests.extend(list("manifests").iter().filter_map(digest));
        blobs.extend(list("layers").iter().filter_map(digest));
        blobs.extend(digest(&document["config"]));
    }
    Ok(blobs)
}

fn bring(host: &str, repository: &str, folder: &Path, wanted: &Mutex<BTreeSet<String>>) -> Outcome<()> {
    let mut connection = Connection::open(host)?;
    loop {
        let next = wanted.lock().expect("no worker panics").pop_last();
        let Some(digest) = next else { return Ok(()) };
        let hex = digest.trim_start_matches("sha256:");
        let path = folder.join(hex);
        if path.exists() {
            continue;
        }
        let mut file = File::create(&path)?;
        let mut hash = Sha256::new();
        connection.get(&format!("/v2/{repository}/blobs/{digest}"), |piece| {
            hash.update(piece);
            Ok(file.write_all(piece)?)
        })?;
        let mut found = String::new();
        for byte in hash.finalize() {
            write!(found, "{byte:02x}")?;
        }
        if found != hex {
            return Err(format!("expected {hex}, received {found}").into());
        }
    }
}

struct Connection {
    host: String,
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(host: &str) -> Outcome<Self> {
        let stream = TcpStream::connect(host)?;
        stream.set_nodelay(true)?;
        Ok(Self { host: host.to_owned(), stream, buffer: vec![0; BUFFER_BYTES] })
    }

    /// Sends a GET and hands the body over piece by piece.
    fn get(&mut self, path: &str, mut take: impl FnMut(&[u8]) -> Outcome<()>) -> Outcome<()> {
        let accept = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
             application/vnd.docker.distribution.manifest.list.v2+json, \
             application/vnd.docker.distribution.manifest.v2+json";
        let host = &self.host;
        write!(self.stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\n\r\n")?;
        let (head_bytes, mut filled) = self.read_head()?;
        let head = std::str::from_utf8(&self.buffer[..head_bytes])?.to_ascii_lowercase();
        if !head.starts_with("http/1.1 200 ") {
            return Err(format!("{path}: {}", head.lines().next().unwrap_or_default()).into());
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let mut left: usize = length.ok_or("no length")?.trim().parse()?;
        let mut start = head_bytes;
        loop {
            let bytes = left.min(filled - start);
            take(&self.buffer[start..start + bytes])?;
            left -= bytes;
            if left == 0 {
                return Ok(());
            }
            // The buffer is filled before it is hashed: fewer, larger steps.
            let room = left.min(BUFFER_BYTES);
            self.stream.read_exact(&mut self.buffer[..room])?;
            (start, filled) = (0, room);
        }
    }

    /// Fills the buffer up to the end of a head at least; returns where the head ends and how much was read.
    fn read_head(&mut self) -> Outcome<(usize, usize)> {
        let mut filled = 0;
        loop {
            let bytes = self.stream.read(&mut self.buffer[filled..HEAD_BYTES_MAX])?;
            filled += bytes;
            let end = self.buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                return Ok((end + 4, filled));
            }
            if bytes == 0 {
                return Err("the answer ends in its head".into());
            }
        }
    }
}
