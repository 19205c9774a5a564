//! Inflates the layers ahead of their consumer, on a thread of its own.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::Scope;

use larder_oci::{Digest, Digester};

use super::inflate::{Chunks, Inflate};
use super::{FlattenLimits, Layer, Layers};
use crate::ArchiveError;

const CHUNKS_AHEAD_MAX: usize = 8;

/// The inflated layers, one after the other, hashed as they are consumed.
pub(super) struct Ahead {
    full: Receiver<Result<Vec<u8>, ArchiveError>>,
    spent: Sender<Vec<u8>>,
    digester: Option<Digester>,
}

impl Ahead {
    /// Starts to inflate; dropping what is returned stops it.
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        layers: &'scope [Layer],
        source: &'scope dyn Layers,
        limits: &'scope FlattenLimits,
    ) -> Self {
        let (full_in, full) = sync_channel(CHUNKS_AHEAD_MAX);
        // Not bounded by itself: it holds only what came through the bounded one.
        let (spent, spent_out) = channel();
        scope.spawn(move || {
            for layer in layers {
                if let Err(error) = inflate(layer, source, limits, &full_in, &spent_out) {
                    // A consumer that is gone does not want to know.
                    let _ = full_in.send(Err(error));
                    return;
                }
            }
        });
        Self { full, spent, digester: None }
    }

    /// Begins the next layer.
    pub(super) fn begin(&mut self, diff_id: Option<&Digest>) {
        self.digester = diff_id.map(|digest| Digester::new(digest.algorithm()));
    }

    /// Ends `layer`, of which all bytes have been consumed.
    pub(super) fn end(&mut self, layer: &Layer) -> Result<(), ArchiveError> {
        let got = self.digester.take().map(Digester::finish);
        match (&layer.diff_id, got) {
            (Some(want), Some(got)) if *want != got => {
                Err(ArchiveError::DiffId { layer: layer.digest.clone(), want: want.clone(), got })
            }
            _ => Ok(()),
        }
    }
}

/// Sends the chunks of `layer`, the last one empty.
fn inflate(
    layer: &Layer,
    source: &dyn Layers,
    limits: &FlattenLimits,
    full: &SyncSender<Result<Vec<u8>, ArchiveError>>,
    spent: &Receiver<Vec<u8>>,
) -> Result<(), ArchiveError> {
    let mut inflated = Inflate::open(layer, source, limits)?;
    loop {
        let mut chunk = spent.try_recv().unwrap_or_default();
        inflated.next(&mut chunk)?;
        let last = chunk.is_empty();
        if full.send(Ok(chunk)).is_err() || last {
            return Ok(());
        }
    }
}

impl Chunks for &mut Ahead {
    fn next(&mut self, chunk: &mut Vec<u8>) -> Result<(), ArchiveError> {
        // The thread ends without a word only by a panic, which the scope passes on.
        let next = self.full.recv().unwrap_or_else(|_| Ok(Vec::new()))?;
        let spent = std::mem::replace(chunk, next);
        // The thread may have ended: then nobody needs the buffer.
        let _ = self.spent.send(spent);
        if let Some(digester) = &mut self.digester {
            digester.update(chunk);
        }
        Ok(())
    }
}
