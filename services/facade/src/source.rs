//! Images and indexes, opened for reading: settled and leased when they are opened.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use larder_archive::{DockerArchive, FlattenLimits, Layer, Layers, OciArchive, flatten};
use larder_blobs::closure::{Closure, Scope, walk};
use larder_blobs::{BlobError, Blobs, Reader};
use larder_catalog::{Catalog, LeaseId};
use larder_oci::{
    Config, Descriptor, Digest, Document, Image, ImageConfig, Kind, MANIFEST_BYTES_MAX, Platform,
    PlatformSet, Reference, restrict, select,
};
use larder_provider::{ByteStream, ImageSource, IndexSource, ProviderError};
use larder_runtime::metrics;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::Facade;
use crate::error::{blob_error, catalog_error, invalid, partial, platform_error, refuse_partial};
use crate::pipe::{self, Pipe, write_error};
use crate::sbom;

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

struct OneImage {
    opened: Opened,
    descriptor: Descriptor,
    image: Image,
    config: Option<ImageConfig>,
    platform: Option<Platform>,
    diff_ids: Vec<Digest>,
    /// The index it was found in, for its attestations.
    siblings: Vec<Descriptor>,
}

struct WholeIndex {
    opened: Opened,
    descriptor: Descriptor,
    platforms: PlatformSet,
}

impl Facade {
    pub(crate) async fn source(
        &self,
        typed: &str,
        platform: &Platform,
    ) -> Result<Arc<dyn ImageSource>, ProviderError> {
        let found = self.require(typed).await?;
        let opened = self.hold(found.name, &found.descriptor.digest).await?;
        let image = opened.image(typed, &found.descriptor, platform).await?;
        Ok(Arc::new(image))
    }

