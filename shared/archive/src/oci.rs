//! Images as OCI image layouts (OCI image-spec, image-layout.md).

use std::collections::HashSet;
use std::io::{self, Read, Write};

use larder_oci::{Descriptor, Digest, media_type};
use serde::Serialize;

use crate::files::Files;
use crate::{CONTAINERD_NAME_ANNOTATION, NAME_ANNOTATION};

/// An OCI image layout being written as a tar stream.
pub struct OciArchive<W: Write> {
    files: Files<W>,
    written: HashSet<Digest>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    media_type: &'static str,
    manifests: [Descriptor; 1],
}

impl<W: Write> OciArchive<W> {
    /// Begins the archive of the image `root`, to be known as `name`.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn begin(out: W, name: &str, root: &Descriptor) -> io::Result<Self> {
        let mut files = Files::new(out);
        let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
        files.add("oci-layout", layout.len() as u64, layout.as_slice())?;
        let mut root = root.clone();
        for annotation in [NAME_ANNOTATION, CONTAINERD_NAME_ANNOTATION] {
            root.annotations.insert(annotation.to_owned(), name.to_owned());
        }
        let index = Index { schema_version: 2, media_type: media_type::OCI_INDEX, manifests: [root] };
        let json = serde_json::to_vec(&index)?;
        files.add("index.json", json.len() as u64, json.as_slice())?;
        Ok(Self { files, written: HashSet::new() })
    }

    /// Adds a blob of `size` bytes; one that is there already is not read.
    ///
    /// # Errors
    /// Those of `content`, which must have exactly `size` bytes, and of the writer.
    pub fn blob(&mut self, digest: &Digest, size: u64, content: impl Read) -> io::Result<()> {
        if !self.written.insert(digest.clone()) {
            return Ok(());
        }
        let path = format!("blobs/{}/{}", digest.algorithm().name(), digest.hex());
        self.files.add(&path, size, content)
    }

    /// Ends the archive and returns the writer, flushed.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(self) -> io::Result<W> {
        self.files.finish()
    }
}

#[cfg(test)]
mod tests {
    use larder_oci::{Document, Kind};

    use super::*;

    fn archive(content: &[u8], size: u64) -> io::Result<Vec<u8>> {
        let digest = Digest::of(content);
        let root = Descriptor::new(media_type::OCI_MANIFEST, digest.clone(), size);
        let mut archive = OciArchive::begin(Vec::new(), "h.io/r:1", &root)?;
        archive.blob(&digest, size, content)?;
        archive.blob(&digest, size, content)?;
        archive.finish()
    }

    #[test]
    fn holds_layout_index_and_each_blob_once() {
        let bytes = archive(b"hello", 5).unwrap();
        let mut tar = tar::Archive::new(bytes.as_slice());
        let paths: Vec<String> = tar
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        let blob = format!("blobs/sha256/{}", Digest::of(b"hello").hex());
        assert_eq!(paths, ["oci-layout", "index.json", &blob]);
        assert_eq!(bytes, archive(b"hello", 5).unwrap());
    }

    #[test]
    fn index_says_of_the_root_what_it_is() {
        let mut root = Descriptor::new(media_type::DOCKER_MANIFEST, Digest::of(b"root"), 4);
        root.platform = Some("linux/arm/v7".parse().unwrap());
        let bytes = OciArchive::begin(Vec::new(), "h.io/r:1", &root).unwrap().finish().unwrap();
        let mut tar = tar::Archive::new(bytes.as_slice());
        let mut json = Vec::new();
        tar.entries().unwrap().nth(1).unwrap().unwrap().read_to_end(&mut json).unwrap();
        let document = Document::parse(json.into(), Some(media_type::OCI_INDEX)).unwrap();
        let Kind::Index(index) = document.kind() else { panic!("no index") };
        let written = &index.manifests[0];
        assert_eq!(index.manifests.len(), 1);
        assert_eq!((&written.media_type, &written.digest, written.size), (&root.media_type, &root.digest, 4));
        assert_eq!(written.platform, root.platform);
        assert_eq!(written.annotations[NAME_ANNOTATION], "h.io/r:1");
        assert_eq!(written.annotations[CONTAINERD_NAME_ANNOTATION], "h.io/r:1");
    }

    #[test]
    fn long_digests_fit() {
        let mut digester = larder_oci::Digester::new(larder_oci::Algorithm::Sha512);
        digester.update(b"x");
        let digest = digester.finish();
        let root = Descriptor::new(media_type::OCI_MANIFEST, digest.clone(), 1);
        let mut archive = OciArchive::begin(Vec::new(), "h.io/r:1", &root).unwrap();
        archive.blob(&digest, 1, b"x".as_slice()).unwrap();
        let bytes = archive.finish().unwrap();
        let mut tar = tar::Archive::new(bytes.as_slice());
        let last = tar.entries().unwrap().last().unwrap().unwrap().path().unwrap().display().to_string();
        assert_eq!(last, format!("blobs/sha512/{}", digest.hex()));
    }

    #[test]
    fn content_of_another_length_is_an_error() {
        assert!(archive(b"hello", 4).is_err());
        assert!(archive(b"hello", 6).is_err());
    }
}
