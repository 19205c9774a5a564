//! Image references, canonical from the moment they are parsed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Digest, OciError};

/// The longest `registry/repository`, in bytes (OCI distribution-spec).
pub const NAME_BYTES_MAX: usize = 255;
/// The longest tag, in bytes.
pub const TAG_BYTES_MAX: usize = 128;

const HUB: &str = "docker.io";
const HUB_ALIASES: [&str; 3] = [HUB, "index.docker.io", "registry-1.docker.io"];

/// Where an image is: a registry, a repository, and a tag or a digest.
///
/// Parsing expands what people leave out, so that equal images have equal references: `alpine` is
/// `docker.io/library/alpine:latest`, and all names of Docker Hub are `docker.io`. With both a tag and a digest, the digest
/// alone decides; the tag is kept for display.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's `host[:port]`, for example `docker.io`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository within the registry, for example `library/alpine`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if there is one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if there is one; it outweighs the tag.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The one key of this image in the catalog: `registry/repository@digest`, or `registry/repository:tag`.
    pub fn name(&self) -> String {
        let (registry, repository) = (&self.registry, &self.repository);
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("{registry}/{repository}@{digest}"),
            (None, Some(tag)) => format!("{registry}/{repository}:{tag}"),
            (None, None) => unreachable!("a parsed reference has a tag or a digest"),
        }
    }

    /// The same repository at `digest`, and at no tag.
    #[must_use]
    pub fn at(&self, digest: &Digest) -> Self {
        Self { tag: None, digest: Some(digest.clone()), ..self.clone() }
    }

    /// The same repository at `tag`.
    ///
    /// # Errors
    /// [`OciError::Reference`] when it is no tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self, OciError> {
        let wrong = |reason| malformed(tag, reason);
        check_tag(tag).map_err(wrong)?;
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }
}

fn malformed(text: &str, reason: &'static str) -> OciError {
    OciError::Reference { reference: text.chars().take(400).collect(), reason }
}

impl FromStr for Reference {
    type Err = OciError;

    fn from_str(text: &str) -> Result<Self, OciError> {
        let wrong = |reason| malformed(text, reason);
        if text.contains("://") {
            return Err(wrong("a reference has no scheme; leave out what stands before ://"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (
                rest,
                Some(
                    digest
                        .parse::<Digest>()
                        .map_err(|_| wrong("the part behind @ is not a sha256 or sha512 digest"))?,
                ),
            ),
            None => (text, None),
        };
        // A colon behind the last slash starts a tag; any other belongs to a port.
        let (path, tag) = match rest.rfind(':') {
            Some(colon) if !rest[colon..].contains('/') => (&rest[..colon], Some(&rest[colon + 1..])),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(tag).map_err(wrong)?;
        }
        let (registry, repository) = split_registry(path);
        check_registry(registry).map_err(wrong)?;
        let repository = if registry == HUB && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        check_repository(&repository).map_err(wrong)?;
        if registry.len() + 1 + repository.len() > NAME_BYTES_MAX {
            return Err(wrong("registry and repository are longer than 255 bytes"));
        }
        let tag = tag.or(if digest.is_none() { Some("latest") } else { None });
        Ok(Self { registry: registry.to_ascii_lowercase(), repository, tag: tag.map(str::to_owned), digest })
    }
}

fn split_registry(path: &str) -> (&str, &str) {
    let Some((first, rest)) = path.split_once('/') else {
        return (HUB, path);
    };
    // Docker Hub has no repositories of three parts, so a bare word before two more is a host on the local network.
    let is_host = first.contains(['.', ':']) || first == "localhost" || rest.contains('/');
    if HUB_ALIASES.contains(&first) {
        (HUB, rest)
    } else if is_host {
        (first, rest)
    } else {
        (HUB, path)
    }
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
    let (host, port) = match registry.strip_prefix('[') {
        Some(bracketed) => {
            let (address, port) = bracketed.split_once(']').ok_or("an IPv6 address lacks its ]")?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| "the registry is not an IPv6 address")?;
            return check_port(port.strip_prefix(':').or((!port.is_empty()).then_some("")));
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if !host.split('.').all(label) {
        return Err("the registry is not a host name");
    }
    check_port(port)
}

fn check_port(port: Option<&str>) -> Result<(), &'static str> {
    match port {
        Some(port) if port.parse::<u16>().is_err() || port.starts_with('+') => {
            Err("the registry's port is not a number up to 65535")
        }
        _ => Ok(()),
    }
}

fn check_repository(repository: &str) -> Result<(), &'static str> {
    if repository.split('/').all(is_component) {
        Ok(())
    } else {
        Err("a repository is lower-case words of a-z, 0-9, with single . _ - or __ between, parted by /")
    }
}

fn is_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !bytes.first().is_some_and(alphanumeric) || !bytes.last().is_some_and(alphanumeric) {
        return false;
    }
    // What stands between two runs of letters and digits is one dot, one or two underscores, or any number of dashes.
    component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let fits = !tag.is_empty()
        && tag.len() <= TAG_BYTES_MAX
        && word(tag.as_bytes()[0])
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-');
    if fits { Ok(()) } else { Err("a tag is 1 to 128 of a-z, A-Z, 0-9, _ . - and starts with none of . -") }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, canonical: &str) {
        let parsed: Reference = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(parsed.to_string(), canonical);
        assert_eq!(canonical.parse::<Reference>().unwrap(), parsed);
    }

    #[test]
    fn expands_what_people_leave_out() {
        check("redis", "docker.io/library/redis:latest");
        check("foo/bar:1", "docker.io/foo/bar:1");
        check("myreg.io/foo", "myreg.io/foo:latest");
        check("foo/bar/baz", "foo/bar/baz:latest");
        check("localhost:5000/foo", "localhost:5000/foo:latest");
        check("localhost/foo", "localhost/foo:latest");
        check("[::1]:5000/a/b:t", "[::1]:5000/a/b:t");
        for text in ["docker.io/alpine", "index.docker.io/library/alpine", "alpine"] {
            check(text, "docker.io/library/alpine:latest");
        }
        let digest = Digest::of(b"");
        check(&format!("alpine@{digest}"), &format!("docker.io/library/alpine@{digest}"));
        let both: Reference = format!("alpine:3@{digest}").parse().unwrap();
        assert_eq!(both.name(), format!("docker.io/library/alpine@{digest}"));
        assert_eq!(both.tag(), Some("3"));
    }

    #[test]
    fn refuses_what_is_no_reference() {
        let long = format!("a/{}", "b".repeat(260));
        for text in [
            "",
            ":",
            "a:",
            "a:b:c",
            "A/b",
            "a//b",
            "/a",
            "a/",
            "https://a/b",
            "a:-t",
            "a..b",
            "a___b",
            "a_",
            "..",
            "a/../b",
            "x:tag@sha256:abc",
            "x@md5:d41d8cd98f00b204e9800998ecf8427e",
            "h:99999/a",
            "h:x/a",
            "-h.io/a",
            "[::1/a",
            "a b",
            "a\0",
            "u:p@h.io/a",
            "a%2fb",
            &long,
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?} was taken");
        }
    }
}
