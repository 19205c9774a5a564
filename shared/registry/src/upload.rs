//! One upload session: where the bytes of a blob go, in one request or piece by piece.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use larder_oci::Descriptor;

use crate::answer::accept;
use crate::auth::Scope;
use crate::client::Client;
use crate::egress::{Order, Passage, Reply};
use crate::error::{Refusal, RegistryError};
use crate::feed::Feed;
use crate::traffic::Kind;
use crate::upstream::Upstream;

const CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");

/// Where an upload goes on, and as who.
pub(crate) struct Session {
    passage: Passage,
    upstream: Arc<Upstream>,
    scope: Scope,
    /// The least length in bytes of a piece but the last.
    pub(crate) piece_bytes_min: u64,
}

impl Session {
    /// The session that `reply` names.
    pub(crate) fn new(
        client: &Client,
        reply: &Reply,
        upstream: Arc<Upstream>,
        scope: Scope,
    ) -> Result<Self, RegistryError> {
        let location = reply.header(LOCATION);
        let location = location.ok_or_else(|| RegistryError::Protocol {
            host: reply.authority(),
            what: "it opens an upload but does not say where",
        })?;
        let passage = Passage::follow(reply, location, client.egress.exempt())?;
        let piece_bytes_min = reply.header(CHUNK_MIN_LENGTH).and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok(Self { passage, upstream, scope, piece_bytes_min })
    }

    /// Sends the whole blob and closes the session; whether the registry says that it has got this blob.
    pub(crate) async fn put(
        &self,
        client: &Client,
        blob: &Descriptor,
        feed: &Arc<Feed>,
    ) -> Result<bool, RegistryError> {
        let passage = self.passage.clone().with_query([("digest", blob.digest.as_str())]);
        let reply = self.send(client, &passage, Method::PUT, feed, blob.size).await?;
        client.confirmed(reply, &blob.digest).await
    }

    /// Sends the bytes from where `feed` stands up to `end`, and leaves the session open.
    ///
    /// # Errors
    /// [`RegistryError::Protocol`] when the registry says that it has not kept all of them, and all that keeps it from taking them.
    pub(crate) async fn patch(
        &mut self,
        client: &Client,
        feed: &Arc<Feed>,
        end: u64,
    ) -> Result<(), RegistryError> {
        let reply = self.send(client, &self.passage, Method::PATCH, feed, end).await?;
        let kept = last_byte(&reply).is_none_or(|last| last + 1 == end);
        let host = reply.authority();
        self.moved(client, reply).await?;
        let what = "it takes a piece of an upload but keeps less than all, or more";
        if kept { Ok(()) } else { Err(RegistryError::Protocol { host, what }) }
    }

    /// Closes the session, for the registry has all of `blob`; whether it says that this is what it has got.
    pub(crate) async fn close(&self, client: &Client, blob: &Descriptor) -> Result<bool, RegistryError> {
        let passage = self.passage.clone().with_query([("digest", blob.digest.as_str())]);
        let mut order = self.order(client, &passage, Method::PUT).await?;
        order.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let after = Duration::from_millis(client.config.commit_timeout_ms);
        let sent = tokio::time::timeout(after, client.egress.send(&passage, order)).await;
        let sent = sent.map_err(|_| RegistryError::TimedOut { host: passage.authority(), after })?;
        let reply = accepted(sent?, &passage, client).await?;
        client.confirmed(reply, &blob.digest).await
    }

    /// Asks how many bytes the registry has.
    pub(crate) async fn status(&mut self, client: &Client) -> Result<u64, RegistryError> {
        let order = self.order(client, &self.passage, Method::GET).await?;
        let reply = client.egress.send_in_time(&self.passage, order).await?;
        let reply = accepted(reply, &self.passage, client).await?;
        let last = last_byte(&reply).ok_or_else(|| RegistryError::Protocol {
            host: reply.authority(),
            what: "it does not say how much of an upload it has",
        })?;
        self.moved(client, reply).await?;
        // Of no byte and of one, all registries say the same.
        Ok(if last == 0 { 0 } else { last + 1 })
    }

