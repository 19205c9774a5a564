//! The places where a registry's content can be had: its mirrors, then itself.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

use crate::auth::Challenge;
use crate::config::{Config, Scheme, invalid, parse_mirror};
use crate::error::{Refusal, RegistryError};
use crate::rest::{Host, Hosts};

const HUB: &str = "docker.io";
const HUB_ENDPOINT: &str = "registry-1.docker.io";
const HUB_REALM: &str = "auth.docker.io";

/// A registry as the user names it.
pub(crate) struct Upstream {
    /// Mirrors in their order, and last the registry itself.
    endpoints: Vec<Endpoint>,
    /// Bounds the blob transfers at a time.
    transfers: Arc<Semaphore>,
}

impl Upstream {
    /// The registry `host[:port]`.
    pub(crate) fn new(host: &str, config: &Config, hosts: &Hosts) -> Result<Self, RegistryError> {
        let settings = config.hosts.get(host).cloned().unwrap_or_default();
        let mut endpoints = Vec::new();
        for mirror in &settings.mirrors {
            endpoints.push(Endpoint::mirror(parse_mirror(mirror)?, host, hosts));
        }
        endpoints.push(Endpoint::origin(host, settings.scheme, hosts)?);
        let transfers = settings.connections_max.unwrap_or(config.connections_per_host_max);
        Ok(Self { endpoints, transfers: Arc::new(Semaphore::new(transfers)) })
    }

    pub(crate) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Leave to transfer a blob; waits until others are done.
    pub(crate) async fn transfer(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.transfers).acquire_owned().await;
        permit.expect("the semaphore of an upstream is never closed")
    }

    /// The registry itself.
    pub(crate) fn origin(&self) -> &Endpoint {
        self.endpoints.last().expect("an upstream has its origin as its last endpoint")
    }
}

/// One place that answers for a registry.
pub(crate) struct Endpoint {
    /// Scheme, host and port.
    base: Url,
    /// The host, by the name under which its credentials are filed.
    host: Arc<Host>,
    /// Put before each repository; empty, or ends with a slash.
    prefix: String,
    /// The registry that a mirror stands in for.
    stands_for: Option<String>,
    /// How it wanted to be answered last.
    challenge: Mutex<Option<Arc<Challenge>>>,
}

impl Endpoint {
    fn origin(host: &str, scheme: Option<Scheme>, hosts: &Hosts) -> Result<Self, RegistryError> {
        let address = if host == HUB { HUB_ENDPOINT } else { host };
        let parse = |scheme: &str| {
            Url::parse(&format!("{scheme}://{address}/"))
                .map_err(|_| invalid(format!("{host:?} is not a host")))
        };
        let mut base = parse("https")?;
        let plain = scheme.map_or_else(|| is_loopback(&base), |scheme| scheme == Scheme::Http);
        if plain {
            base = parse("http")?;
        }
        Ok(Self::new(base, hosts.named(host), String::new(), None))
    }

    fn mirror(mut url: Url, stands_for: &str, hosts: &Hosts) -> Self {
        let path = url.path().trim_matches('/');
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let host = url.host_str().unwrap_or_default();
        let host = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        url.set_path("/");
        url.set_query(None);
        url.set_fragment(None);
        Self::new(url, hosts.named(&host), prefix, Some(stands_for.to_owned()))
    }

    fn new(base: Url, host: Arc<Host>, prefix: String, stands_for: Option<String>) -> Self {
        Self { base, host, prefix, stands_for, challenge: Mutex::default() }
    }

    /// The `host[:port]` whose credentials count here.
    pub(crate) fn host(&self) -> &str {
        self.host.name()
    }

    /// Whether the host rests, and leave to ask it.
    pub(crate) fn rest(&self) -> &Arc<Host> {
        &self.host
    }

    pub(crate) fn is_mirror(&self) -> bool {
        self.stands_for.is_some()
    }

    /// The name that `repository` has here.
    pub(crate) fn repository(&self, repository: &str) -> String {
        format!("{}{repository}", self.prefix)
    }

    /// The URL of `path` within `repository`.
    pub(crate) fn url(&self, repository: &str, path: &str, query: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("/v2/{}{repository}/{path}", self.prefix));
        let namespace = self.stands_for.as_deref().map(|host| ("ns", host));
        if namespace.is_some() || !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query).extend_pairs(namespace);
        }
        url
    }

    /// The URL of the page that continues a list, as `link` at the URL `from` names it.
    ///
    /// # Errors
    /// [`Refusal`] when it leads away from here.
    pub(crate) fn next_page(&self, from: &Url, link: &str) -> Result<Url, Refusal> {
        let mut url = from.join(link).map_err(|_| Refusal::Malformed)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::UserInfo);
        }
        if url.origin() != self.base.origin() {
            return Err(Refusal::ForeignLink);
        }
        if let Some(host) = &self.stands_for
            && !url.query_pairs().any(|(key, _)| key == "ns")
        {
            url.query_pairs_mut().append_pair("ns", host);
        }
        Ok(url)
    }

    /// The hosts it may name as its token realm, beside those of its own domain.
    pub(crate) fn realm_hosts(&self, config: &Config) -> Vec<String> {
        let hub = (self.host() == HUB).then(|| HUB_REALM.to_owned());
        config.realm_hosts.iter().cloned().chain(hub).collect()
    }

    pub(crate) fn challenge(&self) -> Option<Arc<Challenge>> {
        let challenge = self.challenge.lock();
        challenge.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn challenged(&self, challenge: Arc<Challenge>) {
        let mut last = self.challenge.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(challenge);
    }

    pub(crate) fn forget_challenge(&self) {
        *self.challenge.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn is_loopback(base: &Url) -> bool {
    match base.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::HostConfig;

    fn hosts() -> Hosts {
        Hosts::new(Duration::from_millis(200))
    }

    #[test]
    fn plain_http_is_for_loopback_and_for_whom_it_is_configured() {
        let mut config = Config::default();
        let scheme = Some(Scheme::Http);
        let plain = HostConfig { scheme, ..HostConfig::default() };
        config.hosts.insert("plain.example:5000".to_owned(), plain);
        let check = |host: &str, expected: &str| {
            let upstream = Upstream::new(host, &config, &hosts()).unwrap();
            let url = upstream.origin().url("a/b", "manifests/x", &[]);
            assert_eq!(url.as_str(), format!("{expected}/v2/a/b/manifests/x"));
        };
        check("localhost:5000", "http://localhost:5000");
        check("127.0.0.1:5000", "http://127.0.0.1:5000");
        check("[::1]:5000", "http://[::1]:5000");
        check("plain.example:5000", "http://plain.example:5000");
        check("192.168.0.1:5000", "https://192.168.0.1:5000");
        check("docker.io", "https://registry-1.docker.io");
    }

    #[test]
    fn mirrors_come_first_and_say_whom_they_stand_for() {
        let mut config = Config::default();
        let mirrored = HostConfig {
            mirrors: vec!["https://cache.example:8443/hub/".to_owned()],
            ..HostConfig::default()
        };
        config.hosts.insert("docker.io".to_owned(), mirrored);
        let upstream = Upstream::new("docker.io", &config, &hosts()).unwrap();
        let url = upstream.endpoints()[0].url("library/debian", "manifests/12", &[]);
        assert_eq!(
            url.as_str(),
            "https://cache.example:8443/v2/hub/library/debian/manifests/12?ns=docker.io"
        );
        assert_eq!(upstream.endpoints()[0].host(), "cache.example:8443");
    }
}
