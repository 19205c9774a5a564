//! Which repository of which registry a request means.

use larder_oci::{Digest, Reference};

use super::reply::{Code, Refusal};
use crate::Config;

/// A repository, and what larder may do for it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The name in the path, for addresses that are given back.
    pub(super) path: String,
    /// The `?ns=` of the request, if it had one.
    pub(super) ns: Option<String>,
    /// `registry/repository`, canonical.
    pub(super) repository: String,
    /// Whether its registry may be asked.
    pub(super) has_upstream: bool,
}

impl Place {
    /// Finds the registry: what containerd says by `?ns=`, else a first component of the path that looks like a host, else the
    /// default.
    pub(super) fn find(config: &Config, path: &str, ns: Option<&str>) -> Result<Self, Refusal> {
        let host = |part: &str| part.contains(['.', ':']) || part == "localhost";
        let whole = match (ns, path.split_once('/')) {
            (Some(ns), _) if !host(ns) || ns.contains(['/', '@']) => {
                return Err(Refusal::new(Code::NameUnknown, "ns is no registry's host[:port]"));
            }
            (Some(ns), _) => format!("{ns}/{path}"),
            (None, Some((first, _))) if host(first) => path.to_owned(),
            (None, _) => format!("{}/{path}", config.default_upstream),
        };
        // Any tag will do: the grammar is that of references.
        let reference = parse(&format!("{whole}:x"), Code::NameInvalid)?;
        let registry = reference.registry();
        Ok(Self {
            path: path.to_owned(),
            ns: ns.map(str::to_owned),
            repository: format!("{registry}/{}", reference.repository()),
            has_upstream: config.may_ask(registry),
        })
    }

    /// The image of this repository that `text`, a tag or a digest, names.
    pub(super) fn image(&self, text: &str) -> Result<Reference, Refusal> {
        if text.contains(':') {
            return Ok(self.at(&super::route::parse_digest(text)?));
        }
        self.tag(text)
    }

    /// The image of this repository at a tag.
    pub(super) fn tag(&self, text: &str) -> Result<Reference, Refusal> {
        let tag = self.reference("x").with_tag(text);
        tag.map_err(|error| Refusal::new(Code::TagInvalid, error.to_string()))
    }

    /// This repository at a digest.
    pub(super) fn at(&self, digest: &Digest) -> Reference {
        self.reference("x").at(digest)
    }

    /// Any image of this repository.
    pub(super) fn any(&self) -> Reference {
        self.reference("latest")
    }

    fn reference(&self, tag: &str) -> Reference {
        let reference = format!("{}:{tag}", self.repository).parse();
        reference.expect("a place was parsed as a reference")
    }

    /// The path of something of this repository, for `Location`.
    pub(super) fn path_of(&self, what: &str) -> String {
        let path = format!("/v2/{}/{what}", self.path);
        match &self.ns {
            Some(ns) => format!("{path}?ns={ns}"),
            None => path,
        }
    }
}

fn parse(text: &str, code: Code) -> Result<Reference, Refusal> {
    text.parse().map_err(|error: larder_oci::OciError| Refusal::new(code, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config { upstreams: vec!["docker.io".to_owned(), "127.0.0.1:5000".to_owned()], ..Config::default() }
    }

    fn check(path: &str, ns: Option<&str>, expected: Option<(&str, bool)>) {
        let place = Place::find(&config(), path, ns).ok();
        let found = place.as_ref().map(|place| (place.repository.as_str(), place.has_upstream));
        assert_eq!(found, expected, "{path} {ns:?}");
    }

    #[test]
    fn registry_comes_from_ns_then_the_path_then_the_default() {
        check("library/alpine", None, Some(("docker.io/library/alpine", true)));
        check("alpine", None, Some(("docker.io/library/alpine", true)));
        check("docker.io/alpine", None, Some(("docker.io/library/alpine", true)));
        check("quay.io/a/b", None, Some(("quay.io/a/b", false)));
        check("127.0.0.1:5000/a", None, Some(("127.0.0.1:5000/a", true)));
        check("a/b", Some("quay.io"), Some(("quay.io/a/b", false)));
        check("library/alpine", Some("docker.io"), Some(("docker.io/library/alpine", true)));
    }

    #[test]
    fn what_is_no_host_and_no_repository_is_refused() {
        for (path, ns) in [
            ("A/b", None),
            ("a//b", None),
            ("a/../b", None),
            ("a b", None),
            ("a/b", Some("user@quay.io")),
            ("a/b", Some("quay.io/x")),
            ("a/b", Some("quay.io:99999")),
            ("a/b", Some("169.254.169.254:80x")),
            ("a/b", Some("somewhere")),
        ] {
            check(path, ns, None);
        }
    }

    #[test]
    fn images_of_a_place_have_canonical_names() {
        let place = Place::find(&config(), "alpine", None).unwrap();
        assert_eq!(place.image("3").unwrap().name(), "docker.io/library/alpine:3");
        assert_eq!(place.image("../x").unwrap_err().code, Code::TagInvalid);
        assert_eq!(place.image("sha256:../x").unwrap_err().code, Code::DigestInvalid);
        let nested = Place::find(&config(), "a", Some("quay.io")).unwrap();
        assert_eq!(nested.path_of("manifests/1"), "/v2/a/manifests/1?ns=quay.io");
    }
}
