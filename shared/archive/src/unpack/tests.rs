//! Archives as the tools write them, and as nobody should.

mod faults;
mod proof;

use std::collections::HashMap;
use std::io::Write;

use flate2::Compression as Level;
use flate2::write::GzEncoder;
use larder_oci::{Algorithm, Digester, Document, Kind, media_type};

use super::*;
use crate::{DockerArchive, OciArchive};

/// Keeps what it is given, and refuses what does not hold.
#[derive(Default)]
struct Memory(HashMap<Digest, Vec<u8>>);

impl Sink for Memory {
    fn blob(&mut self, digest: &Digest, size: u64, content: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        assert_eq!(bytes.len() as u64, size);
        let mut digester = Digester::new(digest.algorithm());
        digester.update(&bytes);
        if digester.finish() != *digest {
            return Err(io::Error::other("it does not hold"));
        }
        self.0.insert(digest.clone(), bytes);
        Ok(())
    }

    fn draft(&mut self, content: &mut dyn Read) -> io::Result<(Digest, u64)> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        self.0.insert(digest.clone(), bytes);
        Ok((digest, size))
    }
}

/// An archive being put together.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn file(mut self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.as_ref().len() as u64);
        header.set_mode(0o644);
        self.0.append_data(&mut header, name, content.as_ref()).unwrap();
        self
    }

    fn blob(self, content: &[u8]) -> Self {
        self.file(&format!("blobs/sha256/{}", Digest::of(content).hex()), content)
    }

    fn link(mut self, kind: tar::EntryType, name: &str, target: &str) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        self.0.append_link(&mut header, name, target).unwrap();
        self
    }

    fn folder(mut self, name: &str) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        self.0.append_data(&mut header, name, io::empty()).unwrap();
        self
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.link(tar::EntryType::Symlink, name, target)
    }

    fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn read(bytes: &[u8]) -> Result<(Vec<Found>, Memory), ArchiveError> {
    read_with(bytes, &UnpackLimits::default())
}

fn read_with(bytes: &[u8], limits: &UnpackLimits) -> Result<(Vec<Found>, Memory), ArchiveError> {
    let mut memory = Memory::default();
    unpack(bytes, &mut memory, limits).map(|found| (found, memory))
}

fn refused(bytes: &[u8]) -> ArchiveError {
    read(bytes).err().expect("it is refused")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

fn index(annotations: &[&str]) -> String {
    let digest = Digest::of(b"root");
    let manifests: Vec<String> = annotations
        .iter()
        .map(|annotations| {
            let media_type = media_type::OCI_MANIFEST;
            format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":4,"annotations":{{{annotations}}}}}"#)
        })
        .collect();
    format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, manifests.join(","))
}

fn layout() -> Vec<u8> {
    Tar::new().file("oci-layout", "{}").blob(b"root").file("index.json", index(&[""])).done()
}

/// An image as docker's list has it.
fn listed(config: &str, layers: &[&str]) -> String {
    let layers = layers.iter().map(|layer| format!("{layer:?}")).collect::<Vec<_>>().join(",");
    format!(r#"[{{"Config":"{config}","RepoTags":["h.io/r:1","r:2"],"Layers":[{layers}],"Parent":""}}]"#)
}

/// A configuration of layers with these contents.
fn config(layers: &[&[u8]]) -> String {
    let diff_ids: Vec<_> = layers.iter().map(|layer| format!("\"{}\"", Digest::of(layer))).collect();
    format!(r#"{{"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#, diff_ids.join(","))
}

/// What is wrong, wherever.
fn bare(error: ArchiveError) -> ArchiveError {
    match error {
        ArchiveError::Within { source, .. } => *source,
        error => error,
    }
}

/// Asserts that one image is found, with this configuration and these layers.
fn assert_saved(bytes: &[u8], config: &[u8], layers: &[(&[u8], &str)]) {
    let (found, memory) = read(bytes).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].names, ["h.io/r:1", "r:2"]);
    let manifest = memory.0[&found[0].descriptor.digest].clone();
    assert_eq!(manifest.len() as u64, found[0].descriptor.size);
    let document = Document::parse(manifest.into(), Some(&found[0].descriptor.media_type)).unwrap();
    let Kind::Image(image) = document.kind() else { panic!("no image") };
    assert_eq!(image.config.media_type, media_type::OCI_CONFIG);
    assert_eq!(memory.0[&image.config.digest], config);
    let stored: Vec<(&[u8], &str)> = image
        .layers
        .iter()
        .map(|layer| {
            let content = &memory.0[&layer.digest];
            assert_eq!(content.len() as u64, layer.size);
            (content.as_slice(), layer.media_type.rsplit('.').next().unwrap())
        })
        .collect();
    assert_eq!(stored, layers);
}

