//! A request and its answer, each with a body that must keep moving.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::Executor;
use larder_runtime::Runtime;
use tokio::task::futures::TaskLocalFuture;

use super::activity::{Activity, InFlight};
use super::pace::{Floor, Pace};
use super::{Body, BodyError, Peer};

tokio::task_local! {
    /// How the peer takes the answer that this task sends; there is none where one task sends many.
    static TAKING: Arc<Taking>;
}

/// Answers the requests of one connection.
pub(super) struct Exchange<H> {
    pub(super) handler: Arc<H>,
    pub(super) peer: Peer,
    pub(super) floor: Floor,
    pub(super) activity: Arc<Activity>,
}

impl<H> Clone for Exchange<H> {
    fn clone(&self) -> Self {
        let Self { handler, peer, floor, activity } = self;
        Self { handler: Arc::clone(handler), peer: *peer, floor: *floor, activity: Arc::clone(activity) }
    }
}

impl<H, F> Exchange<H>
where
    H: Fn(Request<Body>, Peer) -> F,
    F: Future<Output = Response<Body>>,
{
    pub(super) async fn answer(self, request: Request<Incoming>) -> Response<Answer> {
        let in_flight = self.activity.begin();
        // The frames of HTTP/2 are small anyway; that of a piece tells when the peer has taken it.
        let piece_bytes_max =
            if request.version() == Version::HTTP_2 { self.floor.bytes } else { usize::MAX };
        let response = if self.activity.is_ambiguous() {
            refusal()
        } else {
            let (mut head, incoming) = request.into_parts();
            if let http::header::Entry::Occupied(mut entry) = head.headers.entry(AUTHORIZATION) {
                // Whoever prints the headers prints no secret.
                entry.iter_mut().for_each(|value| value.set_sensitive(true));
            }
            let body = if incoming.is_end_stream() {
                Body::empty()
            } else {
                Body::boxed(Sent { incoming, pace: Pace::new(self.floor), floor: self.floor })
            };
            (self.handler)(Request::from_parts(head, body), self.peer).await
        };
        response.map(|body| Answer { body, piece_bytes_max, rest: Bytes::new(), _in_flight: in_flight })
    }
}

fn refusal() -> Response<Body> {
    let mut response = Response::new(Body::full("the request has more than one length\n"));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The body of a request, which fails when it comes more slowly than it must.
struct Sent {
    incoming: Incoming,
    pace: Pace,
    floor: Floor,
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Poll::Ready(next) = Pin::new(&mut self.incoming).poll_frame(cx) else {
            ready!(self.pace.poll_too_slow(cx));
            let bytes_per_s = self.floor.bytes_per_s;
            return Poll::Ready(Some(Err(BodyError::TooSlow { bytes_per_s })));
        };
        if let Some(Ok(frame)) = &next {
            self.pace.moved(frame.data_ref().map_or(0, Bytes::len));
        }
        Poll::Ready(next.map(|frame| frame.map_err(BodyError::Connection)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// The body of an answer, in pieces.
pub(super) struct Answer {
    body: Body,
    piece_bytes_max: usize,
    /// What is left of the last chunk.
    rest: Bytes,
    _in_flight: InFlight,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // Nobody asks for more before what was given is on its way.
        tell(Taking::asked);
        if self.rest.is_empty() {
            let next = ready!(Pin::new(&mut self.body).poll_frame(cx));
            match next.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(bytes))) => self.rest = bytes,
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let count = self.rest.len().min(self.piece_bytes_max);
        let piece = self.rest.split_to(count);
        tell(Taking::given);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

/// How a peer takes an answer.
#[derive(Default)]
struct Taking {
    /// How often more was asked for.
    asked: AtomicU64,
    /// Whether a piece was given since.
    is_given: AtomicBool,
}

impl Taking {
    fn asked(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.is_given.store(false, Ordering::Relaxed);
    }

    fn given(&self) {
        self.is_given.store(true, Ordering::Relaxed);
    }
}

fn tell(what: fn(&Taking)) {
    let _ = TAKING.try_with(|taking| what(taking));
}

/// Runs the streams of HTTP/2 connections, each as a task.
#[derive(Clone)]
pub(super) struct Streams {
    pub(super) runtime: Runtime,
    pub(super) floor: Floor,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, future: F) {
        let taking = Arc::<Taking>::default();
        let pace = Pace::new(self.floor);
        let future = TAKING.scope(Arc::clone(&taking), future);
        self.runtime.spawn(Stream { future: Box::pin(future), taking, seen: 0, floor: self.floor, pace });
    }
}

/// A stream that is reset when the peer does not take what it is given: its window may stay closed while the connection is alive.
struct Stream<F> {
    future: Pin<Box<TaskLocalFuture<Arc<Taking>, F>>>,
    taking: Arc<Taking>,
    seen: u64,
    floor: Floor,
    pace: Pace,
}

impl<F: Future<Output = ()>> Future for Stream<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.future.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let asked = self.taking.asked.load(Ordering::Relaxed);
        if asked != self.seen {
            self.seen = asked;
            // A piece is as much as must be taken in the whole time.
            let bytes = self.floor.bytes;
            self.pace.moved(bytes);
        }
        if self.taking.is_given.load(Ordering::Relaxed) {
            ready!(self.pace.poll_too_slow(cx));
            tracing::debug!("a peer does not take an answer");
            return Poll::Ready(());
        }
        Poll::Pending
    }
}
