//! Lets other processes read a blob while it is being fetched here.
//!
//! **Invariant:** nobody reads what is on its way without the secret that [`larder_messages::BlobProgress`] hands out.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::uri::Authority;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;
use axum::{BoxError, Router};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use larder_blobs::{Blobs, Filling};
use larder_oci::{Digest, Reference};
use larder_registry::{BlobStream, Chunk, Client};
use larder_runtime::Runtime;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::Config;

/// The size of the whole blob in bytes, if it is known.
const SIZE: HeaderName = HeaderName::from_static("larder-size");
/// A part that begins so many bytes behind what has come is asked for by itself.
const FAR_BYTES: u64 = 16 << 20;
/// Parts of one blob asked for by themselves, at a time.
const FAR_PER_BLOB_MAX: usize = 4;
/// Parts of all blobs asked for by themselves, at a time.
const FAR_MAX: usize = 16;
/// Readers at a time.
const READERS_MAX: usize = 1024;

type Bytestream = BoxStream<'static, Result<Bytes, BoxError>>;

/// The blobs that are being fetched here, for whoever wants them before they are stored. Clones share them.
#[derive(Clone)]
pub struct Fills(Arc<Shared>);

struct Shared {
    blobs: Blobs,
    registry: Client,
    listen: SocketAddr,
    advertise: Option<String>,
    secret: String,
    /// The URL below which they are, once it is listened on.
    base: OnceLock<String>,
    sources: Mutex<HashMap<Digest, Arc<Source>>>,
    far: Arc<Semaphore>,
    readers: Arc<Semaphore>,
}

/// Where a blob comes from.
struct Source {
    from: Reference,
    far: Arc<Semaphore>,
}

/// Which bytes are wanted.
#[derive(Clone, Copy, Deserialize)]
struct Part {
    #[serde(default)]
    offset: u64,
    length: Option<u64>,
}

/// A blob that others may read for as long as this lives.
pub(crate) struct Shown {
    fills: Fills,
    digest: Digest,
    source: Arc<Source>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        let mut sources = self.fills.sources();
        if sources.get(&self.digest).is_some_and(|source| Arc::ptr_eq(source, &self.source)) {
            sources.remove(&self.digest);
        }
    }
}

impl Fills {
    pub(crate) fn new(config: &Config, blobs: Blobs, registry: Client) -> Self {
        Self(Arc::new(Shared {
            blobs,
            registry,
            listen: config.fills_listen,
            advertise: config.fills_advertise.clone(),
            secret: format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()),
            base: OnceLock::new(),
            sources: Mutex::default(),
            far: Arc::new(Semaphore::new(FAR_MAX)),
            readers: Arc::new(Semaphore::new(READERS_MAX)),
        }))
    }

    /// Listens on `fetcher.fills_listen` until the runtime stops, and returns the address in use. From then on
    /// [`larder_messages::BlobProgress`] says where a blob can be read. To be called once.
    ///
    /// `GET` there gives the whole blob, or with `?offset=N&length=M` a part of it, as it comes in; the header `larder-size` tells
    /// the size of the whole. The last bytes of a blob are given only when it holds, otherwise the connection is cut; those of a part that
    /// ends earlier, or that begins far behind what has come, are not verified. 404 means that it is not being fetched here (any more).
    ///
    /// # Errors
    /// When the address cannot be listened on, or `fetcher.fills_advertise` is no host, or lacks where all addresses are listened on.
    pub async fn serve(&self, runtime: &Runtime) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(self.0.listen).await?;
        let address = listener.local_addr()?;
        let base =
            format!("http://{}/fills/{}/", advertised(self.0.advertise.as_deref(), address)?, self.0.secret);
        // A second call would listen in vain, and change nothing.
        let _ = self.0.base.set(base);
        let listener = listener.tap_io(|stream| {
            // Without it a part waits for the one before to be confirmed.
            let _ = stream.set_nodelay(true);
        });
        let routes = Router::new().route("/fills/{secret}/{digest}", get(give)).with_state(self.clone());
        let stopping = runtime.stopping().cancelled_owned();
        runtime.spawn(async move {
            if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(stopping).await {
                tracing::error!(%error, "the listener for growing blobs ended");
            }
        });
        Ok(address)
    }

    /// Where others can read the blob, if anywhere.
    pub(crate) fn url(&self, digest: &Digest) -> Option<String> {
        self.0.base.get().map(|base| format!("{base}{digest}"))
    }

    /// Takes note of where a blob comes from.
    pub(crate) fn show(&self, digest: &Digest, from: &Reference) -> Shown {
        let source = Source { from: from.clone(), far: Arc::new(Semaphore::new(FAR_PER_BLOB_MAX)) };
        let source = Arc::new(source);
        self.sources().insert(digest.clone(), Arc::clone(&source));
        Shown { fills: self.clone(), digest: digest.clone(), source }
    }

    fn sources(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Source>>> {
        self.0.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Comparing digests takes as long for a near miss as for any other.
    fn is_secret(&self, given: &str) -> bool {
        Digest::of(given.as_bytes()) == Digest::of(self.0.secret.as_bytes())
    }

    async fn read(&self, digest: &Digest, filling: &Filling, part: Part) -> Bytestream {
        let near = filling.read(part.offset, part.length).map_err(BoxError::from);
        let is_far = part.offset > filling.written().saturating_add(FAR_BYTES);
        let source = self.sources().get(digest).filter(|_| is_far).cloned();
        let (Some(source), Some(length)) = (source, part.length) else {
            return near.boxed();
        };
        let permits =
            (Arc::clone(&source.far).try_acquire_owned(), Arc::clone(&self.0.far).try_acquire_owned());
        let (Ok(of_blob), Ok(of_all)) = permits else {
            return near.boxed();
        };
        let mut near = near.peekable();
        let opening = self.0.registry.blob_range(&source.from, digest, part.offset, length);
        let caught_up = Pin::new(&mut near).peek();
        // Whichever comes first: the fill may be quicker than it looked.
        let opened = tokio::select! {
            opened = opening => opened,
            _ = caught_up => return near.boxed(),
        };
        match opened {
            Ok(far) => held_with(chunks(far), (of_blob, of_all)),
            Err(error) => {
                tracing::debug!(%digest, %error, "a part cannot be had by itself");
                near.boxed()
            }
        }
    }
}

/// What others reach `address` by.
fn advertised(advertise: Option<&str>, address: SocketAddr) -> io::Result<String> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what);
    let Some(advertise) = advertise else {
        return if address.ip().is_unspecified() {
            Err(invalid("fetcher.fills_advertise must say by which host others reach fetcher.fills_listen"))
        } else {
            Ok(address.to_string())
        };
    };
    let authority: Authority =
        advertise.parse().map_err(|_| invalid("fetcher.fills_advertise is not a host or host:port"))?;
    if authority.host().is_empty() || authority.as_str().contains('@') {
        return Err(invalid("fetcher.fills_advertise is not a host or host:port"));
    }
    let port = authority.port_u16().unwrap_or(address.port());
    Ok(format!("{}:{port}", authority.host()))
}

