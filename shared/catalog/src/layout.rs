//! The OCI image layout that other tools see: `oci-layout` and `index.json` (OCI image-spec, image-layout.md).
//!
//! `index.json` is swapped in by rename, so it is whole at every moment. `ledger/stamp` remembers which file larder wrote last;
//! any other file is somebody else's edit, and so is one that a crash left between view and ledger: both are adopted.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder_oci::{Descriptor, Digest, media_type};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::CatalogError;
use crate::ledger::is_name;

const NAME_ANNOTATION: &str = "org.opencontainers.image.ref.name";
const LOCK_RETRY: Duration = Duration::from_millis(2);

pub(crate) struct Layout {
    root: PathBuf,
    read_only: bool,
}

/// Held while view and ledger change; released when dropped.
pub(crate) struct Lock(#[expect(dead_code, reason = "the lock lives as long as the file is open")] File);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct View {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    #[serde(default, deserialize_with = "null_as_empty")]
    manifests: Vec<Value>,
}

/// What `index.json` lists.
#[derive(Default)]
pub(crate) struct Entries {
    /// By name; of several with one name the first, as other tools take it.
    pub(crate) named: Vec<(String, Descriptor)>,
    /// What cannot be a name here: carried along as it is.
    kept: Vec<Value>,
}

/// Tools that remove the last entry write `null`.
fn null_as_empty<'de, D: serde::Deserializer<'de>>(json: D) -> Result<Vec<Value>, D::Error> {
    Ok(Option::deserialize(json)?.unwrap_or_default())
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CatalogError {
    let path = path.to_owned();
    move |source| CatalogError::Disk { action, path, source }
}

impl Layout {
    pub(crate) fn open(root: &Path) -> Result<Self, CatalogError> {
        let folder = root.join("ledger");
        let read_only = match fs::create_dir_all(&folder).and_then(|()| writable(&folder)) {
            Ok(()) => false,
            Err(error) if root.join("index.json").exists() && is_read_only(&error) => true,
            Err(error) => return Err(failed("create", &folder)(error)),
        };
        let layout = Self { root: root.to_owned(), read_only };
        let marker = root.join("oci-layout");
        if !read_only && !marker.exists() {
            layout.replace(&marker, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        Ok(layout)
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn index(&self) -> PathBuf {
        self.root.join("index.json")
    }

    pub(crate) async fn lock(&self) -> Result<Lock, CatalogError> {
        let path = self.root.join("ledger").join("lock");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(failed("open", &path))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock(file)),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_RETRY).await,
                Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
            }
        }
    }

    /// Whether `index.json` is the file that larder wrote last.
    pub(crate) fn is_ours(&self) -> Result<bool, CatalogError> {
        let stamp = fs::read(self.root.join("ledger").join("stamp")).unwrap_or_default();
        Ok(self.current_stamp()?.is_some_and(|current| current.as_bytes() == stamp))
    }

    pub(crate) fn stamp(&self) -> Result<(), CatalogError> {
        let stamp = self.current_stamp()?.unwrap_or_default();
        let path = self.root.join("ledger").join("stamp");
        let fresh = path.with_extension("new");
        fs::write(&fresh, stamp).map_err(failed("write", &fresh))?;
        fs::rename(&fresh, &path).map_err(failed("rename to", &path))
    }

    fn current_stamp(&self) -> Result<Option<String>, CatalogError> {
        let path = self.index();
        match fs::metadata(&path) {
            Ok(file) => {
                Ok(Some(format!("{} {} {}.{}", file.ino(), file.len(), file.mtime(), file.mtime_nsec())))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("look at", &path)(error)),
        }
    }

    /// The entries of `index.json`: none when there is no such file.
    pub(crate) fn entries(&self) -> Result<Entries, CatalogError> {
        let path = self.index();
        let json = match fs::read(&path) {
            Ok(json) => json,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Entries::default()),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let view: View =
            serde_json::from_slice(&json).map_err(|source| CatalogError::Layout { path, source })?;
        let mut entries = Entries::default();
        let mut seen = HashSet::new();
        for value in view.manifests {
            match named(&value).filter(|(name, _)| seen.insert(name.clone())) {
                Some(entry) => entries.named.push(entry),
                None => entries.kept.push(value),
            }
        }
        Ok(entries)
    }

    /// Changes one entry of `index.json`, or drops it.
    pub(crate) fn show(&self, name: &str, descriptor: Option<&Descriptor>) -> Result<(), CatalogError> {
        let mut entries = self.entries()?;
        let place = entries.named.iter().position(|(known, _)| known == name);
        match (place, descriptor) {
            (Some(place), Some(descriptor)) => entries.named[place].1 = descriptor.clone(),
            (None, Some(descriptor)) => entries.named.push((name.to_owned(), descriptor.clone())),
            (place, None) => {
                place.map(|place| entries.named.remove(place));
                // Another entry of that name would take its place.
                entries.kept.retain(|value| named(value).is_none_or(|(known, _)| known != name));
            }
        }
        self.rewrite(&entries)
    }

    pub(crate) fn rewrite(&self, entries: &Entries) -> Result<(), CatalogError> {
        let entry = |(name, descriptor): &(String, Descriptor)| {
            let mut descriptor = descriptor.clone();
            // An entry that has only its digest for a name came without one, and stays so.
            if name.parse::<Digest>().is_err() {
                descriptor.annotations.insert(NAME_ANNOTATION.to_owned(), name.clone());
            }
            serde_json::to_value(descriptor).expect("a descriptor is plain data")
        };
        let view = View {
            schema_version: 2,
            media_type: Some(media_type::OCI_INDEX.to_owned()),
            manifests: entries.named.iter().map(entry).chain(entries.kept.iter().cloned()).collect(),
        };
        let json = serde_json::to_vec(&view).expect("a view is plain data");
        self.replace(&self.index(), &json)
    }

    /// Puts an `index.json` that cannot be read out of the way.
    pub(crate) fn set_damaged_aside(&self) -> Result<(), CatalogError> {
        let aside = self.root.join("index.json.damaged");
        fs::rename(self.index(), &aside).map_err(failed("rename to", &aside))
    }

    /// Whether the blob behind `descriptor` is there.
    pub(crate) fn holds(&self, descriptor: &Descriptor) -> bool {
        let digest = &descriptor.digest;
        let folder = self.root.join("blobs").join(digest.algorithm().name());
        folder.join(digest.hex()).exists()
    }

    fn replace(&self, path: &Path, content: &[u8]) -> Result<(), CatalogError> {
        let name = path.file_name().expect("a file of the layout has a name");
        let unique = format!("{}.{}", name.to_string_lossy(), std::process::id());
        let fresh = self.root.join("ledger").join(unique);
        let write = || {
            let mut file = File::create(&fresh)?;
            file.write_all(content)?;
            file.sync_all()
        };
        write().map_err(failed("write", &fresh))?;
        fs::rename(&fresh, path).map_err(failed("rename to", path))?;
        let synced = File::open(&self.root).and_then(|folder| folder.sync_all());
        synced.map_err(failed("sync", &self.root))
    }
}

