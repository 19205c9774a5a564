//! Blobs: `GET`, `HEAD` and `DELETE` of `/v2/<name>/blobs/<digest>`.

use futures::{StreamExt, TryStreamExt};
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, RANGE};
use http::{HeaderValue, Method, Response, StatusCode};
use larder_blobs::BlobError;
use larder_messages::{BlobDeleted, DeletionWanted};
use larder_oci::Digest;
use larder_provider::{Content, ProviderError};
use larder_runtime::metrics;

use super::manifest::is_known;
use super::place::Place;
use super::range::{Span, Wanted};
use super::reply::{CONTENT_DIGEST, Code, OUTCOME, Refusal, empty, header};
use super::tags::Outcome;
use super::{Asked, Distribution};
use crate::door::Body;
use crate::error::blob_error;

impl Distribution {
    pub(super) async fn get_blob(
        &self,
        asked: &Asked<'_>,
        place: &Place,
        digest: &Digest,
    ) -> Result<Response<Body>, Refusal> {
        self.prove(asked.caller, place, digest, Code::BlobUnknown).await?;
        let etag = header(&format!("\"{digest}\""));
        if asked.method == Method::HEAD || is_known(asked.headers, &etag) {
            return self.head_blob(asked, place, digest, etag).await;
        }
        let same = |tag: &str| tag.as_bytes() == etag.as_bytes();
        let wanted = asked.header(&RANGE).filter(|_| asked.header(&IF_RANGE).is_none_or(same));
        let wanted = wanted.and_then(Wanted::parse);
        let (content, outcome) = match self.open_stored(digest, wanted).await? {
            Some(content) => (content, Outcome::Hit),
            None => (self.open_cold(place, digest, wanted).await?, Outcome::Miss),
        };
        let span = wanted.map(|wanted| wanted.within(content.size)).transpose()?;
        Self::count(Self::BLOB, outcome);
        self.keep_in_use(digest);
        let content = self.watched(digest, place, content);
        Ok(show(digest, &etag, content, span, outcome))
    }

    /// Gives up a stored blob that turns out to be damaged while it is read, where upstream has another: the next request gets that.
    fn watched(&self, digest: &Digest, place: &Place, content: Content) -> Content {
        let (distribution, digest, has_upstream) = (self.clone(), digest.clone(), place.has_upstream);
        let bytes = content.bytes.inspect_err(move |error| {
            let ProviderError::Corrupt(_) = error else { return };
            tracing::error!(%digest, %error, has_upstream, "a stored blob is damaged");
            if has_upstream {
                let (blobs, digest) = (distribution.facade.blobs.clone(), digest.clone());
                distribution.runtime.spawn(async move {
                    if let Err(error) = blobs.delete(&digest).await {
                        tracing::error!(%digest, %error, "a damaged blob cannot be deleted");
                    }
                });
            }
        });
        Content { size: content.size, bytes: bytes.boxed() }
    }

    /// `HEAD` says 200 only if `GET` would.
    async fn head_blob(
        &self,
        asked: &Asked<'_>,
        place: &Place,
        digest: &Digest,
        etag: HeaderValue,
    ) -> Result<Response<Body>, Refusal> {
        let stored = self.facade.blobs.size(digest).await;
        let stored = stored.map_err(|error| Refusal::of(&blob_error(&error), Code::BlobUnknown))?;
        let (size, outcome) = match stored {
            Some(size) => (size, Outcome::Hit),
            None => (self.size_upstream(place, digest).await?, Outcome::Miss),
        };
        Self::count(Self::BLOB, outcome);
        let mut response = describe(digest, &etag, outcome);
        if is_known(asked.headers, &etag) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(size));
        Ok(response)
    }

    /// Opens a stored blob, or `wanted` of it; nothing when it is not stored.
    pub(super) async fn open_stored(
        &self,
        digest: &Digest,
        wanted: Option<Wanted>,
    ) -> Result<Option<Content>, Refusal> {
        let failed = |error: &BlobError| Refusal::of(&blob_error(error), Code::BlobUnknown);
        let blobs = &self.facade.blobs;
        let (offset, length) = match wanted {
            None => (0, None),
            Some(wanted @ Wanted::From { first, last }) if !wanted.is_inverted() => {
                (first, last.map(|last| (last - first).saturating_add(1)))
            }
            Some(wanted) => {
                let Some(size) = blobs.size(digest).await.map_err(|error| failed(&error))? else {
                    return Ok(None);
                };
                let span = wanted.within(size)?;
                (span.offset, Some(span.length))
            }
        };
        match blobs.read_range(digest, offset, length).await {
            Ok(content) => Ok(Some(crate::content::opened(content))),
            Err(BlobError::NotFound(_)) => Ok(None),
            Err(BlobError::OutOfRange { .. }) if wanted.is_some() => {
                let size = blobs.size(digest).await.map_err(|error| failed(&error))?.unwrap_or(0);
                let beyond = Wanted::From { first: size, last: None };
                Err(beyond.within(size).err().unwrap_or_else(|| failed(&BlobError::NotFound(digest.clone()))))
            }
            Err(error) => Err(failed(&error)),
        }
    }

    pub(super) async fn delete_blob(
        &self,
        asked: &Asked<'_>,
        place: &Place,
        digest: &Digest,
    ) -> Result<Response<Body>, Refusal> {
        self.prove(asked.caller, place, digest, Code::BlobUnknown).await?;
        let deleted = self.facade.ask::<_, BlobDeleted>(&DeletionWanted { digest: digest.clone() }).await;
        let deleted = deleted.map_err(|error| Refusal::of(&error, Code::BlobUnknown))?;
        if deleted.kept {
            let message = format!("{digest} belongs to an image that has a name here; delete that first");
            return Err(Refusal::new(Code::InUse, message));
        }
        if deleted.deleted {
            return Ok(empty(StatusCode::ACCEPTED));
        }
        Err(Refusal::new(Code::BlobUnknown, format!("{digest} is not here")))
    }
}

fn describe(digest: &Digest, etag: &HeaderValue, outcome: Outcome) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_DIGEST, header(digest.as_str()));
    headers.insert(ETAG, etag.clone());
    headers.insert(OUTCOME, HeaderValue::from_static(outcome.name()));
    response
}

fn show(
    digest: &Digest,
    etag: &HeaderValue,
    content: Content,
    span: Option<Span>,
    outcome: Outcome,
) -> Response<Body> {
    let mut response = describe(digest, etag, outcome);
    let size = content.size;
    let length = span.map_or(size, |span| span.length);
    if let Some(Span { offset, length }) = span {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = header(&format!("bytes {offset}-{}/{size}", offset + length - 1));
        response.headers_mut().insert(CONTENT_RANGE, range);
    }
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    let served = metrics::BYTES.with_label_values(&["served"]);
    let bytes = content.bytes.inspect(move |chunk| {
        if let Ok(chunk) = chunk {
            served.inc_by(chunk.len() as u64);
        }
    });
    *response.body_mut() = Body::from_content(length, bytes.boxed());
    response
}
