//! The content of one entry on its way to who takes it.

use std::io::{self, Read};

use larder_oci::Digest;

use super::gathered::Gathered;
use super::saved::Part;
use super::stream::Watch;
use super::witness::{Spent, Witness};
use crate::ArchiveError;
use crate::compression::{Compression, MAGIC_BYTES};
use crate::error::shown;

/// Keeps apart who failed, the archive or who takes its content, and has a witness see it.
pub(super) struct Content<R> {
    inner: R,
    left: u64,
    /// How it begins, and how much of that was read once more.
    magic: Vec<u8>,
    magic_read: usize,
    witness: Witness,
    failure: Option<io::Error>,
}

impl<'a, 'b, R: Read> Content<&'b mut tar::Entry<'a, R>> {
    pub(super) fn of(
        entry: &'b mut tar::Entry<'a, R>,
        bytes_max: u64,
        what: &'static str,
        watch: &Watch,
    ) -> Result<Self, ArchiveError> {
        let left = entry.size();
        if left > bytes_max {
            return Err(ArchiveError::TooMuch { what, max: bytes_max });
        }
        let mut magic = Vec::with_capacity(MAGIC_BYTES);
        let begun = entry.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut magic);
        begun.map_err(|error| watch.fault(error))?;
        Ok(Self { inner: entry, left, magic, magic_read: 0, witness: Witness::Idle, failure: None })
    }
}

impl<R: Read> Content<R> {
    /// The bytes that are still to come.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Has it looked into while it is read, as far as that can matter.
    pub(super) fn witness(&mut self, gathered: &Gathered<'_>) {
        if gathered.may_be_saved() {
            self.witness = Witness::begin(&self.magic, self.left, gathered.limits, gathered.spent);
        }
    }

    /// What is known of it, once it was read and stored.
    pub(super) fn part(self, digest: Digest, size: u64, spent: &mut Spent) -> Part {
        let seen = self.witness.end(spent);
        Part { digest, size, compression: Compression::of(&self.magic), seen }
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
        let stored = stored.map_err(|source| ArchiveError::Store { name: shown(name), source })?;
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
        let mut begun = &self.magic[self.magic_read..];
        let read = match begun.read(buffer)? {
            0 => self.inner.read(buffer),
            count => {
                self.magic_read += count;
                Ok(count)
            }
        };
        let count = match read {
            Ok(0) => return Err(self.fail(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => return Err(self.fail(error)),
        };
        self.witness.see(&buffer[..count]);
        self.left -= count as u64;
        Ok(count)
    }
}
