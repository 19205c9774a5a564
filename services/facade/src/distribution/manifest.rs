//! Manifests: `GET`, `HEAD`, `PUT` and `DELETE` of `/v2/<name>/manifests/<reference>`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AGE, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION, WARNING};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use larder_messages::{BlobDeleted, DeletionWanted, ImageStored, Naming, Reach};
use larder_oci::{Descriptor, Digest, Document, Expected, MANIFEST_BYTES_MAX, Reference};
use larder_provider::ProviderError;
use moka::sync::Cache;

use super::place::Place;
use super::reply::{CONTENT_DIGEST, Code, OUTCOME, Refusal, SUBJECT, TAG, empty, header};
use super::tags::Outcome;
use super::{Asked, Distribution, broken};
use crate::door::Body;
use crate::error::blob_error;

/// How many tags one push of a manifest may give.
const TAGS_MAX: usize = 100;
/// How many bytes of manifests are kept in memory.
const HELD_BYTES_MAX: u64 = 32 << 20;
/// How long one is, at the longest: what was deleted meanwhile without a word is gone then.
const HELD_FOR: Duration = Duration::from_mins(1);

/// A manifest that was read and hashed, with the headers that go with it.
pub(super) struct Held {
    bytes: Bytes,
    media_type: HeaderValue,
    digest: HeaderValue,
    etag: HeaderValue,
}

pub(super) fn held() -> Cache<Digest, Arc<Held>> {
    let weight = |_: &Digest, held: &Arc<Held>| u32::try_from(held.bytes.len() + 512).unwrap_or(u32::MAX);
    Cache::builder().max_capacity(HELD_BYTES_MAX).weigher(weight).time_to_live(HELD_FOR).build()
}

impl Distribution {
    pub(super) async fn get_manifest(
        &self,
        asked: &Asked<'_>,
        place: &Place,
        name: &str,
    ) -> Result<Response<Body>, Refusal> {
        let reference = place.image(name)?;
        let (digest, media_type, mut outcome, age_s) = match reference.digest() {
            Some(digest) => (digest.clone(), None, Outcome::Hit, None),
            None => {
                let resolved = self.tags.resolve(place, &reference).await?;
                let root = resolved.root;
                (root.digest, Some(root.media_type), resolved.outcome, resolved.age_s)
            }
        };
        if reference.digest().is_some() {
            self.prove(asked.caller, place, &digest, Code::ManifestUnknown).await?;
        }
        let held = match self.held(&digest, media_type.as_deref()).await? {
            Some(held) => held,
            None => {
                outcome = Outcome::Miss;
                self.fetch_manifest(place, &digest, media_type.as_deref()).await?
            }
        };
        Self::count(Self::MANIFEST, outcome);
        self.keep_in_use(&digest);
        Ok(show(asked, &held, outcome, age_s))
    }

    /// The manifest `digest`, if it is stored and one.
    pub(super) async fn held(
        &self,
        digest: &Digest,
        media_type: Option<&str>,
    ) -> Result<Option<Arc<Held>>, Refusal> {
        if let Some(held) = self.held.get(digest) {
            // What was deleted through another facade is gone here, too, whether it was heard of yet or not.
            let stored = self.facade.blobs.size(digest).await;
            let stored = stored.map_err(|error| Refusal::of(&blob_error(&error), Code::ManifestUnknown))?;
            if stored.is_none() {
                self.held.invalidate(digest);
            }
            return Ok(stored.map(|_| held));
        }
        let bytes = match self.facade.blobs.read_small(digest, MANIFEST_BYTES_MAX as u64).await {
            Ok(bytes) => bytes,
            Err(larder_blobs::BlobError::NotFound(_)) => return Ok(None),
            // A blob too large to be a manifest is none.
            Err(larder_blobs::BlobError::WrongSize { .. }) => return Err(unknown(digest)),
            Err(error) if error.is_integrity() => {
                tracing::error!(%digest, %error, "a stored manifest is damaged; it is deleted and fetched again");
                let deleted = self.facade.blobs.delete(digest).await;
                deleted.map_err(|error| Refusal::of(&blob_error(&error), Code::ManifestUnknown))?;
                return Ok(None);
            }
            Err(error) => return Err(Refusal::of(&blob_error(&error), Code::ManifestUnknown)),
        };
        let document = Document::parse(bytes, media_type).map_err(|_| unknown(digest))?;
        let held = Arc::new(Held {
            media_type: header(document.media_type()),
            digest: header(digest.as_str()),
            etag: header(&format!("\"{digest}\"")),
            bytes: document.bytes().clone(),
        });
        self.held.insert(digest.clone(), Arc::clone(&held));
        Ok(Some(held))
    }

    async fn fetch_manifest(
        &self,
        place: &Place,
        digest: &Digest,
        media_type: Option<&str>,
    ) -> Result<Arc<Held>, Refusal> {
        self.fetch(place, digest, true).await?;
        self.held(digest, media_type).await?.ok_or_else(|| unknown(digest))
    }

