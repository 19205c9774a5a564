//! What `docker save` writes, and skopeo, crane, kaniko and others after it: a list of images with the names of their parts.

use std::collections::HashMap;
use std::io;

use larder_oci::{Descriptor, Digest, Document, INDEX_DESCRIPTORS_MAX, OciError, media_type};
use serde::{Deserialize, Serialize};

use super::gathered::resolve;
use super::witness::Seen;
use super::{Found, Sink};
use crate::ArchiveError;
use crate::compression::Compression;
use crate::error::shown;

/// How many links may lead to a part, one after the other.
const LINKS_MAX: usize = 8;

/// A stored configuration or layer.
pub(super) struct Part {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) compression: Compression,
    pub(super) seen: Seen,
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

/// The images of `manifest.json`, each with a manifest made for it, and with the layers that its configuration says.
pub(super) fn images(
    json: &[u8],
    parts: &HashMap<String, Part>,
    links: &HashMap<String, String>,
    sink: &mut dyn Sink,
) -> Result<Vec<Found>, ArchiveError> {
    let images: Vec<Image> = serde_json::from_slice(json).map_err(|source| ArchiveError::List { source })?;
    bound(images.len(), "images")?;
    let mut found = Vec::new();
    for image in images {
        let (config_name, config) = find(&image.config, parts, links)?;
        let names = image.layers.unwrap_or_default();
        bound(names.len(), "layers in one image")?;
        let diff_ids = diff_ids(config_name, config, names.len())?;
        let mut layers = Vec::new();
        for (name, want) in names.iter().zip(diff_ids) {
            let (name, layer) = find(name, parts, links)?;
            prove(name, layer, want)?;
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

/// The part that `listed` leads to, with the name of its entry.
fn find<'a>(
    listed: &str,
    parts: &'a HashMap<String, Part>,
    links: &HashMap<String, String>,
) -> Result<(&'a str, &'a Part), ArchiveError> {
    let resolved = resolve("", listed);
    let mut at = resolved.as_ref();
    for _ in 0..=LINKS_MAX {
        let Some(name) = at else { break };
        if let Some((name, part)) = parts.get_key_value(name) {
            return Ok((name, part));
        }
        at = links.get(name);
    }
    Err(ArchiveError::Absent { name: shown(listed) })
}

/// What the layers must inflate to, of which `manifest.json` lists as many as `listed`.
fn diff_ids(name: &str, config: &Part, listed: usize) -> Result<Vec<Digest>, ArchiveError> {
    let diff_ids = config.seen.diff_ids.as_ref();
    let diff_ids = diff_ids.ok_or_else(|| ArchiveError::NotAConfig { name: shown(name) })?;
    let configured = diff_ids.len();
    if configured != listed {
        return Err(ArchiveError::LayerCount { name: shown(name), listed, configured });
    }
    let failed = |source: OciError| ArchiveError::Document { name: "configuration", source };
    diff_ids.iter().map(|diff_id| diff_id.parse().map_err(failed)).collect()
}

/// Fails unless `layer` inflates to `want`.
fn prove(name: &str, layer: &Part, want: Digest) -> Result<(), ArchiveError> {
    let got = match &layer.seen.content {
        // Nobody has looked into it, for its path says what its bytes are.
        Ok(None) if matches!(layer.compression, Compression::Gzip | Compression::Zstd) => return Ok(()),
        Ok(content) => content.as_ref().unwrap_or(&layer.digest),
        Err(error) => return Err(unproven(name, error)),
    };
    if *got == want {
        return Ok(());
    }
    Err(match layer.compression {
        Compression::Foreign(what) => ArchiveError::Compression { what }.within(name),
        _ => ArchiveError::LayerContent { name: shown(name), want, got: got.clone() },
    })
}

fn unproven(name: &str, error: &io::Error) -> ArchiveError {
    match error.get_ref().and_then(|own| own.downcast_ref()) {
        Some(&ArchiveError::Bomb { ratio_max }) => ArchiveError::Bomb { ratio_max }.within(name),
        _ => {
            let source = io::Error::new(error.kind(), error.to_string());
            ArchiveError::Inflate { name: shown(name), source }
        }
    }
}

fn layer_type(compression: Compression) -> &'static str {
    match compression {
        Compression::None | Compression::Foreign(_) => "application/vnd.oci.image.layer.v1.tar",
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    }
}