#[test]
fn t55_names_come_in_their_order_as_they_stand() {
    let annotations = [
        r#""org.opencontainers.image.ref.name":"1","io.containerd.image.name":"h.io/b:1, h.io/a:1""#,
        "",
        r#""org.opencontainers.image.ref.name":"h.io/c:1","io.containerd.image.name":"h.io/c:1""#,
        r#""org.opencontainers.image.ref.name":"h.io/d:1""#,
    ];
    let (found, memory) =
        read(&Tar::new().file("index.json", index(&annotations)).blob(b"root").done()).unwrap();
    let names: Vec<_> = found.iter().map(|found| found.names.clone()).collect();
    assert_eq!(names, [vec!["h.io/b:1", "h.io/a:1", "1"], vec![], vec!["h.io/c:1"], vec!["h.io/d:1"]]);
    assert_eq!(found[0].descriptor.digest, Digest::of(b"root"));
    assert_eq!(found[0].descriptor.annotations.len(), 2);
    assert_eq!(memory.0[&Digest::of(b"root")], b"root");
}

#[test]
fn t56_blob_that_does_not_hold_is_refused() {
    let wrong = Tar::new().file(&format!("blobs/sha256/{}", Digest::of(b"right").hex()), "wrong").done();
    assert!(matches!(refused(&wrong), ArchiveError::Store { .. }));
}

#[test]
fn t57_archive_cut_anywhere_is_an_error() {
    let whole = layout();
    // Two blocks mark the end, and one of them is enough.
    for bytes in [whole.clone(), gzip(&whole), zstd(&whole)] {
        let is_plain = bytes == whole;
        let end = if is_plain { bytes.len() - 1024 } else { bytes.len() - 1 };
        for length in (0..=end).step_by(if is_plain { 128 } else { 1 }) {
            let error = bare(refused(&bytes[..length]));
            assert!(matches!(error, ArchiveError::Truncated { .. }), "{length} bytes of {end}: {error:?}");
        }
        assert!(read(&bytes).is_ok());
    }
}

#[test]
fn t59_leading_dots_and_folders_do_not_matter() {
    let blob = format!("./blobs/sha256/{}", Digest::of(b"root").hex());
    let mut tar = Tar::new();
    for folder in ["./", "./blobs/", "./blobs/sha256/"] {
        tar = tar.folder(folder);
    }
    let (found, memory) = read(&tar.file(&blob, "root").file("./index.json", index(&[""])).done()).unwrap();
    assert_eq!((found.len(), memory.0.len()), (1, 1));
}

#[test]
fn t60_archives_of_old_docker_are_refused_with_advice() {
    for name in ["repositories", "abc/VERSION", "abc/json"] {
        assert!(matches!(refused(&Tar::new().file(name, "{}").done()), ArchiveError::Legacy), "{name}");
    }
    assert!(matches!(
        refused(&Tar::new().file("abc/layer.tar", "x").file("abc/json", "{}").done()),
        ArchiveError::Legacy
    ));
}

