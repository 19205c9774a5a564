//! Brings one blob in.
//! Hears [`BlobWanted`]; says [`BlobProgress`], [`BlobStored`]; touches `registry`, `blobs`.
//! Invariant: says that it is stored only when the blob is committed.

use std::sync::Arc;
use std::time::Duration;

use actix::{Context, Handler};
use larder_blobs::{BlobError, Claim, Ingest};
use larder_messages::{BlobProgress, BlobStored, BlobWanted, Job};
use larder_oci::Reference;
use larder_registry::{BlobStream, Chunk, Client, RegistryError};
use larder_runtime::{Outcome, Says, metrics, on_pool};
use tokio::time::MissedTickBehavior;

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

/// Returns when the blob is stored.
pub(crate) async fn fetch(ports: &Ports, job: &Job, wanted: &BlobWanted) -> Result<BlobStored, FetchError> {
    let mut fetch =
        Fetch { ports, job, wanted, registry: ports.registry.clone(), size: wanted.size, is_resumed: false };
    loop {
        match fetch.once().await {
            // What an earlier try has left was bad, not what came now: it is gone, so once more from the start.
            Err(FetchError::Store { source: BlobError::Corrupt { .. }, .. }) if fetch.is_resumed => {
                tracing::warn!(digest = %wanted.digest, "what an earlier try had left was damaged");
            }
            Err(error) if error.is_integrity() => {
                let past_mirrors = fetch.registry.past_mirrors(wanted.from.registry());
                fetch.registry = past_mirrors.ok_or(error)?;
                // The size may be the mirror's word.
                fetch.size = wanted.size;
                tracing::warn!(digest = %wanted.digest, "what a mirror gave did not hold");
            }
            ended => return ended,
        }
    }
}

struct Fetch<'a> {
    ports: &'a Ports,
    job: &'a Job,
    wanted: &'a BlobWanted,
    registry: Client,
    /// Its size in bytes, as whoever wants it or else the registry says.
    size: Option<u64>,
    /// Whether the last try went on from what an earlier one had left.
    is_resumed: bool,
}

impl Fetch<'_> {
    async fn once(&mut self) -> Result<BlobStored, FetchError> {
        let (blobs, digest) = (&self.ports.blobs, &self.wanted.digest);
        let mut opened = None;
        if self.size.is_none() {
            self.size = blobs.size(digest).await.map_err(|source| self.store_error(source))?;
        }
        if self.size.is_none() && !self.wanted.is_manifest {
            // Only the registry can tell its size, which those who read along want to know.
            let chunks = self.open(0).await?;
            self.size = chunks.size();
            opened = Some(chunks);
        }
        let claim = blobs.ingest(digest, self.size).await.map_err(|source| self.store_error(source))?;
        let (size, fetched_bytes) = match claim {
            Claim::Present(size) => (size, 0),
            Claim::Granted(ingest) => {
                self.is_resumed = ingest.offset() > 0;
                let (size, received) = if self.wanted.is_manifest {
                    self.manifest(ingest).await?
                } else {
                    self.stream(ingest, opened).await?
                };
                metrics::BYTES.with_label_values(&["store_in"]).inc_by(size);
                (size, received)
            }
        };
        Ok(BlobStored { digest: digest.clone(), size, fetched_bytes })
    }

    async fn manifest(&self, mut ingest: Ingest) -> Result<(u64, u64), FetchError> {
        let document =
            self.registry.manifest(&self.at()).await.map_err(|source| self.upstream_error(source))?;
        let bytes = document.bytes().clone();
        let length = bytes.len() as u64;
        let write = async {
            if ingest.offset() > 0 {
                ingest.restart().await?;
            }
            ingest.write(bytes).await?;
            ingest.commit().await
        };
        let size = write.await.map_err(|source| self.store_error(source))?;
        Ok((size, length))
    }

    /// Writes what the registry sends, and lets others read along.
    async fn stream(&self, mut ingest: Ingest, opened: Option<BlobStream>) -> Result<(u64, u64), FetchError> {
        let offset = ingest.offset();
        let mut received = 0;
        // All of it may be there already, and only the commit be missing.
        if offset == 0 || self.size != Some(offset) {
            let mut chunks = match opened {
                Some(chunks) if offset == 0 => chunks,
                _ => self.open(offset).await?,
            };
            let shared = ingest.share().await;
            let _shown = self.ports.fills.show(&self.wanted.digest, &self.wanted.from);
            let url = match shared {
                Ok(()) => self.ports.fills.url(&self.wanted.digest),
                Err(error) => {
                    tracing::warn!(%error, "nobody can read along");
                    None
                }
            };
            received = self.pour(&mut chunks, &mut ingest, url).await?;
        }
        let size = ingest.commit().await.map_err(|source| self.store_error(source))?;
        Ok((size, received))
    }

    /// Writes all of `chunks`, and returns how many bytes these were.
    async fn pour(
        &self,
        chunks: &mut BlobStream,
        ingest: &mut Ingest,
        url: Option<String>,
    ) -> Result<u64, FetchError> {
        let mut progress = BlobProgress {
            digest: self.wanted.digest.clone(),
            received_bytes: chunks.offset(),
            size: self.size,
            at: url,
        };
        let mut received = 0;
        let mut every = tokio::time::interval(PROGRESS_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let chunk = {
                let mut next = std::pin::pin!(chunks.next());
                loop {
                    tokio::select! {
                        biased;
                        _ = every.tick() => {
                            // Nobody depends on hearing it.
                            let _ = self.ports.voice.announce(self.job, &progress).await;
                        }
                        chunk = &mut next => break chunk.map_err(|source| self.upstream_error(source))?,
                    }
                }
            };
            let written = match chunk {
                None => return Ok(received),
                Some(Chunk::Restart) => {
                    progress.received_bytes = 0;
                    ingest.restart().await
                }
                Some(Chunk::Bytes(bytes)) => {
                    progress.received_bytes += bytes.len() as u64;
                    received += bytes.len() as u64;
                    if self.size.is_none() && progress.received_bytes > self.ports.undeclared_bytes_max {
                        let limit_bytes = self.ports.undeclared_bytes_max;
                        return Err(FetchError::Endless { reference: self.at(), limit_bytes });
                    }
                    ingest.write(bytes).await
                }
            };
            written.map_err(|source| self.store_error(source))?;
        }
    }

    async fn open(&self, offset: u64) -> Result<BlobStream, FetchError> {
        let BlobWanted { digest, from, .. } = self.wanted;
        let opened = self.registry.blob(from, digest, self.size, offset).await;
        opened.map_err(|source| self.upstream_error(source))
    }

    fn at(&self) -> Reference {
        self.wanted.from.at(&self.wanted.digest)
    }

    fn upstream_error(&self, source: RegistryError) -> FetchError {
        FetchError::Upstream { reference: self.at(), source }
    }

    fn store_error(&self, source: BlobError) -> FetchError {
        FetchError::Store { reference: self.at(), source }
    }
}
