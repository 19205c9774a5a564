mod drain;
mod http1;
mod http2;
mod limits;
mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use http::{Request, Response, StatusCode};
use larder_provider::ProviderError;
use larder_runtime::Runtime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::*;

/// As long as anything may take that is to happen soon.
const SOON: Duration = Duration::from_secs(20);

/// A door, and what goes on behind it.
struct Door {
    runtime: Runtime,
    address: SocketAddr,
    inside: Arc<Inside>,
}

#[derive(Default)]
struct Inside {
    /// How many requests were answered, and how many are being.
    asked: AtomicUsize,
    in_flight: AtomicUsize,
    in_flight_max: AtomicUsize,
    begun: Notify,
    /// Lets one that waits go on.
    go_on: Notify,
}

/// Counts a request until its answer is gone.
struct Present(Arc<Inside>);

impl Present {
    fn new(inside: &Arc<Inside>) -> Self {
        inside.asked.fetch_add(1, Ordering::SeqCst);
        let count = inside.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        inside.in_flight_max.fetch_max(count, Ordering::SeqCst);
        inside.begun.notify_one();
        Self(Arc::clone(inside))
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Limits of seconds, so that tests see their end.
fn impatient() -> Config {
    Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        header_timeout_s: 1,
        idle_timeout_s: 1,
        rate_floor_bytes_per_s: 16 * 1_024,
        rate_floor_window_s: 1,
        ..Config::default()
    }
}

fn patient() -> Config {
    Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..Config::default() }
}

impl Door {
    async fn open(config: Config) -> Self {
        let bus = larder_bus::open("mem:", &larder_bus::Config::default()).await.unwrap();
        let runtime = Runtime::new(bus);
        let inside = Arc::<Inside>::default();
        let shared = Arc::clone(&inside);
        let handler = move |request, _| answer(Arc::clone(&shared), request);
        let address = serve(&runtime, &config, handler).await.unwrap();
        Self { runtime, address, inside }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// What comes back for `bytes` until the connection ends.
    async fn send(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_ref()).await.unwrap();
        rest(&mut stream).await
    }

    /// Waits until nothing is being answered any more.
    async fn is_quiet(&self) {
        soon(async {
            while self.inside.in_flight.load(Ordering::SeqCst) > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

async fn answer(inside: Arc<Inside>, request: Request<Body>) -> Response<Body> {
    let present = Present::new(&inside);
    let (head, body) = request.into_parts();
    let body = match head.uri.path() {
        "/echo" => match body.read_all(1 << 20).await {
            Ok(bytes) => Body::full(bytes),
            Err(error) => return refusal(&error),
        },
        "/refuse" => return refusal(&BodyError::TooLarge { bytes_max: 0 }),
        "/wait" => {
            inside.go_on.notified().await;
            Body::full("waited\n")
        }
        "/endless" => {
            let chunk = Bytes::from(vec![7; 256 * 1_024]);
            let chunks = stream::repeat(chunk).map(move |chunk| {
                let _counted_until_dropped = &present;
                Ok(chunk)
            });
            return Response::new(Body::from_open_content(chunks.boxed()));
        }
        "/short" => Body::from_content(10, chunks(&["hello"])),
        "/long" => Body::from_content(10, chunks(&["hello", "hello!"])),
        "/exact" => Body::from_content(10, chunks(&["hello", "world"])),
        "/broken" => {
            let end = stream::iter([Err(ProviderError::Corrupt("damaged".to_owned()))]);
            Body::from_content(10, chunks(&["hello"]).chain(end).boxed())
        }
        _ => Body::full("hello\n"),
    };
    Response::new(body)
}

fn chunks(texts: &[&'static str]) -> stream::BoxStream<'static, Result<Bytes, ProviderError>> {
    let texts: Vec<_> = texts.iter().map(|text| Ok(Bytes::from_static(text.as_bytes()))).collect();
    stream::iter(texts).boxed()
}

fn refusal(error: &BodyError) -> Response<Body> {
    let mut response = Response::new(Body::full(error.to_string()));
    *response.status_mut() = match error {
        BodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        BodyError::TooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
        _ => StatusCode::BAD_REQUEST,
    };
    response
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(SOON, what).await.expect("it happens soon")
}

/// What comes over `stream` until it ends, well or not.
async fn rest(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut text = Vec::new();
    let _ = soon(stream.read_to_end(&mut text)).await;
    String::from_utf8_lossy(&text).into_owned()
}

/// What comes until `end` does.
async fn until(stream: &mut (impl tokio::io::AsyncRead + Unpin), end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let byte = soon(stream.read_u8()).await.expect("the connection goes on");
        text.push(byte);
    }
    String::from_utf8(text).unwrap()
}