#[test]
fn t61_layout_without_a_list_has_no_images() {
    let bytes = Tar::new().blob(b"root").file("etc/passwd", "x").symlink("usr/lib", "/lib").done();
    let (found, memory) = read(&bytes).unwrap();
    assert_eq!((found, memory.0.len()), (vec![], 1));
    assert_eq!(read(&Tar::new().file("oci-layout", "{}").done()).unwrap().0, []);
    let folders = Tar::new().folder("blobs/").folder("oci-layout/").done();
    for bytes in [Tar::new().done(), Tar::new().file("etc/passwd", "x").done(), folders] {
        let error = refused(&bytes);
        assert!(matches!(error, ArchiveError::Unknown) && error.is_unsupported(), "{error:?}");
        assert_eq!(error.to_string(), "no OCI layout and no docker save");
    }
}

#[test]
fn t62_own_archives_come_back_as_they_were() {
    let mut root = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(b"root"), 4);
    root.platform = Some("linux/arm64".parse().unwrap());
    let mut archive = OciArchive::begin(Vec::new(), "h.io/r:1", &root).unwrap();
    archive.blob(&root.digest, 4, b"root".as_slice()).unwrap();
    let (found, memory) = read(&archive.finish().unwrap()).unwrap();
    assert_eq!(found[0].names, ["h.io/r:1"]);
    assert_eq!(found[0].descriptor.digest, root.digest);
    assert_eq!(found[0].descriptor.platform, root.platform);
    assert_eq!(memory.0[&root.digest], b"root");
    let (plain, packed) = (b"layer".as_slice(), zstd(b"layer"));
    let mut archive = DockerArchive::begin(Vec::new(), "h.io/r:1");
    let config = config(&[plain; 3]);
    archive.config(&Digest::of(config.as_bytes()), config.len() as u64, config.as_bytes()).unwrap();
    for layer in [plain, &packed, plain] {
        archive.layer(&Digest::of(layer), layer.len() as u64, layer).unwrap();
    }
    let (found, memory) = read(&archive.finish().unwrap()).unwrap();
    assert_eq!(found[0].names, ["h.io/r:1"]);
    assert_eq!(memory.0.len(), 4);
}

#[test]
fn compressed_archives_are_told_by_their_first_bytes() {
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 7][..], &zstd(&layout())].concat();
    let whole = layout();
    let (first, second) = whole.split_at(700);
    let members = [gzip(first), gzip(second)].concat();
    for bytes in [gzip(&layout()), zstd(&layout()), skippable, members] {
        let (found, memory) = read(&bytes).unwrap();
        assert_eq!((found.len(), memory.0.len()), (1, 1));
    }
}

#[test]
fn reads_what_skopeo_saves() {
    let layer = gzip(b"layer");
    let json = config(&[b"base", b"layer", b"base"]);
    let (config, base) = (Digest::of(json.as_bytes()), Digest::of(b"base"));
    let (config, base) = (format!("{}.json", config.hex()), format!("{}.tar", base.hex()));
    let bytes = Tar::new()
        .file(&base, "base")
        .symlink("one/layer.tar", &format!("../{base}"))
        .file("one/VERSION", "1.0")
        .file("one/json", "{}")
        .file("two.tar", &layer)
        .file(&config, &json)
        .file("manifest.json", listed(&config, &[&base, "two.tar", "one/layer.tar"]))
        .file("repositories", "{}")
        .done();
    assert_saved(&bytes, json.as_bytes(), &[(b"base", "tar"), (&layer, "tar+gzip"), (b"base", "tar")]);
}

#[test]
fn reads_what_old_docker_saves_in_any_order() {
    let json = config(&[b"one".as_slice(); 4]);
    let bytes = Tar::new()
        .file(
            "manifest.json",
            listed("c.json", &["one/layer.tar", "two/layer.tar", "three/layer.tar", "four/layer.tar"]),
        )
        .file("one/layer.tar", "one")
        .symlink("two/layer.tar", "../one/layer.tar")
        .link(tar::EntryType::Link, "three/layer.tar", "one/layer.tar")
        .symlink("four/layer.tar", "../two/layer.tar")
        .file("c.json", &json)
        .done();
    assert_saved(&bytes, json.as_bytes(), &[(b"one".as_slice(), "tar"); 4]);
}

