//! Lists that a registry keeps of a repository: its tags, and what refers to a manifest.
//!
//! **Invariant:** a list is whole, or an error.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, LINK};
use http::{HeaderMap, HeaderValue, Method};
use larder_oci::{Descriptor, Digest, Document, INDEX_DESCRIPTORS_MAX, Kind, Reference, bundle, media_type};
use serde::Deserialize;
use url::Url;

use crate::answer::accept;
use crate::auth::Scope;
use crate::client::{Ask, Client};
use crate::egress::{Passage, Reply};
use crate::error::RegistryError;
use crate::traffic;
use crate::upstream::Endpoint;

const PAGES_MAX: usize = 1_000;
const TAGS_MAX: usize = 100_000;
/// For all pages of a list together.
const LIST_BYTES_MAX: usize = 32 << 20;
/// How many tags we ask for at a time; a registry may give fewer.
const PAGE_TAGS: &str = "1000";

#[derive(Deserialize)]
struct TagList {
    tags: Option<Vec<String>>,
}

impl Client {
    /// The tags of the repository of `repository`, by their bytes in order, each once; `None` when the registry says that it has no
    /// such repository. What is no tag is left out.
    ///
    /// # Errors
    /// [`RegistryError::Endless`] beyond 1,000 pages, 100,000 tags or 32 MiB, [`RegistryError::RedirectRefused`] when the list goes
    /// on elsewhere, and all that keeps it from a whole list.
    pub async fn tags(&self, repository: &Reference) -> Result<Option<Vec<String>>, RegistryError> {
        let mut turns = self.turns(repository.registry())?;
        loop {
            let error = match self.tags_once(turns.endpoint(), repository).await {
                Ok(tags) => return Ok(Some(tags)),
                Err(error) => error,
            };
            match turns.failed(error).await {
                Err(RegistryError::NotFound { .. }) => return Ok(None),
                failed => failed?,
            }
        }
    }

    async fn tags_once(
        &self,
        endpoint: &Endpoint,
        repository: &Reference,
    ) -> Result<Vec<String>, RegistryError> {
        let mut ask = ask(endpoint, repository, "tags/list".to_owned());
        ask.query = vec![("n", PAGE_TAGS)];
        let mut pages = Pages::new(self, endpoint, ask);
        let mut tags = BTreeSet::new();
        while let Some((_, body)) = pages.next().await? {
            let page: TagList = serde_json::from_slice(&body).map_err(|_| RegistryError::Protocol {
                host: endpoint.host().to_owned(),
                what: "its list of tags is none",
            })?;
            let page = page.tags.unwrap_or_default();
            tags.extend(page.into_iter().filter(|tag| repository.with_tag(tag).is_ok()));
            if tags.len() > TAGS_MAX {
                return Err(endless(endpoint, "tags", TAGS_MAX));
            }
        }
        Ok(tags.into_iter().collect())
    }

    /// An index of the manifests that refer to `subject`, as the registry's referrers API gives them, or the tag that stands in for
    /// it; `None` when there are none. Nothing of it is verified, and it has no digest but its own.
    ///
    /// # Errors
    /// [`RegistryError::Endless`] beyond 1,000 pages, 10,000 manifests or 32 MiB, [`RegistryError::RedirectRefused`] when the list
    /// goes on elsewhere, [`RegistryError::InvalidDocument`] when it is no index, and all that keeps it from a whole list.
    pub async fn referrers(
        &self,
        repository: &Reference,
        subject: &Digest,
    ) -> Result<Option<Document>, RegistryError> {
        let mut turns = self.turns(repository.registry())?;
        let referrers = loop {
            let error = match self.referrers_once(turns.endpoint(), repository, subject).await {
                Ok(referrers) => break referrers,
                Err(error) => error,
            };
            match turns.failed(error).await {
                Ok(()) => {}
                // It does not know the API, or says so in its own way.
                Err(error) if matches!(error.status(), Some(404 | 405 | 501)) => {
                    break self.tagged_referrers(repository, subject).await?;
                }
                Err(error) => return Err(error),
            }
        };
        let invalid = |source| RegistryError::InvalidDocument { reference: subject.to_string(), source };
        (!referrers.is_empty()).then(|| bundle(&referrers).map_err(invalid)).transpose()
    }

    async fn referrers_once(
        &self,
        endpoint: &Endpoint,
        repository: &Reference,
        subject: &Digest,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let mut ask = ask(endpoint, repository, format!("referrers/{subject}"));
        ask.headers.insert(ACCEPT, HeaderValue::from_static(media_type::OCI_INDEX));
        let mut pages = Pages::new(self, endpoint, ask);
        let mut referrers = Vec::new();
        let mut seen = BTreeSet::new();
        while let Some((declared, body)) = pages.next().await? {
            let page = Document::parse(body, declared.as_deref());
            let page = page.map_err(|source| RegistryError::InvalidDocument {
                reference: format!("the list of what refers to {subject}"),
                source,
            })?;
            referrers.extend(children(&page).into_iter().filter(|one| seen.insert(one.digest.clone())));
            if referrers.len() > INDEX_DESCRIPTORS_MAX {
                return Err(endless(endpoint, "manifests", INDEX_DESCRIPTORS_MAX));
            }
        }
        Ok(referrers)
    }

