//! Who we are to a registry: challenges, and the tokens that answer them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_auth::{ChallengeParser, ChallengeRef};
use serde::Deserialize;
use tokio::time::Instant;

use crate::answer;
use crate::config::Config;
use crate::credentials::{Credential, Credentials};
use crate::egress::{Egress, Order, Passage, Reply};
use crate::error::{Refusal, RegistryError};
use crate::traffic::Kind;
use crate::upstream::Endpoint;

/// What a token lives for when its issuer does not say (distribution's token specification).
const LIFETIME_DEFAULT: Duration = Duration::from_mins(1);
/// No token is kept for longer, whatever its issuer says.
const LIFETIME_MAX: Duration = Duration::from_hours(1);
/// A token is renewed this long before it ends, so that it does not end on its way.
const LEEWAY: Duration = Duration::from_secs(10);
/// Beyond as many tokens, those that have ended are dropped.
const TOKENS_MAX: usize = 1024;

/// What a token is to allow, such as `repository:library/debian:pull`; several are separated by spaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scope(String);

impl Scope {
    pub(crate) fn pull(repository: &str) -> Self {
        Self(format!("repository:{repository}:pull"))
    }

    pub(crate) fn push(repository: &str) -> Self {
        Self(format!("repository:{repository}:pull,push"))
    }

    pub(crate) fn mount(to: &str, from: &str) -> Self {
        Self(format!("repository:{to}:pull,push repository:{from}:pull"))
    }
}

/// What is shown with a request. Never prints.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Authorization {
    Bearer(Arc<str>),
    Basic { user: String, password: String },
}

impl Authorization {
    pub(crate) fn sign(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match self {
            Self::Bearer(token) => request.bearer_auth(token),
            Self::Basic { user, password } => request.basic_auth(user, Some(password)),
        }
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorization(..)")
    }
}

/// How an endpoint wants to be answered.
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: Box<Passage>, service: String },
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct TokenKey {
    // Two registries may share a realm and a service, but not each other's credentials.
    host: String,
    realm: String,
    service: String,
    scope: Scope,
}

#[derive(Clone)]
struct Token {
    authorization: Authorization,
    until: Instant,
}

/// Held while a token is fetched, so that whoever else needs it waits for it.
type Slot = Arc<tokio::sync::Mutex<Option<Token>>>;

/// All tokens and credentials of a client.
pub(crate) struct Auth {
    config: Arc<Config>,
    egress: Arc<Egress>,
    credentials: Credentials,
    tokens: Mutex<HashMap<TokenKey, Slot>>,
}

impl Auth {
    pub(crate) fn new(config: Arc<Config>, egress: Arc<Egress>) -> Self {
        let credentials = Credentials::new(config.auth_file.clone());
        Self { config, egress, credentials, tokens: Mutex::default() }
    }

    /// What to show an endpoint that has asked before; `None` if it has not.
    pub(crate) async fn offer(
        &self,
        endpoint: &Endpoint,
        scope: &Scope,
    ) -> Result<Option<Authorization>, RegistryError> {
        let Some(challenge) = endpoint.challenge() else {
            return Ok(None);
        };
        self.meet(endpoint, &challenge, scope, None).await
    }

    /// Answers the challenge in `reply`, a 401 to a request that showed `rejected`.
    ///
    /// # Errors
    /// [`RegistryError::Unauthorized`] when there is no answer, or no other than the rejected one.
    pub(crate) async fn answer(
        &self,
        endpoint: &Endpoint,
        reply: Reply,
        scope: &Scope,
        rejected: Option<&Authorization>,
    ) -> Result<Authorization, RegistryError> {
        let challenge = Arc::new(self.read_challenge(endpoint, &reply)?);
        endpoint.challenged(Arc::clone(&challenge));
        let refused = unauthorized(&reply);
        // Read to its end first, so that the token request can have the same connection.
        reply.finish(&self.config).await;
        let answer = self.meet(endpoint, &challenge, scope, rejected).await?;
        answer.filter(|answer| Some(answer) != rejected).ok_or(refused)
    }

    fn read_challenge(&self, endpoint: &Endpoint, reply: &Reply) -> Result<Challenge, RegistryError> {
        let headers = reply.headers().get_all(WWW_AUTHENTICATE);
        let texts: Vec<&str> = headers.iter().filter_map(|text| text.to_str().ok()).collect();
        let offered: Vec<ChallengeRef<'_>> =
            texts.iter().flat_map(|text| ChallengeParser::new(text).map_while(Result::ok)).collect();
        let find = |scheme: &str| offered.iter().find(|offer| offer.scheme.eq_ignore_ascii_case(scheme));
        if let Some(bearer) = find("bearer") {
            let parameter = |name: &str| {
                let mut named = bearer.params.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
                named.next().map(|(_, value)| value.to_unescaped()).unwrap_or_default()
            };
            let known = endpoint.realm_hosts(&self.config);
            let realm = Passage::realm(reply, &parameter("realm"), &known, self.egress.exempt())?;
            let (realm, service) = (Box::new(realm), parameter("service"));
            return Ok(Challenge::Bearer { realm, service });
        }
        find("basic").map(|_| Challenge::Basic).ok_or_else(|| unauthorized(reply))
    }

