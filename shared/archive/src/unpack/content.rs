//! The content of one entry on its way to who takes it.

use std::io::{self, Read};

use super::stream::Watch;
use crate::ArchiveError;
use crate::compression::{Compression, MAGIC_BYTES};

/// Keeps apart who failed, the archive or who takes its content, and remembers how the content begins.
pub(super) struct Content<R> {
    inner: R,
    left: u64,
    magic: Vec<u8>,
    failure: Option<io::Error>,
}

impl<'a, 'b, R: Read> Content<&'b mut tar::Entry<'a, R>> {
    pub(super) fn of(
        entry: &'b mut tar::Entry<'a, R>,
        bytes_max: u64,
        what: &'static str,
    ) -> Result<Self, ArchiveError> {
        let left = entry.size();
        if left > bytes_max {
            return Err(ArchiveError::TooMuch { what, max: bytes_max });
        }
        Ok(Self { inner: entry, left, magic: Vec::with_capacity(MAGIC_BYTES), failure: None })
    }
}

impl<R: Read> Content<R> {
    /// The bytes that are still to come.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// What it is compressed with, once it was read.
    pub(super) fn compression(&self) -> Compression {
        Compression::of(&self.magic)
    }

    pub(super) fn whole(&mut self, watch: &Watch) -> Result<Vec<u8>, ArchiveError> {
        let mut whole = Vec::new();
        self.read_to_end(&mut whole).map(|_| whole).map_err(|error| self.fault(error, watch))
    }

    /// Has `put` take the content.
    pub(super) fn store<T>(
        &mut self,
        name: &str,
        watch: &Watch,
        put: impl FnOnce(&mut Self) -> io::Result<T>,
    ) -> Result<T, ArchiveError> {
        let stored = put(self);
        if let Some(failure) = self.failure.take() {
            return Err(watch.fault(failure));
        }
        let stored = stored.map_err(|source| ArchiveError::Store { name: name.to_owned(), source })?;
        io::copy(self, &mut io::sink()).map_err(|error| self.fault(error, watch))?;
        Ok(stored)
    }

    fn fault(&mut self, shown: io::Error, watch: &Watch) -> ArchiveError {
        watch.fault(self.failure.take().unwrap_or(shown))
    }

    fn fail(&mut self, failure: io::Error) -> io::Error {
        let shown = io::Error::new(failure.kind(), "the archive cannot be read further");
        self.failure.get_or_insert(failure);
        shown
    }
}

impl<R: Read> Read for Content<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let count = match self.inner.read(buffer) {
            Ok(0) => return Err(self.fail(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => return Err(self.fail(error)),
        };
        let missing = (MAGIC_BYTES - self.magic.len()).min(count);
        self.magic.extend_from_slice(&buffer[..missing]);
        self.left -= count as u64;
        Ok(count)
    }
}
