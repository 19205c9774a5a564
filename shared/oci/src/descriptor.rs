//! Descriptors (OCI image-spec, descriptor.md).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, Platform, media_type};

/// The type, address and size of a blob, with what its parent says of it.
///
/// `urls` and `data` of a foreign document are not kept: larder follows no address that a manifest names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type of the content.
    pub media_type: String,
    /// Its address.
    pub digest: Digest,
    /// Its size in bytes; no more than a signed number holds, as the specification has it.
    #[serde(deserialize_with = "signed")]
    pub size: u64,
    /// What it runs on, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What it is, when it is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn null_as_empty<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn signed<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let size = i64::deserialize(deserializer)?;
    u64::try_from(size).map_err(|_| serde::de::Error::custom(format_args!("{size} is no size")))
}

impl Descriptor {
    /// Describes content of which no more is known.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            platform: None,
            artifact_type: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Whether it points to a manifest of either kind.
    pub fn is_manifest(&self) -> bool {
        media_type::is_image(&self.media_type) || media_type::is_index(&self.media_type)
    }

    /// The same, without what layouts say of names: `org.opencontainers.image.ref.name` and `io.containerd.image.name`.
    #[must_use]
    pub fn unnamed(mut self) -> Self {
        self.annotations.remove("org.opencontainers.image.ref.name");
        self.annotations.remove("io.containerd.image.name");
        self
    }

    /// The sibling this describes, when it is an attestation manifest as BuildKit writes them.
    pub fn attests(&self) -> Option<Digest> {
        let kind = self.annotations.get("vnd.docker.reference.type")?;
        let subject = self.annotations.get("vnd.docker.reference.digest")?;
        (kind == "attestation-manifest").then(|| subject.parse().ok())?
    }
}
