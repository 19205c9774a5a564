//! Re-hashes at rest all that a name points to.
//! Hears [`AuditWanted`]; says [`AuditFinished`]; touches `blobs`.

use actix::{Context, Handler};
use futures::StreamExt;
use larder_blobs::closure::{Closure, Scope, walk};
use larder_blobs::{BlobError, Blobs};
use larder_messages::{AuditFinished, AuditWanted, Problem, Work};
use larder_oci::{Descriptor, Reference};
use larder_runtime::{Failure, Outcome, Says, metrics, on_pool};

use crate::{Verifier, VerifyError};

const PROBLEMS_MAX: usize = 100;
const BLOBS_IN_FLIGHT_MAX: usize = 2;

/// Re-hash what is wanted.
#[derive(actix::Message)]
#[rtype(result = "Outcome")]
pub struct Audit {
    /// What.
    pub wanted: AuditWanted,
}

impl Handler<Audit> for Verifier {
    type Result = actix::ResponseFuture<Outcome>;

    fn handle(&mut self, Audit { wanted }: Audit, _: &mut Context<Self>) -> Self::Result {
        let blobs = self.blobs.clone();
        on_pool(async move {
            let finished = audit(&blobs, &wanted).await.map_err(|source| store_failure(&wanted, source))?;
            Ok(Says::default().news(&finished))
        })
    }
}

fn store_failure(wanted: &AuditWanted, source: BlobError) -> Failure {
    let at =
        wanted.name.parse::<Reference>().or_else(|_| format!("cache.local/x@{}", wanted.root.digest).parse());
    let reference = at.expect("a digest makes a reference");
    VerifyError::Store { reference, source }.into()
}

async fn audit(blobs: &Blobs, wanted: &AuditWanted) -> Result<AuditFinished, BlobError> {
    let scope = wanted.platforms.as_ref().map_or(Scope::Present, Scope::Wanted);
    let closure = walk(blobs, &wanted.root, &scope).await?;
    let mut finished = AuditFinished {
        id: wanted.id(),
        name: wanted.name.clone(),
        blobs: 0,
        bytes: 0,
        absent_platforms: closure.absent.len() as u64,
        problems: known_problems(&closure, wanted.partial),
    };
    let Closure { blobs: all, missing, .. } = closure;
    let reads = all
        .into_iter()
        .filter(|blob| !missing.contains(&blob.digest))
        .map(|blob| async move { (rehash(blobs, &blob).await, blob) });
    let mut reads = futures::stream::iter(reads).buffer_unordered(BLOBS_IN_FLIGHT_MAX);
    while let Some((read, blob)) = reads.next().await {
        finished.blobs += 1;
        finished.bytes = finished.bytes.saturating_add(blob.size);
        metrics::BYTES.with_label_values(&["store_out"]).inc_by(blob.size);
        match read {
            Ok(()) => {}
            Err(error) if error.is_integrity() => {
                let found = error.to_string();
                let problem = Problem::Corrupt { digest: blob.digest, found };
                // The walk has seen manifests already.
                if !finished.problems.iter().any(|known| same_blob(known, &problem)) {
                    finished.problems.push(problem);
                }
            }
            Err(error) => return Err(error),
        }
    }
    finished.problems.truncate(PROBLEMS_MAX);
    Ok(finished)
}

fn known_problems(closure: &Closure, partial: bool) -> Vec<Problem> {
    let root = &closure.blobs[0].digest;
    let missing = closure.missing.iter().filter(|digest| !partial || *digest == root);
    let missing = missing.map(|digest| Problem::Missing { digest: digest.clone() });
    let invalid = closure.invalid.iter().map(|(digest, what)| {
        let (digest, what) = (digest.clone(), what.clone());
        Problem::Invalid { digest, what }
    });
    let hollow = (closure.is_hollow() && !partial).then(|| Problem::Invalid {
        digest: root.clone(),
        what: "none of the images of this index is in the cache".to_owned(),
    });
    missing.chain(invalid).chain(hollow).collect()
}

fn same_blob(one: &Problem, other: &Problem) -> bool {
    let digest = |problem: &Problem| match problem {
        Problem::Corrupt { digest, .. } | Problem::Missing { digest } | Problem::Invalid { digest, .. } => {
            digest.clone()
        }
    };
    digest(one) == digest(other)
}

async fn rehash(blobs: &Blobs, blob: &Descriptor) -> Result<(), BlobError> {
    let mut content = blobs.read(&blob.digest).await?;
    while let Some(chunk) = content.bytes.next().await {
        chunk?;
    }
    Ok(())
}
