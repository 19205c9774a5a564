//! One connection, from its first byte to its last.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use larder_runtime::Runtime;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::activity::{Activity, Patience};
use super::admission::Admitted;
use super::exchange::{Exchange, Streams};
use super::head::Heads;
use super::pace::Floor;
use super::tls::Tls;
use super::wire::Wire;
use super::{Body, Config, Peer};

/// How much of a request or of an answer is read or held to be written at once: enough that system calls cost little, little enough
/// for all connections together.
const BUFFER_BYTES_MAX: usize = 128 * 1_024;

/// How many bytes a client may send over HTTP/2 before anybody takes them, in all and for each request.
const WINDOW_BYTES: u32 = 512 * 1_024;

/// How many streams that the client has reset again may wait to be looked at, and how many the door has reset for faults of the
/// client, before the connection ends.
const RESETS_MAX: usize = 20;
const FAULTS_MAX: usize = 128;

/// How long a connection that is to end may take for it when it has no request.
const CLOSING: Duration = Duration::from_secs(1);

/// What all connections have in common.
pub(super) struct Connections<H> {
    pub(super) runtime: Runtime,
    pub(super) config: Config,
    pub(super) tls: Option<Tls>,
    pub(super) handler: Arc<H>,
}

impl<H, F> Connections<H>
where
    H: Fn(Request<Body>, Peer) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    /// Answers what comes over `stream` until it ends.
    pub(super) async fn serve(self: Arc<Self>, stream: TcpStream, address: SocketAddr, admitted: Admitted) {
        let floor = Floor::new(&self.config);
        prepare(&stream, floor);
        let activity = Activity::new();
        let wire = Wire::new(stream, floor, Arc::clone(&activity));
        let peer = Peer { address, is_tls: self.tls.is_some() };
        let ended = match &self.tls {
            None => self.talk(wire, peer, activity).await,
            Some(tls) => {
                let acceptor = TlsAcceptor::from(tls.fresh().await.0);
                match timeout(self.config.header_timeout(), acceptor.accept(wire)).await {
                    Ok(Ok(stream)) => self.talk(stream, peer, activity).await,
                    Ok(Err(error)) => Err(error.into()),
                    Err(_) => Err("no handshake in time".into()),
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%address, %error, "a connection broke off");
        }
        drop(admitted);
    }

    async fn talk<S>(&self, stream: S, peer: Peer, activity: Arc<Activity>) -> Ended
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let heads = timeout(self.config.header_timeout(), Heads::read(stream, Arc::clone(&activity)));
        let (heads, is_http2) = heads.await.map_err(|_| "no request in time")??;
        let floor = Floor::new(&self.config);
        let (handler, activity_of_requests) = (Arc::clone(&self.handler), Arc::clone(&activity));
        let exchange = Exchange { handler, peer, floor, activity: activity_of_requests };
        let service = service_fn(move |request| {
            let exchange = exchange.clone();
            async move { Ok::<_, Infallible>(exchange.answer(request).await) }
        });
        let io = TokioIo::new(heads);
        if is_http2 {
            let streams = Streams { runtime: self.runtime.clone(), floor };
            let connection = self.http2(streams).serve_connection(io, service);
            self.drive(pin!(connection), http2::Connection::graceful_shutdown, &activity).await
        } else {
            let connection = self.http1().serve_connection(io, service);
            self.drive(pin!(connection), http1::Connection::graceful_shutdown, &activity).await
        }
    }

    fn http1(&self) -> http1::Builder {
        let mut builder = http1::Builder::new();
        // How long a head may take is told apart from how long there may be none.
        builder.header_read_timeout(None).max_buf_size(BUFFER_BYTES_MAX);
        builder.max_header_size(self.config.header_bytes_max as usize);
        builder
    }

    fn http2(&self, streams: Streams) -> http2::Builder<Streams> {
        let mut builder = http2::Builder::new(streams);
        builder
            .max_concurrent_streams(self.config.streams_per_connection_max)
            .max_header_list_size(self.config.header_bytes_max)
            .max_pending_accept_reset_streams(RESETS_MAX)
            .max_local_error_reset_streams(FAULTS_MAX)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_send_buf_size(BUFFER_BYTES_MAX);
        builder
    }

    /// Runs `connection` until it ends by itself, is without a request for too long, or everything ends.
    async fn drive<C>(
        &self,
        mut connection: Pin<&mut C>,
        close: fn(Pin<&mut C>),
        activity: &Activity,
    ) -> Ended
    where
        C: Future<Output = hyper::Result<()>>,
    {
        let (stopping, stopped) = (self.runtime.stopping(), self.runtime.stopped());
        let mut is_closing = false;
        loop {
            let patience = Patience {
                head: self.config.header_timeout(),
                idle: self.config.idle_timeout(),
                closing: CLOSING,
            };
            tokio::select! {
                ended = &mut connection => return Ok(ended?),
                () = activity.overdue(patience) => {
                    if is_closing {
                        return Ok(());
                    }
                }
                () = stopping.cancelled(), if !is_closing => {}
                () = stopped.cancelled() => return Err("the time for it is over".into()),
            }
            is_closing = true;
            activity.close();
            close(connection.as_mut());
        }
    }
}

type Ended = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Sets what only makes a connection slower, or less fairly judged, where it cannot be set.
fn prepare(stream: &TcpStream, floor: Floor) {
    let _ = stream.set_nodelay(true);
    // A peer's pace shows only when the system has room again for what it is sent. By itself the system makes room in steps of up to
    // megabytes; with this, in steps of half of it.
    #[cfg(target_os = "linux")]
    {
        let lowat = u32::try_from(floor.bytes.saturating_mul(2)).unwrap_or(u32::MAX);
        let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(lowat.max(64 * 1_024));
    }
}
