//! What is not here yet: asked for once for all who want it, and read while it comes in.
//!
//! The fetcher that brings a blob in may be in this process, where the growing blob is read from the store, or in another, which then
//! says where it can be read. What another process gives is hashed again here.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use larder_blobs::Filling;
use larder_messages::{
    BlobProgress, BlobRejected, BlobSeen, BlobSought, BlobStored, BlobWanted, Reason, topic,
};
use larder_oci::{Digest, Digester};
use larder_provider::{Content, ProviderError};

use super::Distribution;
use super::place::Place;
use super::range::Wanted;
use super::reply::{Code, Refusal};
use crate::error::blob_error;

/// A part that begins no further ahead of what is there than this is waited for; what lies further is asked for by itself.
const AHEAD_BYTES_MAX: u64 = 16 << 20;
/// How often the reading of a blob that another process brings in is taken up again after it broke.
const RESUMED_MAX: u32 = 5;
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
const SILENT_MAX: Duration = Duration::from_mins(1);

/// Where a blob that was asked for can be read.
pub(super) enum Source {
    /// In the store.
    Stored,
    /// While this process brings it in.
    Here(Filling, u64),
    /// While another process brings it in.
    There { url: String, size: u64 },
}

/// Reads what fetchers of other processes bring in.
#[derive(Clone)]
pub(super) struct Peers(reqwest::Client);

pub(super) fn peers() -> Peers {
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_WITHIN)
        .read_timeout(SILENT_MAX);
    Peers(client.build().expect("the settings of this client are constants"))
}

impl Distribution {
    /// Has a blob brought in, and returns when it is stored.
    pub(super) async fn fetch(
        &self,
        place: &Place,
        digest: &Digest,
        is_manifest: bool,
    ) -> Result<(), Refusal> {
        let topics = [topic::<BlobStored>(None), topic::<BlobRejected>(None)];
        self.bring(place, digest, is_manifest, &topics, |heard| {
            let stored = heard.of::<BlobStored>().filter(|news| news.digest == *digest);
            stored.map(|_| ())
        })
        .await
    }

    /// Has a blob brought in, and returns as soon as `wanted` of it can be read from somewhere.
    async fn source(
        &self,
        place: &Place,
        digest: &Digest,
        wanted: Option<Wanted>,
    ) -> Result<Source, Refusal> {
        if let Some(source) = self.here(digest, wanted) {
            return Ok(source);
        }
        let topics = [topic::<BlobStored>(None), topic::<BlobRejected>(None), topic::<BlobProgress>(None)];
        self.bring(place, digest, false, &topics, |heard| {
            if heard.of::<BlobStored>().is_some_and(|news| news.digest == *digest) {
                return Some(Source::Stored);
            }
            let progress = heard.of::<BlobProgress>().filter(|news| news.digest == *digest)?;
            self.here(digest, wanted).or_else(|| {
                let (url, size) = (progress.at?, progress.size?);
                Some(Source::There { url, size })
            })
        })
        .await
    }

    /// The blob, if this process brings it in and has come close enough to what is wanted.
    fn here(&self, digest: &Digest, wanted: Option<Wanted>) -> Option<Source> {
        let filling = self.facade.blobs.filling(digest)?;
        let size = filling.size()?;
        let first = wanted.map_or(0, |wanted| wanted.within(size).map_or(0, |span| span.offset));
        (first <= filling.written() + AHEAD_BYTES_MAX).then_some(Source::Here(filling, size))
    }

    async fn bring<T>(
        &self,
        place: &Place,
        digest: &Digest,
        is_manifest: bool,
        topics: &[String],
        mut judge: impl FnMut(&larder_runtime::Heard) -> Option<T>,
    ) -> Result<T, Refusal> {
        let code = if is_manifest { Code::ManifestUnknown } else { Code::BlobUnknown };
        let unknown = || Refusal::new(code, format!("{digest} is not here"));
        let key = (place.repository.clone(), digest.clone());
        if !place.has_upstream || self.absent.contains_key(&key) {
            return Err(unknown());
        }
        let from = place.at(digest);
        let wanted = BlobWanted { digest: digest.clone(), size: None, is_manifest, from: from.clone() };
        let brought = self.facade.ask_on(topics, &wanted, |heard| {
            if let Some(rejected) = heard.of::<BlobRejected>() {
                // What another repository does not have, this one may.
                let is_ours = rejected.digest == *digest && rejected.from == from;
                return is_ours.then_some(Err::<T, Reason>(rejected.reason));
            }
            judge(heard).map(Ok)
        });
        brought.await.map_err(|error| {
            if error.is_not_found() {
                self.absent.insert(key, ());
                return unknown();
            }
            tracing::warn!(%from, %error, "cannot bring a blob in");
            Refusal::of(&error, code)
        })
    }

    /// The size of a blob that is not here, as upstream gives it.
    pub(super) async fn size_upstream(&self, place: &Place, digest: &Digest) -> Result<u64, Refusal> {
        let unknown = || Refusal::new(Code::BlobUnknown, format!("{digest} is not here"));
        let key = (place.repository.clone(), digest.clone());
        if !place.has_upstream || self.absent.contains_key(&key) {
            return Err(unknown());
        }
        let seen = self.facade.ask::<_, BlobSeen>(&BlobSought { at: place.at(digest) }).await;
        match seen.map_err(|error| Refusal::of(&error, Code::BlobUnknown))?.size {
            Some(size) => Ok(size),
            None => {
                self.absent.insert(key, ());
                Err(unknown())
            }
        }
    }

