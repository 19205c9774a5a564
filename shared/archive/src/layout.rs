//! OCI image layouts in directories.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Writes the OCI image layout in `directory` as a tar stream: `oci-layout`, `index.json` and all blobs. What else lies there is left out.
///
/// # Errors
/// Those of the directory, which must have an `index.json`, and of the writer.
pub fn pack_layout(directory: &Path, out: impl Write) -> io::Result<()> {
    let mut tar = tar::Builder::new(out);
    for name in ["oci-layout", "index.json"] {
        let path = directory.join(name);
        let mut file = File::open(&path).map_err(|error| named(&path, &error))?;
        tar.append_file(name, &mut file)?;
    }
    for algorithm in ["sha256", "sha512"] {
        let folder = directory.join("blobs").join(algorithm);
        let mut blobs = match fs::read_dir(&folder) {
            Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(named(&folder, &error)),
        };
        blobs.sort_by_key(fs::DirEntry::file_name);
        for blob in blobs {
            let path = blob.path();
            // Links to files are followed: some tools keep their blobs elsewhere.
            let mut file = File::open(&path).map_err(|error| named(&path, &error))?;
            if file.metadata()?.is_file() {
                let name = Path::new("blobs").join(algorithm).join(blob.file_name());
                tar.append_file(name, &mut file)?;
            }
        }
    }
    tar.into_inner()?.flush()
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_the_layout_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        assert!(pack_layout(root.path(), Vec::new()).is_err());
        fs::create_dir_all(root.path().join("blobs/sha256")).unwrap();
        for name in ["oci-layout", "index.json", "other", "blobs/sha256/b", "blobs/sha256/a"] {
            fs::write(root.path().join(name), name).unwrap();
        }
        let mut bytes = Vec::new();
        pack_layout(root.path(), &mut bytes).unwrap();
        let mut tar = tar::Archive::new(bytes.as_slice());
        let names = tar.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string());
        assert_eq!(
            names.collect::<Vec<_>>(),
            ["oci-layout", "index.json", "blobs/sha256/a", "blobs/sha256/b"]
        );
    }
}
