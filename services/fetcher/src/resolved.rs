//! What references were found to point to, for wishes that are said again while later services still work on the answer.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use larder_oci::Descriptor;
use uuid::Uuid;

/// How many jobs are remembered; the oldest is forgotten first.
const JOBS_MAX: usize = 1_024;

/// The roots of the latest jobs, so that a job said again costs no request upstream.
#[derive(Default)]
pub(crate) struct Resolved(Mutex<VecDeque<(Uuid, Descriptor)>>);

impl Resolved {
    pub(crate) fn root(&self, job: Uuid) -> Option<Descriptor> {
        let jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.iter().find(|(known, _)| *known == job).map(|(_, root)| root.clone())
    }

    pub(crate) fn remember(&self, job: Uuid, root: &Descriptor) {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.retain(|(known, _)| *known != job);
        if jobs.len() == JOBS_MAX {
            jobs.pop_front();
        }
        jobs.push_back((job, root.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_oci::{Digest, media_type};

    #[test]
    fn latest_jobs_are_remembered() {
        let resolved = Resolved::default();
        let root = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(b"root"), 4);
        let jobs: Vec<Uuid> = (0..=JOBS_MAX as u128).map(Uuid::from_u128).collect();
        for job in &jobs {
            resolved.remember(*job, &root);
        }
        assert_eq!(resolved.root(jobs[0]), None);
        assert_eq!(resolved.root(jobs[JOBS_MAX]), Some(root));
    }
}
