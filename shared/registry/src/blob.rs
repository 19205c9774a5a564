//! Blobs: streams of bytes that mend themselves.

use bytes::Bytes;
use http::header::{CONTENT_RANGE, ETAG, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use larder_oci::{Digest, Reference};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::answer::{accept, refuse};
use crate::auth::Scope;
use crate::client::{Ask, Client};
use crate::egress::Reply;
use crate::error::RegistryError;
use crate::patience::{RateFloor, Turns};
use crate::traffic::Kind;
use crate::upstream::Endpoint;

/// A transfer that was cut after less than this has made no progress, so that a server that gives a byte per connection does
/// not hold us for ever.
pub(crate) const PROGRESS_BYTES_MIN: u64 = 64 << 10;

/// A piece of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// The next bytes.
    Bytes(Bytes),
    /// All that came so far, and all that came before the offset that was asked for, is void: the next bytes are the first.
    Restart,
}

/// The bytes of a blob as they come in; not yet verified.
///
/// When the transfer is cut it asks again for what is missing, from the next mirror or the registry, a bounded number of times
/// in a row without progress. It never joins bytes of which it cannot tell that they belong together: then it says
/// [`Chunk::Restart`]. Holds one of the host's transfer permits while it lives, if it is of a
/// whole blob.
pub struct BlobStream {
    client: Client,
    turns: Turns,
    repository: String,
    digest: Digest,
    /// The size that the caller knows, in bytes.
    size: Option<u64>,
    /// The size that the server declared, in bytes.
    total: Option<u64>,
    /// Where the wanted part ends, if it is not the whole blob.
    end: Option<u64>,
    /// The strong entity tag that came with the bytes so far, and whose turn it was.
    tag: Option<(usize, HeaderValue)>,
    /// The offset of the next byte.
    at: u64,
    /// The highest offset from which going on counts as progress.
    progressed: u64,
    body: Option<Reply>,
    is_restart_due: bool,
    floor: RateFloor,
    _permit: Option<OwnedSemaphorePermit>,
}

impl std::fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobStream")
            .field("digest", &self.digest)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Opens the blob `digest` of the repository of `repository`, from the byte `offset` on. `size` is what the manifest says;
    /// without it, the end of the body is taken for the end of the blob. Waits for one of the host's transfer permits.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] when the registry says so, [`RegistryError::WrongLength`] when it declares another size, and
    /// all that keeps it from an answer.
    pub async fn blob(
        &self,
        repository: &Reference,
        digest: &Digest,
        size: Option<u64>,
        offset: u64,
    ) -> Result<BlobStream, RegistryError> {
        let permit = self.upstream(repository.registry())?.transfer().await;
        let wish = Wish { size, offset, end: None, permit: Some(permit) };
        self.open_blob(repository, digest, wish).await
    }

    /// Opens `length` bytes of the blob `digest` of the repository of `repository`, from the byte `offset` on. They cannot be verified by
    /// themselves. The stream never says [`Chunk::Restart`]. It takes none of the host's transfer permits, which are for whole blobs: how
    /// many there are at a time is for the caller to bound.
    ///
    /// # Errors
    /// [`RegistryError::Protocol`] when the registry gives no parts of blobs, otherwise as [`Client::blob`].
    pub async fn blob_range(
        &self,
        repository: &Reference,
        digest: &Digest,
        offset: u64,
        length: u64,
    ) -> Result<BlobStream, RegistryError> {
        let end = Some(offset.saturating_add(length));
        self.open_blob(repository, digest, Wish { size: None, offset, end, permit: None }).await
    }

    async fn open_blob(
        &self,
        repository: &Reference,
        digest: &Digest,
        Wish { size, offset, end, permit }: Wish,
    ) -> Result<BlobStream, RegistryError> {
        let turns = self.turns(repository.registry())?;
        let mut stream = BlobStream {
            client: self.clone(),
            turns,
            repository: repository.repository().to_owned(),
            digest: digest.clone(),
            size,
            total: None,
            end,
            tag: None,
            at: offset,
            progressed: offset,
            body: None,
            is_restart_due: false,
            floor: RateFloor::new(&self.config),
            _permit: permit,
        };
        if !stream.is_complete() {
            stream.open().await?;
        }
        Ok(stream)
    }

    /// The size in bytes of the blob `digest` of the repository of `repository`; `None` is a registry's clear answer that it has no
    /// such blob. Its content is asked for only where the registry does not say otherwise, and then not read.
    ///
    /// # Errors
    /// [`RegistryError::Protocol`] when the registry does not say how long it is, and all that keeps it from a clear answer.
    pub async fn head_blob(
        &self,
        repository: &Reference,
        digest: &Digest,
    ) -> Result<Option<u64>, RegistryError> {
        let mut turns = self.turns(repository.registry())?;
        loop {
            let error = match self.blob_size_once(turns.endpoint(), repository, digest).await {
                Ok(size) => return Ok(Some(size)),
                Err(error) => error,
            };
            match turns.failed(error).await {
                Err(RegistryError::NotFound { .. }) => return Ok(None),
                failed => failed?,
            }
        }
    }

    async fn blob_size_once(
        &self,
        endpoint: &Endpoint,
        repository: &Reference,
        digest: &Digest,
    ) -> Result<u64, RegistryError> {
        let name = repository.repository();
        let head = ask(endpoint, (Kind::BlobHead, Method::HEAD), name, digest);
        let reply = self.ask(endpoint, &head).await?;
        let is_refused =
            matches!(reply.status(), StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED);
        if !is_refused {
            let reply = accept(reply, digest.as_str(), &self.config).await?;
            reply.check_encoding()?;
            if let Some(size) = reply.content_length() {
                return Ok(size);
            }
        }
        let get = ask(endpoint, (Kind::BlobGet, Method::GET), name, digest);
        let reply = self.ask(endpoint, &get).await?;
        let reply = accept(reply, digest.as_str(), &self.config).await?;
        reply.check_encoding()?;
        let what = "it does not say how long a blob is";
        reply.content_length().ok_or_else(|| RegistryError::Protocol { host: reply.authority(), what })
    }
}

