//! Whether an image is there: in the cache, or in its registry.

use std::num::NonZero;

use futures::{StreamExt, TryStreamExt};
use larder_blobs::closure::{Closure, Scope, walk};
use larder_messages::{AuditFinished, AuditWanted, ImageSeen, ImageSought};
use larder_oci::{Descriptor, Digest, Platform, PlatformSet, Reference};
use larder_provider::{Name, Presence, ProviderError};
use tokio::runtime::Handle;

use crate::Facade;
use crate::clean::describe;
use crate::error::{blob_error, platform_error, refuse_partial};
use crate::provider::all_if_none;

/// Images looked at the same time.
const LOOKS_IN_FLIGHT_MAX: usize = 32;

impl Facade {
    pub(crate) async fn presence(
        &self,
        name: &str,
        platforms: &PlatformSet,
    ) -> Result<Presence, ProviderError> {
        let Some(found) = self.find(name).await? else {
            return Ok(Presence::Absent);
        };
        let closure = self.closure(&found, platforms).await?;
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

    pub(crate) async fn presences(
        &self,
        wanted: &[(String, PlatformSet)],
    ) -> Result<Vec<Presence>, ProviderError> {
        // Manifests have to be hashed and read: every processor takes its share.
        let shares = std::thread::available_parallelism().map_or(1, NonZero::get);
        let share = wanted.len().div_ceil(shares).max(LOOKS_IN_FLIGHT_MAX);
        let runtime = Handle::current();
        let looks = wanted.chunks(share).map(|part| {
            let (facade, part, runtime) = (self.clone(), part.to_vec(), runtime.clone());
            tokio::task::spawn_blocking(move || runtime.block_on(facade.share_of_presences(part)))
        });
        let mut all = Vec::with_capacity(wanted.len());
        for looked in looks.collect::<Vec<_>>() {
            let looked = looked.await.map_err(|_| ProviderError::Unavailable("interrupted".to_owned()))?;
            all.extend(looked?);
        }
        Ok(all)
    }

    async fn share_of_presences(
        &self,
        wanted: Vec<(String, PlatformSet)>,
    ) -> Result<Vec<Presence>, ProviderError> {
        let looks = wanted
            .into_iter()
            .map(|(name, platforms)| async move { self.presence(&name, all_if_none(&platforms)).await });
        futures::stream::iter(looks).buffered(LOOKS_IN_FLIGHT_MAX).try_collect().await
    }

    async fn closure(&self, found: &Name, platforms: &PlatformSet) -> Result<Closure, ProviderError> {
        let closure = walk(&self.blobs, &found.descriptor, &Scope::Wanted(platforms)).await;
        closure.map_err(|error| blob_error(&error))
    }

    /// What the registry has under `reference`, or nothing.
    pub(crate) async fn seek(
        &self,
        reference: &Reference,
        platforms: bool,
    ) -> Result<ImageSeen, ProviderError> {
        self.ask(&ImageSought { reference: reference.clone(), platforms }).await
    }

    pub(crate) async fn published(
        &self,
        reference: &Reference,
        platforms: &PlatformSet,
    ) -> Result<bool, ProviderError> {
        let PlatformSet::Only(wanted) = platforms else {
            return Ok(self.seek(reference, false).await?.root.is_some());
        };
        let seen = self.seek(reference, true).await?;
        // An image that says nothing of a platform runs nowhere, or anywhere.
        let offers = |wish: &Platform| seen.platforms.iter().any(|platform| wish.accepts(platform));
        Ok(seen.root.is_some() && (seen.platforms.is_empty() || wanted.iter().all(offers)))
    }

    pub(crate) async fn validate(
        &self,
        name: &str,
        platforms: &PlatformSet,
    ) -> Result<Descriptor, ProviderError> {
        let found = self.require(name).await?;
        let closure = self.closure(&found, platforms).await?;
        refuse_partial(name, &closure)?;
        if let Some(error) = closure.uncovered(platforms) {
            return Err(platform_error(name, error));
        }
        let (root, platforms) = (found.descriptor.clone(), Some(platforms.clone()));
        let wanted = AuditWanted { name: found.name, root, platforms, partial: false };
        let finished: AuditFinished = self.ask(&wanted).await?;
        match finished.problems.first() {
            None => Ok(found.descriptor),
            Some(problem) => Err(ProviderError::Corrupt(format!("{name}: {}", describe(problem)))),
        }
    }
}
