//! Blobs: streams of bytes that mend themselves.

use bytes::Bytes;
use http::header::{CONTENT_RANGE, ETAG, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use larder_oci::{Digest, Reference};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::answer::refuse;
use crate::auth::Scope;
use crate::client::{Ask, Client};
use crate::egress::Reply;
use crate::error::RegistryError;
use crate::patience::{RateFloor, Turns};
use crate::traffic::Kind;

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
/// [`Chunk::Restart`]. Holds one of the host's transfer permits while it lives.
pub struct BlobStream {
    client: Client,
    turns: Turns,
    repository: String,
    digest: Digest,
    /// The size that the caller knows, in bytes.
    size: Option<u64>,
    /// The size that the server declared, in bytes.
    total: Option<u64>,
    /// The strong entity tag that came with the bytes so far, and whose turn it was.
    tag: Option<(usize, HeaderValue)>,
    /// The offset of the next byte.
    at: u64,
    /// The highest offset from which going on counts as progress.
    progressed: u64,
    body: Option<Reply>,
    is_restart_due: bool,
    floor: RateFloor,
    _permit: OwnedSemaphorePermit,
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
        let turns = self.turns(repository.registry())?;
        let permit = turns.upstream.transfer().await;
        let mut stream = BlobStream {
            client: self.clone(),
            turns,
            repository: repository.repository().to_owned(),
            digest: digest.clone(),
            size,
            total: None,
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
}

impl BlobStream {
    /// The offset of the next byte. Falls back to 0 with a [`Chunk::Restart`].
    pub fn offset(&self) -> u64 {
        self.at
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
        self.size.or(self.total)
    }

    fn is_complete(&self) -> bool {
        self.size == Some(self.at)
    }

    fn too_slow(&self) -> RegistryError {
        RegistryError::TooSlow {
            host: self.turns.endpoint().host().to_owned(),
            floor_bytes_per_s: self.floor.bytes_per_s(),
        }
    }

    fn take(&mut self, bytes: Bytes) -> Result<Chunk, RegistryError> {
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
                    self.restart();
                }
                self.total = declared;
            }
            StatusCode::PARTIAL_CONTENT if self.at > 0 => {
                reply.check_encoding()?;
                let Some(range) = self.continuation(&reply) else {
                    self.restart();
                    return Ok(());
                };
                self.check_declared(range.total)?;
                self.total = range.total.or(self.total);
            }
            StatusCode::RANGE_NOT_SATISFIABLE if self.at > 0 => {
                self.restart();
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
        let mut headers = HeaderMap::new();
        if self.at > 0 {
            let range = format!("bytes={}-", self.at);
            let range = HeaderValue::try_from(range).expect("a range is printable ASCII");
            headers.insert(RANGE, range);
            if let Some(tag) = self.known_tag() {
                headers.insert(IF_RANGE, tag.clone());
            }
        }
        let ask = Ask {
            kind: Kind::BlobGet,
            method: Method::GET,
            repository: &self.repository,
            path: format!("blobs/{}", self.digest),
            query: Vec::new(),
            headers,
            scope: Scope::pull(&endpoint.repository(&self.repository)),
            body: None,
        };
        self.client.ask(endpoint, &ask).await
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
