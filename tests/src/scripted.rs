//! A registry that serves images in memory and misbehaves to order.
//!
//! It speaks HTTP/1.1 from raw sockets, so that it can cut, stall, drip and lie, or HTTP/2 by hyper where only the
//! protocol matters. Whatever is asked of it is recorded.

mod answer;
mod auth;
mod behaviour;
mod exchange;
mod http2;
mod tls;
mod wire;

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::image::{Blob, Image};

pub(crate) use auth::base64;
pub use auth::{Auth, Bearer};
pub use behaviour::{Behaviour, Gate};
pub use exchange::{Exchange, Request};
pub use tls::Authority;

/// The path that stands for every path in a script.
pub const ANY_PATH: &str = "*";

/// What is spoken on the socket.
#[derive(Debug, Clone, Default)]
pub enum Wire {
    /// HTTP/1.1 without TLS.
    #[default]
    Plain,
    /// HTTP/1.1 with a certificate of this authority for `localhost` and `127.0.0.1`.
    Tls(Authority),
    /// As above, with HTTP/2 offered by ALPN. Of the behaviours only those hold that need no raw socket.
    Http2(Authority),
}

/// A registry on loopback, stopped when dropped.
#[derive(Debug)]
pub struct ScriptedRegistry {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl ScriptedRegistry {
    /// Starts an empty registry that speaks plain HTTP and asks for no credentials.
    pub fn start() -> Self {
        Self::start_with(Wire::Plain)
    }

    /// Starts an empty registry on `wire`.
    pub fn start_with(wire: Wire) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let scheme = if matches!(wire, Wire::Plain) { "http" } else { "https" };
        let shared = Arc::new(Shared::new(format!("{scheme}://{address}")));
        let serving = Arc::clone(&shared);
        thread::spawn(move || match wire {
            Wire::Plain => wire::listen(&listener, &serving, None),
            Wire::Tls(authority) => wire::listen(&listener, &serving, Some(&authority)),
            Wire::Http2(authority) => http2::listen(listener, &serving, &authority),
        });
        Self { address, shared }
    }

    /// Starts a registry that holds `image` as `repository:tag`.
    pub fn serving(repository: &str, tag: &str, image: &Image) -> Self {
        let registry = Self::start();
        registry.put(repository, tag, image);
        registry
    }

    /// Returns `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Returns the scheme and the host: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        self.shared.url.clone()
    }

    /// Returns `name` (such as `debian:12`) as a reference into this registry.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.host())
    }

    /// Holds `image` in `repository`, under `tag` and under its digests. A tag that was there moves.
    pub fn put(&self, repository: &str, tag: &str, image: &Image) {
        let mut content = self.shared.content();
        for blob in &image.blobs {
            content.blobs.insert((repository.to_owned(), blob.digest.clone()), blob.clone());
        }
        for manifest in &image.manifests {
            let key = (repository.to_owned(), manifest.digest.clone());
            content.manifests.insert(key, manifest.clone());
        }
        content.manifests.insert((repository.to_owned(), tag.to_owned()), image.root.clone());
    }

    /// Forgets a manifest, by tag or digest, or a blob.
    pub fn remove(&self, repository: &str, name: &str) {
        let key = (repository.to_owned(), name.to_owned());
        let mut content = self.shared.content();
        content.manifests.remove(&key);
        content.blobs.remove(&key);
    }

    /// Asks for credentials from now on.
    pub fn require(&self, auth: Auth) {
        *locked(&self.shared.auth) = auth;
    }

    /// Makes every token that was given out worthless.
    pub fn revoke_tokens(&self) {
        locked(&self.shared.tokens).clear();
    }

    /// Has the next GET of `path` answered with all of `behaviours` together; further calls queue up behind it.
    pub fn script(&self, path: &str, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.script_method("GET", path, behaviours);
    }

    /// Does as [`ScriptedRegistry::script`] for any method.
    pub fn script_method(&self, method: &str, path: &str, behaviours: impl IntoIterator<Item = Behaviour>) {
        let key = (method.to_owned(), path.to_owned());
        let once = behaviours.into_iter().collect();
        locked(&self.shared.scripts).once.entry(key).or_default().push_back(once);
    }

    /// Has every GET of `path` answered with all of `behaviours`, once nothing is queued for it.
    pub fn always(&self, path: &str, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.always_method("GET", path, behaviours);
    }

    /// Does as [`ScriptedRegistry::always`] for any method.
    pub fn always_method(&self, method: &str, path: &str, behaviours: impl IntoIterator<Item = Behaviour>) {
        let key = (method.to_owned(), path.to_owned());
        locked(&self.shared.scripts).always.insert(key, behaviours.into_iter().collect());
    }

    /// Behaves well from now on.
    pub fn clear_scripts(&self) {
        *locked(&self.shared.scripts) = Scripts::default();
    }

    /// Returns every request so far, in the order of arrival.
    pub fn requests(&self) -> Vec<Exchange> {
        self.shared.log().clone()
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        self.shared.log().clear();
    }

    /// Returns how many requests had `method` and a path that contains `part`.
    pub fn count(&self, method: &str, part: &str) -> usize {
        let log = self.shared.log();
        log.iter().filter(|one| one.request.method == method && one.request.path.contains(part)).count()
    }

    /// Returns how many body bytes were sent for paths that contain `part`.
    pub fn bytes_sent(&self, part: &str) -> u64 {
        let log = self.shared.log();
        log.iter().filter(|one| one.request.path.contains(part)).map(|one| one.sent_bytes).sum()
    }

    /// Returns how many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Returns the largest number of requests that were under way at one time.
    pub fn in_flight_max(&self) -> usize {
        self.shared.in_flight_max.load(Ordering::SeqCst)
    }
}

