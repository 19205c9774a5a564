//! Whole images, made of small tars, flattened.

mod hostile;
mod merging;
mod streams;

use std::collections::HashMap;
use std::io::{self, Read, Write};

use larder_oci::Digest;

use super::{FlattenLimits, Layer, Layers, flatten};
use crate::ArchiveError;

/// A layer being made.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// Adds an entry as it is: no check and no cleaning of names, which have at most 100 bytes.
    fn entry(mut self, kind: u8, name: &str, link: &str, content: &str) -> Self {
        let mut header = header(kind, content.len() as u64);
        let block = header.as_mut_bytes();
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, content.as_bytes()).unwrap();
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(b'0', name, "", content)
    }

    fn directory(self, name: &str) -> Self {
        self.entry(b'5', name, "", "")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(b'1', name, target, "")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(b'2', name, target, "")
    }

    /// Adds PAX records for the entry that follows.
    fn pax<'a>(mut self, records: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        self.0.append_pax_extensions(records).unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn header(kind: u8, size_bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_mode(if kind == b'5' { 0o750 } else { 0o640 });
    header.set_uid(1);
    header.set_gid(2);
    header.set_mtime(3);
    header.set_size(size_bytes);
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_username("u").unwrap();
    header.set_groupname("g").unwrap();
    header
}

/// The stored bytes of an image's layers.
#[derive(Default)]
struct Stored {
    layers: Vec<Layer>,
    bytes: HashMap<Digest, Vec<u8>>,
}

impl Stored {
    fn of(tars: impl IntoIterator<Item = Tar>) -> Self {
        let mut stored = Self::default();
        for tar in tars {
            let bytes = tar.bytes();
            stored.add(Some(Digest::of(&bytes)), bytes);
        }
        stored
    }

    fn one(diff_id: Option<Digest>, bytes: Vec<u8>) -> Self {
        let mut stored = Self::default();
        stored.add(diff_id, bytes);
        stored
    }

    fn add(&mut self, diff_id: Option<Digest>, bytes: Vec<u8>) {
        let digest = Digest::of(&bytes);
        self.layers.push(Layer { digest: digest.clone(), diff_id });
        self.bytes.insert(digest, bytes);
    }

    fn flatten_within(&self, limits: &FlattenLimits) -> Result<Vec<u8>, ArchiveError> {
        flatten(&self.layers, self, limits, Vec::new())
    }

    fn flatten(&self) -> Result<Vec<u8>, ArchiveError> {
        self.flatten_within(&FlattenLimits::default())
    }
}

impl Layers for Stored {
    fn open(&self, layer: &Layer) -> io::Result<Box<dyn Read + Send>> {
        let bytes = self.bytes.get(&layer.digest).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(io::Cursor::new(bytes.clone())))
    }
}

/// Says each entry in a line: `name/` for directories, `name -> target` for symbolic links, `name = target` for hard
/// links, `name: content` for files.
fn listing(bytes: &[u8]) -> Vec<String> {
    assert!(bytes.ends_with(&[0; 1024]), "the archive has no end");
    let mut archive = tar::Archive::new(bytes);
    archive.entries().unwrap().map(|entry| describe(&mut entry.unwrap())).collect()
}

fn describe(entry: &mut tar::Entry<&[u8]>) -> String {
    let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let link =
        entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned()).unwrap_or_default();
    let mut content = String::new();
    entry.read_to_string(&mut content).unwrap();
    match entry.header().entry_type() {
        tar::EntryType::Directory => name,
        tar::EntryType::Symlink => format!("{name} -> {link}"),
        tar::EntryType::Link => format!("{name} = {link}"),
        tar::EntryType::Regular => format!("{name}: {content}"),
        other => format!("{name} {other:?}"),
    }
}

fn check(tars: impl IntoIterator<Item = Tar>, expected: &[&str]) {
    let bytes = Stored::of(tars).flatten().unwrap();
    assert_eq!(listing(&bytes), expected);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
