//! Who calls, and what they may do.
//!
//! Callers are known by a password (htpasswd), by an opaque token, or by a signed token (JWT) of a token service. What none of the
//! rules, and no token, grants is refused.

mod basic;
mod jwt;
mod remembered;
mod rules;
mod tokens;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use serde::Deserialize;

use super::DoorError;
use super::watched::Watched;
use basic::{Attempt, Passwords};
use jwt::Keys;
use remembered::Remembered;
use rules::Rules;
use tokens::Tokens;

pub use jwt::JwtConfig;
pub use rules::{Action, RuleConfig};

/// How long credentials that held are not checked again.
const VERIFIED_FOR: Duration = Duration::from_mins(5);

/// Who may do what.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessConfig {
    /// What anybody may do everywhere. Unless said otherwise, that is to pull where only this machine can reach the door and nothing
    /// else is said of access, and nothing elsewhere.
    pub anonymous: Option<Vec<Action>>,
    /// A file of users and the bcrypt hashes of their passwords, as `htpasswd -B` writes it.
    pub htpasswd: Option<PathBuf>,
    /// A file of tokens: lines `NAME:SHA256`, with the hexadecimal SHA-256 of a token that is good for being NAME.
    pub tokens: Option<PathBuf>,
    /// Whose signed tokens are believed.
    pub jwt: Option<JwtConfig>,
    /// What is granted beyond.
    pub rules: Vec<RuleConfig>,
    /// Whether `GET /v2/` asks for credentials also where anybody may do something. Docker sends a password on push only to who asks
    /// there, and without one then pulls nothing.
    pub challenge: bool,
}

impl AccessConfig {
    /// Whether anything is said of who may do what.
    fn says_who(&self) -> bool {
        self.htpasswd.is_some() || self.tokens.is_some() || self.jwt.is_some() || !self.rules.is_empty()
    }
}

/// Decides who may do what; clones share it.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    rules: Rules,
    challenge: bool,
    /// The registry of the names in tokens that begin with none.
    default_upstream: String,
    passwords: Option<Passwords>,
    tokens: Option<Watched<Tokens>>,
    jwt: Option<(JwtConfig, Watched<Keys>)>,
    verified: Remembered<Caller>,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Nobody in particular.
    Anonymous,
    /// Somebody who has proven it.
    User {
        /// The name; a token for nobody in particular has none.
        name: Arc<str>,
        /// What the token grants by itself; nothing for who came with a password.
        grants: Option<Arc<[Grant]>>,
    },
}

/// What a token grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The repository, with its registry or, in that of the default upstream, without.
    pub repository: String,
    /// What may be done to it.
    pub actions: Vec<Action>,
}

/// Why a caller is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The credentials are wrong, have expired, or are none.
    Credentials,
    /// Too many are being checked; to be answered with 429.
    Busy,
}

/// What a caller was refused, for [`Access::challenges`].
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The repository, with its registry.
    pub repository: &'a str,
    /// What was to be done to it.
    pub actions: &'a [Action],
}

/// What an `Authorization` header says.
enum Credentials<'a> {
    Basic(&'a str),
    Bearer(&'a str),
}

impl Caller {
    /// The name of a user; nothing for anybody else.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::User { name, .. } if !name.is_empty() => Some(name),
            _ => None,
        }
    }
}

impl Access {
    /// Access as `config` has it, behind a door that only this machine can reach (`is_loopback`) or others, too.
    ///
    /// # Errors
    /// [`DoorError::Read`], [`DoorError::Content`] and [`DoorError::Setting`].
    pub fn open(config: &AccessConfig, is_loopback: bool) -> Result<Self, DoorError> {
        let by_default: &[Action] = if is_loopback && !config.says_who() { &[Action::Pull] } else { &[] };
        let anonymous = config.anonymous.as_deref().unwrap_or(by_default);
        let open_tokens = |path: &PathBuf| Watched::open(vec![path.clone()], |paths| Tokens::read(&paths[0]));
        let open_jwt = |config: &JwtConfig| {
            config.check()?;
            let keys = Watched::open(vec![config.keys.clone()], |paths| Keys::read(&paths[0]))?;
            Ok::<_, DoorError>((config.clone(), keys))
        };
        Ok(Self(Arc::new(Inner {
            rules: Rules::new(anonymous, &config.rules)?,
            challenge: config.challenge,
            default_upstream: "docker.io".to_owned(),
            passwords: config.htpasswd.as_deref().map(Passwords::open).transpose()?,
            tokens: config.tokens.as_ref().map(open_tokens).transpose()?,
            jwt: config.jwt.as_ref().map(open_jwt).transpose()?,
            verified: Remembered::new(),
        })))
    }

    /// Takes names in tokens that begin with no registry for those of `registry`. To be called before it is cloned.
    #[must_use]
    pub fn with_default_upstream(mut self, registry: &str) -> Self {
        let inner = Arc::get_mut(&mut self.0).expect("it has not been cloned yet");
        registry.clone_into(&mut inner.default_upstream);
        self
    }

