//! Pushing: always to the registry itself, never to a mirror.

use std::io;

use futures::future::BoxFuture;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use larder_oci::{Algorithm, Descriptor, Digest, Document, Reference};

use crate::answer::accept;
use crate::auth::Scope;
use crate::client::{Ask, Client};
use crate::egress::Reply;
use crate::error::RegistryError;
use crate::manifest::{declared_digest, digest_of};
use crate::traffic::Kind;
use crate::upload::{Content, Session};

impl Client {
    /// Returns the size in bytes of `digest` if the repository has that blob and says so.
    ///
    /// # Errors
    /// All that keeps it from a clear answer.
    pub async fn blob_exists(
        &self,
        repository: &Reference,
        digest: &Digest,
    ) -> Result<Option<u64>, RegistryError> {
        let scope = Scope::push(repository.repository());
        let ask = ask(repository, Method::HEAD, format!("blobs/{digest}"), scope);
        match self.write(repository, &ask, digest.as_str()).await {
            Ok(reply) => Ok(reply.content_length()),
            Err(RegistryError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Has the registry take `digest` over from another of its repositories; returns whether it did.
    ///
    /// # Errors
    /// All that keeps it from a clear answer.
    pub async fn mount_blob(
        &self,
        to: &Reference,
        digest: &Digest,
        from_repository: &str,
    ) -> Result<bool, RegistryError> {
        let scope = Scope::mount(to.repository(), from_repository);
        let mut ask = begin(to, scope);
        ask.query = vec![("mount", digest.as_str()), ("from", from_repository)];
        let reply = self.write(to, &ask, digest.as_str()).await?;
        if reply.status() == StatusCode::CREATED {
            reply.finish(&self.config).await;
            return Ok(true);
        }
        // It opened an upload instead, which nobody is going to use.
        if let Ok(session) = self.session(reply, to, &ask.scope).await {
            session.cancel(self).await;
        }
        Ok(false)
    }

    /// Pushes `blob` in one request. `open` gives its bytes from an offset on, and is called anew for each try. Waits for one
    /// of the host's transfer permits.
    ///
    /// # Errors
    /// [`RegistryError::Source`] when the bytes cannot be read or are not as many as `blob` says, and all that keeps the
    /// registry from taking them after trying again.
    pub async fn push_blob(
        &self,
        to: &Reference,
        blob: &Descriptor,
        open: impl Fn(u64) -> BoxFuture<'static, Result<Content, io::Error>>,
    ) -> Result<(), RegistryError> {
        let _permit = self.upstream(to.registry())?.transfer().await;
        let mut retries = self.retries();
        loop {
            let ask = begin(to, Scope::push(to.repository()));
            let reply = self.write(to, &ask, to.repository()).await?;
            let session = self.session(reply, to, &ask.scope).await?;
            let sent = match open(0).await {
                Ok(content) => session.put(self, blob, content).await,
                Err(source) => Err(RegistryError::Source { source }),
            };
            let Err(error) = sent else { return Ok(()) };
            session.cancel(self).await;
            match error {
                // The session is lost; a fresh one may do.
                RegistryError::NotFound { .. } => retries.pause(error).await?,
                error => retries.after(error).await?,
            }
        }
    }

    /// Pushes `document` as it is, under the tag of `to` if it has one, else under its digest; returns its digest.
    ///
    /// # Errors
    /// [`RegistryError::Corrupt`] when `to` or the registry gives it another digest, and all that keeps the registry from
    /// taking it after trying again.
    pub async fn push_manifest(&self, to: &Reference, document: &Document) -> Result<Digest, RegistryError> {
        let algorithm = to.digest().map_or(Algorithm::Sha256, Digest::algorithm);
        let got = digest_of(document.bytes(), algorithm);
        if let Some(want) = to.digest().filter(|want| **want != got) {
            let want = want.clone();
            return Err(RegistryError::Corrupt { want, got });
        }
        let name = to.tag().map_or_else(|| got.to_string(), str::to_owned);
        let scope = Scope::push(to.repository());
        let mut ask = ask(to, Method::PUT, format!("manifests/{name}"), scope);
        let media_type = HeaderValue::from_str(document.media_type())
            .expect("a document's media type is one of a few constants");
        ask.headers.insert(CONTENT_TYPE, media_type);
        ask.body = Some(document.bytes().clone());
        let reply = self.write(to, &ask, &to.name()).await?;
        self.traffic().sent(document.bytes().len());
        let theirs = declared_digest(&reply).filter(|theirs| theirs.algorithm() == algorithm);
        reply.finish(&self.config).await;
        match theirs {
            Some(theirs) if theirs != got => Err(RegistryError::Corrupt { want: got, got: theirs }),
            _ => Ok(got),
        }
    }

    /// Asks the registry itself, again if need be, until it succeeds.
    async fn write(&self, to: &Reference, ask: &Ask<'_>, what: &str) -> Result<Reply, RegistryError> {
        let upstream = self.upstream(to.registry())?;
        let mut retries = self.retries();
        loop {
            let asked = match self.ask(upstream.origin(), ask).await {
                Ok(reply) => accept(reply, what, &self.config).await,
                Err(error) => Err(error),
            };
            match asked {
                Ok(reply) => return Ok(reply),
                Err(error) => retries.after(error).await?,
            }
        }
    }

    /// The upload that `reply` opened.
    async fn session(&self, reply: Reply, to: &Reference, scope: &Scope) -> Result<Session, RegistryError> {
        let upstream = self.upstream(to.registry())?;
        let authorization = self.offer(upstream.origin(), scope).await?;
        let session = Session::new(self, &reply, authorization);
        reply.finish(&self.config).await;
        session
    }
}

fn ask(to: &Reference, method: Method, path: String, scope: Scope) -> Ask<'_> {
    Ask {
        kind: Kind::Push,
        method,
        repository: to.repository(),
        path,
        query: Vec::new(),
        headers: HeaderMap::new(),
        scope,
        body: None,
    }
}

/// The request that opens an upload.
fn begin(to: &Reference, scope: Scope) -> Ask<'_> {
    let mut ask = ask(to, Method::POST, "blobs/uploads/".to_owned(), scope);
    ask.body = Some(bytes::Bytes::new());
    ask
}
