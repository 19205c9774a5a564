//! Images built in memory, as registries hold them.

mod builder;
mod index;
mod layer;

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub use builder::ImageBuilder;
pub use index::IndexBuilder;
pub(crate) use layer::gzip;
pub use layer::{Compression, Layer, random};

/// The digest of nothing but `{}`, the config of most artifacts.
pub const EMPTY_MEDIA_TYPE: &str = "application/vnd.oci.empty.v1+json";

/// Bytes with the name and the type that a registry knows them by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// The media type.
    pub media_type: String,
    /// The bytes themselves.
    pub bytes: Bytes,
}

impl Blob {
    /// Names `bytes` by its digest.
    pub fn new(media_type: &str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { digest: sha256(&bytes), media_type: media_type.to_owned(), bytes }
    }

    /// Returns a descriptor of these bytes.
    pub fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len() })
    }

    /// Returns the bytes as JSON.
    ///
    /// # Panics
    /// Where they are not.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).expect("the bytes are JSON")
    }
}

/// Which of the two vocabularies of media types an image is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `application/vnd.oci.image.…`.
    #[default]
    Oci,
    /// `application/vnd.docker.distribution.…`, schema 2.
    Docker,
}

impl Format {
    fn manifest(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.manifest.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    fn index(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.index.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.config.v1+json",
            Self::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    fn layer(self, compression: Compression) -> &'static str {
        match (self, compression) {
            (Self::Oci, Compression::Plain) => "application/vnd.oci.image.layer.v1.tar",
            (Self::Oci, Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (Self::Oci, Compression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
            (Self::Docker, Compression::Plain) => "application/vnd.docker.image.rootfs.diff.tar",
            (Self::Docker, Compression::Gzip) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            (Self::Docker, Compression::Zstd) => "application/vnd.docker.image.rootfs.diff.tar.zstd",
        }
    }
}

/// An image, index or artifact with all that it refers to.
#[derive(Debug, Clone)]
pub struct Image {
    /// The manifest or index that a tag would name.
    pub root: Blob,
    /// Every manifest and index, children before parents; the last one is `root`.
    pub manifests: Vec<Blob>,
    /// Every config and layer, each once.
    pub blobs: Vec<Blob>,
    /// The platform as an index writes it; none for an index or an artifact.
    pub platform: Option<Value>,
}

impl Image {
    /// Begins an image for `platform`: `os/architecture` or `os/architecture/variant`.
    pub fn build(platform: &str) -> ImageBuilder {
        ImageBuilder::new(platform)
    }

    /// Begins an index.
    pub fn index(format: Format) -> IndexBuilder {
        IndexBuilder::new(format)
    }

    /// Returns a small image of two gzip layers for linux/amd64.
    pub fn small() -> Self {
        Self::build("linux/amd64")
            .layer(Layer::files(&[("etc/hostname", b"larder\n".as_slice())]))
            .layer(Layer::random(64 * 1024, 1))
            .finish()
    }

    /// Returns an image of `layers` plain layers for linux/amd64, each of `bytes_each` random bytes.
    pub fn of_noise(layers: u64, bytes_each: usize) -> Self {
        let mut image = Self::build("linux/amd64");
        for seed in 0..layers {
            image = image.layer(Layer::random(bytes_each, seed + 100).compress(Compression::Plain));
        }
        image.finish()
    }

    /// Returns an artifact of `artifact_type` with one blob, referring to `subject` where there is one.
    pub fn artifact(artifact_type: &str, payload: &[u8], subject: Option<&Blob>) -> Self {
        let config = Blob::new(EMPTY_MEDIA_TYPE, "{}");
        let blob = Blob::new("application/octet-stream", payload.to_vec());
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": Format::Oci.manifest(),
            "artifactType": artifact_type,
            "config": config.descriptor(),
            "layers": [blob.descriptor()],
        });
        if let Some(subject) = subject {
            manifest["subject"] = subject.descriptor();
        }
        let root = Blob::new(Format::Oci.manifest(), document(&manifest));
        Self { manifests: vec![root.clone()], root, blobs: vec![config, blob], platform: None }
    }

    /// Returns an image whose only manifest is `bytes` as they stand, to be refused or served unaltered.
    pub fn raw(media_type: &str, bytes: impl Into<Bytes>) -> Self {
        let root = Blob::new(media_type, bytes);
        Self { manifests: vec![root.clone()], root, blobs: Vec::new(), platform: None }
    }

    /// Returns the blob at `position`: the config is the first, then come the layers, lowest first.
    ///
    /// # Panics
    /// Where there are fewer blobs.
    pub fn blob(&self, position: usize) -> &Blob {
        &self.blobs[position]
    }

    /// Returns every digest of the closure, manifests first.
    pub fn digests(&self) -> Vec<&str> {
        let all = self.manifests.iter().chain(&self.blobs);
        all.map(|blob| blob.digest.as_str()).collect()
    }

    /// Returns the sum of all sizes, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.manifests.iter().chain(&self.blobs).map(|blob| blob.bytes.len() as u64).sum()
    }
}

/// Returns `sha256:` and the hexadecimal digest of `bytes`.
pub fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    let mut digest = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        let _ = write!(digest, "{byte:02x}");
    }
    digest
}

fn document(value: &Value) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("a JSON value can be written")
}

fn platform(text: &str) -> Value {
    let mut parts = text.split('/');
    let os = parts.next().unwrap_or_default();
    let architecture = parts.next().expect("a platform is written os/architecture");
    let mut platform = json!({ "architecture": architecture, "os": os });
    if let Some(variant) = parts.next() {
        platform["variant"] = variant.into();
    }
    platform
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_the_empty_object_is_the_well_known_one() {
        let known = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        assert_eq!(sha256(b"{}"), known);
    }

    #[test]
    fn config_names_the_inflated_layers() {
        let image = Image::small();
        let config = image.blob(0).json();
        let mut tar = Vec::new();
        let compressed: &[u8] = &image.blob(1).bytes;
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(compressed), &mut tar).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], sha256(&tar));
    }

    #[test]
    fn index_lists_each_shared_blob_once() {
        let index = Image::index(Format::Oci)
            .image(&Image::small())
            .image(&Image::build("linux/arm64/v8").layer(Layer::random(64 * 1024, 1)).finish())
            .finish();
        assert_eq!(index.manifests.len(), 3);
        assert_eq!(index.blobs.len(), 4);
        assert_eq!(index.root.json()["manifests"][1]["platform"]["variant"], "v8");
    }
}
