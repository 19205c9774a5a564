//! Which blobs this process has already read whole and found intact.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use larder_oci::Digest;

/// How many blobs are remembered; beyond, an arbitrary one is forgotten and will be hashed again.
const BLOBS_MAX: usize = 65_536;

/// What was seen of each blob (`M`: when and as what it was stored) when its digest held. A blob that looks otherwise is to be
/// hashed again.
pub(crate) struct Verified<M>(Mutex<HashMap<Digest, M>>);

impl<M> Default for Verified<M> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<M: Clone + PartialEq> Verified<M> {
    pub(crate) fn remember(&self, digest: Digest, mark: M) {
        let mut marks = self.marks();
        if marks.len() >= BLOBS_MAX
            && !marks.contains_key(&digest)
            && let Some(other) = marks.keys().next().cloned()
        {
            marks.remove(&other);
        }
        marks.insert(digest, mark);
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<M> {
        self.marks().get(digest).cloned()
    }

    pub(crate) fn holds(&self, digest: &Digest, mark: &M) -> bool {
        self.marks().get(digest) == Some(mark)
    }

    fn marks(&self) -> MutexGuard<'_, HashMap<Digest, M>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded() {
        let verified = Verified::default();
        for number in 0..=BLOBS_MAX {
            verified.remember(Digest::of(&number.to_le_bytes()), number);
        }
        assert_eq!(verified.marks().len(), BLOBS_MAX);
        let last = Digest::of(&BLOBS_MAX.to_le_bytes());
        assert!(verified.holds(&last, &BLOBS_MAX));
        assert!(!verified.holds(&last, &0));
    }
}