async fn give(
    State(fills): State<Fills>,
    Path((secret, digest)): Path<(String, String)>,
    Query(part): Query<Part>,
) -> Response {
    let digest = digest.parse::<Digest>().ok().filter(|_| fills.is_secret(&secret));
    let Some((digest, filling)) =
        digest.and_then(|digest| Some((digest.clone(), fills.0.blobs.filling(&digest)?)))
    else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if part.length == Some(0) {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let Ok(reader) = Arc::clone(&fills.0.readers).try_acquire_owned() else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let size = filling.size();
    let rest = match size.map(|size| size.checked_sub(part.offset)) {
        Some(None) => {
            return (StatusCode::RANGE_NOT_SATISFIABLE, [(SIZE, size.unwrap_or(0))]).into_response();
        }
        rest => rest.flatten(),
    };
    let length = rest.map(|rest| part.length.map_or(rest, |length| length.min(rest)));
    let part = Part { length: length.filter(|length| *length > 0).or(part.length), ..part };
    let bytes = fills.read(&digest, &filling, part).await;
    let mut response = Body::from_stream(held_with(bytes, reader)).into_response();
    let headers = response.headers_mut();
    if let (Some(size), Some(length)) = (size, length) {
        headers.insert(SIZE, size.into());
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    response
}

/// `bytes`, for as long as which `held` is held.
fn held_with<T: Send + 'static>(bytes: Bytestream, held: T) -> Bytestream {
    bytes.inspect(move |_| _ = &held).boxed()
}

/// The bytes of a part, as they come in.
fn chunks(part: BlobStream) -> Bytestream {
    let next = |mut part: BlobStream| async {
        match part.next().await? {
            Some(Chunk::Bytes(bytes)) => Ok(Some((bytes, part))),
            Some(Chunk::Restart) => Err(BoxError::from("a part of a blob began anew")),
            None => Ok(None),
        }
    };
    stream::try_unfold(part, next).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_reach_it_by_what_is_advertised() {
        let check = |advertise: Option<&str>, listen: &str, expected: Option<&str>| {
            let got = advertised(advertise, listen.parse().unwrap());
            assert_eq!(got.ok().as_deref(), expected, "{advertise:?} {listen}");
        };
        check(None, "127.0.0.1:7", Some("127.0.0.1:7"));
        check(None, "0.0.0.0:7", None);
        check(None, "[::]:7", None);
        check(Some("fetcher-0.fetcher"), "0.0.0.0:7", Some("fetcher-0.fetcher:7"));
        check(Some("10.0.0.1:80"), "0.0.0.0:7", Some("10.0.0.1:80"));
        check(Some("[fd00::1]"), "[::]:7", Some("[fd00::1]:7"));
        check(Some("me@host"), "0.0.0.0:7", None);
        check(Some("host/path"), "0.0.0.0:7", None);
        check(Some(""), "0.0.0.0:7", None);
    }
}
