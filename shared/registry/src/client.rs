//! The client, and how it asks one endpoint one thing.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::LOCATION;
use http::{HeaderMap, Method, StatusCode};
use url::Url;

use crate::answer::retry_after;
use crate::auth::{Auth, Authorization, Scope};
use crate::config::Config;
use crate::egress::{Egress, Order, Passage, Reply};
use crate::error::{Refusal, RegistryError};
use crate::patience::{Retries, Turns};
use crate::rest::{Health, Hosts, Resting, Rests};
use crate::traffic::{Kind, Traffic};
use crate::upstream::{Endpoint, Upstream};

/// Beyond as many upstreams, those not in use are forgotten.
const UPSTREAMS_MAX: usize = 256;

/// A client of upstream registries. Cheap to clone; clones share connections, tokens and limits.
#[derive(Clone)]
pub struct Client {
    pub(crate) config: Arc<Config>,
    pub(crate) egress: Arc<Egress>,
    auth: Arc<Auth>,
    upstreams: Arc<Mutex<HashMap<String, Arc<Upstream>>>>,
    hosts: Arc<Hosts>,
    traffic: Arc<Traffic>,
    skips_mirrors: bool,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// One request within a repository.
pub(crate) struct Ask<'a> {
    pub(crate) kind: Kind,
    pub(crate) method: Method,
    pub(crate) repository: &'a str,
    /// What follows the repository, such as `manifests/latest`.
    pub(crate) path: String,
    pub(crate) query: Vec<(&'a str, &'a str)>,
    pub(crate) headers: HeaderMap,
    pub(crate) scope: Scope,
    pub(crate) body: Option<Bytes>,
}

impl Client {
    /// Makes a client. Reads no file and opens no connection: certificates and credentials are read at the first request that
    /// needs them.
    ///
    /// # Errors
    /// [`RegistryError::Config`] when `config` contradicts itself.
    pub fn new(config: Config) -> Result<Self, RegistryError> {
        config.check()?;
        let (config, traffic) = (Arc::new(config), Arc::new(Traffic::default()));
        let egress = Arc::new(Egress::new(Arc::clone(&config), Arc::clone(&traffic)));
        let auth = Arc::new(Auth::new(Arc::clone(&config), Arc::clone(&egress)));
        let hosts = Arc::new(Hosts::new(Duration::from_millis(config.retry_wait_ms_min)));
        Ok(Self { config, egress, auth, upstreams: Arc::default(), hosts, traffic, skips_mirrors: false })
    }

    /// What it has done so far.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Leaves `host` alone for `left`, at most ten minutes, as another process has learnt; `limited` if that is the host's own wish.
    pub fn rest(&self, host: &str, left: Duration, limited: bool) {
        self.hosts.named(host).impose(left, limited);
    }

    /// Hears from now on which hosts come to rest by what this client sees of them.
    pub fn rests(&self) -> Rests {
        self.hosts.listen()
    }

    /// The hosts that rest now, at most about a thousand.
    pub fn resting(&self) -> Vec<Resting> {
        self.hosts.resting()
    }

    pub(crate) fn upstream(&self, host: &str) -> Result<Arc<Upstream>, RegistryError> {
        let mut upstreams = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = upstreams.get(host) {
            return Ok(Arc::clone(known));
        }
        if upstreams.len() >= UPSTREAMS_MAX {
            upstreams.retain(|_, upstream| Arc::strong_count(upstream) > 1);
        }
        let upstream = Arc::new(Upstream::new(host, &self.config, &self.hosts)?);
        upstreams.insert(host.to_owned(), Arc::clone(&upstream));
        Ok(upstream)
    }

    /// The same client beginning at the registry itself, if a mirror of `host` would otherwise come first: for content that came
    /// and did not hold.
    pub fn past_mirrors(&self, host: &str) -> Option<Self> {
        let is_mirrored = self.config.hosts.get(host).is_some_and(|settings| !settings.mirrors.is_empty());
        (is_mirrored && !self.skips_mirrors).then(|| Self { skips_mirrors: true, ..self.clone() })
    }

    pub(crate) fn turns(&self, host: &str) -> Result<Turns, RegistryError> {
        let mut turns = Turns::new(self.upstream(host)?, self.retries().at_most(self.config.rest_wait_max()));
        if self.skips_mirrors {
            turns.skip_mirrors();
        }
        Ok(turns)
    }

    pub(crate) fn retries(&self) -> Retries {
        Retries::new(&self.config, &self.traffic)
    }

