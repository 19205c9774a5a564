//! What is refused, and that nothing refused ends as a whole archive.

use std::io::{self, Write};

use larder_oci::Digest;

use super::super::{EntryFault, FlattenLimits, Layer, Layers, flatten};
use super::{Stored, Tar, gzip, header};
use crate::ArchiveError;

/// Checks that the topmost of `tars` is refused for its entry `name`.
fn refuses(tars: impl IntoIterator<Item = Tar>, name: &str, expected: EntryFault) {
    let stored = Stored::of(tars);
    match stored.flatten() {
        Err(ArchiveError::Entry { layer, name: told, fault }) => {
            assert_eq!((told.as_str(), fault), (name, expected));
            assert_eq!(layer, stored.layers.last().unwrap().digest);
        }
        other => panic!("{name:?}: {other:?}"),
    }
}

#[test]
fn names_that_escape_are_refused() {
    for (name, fault) in [
        ("../evil", EntryFault::Climbs),
        ("a/../../evil", EntryFault::Climbs),
        ("/etc/passwd", EntryFault::Absolute),
        ("", EntryFault::Empty),
        (".wh...", EntryFault::Reserved),
        ("./", EntryFault::Root),
    ] {
        refuses([Tar::new().file(name, "x")], name, fault);
    }
    refuses([Tar::new().pax([("path", b"a\0b".as_slice())]).file("a", "")], "a\0b", EntryFault::Nul);
}

#[test]
fn parents_that_are_no_directories_are_refused() {
    let link = || Tar::new().symlink("d", "/etc");
    refuses([link().file("d/passwd", "x")], "d/passwd", EntryFault::Parent);
    refuses([link(), Tar::new().file("d/passwd", "x")], "d/passwd", EntryFault::Parent);
    refuses([link(), Tar::new().file("d/a/b", "x")], "d/a/b", EntryFault::Parent);
    refuses([link(), Tar::new().file("d/.wh.passwd", "")], "d/passwd", EntryFault::Parent);
    refuses([link(), Tar::new().file("d/.wh..wh..opq", "")], "d", EntryFault::Parent);
    refuses([Tar::new().file("f", "x"), Tar::new().directory("f/d")], "f/d", EntryFault::Parent);
}

#[test]
fn hard_links_to_nothing_are_refused() {
    for target in ["absent", "/etc/shadow", "d", "g"] {
        refuses([Tar::new().directory("d").link("g", target)], "g", EntryFault::Target);
    }
    refuses([Tar::new().link("a", "b").link("b", "a")], "b", EntryFault::Target);
    refuses([Tar::new().link("g", "../f")], "g", EntryFault::Climbs);
    refuses([Tar::new().link("g", "")], "g", EntryFault::Empty);
}

#[test]
fn sparse_files_and_unknown_kinds_are_refused() {
    refuses([Tar::new().entry(b'S', "f", "", "")], "f", EntryFault::Sparse);
    let pax = [("GNU.sparse.major", b"1".as_slice()), ("GNU.sparse.minor", b"0")];
    refuses([Tar::new().pax(pax).file("f", "x")], "f", EntryFault::Sparse);
    refuses([Tar::new().entry(b'M', "f", "", "")], "f", EntryFault::Kind);
}

#[test]
fn broken_tars_are_refused() {
    let whole = Tar::new().file("f", "content").bytes();
    let mut summed_wrong = whole.clone();
    summed_wrong[0] ^= 1;
    let mut lone_zero_block = whole.clone();
    lone_zero_block.splice(1536..1536, whole[..512].iter().copied());
    let two_extensions =
        Tar::new().pax([("path", b"a".as_slice())]).pax([("path", b"b".as_slice())]).file("f", "").bytes();
    for bytes in
        [&whole[..100], &whole[..600], &summed_wrong, &lone_zero_block, &two_extensions, b"BZh9 no tar"]
    {
        let result = Stored::one(None, bytes.to_vec()).flatten();
        assert!(matches!(result, Err(ArchiveError::Malformed { .. })), "{result:?}");
    }
    let dangling = Tar::new().pax([("path", b"a".as_slice())]).bytes();
    assert!(matches!(Stored::one(None, dangling).flatten(), Err(ArchiveError::Malformed { .. })));
    let mut huge = header(b'0', 1 << 40);
    huge.set_cksum();
    let mut extension = header(b'x', 1 << 40);
    extension.set_cksum();
    assert!(Stored::one(None, extension.as_bytes().to_vec()).flatten().is_err());
    let result = Stored::one(None, [huge.as_bytes().as_slice(), &[0; 512]].concat()).flatten();
    assert!(result.is_err());
}

