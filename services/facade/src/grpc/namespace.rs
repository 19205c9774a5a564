//! Whose labels and refs a call means.

use tonic::Status;
use tonic::metadata::MetadataMap;

const HEADER: &str = "containerd-namespace";
const BYTES_MAX: usize = 76;

/// A namespace of containerd: words of letters and digits with one of `.`, `_` and `-` between them. Fit for a path component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Namespace(String);

impl Namespace {
    /// The namespace that the headers of a call name.
    pub(super) fn of(headers: &MetadataMap) -> Result<Self, Status> {
        let Some(name) = headers.get(HEADER).filter(|name| !name.is_empty()) else {
            return Err(Status::failed_precondition(format!(
                "namespace is required: set the header {HEADER}"
            )));
        };
        let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let named = name.to_str().ok().filter(|name| name.len() <= BYTES_MAX);
        match named.filter(|name| name.split(['.', '_', '-']).all(is_word)) {
            Some(name) => Ok(Self(name.to_owned())),
            None => Err(Status::invalid_argument(format!("{name:?} is no namespace"))),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn namespace_is_one_that_containerd_would_take() {
        let of = |name: &'static str| {
            let mut headers = MetadataMap::new();
            headers.insert(HEADER, name.parse().unwrap());
            Namespace::of(&headers).map(|namespace| namespace.0).map_err(|status| status.code())
        };
        for name in ["default", "k8s.io", "a-b_c.D9", "9"] {
            assert_eq!(of(name), Ok(name.to_owned()));
        }
        for name in ["..", "a/b", "-a", "a-", "a..b", "a b", "é"] {
            assert_eq!(of(name), Err(Code::InvalidArgument), "{name}");
        }
        assert_eq!(of(Box::leak("a".repeat(77).into_boxed_str())), Err(Code::InvalidArgument));
        assert_eq!(of(""), Err(Code::FailedPrecondition));
        let unnamed = Namespace::of(&MetadataMap::new()).unwrap_err();
        assert_eq!(unnamed.code(), Code::FailedPrecondition);
    }
}