/// Which bytes of a blob are wanted, and its size if that is known.
struct Wish {
    size: Option<u64>,
    offset: u64,
    end: Option<u64>,
    permit: Option<OwnedSemaphorePermit>,
}

fn ask<'a>(
    endpoint: &Endpoint,
    (kind, method): (Kind, Method),
    repository: &'a str,
    digest: &Digest,
) -> Ask<'a> {
    Ask {
        kind,
        method,
        repository,
        path: format!("blobs/{digest}"),
        query: Vec::new(),
        headers: HeaderMap::new(),
        scope: Scope::pull(&endpoint.repository(repository)),
        body: None,
    }
}

impl BlobStream {
    /// The offset of the next byte. Falls back to 0 with a [`Chunk::Restart`].
    pub fn offset(&self) -> u64 {
        self.at
    }

    /// The size of the blob in bytes, as the caller gave it or else the registry declares it.
    pub fn size(&self) -> Option<u64> {
        self.size.or(self.total)
    }

    /// The next piece, or `None` after the last.
    ///
    /// # Errors
    /// [`RegistryError::TooLong`] and [`RegistryError::TooShort`] when the size does not hold, and all that keeps it from going
    /// on after trying again.
    pub async fn next(&mut self) -> Result<Option<Chunk>, RegistryError> {
        loop {
            if std::mem::take(&mut self.is_restart_due) {
                return Ok(Some(Chunk::Restart));
            }
            let Some(body) = &mut self.body else {
                if self.is_complete() {
                    return Ok(None);
                }
                self.open().await?;
                continue;
            };
            let began = Instant::now();
            let frame = body.chunk(self.client.config.read_timeout()).await;
            match frame {
                Ok(Some(bytes)) => {
                    if self.floor.is_below(began.elapsed(), bytes.len()) {
                        let error = self.too_slow();
                        self.mend(error).await?;
                    }
                    if !bytes.is_empty() {
                        return self.take(bytes).map(Some);
                    }
                }
                Ok(None) => match self.expected() {
                    Some(size) if self.at < size => {
                        let got = self.at;
                        self.mend(RegistryError::TooShort { size, got }).await?;
                    }
                    _ if self.end.is_some() => {
                        let (size, got) = (self.end.unwrap_or_default(), self.at);
                        self.mend(RegistryError::TooShort { size, got }).await?;
                    }
                    _ => {
                        self.size = Some(self.at);
                        self.body = None;
                    }
                },
                // All is here, so nothing is lost with the connection.
                Err(_) if self.is_complete() => self.body = None,
                Err(error) => self.mend(error).await?,
            }
        }
    }

    fn expected(&self) -> Option<u64> {
        self.end.or(self.size).or(self.total)
    }

    fn is_complete(&self) -> bool {
        self.end.or(self.size) == Some(self.at)
    }

    fn too_slow(&self) -> RegistryError {
        RegistryError::TooSlow {
            host: self.turns.endpoint().host().to_owned(),
            floor_bytes_per_s: self.floor.bytes_per_s(),
        }
    }

    fn take(&mut self, mut bytes: Bytes) -> Result<Chunk, RegistryError> {
        if let Some(end) = self.end {
            // A registry may give more than it was asked for.
            bytes.truncate(usize::try_from(end - self.at).unwrap_or(usize::MAX));
        }
        let at = self.at + bytes.len() as u64;
        if let Some(size) = self.expected().filter(|size| at > *size) {
            self.body = None;
            return Err(RegistryError::TooLong { size });
        }
        self.at = at;
        Ok(Chunk::Bytes(bytes))
    }

    /// Drops the transfer and passes the turn on.
    async fn mend(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        self.body = None;
        self.floor.reset();
        if self.at >= self.progressed + PROGRESS_BYTES_MIN {
            self.progressed = self.at;
            self.turns.retries.reset();
        }
        self.turns.failed(error).await
    }

    fn restart(&mut self) {
        self.at = 0;
        self.tag = None;
        self.total = None;
        self.is_restart_due = true;
    }

