//! Brings one blob in.
//! Hears [`BlobWanted`]; says [`BlobStored`]; touches `registry`, `blobs`.
//! Invariant: says nothing until the blob is committed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Context, Handler};
use larder_blobs::{BlobError, Claim, Ingest};
use larder_messages::{BlobProgress, BlobStored, BlobWanted, Job};
use larder_registry::{Chunk, Client};
use larder_runtime::{Outcome, Says, metrics, on_pool};

use crate::{FetchError, Fetcher, Ports};

/// How often the world hears how far a blob is.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Fetch the blob that is wanted.
#[derive(actix::Message)]
#[rtype(result = "Outcome")]
pub struct FetchBlob {
    /// Which.
    pub wanted: BlobWanted,
    /// For which job.
    pub job: Job,
}

impl Handler<FetchBlob> for Fetcher {
    type Result = actix::ResponseFuture<Outcome>;

    fn handle(&mut self, FetchBlob { wanted, job }: FetchBlob, _: &mut Context<Self>) -> Self::Result {
        let ports = Arc::clone(&self.ports);
        on_pool(async move {
            let fetched = fetch(&ports, &job, &wanted).await;
            let outcome = match &fetched {
                Ok(stored) if stored.fetched_bytes == 0 => "hit",
                Ok(_) => "miss",
                Err(_) => "failed",
            };
            metrics::BLOBS.with_label_values(&[outcome]).inc();
            Ok(Says::default().news(&fetched?))
        })
    }
}

pub(crate) async fn fetch(ports: &Ports, job: &Job, wanted: &BlobWanted) -> Result<BlobStored, FetchError> {
    let stored = |size, fetched_bytes| BlobStored { digest: wanted.blob.digest.clone(), size, fetched_bytes };
    let mut registry = ports.registry.clone();
    loop {
        let claim = ports.blobs.ingest(&wanted.blob.digest, Some(wanted.blob.size)).await;
        let ingest = match claim.map_err(|source| store_error(wanted, source))? {
            Claim::Present(size) => return Ok(stored(size, 0)),
            Claim::Granted(ingest) => ingest,
        };
        let resumed = ingest.offset() > 0;
        let received = if wanted.blob.is_manifest() {
            manifest(&registry, wanted, ingest).await
        } else {
            stream(ports, &registry, job, wanted, ingest).await
        };
        match received {
            // What an earlier try has left was bad, not what came now: it is gone, so once more from the start.
            Err(FetchError::Store { source: BlobError::Corrupt { .. }, .. }) if resumed => {
                tracing::warn!(digest = %wanted.blob.digest, "what an earlier try had left was damaged");
            }
            Err(error) if error.is_integrity() => match registry.past_mirrors(wanted.from.registry()) {
                Some(past_mirrors) => {
                    tracing::warn!(digest = %wanted.blob.digest, "what a mirror gave did not hold");
                    registry = past_mirrors;
                }
                None => return Err(error),
            },
            Err(error) => return Err(error),
            Ok(bytes) => {
                metrics::BYTES.with_label_values(&["store_in"]).inc_by(wanted.blob.size);
                return Ok(stored(wanted.blob.size, bytes));
            }
        }
    }
}

async fn manifest(registry: &Client, wanted: &BlobWanted, mut ingest: Ingest) -> Result<u64, FetchError> {
    let at = wanted.from.at(&wanted.blob.digest);
    let document = registry.manifest(&at).await.map_err(|source| upstream_error(wanted, source))?;
    let bytes = document.bytes().clone();
    let length = bytes.len() as u64;
    let write = async {
        if ingest.offset() > 0 {
            ingest.restart().await?;
        }
        ingest.write(bytes).await?;
        ingest.commit().await
    };
    write.await.map_err(|source| store_error(wanted, source))?;
    Ok(length)
}

async fn stream(
    ports: &Ports,
    registry: &Client,
    job: &Job,
    wanted: &BlobWanted,
    mut ingest: Ingest,
) -> Result<u64, FetchError> {
    let BlobWanted { blob, from } = wanted;
    let upstream = |source| upstream_error(wanted, source);
    let store = |source| store_error(wanted, source);
    let offset = ingest.offset();
    let mut received = 0;
    // All of it may be there already, and only the commit be missing.
    if offset < blob.size || blob.size == 0 {
        let opened = registry.blob(from, &blob.digest, Some(blob.size), offset).await;
        let mut chunks = opened.map_err(upstream)?;
        let mut at = offset;
        let mut told = Instant::now();
        while let Some(chunk) = chunks.next().await.map_err(upstream)? {
            match chunk {
                Chunk::Restart => {
                    at = 0;
                    ingest.restart().await.map_err(store)?;
                }
                Chunk::Bytes(bytes) => {
                    at += bytes.len() as u64;
                    received += bytes.len() as u64;
                    ingest.write(bytes).await.map_err(store)?;
                }
            }
            if told.elapsed() >= PROGRESS_EVERY {
                told = Instant::now();
                let progress = BlobProgress { digest: blob.digest.clone(), received_bytes: at };
                // Nobody depends on hearing it.
                let _ = ports.voice.announce(job, &progress).await;
            }
        }
    }
    ingest.commit().await.map_err(store)?;
    Ok(received)
}

fn upstream_error(wanted: &BlobWanted, source: larder_registry::RegistryError) -> FetchError {
    let reference = wanted.from.at(&wanted.blob.digest);
    FetchError::Upstream { reference, source }
}

fn store_error(wanted: &BlobWanted, source: BlobError) -> FetchError {
    let reference = wanted.from.at(&wanted.blob.digest);
    FetchError::Store { reference, source }
}