    pub(super) async fn put_manifest(
        &self,
        asked: Asked<'_>,
        place: &Place,
        name: &str,
        body: Body,
    ) -> Result<Response<Body>, Refusal> {
        let reference = place.image(name)?;
        // What is pushed by its digest can get tags in the same breath.
        let tags = asked.queries("tag").map(|tag| place.tag(&tag)).collect::<Result<Vec<_>, _>>()?;
        if tags.len() > TAGS_MAX || (reference.digest().is_none() && !tags.is_empty()) {
            let message = format!("up to {TAGS_MAX} tags can be given to what is pushed by its digest");
            return Err(Refusal::new(Code::TooManyTags, message));
        }
        let media_type = asked.header(&CONTENT_TYPE).map(str::to_owned);
        let caller = asked.caller;
        let bytes = body.read_all(MANIFEST_BYTES_MAX).await.map_err(|error| broken(&error))?;
        let refused = |error: larder_oci::OciError| Refusal::new(Code::ManifestInvalid, chain(&error));
        let document = Document::parse(bytes, media_type.as_deref()).map_err(refused)?;
        let mut root = document.descriptor();
        if let Some(digest) = reference.digest() {
            root.digest = digest.clone();
        }
        for child in document.children() {
            self.prove(caller, place, &child.digest, Code::ManifestBlobUnknown).await?;
        }
        let put = self.facade.blobs.put(&root.digest, document.bytes().clone()).await;
        put.map_err(|error| match error {
            larder_blobs::BlobError::Corrupt { .. } => Refusal::new(Code::DigestInvalid, chain(&error)),
            error => Refusal::of(&blob_error(&error), Code::ManifestInvalid),
        })?;
        let digest = root.digest.clone();
        for name in std::iter::once(&reference).chain(&tags) {
            self.give_name(name, &root).await?;
        }
        let mut response = empty(StatusCode::CREATED);
        let headers = response.headers_mut();
        headers.insert(LOCATION, header(&place.path_of(&format!("manifests/{digest}"))));
        headers.insert(CONTENT_DIGEST, header(digest.as_str()));
        if let Some(subject) = document.subject() {
            headers.insert(SUBJECT, header(subject.digest.as_str()));
        }
        for tag in tags.iter().filter_map(Reference::tag) {
            headers.append(TAG, header(tag));
        }
        Ok(response)
    }

    /// Points `name` to what was pushed, once it was judged.
    async fn give_name(&self, name: &Reference, root: &Descriptor) -> Result<(), Refusal> {
        let naming = Naming::Written { expected: Expected::Any };
        let stored = ImageStored::written(name.clone(), root.clone(), Reach::Sparse, naming);
        let settled = self.facade.settle(&stored).await;
        settled.map_err(|error| match error {
            ProviderError::Corrupt(message) => Refusal::new(Code::ManifestInvalid, message),
            error => Refusal::of(&error, Code::ManifestInvalid),
        })?;
        self.tags.forget(&name.name()).await;
        Ok(())
    }

    pub(super) async fn delete_manifest(
        &self,
        asked: &Asked<'_>,
        place: &Place,
        name: &str,
    ) -> Result<Response<Body>, Refusal> {
        let reference = place.image(name)?;
        let failed = |error: ProviderError| Refusal::of(&error, Code::ManifestUnknown);
        let Some(digest) = reference.digest() else {
            let existed = self.drop_name(&reference.name()).await.map_err(failed)?;
            return if existed { Ok(empty(StatusCode::ACCEPTED)) } else { Err(unknown(&reference)) };
        };
        self.prove(asked.caller, place, digest, Code::ManifestUnknown).await?;
        let mut existed = false;
        for (name, root) in self.names_of(place).await? {
            if root.digest == *digest {
                existed |= self.drop_name(&name).await.map_err(failed)?;
            }
        }
        let deleted: BlobDeleted =
            self.facade.ask(&DeletionWanted { digest: digest.clone() }).await.map_err(failed)?;
        self.held.invalidate(digest);
        if existed || deleted.deleted { Ok(empty(StatusCode::ACCEPTED)) } else { Err(unknown(&reference)) }
    }

    async fn drop_name(&self, name: &str) -> Result<bool, ProviderError> {
        let existed = self.facade.drop_exactly(name).await?;
        self.tags.forget(name).await;
        Ok(existed)
    }
}

fn show(asked: &Asked<'_>, held: &Held, outcome: Outcome, age_s: Option<u64>) -> Response<Body> {
    let is_known = is_known(asked.headers, &held.etag);
    let mut response = Response::new(Body::empty());
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(CONTENT_DIGEST, held.digest.clone());
    headers.insert(ETAG, held.etag.clone());
    headers.insert(OUTCOME, HeaderValue::from_static(outcome.name()));
    if let Some(age_s) = age_s {
        headers.insert(AGE, HeaderValue::from(age_s));
        headers.insert(WARNING, HeaderValue::from_static("110 larder \"Response is Stale\""));
    }
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    headers.insert(CONTENT_TYPE, held.media_type.clone());
    headers.insert(CONTENT_LENGTH, HeaderValue::from(held.bytes.len()));
    if asked.method != Method::HEAD {
        *response.body_mut() = Body::full(held.bytes.clone());
    }
    response
}

/// Whether the client has what `etag` names already (RFC 9110, section 13.1.2).
pub(super) fn is_known(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let given = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = given.flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == etag.as_bytes())
}

pub(super) fn unknown(what: &impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::ManifestUnknown, format!("{what} is not here"))
}

fn chain(error: &dyn std::error::Error) -> String {
    crate::error::chain(error)
}