    /// Opens a blob that is not here, or `wanted` of it, for reading while it comes in.
    pub(super) async fn open_cold(
        &self,
        place: &Place,
        digest: &Digest,
        wanted: Option<Wanted>,
    ) -> Result<Content, Refusal> {
        match self.source(place, digest, wanted).await? {
            Source::Stored => self.open_stored(digest, wanted).await?.ok_or_else(|| {
                Refusal::new(Code::Unavailable, format!("{digest} came and was deleted; try again"))
            }),
            Source::Here(filling, size) => {
                let (offset, length) = match wanted {
                    Some(wanted) => {
                        let span = wanted.within(size)?;
                        (span.offset, Some(span.length))
                    }
                    None => (0, None),
                };
                Ok(Content { size, bytes: growing(&filling, offset, length) })
            }
            Source::There { url, size } => {
                let span = wanted.map(|wanted| wanted.within(size)).transpose()?;
                let (at, end) = span.map_or((0, size), |span| (span.offset, span.offset + span.length));
                // A part cannot be proven by itself.
                let digester = wanted.is_none().then(|| Digester::new(digest.algorithm()));
                let relay = Relay {
                    distribution: self.clone(),
                    place: place.clone(),
                    digest: digest.clone(),
                    chunks: Some(self.read_there(&url, at, end - at).await),
                    digester,
                    at,
                    end,
                    held: None,
                    resumed: 0,
                };
                let bytes = stream::try_unfold(relay, Relay::next).boxed();
                Ok(Content { size, bytes })
            }
        }
    }

    /// What another process has of a blob; its errors come with the first chunk.
    async fn read_there(&self, url: &str, offset: u64, length: u64) -> Chunks {
        let answer = self.peers.0.get(url).query(&[("offset", offset), ("length", length)]).send().await;
        match answer.and_then(reqwest::Response::error_for_status) {
            Ok(answer) => answer.bytes_stream().map_err(|error| lost(&error.without_url())).boxed(),
            Err(error) => stream::iter([Err(lost(&error.without_url()))]).boxed(),
        }
    }
}

fn growing(filling: &Filling, offset: u64, length: Option<u64>) -> Chunks {
    filling.read(offset, length).map_err(|error| blob_error(&error)).boxed()
}

type Chunks = BoxStream<'static, Result<Bytes, ProviderError>>;

/// The address holds a secret, and so is not told.
fn lost(error: &reqwest::Error) -> ProviderError {
    ProviderError::Unavailable(format!("the fetcher that brings the blob in was lost: {error}"))
}

/// A blob on its way from another process.
struct Relay {
    distribution: Distribution,
    place: Place,
    digest: Digest,
    chunks: Option<Chunks>,
    /// What was passed on so far; nothing when only a part of the blob is.
    digester: Option<Digester>,
    at: u64,
    end: u64,
    /// The last chunk, until the digest held.
    held: Option<Bytes>,
    resumed: u32,
}

impl Relay {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, ProviderError> {
        while let Some(chunks) = &mut self.chunks {
            if self.at == self.end {
                self.chunks = None;
                self.check()?;
                break;
            }
            match chunks.try_next().await {
                Ok(Some(mut bytes)) => {
                    let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
                    bytes.truncate(left);
                    self.at += bytes.len() as u64;
                    if let Some(digester) = &mut self.digester {
                        digester.update(&bytes);
                    }
                    if let Some(ready) = self.held.replace(bytes) {
                        return Ok(Some((ready, self)));
                    }
                }
                Ok(None) => self.resume(ProviderError::Unavailable("the fetcher stopped".to_owned())).await?,
                Err(error) => self.resume(error).await?,
            }
        }
        Ok(self.held.take().map(|last| (last, self)))
    }

    fn check(&mut self) -> Result<(), ProviderError> {
        match self.digester.take().map(Digester::finish) {
            Some(got) if got != self.digest => {
                Err(ProviderError::Corrupt(format!("expected {}, a fetcher gave {got}", self.digest)))
            }
            _ => Ok(()),
        }
    }

    /// Goes on where the reading broke: from the store, or from who brings the blob in now.
    async fn resume(&mut self, error: ProviderError) -> Result<(), ProviderError> {
        self.resumed += 1;
        if self.resumed > RESUMED_MAX {
            return Err(error);
        }
        tracing::debug!(digest = %self.digest, at = self.at, %error, "reading of a growing blob is taken up again");
        let (from, left) = (self.at, self.end - self.at);
        let wanted = Some(Wanted::From { first: from, last: Some(self.end - 1) });
        let source = self.distribution.source(&self.place, &self.digest, wanted).await;
        self.chunks =
            Some(match source.map_err(|refusal| ProviderError::Unavailable(refusal.message.into()))? {
                Source::Stored => {
                    let read =
                        self.distribution.facade.blobs.read_range(&self.digest, from, Some(left)).await;
                    crate::content::opened(read.map_err(|error| blob_error(&error))?).bytes
                }
                Source::Here(filling, _) => growing(&filling, from, Some(left)),
                Source::There { url, .. } => self.distribution.read_there(&url, from, left).await,
            });
        Ok(())
    }
}
