//! T67–T76: the layers of an image as one root filesystem.

use std::collections::BTreeMap;
use std::io::Read;

use larder_provider::ProviderError;
use larder_tests::{Image, Layer};

use super::archive::{Tar, put_as};
use super::stage::{self, Stage, digest, read};

const APP: &str = "registry.example.org/team/app:1";

/// The root filesystem of an image of `layers`, the lowest first.
async fn flat(stage: &Stage, layers: impl IntoIterator<Item = Tar>) -> Result<Vec<u8>, ProviderError> {
    let raw = layers.into_iter().map(|tar| Layer::raw(tar.finish()));
    let image = raw.fold(Image::build("linux/amd64"), larder_tests::image::ImageBuilder::layer).finish();
    put_as(stage, APP, &image).await;
    assert_eq!(stage.target(APP).await, Some(digest(&image.root)));
    let source = stage.cache().new_source(APP, &"linux/amd64".parse().unwrap()).await?;
    read(source.tar_reader().await?).await
}

/// Says each entry in a line: `name/` for directories, `name -> target` for symbolic links, `name = target` for hard links,
/// `name: content` for files.
fn listing(archive: &[u8]) -> Vec<String> {
    assert!(archive.ends_with(&[0; 1024]), "the archive has no end");
    let mut archive = tar::Archive::new(archive);
    let describe = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let name = text(&entry.path_bytes());
        let target = entry.link_name_bytes().map(|target| text(&target)).unwrap_or_default();
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        match entry.header().entry_type() {
            tar::EntryType::Directory => name,
            tar::EntryType::Symlink => format!("{name} -> {target}"),
            tar::EntryType::Link => format!("{name} = {target}"),
            _ => format!("{name}: {content}"),
        }
    };
    archive.entries().unwrap().map(describe).collect()
}