#[test]
fn reads_what_crane_and_rules_oci_save() {
    let (packed, json) = (zstd(b"layer"), config(&[b"layer"]));
    let config = Digest::of(json.as_bytes());
    let crane = Tar::new()
        .file(config.as_str(), &json)
        .file("abc.tar.gz", &packed)
        .file("manifest.json", listed(config.as_str(), &["abc.tar.gz"]))
        .done();
    assert_saved(&crane, json.as_bytes(), &[(&packed, "tar+zstd")]);
    let path = format!("blobs/sha256/{}", config.hex());
    let bazel = Tar::new()
        .blob(json.as_bytes())
        .file("blobs/sha256/abc.tar.gz", &packed)
        .file("manifest.json", listed(&path, &["blobs/sha256/abc.tar.gz"]))
        .done();
    assert_saved(&bazel, json.as_bytes(), &[(&packed, "tar+zstd")]);
}

#[test]
fn layout_counts_where_an_archive_is_both() {
    let path = format!("blobs/sha256/{}", Digest::of(b"root").hex());
    let bytes =
        Tar::new().blob(b"root").file("manifest.json", listed(&path, &[&path])).file("repositories", "{}");
    let name = r#""io.containerd.image.name":"h.io/own:1""#;
    let (found, memory) = read(&bytes.file("index.json", index(&[name])).done()).unwrap();
    assert_eq!(found[0].names, ["h.io/own:1"]);
    assert_eq!(memory.0.len(), 1, "no manifest is made");
}

#[test]
fn list_that_names_what_is_not_there_is_refused() {
    for list in [
        listed("absent.json", &[]),
        listed("c.json", &["absent.tar"]),
        listed("c.json", &["loop/layer.tar"]),
        listed("c.json", &["out/layer.tar"]),
        listed("../c.json", &[]),
    ] {
        let bytes = Tar::new()
            .file("c.json", config(&[b""]))
            .symlink("loop/layer.tar", "layer.tar")
            .symlink("out/layer.tar", "../../c.json")
            .file("manifest.json", &list)
            .done();
        assert!(matches!(refused(&bytes), ArchiveError::Absent { .. }), "{list}");
    }
    for list in ["{}", "[{}]", "", "[1]"] {
        let bytes = Tar::new().file("manifest.json", list).done();
        assert!(matches!(refused(&bytes), ArchiveError::List { .. }), "{list}");
    }
}

#[test]
fn blobs_are_plain_files_named_by_digests() {
    let path = format!("blobs/sha256/{}", Digest::of(b"root").hex());
    for name in [path.as_str(), "index.json", "manifest.json"] {
        for kind in [tar::EntryType::Symlink, tar::EntryType::Link, tar::EntryType::Char] {
            let bytes = Tar::new().blob(b"root").link(kind, name, "elsewhere").done();
            assert!(matches!(refused(&bytes), ArchiveError::NotAFile { .. }), "{kind:?} {name}");
        }
    }
    for name in ["blobs/sha256/abc", "blobs/md5/d41d8cd98f00b204e9800998ecf8427e"] {
        assert!(
            matches!(refused(&Tar::new().file(name, "").done()), ArchiveError::Misnamed { .. }),
            "{name}"
        );
    }
    let mut digester = Digester::new(Algorithm::Sha512);
    digester.update(b"root");
    let digest = digester.finish();
    let (_, memory) =
        read(&Tar::new().file(&format!("blobs/sha512/{}", digest.hex()), "root").done()).unwrap();
    assert_eq!(memory.0[&digest], b"root");
}

#[test]
fn lists_that_differ_are_refused() {
    let twice =
        |second: &str| Tar::new().blob(b"root").file("index.json", index(&[""])).file("./index.json", second);
    assert_eq!(read(&twice(&index(&[""])).done()).unwrap().0.len(), 1);
    let error = refused(&twice(&index(&[])).done());
    assert!(matches!(error, ArchiveError::Differs { name: "index.json" }), "{error:?}");
    let image = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#;
    for json in ["", "[]", image, r#"{"schemaVersion":2,"manifests":[{"size":-1}]}"#] {
        let error = refused(&Tar::new().file("index.json", json).done());
        assert!(matches!(error, ArchiveError::Document { .. }), "{json}: {error:?}");
    }
}

