//! Compression, digests, and what headers carry.

use std::collections::BTreeMap;
use std::io::{self, Read};

use larder_oci::{Algorithm, Digest, Digester};

use super::super::{FlattenLimits, Layer, Layers, flatten};
use super::{Stored, Tar, gzip, header, listing};
use crate::ArchiveError;

fn zstd_frame(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

const SKIPPABLE_FRAME: &[u8] = b"\x50\x2a\x4d\x18\x03\0\0\0toc";

/// The same layer in all the ways in which it may be stored.
fn ways(tar: &[u8]) -> Vec<Vec<u8>> {
    let (front, back) = tar.split_at(700);
    vec![
        tar.to_vec(),
        gzip(tar),
        [gzip(front), gzip(back)].concat(),
        zstd_frame(tar),
        [zstd_frame(front), zstd_frame(back), SKIPPABLE_FRAME.to_vec()].concat(),
        [SKIPPABLE_FRAME, &zstd_frame(tar)].concat(),
    ]
}

#[test]
fn compression_is_told_by_magic() {
    let tar = Tar::new().file("f", "content").bytes();
    for (way, bytes) in ways(&tar).into_iter().enumerate() {
        let flat = Stored::one(Some(Digest::of(&tar)), bytes).flatten().unwrap();
        assert_eq!(listing(&flat), ["f: content"], "way {way}");
    }
}

#[test]
fn bytes_behind_the_end_of_the_archive_count_for_the_diff_id() {
    let padded = [Tar::new().file("f", "x").bytes(), vec![7; 3_000_000]].concat();
    let flat = Stored::one(Some(Digest::of(&padded)), gzip(&padded)).flatten().unwrap();
    assert_eq!(listing(&flat), ["f: x"]);
}

#[test]
fn diff_ids_of_any_algorithm_are_verified() {
    let tar = Tar::new().file("f", "x").bytes();
    let mut digester = Digester::new(Algorithm::Sha512);
    digester.update(&tar);
    assert!(Stored::one(Some(digester.finish()), tar.clone()).flatten().is_ok());
    let wrong = Digester::new(Algorithm::Sha512).finish();
    assert!(matches!(Stored::one(Some(wrong), tar).flatten(), Err(ArchiveError::DiffId { .. })));
}

/// Fails at the end of each layer, as readers do that verify.
struct Corrupt(Stored);

struct FailingEnd(Box<dyn Read + Send>);

impl Read for FailingEnd {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 if !buffer.is_empty() => Err(io::ErrorKind::InvalidData.into()),
            count => Ok(count),
        }
    }
}

impl Layers for Corrupt {
    fn open(&self, layer: &Layer) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(FailingEnd(self.0.open(layer)?)))
    }
}

#[test]
fn the_verdict_at_the_end_of_the_stored_bytes_is_always_heard() {
    let tar = Tar::new().file("f", "content").bytes();
    for (way, bytes) in ways(&tar).into_iter().enumerate() {
        let stored = Stored::one(Some(Digest::of(&tar)), bytes);
        let layers = stored.layers.clone();
        let result = flatten(&layers, &Corrupt(stored), &FlattenLimits::default(), Vec::new());
        assert!(matches!(result, Err(ArchiveError::Read { .. })), "way {way}: {result:?}");
    }
}

#[test]
fn streams_that_are_cut_or_damaged_are_refused() {
    let tar = Tar::new().file("f", &"content".repeat(1000)).bytes();
    for (way, bytes) in ways(&tar).into_iter().enumerate().skip(1) {
        let cut = Stored::one(None, bytes[..bytes.len() - 2].to_vec()).flatten();
        assert!(matches!(cut, Err(ArchiveError::Read { .. })), "way {way}: {cut:?}");
    }
    let mut damaged = gzip(&tar);
    let checksum = damaged.len() - 6;
    damaged[checksum] ^= 1;
    assert!(matches!(Stored::one(None, damaged).flatten(), Err(ArchiveError::Read { .. })));
}

#[test]
fn an_absent_layer_is_an_error() {
    let mut stored = Stored::of([Tar::new().file("f", "x")]);
    stored.bytes.clear();
    assert!(matches!(stored.flatten(), Err(ArchiveError::Read { .. })));
}

#[test]
fn a_zstd_window_beyond_the_limit_is_refused() {
    let tar = Tar::new().file("f", &"content".repeat(1 << 20)).bytes();
    for (window_log, fits) in [(23, true), (24, false)] {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        io::copy(&mut tar.as_slice(), &mut encoder).unwrap();
        assert_eq!(Stored::one(None, encoder.finish().unwrap()).flatten().is_ok(), fits, "{window_log}");
    }
}