    pub(crate) async fn index_source(
        &self,
        typed: &str,
        platforms: &PlatformSet,
    ) -> Result<Arc<dyn IndexSource>, ProviderError> {
        let found = self.require(typed).await?;
        let opened = self.hold(found.name, &found.descriptor.digest).await?;
        let source = WholeIndex { opened, descriptor: found.descriptor, platforms: platforms.clone() };
        source.closure().await?;
        Ok(Arc::new(source))
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
    /// Finds the image for `platform` below `root`, best match first: a wish without a variant prefers the default one.
    async fn image(
        &self,
        typed: &str,
        root: &Descriptor,
        platform: &Platform,
    ) -> Result<OneImage, ProviderError> {
        let wish = PlatformSet::Only(vec![platform.clone()]);
        let mut left = vec![(root.clone(), Vec::new())];
        let (mut lacking, mut unplaced, mut offered) = (None, None, Vec::new());
        while let Some((at, siblings)) = left.pop() {
            let document = match self.document(typed, &at).await {
                Ok(document) => document,
                // Another child may do.
                Err(error @ ProviderError::Partial { .. }) if !left.is_empty() => {
                    lacking = Some(error);
                    continue;
                }
                Err(error) => return Err(lacking.unwrap_or(error)),
            };
            match document.kind() {
                Kind::Index(index) => {
                    let selection = select(index, &wish);
                    offered.extend(selection.offered.iter().cloned());
                    let children = selection.complete().map_err(|error| platform_error(typed, error))?;
                    let mut children: Vec<Descriptor> = children
                        .into_iter()
                        .filter(|child| child.is_manifest() && child.attests().is_none())
                        .collect();
                    // The last one is looked at first.
                    children.sort_by_key(|child| {
                        child.platform.as_ref().is_some_and(|own| platform.is_same(own))
                    });
                    let siblings = &index.manifests;
                    left.extend(children.into_iter().map(|child| (child, siblings.clone())));
                }
                Kind::Image(image) => {
                    let found = self.of_image(typed, at, image, siblings).await?;
                    let Some(own) = &found.platform else {
                        unplaced.get_or_insert(found);
                        continue;
                    };
                    if platform.accepts(own) {
                        return Ok(found);
                    }
                    offered.extend(found.platform);
                }
            }
        }
        match (unplaced, lacking) {
            // What runs nowhere, an artifact say, is what is wanted only where nothing else is.
            (Some(found), None) if offered.is_empty() => Ok(found),
            (_, Some(error)) => Err(error),
            _ => {
                let wanted = vec![platform.clone()];
                let error = larder_oci::OciError::PlatformNotFound { wanted, present: offered };
                Err(platform_error(typed, error))
            }
        }
    }

    async fn of_image(
        &self,
        typed: &str,
        at: Descriptor,
        image: &Image,
        siblings: Vec<Descriptor>,
    ) -> Result<OneImage, ProviderError> {
        let mut found = OneImage {
            opened: self.clone(),
            platform: at.platform.clone().filter(|platform| !platform.is_unknown()),
            descriptor: at,
            image: image.clone(),
            config: None,
            diff_ids: Vec::new(),
            siblings,
        };
        if larder_oci::media_type::is_config(&image.config.media_type) {
            let bytes = self.small(typed, &image.config.digest).await?;
            let parsed = Config::parse(&bytes).and_then(|config| Ok((config, ImageConfig::parse(bytes)?)));
            let (config, whole) = parsed.map_err(|error| ProviderError::Corrupt(error.to_string()))?;
            found.platform = found.platform.or(config.platform);
            found.diff_ids = config.diff_ids.iter().filter_map(|text| text.parse().ok()).collect();
            found.config = Some(whole);
        }
        Ok(found)
    }

    pub(crate) async fn document(&self, typed: &str, at: &Descriptor) -> Result<Document, ProviderError> {
        let document = self.blobs.document(at).await.map_err(|error| blob_error(&error))?;
        document.ok_or_else(|| partial(typed, std::slice::from_ref(&at.digest)))
    }

    async fn small(&self, typed: &str, digest: &Digest) -> Result<Bytes, ProviderError> {
        match self.blobs.read_small(digest, MANIFEST_BYTES_MAX as u64).await {
            Err(larder_blobs::BlobError::NotFound(_)) => Err(partial(typed, std::slice::from_ref(digest))),
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

    /// An OCI archive of `root` and `blobs`, some of which are given instead of read.
    fn oci_archive(
        &self,
        name: String,
        root: Descriptor,
        blobs: Vec<Descriptor>,
        given: Option<Document>,
    ) -> ByteStream {
        let (opened, runtime) = (self.clone(), Handle::current());
        pipe::stream(move |out| {
            let mut archive = OciArchive::begin(out, &name, &root).map_err(|error| write_error(&error))?;
            for blob in blobs {
                metrics::BYTES.with_label_values(&["store_out"]).inc_by(blob.size);
                let given = given.as_ref().filter(|_| blob.digest == root.digest);
                let written = match given {
                    Some(document) => archive.blob(&blob.digest, blob.size, document.bytes().as_ref()),
                    None => archive.blob(&blob.digest, blob.size, opened.reader(&runtime, &blob.digest)?),
                };
                written.map_err(|error| write_error(&error))?;
            }
            archive.finish().map(drop).map_err(|error| write_error(&error))
        })
    }
}

impl OneImage {
    fn blobs(&self) -> Vec<Descriptor> {
        let layers =
            self.image.layers.iter().filter(|layer| !larder_oci::media_type::is_foreign(&layer.media_type));
        std::iter::once(&self.image.config).chain(layers).cloned().collect()
    }

    fn name(&self, name: Option<&str>) -> Result<String, ProviderError> {
        let Some(text) = name else {
            return Ok(self.opened.name.clone());
        };
        let reference: Reference = text.parse().map_err(|error| invalid(&error))?;
        Ok(match reference.tag() {
            Some(tag) if reference.digest().is_none() && !text.ends_with(&format!(":{tag}")) => {
                format!("{text}:{tag}")
            }
            _ => text.to_owned(),
        })
    }
}

#[async_trait]
impl ImageSource for OneImage {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn platform(&self) -> Option<&Platform> {
        self.platform.as_ref()
    }

    async fn config(&self) -> Result<ImageConfig, ProviderError> {
        self.config.clone().ok_or_else(|| {
            let message =
                format!("{} has a configuration of type {}", self.opened.name, self.image.config.media_type);
            ProviderError::Unsupported(message)
        })
    }

    async fn tar_reader(&self) -> Result<ByteStream, ProviderError> {
        self.opened.refuse_missing(&self.blobs()).await?;
        if self.diff_ids.len() != self.image.layers.len() {
            let message =
                format!("{} is no root filesystem: it has other layers than diff ids", self.opened.name);
            return Err(ProviderError::Unsupported(message));
        }
        let layers = self.image.layers.iter().zip(&self.diff_ids);
        let layers: Vec<Layer> = layers
            .map(|(layer, diff_id)| Layer { digest: layer.digest.clone(), diff_id: Some(diff_id.clone()) })
            .collect();
        let bytes = self.image.layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
        metrics::BYTES.with_label_values(&["store_out"]).inc_by(bytes);
        let stored = StoredLayers { opened: self.opened.clone(), runtime: Handle::current() };
        Ok(pipe::stream(move |out| {
            let flat = flatten(&layers, &stored, &FlattenLimits::default(), out);
            flat.map(drop).map_err(|error| crate::error::archive_error(&error))
        }))
    }

    async fn v1_tar_reader(&self, name: Option<&str>) -> Result<ByteStream, ProviderError> {
        let name = self.name(name)?;
        self.opened.refuse_missing(&self.blobs()).await?;
        let (opened, image, runtime) = (self.opened.clone(), self.image.clone(), Handle::current());
        Ok(pipe::stream(move |out| docker_archive(&opened, &runtime, &name, &image, out)))
    }

    async fn oci_tar_reader(&self, name: Option<&str>) -> Result<ByteStream, ProviderError> {
        let name = self.opened.archive_name(name)?;
        let mut blobs = vec![self.descriptor.clone()];
        blobs.extend(self.blobs());
        self.opened.refuse_missing(&blobs).await?;
        Ok(self.opened.oci_archive(name, self.descriptor.clone(), blobs, None))
    }

    async fn sboms(&self) -> Result<Vec<Bytes>, ProviderError> {
        let attestations =
            self.siblings.iter().filter(|child| child.attests().as_ref() == Some(&self.descriptor.digest));
        let mut found = Vec::new();
        for attestation in attestations {
            let document = self.opened.document(&self.opened.name, attestation).await?;
            found.extend(sbom::predicates(&self.opened.blobs, &self.opened.name, &document).await?);
        }
        Ok(found)
    }
}

fn docker_archive(
    opened: &Opened,
    runtime: &Handle,
    name: &str,
    image: &Image,
    out: &mut Pipe,
) -> Result<(), ProviderError> {
    let open = |blob: &Descriptor| {
        metrics::BYTES.with_label_values(&["store_out"]).inc_by(blob.size);
        opened.reader(runtime, &blob.digest)
    };
    let failed = |error: std::io::Error| write_error(&error);
    let mut archive = DockerArchive::begin(out, name);
    archive.config(&image.config.digest, image.config.size, open(&image.config)?).map_err(failed)?;
    for layer in &image.layers {
        archive.layer(&layer.digest, layer.size, open(layer)?).map_err(failed)?;
    }
    archive.finish().map(drop).map_err(failed)
}

/// Layers as they are stored; each reader proves its digest.
struct StoredLayers {
    opened: Opened,
    runtime: Handle,
}

impl Layers for StoredLayers {
    fn open(&self, layer: &Layer) -> std::io::Result<Box<dyn std::io::Read + Send>> {
        let reader = self.opened.reader(&self.runtime, &layer.digest);
        Ok(Box::new(reader.map_err(std::io::Error::other)?))
    }
}

impl WholeIndex {
    async fn closure(&self) -> Result<Closure, ProviderError> {
        let scope = match &self.platforms {
            PlatformSet::All => Scope::Present,
            some @ PlatformSet::Only(_) => Scope::Wanted(some),
        };
        let closure =
            walk(&self.opened.blobs, &self.descriptor, &scope).await.map_err(|error| blob_error(&error))?;
        refuse_partial(&self.opened.name, &closure)?;
        match closure.uncovered(&self.platforms) {
            Some(error) => Err(platform_error(&self.opened.name, error)),
            None => Ok(closure),
        }
    }
}

#[async_trait]
impl IndexSource for WholeIndex {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn image(&self, platform: &Platform) -> Result<Arc<dyn ImageSource>, ProviderError> {
        let name = self.opened.name.clone();
        Ok(Arc::new(self.opened.image(&name, &self.descriptor, platform).await?))
    }

    async fn oci_tar_reader(&self, name: Option<&str>) -> Result<ByteStream, ProviderError> {
        let name = self.opened.archive_name(name)?;
        let mut closure = self.closure().await?;
        let document = self.opened.document(&self.opened.name, &self.descriptor).await?;
        let kept: Vec<Digest> = closure.blobs.iter().map(|blob| blob.digest.clone()).collect();
        let mut root = self.descriptor.clone();
        let mut given = None;
        if self.platforms != PlatformSet::All && matches!(document.kind(), Kind::Index(_)) {
            let filtered = restrict(&document, &kept).map_err(|error| platform_error(&name, error))?;
            root = Descriptor { annotations: root.annotations, ..filtered.descriptor() };
            closure.blobs[0] = root.clone();
            given = Some(filtered);
        }
        Ok(self.opened.oci_archive(name, root, closure.blobs, given))
    }
}