/// The name and target of an entry, if it has a target that can be understood and a name that can be kept.
fn named(value: &Value) -> Option<(String, Descriptor)> {
    let descriptor: Descriptor = serde_json::from_value(value.clone()).ok()?;
    let name = descriptor.annotations.get(NAME_ANNOTATION).filter(|name| !name.is_empty());
    let name = name.cloned().unwrap_or_else(|| descriptor.digest.to_string());
    is_name(&name).then_some((name, descriptor))
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied)
}

/// Creating a folder that exists succeeds on a read-only file system too; opening its lock for writing does not.
fn writable(folder: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    options.open(folder.join("lock")).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Catalog, Origin};

    fn descriptor(what: &str) -> Descriptor {
        Descriptor::new(media_type::OCI_MANIFEST, Digest::of(what.as_bytes()), 7)
    }

    fn entry(name: Option<&str>, what: &str) -> String {
        let digest = Digest::of(what.as_bytes());
        let annotations = name.map_or(String::new(), |name| {
            format!(r#","annotations":{{"{NAME_ANNOTATION}":"{name}","kept":"yes"}}"#)
        });
        format!(r#"{{"mediaType":"{}","digest":"{digest}","size":7{annotations}}}"#, media_type::OCI_MANIFEST)
    }

    fn write_index(root: &Path, entries: &[String]) {
        let json = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        fs::write(root.join("index.json"), json).unwrap();
    }

    fn names(root: &Path) -> Vec<String> {
        let layout = Layout::open(root).unwrap();
        layout.entries().unwrap().named.into_iter().map(|(name, _)| name).collect()
    }

    #[tokio::test]
    async fn empty_directory_becomes_a_layout() {
        let root = tempfile::tempdir().unwrap();
        Catalog::on_disk(root.path()).await.unwrap();
        let marker = fs::read_to_string(root.path().join("oci-layout")).unwrap();
        assert_eq!(marker, r#"{"imageLayoutVersion":"1.0.0"}"#);
        let index = fs::read_to_string(root.path().join("index.json")).unwrap();
        assert!(index.contains(r#""manifests":[]"#), "{index}");
    }

    #[tokio::test]
    async fn directory_that_another_tool_filled_is_adopted_and_kept() {
        let root = tempfile::tempdir().unwrap();
        write_index(root.path(), &[entry(Some("12"), "a"), entry(None, "b"), entry(Some("h.io/r:1"), "c")]);
        let catalog = Catalog::on_disk(root.path()).await.unwrap();
        assert!(catalog.resolve("12").await.unwrap().unwrap().points_to(&descriptor("a")));
        assert_eq!(catalog.list().await.unwrap().len(), 3);
        catalog.set("h.io/r:2", &descriptor("d"), Origin::Pulled).await.unwrap();
        let text = fs::read_to_string(root.path().join("index.json")).unwrap();
        assert_eq!(text.matches(NAME_ANNOTATION).count(), 3, "{text}");
        assert_eq!(text.matches(r#""kept":"yes""#).count(), 2, "{text}");
        // A running catalog sees a later edit too.
        write_index(root.path(), &[entry(Some("12"), "z")]);
        assert!(catalog.resolve("12").await.unwrap().unwrap().points_to(&descriptor("z")));
        assert_eq!(catalog.history("12").await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn entry_dropped_by_another_tool_goes_only_with_its_content() {
        let root = tempfile::tempdir().unwrap();
        let catalog = Catalog::on_disk(root.path()).await.unwrap();
        catalog.set("h.io/kept:1", &descriptor("kept"), Origin::Pulled).await.unwrap();
        catalog.set("h.io/lost:1", &descriptor("lost"), Origin::Pulled).await.unwrap();
        let blobs = root.path().join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(descriptor("kept").digest.hex()), "kept").unwrap();
        write_index(root.path(), &[]);
        assert!(catalog.resolve("h.io/kept:1").await.unwrap().is_some());
        assert!(catalog.resolve("h.io/lost:1").await.unwrap().is_none());
        assert_eq!(names(root.path()), ["h.io/kept:1"]);
    }

    #[tokio::test]
    async fn entries_that_are_no_names_here_are_carried_along() {
        let root = tempfile::tempdir().unwrap();
        let strange = entry(Some("three"), "c").replace("sha256:", "sha384:");
        let unreadable = entry(Some("new\\nline"), "d");
        let entries = [entry(Some("x"), "a"), entry(Some("x"), "b"), strange, unreadable];
        write_index(root.path(), &entries);
        let catalog = Catalog::on_disk(root.path()).await.unwrap();
        assert!(catalog.resolve("x").await.unwrap().unwrap().points_to(&descriptor("a")));
        catalog.set("h.io/r:1", &descriptor("e"), Origin::Pulled).await.unwrap();
        let text = fs::read_to_string(root.path().join("index.json")).unwrap();
        for digest in ["a", "b", "c", "d", "e"].map(|what| Digest::of(what.as_bytes())) {
            assert!(text.contains(digest.hex()), "{digest} was dropped: {text}");
        }
        assert!(catalog.remove("x", Origin::Removed).await.unwrap());
        assert!(catalog.resolve("x").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn crash_between_view_and_ledger_is_healed() {
        let root = tempfile::tempdir().unwrap();
        let catalog = Catalog::on_disk(root.path()).await.unwrap();
        let layout = Layout::open(root.path()).unwrap();
        layout.show("h.io/r:1", Some(&descriptor("new"))).unwrap();
        assert!(catalog.resolve("h.io/r:1").await.unwrap().unwrap().points_to(&descriptor("new")));
    }

    #[tokio::test]
    async fn damaged_index_is_refused_or_rebuilt_from_the_ledger() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("index.json"), "{\"sch").unwrap();
        let refused = Catalog::on_disk(root.path()).await;
        assert!(matches!(refused, Err(CatalogError::Layout { .. })));
        fs::remove_file(root.path().join("index.json")).unwrap();
        let catalog = Catalog::on_disk(root.path()).await.unwrap();
        catalog.set("h.io/r:1", &descriptor("x"), Origin::Pulled).await.unwrap();
        let blobs = root.path().join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(descriptor("x").digest.hex()), "x").unwrap();
        fs::write(root.path().join("index.json"), "{\"sch").unwrap();
        assert!(catalog.resolve("h.io/r:1").await.unwrap().is_some());
        assert_eq!(names(root.path()), ["h.io/r:1"]);
        assert!(root.path().join("index.json.damaged").exists());
    }

    #[cfg(feature = "suite")]
    #[tokio::test(flavor = "multi_thread")]
    async fn disk_passes_the_suite() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) =
            (Catalog::on_disk(root.path()).await.unwrap(), Catalog::on_disk(root.path()).await.unwrap());
        crate::suite::all(&one, &two, "disk").await;
    }

    #[cfg(feature = "suite")]
    #[tokio::test(flavor = "multi_thread")]
    async fn memory_passes_the_suite() {
        let store = std::sync::Arc::new(object_store::memory::InMemory::new());
        let catalog = Catalog::on_objects(store);
        crate::suite::all(&catalog, &catalog.clone(), "memory").await;
    }
}
