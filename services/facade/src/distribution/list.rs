//! Lists: repositories, the tags of one, and what refers to a manifest.

use std::collections::{BTreeMap, BTreeSet};

use http::header::{LINK, WARNING};
use http::{HeaderValue, Response};
use larder_messages::{Listing, ListingSeen, ListingSought};
use larder_oci::{Descriptor, Digest, Document, MANIFEST_BYTES_MAX, Reference, media_type};
use larder_provider::ProviderError;
use serde::Deserialize;

use super::place::Place;
use super::reply::{Code, FILTERS_APPLIED, Refusal, header, json};
use super::{Asked, Distribution};
use crate::door::Body;
use crate::door::access::Action;
use crate::error::{blob_error, catalog_error};

/// Entries of a list in one answer, when nobody asks for fewer.
const PAGE_MAX: usize = 1_000;
/// The longest list that a fetcher stores, in bytes.
const LIST_BYTES_MAX: u64 = 32 << 20;

/// A list of upstream, as far as it is known.
enum Upstream<T> {
    Known(T),
    /// It could not be asked.
    Away,
}

impl Distribution {
    pub(super) async fn list_repositories(&self, asked: &Asked<'_>) -> Result<Response<Body>, Refusal> {
        let records = self.facade.catalog.list().await;
        let records = records.map_err(|error| Refusal::of(&catalog_error(&error), Code::NameUnknown))?;
        let references = records.iter().filter_map(|record| record.name.parse::<Reference>().ok());
        let repository =
            |reference: Reference| format!("{}/{}", reference.registry(), reference.repository());
        let mut repositories: BTreeSet<String> = references.map(repository).collect();
        repositories.retain(|repository| self.access.allows(asked.caller, Action::Pull, repository));
        let page = Page::asked(asked)?;
        let (shown, next) = page.cut(repositories.into_iter().collect());
        let body = serde_json::json!({ "repositories": shown }).to_string();
        Ok(linked(json(asked.method, "application/json", body), "/v2/_catalog", next.as_ref()))
    }

    pub(super) async fn list_tags(
        &self,
        asked: &Asked<'_>,
        place: &Place,
    ) -> Result<Response<Body>, Refusal> {
        let page = Page::asked(asked)?;
        let local = self.names_of(place).await?;
        let mut tags: BTreeSet<String> = local
            .iter()
            .filter_map(|(name, _)| name.parse::<Reference>().ok()?.tag().map(str::to_owned))
            .collect();
        let upstream =
            self.listing(place, Listing::Tags, |bytes| serde_json::from_slice::<Vec<String>>(bytes).ok());
        let upstream = upstream.await;
        let is_away = matches!(upstream, Ok(Upstream::Away));
        match upstream {
            Ok(Upstream::Known(theirs)) => tags.extend(theirs.into_iter().flatten()),
            // What only upstream could have, and it refuses, is an error only when there is nothing here either.
            Err(refusal) if local.is_empty() => return Err(refusal),
            Ok(Upstream::Away) | Err(_) => {}
        }
        if is_away && local.is_empty() {
            return Err(Refusal::new(
                Code::Upstream,
                "upstream could not be asked, and there is nothing here",
            ));
        }
        if tags.is_empty() && local.is_empty() {
            return Err(Refusal::new(Code::NameUnknown, format!("there is no {} here", place.repository)));
        }
        let (shown, next) = page.cut(tags.into_iter().collect());
        let body = serde_json::json!({ "name": place.path, "tags": shown }).to_string();
        let response = json(asked.method, "application/json", body);
        let mut response = linked(response, &place.path_of("tags/list"), next.as_ref());
        if is_away {
            warn(&mut response);
        }
        Ok(response)
    }

