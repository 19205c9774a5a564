//! Several platforms under one name: what is pushed over what is there.

use larder_oci::{
    Config, Descriptor, Digest, Digester, Document, Image, Kind, MANIFEST_BYTES_MAX, Platform, merge, overlay,
};
use larder_registry::{Chunk, RegistryError};

use crate::PushError;
use crate::push::Errand;

/// The manifest that has all that `ours` has, and the platforms that only `theirs` has; `None` when `theirs` is that manifest.
/// It is `ours`, byte for byte, when nothing of `theirs` is in it.
///
/// # Errors
/// [`PushError::Unmergeable`] when one is an image for no known platform, so that something would be lost.
pub(crate) async fn over(
    errand: &Errand<'_>,
    ours: &Document,
    theirs: &Document,
) -> Result<Option<Document>, PushError> {
    if holds_all(theirs, ours) {
        return Ok(None);
    }
    let merged = match (ours.kind(), theirs.kind()) {
        (Kind::Index(_), Kind::Index(_)) => overlay(ours, theirs),
        (Kind::Index(_), Kind::Image(image)) => {
            let child = errand.remote_child(theirs, image).await?;
            merge(None, &[child]).and_then(|theirs| overlay(ours, &theirs))
        }
        (Kind::Image(image), Kind::Index(_)) => {
            merge(Some(theirs), &[errand.local_child(ours, image).await?])
        }
        (Kind::Image(image), Kind::Image(other)) => {
            let child = errand.local_child(ours, image).await?;
            merge(None, &[errand.remote_child(theirs, other).await?, child])
        }
    };
    let merged = merged.map_err(|source| errand.image(source))?;
    let is_ours_alone = matches!(ours.kind(), Kind::Image(_)) && merged.children().len() == 1;
    if is_ours_alone {
        return Ok(Some(ours.clone()));
    }
    Ok((merged.bytes() != theirs.bytes()).then_some(merged))
}

/// Whether the index `theirs` has all that `ours` is or has.
fn holds_all(theirs: &Document, ours: &Document) -> bool {
    let Kind::Index(theirs) = theirs.kind() else {
        return false;
    };
    let holds = |digest: &Digest| theirs.manifests.iter().any(|child| child.digest == *digest);
    match ours.kind() {
        Kind::Index(ours) => ours.manifests.iter().all(|child| holds(&child.digest)),
        Kind::Image(_) => holds(&ours.descriptor().digest),
    }
}

impl Errand<'_> {
    /// The stored image `document` as a child of an index.
    async fn local_child(&self, document: &Document, image: &Image) -> Result<Descriptor, PushError> {
        let platform = self.local_platform(image).await?;
        child(document, platform).ok_or_else(|| self.unmergeable(document))
    }

    /// The image `document` in the registry as a child of an index.
    async fn remote_child(&self, document: &Document, image: &Image) -> Result<Descriptor, PushError> {
        let platform = self.remote_platform(image).await?;
        child(document, platform).ok_or_else(|| self.unmergeable(document))
    }

    fn unmergeable(&self, document: &Document) -> PushError {
        PushError::Unmergeable { to: self.wanted.to.clone(), image: document.descriptor().digest }
    }

    /// What the stored image `image` runs on, as far as it says.
    pub(crate) async fn local_platform(&self, image: &Image) -> Result<Option<Platform>, PushError> {
        let config = self.ports.blobs.read_small(&image.config.digest, MANIFEST_BYTES_MAX as u64).await;
        let config = config.map_err(|source| self.store(source))?;
        Ok(platform(&config))
    }

    /// What the image `image` in the registry runs on, as far as it says.
    async fn remote_platform(&self, image: &Image) -> Result<Option<Platform>, PushError> {
        let Descriptor { digest, size, .. } = &image.config;
        if *size > MANIFEST_BYTES_MAX as u64 {
            return Ok(None);
        }
        let bytes = self.read_remote(digest, *size).await.map_err(|source| self.upstream(source))?;
        Ok(platform(&bytes))
    }

    async fn read_remote(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, RegistryError> {
        let registry = &self.ports.registry;
        let registry = registry.past_mirrors(self.at.registry()).unwrap_or_else(|| registry.clone());
        let mut stream = registry.blob(&self.at, digest, Some(size), 0).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await? {
            match chunk {
                Chunk::Bytes(more) => bytes.extend_from_slice(&more),
                Chunk::Restart => bytes.clear(),
            }
        }
        let mut digester = Digester::new(digest.algorithm());
        digester.update(&bytes);
        let got = digester.finish();
        if got == *digest { Ok(bytes) } else { Err(RegistryError::Corrupt { want: digest.clone(), got }) }
    }
}

fn child(document: &Document, platform: Option<Platform>) -> Option<Descriptor> {
    Some(Descriptor { platform: Some(platform?), ..document.descriptor() })
}

fn platform(config: &[u8]) -> Option<Platform> {
    let platform = Config::parse(config).ok()?.platform?;
    (!platform.is_unknown()).then_some(platform)
}
