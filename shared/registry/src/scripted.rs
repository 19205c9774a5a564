//! A registry that does as it is told, for the tests.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder_oci::Reference;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::{Client, Config};

/// One request as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) body: Vec<u8>,
    /// How many came before it.
    pub(crate) nth: usize,
    headers: Vec<(String, String)>,
}

impl Heard {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut named = self.headers.iter().filter(|(key, _)| key == name);
        named.next().map(|(_, value)| value.as_str())
    }
}

/// What follows the bytes of an answer.
#[derive(Clone, Copy)]
pub(crate) enum Then {
    Listen,
    Close,
    Stall,
    Drip,
}

/// What to answer.
pub(crate) struct Answer {
    bytes: Vec<u8>,
    then: Then,
}

/// An answer with a `Content-Length`.
pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Answer {
    let length = body.as_ref().len().to_string();
    let mut all = vec![("content-length", length.as_str())];
    all.extend(headers);
    head(status, &all).with(body)
}

/// The head of an answer.
pub(crate) fn head(status: u16, headers: &[(&str, &str)]) -> Answer {
    use std::fmt::Write as _;
    let mut text = format!("HTTP/1.1 {status} Scripted\r\n");
    for (name, value) in headers {
        write!(text, "{name}: {value}\r\n").unwrap();
    }
    text.push_str("\r\n");
    Answer { bytes: text.into_bytes(), then: Then::Listen }
}

/// No answer: the connection is closed.
pub(crate) fn silence() -> Answer {
    Answer { bytes: Vec::new(), then: Then::Close }
}

impl Answer {
    pub(crate) fn with(mut self, body: impl AsRef<[u8]>) -> Self {
        self.bytes.extend_from_slice(body.as_ref());
        self
    }

    pub(crate) fn then(mut self, then: Then) -> Self {
        self.then = then;
        self
    }
}

/// The registry; it ends with the runtime of its test.
pub(crate) struct Scripted {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Scripted {
    pub(crate) async fn start(script: impl Fn(&Heard) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (script, log) = (Arc::new(script), Arc::clone(&heard));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, log) = (Arc::clone(&script), Arc::clone(&log));
                tokio::spawn(async move { serve(stream, &*script, &log).await });
            }
        });
        Self { address, heard }
    }

    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// A reference to the repository `a/b` of this registry; `suffix` is its tag or digest.
    pub(crate) fn reference(&self, suffix: &str) -> Reference {
        format!("{}/a/b{suffix}", self.address).parse().unwrap()
    }

    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// The methods and targets heard, in their order.
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |heard: &Heard| format!("{} {}", heard.method, heard.target);
        self.heard().iter().map(line).collect()
    }
}

async fn serve(stream: TcpStream, script: &(impl Fn(&Heard) -> Answer + ?Sized), log: &Mutex<Vec<Heard>>) {
    let mut stream = BufReader::new(stream);
    while let Some(mut heard) = read(&mut stream).await {
        {
            let mut log = log.lock().unwrap();
            heard.nth = log.len();
            log.push(heard.clone());
        }
        let answer = script(&heard);
        if stream.write_all(&answer.bytes).await.is_err() {
            return;
        }
        match answer.then {
            Then::Listen => {}
            Then::Close => return,
            Then::Stall => std::future::pending().await,
            Then::Drip => drip(&mut stream).await,
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Heard> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let (request, headers) = lines.split_first()?;
    let mut words = request.split(' ').map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let headers: Vec<_> = headers
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = vec![0; length.map_or(0, |(_, length)| length.parse().unwrap())];
    stream.read_exact(&mut body).await.ok()?;
    Some(Heard { method, target, body, nth: 0, headers })
}

/// A byte now and then, until nobody listens.
async fn drip(stream: &mut BufReader<TcpStream>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    while stream.write_all(b"x").await.is_ok() {
        ticks.tick().await;
    }
}

/// A configuration that hardly waits, and knows no credentials.
pub(crate) fn config() -> Config {
    Config {
        auth_file: Some("/nonexistent/config.json".into()),
        retry_wait_ms_min: 1,
        retry_wait_ms_max: 4,
        read_timeout_ms: 5_000,
        retries_max: 3,
        ..Config::default()
    }
}

/// A client with [`config`].
pub(crate) fn client() -> Client {
    Client::new(config()).unwrap()
}
