//! The inflated bytes of a layer, bounded by what is stored.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use super::{FlattenLimits, Layer, Layers};
use crate::ArchiveError;
use crate::compression::Compression;

/// The bytes handed on at once.
const CHUNK_BYTES: usize = 512 << 10;

/// Bytes that come in pieces.
pub(super) trait Chunks {
    /// Replaces the content of `chunk` by the next bytes; none at the end.
    fn next(&mut self, chunk: &mut Vec<u8>) -> Result<(), ArchiveError>;
}

/// A layer being inflated. Its end is reached only when the end of the stored bytes is.
pub(super) struct Inflate<'a> {
    layer: &'a Layer,
    limits: &'a FlattenLimits,
    decoder: Box<dyn Read>,
    stored_bytes: Rc<Cell<u64>>,
    inflated_bytes: u64,
}

impl<'a> Inflate<'a> {
    pub(super) fn open(
        layer: &'a Layer,
        source: &dyn Layers,
        limits: &'a FlattenLimits,
    ) -> Result<Self, ArchiveError> {
        let failed = |source| ArchiveError::Read { layer: layer.digest.clone(), source };
        let stored = source.open(layer).map_err(failed)?;
        let stored_bytes = Rc::default();
        let counted = Counted { inner: stored, bytes: Rc::clone(&stored_bytes) };
        let (_, decoder) = Compression::inflate(counted, limits.zstd_window_bytes_max).map_err(failed)?;
        Ok(Self { layer, limits, decoder, stored_bytes, inflated_bytes: 0 })
    }
}

impl Chunks for Inflate<'_> {
    fn next(&mut self, chunk: &mut Vec<u8>) -> Result<(), ArchiveError> {
        chunk.resize(CHUNK_BYTES, 0);
        let mut filled = 0;
        while filled < CHUNK_BYTES {
            match self.decoder.read(&mut chunk[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ArchiveError::Read { layer: self.layer.digest.clone(), source }),
            }
        }
        chunk.truncate(filled);
        self.inflated_bytes += filled as u64;
        let by_ratio = self.stored_bytes.get().saturating_mul(self.limits.ratio_max);
        if self.inflated_bytes > by_ratio.max(self.limits.ratio_floor_bytes) {
            return Err(ArchiveError::Ratio {
                layer: self.layer.digest.clone(),
                ratio_max: self.limits.ratio_max,
            });
        }
        Ok(())
    }
}

struct Counted {
    inner: Box<dyn Read + Send>,
    bytes: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes.set(self.bytes.get() + count as u64);
        Ok(count)
    }
}
