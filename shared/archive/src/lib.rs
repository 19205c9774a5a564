//! Images as tar streams.
//!
//! [`OciArchive`] writes an OCI image layout as a tar stream that containerd, skopeo and `docker load` read. The stream is
//! deterministic: equal images make equal bytes.

#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::collections::HashSet;
use std::io::{self, Read, Write};

use larder_oci::{Descriptor, Digest, media_type};
use serde::Serialize;

const NAME_ANNOTATION: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME_ANNOTATION: &str = "io.containerd.image.name";

/// An OCI image layout being written as a tar stream (OCI image-spec, image-layout.md).
pub struct OciArchive<W: Write> {
    tar: tar::Builder<W>,
    written: HashSet<Digest>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Descriptor>,
}

impl<W: Write> OciArchive<W> {
    /// Begins the archive of the image `root`, to be known as `name`.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn begin(out: W, name: &str, root: &Descriptor) -> io::Result<Self> {
        let mut archive = Self { tar: tar::Builder::new(out), written: HashSet::new() };
        archive.append("oci-layout", 26 + 4, br#"{"imageLayoutVersion":"1.0.0"}"#.as_slice())?;
        let mut root = root.clone();
        root.annotations.insert(NAME_ANNOTATION.to_owned(), name.to_owned());
        root.annotations.insert(CONTAINERD_NAME_ANNOTATION.to_owned(), name.to_owned());
        let index = Index { schema_version: 2, media_type: media_type::OCI_INDEX, manifests: vec![root] };
        let json = serde_json::to_vec(&index).map_err(io::Error::other)?;
        archive.append("index.json", json.len() as u64, json.as_slice())?;
        Ok(archive)
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
        self.append(&path, size, content)
    }

    /// Ends the archive and returns the writer, flushed.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(self) -> io::Result<W> {
        let mut out = self.tar.into_inner()?;
        out.flush()?;
        Ok(out)
    }

    fn append(&mut self, path: &str, size: u64, mut content: impl Read) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(0);
        let counted = Counted { inner: content.by_ref().take(size), left: size };
        self.tar.append_data(&mut header, path, counted)?;
        // Content that hashes what it yields fails only when asked for more, so its end is always asked for.
        match content.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(io::Error::other(format!("{path} is longer than its {size} bytes"))),
        }
    }
}

/// Refuses to end early: an archive that says a size must hold that many bytes.
struct Counted<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if count == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "content ends early"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
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