async fn check(stage: &Stage, layers: impl IntoIterator<Item = Tar>, expected: &[&str]) {
    let mut found = listing(&flat(stage, layers).await.unwrap());
    // Directories are first; the vectors are not about the order of the rest.
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn t67_file_in_the_place_of_a_directory_hides_all_below_it() {
    stage::on_both(async |stage| {
        let lower = Tar::new().directory("a/").file("a/x", "1").directory("a/b/").file("a/b/y", "2");
        check(stage, [lower, Tar::new().file("a", "file")], &["a: file"]).await;
    });
}

#[test]
fn t68_whiteout_removes_its_file_and_no_other() {
    stage::on_both(async |stage| {
        let lower = Tar::new().file("f", "1").file("f2", "2").directory("d/").file("d/f", "3");
        check(stage, [lower, Tar::new().file(".wh.f", "")], &["d/", "d/f: 3", "f2: 2"]).await;
    });
}

#[test]
fn t69_opaque_directory_hides_what_is_below_it_and_keeps_its_own_entries_in_any_order() {
    stage::on_both(async |stage| {
        let lower = || {
            let folder = Tar::new().directory("d/").file("d/old", "1").directory("d/e/");
            folder.file("d/e/old", "2").file("kept", "3")
        };
        let expected = ["d/", "d/new: 4", "kept: 3"];
        let before = Tar::new().directory("d/").file("d/.wh..wh..opq", "").file("d/new", "4");
        check(stage, [lower(), before], &expected).await;
        let after = Tar::new().directory("d/").file("d/new", "4").file("d/.wh..wh..opq", "");
        check(stage, [lower(), after], &expected).await;
    });
}

#[test]
fn t70_whiteout_of_a_directory_leaves_what_the_same_layer_puts_there() {
    stage::on_both(async |stage| {
        let lower = || Tar::new().directory("d/").file("d/old", "1");
        let expected = ["d/", "d/x: 2"];
        let before = Tar::new().file(".wh.d", "").directory("d/").file("d/x", "2");
        check(stage, [lower(), before], &expected).await;
        let after = Tar::new().directory("d/").file("d/x", "2").file(".wh.d", "");
        check(stage, [lower(), after], &expected).await;
    });
}

#[test]
fn t71_hard_link_keeps_the_content_of_a_file_that_is_replaced() {
    stage::on_both(async |stage| {
        let lower = Tar::new().file("f", "old").hard_link("g", "f");
        check(stage, [lower, Tar::new().file("f", "new")], &["f: new", "g: old"]).await;
    });
}

#[test]
fn t72_hard_link_survives_its_target_as_a_file() {
    stage::on_both(async |stage| {
        let lower = Tar::new().file("f", "old").hard_link("g", "f").hard_link("h", "f");
        check(stage, [lower, Tar::new().file(".wh.f", "")], &["g: old", "h = g"]).await;
    });
}

#[test]
fn t73_hard_links_follow_their_target_and_children_their_parent_under_clean_names() {
    stage::on_both(async |stage| {
        let lower =
            Tar::new().file("z/deep/target", "1").file("./dotted", "2").hard_link("a", "z/deep/target");
        let upper = Tar::new().file("z//doubled", "3").directory("./z/./deep/").file("dotted", "4");
        let found = listing(&flat(stage, [lower, upper]).await.unwrap());
        let place = |line: &str| found.iter().position(|other| other == line).expect(line);
        assert!(place("z/") < place("z/deep/") && place("z/deep/") < place("z/deep/target: 1"));
        assert!(place("z/deep/target: 1") < place("a = z/deep/target"));
        let mut all: Vec<&str> = found.iter().map(String::as_str).collect();
        all.sort_unstable();
        let expected =
            ["a = z/deep/target", "dotted: 4", "z/", "z/deep/", "z/deep/target: 1", "z/doubled: 3"];
        assert_eq!(all, expected);
    });
}

#[test]
fn t74_names_that_lead_out_of_the_root_are_refused() {
    stage::on_both(async |stage| {
        let hostile = [
            vec![Tar::new().file("../evil", "x")],
            vec![Tar::new().file("a/../../evil", "x")],
            vec![Tar::new().file("/etc/passwd", "x")],
            vec![Tar::new().symlink("link", "/etc").file("link/passwd", "x")],
            vec![Tar::new().symlink("link", "/etc"), Tar::new().file("link/passwd", "x")],
            vec![Tar::new().file("inside", "x").hard_link("evil", "../../etc/passwd")],
            vec![Tar::new().file("../.wh.evil", "")],
        ];
        for (case, layers) in hostile.into_iter().enumerate() {
            let refused = flat(stage, layers).await.unwrap_err();
            assert!(matches!(refused, ProviderError::Unsupported(_)), "case {case}: {refused:?}");
        }
    });
}

/// They are dropped: they describe one layer, and of the flattened filesystem they would tell lies.
#[test]
fn t75_table_of_contents_and_landmarks_of_estargz_are_dropped() {
    stage::on_both(async |stage| {
        let layer = Tar::new()
            .file(".prefetch.landmark", "\u{f}")
            .file("f", "1")
            .file("d/stargz.index.json", "kept, for it is no table of contents there")
            .file("stargz.index.json", "{}");
        let other = Tar::new().file(".no.prefetch.landmark", "\u{f}").file("g", "2");
        let kept = "d/stargz.index.json: kept, for it is no table of contents there";
        check(stage, [layer, other], &["d/", kept, "f: 1", "g: 2"]).await;
    });
}

/// The PAX records and the numbers of one entry.
#[derive(Debug, PartialEq)]
struct About {
    records: BTreeMap<String, Vec<u8>>,
    uid: u64,
    gid: u64,
}

fn about(archive: &[u8]) -> BTreeMap<String, About> {
    let mut archive = tar::Archive::new(archive);
    let mut all = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let pairs = entry.pax_extensions().unwrap().into_iter().flatten().map(|pair| {
            let pair = pair.unwrap();
            (pair.key().unwrap().to_owned(), pair.value_bytes().to_vec())
        });
        let records: BTreeMap<_, _> = pairs.filter(|(key, _)| key.starts_with("SCHILY.")).collect();
        let header = entry.header();
        let (uid, gid) = (header.uid().unwrap(), header.gid().unwrap());
        all.insert(name, About { records, uid, gid });
    }
    all
}

#[test]
fn t76_same_layers_make_the_same_bytes_and_nothing_of_an_entry_is_lost() {
    stage::on_both(async |stage| {
        let (long, longer) = (["n"; 120].concat(), [["n"; 200].concat(), ["m"; 200].concat()].join("/"));
        let owner = |kind| (kind, b"4194305".as_slice());
        let capability = ("SCHILY.xattr.security.capability", [1, 0, 0, 2, b'=', 0xff].as_slice());
        let layers = || {
            let owned = Tar::new().pax([owner("uid"), owner("gid"), capability]).file("owned", "1");
            let named = owned.pax([("path", long.as_bytes())]).file("short", "2");
            [named, Tar::new().pax([("path", longer.as_bytes())]).file("short", "3")]
        };
        let first = flat(stage, layers()).await.unwrap();
        assert!(first == flat(stage, layers()).await.unwrap(), "the bytes differ");
        let found = about(&first);
        let records = BTreeMap::from([(capability.0.to_owned(), capability.1.to_vec())]);
        assert_eq!(found["owned"], About { records, uid: 4_194_305, gid: 4_194_305 });
        for name in [&long, &longer] {
            assert!(found.contains_key(name), "{:?}", found.keys());
        }
    });
}
