//! One upload session: the bytes of a blob on their way to a registry.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, Fuse, Stream, StreamExt as _, TryStreamExt as _};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Method};
use larder_oci::Descriptor;

use crate::answer::refuse;
use crate::auth::Authorization;
use crate::client::Client;
use crate::egress::{Order, Passage, Reply};
use crate::error::{Refusal, RegistryError};
use crate::traffic::Kind;

/// The bytes of a blob to push.
pub type Content = BoxStream<'static, Result<Bytes, io::Error>>;

/// Where an upload goes on, and what to show there.
pub(crate) struct Session {
    passage: Passage,
    authorization: Option<Authorization>,
}

impl Session {
    /// The session that `reply` names.
    pub(crate) fn new(
        client: &Client,
        reply: &Reply,
        authorization: Option<Authorization>,
    ) -> Result<Self, RegistryError> {
        let location = reply.header(LOCATION);
        let location = location.ok_or_else(|| RegistryError::Protocol {
            host: reply.authority(),
            what: "it opens an upload but does not say where",
        })?;
        let passage = Passage::follow(reply, location, client.egress.exempt())?;
        let authorization = authorization.filter(|_| passage.is_trusted());
        Ok(Self { passage, authorization })
    }

    /// Sends the whole blob and closes the session.
    pub(crate) async fn put(
        &self,
        client: &Client,
        blob: &Descriptor,
        content: Content,
    ) -> Result<(), RegistryError> {
        let digest = [("digest", blob.digest.as_str())];
        let passage = self.passage.clone().with_query(digest);
        let meter = Arc::new(Meter::new(client, blob.size));
        let mut order = self.order(Method::PUT);
        order.headers = HeaderMap::from_iter([
            (CONTENT_LENGTH, HeaderValue::from(blob.size)),
            (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        ]);
        order.body = Some(reqwest::Body::wrap_stream(metered(content, Arc::clone(&meter))));
        let sent = send_while_moving(client, &passage, order, &meter).await;
        // Our own failure to read reaches the connection as a failure to write.
        if let Some(source) = meter.failure() {
            return Err(RegistryError::Source { source });
        }
        let reply = sent?;
        if reply.status().is_redirection() {
            return Err(passage.refused(Refusal::Write));
        }
        if !reply.status().is_success() {
            return Err(refuse(reply, "the upload session", &client.config).await);
        }
        reply.finish(&client.config).await;
        Ok(())
    }

    /// Tells the registry that nothing more will come. It would find out by itself, so a failure does not matter.
    pub(crate) async fn cancel(&self, client: &Client) {
        let order = self.order(Method::DELETE);
        match client.egress.send_in_time(&self.passage, order).await {
            Ok(reply) => reply.finish(&client.config).await,
            Err(error) => tracing::debug!(%error, "cannot cancel an upload"),
        }
    }

    fn order(&self, method: Method) -> Order {
        Order {
            kind: Kind::Push,
            method,
            headers: HeaderMap::new(),
            authorization: self.authorization.clone(),
            body: None,
        }
    }
}

/// Sends `order` with no deadline but that something moves, and that the registry answers once all is sent.
async fn send_while_moving(
    client: &Client,
    passage: &Passage,
    order: Order,
    meter: &Meter,
) -> Result<Reply, RegistryError> {
    let mut sending = std::pin::pin!(client.egress.send(passage, order));
    loop {
        let before = meter.sent();
        let after = if before < meter.size {
            client.config.read_timeout()
        } else {
            Duration::from_millis(client.config.commit_timeout_ms)
        };
        match tokio::time::timeout(after, &mut sending).await {
            Ok(sent) => return sent,
            Err(_) if meter.sent() > before => {}
            Err(_) => {
                let host = passage.authority();
                return Err(RegistryError::TimedOut { host, after });
            }
        }
    }
}

/// What has gone out of one blob.
struct Meter {
    client: Client,
    size: u64,
    sent: AtomicU64,
    failure: Mutex<Option<io::Error>>,
}

impl Meter {
    fn new(client: &Client, size: u64) -> Self {
        Self { client: client.clone(), size, sent: AtomicU64::new(0), failure: Mutex::default() }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn failure(&self) -> Option<io::Error> {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.take()
    }

    /// Keeps `error` for us, and makes another for the connection.
    fn fail(&self, error: io::Error) -> io::Error {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        *failure = Some(error);
        io::ErrorKind::BrokenPipe.into()
    }

    fn count(&self, frame: Option<&Bytes>) -> Result<(), io::Error> {
        let sent = self.sent() + frame.map_or(0, |bytes| bytes.len() as u64);
        let is_end = frame.is_none();
        if sent > self.size || (is_end && sent < self.size) {
            let what = format!("content of {sent} bytes instead of {}", self.size);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        self.sent.store(sent, Ordering::Relaxed);
        self.client.traffic().sent(frame.map_or(0, Bytes::len));
        Ok(())
    }
}

/// Passes `content` on while `meter` counts it; fails unless it has exactly the promised size.
fn metered(
    content: Content,
    meter: Arc<Meter>,
) -> impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static {
    let start = (content.fuse(), meter);
    stream::try_unfold(start, |(mut content, meter)| async move {
        match next(&mut content, &meter).await {
            Ok(frame) => Ok(frame.map(|bytes| (bytes, (content, meter)))),
            Err(error) => Err(meter.fail(error)),
        }
    })
}

async fn next(content: &mut Fuse<Content>, meter: &Meter) -> Result<Option<Bytes>, io::Error> {
    let frame = content.try_next().await?;
    meter.count(frame.as_ref())?;
    // The connection takes no more than it was promised, so what is too much shows only to who looks for it.
    while frame.is_some() && meter.sent() == meter.size {
        match content.try_next().await? {
            Some(more) => meter.count(Some(&more))?,
            None => break,
        }
    }
    Ok(frame)
}