    /// Asks in turn until someone gives the rest, or something that makes us start over.
    async fn open(&mut self) -> Result<(), RegistryError> {
        loop {
            match self.open_once().await {
                Ok(()) => return Ok(()),
                Err(error) => self.turns.failed(error).await?,
            }
        }
    }

    async fn open_once(&mut self) -> Result<(), RegistryError> {
        let reply = self.request().await?;
        match reply.status() {
            StatusCode::OK => {
                reply.check_encoding()?;
                let declared = reply.content_length();
                self.check_declared(declared)?;
                if self.at > 0 {
                    self.refuse_restart(&reply)?;
                    self.restart();
                }
                self.total = declared;
            }
            StatusCode::PARTIAL_CONTENT if self.asks_for_part() => {
                reply.check_encoding()?;
                let Some(range) = self.continuation(&reply) else {
                    self.refuse_restart(&reply)?;
                    self.restart();
                    return Ok(());
                };
                self.check_declared(range.total)?;
                self.total = range.total.or(self.total);
            }
            StatusCode::RANGE_NOT_SATISFIABLE if self.at > 0 && self.end.is_none() => {
                if self.is_all(&reply) {
                    self.size = Some(self.at);
                } else {
                    self.restart();
                }
                return Ok(());
            }
            status if status.is_success() => {
                return Err(RegistryError::Protocol {
                    host: reply.authority(),
                    what: "a whole blob was asked for, and it answers with something else",
                });
            }
            _ => return Err(refuse(reply, self.digest.as_str(), &self.client.config).await),
        }
        self.tag = strong_tag(&reply).map(|tag| (self.turns.turn(), tag));
        self.body = Some(reply);
        Ok(())
    }

    async fn request(&self) -> Result<Reply, RegistryError> {
        let endpoint = self.turns.endpoint();
        let mut ask = ask(endpoint, (Kind::BlobGet, Method::GET), &self.repository, &self.digest);
        if self.asks_for_part() {
            let last = self.end.map(|end| (end - 1).to_string()).unwrap_or_default();
            let range = format!("bytes={}-{last}", self.at);
            let range = HeaderValue::try_from(range).expect("a range is printable ASCII");
            ask.headers.insert(RANGE, range);
            if let Some(tag) = self.known_tag() {
                ask.headers.insert(IF_RANGE, tag.clone());
            }
        }
        self.client.ask(endpoint, &ask).await
    }

    fn asks_for_part(&self) -> bool {
        self.at > 0 || self.end.is_some()
    }

    /// Who wants a part cannot begin anew.
    fn refuse_restart(&self, reply: &Reply) -> Result<(), RegistryError> {
        let what = "a part of a blob was asked for, and it answers with something else";
        match self.end {
            Some(_) => Err(RegistryError::Protocol { host: reply.authority(), what }),
            None => Ok(()),
        }
    }

    /// Whether `reply` refuses to give more because there is no more.
    fn is_all(&self, reply: &Reply) -> bool {
        let total = reply.header(CONTENT_RANGE).and_then(|text| text.strip_prefix("bytes */"));
        self.size.is_none() && total.and_then(|total| total.parse().ok()) == Some(self.at)
    }

    /// The tag of the bytes so far, if they came from whose turn it is: others may tag the same bytes differently.
    fn known_tag(&self) -> Option<&HeaderValue> {
        let (turn, tag) = self.tag.as_ref()?;
        (*turn == self.turns.turn()).then_some(tag)
    }

    /// The range that `reply` gives, if it continues the bytes so far.
    fn continuation(&self, reply: &Reply) -> Option<ContentRange> {
        let range = ContentRange::parse(reply.header(CONTENT_RANGE)?)?;
        let is_same_tag = match (self.known_tag(), strong_tag(reply)) {
            (Some(before), Some(now)) => *before == now,
            _ => true,
        };
        let is_same_total = match (self.total, range.total) {
            (Some(before), Some(now)) => before == now,
            _ => true,
        };
        (range.start == self.at && is_same_tag && is_same_total).then_some(range)
    }

    fn check_declared(&self, declared: Option<u64>) -> Result<(), RegistryError> {
        match (self.size, declared) {
            (Some(want), Some(got)) if want != got => Err(RegistryError::WrongLength { want, got }),
            _ => Ok(()),
        }
    }
}

fn strong_tag(reply: &Reply) -> Option<HeaderValue> {
    let tag = reply.headers().get(ETAG)?;
    tag.as_bytes().starts_with(b"\"").then(|| tag.clone())
}

/// What `bytes 5-9/10` says: where it starts, and the size of the whole, which may be unknown.
struct ContentRange {
    start: u64,
    total: Option<u64>,
}

impl ContentRange {
    fn parse(text: &str) -> Option<Self> {
        let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (start, end) = range.split_once('-')?;
        let (start, end): (u64, u64) = (start.parse().ok()?, end.parse().ok()?);
        let total: Option<u64> = match total {
            "*" => None,
            total => Some(total.parse().ok()?),
        };
        (start <= end && total.is_none_or(|total| end < total)).then_some(Self { start, total })
    }
}
