//! What an image runs on (OCI image-spec, image-index.md).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::OciError;

/// An operating system, an architecture and, where it matters, a variant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// `GOOS`, for example `linux`.
    pub os: String,
    /// `GOARCH`, for example `amd64`.
    pub architecture: String,
    /// The CPU variant, for example `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The version of the operating system (Windows).
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Mandatory features of the operating system (Windows).
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
}

impl Platform {
    /// The platform this process runs on, as containers see it: `linux` unless on Windows.
    pub fn host() -> Self {
        let os = if cfg!(windows) { "windows" } else { "linux" };
        Self::new(os, &oci_spec::image::Arch::default().to_string(), None)
    }

    fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (architecture, implied) = match architecture {
            "x86_64" | "x86-64" => ("amd64", None),
            "aarch64" => ("arm64", None),
            "i386" | "i686" | "x86" => ("386", None),
            "armhf" => ("arm", Some("v7")),
            "armel" => ("arm", Some("v6")),
            "powerpc64le" => ("ppc64le", None),
            other => (other, None),
        };
        Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.or(implied).map(str::to_owned),
            os_version: None,
            os_features: Vec::new(),
        }
    }

    /// Whether this marks something that is no image to run, such as an attestation (`unknown/unknown`).
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" || self.architecture == "unknown"
    }

    /// Whether an image for `offered` satisfies a wish for this platform: system and architecture are the same, and so
    /// is the variant where one is wished for, with the default variants (`arm64` is `arm64/v8`, `arm` is `arm/v7`) filled in.
    pub fn accepts(&self, offered: &Self) -> bool {
        self.os == offered.os
            && self.architecture == offered.architecture
            && (self.variant.is_none() || self.effective_variant() == offered.effective_variant())
            && (self.os_version.is_none() || self.os_version == offered.os_version)
    }

    /// What tells this platform's image apart in names and tags: the architecture with its variant, unless that is the one that every
    /// image of the architecture has.
    pub fn suffix(&self) -> String {
        match (self.architecture.as_str(), self.variant.as_deref()) {
            ("arm64", Some("v8")) | ("amd64", Some("v1")) | (_, None) => self.architecture.clone(),
            (architecture, Some(variant)) => format!("{architecture}{variant}"),
        }
    }

    /// Whether both name the same platform, with the default variants filled in.
    pub fn is_same(&self, other: &Self) -> bool {
        self.os == other.os
            && self.architecture == other.architecture
            && self.effective_variant() == other.effective_variant()
            && self.os_version == other.os_version
            && self.os_features == other.os_features
    }

    fn effective_variant(&self) -> Option<&str> {
        match (self.architecture.as_str(), self.variant.as_deref()) {
            ("arm64", None) => Some("v8"),
            ("arm", None) => Some("v7"),
            ("amd64", None | Some("v1")) => None,
            (_, variant) => variant,
        }
    }
}

impl FromStr for Platform {
    type Err = OciError;

    fn from_str(text: &str) -> Result<Self, OciError> {
        let malformed = || OciError::Platform(text.chars().take(100).collect());
        let parts: Vec<&str> = text.split('/').collect();
        let word = |part: &&str| {
            !part.is_empty()
                && part.len() <= 32
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
        };
        if !parts.iter().all(word) {
            return Err(malformed());
        }
        match parts[..] {
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(malformed()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// The platforms that somebody wants of an image: all of them, or those named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PlatformSet {
    /// Everything the image has.
    #[default]
    All,
    /// These, each of which must be there.
    Only(Vec<Platform>),
}

impl PlatformSet {
    /// Just the host's.
    pub fn host() -> Self {
        Self::Only(vec![Platform::host()])
    }
}

impl FromStr for PlatformSet {
    type Err = OciError;

    /// Parses `all`, or a comma-separated list of platforms.
    fn from_str(text: &str) -> Result<Self, OciError> {
        if text == "all" {
            return Ok(Self::All);
        }
        let mut platforms = Vec::new();
        for part in text.split(',') {
            let platform: Platform = part.trim().parse()?;
            if !platforms.contains(&platform) {
                platforms.push(platform);
            }
        }
        platforms.sort();
        Ok(Self::Only(platforms))
    }
}

impl fmt::Display for PlatformSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Only(platforms) => {
                for (place, platform) in platforms.iter().enumerate() {
                    write!(f, "{}{platform}", if place == 0 { "" } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wanted: &str, offered: &str, accepted: bool) {
        let (want, offer): (Platform, Platform) = (wanted.parse().unwrap(), offered.parse().unwrap());
        assert_eq!(want.accepts(&offer), accepted, "{wanted} against {offered}");
    }

    #[test]
    fn variants_have_defaults() {
        check("linux/arm64", "linux/arm64/v8", true);
        check("linux/arm64/v8", "linux/arm64", true);
        check("linux/arm/v6", "linux/arm/v7", false);
        check("linux/arm/v7", "linux/arm", true);
        check("linux/arm", "linux/arm/v6", true);
        check("linux/x86_64", "linux/amd64", true);
        check("linux/amd64", "windows/amd64", false);
    }

    #[test]
    fn variants_that_differ_have_suffixes_that_differ() {
        let check = |platform: &str, expected: &str| {
            assert_eq!(platform.parse::<Platform>().unwrap().suffix(), expected, "{platform}");
        };
        check("linux/amd64", "amd64");
        check("linux/amd64/v3", "amd64v3");
        check("linux/arm64/v8", "arm64");
        check("linux/arm64", "arm64");
        check("linux/arm/v6", "armv6");
        check("linux/arm/v7", "armv7");
    }

    #[test]
    fn host_is_named_as_images_name_it() {
        let host = Platform::host().to_string();
        assert!(
            ["linux/amd64", "linux/arm64"].contains(&host.as_str()) || !cfg!(target_os = "linux"),
            "{host}"
        );
    }

    #[test]
    fn sets_are_lists_or_all() {
        assert_eq!("all".parse::<PlatformSet>().unwrap(), PlatformSet::All);
        let set: PlatformSet = "linux/arm64, linux/aarch64,linux/amd64".parse().unwrap();
        assert_eq!(set.to_string(), "linux/amd64,linux/arm64");
        for text in ["", "linux", "linux/amd64,", "Linux/amd64", "a/b/c/d"] {
            assert!(text.parse::<PlatformSet>().is_err(), "{text:?} was taken");
        }
    }
}
