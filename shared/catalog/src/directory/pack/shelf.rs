//! The pack's file, kept open, and where its first lines stand that every search comes by.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{damaged, name_of};
use crate::CatalogError;
use crate::directory::file::failed;
use crate::ledger::Record;

/// A range of the file that is read through rather than halved.
const RANGE_BYTES: usize = 8 * 1024;
/// What is read to see one line; most are shorter by far.
const LINE_BYTES_TYPICAL: usize = 1024;
/// Halves of which the first line is remembered; some hundred bytes each.
const HALVES_MAX: usize = 4096;

/// What tells a file from the one that took its place.
#[derive(PartialEq, Eq)]
struct Mark {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Mark {
    fn of(file: &Metadata) -> Self {
        Self { inode: file.ino(), size: file.len(), modified: (file.mtime(), file.mtime_nsec()) }
    }
}

pub(super) struct Shelf {
    file: File,
    path: PathBuf,
    mark: Mark,
    /// By where a half begins, where its first line starts and whose it is.
    halves: Mutex<HashMap<u64, (u64, String)>>,
}

impl Shelf {
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        let mark = Mark::of(&file.metadata()?);
        Ok(Self { file, path: path.to_owned(), mark, halves: Mutex::default() })
    }

    /// Whether `metadata` is of this file.
    pub(super) fn is(&self, metadata: &Metadata) -> bool {
        self.mark == Mark::of(metadata)
    }

    /// The records of `name`, oldest first.
    pub(super) fn find(&self, name: &str) -> Result<Vec<Record>, CatalogError> {
        // From `low` on, the first line is of `name` or of a later one, or `low` is before that line.
        let (mut low, mut high) = (0, self.mark.size);
        while high - low > RANGE_BYTES as u64 {
            let middle = u64::midpoint(low, high);
            match self.earlier(middle, name)? {
                Some(start) => low = start + 1,
                None => high = middle,
            }
        }
        let mut records = Vec::new();
        let mut lines = Lines::from(self, low, RANGE_BYTES + LINE_BYTES_TYPICAL)?;
        while let Some((_, line)) = lines.next()? {
            let found = name_of(line, &self.path)?;
            if found.as_ref() > name {
                break;
            }
            if found == name {
                records.push(serde_json::from_slice(line).map_err(|source| damaged(&self.path, source))?);
            }
        }
        Ok(records)
    }

    /// Where the first line from `middle` on starts, if it is of an earlier name than `name`.
    fn earlier(&self, middle: u64, name: &str) -> Result<Option<u64>, CatalogError> {
        let halves = || self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((start, first)) = halves().get(&middle) {
            return Ok((first.as_str() < name).then_some(*start));
        }
        let mut lines = Lines::from(self, middle, LINE_BYTES_TYPICAL)?;
        let Some((start, line)) = lines.next()? else {
            return Ok(None);
        };
        let first = name_of(line, &self.path)?;
        let earlier = (first.as_ref() < name).then_some(start);
        let mut halves = halves();
        if halves.len() < HALVES_MAX {
            halves.insert(middle, (start, first.into_owned()));
        }
        Ok(earlier)
    }
}

/// The lines that start at an offset or behind it.
struct Lines<'a> {
    shelf: &'a Shelf,
    /// Where in the file `bytes` start.
    begin: u64,
    bytes: Vec<u8>,
    next: usize,
    step_bytes: usize,
}

impl<'a> Lines<'a> {
    fn from(shelf: &'a Shelf, offset: u64, step_bytes: usize) -> Result<Self, CatalogError> {
        let begin = offset.saturating_sub(1);
        let mut lines = Self { shelf, begin, bytes: Vec::new(), next: 0, step_bytes };
        if offset > 0 {
            // The rest of the line before.
            lines.next()?;
        }
        Ok(lines)
    }

    /// The next line and where it starts.
    fn next(&mut self) -> Result<Option<(u64, &[u8])>, CatalogError> {
        let start = self.next;
        let mut seen = start;
        loop {
            if let Some(length) = self.bytes[seen..].iter().position(|&byte| byte == b'\n') {
                let end = seen + length;
                self.next = end + 1;
                return Ok(Some((self.begin + start as u64, &self.bytes[start..end])));
            }
            seen = self.bytes.len();
            self.bytes.resize(seen + self.step_bytes, 0);
            let read = self.shelf.file.read_at(&mut self.bytes[seen..], self.begin + seen as u64);
            let read = read.map_err(failed("read", &self.shelf.path))?;
            self.bytes.truncate(seen + read);
            if read == 0 {
                return Ok(None);
            }
        }
    }
}
