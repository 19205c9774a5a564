//! HTTP/2 by hyper, for what depends on the protocol alone.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio_rustls::TlsAcceptor;

use super::Shared;
use super::answer::answer;
use super::exchange::Request;
use super::tls::Authority;

const STOP_POLL: Duration = Duration::from_millis(50);

/// Accepts connections until the registry stops.
pub(super) fn listen(listener: TcpListener, shared: &Arc<Shared>, authority: &Authority) {
    let acceptor = TlsAcceptor::from(authority.server(&[b"h2", b"http/1.1"]));
    listener.set_nonblocking(true).expect("a socket can be made non-blocking");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be started");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).expect("the runtime takes a socket");
        while !shared.is_stopping() {
            let Ok(accepted) = tokio::time::timeout(STOP_POLL, listener.accept()).await else {
                continue;
            };
            let Ok((stream, _)) = accepted else { continue };
            shared.connections.fetch_add(1, Ordering::SeqCst);
            let (acceptor, shared) = (acceptor.clone(), Arc::clone(shared));
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service = service_fn(move |request| {
                    std::future::ready(Ok::<_, Infallible>(respond(&shared, &request)))
                });
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
}

fn respond(shared: &Shared, request: &hyper::Request<Incoming>) -> hyper::Response<Full<Bytes>> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let target = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let request = Request {
        method: request.method().to_string(),
        version: format!("{:?}", request.version()),
        headers: request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        ..Request::default()
    }
    .target(target);
    let number = shared.arrived(&request);
    let reply = answer(shared, &request);
    shared.update(number, |exchange| {
        exchange.status = reply.status;
        exchange.sent_bytes = reply.body.len() as u64;
    });
    shared.left();
    let mut response = hyper::Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(name, value);
    }
    response.body(Full::new(reply.body)).expect("a scripted header is well-formed")
}