    async fn meet(
        &self,
        endpoint: &Endpoint,
        challenge: &Challenge,
        scope: &Scope,
        rejected: Option<&Authorization>,
    ) -> Result<Option<Authorization>, RegistryError> {
        let met = self.meet_once(endpoint, challenge, scope, rejected).await;
        if met.is_err() {
            // It may ask for something else by now, or for nothing: the next request finds out.
            endpoint.forget_challenge();
        }
        met
    }

    async fn meet_once(
        &self,
        endpoint: &Endpoint,
        challenge: &Challenge,
        scope: &Scope,
        rejected: Option<&Authorization>,
    ) -> Result<Option<Authorization>, RegistryError> {
        let (realm, service) = match challenge {
            Challenge::Bearer { realm, service } => (realm, service),
            Challenge::Basic => {
                return Ok(match self.credentials.of(endpoint.host()).await? {
                    Some(Credential::Password { user, password }) => {
                        Some(Authorization::Basic { user, password })
                    }
                    _ => None,
                });
            }
        };
        let slot = self.slot(TokenKey {
            host: endpoint.host().to_owned(),
            realm: realm.url().to_string(),
            service: service.clone(),
            scope: scope.clone(),
        });
        let mut token = slot.lock().await;
        if let Some(Token { authorization, until }) = &*token
            && Some(authorization) != rejected
            && Instant::now() < *until
        {
            return Ok(Some(authorization.clone()));
        }
        let fresh = self.fetch(endpoint.host(), realm, service, scope).await?;
        let authorization = fresh.authorization.clone();
        *token = Some(fresh);
        Ok(Some(authorization))
    }

    fn slot(&self, key: TokenKey) -> Slot {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= TOKENS_MAX {
            let now = Instant::now();
            tokens.retain(|_, slot| match slot.try_lock() {
                Ok(token) => token.as_ref().is_some_and(|token| now < token.until),
                Err(_) => true,
            });
        }
        if tokens.len() >= TOKENS_MAX {
            tokens.clear();
        }
        Arc::clone(tokens.entry(key).or_default())
    }

    async fn fetch(
        &self,
        host: &str,
        realm: &Passage,
        service: &str,
        scope: &Scope,
    ) -> Result<Token, RegistryError> {
        let credential = self.credentials.of(host).await?;
        let (passage, order) = token_request(credential, realm.clone(), service, scope);
        let reply = self.egress.send_in_time(&passage, order).await?;
        if reply.status().is_redirection() {
            return Err(passage.refused(Refusal::Write));
        }
        if reply.status() == StatusCode::UNAUTHORIZED {
            return Err(unauthorized(&reply));
        }
        if reply.status() == StatusCode::NOT_FOUND {
            // Which says nothing of what the token is for.
            return Err(RegistryError::Protocol {
                host: passage.authority(),
                what: "it names a token endpoint that does not exist",
            });
        }
        let reply = answer::accept(reply, "the token endpoint", &self.config).await?;
        let (limit, within) = (self.config.token_bytes_max, self.config.read_timeout());
        let body = reply.body("a token", limit, within).await?;
        parse_token(&body).ok_or_else(|| RegistryError::Protocol {
            host: passage.authority(),
            what: "its answer holds no token",
        })
    }
}

fn unauthorized(reply: &Reply) -> RegistryError {
    RegistryError::Unauthorized { host: reply.authority() }
}

fn token_request(
    credential: Option<Credential>,
    realm: Passage,
    service: &str,
    scope: &Scope,
) -> (Passage, Order) {
    let mut order = Order {
        kind: Kind::Token,
        method: Method::GET,
        headers: HeaderMap::new(),
        authorization: None,
        body: None,
    };
    let service = Some(("service", service)).filter(|(_, service)| !service.is_empty());
    match credential {
        Some(Credential::IdentityToken(identity)) => {
            let form = url::form_urlencoded::Serializer::new(String::new())
                .extend_pairs([
                    ("grant_type", "refresh_token"),
                    ("client_id", "larder"),
                    ("refresh_token", &identity),
                    ("scope", &scope.0),
                ])
                .extend_pairs(service)
                .finish();
            order.method = Method::POST;
            order.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
            order.body = Some(form.into());
            return (realm, order);
        }
        Some(Credential::Password { user, password }) => {
            order.authorization = Some(Authorization::Basic { user, password });
        }
        None => {}
    }
    let scopes = scope.0.split(' ').map(|scope| ("scope", scope));
    (realm.with_query(service.into_iter().chain(scopes)), order)
}

#[derive(Deserialize)]
struct TokenBody {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

fn parse_token(body: &[u8]) -> Option<Token> {
    let body: TokenBody = serde_json::from_slice(body).ok()?;
    let text = body
        .token
        .filter(|token| !token.is_empty())
        .or(body.access_token)
        .filter(|token| !token.is_empty())?;
    HeaderValue::from_str(&text).ok()?;
    let lifetime = body.expires_in.map_or(LIFETIME_DEFAULT, Duration::from_secs).min(LIFETIME_MAX);
    Some(Token {
        authorization: Authorization::Bearer(text.into()),
        until: Instant::now() + lifetime.saturating_sub(LEEWAY.min(lifetime / 2)),
    })
}
