//! What `docker save` writes, and skopeo, crane, kaniko and others after it: a list of images with the names of their parts.

use std::collections::HashMap;

use larder_oci::{Descriptor, Digest, Document, INDEX_DESCRIPTORS_MAX, media_type};
use serde::{Deserialize, Serialize};

use super::gathered::resolve;
use super::{Found, Sink};
use crate::ArchiveError;
use crate::compression::Compression;

/// How many links may lead to a part, one after the other.
const LINKS_MAX: usize = 8;

/// A stored configuration or layer.
pub(super) struct Part {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) compression: Compression,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// The images of `manifest.json`, each with a manifest made for it.
pub(super) fn images(
    json: &[u8],
    parts: &HashMap<String, Part>,
    links: &HashMap<String, String>,
    sink: &mut dyn Sink,
) -> Result<Vec<Found>, ArchiveError> {
    let images: Vec<Image> = serde_json::from_slice(json).map_err(|source| ArchiveError::List { source })?;
    bound(images.len(), "images")?;
    let part =
        |name: &str| find(name, parts, links).ok_or_else(|| ArchiveError::Absent { name: name.to_owned() });
    let mut found = Vec::new();
    for image in images {
        let config = part(&image.config)?;
        let names = image.layers.unwrap_or_default();
        bound(names.len(), "layers in one image")?;
        let mut layers = Vec::new();
        for name in names {
            let layer = part(&name)?;
            layers.push(Descriptor::new(layer_type(layer.compression), layer.digest.clone(), layer.size));
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::OCI_MANIFEST,
            config: Descriptor::new(media_type::OCI_CONFIG, config.digest.clone(), config.size),
            layers,
        };
        let descriptor = store(&manifest, sink)?;
        found.push(Found { names: image.repo_tags.unwrap_or_default(), descriptor });
    }
    Ok(found)
}

/// A list names much in few bytes.
fn bound(count: usize, what: &'static str) -> Result<(), ArchiveError> {
    let max = INDEX_DESCRIPTORS_MAX as u64;
    if count as u64 > max { Err(ArchiveError::TooMuch { what, max }) } else { Ok(()) }
}

fn store(manifest: &Manifest, sink: &mut dyn Sink) -> Result<Descriptor, ArchiveError> {
    let name = "manifest.json";
    let json = serde_json::to_vec(manifest).map_err(|source| ArchiveError::List { source })?;
    let document = Document::parse(json.into(), Some(media_type::OCI_MANIFEST))
        .map_err(|source| ArchiveError::Document { name, source })?;
    let descriptor = document.descriptor();
    let stored = sink.blob(&descriptor.digest, descriptor.size, &mut document.bytes().as_ref());
    stored.map_err(|source| ArchiveError::Store { name: name.to_owned(), source })?;
    Ok(descriptor)
}

fn find<'a>(
    name: &str,
    parts: &'a HashMap<String, Part>,
    links: &HashMap<String, String>,
) -> Option<&'a Part> {
    let mut name = &resolve("", name)?;
    for _ in 0..=LINKS_MAX {
        match parts.get(name) {
            Some(part) => return Some(part),
            None => name = links.get(name)?,
        }
    }
    None
}

fn layer_type(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "application/vnd.oci.image.layer.v1.tar",
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    }
}
