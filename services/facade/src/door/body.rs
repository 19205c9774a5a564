//! Bodies, both ways.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use http_body::{Body as _, Frame, SizeHint};
use larder_provider::ProviderError;

use super::BodyError;

/// The body of a request or an answer: bytes at hand, or bytes on their way.
pub struct Body(Kind);

enum Kind {
    Full(Bytes),
    Content { left: u64, size: u64, content: BoxStream<'static, Result<Bytes, ProviderError>> },
    Open(BoxStream<'static, Result<Bytes, ProviderError>>),
    Boxed(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BodyError> + Send>>),
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Self(Kind::Full(Bytes::new()))
    }

    /// Bytes at hand.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self(Kind::Full(bytes.into()))
    }

    /// `size` bytes of `content`. Whoever reads gets an error, and never a clean end, when the content fails or has another size.
    pub fn from_content(size: u64, content: BoxStream<'static, Result<Bytes, ProviderError>>) -> Self {
        Self(Kind::Content { left: size, size, content })
    }

    /// All bytes of `content`, however many they are.
    pub fn from_open_content(content: BoxStream<'static, Result<Bytes, ProviderError>>) -> Self {
        Self(Kind::Open(content))
    }

    pub(super) fn boxed(
        body: impl http_body::Body<Data = Bytes, Error = BodyError> + Send + 'static,
    ) -> Self {
        Self(Kind::Boxed(Box::pin(body)))
    }

    /// The number of bytes to come, where it is known.
    pub fn size(&self) -> Option<u64> {
        http_body::Body::size_hint(self).exact()
    }

    /// All bytes to come, at most `bytes_max`.
    ///
    /// # Errors
    /// [`BodyError::TooLarge`], and those of the body.
    pub async fn read_all(mut self, bytes_max: usize) -> Result<Bytes, BodyError> {
        let too_large = || BodyError::TooLarge { bytes_max };
        if http_body::Body::size_hint(&self).lower() > bytes_max as u64 {
            return Err(too_large());
        }
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        while let Some(bytes) = self.next().await.transpose()? {
            if first.len() + all.len() + bytes.len() > bytes_max {
                return Err(too_large());
            }
            // Most bodies come in one piece, which needs no copy.
            if first.is_empty() && all.is_empty() {
                first = bytes;
                continue;
            }
            all.extend_from_slice(&std::mem::take(&mut first));
            all.extend_from_slice(&bytes);
        }
        Ok(if all.is_empty() { first } else { all.freeze() })
    }
}

impl Stream for Body {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match ready!(self.as_mut().poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => {
                    // Trailers say nothing that is asked for here.
                    if let Ok(bytes) = frame.into_data() {
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                }
            }
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = match &mut self.0 {
            Kind::Full(bytes) if bytes.is_empty() => None,
            Kind::Full(bytes) => Some(Ok(std::mem::take(bytes))),
            Kind::Content { left, size, content } => {
                let next = ready!(content.poll_next_unpin(cx));
                counted(next, left, *size)
            }
            Kind::Open(content) => {
                ready!(content.poll_next_unpin(cx)).map(|next| next.map_err(BodyError::Content))
            }
            Kind::Boxed(body) => return body.as_mut().poll_frame(cx),
        };
        Poll::Ready(polled.map(|next| next.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Full(bytes) => bytes.is_empty(),
            // Content says that it holds by its end, not by its last byte.
            Kind::Content { .. } | Kind::Open(_) => false,
            Kind::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Content { left, .. } => SizeHint::with_exact(*left),
            Kind::Open(_) => SizeHint::default(),
            Kind::Boxed(body) => body.size_hint(),
        }
    }
}

/// What comes next of content that is to have `size` bytes, of which `left` are to come.
fn counted(
    next: Option<Result<Bytes, ProviderError>>,
    left: &mut u64,
    size: u64,
) -> Option<Result<Bytes, BodyError>> {
    let Some(next) = next else {
        return (*left > 0).then_some(Err(BodyError::Size { size }));
    };
    let bytes = match next {
        Ok(bytes) => bytes,
        Err(error) => return Some(Err(BodyError::Content(error))),
    };
    let Some(rest) = left.checked_sub(bytes.len() as u64) else {
        return Some(Err(BodyError::Size { size }));
    };
    *left = rest;
    Some(Ok(bytes))
}
