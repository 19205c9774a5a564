//! The administrative listener: `/metrics`, `/healthz`, `/readyz`.

use std::net::SocketAddr;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::{Runtime, metrics};

/// Serves until the runtime stops. `refresh` runs before each scrape, to bring in numbers that are counted elsewhere. Returns the
/// address in use (port 0 picks a free one).
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(
    runtime: &Runtime,
    listen: SocketAddr,
    refresh: impl Fn() + Clone + Send + Sync + 'static,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let ready = runtime.stopping();
    // Whoever watches the process may do so until its work is drained.
    let stopped = runtime.stopped.clone();
    let routes = Router::new()
        .route(
            "/metrics",
            get(move || async move {
                refresh();
                metrics::text()
            }),
        )
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || async move {
                if ready.is_cancelled() {
                    (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
                } else {
                    (StatusCode::OK, "ok\n")
                }
            }),
        );
    runtime.spawn_watcher(async move {
        let shutdown = stopped.cancelled_owned();
        if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(shutdown).await {
            tracing::error!(%error, "the administrative listener ended");
        }
    });
    Ok(address)
}