impl Drop for ScriptedRegistry {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        for stream in locked(&self.shared.streams).drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        // Wakes the listener, which then sees that it is to stop.
        let _ = TcpStream::connect(self.address);
    }
}

/// Returns the path of a blob.
pub fn blob_path(repository: &str, digest: &str) -> String {
    format!("/v2/{repository}/blobs/{digest}")
}

/// Returns the path of a manifest, by tag or digest.
pub fn manifest_path(repository: &str, name: &str) -> String {
    format!("/v2/{repository}/manifests/{name}")
}

#[derive(Debug, Default)]
struct Content {
    blobs: HashMap<(String, String), Blob>,
    manifests: HashMap<(String, String), Blob>,
}

type Script = Vec<Behaviour>;

#[derive(Debug, Default)]
struct Scripts {
    once: HashMap<(String, String), VecDeque<Script>>,
    always: HashMap<(String, String), Script>,
}

#[derive(Debug)]
struct Shared {
    url: String,
    content: Mutex<Content>,
    scripts: Mutex<Scripts>,
    log: Mutex<Vec<Exchange>>,
    auth: Mutex<Auth>,
    tokens: Mutex<HashMap<String, String>>,
    streams: Mutex<Vec<TcpStream>>,
    numbers: AtomicUsize,
    connections: AtomicUsize,
    in_flight: AtomicUsize,
    in_flight_max: AtomicUsize,
    stopping: AtomicBool,
}

impl Shared {
    fn new(url: String) -> Self {
        Self {
            url,
            content: Mutex::default(),
            scripts: Mutex::default(),
            log: Mutex::default(),
            auth: Mutex::default(),
            tokens: Mutex::default(),
            streams: Mutex::default(),
            numbers: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            in_flight_max: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        locked(&self.content)
    }

    fn log(&self) -> MutexGuard<'_, Vec<Exchange>> {
        locked(&self.log)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Takes what is scripted for `request`: first what is queued, the exact path before any path.
    fn script_for(&self, request: &Request) -> Script {
        let mut scripts = locked(&self.scripts);
        let key = |path: &str| (request.method.clone(), path.to_owned());
        let keys = [key(&request.path), key(ANY_PATH)];
        for key in &keys {
            if let Some(script) = scripts.once.get_mut(key).and_then(VecDeque::pop_front) {
                return script;
            }
        }
        keys.iter().find_map(|key| scripts.always.get(key)).cloned().unwrap_or_default()
    }

    /// Notes that `request` has arrived; the number returned is how [`Shared::update`] knows it.
    fn arrived(&self, request: &Request) -> usize {
        let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.in_flight_max.fetch_max(now, Ordering::SeqCst);
        let number = self.numbers.fetch_add(1, Ordering::SeqCst);
        self.log().push(Exchange { number, request: request.clone(), status: 0, sent_bytes: 0 });
        number
    }

    fn update(&self, number: usize, change: impl FnOnce(&mut Exchange)) {
        if let Some(exchange) = self.log().iter_mut().find(|one| one.number == number) {
            change(exchange);
        }
    }

    fn left(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