    /// Who sent a request with these headers. Without any credentials to check them against, they are not looked at.
    ///
    /// # Errors
    /// [`Refused`]; never because there are no credentials.
    pub async fn identify(&self, headers: &HeaderMap) -> Result<Caller, Refused> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(Caller::Anonymous) };
        if !self.knows_anybody() {
            return Ok(Caller::Anonymous);
        }
        if values.next().is_some() {
            return Err(Refused::Credentials);
        }
        match Credentials::parse(value)? {
            Credentials::Basic(encoded) => self.identify_by_password(encoded).await,
            Credentials::Bearer(token) => self.identify_by_token(token).await,
        }
    }

    /// Whether `caller` may do `action` to `repository`, which is named with its registry (`docker.io/library/alpine`).
    pub fn allows(&self, caller: &Caller, action: Action, repository: &str) -> bool {
        self.0.rules.allow(caller, action, repository) || self.0.grants(caller, action, repository)
    }

    /// Whether `caller` need not be asked for (other) credentials before anything else.
    pub fn may_come_in(&self, caller: &Caller) -> bool {
        match caller {
            Caller::Anonymous => !self.0.challenge && self.0.rules.allow_anything(caller),
            Caller::User { .. } => true,
        }
    }

    /// Whether there is nothing that `caller` may not pull.
    pub fn may_pull_everything(&self, caller: &Caller) -> bool {
        self.0.rules.allow_everywhere(caller, Action::Pull)
    }

    /// Whether there is anybody who may not pull everything.
    pub fn is_restricted(&self) -> bool {
        !self.may_pull_everything(&Caller::Anonymous)
    }

    /// The values of `WWW-Authenticate` for `caller`, who was refused `wanted`: to be answered with 401. Without any, no
    /// credentials would help, and the answer is 403.
    pub fn challenges(&self, caller: &Caller, wanted: Option<Wanted<'_>>) -> Vec<HeaderValue> {
        let mut challenges = Vec::new();
        let has_grants = matches!(caller, Caller::User { grants: Some(_), .. });
        if caller.name().is_some() && !has_grants {
            return challenges;
        }
        if let Some((config, _)) = &self.0.jwt {
            // A token for another scope may do.
            challenges.extend(config.challenge(wanted, has_grants));
        }
        if !has_grants && (self.0.passwords.is_some() || self.0.tokens.is_some()) {
            challenges.push(HeaderValue::from_static("Basic realm=\"larder\""));
        }
        challenges
    }

    fn knows_anybody(&self) -> bool {
        self.0.passwords.is_some() || self.0.tokens.is_some() || self.0.jwt.is_some()
    }

    async fn identify_by_password(&self, encoded: &str) -> Result<Caller, Refused> {
        let attempt = Attempt::parse(encoded).ok_or(Refused::Credentials)?;
        // For clients that cannot send a token otherwise.
        if let Some(tokens) = &self.0.tokens
            && tokens.fresh().await.0.holder(attempt.password()) == Some(attempt.name())
        {
            return Ok(Caller::User { name: attempt.name().into(), grants: None });
        }
        let passwords = self.0.passwords.as_ref().ok_or(Refused::Credentials)?;
        let name = passwords.check(attempt).await?;
        Ok(Caller::User { name, grants: None })
    }

    async fn identify_by_token(&self, token: &str) -> Result<Caller, Refused> {
        if let Some(tokens) = &self.0.tokens
            && let Some(name) = tokens.fresh().await.0.holder(token)
        {
            return Ok(Caller::User { name: name.into(), grants: None });
        }
        let (config, keys) = self.0.jwt.as_ref().ok_or(Refused::Credentials)?;
        let (keys, edition) = keys.fresh().await;
        let mark = self.0.verified.mark(edition, token.as_bytes());
        if let Some(caller) = self.0.verified.find(&mark) {
            return Ok(caller);
        }
        let (caller, expires) = keys.verify(token, config).ok_or(Refused::Credentials)?;
        let left = expires.duration_since(SystemTime::now()).unwrap_or_default();
        self.0.verified.keep(mark, caller.clone(), left.min(VERIFIED_FOR));
        Ok(caller)
    }
}

impl Inner {
    fn grants(&self, caller: &Caller, action: Action, repository: &str) -> bool {
        let Caller::User { grants: Some(grants), .. } = caller else { return false };
        let is_named = |name: &str| {
            let rest = repository.strip_prefix(self.default_upstream.as_str());
            name == repository || rest.and_then(|rest| rest.strip_prefix('/')) == Some(name)
        };
        grants.iter().any(|grant| grant.actions.contains(&action) && is_named(&grant.repository))
    }
}

impl<'a> Credentials<'a> {
    fn parse(value: &'a HeaderValue) -> Result<Self, Refused> {
        let text = value.to_str().map_err(|_| Refused::Credentials)?;
        let (scheme, rest) = text.split_once(' ').ok_or(Refused::Credentials)?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("basic") {
            Ok(Self::Basic(rest))
        } else if scheme.eq_ignore_ascii_case("bearer") {
            Ok(Self::Bearer(rest))
        } else {
            Err(Refused::Credentials)
        }
    }
}

#[cfg(test)]
mod tests;
