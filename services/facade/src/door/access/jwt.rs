//! Tokens that a token service signs (distribution's "token authentication").

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, decode, decode_header};
use serde::Deserialize;

use super::super::DoorError;
use super::super::watched::read;
use super::{Action, Caller, Grant, Wanted};

/// How far the clocks may be apart, in seconds.
const LEEWAY_S: u64 = 30;

/// How many grants a token may hold.
const GRANTS_MAX: usize = 1_000;

/// Whose signed tokens are believed: those of `issuer` for `service`, signed with RS256, ES256 or EdDSA by one of `keys`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JwtConfig {
    /// What a token must have as `iss`.
    pub issuer: String,
    /// What it must have in `aud`.
    pub service: String,
    /// A file of public keys: PEM, or a JWK set.
    pub keys: PathBuf,
    /// Where clients get tokens; without, they are not told.
    pub realm: Option<String>,
}

/// The public keys of a token service.
pub(super) struct Keys(Vec<Key>);

struct Key {
    algorithm: Algorithm,
    id: Option<String>,
    public: DecodingKey,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    exp: u64,
    #[serde(default)]
    access: Option<Vec<Access>>,
}

#[derive(Deserialize)]
struct Access {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    #[serde(default)]
    actions: Vec<String>,
}

impl JwtConfig {
    pub(super) fn check(&self) -> Result<(), DoorError> {
        let refuse = |key, what| Err(DoorError::Setting { setting: format!("access.jwt.{key}"), what });
        if self.issuer.is_empty() {
            return refuse("issuer", "must be set");
        }
        if self.service.is_empty() {
            return refuse("service", "must be set");
        }
        if self.keys.as_os_str().is_empty() {
            return refuse("keys", "must be set");
        }
        let is_quotable = |text: &str| {
            text.bytes().all(|byte| matches!(byte, 0x20..=0x7e) && byte != b'"' && byte != b'\\')
        };
        if !is_quotable(&self.service) {
            return refuse("service", "must be of printable characters without quotes");
        }
        if !self.realm.as_deref().is_none_or(is_quotable) {
            return refuse("realm", "must be of printable characters without quotes");
        }
        Ok(())
    }

    /// Tells where to get a token for `wanted`; nothing when that is not said.
    pub(super) fn challenge(&self, wanted: Option<Wanted<'_>>, has_token: bool) -> Option<HeaderValue> {
        let mut challenge = format!("Bearer realm=\"{}\",service=\"{}\"", self.realm.as_ref()?, self.service);
        if let Some(Wanted { repository, actions }) = wanted {
            let actions = actions.iter().map(|action| action.name()).collect::<Vec<_>>().join(",");
            challenge.extend([",scope=\"repository:", repository, ":", &actions, "\""]);
        }
        if has_token {
            challenge += ",error=\"insufficient_scope\"";
        }
        HeaderValue::try_from(challenge).ok()
    }
}

impl Keys {
    pub(super) fn read(path: &Path) -> Result<Self, DoorError> {
        let refuse = |what: &str| DoorError::Content { path: path.to_owned(), what: what.to_owned() };
        let text = String::from_utf8(read(path)?).map_err(|_| refuse("is no text"))?;
        let keys = if text.trim_start().starts_with('{') {
            let set: JwkSet = serde_json::from_str(&text).map_err(|_| refuse("is no JWK set"))?;
            set.keys.iter().filter_map(Key::of_jwk).collect()
        } else {
            pem_blocks(&text).map(Key::of_pem).collect::<Result<Vec<_>, _>>().map_err(refuse)?
        };
        if keys.is_empty() {
            return Err(refuse("holds no public key for RS256, ES256 or EdDSA"));
        }
        Ok(Self(keys))
    }

    /// Whom `token` is for, and when it expires; nothing for a token that does not hold.
    pub(super) fn verify(&self, token: &str, config: &JwtConfig) -> Option<(Caller, SystemTime)> {
        let header = decode_header(token).ok()?;
        if brings_a_key(&header) || header.crit.is_some() {
            return None;
        }
        let claims = self.0.iter().filter(|key| key.may_have_signed(&header)).find_map(|key| {
            let mut validation = Validation::new(key.algorithm);
            validation.leeway = LEEWAY_S;
            validation.validate_nbf = true;
            validation.set_issuer(&[&config.issuer]);
            validation.set_audience(&[&config.service]);
            validation.set_required_spec_claims(&["exp", "iss", "aud"]);
            decode::<Claims>(token, &key.public, &validation).ok()
        });
        let claims = claims?.claims;
        let expires = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp))?;
        let granted = claims.access.unwrap_or_default();
        if granted.len() > GRANTS_MAX {
            return None;
        }
        let grants: Arc<[Grant]> = granted.into_iter().filter_map(Access::grant).collect();
        let name = claims.sub.into();
        Some((Caller::User { name, grants: Some(grants) }, expires))
    }
}

impl Key {
    fn of_jwk(jwk: &Jwk) -> Option<Self> {
        let (algorithm, named) = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                (Algorithm::ES256, KeyAlgorithm::ES256)
            }
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
            }
            // Above all shared secrets: who can check them can sign with them.
            _ => return None,
        };
        let common = &jwk.common;
        let is_for_signatures = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature));
        if !is_for_signatures || common.key_algorithm.is_some_and(|other| other != named) {
            return None;
        }
        let public = DecodingKey::from_jwk(jwk).ok()?;
        Some(Self { algorithm, id: common.key_id.clone(), public })
    }

    fn of_pem(block: &str) -> Result<Self, &'static str> {
        if block.contains("PRIVATE KEY") {
            return Err("holds a private key; only public ones belong here");
        }
        if !block.contains("PUBLIC KEY") {
            return Err("holds something else than public keys");
        }
        let block = block.as_bytes();
        let ec = || DecodingKey::from_ec_pem(block).map(|key| (Algorithm::ES256, key));
        let ed = || DecodingKey::from_ed_pem(block).map(|key| (Algorithm::EdDSA, key));
        let rsa = || DecodingKey::from_rsa_pem(block).map(|key| (Algorithm::RS256, key));
        let found = ec().or_else(|_| ed()).or_else(|_| rsa());
        let (algorithm, public) =
            found.map_err(|_| "holds a public key that is neither RSA, P-256 nor Ed25519")?;
        Ok(Self { algorithm, id: None, public })
    }

    fn may_have_signed(&self, header: &Header) -> bool {
        let is_meant = match (&self.id, &header.kid) {
            (Some(id), Some(named)) => id == named,
            _ => true,
        };
        is_meant && self.algorithm == header.alg
    }
}

impl Access {
    fn grant(self) -> Option<Grant> {
        if self.kind != "repository" {
            return None;
        }
        let is_granted =
            |action: &Action| self.actions.iter().any(|name| name == "*" || name == action.name());
        let actions: Vec<Action> = Action::ALL.into_iter().filter(is_granted).collect();
        Some(Grant { repository: self.name, actions })
    }
}

/// Whether a token says by what it is to be verified: nobody may bring the keys to the lock.
fn brings_a_key(header: &Header) -> bool {
    header.jwk.is_some() || header.jku.is_some() || header.x5c.is_some() || header.x5u.is_some()
}

/// The blocks of a PEM file, each with its label.
fn pem_blocks(text: &str) -> impl Iterator<Item = &str> {
    let begins = text.match_indices("-----BEGIN ").map(|(at, _)| at);
    let ends = begins.clone().skip(1).chain([text.len()]);
    begins.zip(ends).map(|(begin, end)| text[begin..end].trim_end())
}
