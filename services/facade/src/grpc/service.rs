//! The calls of the service.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use larder_blobs::Blobs;
use larder_catalog::Catalog;
use larder_containerd_api::content::content_server::Content;
use larder_containerd_api::content::{
    AbortRequest, DeleteContentRequest, InfoRequest, InfoResponse, ListContentRequest, ListContentResponse,
    ListStatusesRequest, ListStatusesResponse, ReadContentRequest, ReadContentResponse, StatusRequest,
    StatusResponse, UpdateRequest, UpdateResponse, WriteContentRequest,
};
use larder_oci::Digest;
use larder_runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::{Request, Response, Status, Streaming};

use super::fault::{self, absent, blob_fault, catalog_fault, filter_fault};
use super::filter::Filters;
use super::info::{self, Relabel};
use super::ingests::{Ingests, Ref, signed};
use super::namespace::Namespace;
use super::write::{self, Reply};

/// Streams of content and listings at a time; further calls wait.
const STREAMS_IN_FLIGHT_MAX: usize = 128;
/// Refs that are written at a time.
const WRITES_IN_FLIGHT_MAX: usize = 64;
/// The content in one message.
const DATA_BYTES_MAX: usize = 1 << 20;

/// The content of a store; clones share it.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) blobs: Blobs,
    pub(super) catalog: Catalog,
    pub(super) ingests: Ingests,
    pub(super) runtime: Runtime,
    is_writable: bool,
    streams: Arc<Semaphore>,
    writes: Arc<Semaphore>,
}

impl Service {
    pub(super) fn new(runtime: Runtime, blobs: Blobs, catalog: Catalog, is_writable: bool) -> Self {
        let ingests = Ingests::new(blobs.uploads());
        let streams = Arc::new(Semaphore::new(STREAMS_IN_FLIGHT_MAX));
        let writes = Arc::new(Semaphore::new(WRITES_IN_FLIGHT_MAX));
        Self { blobs, catalog, ingests, runtime, is_writable, streams, writes }
    }

    pub(super) fn is_writable(&self) -> bool {
        self.is_writable
    }

    pub(super) fn refuse_read_only(&self, what: &str) -> Result<(), Status> {
        if self.is_writable {
            return Ok(());
        }
        let message = format!("the content store is read-only: cannot {what} unless content.writable is set");
        Err(Status::permission_denied(message))
    }

    pub(super) async fn refuse_present(&self, expected: Option<&Digest>) -> Result<(), Status> {
        match expected {
            Some(digest) if self.has(digest).await? => {
                Err(Status::already_exists(format!("content {digest}: already exists")))
            }
            _ => Ok(()),
        }
    }

    async fn refuse_absent(&self, digest: &Digest) -> Result<(), Status> {
        if self.has(digest).await? { Ok(()) } else { Err(absent(digest)) }
    }

    async fn has(&self, digest: &Digest) -> Result<bool, Status> {
        let stored = self.blobs.stat(digest).await.map_err(|error| blob_fault(&error))?;
        Ok(stored.is_some())
    }

    async fn stream_place(&self) -> Result<OwnedSemaphorePermit, Status> {
        let place = Arc::clone(&self.streams).acquire_owned().await;
        place.map_err(|_| Status::unavailable("stopping"))
    }
}