fn assert_too_much(bytes: &[u8], change: impl FnOnce(&mut UnpackLimits)) {
    assert!(read(bytes).is_ok());
    let mut limits = UnpackLimits::default();
    change(&mut limits);
    let error = read_with(bytes, &limits).err().expect("it is refused");
    assert!(matches!(bare(error), ArchiveError::TooMuch { .. }));
}

#[test]
fn everything_is_bounded() {
    assert_too_much(&layout(), |limits| limits.entries_max = 2);
    assert_too_much(&layout(), |limits| limits.name_bytes_max = 20);
    assert_too_much(&layout(), |limits| limits.names_bytes_max = 20);
    assert_too_much(&layout(), |limits| limits.blob_bytes_max = 3);
    assert_too_much(&layout(), |limits| limits.index_bytes_max = 20);
    let padded = [layout(), vec![0; 4096]].concat();
    assert_too_much(&padded, |limits| limits.trailing_bytes_max = 4000);
    let long = Tar::new().file(&"x/".repeat(1500), "").file("index.json", index(&[])).done();
    assert_too_much(&long, |limits| limits.header_bytes_max = 1000);
    let many = Tar::new().file("c.json", "{}").file("l.tar", "");
    let many = many.file("manifest.json", listed("c.json", &vec!["l.tar"; 10_001])).done();
    assert!(matches!(refused(&many), ArchiveError::TooMuch { .. }));
}

#[test]
fn long_name_that_never_ends_is_refused_before_it_is_held() {
    let mut header = tar::Header::new_gnu();
    header.set_path("././@LongLink").unwrap();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(1 << 50);
    header.set_cksum();
    let mut memory = Memory::default();
    let endless = header.as_bytes().chain(io::repeat(b'x'));
    let error = unpack(endless, &mut memory, &UnpackLimits::default()).unwrap_err();
    assert!(matches!(error, ArchiveError::TooMuch { what: "bytes of one header", .. }), "{error:?}");
}

#[test]
fn archive_that_inflates_beyond_measure_is_refused() {
    let bytes = Tar::new().file("oci-layout", "{}").file("zeros", vec![0; 4 << 20]).done();
    let limits = UnpackLimits { ratio_floor_bytes: 1 << 20, ..UnpackLimits::default() };
    assert!(read_with(&bytes, &limits).is_ok());
    for bytes in [gzip(&bytes), zstd(&bytes)] {
        assert!(read(&bytes).is_ok());
        let error = bare(read_with(&bytes, &limits).err().expect("it is refused"));
        assert!(matches!(error, ArchiveError::Bomb { ratio_max: 100 }), "{error:?}");
    }
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&bytes).unwrap();
    assert!(matches!(refused(&encoder.finish().unwrap()), ArchiveError::Unreadable { .. }));
}

#[test]
fn failures_of_stream_and_sink_are_told_apart_and_kept() {
    struct Full;
    impl Sink for Full {
        fn blob(&mut self, _: &Digest, _: u64, _: &mut dyn Read) -> io::Result<()> {
            Err(io::Error::other("full"))
        }

        fn draft(&mut self, content: &mut dyn Read) -> io::Result<(Digest, u64)> {
            // What it makes of a failing content does not matter.
            io::copy(content, &mut io::sink()).map(|_| (Digest::of(b""), 0)).or(Ok((Digest::of(b""), 0)))
        }
    }
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("broken"))
        }
    }
    let limits = UnpackLimits::default();
    let error = unpack(layout().as_slice(), &mut Full, &limits).unwrap_err();
    assert!(
        matches!(&error, ArchiveError::Store { source, .. } if source.to_string() == "full"),
        "{error:?}"
    );
    assert!(!error.is_integrity());
    let bytes = Tar::new().file("c.json", "{}").done();
    for length in [100, 512 + 1] {
        let error = bare(unpack(bytes[..length].chain(Broken), &mut Full, &limits).unwrap_err());
        let is_kept = matches!(&error, ArchiveError::Unreadable { source } if source.to_string() == "broken");
        assert!(is_kept, "{error:?}");
    }
}
