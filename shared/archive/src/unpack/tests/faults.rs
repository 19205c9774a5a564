//! What messages say of what cannot be read.

use std::error::Error;

use super::*;

/// The whole message.
fn told(error: &ArchiveError) -> String {
    let mut told = error.to_string();
    let mut at = error.source();
    while let Some(cause) = at {
        told = format!("{told}: {cause}");
        at = cause.source();
    }
    told
}

#[test]
fn unknown_compression_is_named() {
    let magics: [(&[u8], &str); 5] = [
        (b"\xfd7zXZ\0", "xz"),
        (b"BZh9", "bzip2"),
        (b"\x04\x22\x4d\x18", "lz4"),
        (b"LZIP", "lzip"),
        (b"PK\x03\x04", "zip"),
    ];
    for (magic, what) in magics {
        for length in [100, 2048] {
            let bytes = [magic, &vec![0x9c; length]].concat();
            let error = refused(&bytes);
            assert!(error.is_unsupported());
            assert_eq!(told(&error), format!("{what} is not supported; use gzip, zstd or plain"));
        }
    }
    let named = Tar::new().file("BZh", "x").file("oci-layout", "{}").done();
    assert!(read(&named).is_ok(), "a name may begin like anything");
}

#[test]
fn double_compression_is_refused() {
    let plain = layout();
    for bytes in [gzip(&gzip(&plain)), gzip(&zstd(&plain)), zstd(&gzip(&plain)), zstd(b"BZh9 and so on")] {
        let error = refused(&bytes);
        assert!(error.is_unsupported());
        assert_eq!(told(&error), "double compression is not supported; use gzip, zstd or plain");
    }
}

#[test]
fn what_is_no_tar_is_told_without_its_bytes() {
    for byte in [b'x', 0x9c, 0x1b] {
        for bytes in [vec![byte; 2048], gzip(&[byte; 2048])] {
            let error = refused(&bytes);
            assert_eq!(told(&error), "this is no tar archive");
            assert!(error.is_integrity());
        }
    }
    let mut bytes = Tar::new().blob(b"root").file("next", "x").done();
    bytes[1024..1536].fill(0x1b);
    let path = format!("blobs/sha256/{}", Digest::of(b"root").hex());
    assert_eq!(told(&refused(&bytes)), format!("malformed header of the entry behind {path:?}"));
}

#[test]
fn entry_that_cannot_be_read_is_named() {
    for name in ["c.json".to_owned(), "\u{1b}[31m.json".to_owned(), format!("{}.json", "x".repeat(3000))] {
        let bytes = Tar::new().file(&name, vec![b'x'; 5000]).done();
        let cut = bytes.len() - 3000;
        let limits = UnpackLimits { blob_bytes_max: 4999, ..UnpackLimits::default() };
        for error in [refused(&bytes[..cut]), read_with(&bytes, &limits).err().expect("it is refused")] {
            let shown: String = name.chars().take(256).collect();
            assert!(
                told(&error).starts_with(&format!("cannot read entry {shown:?} of the archive: ")),
                "{error:?}"
            );
            assert!(!told(&error).contains('\u{1b}'));
            assert!(matches!(bare(error), ArchiveError::Truncated { .. } | ArchiveError::TooMuch { .. }));
        }
    }
    let list = listed("c.json", &[&"x".repeat(3000)]);
    let error = refused(&Tar::new().file("c.json", config(&[b""])).file("manifest.json", list).done());
    assert!(matches!(&error, ArchiveError::Absent { name } if name.len() == 256), "{error:?}");
}

#[test]
fn what_is_no_archive_is_refused() {
    assert!(matches!(refused(&[b'x'; 2048]), ArchiveError::NotTar));
    let mut damaged = gzip(&layout());
    let end = damaged.len() - 6;
    damaged[end] ^= 1;
    assert!(matches!(bare(refused(&damaged)), ArchiveError::Unreadable { .. }));
    let huge = "9".repeat(30);
    let bytes = Tar::new().file("index.json", index(&[""]).replace(":4,", &format!(":{huge},"))).done();
    assert!(matches!(refused(&bytes), ArchiveError::Document { .. }));
}
