//! The provider, implemented by issuing jobs and waiting for the facts that answer them.
//!
//! What is there already is answered straight from catalog and store, without a word on the bus. Bytes are read straight from
//! the store, too.

mod answer;
mod export;
mod inspect;
mod pull;

use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use larder_blobs::closure::{Scope, walk};
use larder_blobs::{BlobError, Blobs};
use larder_catalog::{Catalog, CatalogError, Record};
use larder_messages::{
    AuditFinished, AuditWanted, ImagePushed, NameRemoved, Problem, PushMode, PushWanted, RemovalWanted,
};
use larder_oci::{Descriptor, Digest, Document, MANIFEST_BYTES_MAX, OciError, PlatformSet, Reference};
use larder_provider::{
    Audit, CacheProvider, Change, Content, Inspection, Name, Presence, ProviderError, PullOptions, Pulled,
    Pushed,
};
use larder_runtime::{Voice, metrics};
use serde::Deserialize;

pub use export::ExportFormat;

/// How patient the facade is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How long an answer may take, in seconds; the work goes on even when nobody waits any more.
    pub answer_timeout_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        // A large image over a slow line; whoever wants less interrupts.
        Self { answer_timeout_s: 6 * 3_600 }
    }
}

/// The cache, as its users see it; clones share it.
#[derive(Clone)]
pub struct Facade {
    voice: Voice,
    blobs: Blobs,
    catalog: Catalog,
    answer_timeout: Duration,
}

impl Facade {
    /// A facade that speaks with `voice` and reads from `blobs` and `catalog`.
    pub fn new(voice: Voice, config: &Config, blobs: Blobs, catalog: Catalog) -> Self {
        let answer_timeout = Duration::from_secs(config.answer_timeout_s);
        Self { voice, blobs, catalog, answer_timeout }
    }

    /// Finds a name as a person types it: canonical first, then exactly as it stands in the layout.
    async fn find(&self, typed: &str) -> Result<Option<Name>, ProviderError> {
        let reference: Result<Reference, OciError> = typed.parse();
        if let Ok(reference) = &reference
            && let Some(found) = self.named(&reference.name()).await?
        {
            return Ok(Some(found));
        }
        if let Some(found) = self.named(typed).await? {
            return Ok(Some(found));
        }
        match reference {
            Ok(reference) => self.by_digest(&reference).await,
            // Only what can be in no layout either is an error.
            Err(_) if typed.parse::<Digest>().is_ok() => Ok(None),
            Err(error) => Err(invalid(&error)),
        }
    }

    async fn named(&self, name: &str) -> Result<Option<Name>, ProviderError> {
        let record = match self.catalog.resolve(name).await {
            Ok(record) => record,
            Err(CatalogError::Name(_)) => None,
            Err(error) => return Err(catalog_error(&error)),
        };
        Ok(record.and_then(name_of))
    }

    /// A manifest in the store needs no name to be found by its digest.
    async fn by_digest(&self, reference: &Reference) -> Result<Option<Name>, ProviderError> {
        let Some(digest) = reference.digest() else {
            return Ok(None);
        };
        match self.blobs.read_small(digest, MANIFEST_BYTES_MAX as u64).await {
            Ok(bytes) => {
                let document = Document::parse(bytes, None).map_err(|error| invalid(&error))?;
                let descriptor = Descriptor { digest: digest.clone(), ..document.descriptor() };
                Ok(Some(Name { name: reference.name(), descriptor }))
            }
            Err(BlobError::NotFound(_)) => Ok(None),
            Err(error) => Err(blob_error(&error)),
        }
    }

    async fn require(&self, typed: &str) -> Result<Name, ProviderError> {
        let found = self.find(typed).await?;
        found.ok_or_else(|| ProviderError::NotFound(format!("{typed} is not in the cache; pull it first")))
    }
}

#[async_trait]
impl CacheProvider for Facade {
    async fn image_pull(
        &self,
        reference: &Reference,
        platforms: &PlatformSet,
        options: &PullOptions,
    ) -> Result<Pulled, ProviderError> {
        let pulled = self.pull(reference, platforms, options).await;
        let outcome = match &pulled {
            Ok(Pulled::AlreadyPresent { .. }) if options.always => "revalidated",
            Ok(Pulled::AlreadyPresent { .. }) => "hit",
            Ok(Pulled::Pulled { .. }) => "miss",
            Err(_) => "failed",
        };
        metrics::PULLS.with_label_values(&[outcome]).inc();
        pulled
    }

    async fn find_descriptor(&self, name: &str) -> Result<Option<Name>, ProviderError> {
        self.find(name).await
    }

