//! containerd's content service over gRPC: what is stored, with containerd's semantics and its error codes.
//!
//! Blobs are everybody's; labels, and the refs of what is being written, are those of a namespace, which the header
//! `containerd-namespace` names. Nobody proves who he is here, so it listens where only this machine reaches it.

mod fault;
mod filter;
mod info;
mod ingests;
mod listen;
mod namespace;
mod service;
#[cfg(test)]
mod tests;
mod write;

use std::io;
use std::time::Duration;

use larder_containerd_api::content::content_server::ContentServer;
use larder_runtime::Runtime;
use tonic::transport::Server;

use crate::Facade;
use service::Service;

pub use listen::{ContentListen, ListenError};

/// The largest message taken: containerd's clients send up to half of what they may, and they may send 16 MiB.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Calls at a time on one connection.
const STREAMS_PER_CONNECTION_MAX: u32 = 256;
/// What may be on its way to a stream or a connection before it is read, in bytes.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// Calls that a client has begun and taken back, before it is told off.
const RESETS_PENDING_MAX: usize = 64;
/// How often a silent client is asked whether it is still there, and how long it may take to answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves the content of `facade` until the runtime stops, and lets the calls in flight end then. Returns the address in use:
/// `host:port`, where port 0 has picked a free one, or `unix://` with a path.
///
/// # Errors
/// When it cannot listen there.
pub async fn serve(runtime: &Runtime, listen: &ContentListen, facade: &Facade) -> io::Result<String> {
    let (blobs, catalog) = (facade.blobs.clone(), facade.catalog.clone());
    start(listen, Service::new(runtime.clone(), blobs, catalog, facade.content.writable)).await
}

async fn start(listen: &ContentListen, service: Service) -> io::Result<String> {
    let (address, connections) = listen.open().await?;
    let runtime = service.runtime.clone();
    let content = ContentServer::new(service).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let server = Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(RESETS_PENDING_MAX))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(content);
    let stopping = runtime.stopping().cancelled_owned();
    runtime.spawn(async move {
        if let Err(error) = server.serve_with_incoming_shutdown(connections, stopping).await {
            tracing::error!(%error, "the content service ended");
        }
    });
    Ok(address)
}
