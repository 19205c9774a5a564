//! The one door out: every request of this crate leaves here, and every URL that a server can influence (a redirect, a token
//! realm, an upload location) is judged here first.

mod address;
mod passage;

use std::collections::BTreeSet;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use reqwest::redirect::Policy;
use tokio::sync::OnceCell;

pub(crate) use passage::Passage;

use self::address::{Class, OffLimits, Screen};
use crate::auth::Authorization;
use crate::config::{Config, invalid};
use crate::error::{Refusal, RegistryError};
use crate::traffic::{Kind, Traffic};

/// A request without its place.
pub(crate) struct Order {
    pub(crate) kind: Kind,
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) authorization: Option<Authorization>,
    pub(crate) body: Option<reqwest::Body>,
}

/// The door.
pub(crate) struct Egress {
    config: Arc<Config>,
    traffic: Arc<Traffic>,
    exempt: Arc<BTreeSet<String>>,
    /// One connection pool per floor, so that no connection made under one rule serves another.
    pools: [OnceCell<reqwest::Client>; 4],
}

impl Egress {
    /// A door that is not built before it is used.
    pub(crate) fn new(config: Arc<Config>, traffic: Arc<Traffic>) -> Self {
        let exempt = config.private_hosts_allowed.iter().cloned().collect();
        Self { config, traffic, exempt: Arc::new(exempt), pools: std::array::from_fn(|_| OnceCell::new()) }
    }

    /// Hosts that may be closer than the server that names them.
    pub(crate) fn exempt(&self) -> &Arc<BTreeSet<String>> {
        &self.exempt
    }

    /// Sends one request and waits for the head of its answer; follows nothing, retries nothing, has no deadline.
    pub(crate) async fn send(&self, passage: &Passage, order: Order) -> Result<Reply, RegistryError> {
        let pool = self.pool(passage.floor).await?;
        self.traffic.request(order.kind);
        let mut request = pool
            .request(order.method, passage.url.clone())
            .headers(order.headers)
            .header(ACCEPT_ENCODING, "identity");
        if let Some(authorization) = &order.authorization {
            request = authorization.sign(request);
        }
        if let Some(body) = order.body {
            request = request.body(body);
        }
        let response = request.send().await.map_err(|error| {
            if is_off_limits(&error) {
                passage.refused(Refusal::Address)
            } else {
                unreachable(passage, error)
            }
        })?;
        Ok(Reply { response, passage: passage.clone(), traffic: Arc::clone(&self.traffic) })
    }

    /// [`Egress::send`], with the read timeout as its deadline.
    pub(crate) async fn send_in_time(&self, passage: &Passage, order: Order) -> Result<Reply, RegistryError> {
        let after = self.config.read_timeout();
        match tokio::time::timeout(after, self.send(passage, order)).await {
            Ok(sent) => sent,
            Err(_) => Err(RegistryError::TimedOut { host: passage.authority(), after }),
        }
    }

    async fn pool(&self, floor: Option<Class>) -> Result<&reqwest::Client, RegistryError> {
        let index = floor.map_or(0, |class| 1 + class as usize);
        let build = || async {
            let config = Arc::clone(&self.config);
            let screen = Screen { floor, exempt: Arc::clone(&self.exempt) };
            // Reading the system's certificates takes milliseconds of disk and parsing.
            tokio::task::spawn_blocking(move || build(&config, screen))
                .await
                .map_err(|_| invalid("the TLS set-up panicked"))?
        };
        self.pools[index].get_or_try_init(build).await
    }
}

fn build(config: &Config, screen: Screen) -> Result<reqwest::Client, RegistryError> {
    let mut builder = reqwest::Client::builder()
        .dns_resolver(screen)
        .redirect(Policy::none())
        .referer(false)
        // Behind a proxy no address could be judged.
        .no_proxy()
        .user_agent(&config.user_agent)
        .connect_timeout(Duration::from_millis(config.connect_timeout_ms))
        .pool_max_idle_per_host(config.connections_per_host_max)
        .http2_initial_stream_window_size(4 << 20)
        .http2_initial_connection_window_size(16 << 20)
        .http2_max_frame_size(256 << 10);
    if let Some(path) = &config.ca_file {
        let unusable = |why: &str| invalid(format!("ca_file {}: {why}", path.display()));
        let pem = std::fs::read(path).map_err(|error| unusable(&error.to_string()))?;
        let found = reqwest::Certificate::from_pem_bundle(&pem)
            .map_err(|_| unusable("holds a certificate that cannot be read"))?;
        if found.is_empty() {
            return Err(unusable("holds no certificate"));
        }
        builder = builder.tls_certs_merge(found);
    }
    builder.build().map_err(|error| invalid(format!("TLS set-up failed: {error}")))
}

