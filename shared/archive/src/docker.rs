//! Images as `docker load` takes them (docker image-spec v1.2, "Combined Image JSON + Filesystem Changeset Format").

use std::collections::HashSet;
use std::io::{self, Read, Write};

use larder_oci::Digest;
use serde::Serialize;

use crate::files::Files;

/// One image being written as a docker archive: its configuration, each distinct layer, and `manifest.json` last. Layers keep
/// their stored bytes; who loads them tells by these how they are compressed, and not by the names, which all say `.tar.gz`.
pub struct DockerArchive<W: Write> {
    files: Files<W>,
    manifest: Manifest,
    written: HashSet<Digest>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Manifest {
    config: String,
    repo_tags: Option<[String; 1]>,
    layers: Vec<String>,
}

impl<W: Write> DockerArchive<W> {
    /// Begins the archive of an image to be known as `name`, which is written as it stands. One with a digest is no name that
    /// `docker load` takes: the image has none then.
    pub fn begin(out: W, name: &str) -> Self {
        let is_tag = !name.is_empty() && !name.contains('@');
        let repo_tags = is_tag.then(|| [name.to_owned()]);
        let manifest = Manifest { config: String::new(), repo_tags, layers: Vec::new() };
        Self { files: Files::new(out), manifest, written: HashSet::new() }
    }

    /// Adds the configuration, of `size` bytes.
    ///
    /// # Errors
    /// Those of `content`, which must have exactly `size` bytes, and of the writer.
    pub fn config(&mut self, digest: &Digest, size: u64, content: impl Read) -> io::Result<()> {
        self.manifest.config = digest.to_string();
        self.files.add(&self.manifest.config, size, content)
    }

    /// Adds the next layer, of `size` bytes, the lowest first; one that is there already is listed again, and not read.
    ///
    /// # Errors
    /// Those of `content`, which must have exactly `size` bytes, and of the writer.
    pub fn layer(&mut self, digest: &Digest, size: u64, content: impl Read) -> io::Result<()> {
        let path = format!("{}.tar.gz", digest.hex());
        if self.written.insert(digest.clone()) {
            self.files.add(&path, size, content)?;
        }
        self.manifest.layers.push(path);
        Ok(())
    }

    /// Ends the archive and returns the writer, flushed.
    ///
    /// # Errors
    /// Those of the writer; [`io::ErrorKind::InvalidInput`] when the image was given no configuration.
    pub fn finish(mut self) -> io::Result<W> {
        if self.manifest.config.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the image has no configuration"));
        }
        let json = serde_json::to_vec(&[self.manifest])?;
        self.files.add("manifest.json", json.len() as u64, json.as_slice())?;
        self.files.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(name: &str) -> io::Result<Vec<u8>> {
        let mut archive = DockerArchive::begin(Vec::new(), name);
        archive.config(&Digest::of(b"{}"), 2, b"{}".as_slice())?;
        for layer in [b"one", b"two", b"one"] {
            archive.layer(&Digest::of(layer), 3, layer.as_slice())?;
        }
        archive.finish()
    }

    #[test]
    fn t65_holds_config_distinct_layers_and_the_manifest_last() {
        let bytes = archive("x:y").unwrap();
        let hex = |content: &[u8]| Digest::of(content).hex().to_owned();
        let mut tar = tar::Archive::new(bytes.as_slice());
        let mut paths = Vec::new();
        let mut json = String::new();
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.mode().unwrap(), header.mtime().unwrap()), (0o644, 0));
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            paths.push(entry.path().unwrap().display().to_string());
            json.clear();
            entry.read_to_string(&mut json).unwrap();
        }
        let (one, two) = (format!("{}.tar.gz", hex(b"one")), format!("{}.tar.gz", hex(b"two")));
        let config = format!("sha256:{}", hex(b"{}"));
        assert_eq!(paths, [&config, &one, &two, "manifest.json"]);
        let expected =
            format!(r#"[{{"Config":"{config}","RepoTags":["x:y"],"Layers":["{one}","{two}","{one}"]}}]"#);
        assert_eq!(json, expected);
        assert_eq!(bytes, archive("x:y").unwrap());
    }

    #[test]
    fn digest_is_no_tag() {
        let name = format!("x@{}", Digest::of(b"x"));
        let text = String::from_utf8(archive(&name).unwrap()).unwrap();
        assert!(text.contains(r#""RepoTags":null"#));
    }

    #[test]
    fn content_of_another_length_and_no_configuration_are_errors() {
        let mut archive = DockerArchive::begin(Vec::new(), "x:y");
        assert!(archive.layer(&Digest::of(b"one"), 4, b"one".as_slice()).is_err());
        assert!(DockerArchive::begin(Vec::new(), "x:y").finish().is_err());
    }
}
