//! Images and indexes, opened for reading: settled and leased when they are opened.

mod image;
mod index;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use larder_archive::OciArchive;
use larder_blobs::{BlobError, Blobs, Reader};
use larder_catalog::{Catalog, LeaseId};
use larder_oci::{Descriptor, Digest, Document, MANIFEST_BYTES_MAX, Platform, PlatformSet, Reference};
use larder_provider::{ByteStream, ImageSource, IndexSource, ProviderError};
use larder_runtime::metrics;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::Facade;
use crate::error::{blob_error, catalog_error, invalid, partial};
use crate::pipe::{self, write_error};
use crate::provider::all_if_none;
use image::OneImage;
use index::WholeIndex;

/// How long what a source reads is kept: longer than any reading takes, for a process that dies without giving it back.
const LEASE_TTL: Duration = Duration::from_hours(24);

/// Keeps what a source reads, or what is being written, from being collected.
pub(crate) struct Hold {
    catalog: Catalog,
    lease: Option<LeaseId>,
    releases: TaskTracker,
    runtime: Handle,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else {
            return;
        };
        let (catalog, runtime) = (self.catalog.clone(), self.runtime.clone());
        // A lease that is not given back ends by itself.
        self.releases.spawn_blocking_on(move || runtime.block_on(catalog.release(&lease)), &self.runtime);
    }
}

/// What every source has.
#[derive(Clone)]
struct Opened {
    blobs: Blobs,
    name: String,
    _hold: Arc<Hold>,
}

/// What of an image goes out as a layout, in an archive or a directory; all of it is there, and stays while this is held.
pub(crate) struct Excerpt {
    opened: Opened,
    pub(crate) root: Descriptor,
    /// Each once, the root first.
    pub(crate) blobs: Vec<Descriptor>,
    /// The root, where it was made for this and is not stored.
    pub(crate) made: Option<Document>,
}

impl Facade {
    pub(crate) async fn source(
        &self,
        typed: &str,
        platform: &Platform,
    ) -> Result<Arc<dyn ImageSource>, ProviderError> {
        Ok(Arc::new(self.one_image(typed, platform).await?))
    }

    pub(crate) async fn index_source(
        &self,
        typed: &str,
        platforms: &PlatformSet,
    ) -> Result<Arc<dyn IndexSource>, ProviderError> {
        let source = self.whole_index(typed, platforms).await?;
        source.closure().await?;
        Ok(Arc::new(source))
    }

    async fn one_image(&self, typed: &str, platform: &Platform) -> Result<OneImage, ProviderError> {
        let found = self.require(typed).await?;
        let opened = self.hold(found.name, &found.descriptor.digest).await?;
        opened.image(typed, &found.descriptor, platform).await
    }

    async fn whole_index(&self, typed: &str, platforms: &PlatformSet) -> Result<WholeIndex, ProviderError> {
        let found = self.require(typed).await?;
        let opened = self.hold(found.name, &found.descriptor.digest).await?;
        Ok(WholeIndex { opened, descriptor: found.descriptor, platforms: platforms.clone() })
    }

    /// For one platform its image as it is; for some, an index of these; without, what the cache has, its index byte for byte.
    pub(crate) async fn excerpt(
        &self,
        typed: &str,
        platforms: Option<&PlatformSet>,
    ) -> Result<Excerpt, ProviderError> {
        match platforms {
            Some(PlatformSet::Only(wanted)) if wanted.len() == 1 => {
                self.one_image(typed, &wanted[0]).await?.excerpt().await
            }
            platforms => {
                let platforms = platforms.map_or(&PlatformSet::All, all_if_none);
                self.whole_index(typed, platforms).await?.excerpt().await
            }
        }
    }

    async fn hold(&self, name: String, root: &Digest) -> Result<Opened, ProviderError> {
        let hold = Arc::new(self.keep(Some(root)).await?);
        Ok(Opened { blobs: self.blobs.clone(), name, _hold: hold })
    }

    /// Keeps `root`, or without one all that is written from now on.
    pub(crate) async fn keep(&self, root: Option<&Digest>) -> Result<Hold, ProviderError> {
        let lease = self.catalog.lease(root, LEASE_TTL).await.map_err(|error| catalog_error(&error))?;
        let (catalog, releases) = (self.catalog.clone(), self.releases.clone());
        Ok(Hold { catalog, lease: Some(lease), releases, runtime: Handle::current() })
    }
}

impl Opened {
    async fn document(&self, typed: &str, at: &Descriptor) -> Result<Document, ProviderError> {
        let document = self.blobs.document(at).await.map_err(|error| blob_error(&error))?;
        document.ok_or_else(|| partial(typed, std::slice::from_ref(&at.digest)))
    }

    async fn small(&self, typed: &str, digest: &Digest) -> Result<Bytes, ProviderError> {
        match self.blobs.read_small(digest, MANIFEST_BYTES_MAX as u64).await {
            Err(BlobError::NotFound(_)) => Err(partial(typed, std::slice::from_ref(digest))),
            read => read.map_err(|error| blob_error(&error)),
        }
    }

    /// The name for an archive: as given, for some tools know tags alone.
    fn archive_name(&self, name: Option<&str>) -> Result<String, ProviderError> {
        let text = name.unwrap_or(&self.name);
        if name.is_some() {
            text.parse::<Reference>().map_err(|error| invalid(&error))?;
        }
        Ok(text.to_owned())
    }

    /// Refuses what is not all there, before anything is written.
    async fn refuse_missing(&self, blobs: &[Descriptor]) -> Result<(), ProviderError> {
        let missing = self.blobs.missing(blobs).await.map_err(|error| blob_error(&error))?;
        if missing.is_empty() {
            return Ok(());
        }
        let missing: Vec<Digest> = missing.into_iter().map(|blob| blob.digest).collect();
        Err(partial(&self.name, &missing))
    }

    /// Opens a blob on a thread that may block. It takes all of `self`: what is being read stays leased for as long.
    fn reader(&self, runtime: &Handle, digest: &Digest) -> Result<Reader, ProviderError> {
        runtime.block_on(self.blobs.reader(digest)).map_err(|error| match error {
            BlobError::NotFound(digest) => partial(&self.name, &[digest]),
            error => blob_error(&error),
        })
    }
}

impl Excerpt {
    /// What it is called: `name`, or as in the cache.
    pub(crate) fn archive_name(&self, name: Option<&str>) -> Result<String, ProviderError> {
        self.opened.archive_name(name)
    }

    /// It as an OCI archive that calls it `name`.
    fn archive(self, name: String) -> ByteStream {
        let Self { opened, root, blobs, made } = self;
        let runtime = Handle::current();
        pipe::stream(move |out| {
            let mut archive = OciArchive::begin(out, &name, &root).map_err(|error| write_error(&error))?;
            for blob in blobs {
                metrics::BYTES.with_label_values(&["store_out"]).inc_by(blob.size);
                let made = made.as_ref().filter(|_| blob.digest == root.digest);
                let written = match made {
                    Some(document) => archive.blob(&blob.digest, blob.size, document.bytes().as_ref()),
                    None => archive.blob(&blob.digest, blob.size, opened.reader(&runtime, &blob.digest)?),
                };
                written.map_err(|error| write_error(&error))?;
            }
            archive.finish().map(drop).map_err(|error| write_error(&error))
        })
    }
}
