//! Credentials that need not be checked again for a while.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

/// How many are remembered.
const CREDENTIALS_MAX: usize = 1_024;

/// What was found out about credentials, which themselves are not kept: they are known by a hash that only this process can compute.
pub(super) struct Remembered<T> {
    key: [u8; 32],
    found: Mutex<HashMap<Mark, (T, Instant)>>,
}

/// Stands for credentials.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Mark([u8; 32]);

impl<T: Clone> Remembered<T> {
    pub(super) fn new() -> Self {
        let mut key = [0; 32];
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.secure_random.fill(&mut key).expect("the system has randomness");
        Self { key, found: Mutex::new(HashMap::new()) }
    }

    /// Stands for `credentials`, as checked against this edition of a file.
    pub(super) fn mark(&self, edition: u64, credentials: &[u8]) -> Mark {
        let hasher = Sha256::new().chain_update(self.key).chain_update(edition.to_le_bytes());
        Mark(hasher.chain_update(credentials).finalize().into())
    }

    pub(super) fn find(&self, mark: &Mark) -> Option<T> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let (what, until) = found.get(mark)?;
        (Instant::now() < *until).then(|| what.clone())
    }

    pub(super) fn keep(&self, mark: Mark, what: T, how_long: Duration) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if found.len() >= CREDENTIALS_MAX {
            found.retain(|_, (_, until)| now < *until);
        }
        if found.len() >= CREDENTIALS_MAX {
            // What would be forgotten first anyway.
            let soonest = found.iter().min_by_key(|(_, (_, until))| *until).map(|(mark, _)| *mark);
            soonest.map(|soonest| found.remove(&soonest));
        }
        found.insert(mark, (what, now + how_long));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_a_bounded_number_for_a_bounded_time() {
        let remembered = Remembered::new();
        let long = Duration::from_mins(5);
        for number in 0..CREDENTIALS_MAX + 10 {
            remembered.keep(remembered.mark(0, &number.to_le_bytes()), number, long);
        }
        assert_eq!(remembered.found.lock().unwrap().len(), CREDENTIALS_MAX);
        let last = CREDENTIALS_MAX + 9;
        assert_eq!(remembered.find(&remembered.mark(0, &last.to_le_bytes())), Some(last));
        let mark = remembered.mark(0, b"expired");
        remembered.keep(mark, 0, Duration::ZERO);
        assert_eq!(remembered.find(&mark), None);
    }

    #[test]
    fn forgets_what_was_checked_against_another_edition() {
        let remembered = Remembered::new();
        remembered.keep(remembered.mark(1, b"it"), (), Duration::from_mins(5));
        assert!(remembered.find(&remembered.mark(1, b"it")).is_some());
        assert!(remembered.find(&remembered.mark(2, b"it")).is_none());
    }
}
