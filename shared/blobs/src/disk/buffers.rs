//! Memory that files are read into, used again once nobody holds what was read.
//!
//! Given back to the allocator each time, it would come from there as fresh pages, which cost more than the reading.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::content::CHUNK_BYTES;

/// Buffers that are kept although nobody needs them: 24 MiB, what 32 streams need. The allocator would keep more of them, in pieces.
const IDLE_MAX: usize = 96;

#[derive(Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Box<[u8]>>>>);

/// One buffer of [`CHUNK_BYTES`], which goes back when it is dropped.
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    length: usize,
    home: Buffers,
}

impl Buffers {
    pub(super) fn take(&self) -> Buffer {
        let idle = self.idle().pop();
        let bytes = idle.unwrap_or_else(|| vec![0; CHUNK_BYTES].into());
        Buffer { bytes, length: 0, home: self.clone() }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Box<[u8]>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    pub(super) fn whole(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// The first `length` bytes; the buffer goes back with the last of their holders.
    pub(super) fn into_bytes(mut self, length: usize) -> Bytes {
        self.length = length;
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut idle = self.home.idle();
        if idle.len() < IDLE_MAX {
            idle.push(mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffer_comes_back_and_few_are_kept() {
        let buffers = Buffers::default();
        let mut all: Vec<_> = (0..IDLE_MAX + 5).map(|_| buffers.take().into_bytes(3)).collect();
        let kept = all[0].slice(1..2);
        all.clear();
        assert_eq!(buffers.idle().len(), IDLE_MAX);
        drop((kept, buffers.take()));
        assert_eq!(buffers.idle().len(), IDLE_MAX);
    }
}
