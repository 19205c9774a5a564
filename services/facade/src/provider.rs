//! The trait, method by method; each is a line here and a file beside.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;
use larder_oci::{Descriptor, Digest, Platform, PlatformSet, Reference};
use larder_provider::{
    Audit, ByteStream, CacheProvider, Change, Cleaned, Collected, Content, ContentStore, ImageSource,
    IndexSource, Inspection, LoadOptions, Loaded, Name, Presence, ProviderError, PullOptions, Pulled,
    PushOptions, Pushed, Root, WriteOptions,
};
use larder_runtime::metrics;

use crate::content::{Store, opened};
use crate::error::{blob_error, catalog_error};
use crate::find::change;
use crate::{Facade, inspect};

#[async_trait]
impl CacheProvider for Facade {
    async fn find_descriptor(&self, name: &str) -> Result<Option<Name>, ProviderError> {
        self.find(name).await
    }

    async fn find_root(&self, name: &str) -> Result<Root, ProviderError> {
        self.root(name).await
    }

    async fn image_pull(
        &self,
        reference: &Reference,
        platforms: &PlatformSet,
        options: &PullOptions,
    ) -> Result<Pulled, ProviderError> {
        let pulled = self.pull(reference, all_if_none(platforms), options).await;
        let outcome = match &pulled {
            Ok(Pulled::AlreadyPresent { .. }) if options.always => "revalidated",
            Ok(Pulled::AlreadyPresent { .. }) => "hit",
            Ok(Pulled::Pulled { .. }) => "miss",
            Err(_) => "failed",
        };
        metrics::PULLS.with_label_values(&[outcome]).inc();
        pulled
    }

    async fn image_in_cache(&self, name: &str, platforms: &PlatformSet) -> Result<Presence, ProviderError> {
        self.presence(name, all_if_none(platforms)).await
    }

    async fn images_in_cache(
        &self,
        wanted: &[(String, PlatformSet)],
    ) -> Result<Vec<Presence>, ProviderError> {
        self.presences(wanted).await
    }

    async fn image_in_registry(
        &self,
        reference: &Reference,
        platforms: &PlatformSet,
    ) -> Result<bool, ProviderError> {
        self.published(reference, all_if_none(platforms)).await
    }

    async fn validate_image(&self, name: &str, platforms: &PlatformSet) -> Result<Descriptor, ProviderError> {
        self.validate(name, all_if_none(platforms)).await
    }

    async fn index_write(
        &self,
        reference: &Reference,
        manifests: &[Descriptor],
        options: &WriteOptions,
    ) -> Result<Descriptor, ProviderError> {
        self.write_index(reference, manifests, options).await
    }

    async fn image_load(
        &self,
        archive: ByteStream,
        options: &LoadOptions,
    ) -> Result<Vec<Loaded>, ProviderError> {
        self.load(archive, options).await
    }

    async fn descriptor_write(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        options: &WriteOptions,
    ) -> Result<Descriptor, ProviderError> {
        self.write_descriptor(reference, descriptor, options).await
    }

    async fn push(&self, name: &str, options: &PushOptions) -> Result<Pushed, ProviderError> {
        self.send(name, options).await
    }

    async fn new_source(
        &self,
        name: &str,
        platform: &Platform,
    ) -> Result<Arc<dyn ImageSource>, ProviderError> {
        self.source(name, platform).await
    }

    async fn new_index_source(
        &self,
        name: &str,
        platforms: &PlatformSet,
    ) -> Result<Arc<dyn IndexSource>, ProviderError> {
        self.index_source(name, all_if_none(platforms)).await
    }

    async fn get_content(&self, digest: &Digest) -> Result<Content, ProviderError> {
        let content = self.blobs.read(digest).await.map_err(|error| blob_error(&error))?;
        Ok(opened(content))
    }

    fn store(&self) -> Arc<dyn ContentStore> {
        Arc::new(Store { blobs: self.blobs.clone(), writable: self.content.writable })
    }

    async fn inspect(&self, name: &str) -> Result<Inspection, ProviderError> {
        let found = self.require(name).await?;
        inspect::inspect(&self.blobs, found).await
    }

    async fn list(&self) -> Result<Vec<Name>, ProviderError> {
        self.names().await
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
        self.drop_name(name).await
    }

    async fn clean(&self, published_only: bool) -> Result<Vec<Cleaned>, ProviderError> {
        self.cleaning(published_only).await?.try_collect().await
    }

    async fn collect(&self, grace: Duration, dry_run: bool) -> Result<Collected, ProviderError> {
        self.collect_blobs(grace, dry_run).await
    }

    async fn verify(&self, name: &str) -> Result<Audit, ProviderError> {
        self.audit(name).await
    }
}

/// Whoever names no platform wants all of them.
pub(crate) fn all_if_none(platforms: &PlatformSet) -> &PlatformSet {
    match platforms {
        PlatformSet::Only(named) if named.is_empty() => &PlatformSet::All,
        platforms => platforms,
    }
}
