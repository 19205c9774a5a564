//! Names and blobs that are no longer wanted.

use std::time::Duration;

use futures::{Stream, StreamExt};
use larder_catalog::Origin;
use larder_messages::{
    AuditFinished, AuditWanted, CollectionFinished, CollectionWanted, NameRemoved, Problem, RemovalWanted,
};
use larder_oci::Reference;
use larder_provider::{Audit, Cleaned, Collected, Name, ProviderError};

use crate::Facade;
use crate::error::catalog_error;
use crate::find::name_of;

/// Names judged at the same time.
const NAMES_IN_FLIGHT_MAX: usize = 8;

impl Facade {
    pub(crate) async fn names(&self) -> Result<Vec<Name>, ProviderError> {
        let records = self.catalog.list().await.map_err(|error| catalog_error(&error))?;
        Ok(records.into_iter().filter_map(name_of).collect())
    }

    pub(crate) async fn drop_name(&self, name: &str) -> Result<bool, ProviderError> {
        let canonical = name.parse::<Reference>().map(|reference| reference.name());
        for name in canonical.as_deref().into_iter().chain([name]) {
            if self.named(name).await?.is_some() {
                return self.drop_exactly(name).await;
            }
        }
        Ok(false)
    }

    pub(crate) async fn drop_exactly(&self, name: &str) -> Result<bool, ProviderError> {
        let removed: NameRemoved = self.ask(&RemovalWanted { name: name.to_owned() }).await?;
        Ok(removed.existed)
    }

    /// [`larder_provider::CacheProvider::clean`], told name by name as it goes.
    ///
    /// # Errors
    /// As that.
    pub async fn cleaning(
        &self,
        published_only: bool,
    ) -> Result<impl Stream<Item = Result<Cleaned, ProviderError>>, ProviderError> {
        let judged = self.names().await?.into_iter().map(move |name| self.clean_name(name, published_only));
        Ok(futures::stream::iter(judged).buffered(NAMES_IN_FLIGHT_MAX))
    }

    async fn clean_name(
        &self,
        Name { name, descriptor }: Name,
        published_only: bool,
    ) -> Result<Cleaned, ProviderError> {
        if published_only {
            let reason = match name.parse::<Reference>() {
                Err(_) => Some("it is no reference of a registry".to_owned()),
                Ok(reference) => match self.seek(&reference, false).await.map(|seen| seen.root) {
                    Ok(Some(digest)) if digest == descriptor.digest => None,
                    Ok(Some(digest)) => Some(format!("its registry has {digest}")),
                    Ok(None) => Some("its registry does not have it".to_owned()),
                    Err(error) => Some(error.to_string()),
                },
            };
            if let Some(reason) = reason {
                return Ok(Cleaned::Kept { name, reason });
            }
        }
        self.drop_exactly(&name).await?;
        Ok(Cleaned::Removed { name })
    }

    pub(crate) async fn collect_blobs(
        &self,
        grace: Duration,
        dry_run: bool,
    ) -> Result<Collected, ProviderError> {
        let done: CollectionFinished =
            self.ask(&CollectionWanted { grace_s: grace.as_secs(), dry_run }).await?;
        Ok(Collected {
            kept_blobs: done.kept_blobs,
            kept_bytes: done.kept_bytes,
            deleted_blobs: done.deleted_blobs,
            deleted_bytes: done.deleted_bytes,
            young_blobs: done.young_blobs,
            unfinished: done.unfinished,
        })
    }

    pub(crate) async fn audit(&self, name: &str) -> Result<Audit, ProviderError> {
        let found = self.require(name).await?;
        let record = self.catalog.resolve(&found.name).await;
        let record = record.map_err(|error| catalog_error(&error))?;
        let partial = record.is_some_and(|record| record.origin == Origin::Proxied);
        let wanted = AuditWanted { name: found.name, root: found.descriptor, platforms: None, partial };
        let finished: AuditFinished = self.ask(&wanted).await?;
        Ok(Audit {
            name: finished.name,
            blobs: finished.blobs,
            bytes: finished.bytes,
            absent_platforms: finished.absent_platforms,
            problems: finished.problems.iter().map(describe).collect(),
        })
    }
}

pub(crate) fn describe(problem: &Problem) -> String {
    match problem {
        Problem::Corrupt { digest, found } => format!("{digest} is corrupt: {found}"),
        Problem::Missing { digest } => {
            format!("{digest} is missing, or has another size than its parent says")
        }
        Problem::Invalid { digest, what } => format!("{digest} is invalid: {what}"),
    }
}
