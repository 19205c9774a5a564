//! Manifests: what a name stands for.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use larder_oci::{Algorithm, Descriptor, Digest, Digester, Document, OciError, Reference, media_type};

use crate::answer::accept;
use crate::auth::Scope;
use crate::client::{Ask, Client};
use crate::egress::Reply;
use crate::error::RegistryError;
use crate::traffic::Kind;
use crate::upstream::Endpoint;

pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// What a registry says of a manifest without sending it. Nothing of it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its digest; `None` when the registry gives none, or one that is malformed.
    pub digest: Option<Digest>,
    /// Its media type; empty when the registry gives none.
    pub media_type: String,
    /// Its size in bytes.
    pub size: Option<u64>,
}

impl Client {
    /// Asks what `at` stands for, without its bytes. `None` is a registry's clear answer that there is no such manifest.
    ///
    /// # Errors
    /// All that keeps it from getting a clear answer.
    pub async fn head_manifest(&self, at: &Reference) -> Result<Option<Head>, RegistryError> {
        let mut turns = self.turns(at.registry())?;
        loop {
            let scope = pull_scope(turns.endpoint(), at);
            match self.head_once(turns.endpoint(), at, scope).await {
                Ok(head) => return Ok(Some(head)),
                Err(error) => match turns.failed(error).await {
                    Ok(()) => {}
                    Err(RegistryError::NotFound { .. }) => return Ok(None),
                    Err(error) => return Err(error),
                },
            }
        }
    }

    /// Gets the manifest that `at` stands for. A digest in `at` must be that of the bytes; otherwise a digest that the registry
    /// gives must be, if it is well-formed.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] when the registry says so, [`RegistryError::Corrupt`] when a digest does not hold,
    /// [`RegistryError::TooLarge`] beyond [`crate::Config::manifest_bytes_max`], [`RegistryError::Unsupported`] for docker
    /// schema 1, [`RegistryError::InvalidDocument`] for what is no manifest, and all that keeps it from an answer.
    pub async fn manifest(&self, at: &Reference) -> Result<Document, RegistryError> {
        let mut turns = self.turns(at.registry())?;
        loop {
            let scope = pull_scope(turns.endpoint(), at);
            match self.get_once(turns.endpoint(), at, scope).await {
                Ok(document) => return Ok(document),
                Err(error) => turns.failed(error).await?,
            }
        }
    }

    /// Gets the manifest of which `head` was said when `at` was asked for: by the digest in it, so that what a tag comes to stand for
    /// meanwhile does not matter. By `at` itself where `head` gives no digest, or the registry has no manifest under it.
    ///
    /// # Errors
    /// As [`Client::manifest`].
    pub async fn headed_manifest(&self, at: &Reference, head: &Head) -> Result<Document, RegistryError> {
        if let Some(digest) = head.digest.as_ref().filter(|_| at.digest().is_none()) {
            match self.manifest(&at.at(digest)).await {
                Err(RegistryError::NotFound { .. }) => {}
                got => return got,
            }
        }
        self.manifest(at).await
    }

    /// Asks the registry itself, never a mirror, what `at` stands for. `None` is its clear answer that there is no such manifest.
    ///
    /// # Errors
    /// All that keeps it from getting a clear answer.
    pub async fn origin_descriptor(&self, at: &Reference) -> Result<Option<Descriptor>, RegistryError> {
        let upstream = self.upstream(at.registry())?;
        let mut retries = self.retries();
        loop {
            let scope = Scope::push(at.repository());
            match self.head_once(upstream.origin(), at, scope).await {
                Ok(Head { digest: Some(digest), media_type, size: Some(size) }) => {
                    return Ok(Some(Descriptor::new(media_type, digest, size)));
                }
                // It does not say all that it could.
                Ok(_) => return Ok(self.origin_manifest(at).await?.map(|document| document.descriptor())),
                Err(RegistryError::NotFound { .. }) => return Ok(None),
                Err(error) => retries.after(error).await?,
            }
        }
    }

