//! The only writer to upstream registries.
//! Hears [`PushWanted`]; says [`ImagePushed`]; touches `blobs`, `registry`.
//! Invariant: what is pushed is byte for byte what is stored; children come before what points to them.

mod error;

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use actix::{Actor, Context, Handler};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use larder_blobs::{BlobError, Blobs};
use larder_messages::{ImagePushed, PushMode, PushWanted, Work};
use larder_oci::{Descriptor, Document, INDEX_DEPTH_MAX, Kind, OciError};
use larder_registry::Client;
use larder_runtime::{Outcome, Runtime, Says, on_pool};
use serde::Deserialize;

pub use error::PushError;

/// How much a pusher takes on at a time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Images being pushed at the same time.
    pub images_in_flight_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { images_in_flight_max: 8 }
    }
}

const BLOBS_IN_FLIGHT_MAX: usize = 4;

/// The pusher.
pub struct Pusher {
    ports: Arc<Ports>,
}

struct Ports {
    blobs: Blobs,
    registry: Client,
}

impl Actor for Pusher {
    type Context = Context<Self>;
}

/// Starts a pusher that hears [`PushWanted`].
pub fn start(runtime: &Runtime, config: &Config, blobs: Blobs, registry: Client) {
    let pusher = Pusher { ports: Arc::new(Ports { blobs, registry }) }.start();
    runtime.listen(config.images_in_flight_max, pusher, |wanted: PushWanted, _| Push { wanted });
}

/// Push what is wanted.
#[derive(actix::Message)]
#[rtype(result = "Outcome")]
pub struct Push {
    /// What, and where to.
    pub wanted: PushWanted,
}

impl Handler<Push> for Pusher {
    type Result = actix::ResponseFuture<Outcome>;

    fn handle(&mut self, Push { wanted }: Push, _: &mut Context<Self>) -> Self::Result {
        let ports = Arc::clone(&self.ports);
        on_pool(async move {
            let pushed = push(&ports, &wanted).await?;
            Ok(Says::default().news(&pushed))
        })
    }
}

async fn push(ports: &Ports, wanted: &PushWanted) -> Result<ImagePushed, PushError> {
    let PushWanted { root, to, mode } = wanted;
    let mut pushed =
        ImagePushed { id: wanted.id(), to: to.clone(), root: root.clone(), sent_blobs: 0, sent_bytes: 0 };
    if *mode == PushMode::IfAbsent {
        let there = ports.registry.head_manifest(to).await;
        let there = there.map_err(|source| PushError::Upstream { to: to.clone(), source })?;
        match there.map(|head| head.digest) {
            None => {}
            Some(Some(digest)) if digest == root.digest => return Ok(pushed),
            Some(_) => return Err(PushError::Taken { to: to.clone() }),
        }
    }
    let document = stored(ports, wanted, root).await?;
    refuse_sparse(ports, wanted, &document).await?;
    push_children(ports, wanted, &document, &mut pushed, 0).await?;
    push_manifest(ports, wanted, to, &document, &mut pushed).await?;
    Ok(pushed)
}

/// Refuses, before anything is sent, an index of which a child is neither here nor there.
async fn refuse_sparse(ports: &Ports, wanted: &PushWanted, document: &Document) -> Result<(), PushError> {
    let Kind::Index(index) = document.kind() else {
        return Ok(());
    };
    let absent = ports.blobs.missing(&index.manifests).await;
    for child in absent.map_err(|source| PushError::Store { to: wanted.to.clone(), source })? {
        let there = ports.registry.head_manifest(&wanted.to.at(&child.digest)).await;
        if there.map_err(|source| PushError::Upstream { to: wanted.to.clone(), source })?.is_none() {
            return Err(PushError::Sparse { to: wanted.to.clone(), child: child.digest });
        }
    }
    Ok(())
}

async fn stored(ports: &Ports, wanted: &PushWanted, at: &Descriptor) -> Result<Document, PushError> {
    let failed = |source| PushError::Store { to: wanted.to.clone(), source };
    let document = ports.blobs.document(at).await.map_err(failed)?;
    document.ok_or_else(|| failed(BlobError::NotFound(at.digest.clone())))
}

/// Pushes all that `document` points to, deepest first.
fn push_children<'a>(
    ports: &'a Ports,
    wanted: &'a PushWanted,
    document: &'a Document,
    pushed: &'a mut ImagePushed,
    depth: usize,
) -> BoxFuture<'a, Result<(), PushError>> {
    async move {
        if depth > INDEX_DEPTH_MAX {
            let source = OciError::TooMany { what: "nested indexes", max: INDEX_DEPTH_MAX };
            return Err(PushError::Image { to: wanted.to.clone(), source });
        }
        let is_index = matches!(document.kind(), Kind::Index(_));
        let children: Vec<Descriptor> = document.children().into_iter().cloned().collect();
        let (manifests, blobs): (Vec<_>, Vec<_>) =
            children.into_iter().partition(|child| is_index && child.is_manifest());
        push_blobs(ports, wanted, blobs, pushed).await?;
        for child in &manifests {
            let at = wanted.to.at(&child.digest);
            let failed = |source| PushError::Upstream { to: wanted.to.clone(), source };
            // A child that was never fetched can still be in the registry, where it came from.
            if ports.registry.head_manifest(&at).await.map_err(failed)?.is_some() {
                continue;
            }
            let document = stored(ports, wanted, child).await?;
            push_children(ports, wanted, &document, pushed, depth + 1).await?;
            push_manifest(ports, wanted, &at, &document, pushed).await?;
        }
        Ok(())
    }
    .boxed()
}

async fn push_manifest(
    ports: &Ports,
    wanted: &PushWanted,
    at: &larder_oci::Reference,
    document: &Document,
    pushed: &mut ImagePushed,
) -> Result<(), PushError> {
    let sent = ports.registry.push_manifest(at, document).await;
    sent.map_err(|source| PushError::Upstream { to: wanted.to.clone(), source })?;
    pushed.sent_blobs += 1;
    pushed.sent_bytes += document.bytes().len() as u64;
    Ok(())
}

async fn push_blobs(
    ports: &Ports,
    wanted: &PushWanted,
    mut blobs: Vec<Descriptor>,
    pushed: &mut ImagePushed,
) -> Result<(), PushError> {
    let mut seen = HashSet::new();
    blobs.retain(|blob| seen.insert(blob.digest.clone()));
    let sends = blobs.into_iter().map(|blob| push_blob(ports, wanted, blob));
    let sends = futures::stream::iter(sends).buffer_unordered(BLOBS_IN_FLIGHT_MAX);
    let sent: Vec<u64> = sends.try_collect().await?;
    pushed.sent_blobs += sent.iter().filter(|bytes| **bytes > 0).count() as u64;
    pushed.sent_bytes += sent.iter().sum::<u64>();
    Ok(())
}

/// Returns the bytes that had to be sent.
async fn push_blob(ports: &Ports, wanted: &PushWanted, blob: Descriptor) -> Result<u64, PushError> {
    let failed = |source| PushError::Upstream { to: wanted.to.clone(), source };
    if ports.registry.blob_exists(&wanted.to, &blob.digest).await.map_err(failed)?.is_some() {
        return Ok(0);
    }
    let open = |_| {
        let (blobs, digest) = (ports.blobs.clone(), blob.digest.clone());
        async move {
            let content = blobs.read(&digest).await.map_err(io::Error::other)?;
            Ok(content.bytes.map_err(io::Error::other).boxed())
        }
        .boxed()
    };
    ports.registry.push_blob(&wanted.to, &blob, open).await.map_err(failed)?;
    Ok(blob.size)
}
