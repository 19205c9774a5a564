//! Everything an image consists of, as far as it is wanted.

use std::collections::HashSet;

use larder_oci::{
    Config, Descriptor, Digest, Document, Kind, OciError, Platform, PlatformSet, media_type, select,
};

use crate::{BlobError, Blobs};

/// What was found behind a root.
#[derive(Default)]
pub struct Closure {
    /// Every manifest, configuration and layer that should be there, once.
    pub blobs: Vec<Descriptor>,
    /// Those that are not there with the size their parent gives.
    pub missing: Vec<Digest>,
    /// Children of indexes that are not wanted or were never fetched.
    pub absent: Vec<Digest>,
    /// What the indexes found say they have, wanted or not.
    pub offered: Vec<Platform>,
    /// What the images found run on.
    pub platforms: Vec<Platform>,
    /// Manifests that cannot be what their parent says, with the reason.
    pub invalid: Vec<(Digest, String)>,
}

/// Which children of an index belong to the image.
pub enum Scope<'a> {
    /// Those for these platforms: each must be there.
    Wanted(&'a PlatformSet),
    /// Those that are there.
    Present,
}

/// Walks from `root` through all manifests. Reads manifests and configurations, not layers.
///
/// # Errors
/// When the store cannot be read; what does not hold is in the [`Closure`].
pub async fn walk(blobs: &Blobs, root: &Descriptor, scope: &Scope<'_>) -> Result<Closure, BlobError> {
    let mut closure = Closure::default();
    let mut seen = HashSet::from([root.digest.clone()]);
    let mut level = vec![root.clone()];
    while !level.is_empty() {
        let mut next = Vec::new();
        for at in level {
            closure.blobs.push(at.clone());
            let document = match blobs.document(&at).await {
                Ok(Some(document)) => document,
                Ok(None) => continue,
                Err(error) if error.is_integrity() => {
                    closure.invalid.push((at.digest.clone(), chain(&error)));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let children = children(blobs, &document, scope, &mut closure).await?;
            read_config(blobs, &at, &document, &mut closure).await?;
            for child in children {
                if !seen.insert(child.digest.clone()) {
                    continue;
                }
                let is_manifest = matches!(document.kind(), Kind::Index(_)) && child.is_manifest();
                if is_manifest { next.push(child) } else { closure.blobs.push(child) }
            }
        }
        level = next;
    }
    let missing = blobs.missing(&closure.blobs).await?;
    closure.missing = missing.into_iter().map(|blob| blob.digest).collect();
    Ok(closure)
}

async fn children(
    blobs: &Blobs,
    document: &Document,
    scope: &Scope<'_>,
    closure: &mut Closure,
) -> Result<Vec<Descriptor>, BlobError> {
    let all: Vec<Descriptor> = document.children().into_iter().cloned().collect();
    let Kind::Index(index) = document.kind() else {
        return Ok(all);
    };
    match scope {
        // A platform that is not there is found missing once all images are known: another index may have it.
        Scope::Wanted(platforms) => {
            let selection = select(index, platforms);
            closure.offered.extend(selection.offered);
            Ok(selection.wanted)
        }
        Scope::Present => {
            let mut present = Vec::new();
            for child in all {
                if blobs.size(&child.digest).await?.is_some() {
                    present.push(child);
                } else {
                    closure.absent.push(child.digest);
                }
            }
            Ok(present)
        }
    }
}

/// Compares an image with its configuration (OCI image-spec, config.md).
async fn read_config(
    blobs: &Blobs,
    at: &Descriptor,
    document: &Document,
    closure: &mut Closure,
) -> Result<(), BlobError> {
    let Kind::Image(image) = document.kind() else {
        return Ok(());
    };
    let runs = media_type::is_config(&image.config.media_type) && image.artifact_type.is_none();
    if !runs || at.attests().is_some() {
        return Ok(());
    }
    let bytes = match blobs.read_small(&image.config.digest, larder_oci::MANIFEST_BYTES_MAX as u64).await {
        Ok(bytes) => bytes,
        Err(BlobError::NotFound(_)) => return Ok(()),
        Err(error) if error.is_integrity() => {
            closure.invalid.push((image.config.digest.clone(), chain(&error)));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    match Config::parse(&bytes) {
        Ok(config) => agree(at, image, config, closure),
        Err(error) => closure.invalid.push((image.config.digest.clone(), chain(&error))),
    }
    Ok(())
}

fn agree(at: &Descriptor, image: &larder_oci::Image, config: Config, closure: &mut Closure) {
    let layers = image.layers.len();
    // An image that is no root filesystem (a Helm chart, say) may have layers and no diff ids.
    if !config.diff_ids.is_empty() && config.diff_ids.len() != layers {
        let what = format!("it names {} diff ids for {layers} layers", config.diff_ids.len());
        closure.invalid.push((image.config.digest.clone(), what));
    }
    let declared = at.platform.clone().filter(|platform| !platform.is_unknown());
    if let (Some(declared), Some(own)) = (&declared, &config.platform)
        && (declared.os != own.os || declared.architecture != own.architecture)
    {
        let what = format!("it runs on {own}, but its index says {declared}");
        closure.invalid.push((image.config.digest.clone(), what));
    }
    if at.platform.is_none() || declared.is_some() {
        closure.platforms.extend(declared.or(config.platform));
    }
}

impl Closure {
    /// Which of the wanted platforms the images found do not cover.
    pub fn uncovered(&self, wanted: &PlatformSet) -> Option<OciError> {
        let PlatformSet::Only(wanted) = wanted else {
            return None;
        };
        // Artifacts run nowhere and have no platform to compare.
        if self.platforms.is_empty() && self.offered.is_empty() {
            return None;
        }
        let covered = |wish: &&Platform| !self.platforms.iter().any(|platform| wish.accepts(platform));
        let missing: Vec<Platform> = wanted.iter().filter(covered).cloned().collect();
        let present = if self.offered.is_empty() { &self.platforms } else { &self.offered }.clone();
        (!missing.is_empty()).then_some(OciError::PlatformNotFound { wanted: missing, present })
    }

    /// Whether it is an index of which no image is there.
    pub fn is_hollow(&self) -> bool {
        !self.absent.is_empty() && self.blobs.len() == 1
    }

    /// Whether all of it is there and nothing disagrees.
    pub fn is_whole(&self, wanted: &PlatformSet) -> bool {
        self.missing.is_empty() && self.invalid.is_empty() && self.uncovered(wanted).is_none()
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// Adds to `reached` all blobs that `root` leads to, whether they are stored or not; `media_type` says what it is, if that is known.
/// What was reached before is not walked again.
///
/// # Errors
/// When a manifest on the way is damaged or the store cannot be read: then it cannot be told what is reached.
pub async fn reach<S: std::hash::BuildHasher>(
    blobs: &Blobs,
    root: &Digest,
    media_type: Option<&str>,
    reached: &mut HashSet<Digest, S>,
) -> Result<(), BlobError> {
    let mut left = vec![(root.clone(), media_type.map(str::to_owned))];
    while let Some((digest, media_type)) = left.pop() {
        if !reached.insert(digest.clone()) {
            continue;
        }
        let is_manifest = |text: &str| media_type::is_image(text) || media_type::is_index(text);
        if media_type.as_deref().is_some_and(|own| !is_manifest(own)) {
            continue;
        }
        let bytes = match blobs.read_small(&digest, larder_oci::MANIFEST_BYTES_MAX as u64).await {
            Ok(bytes) => bytes,
            Err(BlobError::NotFound(_)) => continue,
            Err(error) => return Err(error),
        };
        let parsed = Document::parse(bytes, media_type.as_deref());
        let document = parsed.map_err(|source| BlobError::Document { digest, source })?;
        let is_index = matches!(document.kind(), Kind::Index(_));
        for child in document.children() {
            if is_index {
                left.push((child.digest.clone(), Some(child.media_type.clone())));
            } else {
                reached.insert(child.digest.clone());
            }
        }
    }
    Ok(())
}
