//! From a blocking writer to a stream that ends cleanly only when the writer has said that all is written.

use std::io::{self, Write};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use larder_provider::{ByteStream, ProviderError};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::error::blob_error;

/// What is collected before it is passed on.
const CHUNK_BYTES: usize = 1 << 20;
/// Chunks on their way between writer and reader.
const CHUNKS_IN_FLIGHT_MAX: usize = 4;

enum Piece {
    Chunk(Bytes),
    Failed(ProviderError),
    End,
}

/// The writing end.
pub(crate) struct Pipe {
    sender: Sender<Piece>,
    collected: BytesMut,
}

impl Pipe {
    fn pass(&mut self, piece: Piece) -> io::Result<()> {
        self.sender.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK_BYTES - self.collected.len());
        self.collected.extend_from_slice(&bytes[..taken]);
        if self.collected.len() == CHUNK_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.collected.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.collected, BytesMut::with_capacity(CHUNK_BYTES));
        self.pass(Piece::Chunk(chunk.freeze()))
    }
}

/// Runs `write` on a blocking thread, and gives what it writes. What it has not flushed when it fails is never seen.
pub(crate) fn stream(
    write: impl FnOnce(&mut Pipe) -> Result<(), ProviderError> + Send + 'static,
) -> ByteStream {
    let (sender, receiver) = channel(CHUNKS_IN_FLIGHT_MAX);
    tokio::task::spawn_blocking(move || {
        let mut pipe = Pipe { sender, collected: BytesMut::with_capacity(CHUNK_BYTES) };
        let written = write(&mut pipe).and_then(|()| pipe.flush().map_err(|error| write_error(&error)));
        let last = match written {
            Ok(()) => Piece::End,
            Err(error) => Piece::Failed(error),
        };
        // A reader that has left hears nothing.
        let _ = pipe.pass(last);
    });
    futures::stream::unfold(Some(receiver), next).boxed()
}

type Step = (Result<Bytes, ProviderError>, Option<Receiver<Piece>>);

async fn next(receiver: Option<Receiver<Piece>>) -> Option<Step> {
    let mut receiver = receiver?;
    match receiver.recv().await {
        Some(Piece::Chunk(bytes)) => Some((Ok(bytes), Some(receiver))),
        Some(Piece::Failed(error)) => Some((Err(error), None)),
        Some(Piece::End) => None,
        None => Some((Err(ProviderError::Unavailable("interrupted".to_owned())), None)),
    }
}

/// What came out of the store wrong is told apart from what could not be written.
pub(crate) fn write_error(error: &io::Error) -> ProviderError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<larder_blobs::BlobError>()) {
        Some(inner) => blob_error(inner),
        None => ProviderError::Storage(format!("cannot write the archive: {error}")),
    }
}
