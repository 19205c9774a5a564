//! OCI image layouts in directories.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use larder_oci::{Descriptor, media_type};
use serde_json::{Value, json};

const NAME_ANNOTATION: &str = "org.opencontainers.image.ref.name";
const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

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

/// Lists `root` as `name` in the OCI image layout in `directory`, which becomes one if it is none; an entry of that name is replaced, all
/// others stay. The listing is whole at every moment.
///
/// # Errors
/// Those of the directory, and of an `index.json` that is no image index.
pub fn list_in_layout(directory: &Path, name: &str, root: &Descriptor) -> io::Result<()> {
    let path = directory.join("index.json");
    let mut index = match fs::read(&path) {
        Ok(json) => serde_json::from_slice(&json).map_err(|error| named(&path, &error.into()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": []})
        }
        Err(error) => return Err(named(&path, &error)),
    };
    let Some(Value::Array(manifests)) = index.get_mut("manifests") else {
        return Err(named(&path, &io::Error::other("it is no image index")));
    };
    manifests.retain(|entry| entry["annotations"][NAME_ANNOTATION] != name);
    let mut root = root.clone();
    root.annotations.insert(NAME_ANNOTATION.to_owned(), name.to_owned());
    manifests.push(serde_json::to_value(root)?);
    fs::write(directory.join("oci-layout"), LAYOUT)?;
    let fresh = directory.join(format!(".index.json.{}", std::process::id()));
    let mut file = File::create(&fresh).map_err(|error| named(&fresh, &error))?;
    file.write_all(&serde_json::to_vec(&index)?)?;
    file.sync_all()?;
    fs::rename(&fresh, &path)?;
    File::open(directory)?.sync_all()
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listing_replaces_its_own_entry_and_keeps_the_others() {
        let root = tempfile::tempdir().unwrap();
        let entry = |what: &str| {
            Descriptor::new(media_type::OCI_MANIFEST, larder_oci::Digest::of(what.as_bytes()), 1)
        };
        for (name, what) in [("a", "1"), ("b", "2"), ("a", "3")] {
            list_in_layout(root.path(), name, &entry(what)).unwrap();
        }
        let index: Value =
            serde_json::from_slice(&fs::read(root.path().join("index.json")).unwrap()).unwrap();
        let manifests = index["manifests"].as_array().unwrap();
        let digests: Vec<_> =
            manifests.iter().map(|entry| entry["digest"].as_str().unwrap().to_owned()).collect();
        assert_eq!(digests, [entry("2").digest.to_string(), entry("3").digest.to_string()]);
        assert_eq!(fs::read_to_string(root.path().join("oci-layout")).unwrap(), LAYOUT);
        fs::write(root.path().join("index.json"), "[]").unwrap();
        assert!(list_in_layout(root.path(), "a", &entry("1")).is_err());
    }

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