    async fn image_in_cache(&self, name: &str, platforms: &PlatformSet) -> Result<Presence, ProviderError> {
        let Some(found) = self.find(name).await? else {
            return Ok(Presence::Absent);
        };
        let closure = walk(&self.blobs, &found.descriptor, &Scope::Wanted(platforms)).await;
        let closure = closure.map_err(|error| blob_error(&error))?;
        let invalid = closure.invalid.iter().map(|(digest, _)| digest.clone());
        let missing: Vec<Digest> = closure.missing.iter().cloned().chain(invalid).collect();
        if !missing.is_empty() {
            return Ok(Presence::Partial { missing });
        }
        if closure.uncovered(platforms).is_some() {
            return Ok(Presence::WrongPlatform { present: closure.platforms });
        }
        Ok(Presence::Complete)
    }

    async fn inspect(&self, name: &str) -> Result<Inspection, ProviderError> {
        let found = self.require(name).await?;
        inspect::inspect(&self.blobs, found).await
    }

    async fn get_content(&self, digest: &Digest) -> Result<Content, ProviderError> {
        let content = self.blobs.read(digest).await.map_err(|error| blob_error(&error))?;
        let bytes = content.bytes.map(|chunk| chunk.map_err(|error| blob_error(&error)));
        Ok(Content { size: content.size, bytes: bytes.boxed() })
    }

    async fn list(&self) -> Result<Vec<Name>, ProviderError> {
        let records = self.catalog.list().await.map_err(|error| catalog_error(&error))?;
        Ok(records.into_iter().filter_map(name_of).collect())
    }

    async fn history(&self, name: &str) -> Result<Vec<Change>, ProviderError> {
        let canonical = name.parse::<Reference>().map(|reference| reference.name());
        for name in canonical.as_deref().into_iter().chain([name]) {
            let records = self.catalog.history(name).await.map_err(|error| catalog_error(&error))?;
            if !records.is_empty() {
                return Ok(records.into_iter().map(change).collect());
            }
        }
        Ok(Vec::new())
    }

    async fn remove(&self, name: &str) -> Result<bool, ProviderError> {
        let canonical = name.parse::<Reference>().map(|reference| reference.name());
        for name in canonical.as_deref().into_iter().chain([name]) {
            if self.named(name).await?.is_some() {
                let wanted = RemovalWanted { name: name.to_owned() };
                let removed: NameRemoved = self.ask(&wanted).await?;
                return Ok(removed.existed);
            }
        }
        Ok(false)
    }

    async fn verify(&self, name: &str) -> Result<Audit, ProviderError> {
        let found = self.require(name).await?;
        let wanted = AuditWanted { name: found.name, root: found.descriptor };
        let finished: AuditFinished = self.ask(&wanted).await?;
        Ok(Audit {
            name: finished.name,
            blobs: finished.blobs,
            bytes: finished.bytes,
            absent_platforms: finished.absent_platforms,
            problems: finished.problems.iter().map(problem).collect(),
        })
    }

    async fn push(&self, name: &str, to: &Reference, replace: bool) -> Result<Pushed, ProviderError> {
        let found = self.require(name).await?;
        let mode = if replace { PushMode::Replace } else { PushMode::IfAbsent };
        let wanted = PushWanted { root: found.descriptor, to: to.clone(), mode };
        let pushed: ImagePushed = self.ask(&wanted).await?;
        let ImagePushed { to, root, sent_blobs, sent_bytes, .. } = pushed;
        Ok(Pushed { to, root, sent_blobs, sent_bytes })
    }
}

fn name_of(record: Record) -> Option<Name> {
    let Record { name, descriptor, .. } = record;
    descriptor.map(|descriptor| Name { name, descriptor })
}

fn change(record: Record) -> Change {
    let origin = match serde_json::to_value(record.origin) {
        Ok(serde_json::Value::String(origin)) => origin,
        _ => String::new(),
    };
    Change { seq: record.seq, at_ms: record.at_ms, origin, descriptor: record.descriptor }
}

fn problem(problem: &Problem) -> String {
    match problem {
        Problem::Corrupt { digest, found } => format!("{digest} is corrupt: {found}"),
        Problem::Missing { digest } => {
            format!("{digest} is missing, or has another size than its parent says")
        }
        Problem::Invalid { digest, what } => format!("{digest} is invalid: {what}"),
    }
}

/// The message of an error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    larder_messages::Reason::of(larder_messages::ReasonKind::Other, error).message
}

fn invalid(error: &OciError) -> ProviderError {
    ProviderError::InvalidReference(chain(error))
}

fn blob_error(error: &BlobError) -> ProviderError {
    match error {
        BlobError::NotFound(_) => ProviderError::NotFound(chain(error)),
        error if error.is_integrity() => ProviderError::Corrupt(chain(error)),
        error => ProviderError::Storage(chain(error)),
    }
}

fn catalog_error(error: &CatalogError) -> ProviderError {
    match error {
        CatalogError::Name(_) => ProviderError::InvalidReference(chain(error)),
        CatalogError::Contended(_) => ProviderError::Conflict(chain(error)),
        error => ProviderError::Storage(chain(error)),
    }
}