fn is_off_limits(error: &reqwest::Error) -> bool {
    std::iter::successors(error.source(), |&cause| cause.source())
        .any(<dyn std::error::Error>::is::<OffLimits>)
}

fn unreachable(passage: &Passage, error: reqwest::Error) -> RegistryError {
    RegistryError::Unreachable { host: passage.authority(), source: error.without_url() }
}

/// The head of an answer, and its body as it comes in.
pub(crate) struct Reply {
    response: reqwest::Response,
    passage: Passage,
    traffic: Arc<Traffic>,
}

impl Reply {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The `host[:port]` that answered.
    pub(crate) fn authority(&self) -> String {
        self.passage.authority()
    }

    pub(crate) fn passage(&self) -> &Passage {
        &self.passage
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    pub(crate) fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers().get(name).map(HeaderValue::to_str)?.ok().map(str::trim)
    }

    /// The declared length of the body in bytes, also of one that a HEAD request leaves out.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH)?.parse().ok()
    }

    /// How close the server that answered is; one whose address is unknown or odd gets no leave to send us closer.
    fn class(&self) -> Class {
        let address = self.response.remote_addr();
        address.and_then(|address| Class::of(address.ip())).unwrap_or(Class::Public)
    }

    /// Refuses a body that is not sent as it is.
    pub(crate) fn check_encoding(&self) -> Result<(), RegistryError> {
        match self.headers().get(CONTENT_ENCODING) {
            Some(encoding) if encoding != "identity" => Err(RegistryError::Encoded {
                host: self.authority(),
                encoding: crate::answer::printable(&String::from_utf8_lossy(encoding.as_bytes())),
            }),
            _ => Ok(()),
        }
    }

    /// The next frame of the body, or `None` at its end.
    pub(crate) async fn chunk(&mut self, after: Duration) -> Result<Option<Bytes>, RegistryError> {
        let next = tokio::time::timeout(after, self.response.chunk()).await;
        let next = next.map_err(|_| RegistryError::TimedOut { host: self.passage.authority(), after })?;
        let frame = next.map_err(|error| unreachable(&self.passage, error))?;
        self.traffic.received(frame.as_ref().map_or(0, Bytes::len));
        Ok(frame)
    }

    /// Reads what little body there is, so that the connection can serve again.
    pub(crate) async fn finish(self, config: &Config) {
        let (limit, within) = (config.token_bytes_max, config.read_timeout());
        let _unread = self.body("an answer", limit, within).await;
    }

    /// The whole body, if it has at most `limit_bytes` and comes within `within`.
    pub(crate) async fn body(
        mut self,
        what: &'static str,
        limit_bytes: usize,
        within: Duration,
    ) -> Result<Bytes, RegistryError> {
        let host = self.authority();
        let too_large = || RegistryError::TooLarge { host: host.clone(), what, limit_bytes };
        if self.content_length().is_some_and(|length| length > limit_bytes as u64) {
            return Err(too_large());
        }
        let gather = async {
            let mut body = BytesMut::new();
            while let Some(frame) = self.chunk(within).await? {
                if body.len() + frame.len() > limit_bytes {
                    return Err(too_large());
                }
                body.extend_from_slice(&frame);
            }
            Ok(body.freeze())
        };
        match tokio::time::timeout(within, gather).await {
            Ok(gathered) => gathered,
            Err(_) => Err(RegistryError::TimedOut { host: host.clone(), after: within }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{Scripted, answer, config};

    #[tokio::test]
    async fn names_are_screened_where_the_connection_is_made() {
        let server = Scripted::start(|_| answer(200, &[], "")).await;
        let port = server.host().rsplit_once(':').unwrap().1.to_owned();
        let send = async |allowed: &[&str]| {
            let config = Config {
                private_hosts_allowed: allowed.iter().map(|&host| host.to_owned()).collect(),
                ..config()
            };
            let door = Egress::new(Arc::new(config), Arc::default());
            let to = format!("http://localhost:{port}/");
            let passage = Passage::screened(&to, Class::Public, door.exempt());
            let order = Order {
                kind: Kind::BlobGet,
                method: Method::GET,
                headers: HeaderMap::new(),
                authorization: None,
                body: None,
            };
            let sent = door.send(&passage, order).await;
            sent.map(|reply| reply.status())
        };
        let refusal = match send(&[]).await {
            Err(RegistryError::RedirectRefused { refusal, .. }) => refusal,
            other => panic!("{other:?}"),
        };
        assert_eq!(refusal, Refusal::Address);
        assert!(server.heard().is_empty());
        assert_eq!(send(&["localhost"]).await.unwrap(), 200);
    }
}
