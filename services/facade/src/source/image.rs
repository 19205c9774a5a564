//! One image, opened for reading.

use async_trait::async_trait;
use bytes::Bytes;
use larder_archive::{DockerArchive, FlattenLimits, Layer, Layers, flatten};
use larder_oci::{
    Config, Descriptor, Digest, Image, ImageConfig, Kind, Platform, PlatformSet, Reference, select,
};
use larder_provider::{ByteStream, ImageSource, ProviderError};
use larder_runtime::metrics;
use tokio::runtime::Handle;

use super::{Excerpt, Opened};
use crate::error::{invalid, platform_error};
use crate::pipe::{self, Pipe, write_error};
use crate::sbom;

pub(crate) struct OneImage {
    opened: Opened,
    descriptor: Descriptor,
    image: Image,
    config: Option<ImageConfig>,
    platform: Option<Platform>,
    diff_ids: Vec<Digest>,
    /// The index it was found in, for its attestations.
    siblings: Vec<Descriptor>,
}

impl Opened {
    /// Finds the image for `platform` below `root`, best match first: a wish without a variant prefers the default one.
    pub(super) async fn image(
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
}

impl OneImage {
    /// All of it that is kept in the store.
    pub(crate) async fn excerpt(&self) -> Result<Excerpt, ProviderError> {
        let mut blobs = vec![self.descriptor.clone()];
        blobs.extend(self.blobs());
        self.opened.refuse_missing(&blobs).await?;
        Ok(Excerpt { opened: self.opened.clone(), root: self.descriptor.clone(), blobs, made: None })
    }

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
        Ok(self.excerpt().await?.archive(name))
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