    /// Tells the registry that nothing more will come. It would find out by itself, so a failure does not matter.
    pub(crate) async fn cancel(&self, client: &Client) {
        let cancelled = async {
            let order = self.order(client, &self.passage, Method::DELETE).await?;
            client.egress.send_in_time(&self.passage, order).await
        };
        match cancelled.await {
            Ok(reply) => reply.finish(&client.config).await,
            Err(error) => tracing::debug!(%error, "cannot cancel an upload"),
        }
    }

    /// Sends the bytes of `feed` up to `end`.
    async fn send(
        &self,
        client: &Client,
        passage: &Passage,
        method: Method,
        feed: &Arc<Feed>,
        end: u64,
    ) -> Result<Reply, RegistryError> {
        let start = feed.position();
        let mut order = self.order(client, passage, method).await?;
        order.headers.insert(CONTENT_LENGTH, HeaderValue::from(end - start));
        order.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        if order.method == Method::PATCH {
            let range = HeaderValue::try_from(format!("{start}-{}", end.saturating_sub(1)));
            order.headers.insert(CONTENT_RANGE, range.expect("digits and a dash are a header's value"));
        }
        order.body = Some(reqwest::Body::wrap_stream(feed.piece(end)));
        let sent = send_while_moving(client, passage, order, feed, end).await;
        // Our own failure to read reaches the connection as a failure to write.
        if let Some(source) = feed.failure() {
            return Err(RegistryError::Source { source });
        }
        accepted(sent?, passage, client).await
    }

    /// Goes on where `reply` says.
    async fn moved(&mut self, client: &Client, reply: Reply) -> Result<(), RegistryError> {
        if let Some(location) = reply.header(LOCATION) {
            self.passage = Passage::follow(&reply, location, client.egress.exempt())?;
        }
        reply.finish(&client.config).await;
        Ok(())
    }

    async fn order(
        &self,
        client: &Client,
        passage: &Passage,
        method: Method,
    ) -> Result<Order, RegistryError> {
        // A token may end while an upload goes on, so it is asked for each time.
        let authorization = if passage.is_trusted() {
            client.offer(self.upstream.origin(), &self.scope).await?
        } else {
            None
        };
        Ok(Order { kind: Kind::Push, method, headers: HeaderMap::new(), authorization, body: None })
    }
}

async fn accepted(reply: Reply, passage: &Passage, client: &Client) -> Result<Reply, RegistryError> {
    if reply.status().is_redirection() {
        return Err(passage.refused(Refusal::Write));
    }
    accept(reply, "the upload session", &client.config).await
}

/// The last byte that the registry says it has, counted from 0.
fn last_byte(reply: &Reply) -> Option<u64> {
    let range = reply.header(RANGE)?;
    let (first, last) = range.strip_prefix("bytes=").unwrap_or(range).split_once('-')?;
    (first == "0").then(|| last.parse().ok())?.filter(|last| *last < u64::MAX)
}

/// Sends `order` with no deadline but that something moves, and that the registry answers once all up to `end` is sent.
async fn send_while_moving(
    client: &Client,
    passage: &Passage,
    order: Order,
    feed: &Feed,
    end: u64,
) -> Result<Reply, RegistryError> {
    let mut sending = std::pin::pin!(client.egress.send(passage, order));
    loop {
        let before = feed.position();
        let after = if before < end {
            client.config.read_timeout()
        } else {
            Duration::from_millis(client.config.commit_timeout_ms)
        };
        match tokio::time::timeout(after, &mut sending).await {
            Ok(sent) => return sent,
            Err(_) if feed.position() > before => {}
            Err(_) => {
                let host = passage.authority();
                return Err(RegistryError::TimedOut { host, after });
            }
        }
    }
}