    /// Asks `endpoint` once: meets one challenge, follows redirects, and returns whatever answer there is then.
    ///
    /// # Errors
    /// Beside what keeps it from an answer, [`RegistryError::RateLimited`] or [`RegistryError::Resting`] without asking when the
    /// host rests: a mirror is not waited for, a registry not for long.
    pub(crate) async fn ask(&self, endpoint: &Endpoint, ask: &Ask<'_>) -> Result<Reply, RegistryError> {
        let url = endpoint.url(ask.repository, &ask.path, &ask.query);
        self.ask_at(endpoint, url, ask).await
    }

    /// [`Client::ask`] at `url`, which must be the endpoint's own.
    pub(crate) async fn ask_at(
        &self,
        endpoint: &Endpoint,
        url: Url,
        ask: &Ask<'_>,
    ) -> Result<Reply, RegistryError> {
        let patience = match ask.kind {
            _ if endpoint.is_mirror() => Duration::ZERO,
            Kind::Push => Duration::from_millis(self.config.retry_wait_ms_max),
            _ => self.config.rest_wait_max(),
        };
        let leave = endpoint.rest().leave(patience).await?;
        let asked = self.converse(endpoint, url, ask).await;
        let health = health(&asked, endpoint.is_mirror());
        if matches!(health, Health::Limited { .. }) {
            self.traffic.limited();
        }
        leave.learned(health);
        asked
    }

    async fn converse(&self, endpoint: &Endpoint, url: Url, ask: &Ask<'_>) -> Result<Reply, RegistryError> {
        let named = Passage::named(url);
        let mut authorization = self.auth.offer(endpoint, &ask.scope).await?;
        let mut reply = self.walk(&named, ask, authorization.as_ref()).await?;
        if reply.status() == StatusCode::UNAUTHORIZED && reply.passage().is_trusted() {
            let rejected = authorization.take();
            let answer = self.auth.answer(endpoint, reply, &ask.scope, rejected.as_ref()).await?;
            reply = self.walk(&named, ask, Some(&answer)).await?;
        }
        Ok(reply)
    }

    /// What to show `endpoint` at a URL that it named; see [`Auth::offer`].
    pub(crate) async fn offer(
        &self,
        endpoint: &Endpoint,
        scope: &Scope,
    ) -> Result<Option<Authorization>, RegistryError> {
        self.auth.offer(endpoint, scope).await
    }

    /// Sends `ask` and follows its redirects.
    async fn walk(
        &self,
        start: &Passage,
        ask: &Ask<'_>,
        authorization: Option<&Authorization>,
    ) -> Result<Reply, RegistryError> {
        let mut passage = start.clone();
        for _ in 0..=self.config.redirects_max {
            let shown = authorization.filter(|_| passage.is_trusted());
            let order = Order {
                kind: ask.kind,
                method: ask.method.clone(),
                headers: ask.headers.clone(),
                authorization: shown.cloned(),
                body: ask.body.clone().map(Into::into),
            };
            let reply = self.egress.send_in_time(&passage, order).await?;
            let Some(location) = redirect(&reply) else {
                return Ok(reply);
            };
            passage = Passage::follow(&reply, location, self.egress.exempt())?;
            if !matches!(ask.method, Method::GET | Method::HEAD) {
                return Err(passage.refused(Refusal::Write));
            }
            reply.finish(&self.config).await;
        }
        Err(passage.refused(Refusal::TooMany))
    }
}

/// What `asked` shows of whom we asked.
fn health(asked: &Result<Reply, RegistryError>, is_mirror: bool) -> Health {
    let failed = Health::Failed { weight: 1 };
    match asked {
        Ok(reply) if reply.status() == StatusCode::TOO_MANY_REQUESTS => {
            Health::Limited { asked: retry_after(reply) }
        }
        // That it cannot do this says nothing of the rest.
        Ok(reply) if reply.status() == StatusCode::NOT_IMPLEMENTED => Health::Well,
        Ok(reply) if reply.status().is_server_error() => failed,
        Ok(_) => Health::Well,
        Err(RegistryError::RateLimited { retry_after, .. }) => Health::Limited { asked: *retry_after },
        Err(RegistryError::Status { status, .. }) if status.is_server_error() => failed,
        Err(RegistryError::Unreachable { .. } | RegistryError::TimedOut { .. }) if is_mirror => {
            Health::REPLACEABLE
        }
        Err(RegistryError::Unreachable { .. } | RegistryError::TimedOut { .. }) => failed,
        Err(error) if error.status().is_some() => Health::Well,
        Err(_) => Health::Unknown,
    }
}

/// Where `reply` sends us.
fn redirect(reply: &Reply) -> Option<&str> {
    match reply.status().as_u16() {
        301 | 302 | 303 | 307 | 308 => reply.header(LOCATION),
        _ => None,
    }
}
