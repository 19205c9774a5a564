//! The bytes of a blob as they go out, counted.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::{self, BoxStream, Fuse, Stream, StreamExt as _, TryStreamExt as _};

use crate::client::Client;

/// The bytes of a blob to push.
pub type Content = BoxStream<'static, Result<Bytes, io::Error>>;

/// The content of a blob from an offset on, given out piece by piece; fails unless it ends where the blob does.
pub(crate) struct Feed {
    client: Client,
    size: u64,
    /// Where in the blob the next byte stands.
    position: AtomicU64,
    failure: Mutex<Option<io::Error>>,
    source: tokio::sync::Mutex<Source>,
}

struct Source {
    content: Fuse<Content>,
    /// What of the last frame belongs to the next piece.
    rest: Bytes,
}

impl Feed {
    /// The blob of `size` bytes whose bytes from `offset` on are `content`.
    pub(crate) fn new(client: &Client, size: u64, offset: u64, content: Content) -> Arc<Self> {
        let source = Source { content: content.fuse(), rest: Bytes::new() };
        Arc::new(Self {
            client: client.clone(),
            size,
            position: AtomicU64::new(offset),
            failure: Mutex::default(),
            source: tokio::sync::Mutex::new(source),
        })
    }

    /// How far into the blob all has been given out.
    pub(crate) fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    /// Why the content could not be read, if that is what broke the connection.
    pub(crate) fn failure(&self) -> Option<io::Error> {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.take()
    }

    /// The bytes up to `end`.
    pub(crate) fn piece(
        self: &Arc<Self>,
        end: u64,
    ) -> impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static {
        stream::try_unfold(Arc::clone(self), move |feed| async move {
            match feed.next(end).await {
                Ok(frame) => Ok(frame.map(|bytes| (bytes, feed))),
                Err(error) => Err(feed.fail(error)),
            }
        })
    }

    async fn next(&self, end: u64) -> Result<Option<Bytes>, io::Error> {
        let position = self.position();
        if position == end {
            return Ok(None);
        }
        let mut source = self.source.lock().await;
        let Some(mut frame) = source.frame().await? else {
            return Err(self.wrong_size(position));
        };
        let left = usize::try_from(end - position).unwrap_or(usize::MAX);
        if frame.len() > left {
            source.rest = frame.split_off(left);
        }
        let position = position + frame.len() as u64;
        // The connection takes no more than it was promised, so what is too much shows only to who looks for it.
        if position == self.size
            && let Some(more) = source.frame().await?
        {
            return Err(self.wrong_size(position + more.len() as u64));
        }
        self.position.store(position, Ordering::Relaxed);
        self.client.traffic().sent(frame.len());
        Ok(Some(frame))
    }

    fn wrong_size(&self, got: u64) -> io::Error {
        let what = format!("content of {got} bytes instead of {}", self.size);
        io::Error::new(io::ErrorKind::InvalidData, what)
    }

    /// Keeps `error` for us, and makes another for the connection.
    fn fail(&self, error: io::Error) -> io::Error {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        *failure = Some(error);
        io::ErrorKind::BrokenPipe.into()
    }
}

impl Source {
    /// The next frame that is not empty.
    async fn frame(&mut self) -> Result<Option<Bytes>, io::Error> {
        let mut frame = std::mem::take(&mut self.rest);
        while frame.is_empty() {
            match self.content.try_next().await? {
                Some(next) => frame = next,
                None => return Ok(None),
            }
        }
        Ok(Some(frame))
    }
}