    /// What the index lists that registries without the API keep under a tag made of the subject's digest.
    async fn tagged_referrers(
        &self,
        repository: &Reference,
        subject: &Digest,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        // A sha512 digest is longer than a tag may be, and cut (distribution-spec, "Referrers Tag Schema").
        let tag = format!("{}-{:.64}", subject.algorithm().name(), subject.hex());
        let at = repository.with_tag(&tag).expect("a digest's letters are those of a tag");
        match self.manifest(&at).await {
            Ok(index) => Ok(children(&index)),
            Err(RegistryError::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

/// What an index lists; nothing of an image.
fn children(document: &Document) -> Vec<Descriptor> {
    match document.kind() {
        Kind::Index(index) => index.manifests.clone(),
        Kind::Image(_) => Vec::new(),
    }
}

fn endless(endpoint: &Endpoint, what: &'static str, limit: usize) -> RegistryError {
    RegistryError::Endless { host: endpoint.host().to_owned(), what, limit }
}

fn ask<'a>(endpoint: &Endpoint, repository: &'a Reference, path: String) -> Ask<'a> {
    Ask {
        kind: traffic::Kind::Listing,
        method: Method::GET,
        repository: repository.repository(),
        path,
        query: Vec::new(),
        headers: HeaderMap::new(),
        scope: Scope::pull(&endpoint.repository(repository.repository())),
        body: None,
    }
}

/// The pages of a list, each named by the one before.
struct Pages<'a> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    ask: Ask<'a>,
    next: Option<Url>,
    read: usize,
    read_bytes: usize,
}

impl<'a> Pages<'a> {
    fn new(client: &'a Client, endpoint: &'a Endpoint, ask: Ask<'a>) -> Self {
        let first = endpoint.url(ask.repository, &ask.path, &ask.query);
        Self { client, endpoint, ask, next: Some(first), read: 0, read_bytes: 0 }
    }

    /// The next page with its declared type, or `None` after the last.
    async fn next(&mut self) -> Result<Option<(Option<String>, Bytes)>, RegistryError> {
        let Some(url) = self.next.take() else {
            return Ok(None);
        };
        if self.read == PAGES_MAX {
            return Err(endless(self.endpoint, "pages", PAGES_MAX));
        }
        self.read += 1;
        let config = &self.client.config;
        let reply = self.client.ask_at(self.endpoint, url, &self.ask).await?;
        let reply = accept(reply, &self.ask.path, config).await?;
        reply.check_encoding()?;
        self.next = self.link(&reply)?;
        let declared = reply.header(CONTENT_TYPE).map(str::to_owned);
        let body = reply.body("a list", config.manifest_bytes_max, config.read_timeout()).await?;
        self.read_bytes += body.len();
        if self.read_bytes > LIST_BYTES_MAX {
            return Err(endless(self.endpoint, "bytes", LIST_BYTES_MAX));
        }
        Ok(Some((declared, body)))
    }

    /// Where the list goes on, if it does.
    fn link(&self, reply: &Reply) -> Result<Option<Url>, RegistryError> {
        let mut texts = reply.headers().get_all(LINK).iter().filter_map(|text| text.to_str().ok());
        let Some(link) = texts.find_map(next_link) else {
            return Ok(None);
        };
        let from: &Passage = reply.passage();
        let url = self.endpoint.next_page(from.url(), link);
        url.map(Some).map_err(|refusal| {
            let target = from.url().join(link).ok();
            let target = target.as_ref().and_then(Url::host_str).unwrap_or("?").to_owned();
            RegistryError::RedirectRefused { host: self.endpoint.host().to_owned(), target, refusal }
        })
    }
}

/// The target of the first link in `text` that leads to the next page (RFC 8288).
fn next_link(text: &str) -> Option<&str> {
    let mut rest = text;
    while let Some((_, behind)) = rest.split_once('<') {
        let (target, behind) = behind.split_once('>')?;
        let (parameters, _) = behind.split_once('<').unwrap_or((behind, ""));
        let is_next = parameters.split(';').any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or_default();
            let mut relations = value.split([' ', '"', ',']);
            name.trim().eq_ignore_ascii_case("rel") && relations.any(|one| one.eq_ignore_ascii_case("next"))
        });
        if is_next {
            return Some(target);
        }
        rest = behind;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_link_to_the_next_page_among_others() {
        let check = |text: &str, expected: Option<&str>| assert_eq!(next_link(text), expected, "{text}");
        check("</v2/a/tags/list?n=2&last=b>; rel=\"next\"", Some("/v2/a/tags/list?n=2&last=b"));
        check("</x?a,b>; rel=prev, </y?a,b>;title=\"z\"; REL=Next", Some("/y?a,b"));
        check("</x>; title=\"a, b\"; rel=\"last next\", </y>", Some("/x"));
        check("</x>; rel=\"last\"", None);
        check("</x", None);
        check("", None);
    }
}
