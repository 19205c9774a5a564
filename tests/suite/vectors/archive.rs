//! Archives as tools write them, layers entry by entry, and images put into a cache without a registry.

use std::io::Read;

use futures::StreamExt;
use larder_oci::{Descriptor, Digest, Reference};
use larder_provider::{ByteStream, ProviderError, Root, WriteOptions};
use larder_tests::Image;
use larder_tests::image::Blob;
use serde_json::{Value, json};

use super::stage::{Stage, descriptor, digest};

const CHUNK_BYTES: usize = 16 * 1024;

/// A tar archive being put together, names and all as they are given.
pub(crate) struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// Adds an entry of any kind; names have at most 100 bytes.
    pub(crate) fn entry(mut self, kind: tar::EntryType, name: &str, link: &str, content: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.set_entry_type(kind);
        let block = header.as_mut_bytes();
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    /// Has the entry that follows carry these PAX records.
    pub(crate) fn pax<'a>(mut self, records: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        self.0.append_pax_extensions(records).unwrap();
        self
    }

    pub(crate) fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.entry(tar::EntryType::Regular, name, "", content.as_ref())
    }

    pub(crate) fn directory(self, name: &str) -> Self {
        self.entry(tar::EntryType::Directory, name, "", &[])
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(tar::EntryType::Link, name, target, &[])
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(tar::EntryType::Symlink, name, target, &[])
    }

    /// Adds a blob where an OCI image layout has it.
    pub(crate) fn blob(self, blob: &Blob) -> Self {
        let path = format!("blobs/{}", blob.digest.replace(':', "/"));
        self.file(&path, &blob.bytes)
    }

    /// Adds all that `image` consists of.
    pub(crate) fn image(self, image: &Image) -> Self {
        image.blobs.iter().chain(&image.manifests).fold(self, Self::blob)
    }

    /// Adds an `index.json` of `entries`.
    pub(crate) fn index(self, entries: &[Value]) -> Self {
        let index = json!({ "schemaVersion": 2, "manifests": entries });
        self.file("index.json", index.to_string())
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// The descriptor of `blob` as `index.json` has it, with `annotations`.
pub(crate) fn listed(blob: &Blob, annotations: &[(&str, &str)]) -> Value {
    let mut entry = blob.descriptor();
    for (key, value) in annotations {
        entry["annotations"][key] = (*value).into();
    }
    entry
}

/// `bytes` as they come over a network.
pub(crate) fn stream(bytes: &[u8]) -> ByteStream {
    let chunks: Vec<_> = bytes.chunks(CHUNK_BYTES).map(|chunk| Ok(chunk.to_vec().into())).collect();
    futures::stream::iter(chunks).boxed()
}

/// The regular files of an archive in its order, with what they hold.
pub(crate) fn files(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    assert!(archive.ends_with(&[0; 1024]), "the archive has no end");
    let mut archive = tar::Archive::new(archive);
    let mut files = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        if entry.header().entry_type().is_file() {
            files.push((name, content));
        }
    }
    files
}

/// The file `name` of an archive.
pub(crate) fn file(archive: &[u8], name: &str) -> Vec<u8> {
    let found = files(archive).into_iter().find(|(path, _)| path == name);
    found.unwrap_or_else(|| panic!("there is no {name}")).1
}

/// The digests of the blobs that an OCI archive holds, sorted; each is proven and there once.
pub(crate) fn blobs(archive: &[u8]) -> Vec<String> {
    let mut digests = Vec::new();
    for (name, content) in files(archive) {
        if let Some(path) = name.strip_prefix("blobs/") {
            let named = path.replace('/', ":");
            assert_eq!(Digest::of(&content).to_string(), named);
            digests.push(named);
        }
    }
    digests.sort();
    let count = digests.len();
    digests.dedup();
    assert_eq!(digests.len(), count, "a blob is there twice");
    digests
}

pub(crate) fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

/// The children of an index, as it lists them.
pub(crate) fn children(index: &Image) -> Vec<Descriptor> {
    serde_json::from_value(index.root.json()["manifests"].clone()).unwrap()
}

/// Stores all that `image` consists of; no name reaches it.
pub(crate) async fn put(stage: &Stage, image: &Image) {
    let puts = image.blobs.iter().chain(&image.manifests).map(|blob| {
        let blobs = stage.blobs.clone();
        async move { blobs.put(&digest(blob), blob.bytes.clone()).await.unwrap() }
    });
    futures::future::join_all(puts).await;
}

/// Stores `image` and gives it a name.
pub(crate) async fn put_as(stage: &Stage, name: &str, image: &Image) {
    put(stage, image).await;
    point(stage, name, &descriptor(&image.root)).await.unwrap();
}

/// Gives what is stored a name.
pub(crate) async fn point(
    stage: &Stage,
    name: &str,
    target: &Descriptor,
) -> Result<Descriptor, ProviderError> {
    stage.cache().descriptor_write(&reference(name), target, &WriteOptions::default()).await
}

/// The children of the index that `name` points to.
pub(crate) async fn index_at(stage: &Stage, name: &str) -> Vec<Descriptor> {
    match stage.cache().find_root(name).await.unwrap() {
        Root::Index { children, .. } => children,
        root @ Root::Image { .. } => panic!("{name} is no index: {root:?}"),
    }
}
