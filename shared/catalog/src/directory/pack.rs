//! The records of names that were adopted, in one file: `ledger/pack`, a record a line, ordered by name and sequence.
//!
//! A directory of another tool can come with very many names at once, and a file for each would cost more than they are worth.

mod shelf;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;

use super::file::{Replacement, failed, found};
use crate::CatalogError;
use crate::ledger::Record;
use shelf::Shelf;

pub(super) struct Pack {
    folder: PathBuf,
    path: PathBuf,
    shelf: Mutex<Option<Arc<Shelf>>>,
}

impl Pack {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), path: folder.join("pack"), shelf: Mutex::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.path.exists()
    }

    /// The records of `name`, oldest first.
    pub(super) fn find(&self, name: &str) -> Result<Vec<Record>, CatalogError> {
        self.shelf()?.map_or_else(|| Ok(Vec::new()), |shelf| shelf.find(name))
    }

    /// The pack as it is now.
    fn shelf(&self) -> Result<Option<Arc<Shelf>>, CatalogError> {
        let now = found(fs::metadata(&self.path)).map_err(failed("look at", &self.path))?;
        let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        let is_current = |shelf: &Arc<Shelf>| now.as_ref().is_some_and(|now| shelf.is(now));
        if !shelf.as_ref().is_some_and(is_current) {
            let opened = now.and_then(|_| found(Shelf::open(&self.path)).transpose()).transpose();
            *shelf = opened.map_err(failed("open", &self.path))?.map(Arc::new);
        }
        Ok(shelf.clone())
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
}

/// Whose record the `line` of the pack at `path` is.
fn name_of<'a>(line: &'a [u8], path: &Path) -> Result<Cow<'a, str>, CatalogError> {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        name: Cow<'a, str>,
    }
    if let Some(name) = plain_name(line) {
        return Ok(Cow::Borrowed(name));
    }
    let named: Named<'a> = serde_json::from_slice(line).map_err(|source| damaged(path, source))?;
    Ok(named.name)
}

/// As [`name_of`], of nearly all lines, without reading the rest of them.
fn plain_name(line: &[u8]) -> Option<&str> {
    let name = line.strip_prefix(br#"{"name":""#)?;
    let end = name.iter().position(|&byte| byte == b'"' || byte == b'\\')?;
    (name[end] == b'"').then(|| std::str::from_utf8(&name[..end]).ok())?
}

fn damaged(path: &Path, source: serde_json::Error) -> CatalogError {
    CatalogError::Record { key: path.display().to_string(), source }
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
        line.map(|line| name_of(line, &pack.path)).transpose()
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
