//! What an image configuration says of its platform and layers (OCI image-spec, config.md).

use oci_spec::image::ImageConfiguration;

use crate::{OciError, Platform};

/// The part of an image configuration that must agree with the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What the image runs on.
    pub platform: Platform,
    /// How many layers it says it has.
    pub diff_ids: Vec<String>,
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`OciError::Malformed`] when it is not one.
    pub fn parse(bytes: &[u8]) -> Result<Self, OciError> {
        let config: ImageConfiguration = serde_json::from_slice(bytes)
            .map_err(|source| OciError::Malformed { what: "image configuration", source })?;
        Ok(Self {
            platform: Platform {
                os: config.os().to_string(),
                architecture: config.architecture().to_string(),
                variant: config.variant().clone().filter(|text| !text.is_empty()),
                os_version: config.os_version().clone(),
                os_features: config.os_features().clone().unwrap_or_default(),
            },
            diff_ids: config.rootfs().diff_ids().clone(),
        })
    }
}