#[test]
fn limits_hold() {
    let limits = FlattenLimits { entries_max: 2, ..FlattenLimits::default() };
    let stored = Stored::of([Tar::new().file("a", ""), Tar::new().file("b", "").file("c", "")]);
    assert!(matches!(
        stored.flatten_within(&limits),
        Err(ArchiveError::Limit { what: "entries", max: 2, .. })
    ));

    let result = Stored::of([Tar::new().file("a/b/c/d", "")]).flatten_within(&limits);
    assert!(matches!(result, Err(ArchiveError::Limit { what: "directories", .. })));

    let limits = FlattenLimits { names_bytes_max: 3, ..FlattenLimits::default() };
    let result = Stored::of([Tar::new().file("ab", "").file("cd", "")]).flatten_within(&limits);
    assert!(matches!(result, Err(ArchiveError::Limit { what: "bytes of names", .. })));

    let limits = FlattenLimits { extension_bytes_max: 64, ..FlattenLimits::default() };
    let result = Stored::of([Tar::new().pax([("comment", [b'x'; 80].as_slice())]).file("f", "")])
        .flatten_within(&limits);
    assert!(matches!(result, Err(ArchiveError::Limit { .. })));
}

#[test]
fn a_layer_that_inflates_beyond_all_measure_is_refused() {
    let bomb = gzip(&vec![0; 4 << 20]);
    let limits = FlattenLimits { ratio_floor_bytes: 1 << 20, ..FlattenLimits::default() };
    let result = Stored::one(None, bomb.clone()).flatten_within(&limits);
    assert!(matches!(result, Err(ArchiveError::Ratio { ratio_max: 100, .. })), "{result:?}");
    assert!(Stored::one(None, bomb).flatten().is_ok(), "below the floor any ratio is fine");
}

#[test]
fn a_wrong_diff_id_is_refused() {
    let want = Digest::of(b"another");
    let bytes = Tar::new().file("f", "x").bytes();
    let result = Stored::one(Some(want.clone()), gzip(&bytes)).flatten();
    match result {
        Err(ArchiveError::DiffId { want: told, got, .. }) => {
            assert_eq!((told, got), (want, Digest::of(&bytes)));
        }
        other => panic!("{other:?}"),
    }
}

/// Opens well once, then as another layer.
struct Changing(Stored, std::sync::atomic::AtomicUsize);

impl Layers for Changing {
    fn open(&self, _: &Layer) -> io::Result<Box<dyn io::Read + Send>> {
        let opened = self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.0.open(&self.0.layers[opened])
    }
}

#[test]
fn a_layer_that_changes_between_the_passes_is_refused() {
    for (first, then) in [(1, 2), (2, 1)] {
        let tar = |files: usize| (0..files).fold(Tar::new(), |tar, file| tar.file(&format!("f{file}"), "x"));
        let mut stored = Stored::of([tar(first), tar(then)]);
        stored.layers.iter_mut().for_each(|layer| layer.diff_id = None);
        let layers = stored.layers[..1].to_vec();
        let result = flatten(&layers, &Changing(stored, 0.into()), &FlattenLimits::default(), Vec::new());
        assert!(matches!(result, Err(ArchiveError::Changed { .. })), "{result:?}");
    }
}

/// A writer that takes so many bytes and no more.
struct Full<'a>(&'a mut Vec<u8>, usize);

impl Write for Full<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > self.1 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_writer_that_fails_ends_the_work_and_gets_no_end_of_archive() {
    let content = "x".repeat(1 << 20);
    let stored = Stored::of((0..20).map(|number| Tar::new().file(&format!("f{number}"), &content)));
    for bytes_max in [0, 1000, 5 << 20] {
        let mut written = Vec::new();
        let result =
            flatten(&stored.layers, &stored, &FlattenLimits::default(), Full(&mut written, bytes_max));
        assert!(matches!(result, Err(ArchiveError::Write { .. })));
        assert!(!written.ends_with(&[0; 1024]));
    }
}

#[test]
fn an_error_at_the_very_end_leaves_no_end_of_archive() {
    let mut written = Vec::new();
    let stored = Stored::one(Some(Digest::of(b"another")), Tar::new().file("f", "x").bytes());
    let out = Full(&mut written, usize::MAX);
    assert!(flatten(&stored.layers, &stored, &FlattenLimits::default(), out).is_err());
    assert_eq!(written.len(), 1024, "one file, and nothing behind it");
}