    /// Gets the manifest that `at` stands for from the registry itself, never from a mirror; `None` when it says that there is
    /// none.
    ///
    /// # Errors
    /// As [`Client::manifest`].
    pub async fn origin_manifest(&self, at: &Reference) -> Result<Option<Document>, RegistryError> {
        let upstream = self.upstream(at.registry())?;
        let mut retries = self.retries();
        loop {
            // Some registries hide what one may not read, but not from who may write it.
            let scope = Scope::push(at.repository());
            match self.get_once(upstream.origin(), at, scope).await {
                Ok(document) => return Ok(Some(document)),
                Err(RegistryError::NotFound { .. }) => return Ok(None),
                Err(error) => retries.after(error).await?,
            }
        }
    }

    async fn head_once(
        &self,
        endpoint: &Endpoint,
        at: &Reference,
        scope: Scope,
    ) -> Result<Head, RegistryError> {
        let ask = ask(at, Kind::ManifestHead, Method::HEAD, scope);
        let reply = self.ask(endpoint, &ask).await?;
        if matches!(reply.status(), StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED) {
            let descriptor = self.get_once(endpoint, at, ask.scope).await?.descriptor();
            return Ok(Head {
                digest: Some(descriptor.digest),
                media_type: descriptor.media_type,
                size: Some(descriptor.size),
            });
        }
        let reply = accept(reply, &at.name(), &self.config).await?;
        let media_type = reply.header(CONTENT_TYPE).unwrap_or_default();
        Ok(Head {
            digest: declared_digest(&reply),
            media_type: media_type.split(';').next().unwrap_or_default().to_owned(),
            size: reply.content_length(),
        })
    }

    async fn get_once(
        &self,
        endpoint: &Endpoint,
        at: &Reference,
        scope: Scope,
    ) -> Result<Document, RegistryError> {
        let ask = ask(at, Kind::ManifestGet, Method::GET, scope);
        let reply = self.ask(endpoint, &ask).await?;
        let reply = accept(reply, &at.name(), &self.config).await?;
        reply.check_encoding()?;
        let want = at.digest().cloned().or_else(|| declared_digest(&reply));
        let declared_type = reply.header(CONTENT_TYPE).map(str::to_owned);
        let (limit, within) = (self.config.manifest_bytes_max, self.config.read_timeout());
        let body = reply.body("a manifest", limit, within).await?;
        if let Some(want) = want {
            check_digest(&body, want)?;
        }
        Document::parse(body, declared_type.as_deref()).map_err(|source| {
            let reference = at.name();
            match source {
                OciError::Unsupported(_) => RegistryError::Unsupported { reference, source },
                _ => RegistryError::InvalidDocument { reference, source },
            }
        })
    }
}

fn pull_scope(endpoint: &Endpoint, at: &Reference) -> Scope {
    Scope::pull(&endpoint.repository(at.repository()))
}

fn ask(at: &Reference, kind: Kind, method: Method, scope: Scope) -> Ask<'_> {
    let name = match at.digest() {
        Some(digest) => digest.to_string(),
        None => at.tag().unwrap_or("latest").to_owned(),
    };
    let accepted = HeaderValue::from_static(media_type::ACCEPT);
    Ask {
        kind,
        method,
        repository: at.repository(),
        path: format!("manifests/{name}"),
        query: Vec::new(),
        headers: HeaderMap::from_iter([(ACCEPT, accepted)]),
        scope,
        body: None,
    }
}

/// The digest that the registry gives, if it is one.
pub(crate) fn declared_digest(reply: &Reply) -> Option<Digest> {
    reply.header(CONTENT_DIGEST)?.parse().ok()
}

/// Checks that the digest of `body` is `want`.
pub(crate) fn check_digest(body: &Bytes, want: Digest) -> Result<(), RegistryError> {
    let got = digest_of(body, want.algorithm());
    if got == want { Ok(()) } else { Err(RegistryError::Corrupt { want, got }) }
}

pub(crate) fn digest_of(body: &Bytes, algorithm: Algorithm) -> Digest {
    let mut digester = Digester::new(algorithm);
    digester.update(body);
    digester.finish()
}