/// The PAX records of the only entry of an archive.
fn records(flat: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(flat);
    let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
    let extensions = entry.pax_extensions().unwrap().into_iter().flatten();
    extensions
        .map(|record| record.unwrap())
        .map(|record| (record.key().unwrap().into(), record.value_bytes().into()))
        .collect()
}

#[test]
fn extended_attributes_long_names_and_large_ids_are_kept() {
    let (name, target) = (format!("{}/é", "n".repeat(300)), "t".repeat(300));
    let pax: Vec<(&str, &[u8])> = vec![
        ("path", name.as_bytes()),
        ("linkpath", target.as_bytes()),
        ("SCHILY.xattr.security.capability", b"\x01\0=\x02"),
        ("uid", b"2097153"),
        ("gid", b"4294967294"),
        ("mtime", b"1.5"),
    ];
    let stored = Stored::of([Tar::new()
        .directory("n".repeat(90).as_str())
        .pax(pax.clone())
        .symlink("short", "short")]);
    let flat = stored.flatten().unwrap();
    assert_eq!(flat, stored.flatten().unwrap(), "equal layers make equal bytes");
    let last = listing(&flat).pop().unwrap();
    assert_eq!(last, format!("{name} -> {target}"));
    let start = flat.windows(4).rposition(|bytes| bytes == b"PaxH").unwrap();
    let expected = pax.into_iter().map(|(key, value)| (key.to_owned(), value.to_vec())).collect();
    assert_eq!(records(&flat[start..]), expected);
}

#[test]
fn names_beyond_one_field_are_kept_however_they_were_written() {
    let (prefixed, gnu) = (format!("{}/{}", "p".repeat(90), "q".repeat(90)), "g".repeat(300));
    let mut tar = Tar::new();
    let mut ustar = header(b'0', 0);
    tar.0.append_data(&mut ustar, &prefixed, io::empty()).unwrap();
    let mut long = tar::Header::new_gnu();
    long.set_size(0);
    tar.0.append_data(&mut long, &gnu, io::empty()).unwrap();
    let flat = Stored::of([tar]).flatten().unwrap();
    assert_eq!(listing(&flat), [format!("{}/", "p".repeat(90)), format!("{prefixed}: "), format!("{gnu}: ")]);
}

#[test]
fn modes_owners_times_and_device_numbers_are_kept() {
    let mut device = header(b'3', 0);
    device.set_path("d/tty").unwrap();
    device.set_mode(0o104_755);
    device.set_device_major(4).unwrap();
    device.set_device_minor(70_000).unwrap();
    device.set_cksum();
    let mut tar = Tar::new().directory("d");
    tar.0.append(&device, io::empty()).unwrap();
    let flat = Stored::of([tar]).flatten().unwrap();
    let mut archive = tar::Archive::new(flat.as_slice());
    let told: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            let owner = (header.uid().unwrap(), header.username().unwrap().unwrap().to_owned());
            (header.mode().unwrap(), owner, header.mtime().unwrap(), header.device_minor().unwrap().unwrap())
        })
        .collect();
    let owner = || (1, "u".to_owned());
    assert_eq!(told, [(0o750, owner(), 3, 0), (0o4755, owner(), 3, 70_000)]);
}

#[test]
fn made_up_directories_are_owned_by_root() {
    let flat = Stored::of([Tar::new().file("d/f", "x")]).flatten().unwrap();
    let mut archive = tar::Archive::new(flat.as_slice());
    let entry = archive.entries().unwrap().next().unwrap().unwrap();
    let header = entry.header();
    assert_eq!((header.mode().unwrap(), header.uid().unwrap(), header.mtime().unwrap()), (0o755, 0, 0));
}

#[test]
fn sizes_beyond_eight_gibibytes_are_read_and_written() {
    use super::super::{entries, header::Metadata, write};
    let entry = entries::Entry {
        name: b"f".to_vec(),
        kind: entries::Kind::File,
        link: Vec::new(),
        size_bytes: 9 << 30,
        metadata: Metadata::absent(),
    };
    let mut out = write::Writer::new(Vec::new(), BTreeMap::new());
    out.head(&entry, b"f").unwrap();
    let bytes = out.finish().unwrap();
    assert_eq!(records(&bytes)["size"], (9_u64 << 30).to_string().as_bytes());
    // The content is missing: so the size must have been believed.
    assert!(matches!(Stored::one(None, bytes).flatten(), Err(ArchiveError::Malformed { .. })));
}

#[test]
fn layers_without_an_end_mark_are_whole() {
    let tar = Tar::new().file("f", "x").bytes();
    assert_eq!(listing(&Stored::one(None, tar[..1024].to_vec()).flatten().unwrap()), ["f: x"]);
    assert_eq!(listing(&Stored::one(None, Vec::new()).flatten().unwrap()), Vec::<String>::new());
}