    pub(super) async fn list_referrers(
        &self,
        asked: &Asked<'_>,
        place: &Place,
        subject: &Digest,
    ) -> Result<Response<Body>, Refusal> {
        self.refuse_hidden(asked, place, subject).await?;
        let mut referrers = BTreeMap::new();
        let of = Listing::Referrers { subject: subject.clone() };
        let upstream = self.listing(place, of, |bytes| serde_json::from_slice::<Found>(bytes).ok()).await;
        let is_away = !matches!(upstream, Ok(Upstream::Known(_)));
        if let Ok(Upstream::Known(Some(found))) = upstream {
            referrers.extend(found.manifests.into_iter().map(|referrer| (referrer.digest.clone(), referrer)));
        }
        for (_, root) in self.names_of(place).await? {
            if let Some(referrer) = self.referrer(&root, subject).await? {
                referrers.insert(referrer.digest.clone(), referrer);
            }
        }
        let filter = asked.query("artifactType");
        if let Some(wanted) = &filter {
            referrers.retain(|_, referrer| referrer.artifact_type.as_deref() == Some(wanted));
        }
        let page = Page::asked(asked)?;
        let keys = referrers.keys().map(ToString::to_string).collect();
        let (shown, mut next) = page.cut(keys);
        if let (Some(next), Some(wanted)) = (&mut next, &filter) {
            next.push(("artifactType", wanted.clone()));
        }
        let shown: BTreeSet<String> = shown.into_iter().collect();
        referrers.retain(|digest, _| shown.contains(digest.as_str()));
        let manifests: Vec<Descriptor> = referrers.into_values().collect();
        let body = serde_json::json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests });
        let response = json(asked.method, media_type::OCI_INDEX, body.to_string());
        let path = place.path_of(&format!("referrers/{subject}"));
        let mut response = linked(response, &path, next.as_ref());
        if filter.is_some() {
            response.headers_mut().insert(FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
        }
        if is_away && place.has_upstream {
            warn(&mut response);
        }
        Ok(response)
    }

    async fn refuse_hidden(&self, asked: &Asked<'_>, place: &Place, subject: &Digest) -> Result<(), Refusal> {
        match self.prove(asked.caller, place, subject, Code::ManifestUnknown).await {
            // A manifest can have referrers before it is pushed itself.
            Err(refusal) if refusal.code == Code::ManifestUnknown => Ok(()),
            other => other,
        }
    }

    /// The manifest `root` as one that refers to `subject`, if it does.
    async fn referrer(&self, root: &Descriptor, subject: &Digest) -> Result<Option<Descriptor>, Refusal> {
        if let Some(known) = self.referrers.get(&root.digest) {
            return Ok(known.as_ref().filter(|(of, _)| of == subject).map(|(_, referrer)| referrer.clone()));
        }
        let bytes = match self.facade.blobs.read_small(&root.digest, MANIFEST_BYTES_MAX as u64).await {
            Ok(bytes) => bytes,
            Err(larder_blobs::BlobError::NotFound(_)) => return Ok(None),
            Err(error) if error.is_integrity() => return Ok(None),
            Err(error) => return Err(Refusal::of(&blob_error(&error), Code::ManifestUnknown)),
        };
        let document = Document::parse(bytes, Some(&root.media_type)).ok();
        let referrer = document.and_then(|document| {
            let of = document.subject()?.digest.clone();
            Some((of, Descriptor { digest: root.digest.clone(), ..document.referrer() }))
        });
        self.referrers.insert(root.digest.clone(), referrer.clone());
        Ok(referrer.filter(|(of, _)| of == subject).map(|(_, referrer)| referrer))
    }

    /// The names of a repository that are known here, with what they point to.
    pub(super) async fn names_of(&self, place: &Place) -> Result<Vec<(String, Descriptor)>, Refusal> {
        let records = self.facade.catalog.list().await;
        let records = records.map_err(|error| Refusal::of(&catalog_error(&error), Code::NameUnknown))?;
        let is_ours = |name: &str| {
            name.strip_prefix(&place.repository).is_some_and(|rest| rest.starts_with([':', '@']))
        };
        let ours = records.into_iter().filter(|record| is_ours(&record.name));
        Ok(ours.filter_map(|record| Some((record.name, record.descriptor?))).collect())
    }

    /// What upstream has in a list; nothing when it has none.
    async fn listing<T>(
        &self,
        place: &Place,
        of: Listing,
        read: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<Upstream<Option<T>>, Refusal> {
        if !place.has_upstream {
            return Ok(Upstream::Known(None));
        }
        let sought = ListingSought { repository: place.any(), of };
        let seen =
            self.listings.try_get_with(larder_messages::Work::id(&sought), self.seek_list(&sought)).await;
        let list = match seen {
            Ok(list) => list,
            Err(error) if error.is_not_found() => None,
            Err(error) => {
                tracing::warn!(repository = place.repository, %error, "upstream does not give a list");
                return match *error {
                    ProviderError::Denied(_) => Err(Refusal::of(&error, Code::NameUnknown)),
                    _ => Ok(Upstream::Away),
                };
            }
        };
        let Some(list) = list else {
            return Ok(Upstream::Known(None));
        };
        let bytes = self.facade.blobs.read_small(&list.digest, LIST_BYTES_MAX).await;
        Ok(bytes.map_or(Upstream::Away, |bytes| Upstream::Known(read(&bytes))))
    }

    async fn seek_list(&self, sought: &ListingSought) -> Result<Option<Descriptor>, ProviderError> {
        let patience = std::time::Duration::from_secs(self.config.stale_after_s);
        let seen = tokio::time::timeout(patience, self.facade.ask::<_, ListingSeen>(sought)).await;
        Ok(seen.map_err(|_| ProviderError::TimedOut(patience))??.list)
    }
}

/// An index of referrers, of which only the entries matter.
#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

/// Which part of a list is wanted.
struct Page {
    max: usize,
    last: Option<String>,
}

/// The parameters of the next page.
type Next = Vec<(&'static str, String)>;

impl Page {
    fn asked(asked: &Asked<'_>) -> Result<Self, Refusal> {
        let max = match asked.query("n") {
            None => PAGE_MAX,
            Some(text) => {
                let wrong = || Refusal::new(Code::PaginationInvalid, "n is not a number of entries");
                text.parse::<usize>().map_err(|_| wrong())?.min(PAGE_MAX)
            }
        };
        Ok(Self { max, last: asked.query("last") })
    }

    /// The wanted part of `sorted`, and how to ask for the next one if there is one.
    fn cut(&self, mut sorted: Vec<String>) -> (Vec<String>, Option<Next>) {
        if let Some(last) = &self.last {
            let begin = sorted.partition_point(|entry| entry <= last);
            sorted.drain(..begin);
        }
        let is_cut = sorted.len() > self.max;
        sorted.truncate(self.max);
        let last = sorted.last().filter(|_| is_cut).cloned();
        let next = last.map(|last| vec![("n", self.max.to_string()), ("last", last)]);
        (sorted, next)
    }
}

/// Adds the `Link` to the next page.
fn linked(mut response: Response<Body>, path: &str, next: Option<&Next>) -> Response<Body> {
    if let Some(next) = next {
        let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(next).finish();
        let joint = if path.contains('?') { '&' } else { '?' };
        response.headers_mut().insert(LINK, header(&format!("<{path}{joint}{query}>; rel=\"next\"")));
    }
    response
}

fn warn(response: &mut Response<Body>) {
    response.headers_mut().insert(WARNING, super::reply::away());
}
