//! The records of names that were adopted, in one file: `ledger/pack`, a record a line, ordered by name and sequence.
//!
//! A directory of another tool can come with very many names at once, and a file for each would cost more than they are worth.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::file::{Replacement, failed, found};
use crate::CatalogError;
use crate::ledger::Record;

const READ_BYTES: usize = 2 * 1024;

pub(super) struct Pack {
    folder: PathBuf,
    path: PathBuf,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

impl Pack {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), path: folder.join("pack") }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.path.exists()
    }

    /// The records of `name`, oldest first.
    pub(super) fn find(&self, name: &str) -> Result<Vec<Record>, CatalogError> {
        let Some(file) = self.open()? else {
            return Ok(Vec::new());
        };
        let mut lines = Lines { file, path: &self.path, buffer: Vec::new() };
        let end = lines.file.metadata().map_err(failed("look at", &self.path))?.len();
        // From `low` on, the first line is of `name` or of a later one.
        let (mut low, mut high) = (0, end);
        while low < high {
            let middle = u64::midpoint(low, high);
            match lines.first_from(middle)? {
                Some((start, line)) if self.name_of(line)?.as_ref() < name => low = start + 1,
                _ => high = middle,
            }
        }
        let mut records = Vec::new();
        while let Some((start, line)) = lines.first_from(low)? {
            if self.name_of(line)? != name {
                break;
            }
            records.push(serde_json::from_slice(line).map_err(|source| self.damaged(source))?);
            low = start + 1;
        }
        Ok(records)
    }

    /// Gives each name once.
    pub(super) fn each_name(
        &self,
        mut give: impl FnMut(&str) -> Result<(), CatalogError>,
    ) -> Result<(), CatalogError> {
        let mut old = Old::open(self)?;
        let mut last = String::new();
        while let Some(name) = old.name(self)? {
            if *name != last {
                give(&name)?;
                last = name.into_owned();
            }
            old.advance(self)?;
        }
        Ok(())
    }

    /// Begins to add records, in the order of their names.
    pub(super) fn extend(&self) -> Extension<'_> {
        Extension { pack: self, state: None }
    }

    fn open(&self) -> Result<Option<File>, CatalogError> {
        found(File::open(&self.path)).map_err(failed("open", &self.path))
    }

    fn name_of<'a>(&self, line: &'a [u8]) -> Result<Cow<'a, str>, CatalogError> {
        let named: Named<'a> = serde_json::from_slice(line).map_err(|source| self.damaged(source))?;
        Ok(named.name)
    }

    fn damaged(&self, source: serde_json::Error) -> CatalogError {
        CatalogError::Record { key: self.path.display().to_string(), source }
    }
}

/// Lines by their place in a file.
struct Lines<'a> {
    file: File,
    path: &'a Path,
    buffer: Vec<u8>,
}

impl Lines<'_> {
    /// The first line that starts at `offset` or behind it, and where it starts.
    fn first_from(&mut self, offset: u64) -> Result<Option<(u64, &[u8])>, CatalogError> {
        let begin = offset.saturating_sub(1);
        self.buffer.clear();
        loop {
            let start = match offset {
                0 => Some(0),
                _ => line_break(&self.buffer).map(|end| end + 1),
            };
            let line = start.and_then(|start| Some((start, start + line_break(&self.buffer[start..])?)));
            if let Some((start, end)) = line {
                return Ok(Some((begin + start as u64, &self.buffer[start..end])));
            }
            let known = self.buffer.len();
            self.buffer.resize(known + READ_BYTES, 0);
            let read = self.file.read_at(&mut self.buffer[known..], begin + known as u64);
            let read = read.map_err(failed("read", self.path))?;
            self.buffer.truncate(known + read);
            if read == 0 {
                return Ok(None);
            }
        }
    }
}

fn line_break(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|&byte| byte == b'\n')
}

/// The pack as it was, line by line.
struct Old {
    file: Option<BufReader<File>>,
    /// With its line break; empty behind the last one.
    line: Vec<u8>,
}

impl Old {
    fn open(pack: &Pack) -> Result<Self, CatalogError> {
        let mut old = Self { file: pack.open()?.map(BufReader::new), line: Vec::new() };
        old.advance(pack)?;
        Ok(old)
    }

    fn advance(&mut self, pack: &Pack) -> Result<(), CatalogError> {
        self.line.clear();
        if let Some(file) = &mut self.file {
            file.read_until(b'\n', &mut self.line).map_err(failed("read", &pack.path))?;
        }
        Ok(())
    }

    fn name(&self, pack: &Pack) -> Result<Option<Cow<'_, str>>, CatalogError> {
        let line = Some(&self.line).filter(|line| !line.is_empty());
        line.map(|line| pack.name_of(line)).transpose()
    }
}

/// A new pack in the making; nothing is written until there is something to add.
pub(super) struct Extension<'a> {
    pack: &'a Pack,
    state: Option<(Old, Replacement)>,
}

impl Extension<'_> {
    pub(super) fn add(&mut self, record: &Record) -> Result<(), CatalogError> {
        let pack = self.pack;
        let (old, out) = match &mut self.state {
            Some(state) => state,
            none => none.insert((Old::open(pack)?, Replacement::begin(&pack.folder, &pack.path)?)),
        };
        copy(pack, old, out, Some(&record.name))?;
        let mut line = record.to_json();
        line.push(b'\n');
        out.write(&line)
    }

    /// Puts the new pack in the place of the old one.
    pub(super) fn finish(self) -> Result<(), CatalogError> {
        let Some((mut old, mut out)) = self.state else {
            return Ok(());
        };
        copy(self.pack, &mut old, &mut out, None)?;
        out.sync()?;
        out.commit()
    }
}

/// Copies what is there of the names up to `last`.
fn copy(pack: &Pack, old: &mut Old, out: &mut Replacement, last: Option<&str>) -> Result<(), CatalogError> {
    while let Some(name) = old.name(pack)? {
        if last.is_some_and(|last| name.as_ref().cmp(last) == Ordering::Greater) {
            return Ok(());
        }
        out.write(&old.line)?;
        old.advance(pack)?;
    }
    Ok(())
}