#[tonic::async_trait]
impl Content for Service {
    type ListStream = BoxStream<'static, Result<ListContentResponse, Status>>;
    type ReadStream = BoxStream<'static, Result<ReadContentResponse, Status>>;
    type WriteStream = BoxStream<'static, Reply>;

    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let namespace = Namespace::of(request.metadata())?;
        let digest = fault::digest(&request.get_ref().digest)?;
        let info = info::look(&self.blobs, &self.catalog, &namespace, &digest).await?;
        Ok(Response::new(InfoResponse { info: Some(info) }))
    }

    async fn update(&self, request: Request<UpdateRequest>) -> Result<Response<UpdateResponse>, Status> {
        self.refuse_read_only("update")?;
        let namespace = Namespace::of(request.metadata())?;
        let UpdateRequest { info, update_mask } = request.into_inner();
        let info = info.ok_or_else(|| Status::invalid_argument("nothing says what to update"))?;
        let digest = fault::digest(&info.digest)?;
        self.refuse_absent(&digest).await?;
        let mask = update_mask.map(|mask| mask.paths).unwrap_or_default();
        Relabel::masked(info.labels, &mask)?.apply(&self.catalog, &namespace, &digest).await?;
        let info = info::look(&self.blobs, &self.catalog, &namespace, &digest).await?;
        Ok(Response::new(UpdateResponse { info: Some(info) }))
    }

    async fn list(&self, request: Request<ListContentRequest>) -> Result<Response<Self::ListStream>, Status> {
        let namespace = Namespace::of(request.metadata())?;
        let filters = Filters::parse(&request.get_ref().filters).map_err(filter_fault)?;
        let place = self.stream_place().await?;
        let messages = info::list(&self.blobs, &self.catalog, &namespace, filters).await?;
        Ok(Response::new(while_in_place(messages, place)))
    }

    async fn delete(&self, request: Request<DeleteContentRequest>) -> Result<Response<()>, Status> {
        self.refuse_read_only("delete")?;
        let namespace = Namespace::of(request.metadata())?;
        let digest = fault::digest(&request.get_ref().digest)?;
        // A name is given to what is whole, and that must not change meanwhile.
        let _still = self.catalog.keep_others_still().await.map_err(|error| catalog_fault(&error))?;
        if !self.blobs.delete(&digest).await.map_err(|error| blob_fault(&error))? {
            return Err(absent(&digest));
        }
        tracing::warn!(%digest, namespace = namespace.as_str(), "a client of the content service deleted a blob");
        self.catalog.remove_labels(&digest).await.map_err(|error| catalog_fault(&error))?;
        Ok(Response::new(()))
    }

    async fn read(&self, request: Request<ReadContentRequest>) -> Result<Response<Self::ReadStream>, Status> {
        Namespace::of(request.metadata())?;
        let ReadContentRequest { digest, offset, size } = request.into_inner();
        let digest = fault::digest(&digest)?;
        let place = self.stream_place().await?;
        // From the beginning where the offset says nothing, to the end where the size does not.
        let (offset, length) = (u64::try_from(offset).unwrap_or(0), u64::try_from(size).ok());
        let content =
            self.blobs.read_range(&digest, offset, length).await.map_err(|error| blob_fault(&error))?;
        let pieces = content.bytes.map_ok(|chunk| stream::iter(pieces(chunk)).map(Ok)).try_flatten();
        // As containerd counts: from where this read began.
        let messages = pieces.scan(0, |offset, piece| {
            let message = piece.map(|data| {
                let begin = *offset;
                *offset += data.len() as u64;
                ReadContentResponse { offset: signed(begin), data }
            });
            std::future::ready(Some(message.map_err(|error| blob_fault(&error))))
        });
        Ok(Response::new(while_in_place(messages.boxed(), place)))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let namespace = Namespace::of(request.metadata())?;
        let status = self.ingests.status(&Ref::new(&namespace, &request.get_ref().r#ref)?).await?;
        Ok(Response::new(StatusResponse { status: Some(status) }))
    }

    async fn list_statuses(
        &self,
        request: Request<ListStatusesRequest>,
    ) -> Result<Response<ListStatusesResponse>, Status> {
        let namespace = Namespace::of(request.metadata())?;
        let filters = Filters::parse(&request.get_ref().filters).map_err(filter_fault)?;
        let statuses = self.ingests.statuses(&namespace, &filters).await?;
        Ok(Response::new(ListStatusesResponse { statuses }))
    }

    async fn write(
        &self,
        request: Request<Streaming<WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let namespace = Namespace::of(request.metadata())?;
        let place = Arc::clone(&self.writes).try_acquire_owned();
        let place = place.map_err(|_| Status::unavailable("too much is being written at once; try again"))?;
        let (replies, answers) = mpsc::channel(1);
        let conversation = write::converse(self.clone(), namespace, request.into_inner(), replies);
        // What was written is kept when the client goes away, and then nobody polls the answers any more.
        self.runtime.spawn(async move {
            conversation.await;
            drop(place);
        });
        let answers = stream::unfold(answers, async |mut answers| Some((answers.recv().await?, answers)));
        Ok(Response::new(answers.boxed()))
    }

    async fn abort(&self, request: Request<AbortRequest>) -> Result<Response<()>, Status> {
        self.refuse_read_only("abort")?;
        let namespace = Namespace::of(request.metadata())?;
        self.ingests.abort(&Ref::new(&namespace, &request.get_ref().r#ref)?).await?;
        Ok(Response::new(()))
    }
}

/// A stream that has its place until it ends or is dropped.
fn while_in_place<T: Send + 'static>(
    stream: BoxStream<'static, T>,
    place: OwnedSemaphorePermit,
) -> BoxStream<'static, T> {
    stream
        .map(move |item| {
            let _ = &place;
            item
        })
        .boxed()
}

/// A chunk in pieces that fit a message.
fn pieces(mut chunk: Bytes) -> impl Iterator<Item = Bytes> + Send {
    std::iter::from_fn(move || {
        let length = chunk.len().min(DATA_BYTES_MAX);
        (length > 0).then(|| chunk.split_to(length))
    })
}
