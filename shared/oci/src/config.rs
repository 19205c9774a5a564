//! What an image configuration says of its platform and layers (OCI image-spec, config.md).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

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

/// An image's configuration: its bytes, and how a container of it is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageConfig {
    /// The whole document, as it is stored.
    pub bytes: Bytes,
    /// How a container is run; all empty when the document does not say.
    pub run: RunConfig,
}

/// How a container of an image is run (OCI image-spec, config.md, `config`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    /// User and group, as names or numbers.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Ports as `8080/tcp`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Value>,
    /// The environment, as `NAME=value`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// What is started.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Its arguments, or what is started when there is no entry point.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Where volumes are mounted.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Value>,
    /// Where it is started.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Free labels.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The signal that ends it.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Whether the command is one escaped line (Windows).
    #[serde(deserialize_with = "or_default", skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
    /// All that builders write beside: a health check, a shell, triggers.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// Builders write `null` where nothing is set.
fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl ImageConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`OciError::Malformed`] when it is not one.
    pub fn parse(bytes: Bytes) -> Result<Self, OciError> {
        #[derive(Deserialize)]
        struct Whole {
            #[serde(default, deserialize_with = "or_default")]
            config: RunConfig,
        }
        let whole: Whole = serde_json::from_slice(&bytes)
            .map_err(|source| OciError::Malformed { what: "image configuration", source })?;
        Ok(Self { bytes, run: whole.config })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_configuration_is_read_with_all_it_has() {
        let text = r#"{"config":{"Env":["A=b"],"Cmd":["sh"],"Entrypoint":null,"Labels":{"k":"v"},"Healthcheck":{"Test":["NONE"]}}}"#;
        let config = ImageConfig::parse(Bytes::from_static(text.as_bytes())).unwrap();
        assert_eq!((config.run.env[0].as_str(), config.run.cmd[0].as_str()), ("A=b", "sh"));
        assert!(config.run.entrypoint.is_empty() && config.run.other.contains_key("Healthcheck"));
        assert_eq!(config.bytes, text);
        assert_eq!(ImageConfig::parse(Bytes::from_static(b"{}")).unwrap().run, RunConfig::default());
        assert!(ImageConfig::parse(Bytes::from_static(b"[1]")).is_err());
    }

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
