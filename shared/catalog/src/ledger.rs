//! What a record of the ledger says and when one is added, wherever the ledger is kept.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use larder_oci::{Descriptor, Digest, Expected};
use serde::{Deserialize, Serialize};

use crate::CatalogError;

/// Where the records are: `<FOLDER>/<key of the name>/<sequence>.json`.
pub(crate) const FOLDER: &str = "ledger/names";
const NAME_BYTES_MAX: usize = 512;
const KEY_BYTES_MAX: usize = 200;

/// Who changed a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Its manifest was pulled from upstream for a client; what hangs on it comes when it is asked for.
    Proxied,
    /// It was pulled from upstream.
    Pulled,
    /// It was removed on request.
    Removed,
    /// Another tool wrote it to the layout.
    Adopted,
    /// It was written here.
    Written,
}

impl Origin {
    /// Whether saying this of a name that points there already says more than `other` did: what was passed on is now pulled whole,
    /// or what came from upstream is now written here, and no longer upstream's to change.
    fn outdoes(self, other: Self) -> bool {
        match self {
            Self::Written => other != Self::Written,
            Self::Pulled => other == Self::Proxied,
            Self::Proxied | Self::Removed | Self::Adopted => false,
        }
    }
}

/// One change of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The name.
    pub name: String,
    /// The place in the name's history, from 1; 0 when only the view was read, which has no history.
    pub seq: u64,
    /// When, in milliseconds since 1970 by the writer's clock; 0 when only the view was read.
    pub at_ms: u64,
    /// By whom.
    pub origin: Origin,
    /// What it points to since; nothing when it was removed.
    pub descriptor: Option<Descriptor>,
}

impl Record {
    /// Whether the name points to `descriptor` since this change.
    pub fn points_to(&self, descriptor: &Descriptor) -> bool {
        self.descriptor
            .as_ref()
            .is_some_and(|own| own.digest == descriptor.digest && own.media_type == descriptor.media_type)
    }

    /// What an entry of the view says.
    pub(crate) fn of_view(name: String, descriptor: Descriptor) -> Self {
        Self { name, seq: 0, at_ms: 0, origin: Origin::Adopted, descriptor: Some(descriptor) }
    }

    pub(crate) fn next(
        name: &str,
        current: Option<&Self>,
        origin: Origin,
        descriptor: Option<Descriptor>,
    ) -> Self {
        let seq = current.map_or(1, |record| record.seq + 1);
        Self { name: name.to_owned(), seq, at_ms: now_ms(), origin, descriptor }
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record is plain data")
    }
}

/// A change that somebody wants.
#[derive(Clone)]
pub(crate) struct Change {
    pub(crate) name: String,
    /// Nothing to remove the name.
    pub(crate) descriptor: Option<Descriptor>,
    pub(crate) origin: Origin,
    pub(crate) expected: Expected,
}

/// What a change comes to.
pub(crate) enum Step {
    /// It was made already.
    Settled(Option<Record>),
    /// It takes this record.
    Append(Record),
}

impl Change {
    /// What has to be done when `current` is the newest record.
    pub(crate) fn after(&self, current: Option<Record>) -> Result<Step, CatalogError> {
        let settled = match &self.descriptor {
            Some(wanted) => current
                .as_ref()
                .is_some_and(|record| record.points_to(wanted) && !self.origin.outdoes(record.origin)),
            None => current.as_ref().is_none_or(|record| record.descriptor.is_none()),
        };
        if settled {
            return Ok(Step::Settled(current));
        }
        let found = current.as_ref().and_then(|record| record.descriptor.as_ref());
        let found = found.map(|descriptor| &descriptor.digest);
        if !self.expected.holds(found) {
            let (name, expected) = (self.name.clone(), self.expected.clone());
            return Err(CatalogError::Moved { name, expected, found: found.cloned() });
        }
        let record = Record::next(&self.name, current.as_ref(), self.origin, self.descriptor.clone());
        Ok(Step::Append(record))
    }
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The last component of a record's path.
pub(crate) fn file_name(seq: u64) -> String {
    format!("{seq:010}.json")
}

/// The sequence in the last component of a record's path.
pub(crate) fn sequence(file_name: &str) -> Option<u64> {
    file_name.strip_suffix(".json")?.parse().ok()
}

/// Whether a ledger can hold `name`.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control)
}

/// The name as one component of a path: what is not a letter, a digit or one of `.:_-@` becomes `=` and two hex digits, and a
/// name too long for a file name is cut and gets its hash.
pub(crate) fn key(name: &str) -> Result<String, CatalogError> {
    if !is_name(name) {
        return Err(CatalogError::Name(name.chars().take(NAME_BYTES_MAX).collect()));
    }
    let mut key = String::with_capacity(name.len() + 8);
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b".:_-@".contains(&byte) {
            key.push(char::from(byte));
        } else {
            let _ = write!(key, "={byte:02x}");
        }
    }
    if key.len() > KEY_BYTES_MAX || key.starts_with('.') {
        let hash = Digest::of(name.as_bytes());
        key.truncate(KEY_BYTES_MAX - 70);
        key = format!("=-{key}={}", hash.hex());
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_distinct_single_components() {
        assert_eq!(key("docker.io/library/debian:12").unwrap(), "docker.io=2flibrary=2fdebian:12");
        assert_ne!(key("a=2f").unwrap(), key("a/").unwrap());
        let long = "a/".repeat(200);
        assert!(key(&long).unwrap().len() <= KEY_BYTES_MAX + 10);
        assert_ne!(key(&long).unwrap(), key(&format!("{long}b")).unwrap());
        assert!(!key("..").unwrap().starts_with('.'));
        assert!(key("").is_err());
        assert!(key("a\nb").is_err());
    }
}
