//! The inflated bytes of a layer, bounded by what is stored.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use super::{FlattenLimits, Layer, Layers};
use crate::ArchiveError;
use crate::compression::{Compression, Counted};

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
        let stored = Counted::new(source.open(layer).map_err(failed)?);
        let stored_bytes = stored.count();
        let (_, decoder) = Compression::inflate(stored, limits.zstd_window_bytes_max).map_err(failed)?;
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
        let growth = self.limits.growth();
        if growth.allows(self.stored_bytes.get(), self.inflated_bytes) {
            return Ok(());
        }
        Err(ArchiveError::Ratio { layer: self.layer.digest.clone(), ratio_max: growth.ratio_max })
    }
}
