//! Files that are whole at every moment, and the locks that writers hold.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::CatalogError;

const BUFFER_BYTES: usize = 64 * 1024;

pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CatalogError {
    let path = path.to_owned();
    move |source| CatalogError::Disk { action, path, source }
}

/// Takes absence for an answer.
pub(super) fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Makes what was created in, renamed to or removed from `folder` durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), CatalogError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync", folder))
}

/// Held by whoever may write; released when dropped.
pub(crate) struct Lock(#[expect(dead_code, reason = "the lock lives as long as the file is open")] File);

impl Lock {
    /// Waits for its turn.
    pub(super) fn take(path: &Path) -> Result<Self, CatalogError> {
        let file = Self::open(path)?;
        file.lock().map_err(failed("lock", path))?;
        Ok(Self(file))
    }

    /// Waits until nobody holds it alone; others may hold it with us.
    pub(super) fn share(path: &Path) -> Result<Self, CatalogError> {
        let file = Self::open(path)?;
        file.lock_shared().map_err(failed("lock", path))?;
        Ok(Self(file))
    }

    fn open(path: &Path) -> Result<File, CatalogError> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).open(path).map_err(failed("open", path))
    }
}

/// A file that takes the place of another when it is durable. Its writers exclude one another.
pub(super) struct Replacement {
    out: BufWriter<File>,
    fresh: PathBuf,
    path: PathBuf,
}

impl Replacement {
    /// Begins a new file for `path`, in `folder` until it is committed.
    pub(super) fn begin(folder: &Path, path: &Path) -> Result<Self, CatalogError> {
        let name = path.file_name().expect("a file of the layout has a name");
        let fresh = folder.join(format!("{}.new", name.to_string_lossy()));
        let file = File::create(&fresh).map_err(failed("write", &fresh))?;
        Ok(Self { out: BufWriter::with_capacity(BUFFER_BYTES, file), fresh, path: path.to_owned() })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), CatalogError> {
        self.out.write_all(bytes).map_err(failed("write", &self.fresh))
    }

    /// Makes the content durable, and says what the file will be.
    pub(super) fn sync(&mut self) -> Result<Metadata, CatalogError> {
        let mut sync = || {
            self.out.flush()?;
            self.out.get_ref().sync_all()?;
            self.out.get_ref().metadata()
        };
        sync().map_err(failed("write", &self.fresh))
    }

    /// Puts the synced file in its place.
    pub(super) fn commit(self) -> Result<(), CatalogError> {
        fs::rename(&self.fresh, &self.path).map_err(failed("rename to", &self.path))?;
        sync_folder(self.path.parent().expect("a file of the layout is in a folder"))
    }
}

/// Replaces `path` by `content`.
pub(super) fn replace(folder: &Path, path: &Path, content: &[u8]) -> Result<(), CatalogError> {
    let mut replacement = Replacement::begin(folder, path)?;
    replacement.write(content)?;
    replacement.sync()?;
    replacement.commit()
}
