//! The records that are durable nowhere else yet, at `ledger/journal`, and so also the names that the view may lack.
//!
//! A change is made when its record is durable here: that is the one sync it waits for. Its file of its own is made next, synced
//! later, and a name leaves the journal when both that file and the view are durable. Whoever sees to that first moves the journal
//! aside to `ledger/journal.applied`, so that new records gather in a new one. A record too many does no harm, nor does a last
//! line that a crash has cut short.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::file::{Lock, failed, found, sync_folder};
use crate::CatalogError;
use crate::ledger::Record;

/// Beyond this, a change waits for the view.
const JOURNAL_BYTES_MAX: u64 = 8 * 1024 * 1024;

pub(super) struct Journal {
    folder: PathBuf,
    pending: PathBuf,
    applied: PathBuf,
}

/// Records by name and sequence. Of two with one sequence the first was never finished.
pub(super) type Pending = BTreeMap<(String, u64), Record>;

impl Journal {
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            pending: folder.join("journal"),
            applied: folder.join("journal.applied"),
        }
    }

    /// Held from the look at the newest record of a name to the creation of the next one: a record that is in the journal while
    /// nobody holds the lock has its file, unless a crash came between.
    pub(super) fn lock(&self) -> Result<Lock, CatalogError> {
        Lock::take(&self.folder.join("journal.lock"))
    }

    /// Makes `record` durable.
    pub(super) fn append(&self, _: &Lock, record: &Record) -> Result<(), CatalogError> {
        // The first line break parts it from a line that was cut short.
        let mut line = vec![b'\n'];
        line.append(&mut record.to_json());
        line.push(b'\n');
        let append = || {
            let mut file = OpenOptions::new().append(true).create(true).open(&self.pending)?;
            let is_new = file.metadata()?.len() == 0;
            file.write_all(&line)?;
            file.sync_data()?;
            Ok::<_, io::Error>(is_new)
        };
        if append().map_err(failed("write", &self.pending))? {
            sync_folder(&self.folder)?;
        }
        Ok(())
    }

    pub(super) fn is_full(&self) -> Result<bool, CatalogError> {
        let journal = found(fs::metadata(&self.pending)).map_err(failed("look at", &self.pending))?;
        Ok(journal.is_some_and(|journal| journal.len() > JOURNAL_BYTES_MAX))
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.pending.exists() && !self.applied.exists()
    }

    /// Whether somebody was stopped while applying.
    pub(super) fn is_half_applied(&self) -> bool {
        self.applied.exists()
    }

    /// Everything in it. Read before the view, its names and the view together are all names.
    pub(super) fn read(&self) -> Result<Pending, CatalogError> {
        // In this order a record that is moved in between is seen.
        let newer = read(&self.pending)?;
        let mut all = read(&self.applied)?;
        all.extend(newer);
        Ok(all)
    }

    /// What is to be applied now. The caller alone writes the view.
    pub(super) fn begin(&self) -> Result<Pending, CatalogError> {
        if !self.is_half_applied() {
            let _lock = self.lock()?;
            found(fs::rename(&self.pending, &self.applied)).map_err(failed("rename", &self.pending))?;
        }
        read(&self.applied)
    }

    /// Forgets what [`Journal::begin`] gave.
    pub(super) fn end(&self) -> Result<(), CatalogError> {
        found(fs::remove_file(&self.applied)).map(drop).map_err(failed("remove", &self.applied))
    }
}

fn read(path: &Path) -> Result<Pending, CatalogError> {
    let lines = found(fs::read(path)).map_err(failed("read", path))?.unwrap_or_default();
    let records = lines.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    Ok(records.map(|record: Record| ((record.name.clone(), record.seq), record)).collect())
}
