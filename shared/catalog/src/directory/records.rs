//! The ledger on a disk: a file per record, made by [`Records::create`], and the pack of what was adopted.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::file::{Lock, failed, found, sync_folder};
use super::journal::Pending;
use super::pack::Pack;
use crate::CatalogError;
use crate::ledger::{FOLDER, Record, file_name, key, sequence};

pub(super) struct Records {
    folder: PathBuf,
    fresh: PathBuf,
    pub(super) pack: Pack,
}

impl Records {
    pub(super) fn new(root: &Path) -> Self {
        let folder = root.join(FOLDER);
        let ledger = folder.parent().expect("the records are in the ledger");
        Self { fresh: ledger.join("record.new"), pack: Pack::new(ledger), folder }
    }

    /// The newest record of `name`.
    pub(super) fn current(&self, name: &str) -> Result<Option<Record>, CatalogError> {
        let folder = self.folder.join(key(name)?);
        let packed = self.pack.find(name)?.pop();
        match sequences(&folder)?.into_iter().max() {
            Some(newest) if packed.as_ref().is_none_or(|record| record.seq < newest) => {
                read(&folder.join(file_name(newest))).map(Some)
            }
            _ => Ok(packed),
        }
    }

    /// All records of `name`, oldest first.
    pub(super) fn history(&self, name: &str) -> Result<Vec<Record>, CatalogError> {
        let folder = self.folder.join(key(name)?);
        let mut records = self.pack.find(name)?;
        for seq in sequences(&folder)? {
            records.push(read(&folder.join(file_name(seq)))?);
        }
        records.sort_by_key(|record| record.seq);
        Ok(records)
    }

    /// Makes the file of a record that the journal has already; the lock of the journal is held.
    pub(super) fn create(&self, _: &Lock, record: &Record) -> Result<(), CatalogError> {
        let path = self.path_of(record)?;
        let folder = path.parent().expect("a record is in a folder");
        let create = || {
            // What a crash left can be a link to a record already.
            found(fs::remove_file(&self.fresh))?;
            fs::write(&self.fresh, record.to_json())?;
            match fs::create_dir(folder) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => fs::hard_link(&self.fresh, &path)?,
            }
            fs::remove_file(&self.fresh)
        };
        create().map_err(failed("write", &path))
    }

    /// Makes the files that a crash has prevented or spoilt; the lock of the journal is held.
    pub(super) fn restore(&self, lock: &Lock, pending: &Pending) -> Result<(), CatalogError> {
        for record in pending.values() {
            let path = self.path_of(record)?;
            match read(&path) {
                Ok(_) => {}
                Err(CatalogError::Record { .. }) => {
                    fs::remove_file(&path).map_err(failed("remove", &path))?;
                    self.create(lock, record)?;
                }
                Err(CatalogError::Disk { source, .. }) if source.kind() == ErrorKind::NotFound => {
                    self.create(lock, record)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes the files of records durable.
    pub(super) fn sync(&self, pending: &Pending) -> Result<(), CatalogError> {
        let mut folders = HashSet::new();
        for record in pending.values() {
            let path = self.path_of(record)?;
            File::open(&path).and_then(|file| file.sync_all()).map_err(failed("sync", &path))?;
            folders.extend(path.parent().map(Path::to_owned));
        }
        folders.iter().try_for_each(|folder| sync_folder(folder))?;
        sync_folder(&self.folder)
    }

    fn path_of(&self, record: &Record) -> Result<PathBuf, CatalogError> {
        Ok(self.folder.join(key(&record.name)?).join(file_name(record.seq)))
    }

    /// The names that are not among `known` but have records.
    pub(super) fn names_besides(&self, known: &HashSet<String>) -> Result<Vec<String>, CatalogError> {
        let mut names = Vec::new();
        for folder in entries(&self.folder)? {
            if !known.contains(&folder) {
                let folder = self.folder.join(folder);
                if let Some(seq) = sequences(&folder)?.into_iter().max() {
                    names.push(read(&folder.join(file_name(seq)))?.name);
                }
            }
        }
        self.pack.each_name(|name| {
            if !known.contains(&key(name)?) {
                names.push(name.to_owned());
            }
            Ok(())
        })?;
        Ok(names)
    }

    pub(super) fn is_empty(&self) -> Result<bool, CatalogError> {
        Ok(self.pack.is_empty() && entries(&self.folder)?.is_empty())
    }
}

fn sequences(folder: &Path) -> Result<Vec<u64>, CatalogError> {
    Ok(entries(folder)?.iter().filter_map(|name| sequence(name)).collect())
}

/// The names in `folder`; none when it does not exist.
fn entries(folder: &Path) -> Result<Vec<String>, CatalogError> {
    let Some(listing) = found(fs::read_dir(folder)).map_err(failed("list", folder))? else {
        return Ok(Vec::new());
    };
    let names = listing.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    names.collect::<Result<_, _>>().map_err(failed("list", folder))
}

fn read(path: &Path) -> Result<Record, CatalogError> {
    let json = fs::read(path).map_err(failed("read", path))?;
    let damaged = |source| CatalogError::Record { key: path.display().to_string(), source };
    serde_json::from_slice(&json).map_err(damaged)
}
