//! What lies in the directory, and what was left unfinished there.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, SystemTime};

use futures::stream::BoxStream;
use larder_oci::{Algorithm, Digest};
use tokio::sync::mpsc;

use super::{Disk, failed, lock, received};
use crate::{BlobError, LISTED_IN_FLIGHT_MAX, Stored};

type Found = mpsc::Sender<Result<Stored, BlobError>>;

impl Disk {
    pub(crate) fn list(&self) -> BoxStream<'static, Result<Stored, BlobError>> {
        let (found, stream) = mpsc::channel(LISTED_IN_FLIGHT_MAX);
        let root = self.root.clone();
        tokio::task::spawn_blocking(move || {
            for algorithm in Algorithm::ALL {
                if let Err(error) = list(&root, algorithm, &found) {
                    let _ = found.blocking_send(Err(error));
                    return;
                }
            }
        });
        received(stream)
    }

    pub(crate) async fn sweep(&self, older_than: Duration) -> Result<u64, BlobError> {
        let folder = self.root.join("ingest");
        let swept = tokio::task::spawn_blocking(move || sweep(&folder, older_than)).await;
        swept.unwrap_or(Err(BlobError::Interrupted))
    }
}

fn list(root: &Path, algorithm: Algorithm, found: &Found) -> Result<(), BlobError> {
    each_file(&root.join("blobs").join(algorithm.name()), |path, metadata| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Ok(digest) = format!("{}:{name}", algorithm.name()).parse::<Digest>() else {
            return Ok(!found.is_closed());
        };
        let modified = metadata.modified().map_err(failed("look at", path))?;
        let stored = Stored { digest, size: metadata.len(), modified };
        Ok(found.blocking_send(Ok(stored)).is_ok())
    })
}

fn sweep(folder: &Path, older_than: Duration) -> Result<u64, BlobError> {
    let mut swept = 0;
    each_file(folder, |path, metadata| {
        let modified = metadata.modified().map_err(failed("look at", path))?;
        let age = SystemTime::now().duration_since(modified);
        if age.is_ok_and(|age| age >= older_than)
            && let Some(_held) = lock(path, false)?
        {
            fs::remove_file(path).map_err(failed("delete", path))?;
            swept += 1;
        }
        Ok(true)
    })?;
    Ok(swept)
}

/// Shows `see` every file in `folder` until it has seen enough; passes over what goes away meanwhile.
fn each_file(
    folder: &Path,
    mut see: impl FnMut(&Path, &Metadata) -> Result<bool, BlobError>,
) -> Result<(), BlobError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("list", folder)(error)),
    };
    for entry in entries {
        let path = entry.map_err(failed("list", folder))?.path();
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => {
                if !see(&path, &metadata)? {
                    return Ok(());
                }
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed("look at", &path)(error)),
        }
    }
    Ok(())
}
