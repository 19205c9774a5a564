//! The catalog of a directory: the ledger is the truth, the view follows.

mod adopt;
mod file;
mod follower;
mod foreign;
mod journal;
mod pack;
mod records;
#[cfg(test)]
mod tests;
mod view;

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::CatalogError;
use crate::ledger::{self, Change, FOLDER, Record, Step};
use adopt::REWRITES_MAX;
pub(crate) use file::Lock;
use file::{failed, replace, sync_folder};
use foreign::Foreign;
use journal::{Journal, Pending};
use records::Records;
use view::{Changes, Entry, View, named};

pub(crate) use follower::Follower;

/// How often other tools may write while the view is being read.
const READS_MAX: usize = 16;

pub(crate) struct Directory {
    root: PathBuf,
    read_only: bool,
    view: View,
    journal: Journal,
    records: Records,
}

impl Directory {
    /// Makes `root` a layout if it is none, and adopts what it lists.
    pub(crate) fn open(root: &Path) -> Result<Self, CatalogError> {
        let folder = root.join(FOLDER);
        let read_only = match prepare(root) {
            Ok(()) => false,
            Err(error) if root.join("index.json").exists() && is_read_only(&error) => true,
            Err(error) => return Err(failed("create", &folder)(error)),
        };
        let directory = Self::at(root, read_only);
        let marker = root.join("oci-layout");
        if !read_only && !marker.exists() {
            sync_folder(&root.join("ledger"))?;
            let _lock = directory.lock()?;
            replace(&root.join("ledger"), &marker, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        if directory.lags() {
            let lock = directory.journal.lock()?;
            directory.records.restore(&lock, &directory.journal.read()?)?;
        }
        // What cannot be read is said now rather than at the first name.
        if !read_only {
            directory.adopt_if_foreign()?;
        } else if !directory.view.is_ours()? {
            directory.foreign(|_| Ok(()))?;
        }
        Ok(directory)
    }

    fn at(root: &Path, read_only: bool) -> Self {
        Self {
            root: root.to_owned(),
            read_only,
            view: View::new(root),
            journal: Journal::new(&root.join("ledger")),
            records: Records::new(root),
        }
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether the view may lack changes.
    pub(crate) fn lags(&self) -> bool {
        !self.read_only && !self.journal.is_empty()
    }

    /// Held by whoever writes the view; taken before the lock of the journal.
    fn lock(&self) -> Result<Lock, CatalogError> {
        Lock::take(&self.root.join("ledger").join("lock"))
    }

    /// Parts those who give names from the one who deletes what has none.
    pub(crate) fn still(&self, alone: bool) -> Result<Lock, CatalogError> {
        let path = self.root.join("ledger").join("collect.lock");
        if alone { Lock::take(&path) } else { Lock::share(&path) }
    }

    fn adopt_if_foreign(&self) -> Result<(), CatalogError> {
        if self.view.is_ours()? {
            return Ok(());
        }
        let _lock = self.lock()?;
        self.adopt()
    }

    /// Whether a name takes but a few small reads, for nothing that others wrote has to be looked at first.
    pub(crate) fn is_at_hand(&self) -> Result<bool, CatalogError> {
        Ok(!self.read_only && self.view.is_ours()?)
    }

    /// The record that `name` points by, if it does.
    pub(crate) fn resolve(&self, name: &str) -> Result<Option<Record>, CatalogError> {
        Ok(self.newest(name)?.filter(|record| record.descriptor.is_some()))
    }

    fn newest(&self, name: &str) -> Result<Option<Record>, CatalogError> {
        if !self.read_only {
            self.adopt_if_foreign()?;
            return self.records.current(name);
        }
        let current = self.records.current(name)?;
        if self.view.is_ours()? || self.journal.read()?.keys().any(|(pending, _)| pending == name) {
            return Ok(current);
        }
        let told = self.foreign(|foreign| Ok(foreign.named.get(name).and_then(|entry| named(entry))))?;
        let Some((_, descriptor)) = told else {
            return Ok(None);
        };
        let current = current.filter(|record| record.points_to(&descriptor));
        Ok(Some(current.unwrap_or_else(|| Record::of_view(name.to_owned(), descriptor))))
    }

    /// Every change of `name`, oldest first.
    pub(crate) fn history(&self, name: &str) -> Result<Vec<Record>, CatalogError> {
        let newest = self.newest(name)?;
        let mut records = self.records.history(name)?;
        // What could not be adopted is no part of the ledger.
        records.extend(newest.filter(|record| record.seq == 0));
        Ok(records)
    }

    /// Where all names point, in their order.
    pub(crate) fn list(&self) -> Result<Vec<Record>, CatalogError> {
        for _ in 0..READS_MAX {
            let changes = self.changes(&self.journal.read()?)?;
            match self.view.open_ours() {
                Ok(Some(mut ours)) => {
                    let mut names = Vec::with_capacity(ours.len_about());
                    let read = ours.merge(&changes, |entry| self.note(&mut names, &entry));
                    match read {
                        Ok(()) => return Ok(names),
                        // Some tools write in place.
                        Err(_) if !self.view.is_ours()? => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(None) if self.read_only => return self.list_foreign(changes),
                Ok(None) => self.adopt_if_foreign()?,
                Err(_) if !self.view.is_ours()? => {}
                Err(error) => return Err(error),
            }
        }
        Err(CatalogError::Contended(self.view.path().display().to_string()))
    }

    fn note(&self, names: &mut Vec<Record>, entry: &Entry<'_>) -> Result<(), CatalogError> {
        let (name, descriptor) = match entry {
            Entry::Changed(name, descriptor) => ((*name).to_owned(), (*descriptor).clone()),
            Entry::Line(line) => named(line).ok_or_else(|| self.view.nameless())?,
        };
        names.push(Record::of_view(name, descriptor));
        Ok(())
    }

    fn list_foreign(&self, changes: Changes) -> Result<Vec<Record>, CatalogError> {
        let mut all: Changes = self.foreign(|foreign| {
            let entries = foreign.named.values().filter_map(|entry| named(entry));
            Ok(entries.map(|(name, descriptor)| (name, Some(descriptor))).collect())
        })?;
        all.extend(changes);
        let record = |(name, descriptor): (_, Option<_>)| Some(Record::of_view(name, descriptor?));
        Ok(all.into_iter().filter_map(record).collect())
    }

    fn foreign<T>(
        &self,
        look: impl FnOnce(Foreign<'_>) -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        let (text, _) = self.view.read()?;
        let foreign = text.as_deref().map_or(Ok(Foreign::default()), Foreign::parse);
        look(foreign.map_err(|source| self.view.damaged(source))?)
    }

    /// Makes a change durable, if it still has to be made.
    pub(crate) fn change(&self, change: &Change) -> Result<Step, CatalogError> {
        ledger::key(&change.name)?;
        self.adopt_if_foreign()?;
        if self.journal.is_full()? {
            self.catch_up()?;
        }
        let lock = self.journal.lock()?;
        let step = change.after(self.records.current(&change.name)?)?;
        if let Step::Append(record) = &step {
            self.journal.append(&lock, record)?;
            self.records.create(&lock, record)?;
        }
        Ok(step)
    }

    /// Brings every change that has been made so far into the view.
    pub(crate) fn catch_up(&self) -> Result<(), CatalogError> {
        if !self.lags() {
            return Ok(());
        }
        let _lock = self.lock()?;
        let mut is_rest = true;
        while std::mem::take(&mut is_rest) {
            is_rest = self.journal.is_half_applied();
            let pending = self.journal.begin()?;
            if !pending.is_empty() {
                self.records.restore(&self.journal.lock()?, &pending)?;
                self.records.sync(&pending)?;
                self.show(&self.changes(&pending)?)?;
            }
            self.journal.end()?;
        }
        Ok(())
    }

    fn show(&self, changes: &Changes) -> Result<(), CatalogError> {
        for _ in 0..REWRITES_MAX {
            self.adopt()?;
            if self.view.apply(changes)? {
                return Ok(());
            }
        }
        Err(CatalogError::Contended(self.view.path().display().to_string()))
    }

    fn changes(&self, pending: &Pending) -> Result<Changes, CatalogError> {
        let mut changes = Changes::new();
        for (name, _) in pending.keys() {
            if !changes.contains_key(name) {
                let current = self.records.current(name)?;
                changes.insert(name.clone(), current.and_then(|record| record.descriptor));
            }
        }
        Ok(changes)
    }
}

/// Makes the folders; a folder that exists can be on a read-only file system all the same, its lock opened for writing cannot.
fn prepare(root: &Path) -> io::Result<()> {
    fs::create_dir_all(root.join(FOLDER))?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    options.open(root.join("ledger").join("lock")).map(drop)
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied)
}
