//! What an image configuration says of its platform and layers (OCI image-spec, config.md).

use serde::Deserialize;

use crate::{OciError, Platform};

/// The part of an image configuration that must agree with the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What the image runs on; nothing when it says so by leaving it empty, as signatures do.
    pub platform: Option<Platform>,
    /// The digests of its layers, unpacked.
    pub diff_ids: Vec<String>,
}

/// Only what is compared: builders write much else, not all of it by the specification, and that is theirs to judge who run it.
#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
    #[serde(rename = "os.version")]
    os_version: Option<String>,
    rootfs: Option<RootFs>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<String>>,
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`OciError::Malformed`] when it is not one.
    pub fn parse(bytes: &[u8]) -> Result<Self, OciError> {
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|source| OciError::Malformed { what: "image configuration", source })?;
        let platform = (!raw.os.is_empty() && !raw.architecture.is_empty()).then(|| Platform {
            os: raw.os,
            architecture: raw.architecture,
            variant: raw.variant.filter(|text| !text.is_empty()),
            os_version: raw.os_version.filter(|text| !text.is_empty()),
            os_features: Vec::new(),
        });
        Ok(Self { platform, diff_ids: raw.rootfs.and_then(|rootfs| rootfs.diff_ids).unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_builders_write() {
        let image = Config::parse(
            br#"{"os":"linux","architecture":"arm","variant":"v7","rootfs":{"diff_ids":["sha256:x"]},"x":1}"#,
        );
        let image = image.unwrap();
        assert_eq!(image.platform.unwrap().to_string(), "linux/arm/v7");
        assert_eq!(image.diff_ids.len(), 1);
        let signature = Config::parse(br#"{"os":"","architecture":"","rootfs":{"diff_ids":null}}"#).unwrap();
        assert_eq!(signature, Config { platform: None, diff_ids: Vec::new() });
        assert!(Config::parse(b"[]").is_err());
    }
}
