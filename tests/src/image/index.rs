//! Indexes of several images.

use serde_json::{Value, json};

use super::{Blob, Format, Image, Layer, document};

/// An index in the making.
#[derive(Debug)]
pub struct IndexBuilder {
    format: Format,
    entries: Vec<Value>,
    manifests: Vec<Blob>,
    blobs: Vec<Blob>,
}

impl IndexBuilder {
    pub(super) fn new(format: Format) -> Self {
        Self { format, entries: Vec::new(), manifests: Vec::new(), blobs: Vec::new() }
    }

    /// Adds an image for its platform, a nested index, or an artifact.
    #[must_use]
    pub fn image(mut self, image: &Image) -> Self {
        let mut entry = image.root.descriptor();
        if let Some(platform) = &image.platform {
            entry["platform"] = platform.clone();
        }
        self.entries.push(entry);
        self.absorb(image);
        self
    }

    /// Adds `images`, and behind them an attestation of each, in which order BuildKit lists them.
    #[must_use]
    pub fn attested(self, images: &[&Image]) -> Self {
        let listed = images.iter().fold(self, |index, image| index.image(image));
        images.iter().fold(listed, |index, image| index.attestation(image))
    }

    /// Adds an attestation of `image` as BuildKit does: an image for `unknown/unknown` that points at it.
    #[must_use]
    pub fn attestation(mut self, image: &Image) -> Self {
        let statement =
            format!(r#"{{"_type":"https://in-toto.io/Statement/v0.1","subject":"{}"}}"#, image.root.digest);
        let attestation = Image::build("unknown/unknown")
            .layer(Layer::files(&[("statement.json", statement.as_bytes())]))
            .finish();
        let mut entry = attestation.root.descriptor();
        entry["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
        entry["annotations"] = json!({
            "vnd.docker.reference.digest": image.root.digest,
            "vnd.docker.reference.type": "attestation-manifest",
        });
        self.entries.push(entry);
        self.absorb(&attestation);
        self
    }

    /// Adds a descriptor that nothing stands behind.
    #[must_use]
    pub fn descriptor(mut self, descriptor: Value) -> Self {
        self.entries.push(descriptor);
        self
    }

    /// Builds it.
    pub fn finish(mut self) -> Image {
        let index = json!({
            "schemaVersion": 2,
            "mediaType": self.format.index(),
            "manifests": self.entries,
        });
        let root = Blob::new(self.format.index(), document(&index));
        self.manifests.push(root.clone());
        Image { root, manifests: self.manifests, blobs: self.blobs, platform: None }
    }

    fn absorb(&mut self, image: &Image) {
        let known = |all: &[Blob], blob: &Blob| all.iter().any(|other| other.digest == blob.digest);
        for manifest in &image.manifests {
            if !known(&self.manifests, manifest) {
                self.manifests.push(manifest.clone());
            }
        }
        for blob in &image.blobs {
            if !known(&self.blobs, blob) {
                self.blobs.push(blob.clone());
            }
        }
    }
}
