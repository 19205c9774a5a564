//! Pushing: always to the registry itself, never to a mirror.

use std::io;

use futures::future::BoxFuture;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use larder_oci::{Algorithm, Descriptor, Digest, Document, Reference};

use crate::answer::accept;
use crate::auth::Scope;
use crate::blob::PROGRESS_BYTES_MIN;
use crate::client::{Ask, Client};
use crate::egress::Reply;
use crate::error::RegistryError;
use crate::feed::{Content, Feed};
use crate::manifest::{declared_digest, digest_of};
use crate::patience::Retries;
use crate::traffic::Kind;
use crate::upload::Session;

/// The length in bytes of the pieces in which what was cut is sent on, unless another is configured.
const PIECE_BYTES: u64 = 16 << 20;

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
        if let Ok(session) = self.session(reply, to, ask.scope).await {
            session.cancel(self).await;
        }
        Ok(false)
    }

    /// Pushes `blob`: in one request, unless the configuration or the registry wants pieces. `open` gives its bytes from an
    /// offset on, and is called anew for each try. An upload that is cut goes on from what the registry has of it, if it can
    /// tell. Waits for one of the host's transfer permits. Returns whether the registry says that what it has got has that digest:
    /// when it does not, only whoever gave the bytes can tell.
    ///
    /// # Errors
    /// [`RegistryError::Source`] when the bytes cannot be read or are not as many as `blob` says, [`RegistryError::Corrupt`] when
    /// the registry says that it has got another digest, and all that keeps it from taking them after trying again.
    pub async fn push_blob(
        &self,
        to: &Reference,
        blob: &Descriptor,
        open: impl Fn(u64) -> BoxFuture<'static, Result<Content, io::Error>>,
    ) -> Result<bool, RegistryError> {
        let _permit = self.upstream(to.registry())?.transfer().await;
        let (mut retries, mut progressed) = (self.retries(), 0);
        let mut piece_bytes = self.config.push_chunk_bytes;
        let mut resumed = None;
        loop {
            let is_resumed = resumed.is_some();
            let (mut session, offset) = match resumed.take() {
                Some(resumed) => resumed,
                None => (self.open_session(to).await?, 0),
            };
            let piece = if is_resumed { pieces_of(piece_bytes) } else { piece_bytes };
            let error = match self.send(&mut session, blob, offset, piece, &open).await {
                Ok(is_confirmed) => return Ok(is_confirmed),
                Err(error) => error,
            };
            let mend = Mend::of(&error, piece, is_resumed);
            if mend == Mend::None {
                session.cancel(self).await;
                return Err(error);
            }
            if let Err(error) = retries.pause(error).await {
                session.cancel(self).await;
                return Err(error);
            }
            if mend == Mend::Resume {
                resumed = self.resume(session, blob, &mut retries).await?;
            } else {
                session.cancel(self).await;
            }
            if mend == Mend::InPieces {
                piece_bytes = pieces_of(piece_bytes);
            }
            let kept = resumed.as_ref().map_or(0, |(_, offset)| *offset);
            if kept >= progressed + PROGRESS_BYTES_MIN {
                progressed = kept;
                retries.reset();
            }
        }
    }

    /// Sends what is after `offset` and closes the session; in one request if `piece_bytes` is 0.
    async fn send(
        &self,
        session: &mut Session,
        blob: &Descriptor,
        offset: u64,
        piece_bytes: u64,
        open: impl Fn(u64) -> BoxFuture<'static, Result<Content, io::Error>>,
    ) -> Result<bool, RegistryError> {
        if piece_bytes > 0 && offset == blob.size {
            return session.close(self, blob).await;
        }
        let content = open(offset).await.map_err(|source| RegistryError::Source { source })?;
        let feed = Feed::new(self, blob.size, offset, content);
        if piece_bytes == 0 {
            return session.put(self, blob, &feed).await;
        }
        let piece_bytes = piece_bytes.max(session.piece_bytes_min);
        while feed.position() < blob.size {
            let end = feed.position().saturating_add(piece_bytes).min(blob.size);
            session.patch(self, &feed, end).await?;
        }
        session.close(self, blob).await
    }

    /// The session with the bytes that the registry has of it; `None` when it cannot go on.
    async fn resume(
        &self,
        mut session: Session,
        blob: &Descriptor,
        retries: &mut Retries,
    ) -> Result<Option<(Session, u64)>, RegistryError> {
        loop {
            let error = match session.status(self).await {
                Ok(offset) if offset <= blob.size => return Ok(Some((session, offset))),
                Ok(_) | Err(RegistryError::NotFound { .. }) => return Ok(None),
                Err(error) => error,
            };
            if matches!(error, RegistryError::Unreachable { .. } | RegistryError::TimedOut { .. }) {
                retries.after(error).await?;
            } else {
                tracing::debug!(%error, "an upload cannot be resumed");
                session.cancel(self).await;
                return Ok(None);
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
        self.confirmed(reply, &got).await?;
        Ok(got)
    }

    /// Whether `reply` says that what the registry has got has the digest `want`; it need not say.
    pub(crate) async fn confirmed(&self, reply: Reply, want: &Digest) -> Result<bool, RegistryError> {
        let theirs = declared_digest(&reply).filter(|theirs| theirs.algorithm() == want.algorithm());
        reply.finish(&self.config).await;
        match theirs {
            Some(got) if got != *want => Err(RegistryError::Corrupt { want: want.clone(), got }),
            theirs => Ok(theirs.is_some()),
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

    async fn open_session(&self, to: &Reference) -> Result<Session, RegistryError> {
        let ask = begin(to, Scope::push(to.repository()));
        let reply = self.write(to, &ask, to.repository()).await?;
        self.session(reply, to, ask.scope).await
    }

    /// The upload that `reply` opened.
    async fn session(&self, reply: Reply, to: &Reference, scope: Scope) -> Result<Session, RegistryError> {
        let session = Session::new(self, &reply, self.upstream(to.registry())?, scope);
        reply.finish(&self.config).await;
        session
    }
}

/// What can be done about an upload that failed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mend {
    /// Nothing.
    None,
    /// To go on from what the registry has.
    Resume,
    /// To send it all again.
    Afresh,
    /// To send it all again, in smaller requests.
    InPieces,
}

impl Mend {
    fn of(error: &RegistryError, piece_bytes: u64, is_resumed: bool) -> Self {
        match error {
            RegistryError::Source { .. } => Self::None,
            // The session is lost, or its token is.
            RegistryError::NotFound { .. } | RegistryError::Unauthorized { .. } => Self::Afresh,
            error if error.is_retryable() => Self::Resume,
            _ if piece_bytes == 0 && matches!(error.status(), Some(411 | 413)) => Self::InPieces,
            // What was joined may not belong together.
            _ if is_resumed => Self::Afresh,
            RegistryError::Protocol { .. } => Self::Resume,
            _ if error.status() == Some(416) => Self::Resume,
            _ => Self::None,
        }
    }
}

/// The length of the pieces where there have to be some.
fn pieces_of(configured_bytes: u64) -> u64 {
    if configured_bytes == 0 { PIECE_BYTES } else { configured_bytes }
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
