//! What a request asks for, told by its method and path (OCI distribution-spec, "Endpoints").

use std::borrow::Cow;

use http::Method;
use larder_oci::Digest;
use percent_encoding::percent_decode_str;

use super::reply::{Code, Refusal};

/// The longest name that is read, in bytes: a registry and a repository.
const NAME_BYTES_MAX: usize = 512;

/// What a request is about. Names are as they stand in the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Whether the API is spoken here.
    Base,
    /// All repositories.
    Catalog,
    /// A manifest, by tag or digest.
    Manifest {
        /// The repository.
        name: String,
        /// The tag or digest.
        reference: String,
    },
    /// A blob.
    Blob {
        /// The repository.
        name: String,
        /// Its digest.
        digest: Digest,
    },
    /// Beginning an upload.
    Uploads {
        /// The repository.
        name: String,
    },
    /// An upload that was begun.
    Upload {
        /// The repository.
        name: String,
        /// Its id.
        id: String,
    },
    /// The tags of a repository.
    Tags {
        /// The repository.
        name: String,
    },
    /// What refers to a manifest.
    Referrers {
        /// The repository.
        name: String,
        /// The manifest.
        subject: Digest,
    },
}

impl Route {
    /// Reads a path.
    pub(super) fn parse(path: &str) -> Result<Self, Refusal> {
        let path = decoded(path)?;
        let Some(rest) = path.strip_prefix("/v2") else {
            return Err(Refusal::new(Code::NameUnknown, "there is nothing but /v2/ here"));
        };
        if matches!(rest, "" | "/") {
            return Ok(Self::Base);
        }
        if rest == "/_catalog" {
            return Ok(Self::Catalog);
        }
        let parts: Vec<&str> = rest.strip_prefix('/').unwrap_or(rest).split('/').collect();
        let name = |count: usize| {
            let name = parts[..parts.len() - count].join("/");
            if name.is_empty() || name.len() > NAME_BYTES_MAX {
                return Err(Refusal::new(Code::NameInvalid, "a repository has 1 to 512 bytes"));
            }
            Ok(name)
        };
        match parts.as_slice() {
            [_, .., "blobs", "uploads"] => Ok(Self::Uploads { name: name(2)? }),
            [_, .., "blobs", "uploads", ""] => Ok(Self::Uploads { name: name(3)? }),
            [_, .., "blobs", "uploads", id] => Ok(Self::Upload { name: name(3)?, id: (*id).to_owned() }),
            [_, .., "blobs", digest] => Ok(Self::Blob { name: name(2)?, digest: parse_digest(digest)? }),
            [_, .., "manifests", reference] => {
                Ok(Self::Manifest { name: name(2)?, reference: (*reference).to_owned() })
            }
            [_, .., "tags", "list"] => Ok(Self::Tags { name: name(2)? }),
            [_, .., "referrers", digest] => {
                Ok(Self::Referrers { name: name(2)?, subject: parse_digest(digest)? })
            }
            _ => Err(Refusal::new(Code::NameUnknown, "no such endpoint in the OCI distribution API")),
        }
    }

    /// The repository, as it stands in the path.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Base | Self::Catalog => None,
            Self::Manifest { name, .. }
            | Self::Blob { name, .. }
            | Self::Uploads { name }
            | Self::Upload { name, .. }
            | Self::Tags { name }
            | Self::Referrers { name, .. } => Some(name),
        }
    }

    /// The methods it knows, for `Allow`.
    pub(super) fn methods(&self) -> &'static str {
        match self {
            Self::Base | Self::Catalog | Self::Tags { .. } | Self::Referrers { .. } => "GET, HEAD",
            Self::Manifest { .. } => "GET, HEAD, PUT, DELETE",
            Self::Blob { .. } => "GET, HEAD, DELETE",
            Self::Uploads { .. } => "POST",
            Self::Upload { .. } => "GET, PATCH, PUT, DELETE",
        }
    }

    /// Whether it knows `method`.
    pub(super) fn allows(&self, method: &Method) -> bool {
        self.methods().split(", ").any(|known| known == method.as_str())
    }
}

/// Undoes percent-encoding once, as some clients encode the colon of a digest; what cannot stand in a name is refused later by
/// the grammar of names.
fn decoded(path: &str) -> Result<Cow<'_, str>, Refusal> {
    let refused = || Refusal::new(Code::NameInvalid, "the path is not plain text");
    let text = percent_decode_str(path).decode_utf8().map_err(|_| refused())?;
    if text.chars().any(|c| c.is_control() || c == '\\') { Err(refused()) } else { Ok(text) }
}

pub(super) fn parse_digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|error: larder_oci::OciError| Refusal::new(Code::DigestInvalid, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn check(path: &str, expected: &Route) {
        assert_eq!(&Route::parse(path).unwrap(), expected, "{path}");
    }

    #[test]
    fn paths_of_the_specification_are_told_apart() {
        let name = || "a/b".to_owned();
        check("/v2", &Route::Base);
        check("/v2/", &Route::Base);
        check("/v2/_catalog", &Route::Catalog);
        check("/v2/a/b/manifests/1.0", &Route::Manifest { name: name(), reference: "1.0".to_owned() });
        let digest: Digest = EMPTY.parse().unwrap();
        check(&format!("/v2/a/b/blobs/{EMPTY}"), &Route::Blob { name: name(), digest: digest.clone() });
        let encoded = EMPTY.replace(':', "%3A");
        check(&format!("/v2/a/b/blobs/{encoded}"), &Route::Blob { name: name(), digest: digest.clone() });
        check("/v2/a/b/blobs/uploads/", &Route::Uploads { name: name() });
        check("/v2/a/b/blobs/uploads", &Route::Uploads { name: name() });
        check("/v2/a/b/blobs/uploads/7", &Route::Upload { name: name(), id: "7".to_owned() });
        check("/v2/a/b/tags/list", &Route::Tags { name: name() });
        check(&format!("/v2/a/b/referrers/{EMPTY}"), &Route::Referrers { name: name(), subject: digest });
        let tricky = Route::Manifest { name: "a/tags/list".to_owned(), reference: "1".to_owned() };
        check("/v2/a/tags/list/manifests/1", &tricky);
    }

    #[test]
    fn what_is_no_path_of_the_specification_is_refused_with_its_code() {
        for (path, code) in [
            ("/", Code::NameUnknown),
            ("/v2/a", Code::NameUnknown),
            ("/v2/manifests/1", Code::NameUnknown),
            ("/v2/a/b/blobs/sha256:x", Code::DigestInvalid),
            ("/v2/a/b/blobs/sha256:..%2F..%2Fx", Code::NameUnknown),
            ("/v2/a/b/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", Code::DigestInvalid),
            ("/v2/a%00/manifests/1", Code::NameInvalid),
            ("/v2/a%ff/manifests/1", Code::NameInvalid),
        ] {
            assert_eq!(Route::parse(path).unwrap_err().code, code, "{path}");
        }
    }
}
