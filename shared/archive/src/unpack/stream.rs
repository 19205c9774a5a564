//! The inflated archive, and what was seen of it.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::rc::Rc;

use super::UnpackLimits;
use crate::ArchiveError;
use crate::compression::{Compression, Counted, MAGIC_BYTES};
use crate::error::shown;

/// A header, its padding and that of the content before are read whatever the limit.
const HEADER_BYTES_MIN: u64 = 2048;

/// The archive as `tar` reads it: that holds the names of an entry in memory, however long they call themselves, so it gets no
/// more bytes than its headers may have.
pub(super) struct Stream<'a> {
    inner: Box<dyn Read + 'a>,
    watch: Rc<Watch>,
}

/// What was seen of a stream by now.
pub(super) struct Watch {
    limits: UnpackLimits,
    compression: Cell<Compression>,
    /// How the inflated archive begins.
    magic: RefCell<Vec<u8>>,
    /// The entry that was come to last, as messages name it.
    name: RefCell<String>,
    stored_bytes: Rc<Cell<u64>>,
    inflated_bytes: Cell<u64>,
    /// How many bytes may still be read.
    budget_bytes: Cell<u64>,
    has_ended: Cell<bool>,
    /// Whether it was the stream that failed, and not what it holds.
    has_failed: Cell<bool>,
    entries: Cell<u64>,
}

impl<'a> Stream<'a> {
    pub(super) fn open(stream: impl Read + 'a, limits: &UnpackLimits) -> Result<Self, ArchiveError> {
        let stored = Counted::new(stream);
        let watch = Rc::new(Watch {
            limits: limits.clone(),
            compression: Cell::new(Compression::None),
            magic: RefCell::default(),
            name: RefCell::default(),
            stored_bytes: stored.count(),
            inflated_bytes: Cell::new(0),
            budget_bytes: Cell::new(u64::MAX),
            has_ended: Cell::new(false),
            has_failed: Cell::new(false),
            entries: Cell::new(0),
        });
        let opened = Compression::inflate(stored, limits.zstd_window_bytes_max);
        let (compression, inner) = opened.map_err(|error| watch.fault(error))?;
        watch.compression.set(compression);
        Ok(Self { inner, watch })
    }

    pub(super) fn watch(&self) -> Rc<Watch> {
        Rc::clone(&self.watch)
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let watch = &self.watch;
        let budget = watch.budget_bytes.get();
        if budget == 0 && !buffer.is_empty() {
            let max = watch.limits.header_bytes_max;
            return Err(io::Error::other(ArchiveError::TooMuch { what: "bytes of one header", max }));
        }
        let length = usize::try_from(budget).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.inner.read(&mut buffer[..length]);
        watch.has_failed.set(read.is_err());
        let count = read?;
        watch.begin(&buffer[..count]);
        watch.has_ended.set(count == 0 && length > 0);
        watch.take(count as u64)?;
        Ok(count)
    }
}

impl Watch {
    /// Moves on to the next entry, behind what was left of the last one's padding.
    pub(super) fn next_entry<'a, R: Read>(
        &self,
        entries: &mut tar::Entries<'a, R>,
    ) -> Result<Option<tar::Entry<'a, R>>, ArchiveError> {
        self.budget_bytes.set(self.limits.header_bytes_max.saturating_add(HEADER_BYTES_MIN));
        let entry = entries.next().transpose().map_err(|error| self.header_fault(error))?;
        self.budget_bytes.set(u64::MAX);
        self.entries.set(self.entries.get() + 1);
        if let Some(entry) = &entry {
            *self.name.borrow_mut() = shown(&String::from_utf8_lossy(&entry.path_bytes()));
        }
        if entry.is_some() && self.entries.get() > self.limits.entries_max {
            return Err(ArchiveError::TooMuch { what: "entries", max: self.limits.entries_max });
        }
        Ok(entry)
    }

    /// Refuses an archive whose end is not marked: who knows what else it was to hold.
    pub(super) fn expect_end(&self) -> Result<(), ArchiveError> {
        let source = io::ErrorKind::UnexpectedEof.into();
        if self.has_ended.get() { Err(ArchiveError::Truncated { source }) } else { Ok(()) }
    }

    /// What is wrong, when reading failed so.
    pub(super) fn fault(&self, error: io::Error) -> ArchiveError {
        match error.downcast::<ArchiveError>() {
            Ok(own) => own,
            Err(source) if self.has_ended.get() || source.kind() == io::ErrorKind::UnexpectedEof => {
                ArchiveError::Truncated { source }
            }
            Err(source) => ArchiveError::Unreadable { source },
        }
    }

    /// What is wrong, when reading the entry at hand failed so.
    pub(super) fn within(&self, error: ArchiveError) -> ArchiveError {
        error.within(&self.name.borrow())
    }

    /// What is wrong, when there is no next header. What `tar` says of one may quote it, so that is left out.
    fn header_fault(&self, error: io::Error) -> ArchiveError {
        let is_first = self.entries.get() == 0;
        let is_content = !self.has_failed.get();
        if is_first
            && is_content
            && let Some(what) = self.foreign()
        {
            return ArchiveError::Compression { what };
        }
        match self.fault(error) {
            ArchiveError::Unreadable { .. } if is_first && is_content => ArchiveError::NotTar,
            ArchiveError::Unreadable { .. } if is_content => {
                ArchiveError::Header { behind: self.name.borrow().clone() }
            }
            fault => fault,
        }
    }

    /// What the inflated archive seems to be compressed with.
    fn foreign(&self) -> Option<&'static str> {
        match Compression::of(&self.magic.borrow()) {
            Compression::None => None,
            _ if self.compression.get().is_inflated() => Some("double compression"),
            Compression::Foreign(what) => Some(what),
            Compression::Gzip | Compression::Zstd => None,
        }
    }

    fn begin(&self, bytes: &[u8]) {
        let mut magic = self.magic.borrow_mut();
        let missing = (MAGIC_BYTES - magic.len()).min(bytes.len());
        magic.extend_from_slice(&bytes[..missing]);
    }

    fn take(&self, count: u64) -> io::Result<()> {
        if self.budget_bytes.get() != u64::MAX {
            self.budget_bytes.set(self.budget_bytes.get() - count);
        }
        self.inflated_bytes.set(self.inflated_bytes.get() + count);
        let growth = self.limits.growth();
        let is_allowed = growth.allows(self.stored_bytes.get(), self.inflated_bytes.get());
        if self.compression.get().is_inflated() && !is_allowed {
            return Err(io::Error::other(ArchiveError::Bomb { ratio_max: growth.ratio_max }));
        }
        Ok(())
    }
}
