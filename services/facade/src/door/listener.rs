//! Accepts connections.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use larder_runtime::Runtime;
use tokio::net::TcpListener;

use super::admission::Admission;
use super::connection::Connections;
use super::{Body, Config, DoorError, Peer, tls};

/// How long to wait when the system can give no more connections.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);

/// How often that is logged, at most.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Opens the door: requests are answered by `handler` until the runtime stops, and those that came before it does are answered then,
/// too. Returns the address in use.
///
/// # Errors
/// [`DoorError`].
pub async fn serve<H, F>(runtime: &Runtime, config: &Config, handler: H) -> Result<SocketAddr, DoorError>
where
    H: Fn(Request<Body>, Peer) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    config.check()?;
    let tls = tls::open(&config.tls)?;
    let failed = |source| DoorError::Listen { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let connections =
        Connections { runtime: runtime.clone(), config: config.clone(), tls, handler: Arc::new(handler) };
    let stopping = runtime.stopping();
    runtime.spawn(async move {
        tokio::select! {
            () = stopping.cancelled() => {}
            () = accept(listener, Arc::new(connections)) => {}
        }
    });
    Ok(address)
}

async fn accept<H, F>(listener: TcpListener, connections: Arc<Connections<H>>)
where
    H: Fn(Request<Body>, Peer) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let admission = Admission::new(&connections.config);
    let mut logged: Option<Instant> = None;
    loop {
        let place = admission.place().await;
        match listener.accept().await {
            Ok((stream, address)) => match admission.admit(address.ip(), place) {
                Some(admitted) => {
                    let connection = Arc::clone(&connections).serve(stream, address, admitted);
                    connections.runtime.spawn(connection);
                }
                None => tracing::debug!(%address, "a peer has too many connections"),
            },
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                if logged.is_none_or(|logged| logged.elapsed() >= LOG_EVERY) {
                    logged = Some(Instant::now());
                    tracing::error!(%error, "cannot accept connections");
                }
                tokio::time::sleep(EXHAUSTED_WAIT).await;
            }
        }
    }
}

/// Whether the connection was gone before it was accepted, so that the next one may be fine.
fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
