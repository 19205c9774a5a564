//! Bytes that are not what was asked for.

use bytes::Bytes;
use larder_tests::image::{Layer, sha256};
use larder_tests::scripted::manifest_path;
use larder_tests::{Behaviour, Format, Image};

use super::{METHODS, REPOSITORY, Scene, claim, tagged};

const MIB: u64 = 1 << 20;

fn index_of_one() -> (Scene, Image) {
    let child = Image::small();
    (Scene::of(Image::index(Format::Oci).image(&child).finish()), child)
}

fn one_layer(bytes: usize) -> Scene {
    Scene::of(Image::of_noise(1, bytes))
}

#[test]
fn f01_child_manifest_that_is_not_its_digest_is_refused_though_the_header_claims_it() {
    let (scene, child) = index_of_one();
    let other = Image::build("linux/amd64").layer(Layer::random(100, 9)).finish();
    let path = manifest_path(REPOSITORY, &child.root.digest);
    scene.registry.always(
        &path,
        [Behaviour::Body(other.root.bytes), Behaviour::LieDigestHeader(child.root.digest.clone())],
    );
    scene.fails(4, &[&child.root.digest, &other.root.digest, "expected"]);
    assert!(!scene.larder.blob_path(&child.root.digest).exists());
    assert!(!scene.larder.blob_path(&other.root.digest).exists());
    assert_eq!(scene.registry.count("GET", "/blobs/"), 0, "a refused manifest was followed");
    scene.recovers();
}

#[test]
fn f01_root_that_is_not_the_digest_it_was_asked_for_by_leaves_no_trace() {
    let scene = Scene::small();
    let digest = scene.image.root.digest.clone();
    let other = Image::build("linux/amd64").layer(Layer::random(100, 9)).finish();
    let behaviours = [Behaviour::Body(other.root.bytes), Behaviour::LieDigestHeader(digest.clone())];
    scene.registry.always(&manifest_path(REPOSITORY, &digest), behaviours);
    let reference = scene.registry.reference(&format!("{REPOSITORY}@{digest}"));
    scene.judge(scene.pull_reference(&reference, &[]), 4, &[&digest, &other.root.digest]);
    assert!(scene.larder.visible_blobs().is_empty());
}

#[test]
fn f01_tag_whose_digest_header_lies_leaves_no_trace() {
    let claimed = sha256(b"something else");
    let by_claim = manifest_path(REPOSITORY, &claimed);
    // Under the digest that the tag is said to stand for there is nothing, or something else.
    for there in [false, true] {
        let scene = Scene::small();
        scene.always_of_manifest(METHODS[0], &[Behaviour::LieDigestHeader(claimed.clone())]);
        if there {
            scene.registry.always(&by_claim, [claim(&scene.image.root, &claimed)]);
        }
        scene.fails_without_a_trace(4, &[&claimed, &scene.image.root.digest]);
        let gets = [&by_claim, &tagged()].map(|path| scene.registry.count("GET", path));
        assert_eq!(gets, [1, usize::from(!there)], "what does not hold is not asked for again");
        assert_eq!(scene.registry.requests().len(), 1 + gets[0] + gets[1]);
        scene.recovers();
    }
}

#[test]
fn f02_blob_with_a_flipped_bit_is_never_visible() {
    for at in [0, 33_000, usize::MAX] {
        let scene = Scene::small();
        let at = at.min(scene.image.blob(2).bytes.len() - 1);
        scene.registry.always(&scene.blob(2), [Behaviour::FlipByte { at }]);
        scene.fails(4, &[&scene.image.blob(2).digest, "expected"]);
        scene.assert_hidden(2);
        scene.recovers();
    }
}

#[test]
fn f02_config_with_a_flipped_bit_is_never_visible_and_no_layer_is_fetched() {
    let scene = Scene::small();
    scene.registry.always(&scene.blob(0), [Behaviour::FlipByte { at: 1 }]);
    scene.fails(4, &[&scene.image.blob(0).digest]);
    scene.assert_hidden(0);
    assert!(scene.ranges(1).is_empty());
}

#[test]
fn f03_blob_cut_every_8_mib_is_resumed_and_no_byte_is_fetched_twice() {
    let scene = one_layer(20 << 20);
    for _ in 0..2 {
        scene.registry.script(&scene.blob(1), [Behaviour::Cut { after_bytes: 8 * MIB }]);
    }
    scene.succeeds();
    let from = |bytes: u64| Some(format!("bytes={bytes}-"));
    assert_eq!(scene.ranges(1), [None, from(8 * MIB), from(16 * MIB)]);
    assert_eq!(scene.registry.bytes_sent(&scene.blob(1)), scene.image.blob(1).bytes.len() as u64);
}

#[test]
fn f03_blob_that_is_always_cut_fails_and_the_next_pull_resumes_it() {
    let scene = one_layer(200_000);
    scene.registry.always(&scene.blob(1), [Behaviour::Cut { after_bytes: 1000 }]);
    scene.fails(1, &[&scene.image.blob(1).digest]);
    scene.assert_hidden(1);
    assert_eq!(scene.ranges(1), [None, Some("bytes=1000-".to_owned())]);
    scene.recovers();
    assert_eq!(scene.ranges(1)[2], Some("bytes=2000-".to_owned()));
}

#[test]
fn f03_connection_closed_without_a_word_is_tried_again() {
    let scene = Scene::small();
    let closed = [("HEAD", tagged()), ("GET", scene.pinned()), ("GET", scene.blob(2))];
    for (method, path) in &closed {
        scene.registry.script_method(method, path, [Behaviour::Close]);
    }
    scene.succeeds();
    for (method, path) in &closed {
        assert_eq!(scene.registry.count(method, path), 2, "{method} {path}");
    }
}

#[test]
fn f03_blob_that_is_declared_short_is_refused_at_once() {
    let scene = Scene::small();
    scene.registry.always(&scene.blob(2), [Behaviour::Short]);
    scene.fails(4, &[&scene.image.blob(2).digest, "declared"]);
    scene.assert_hidden(2);
    assert_eq!(scene.ranges(2).len(), 1);
}

#[test]
fn f03_chunked_blob_that_ends_early_each_time_is_refused() {
    let scene = Scene::small();
    scene.registry.always(&scene.blob(2), [Behaviour::Short, Behaviour::Chunked]);
    scene.fails(4, &[&scene.image.blob(2).digest]);
    scene.assert_hidden(2);
}

#[test]
fn f04_blob_that_is_too_long_is_refused_declared_or_not() {
    let scene = Scene::small();
    for behaviours in [
        vec![Behaviour::Long { extra_bytes: 1 }],
        vec![Behaviour::Long { extra_bytes: 1 }, Behaviour::Chunked],
    ] {
        scene.registry.always(&scene.blob(2), behaviours);
        scene.fails(4, &[&scene.image.blob(2).digest]);
        scene.assert_hidden(2);
    }
    scene.recovers();
}

#[test]
fn f04_endless_blob_and_manifest_are_stopped_early() {
    let scene = Scene::small();
    scene.registry.always(&scene.blob(2), [Behaviour::Endless]);
    let finished = scene.fails(4, &[&scene.image.blob(2).digest, "longer"]);
    scene.assert_hidden(2);
    assert!(finished.rss_peak_bytes < 128 * MIB);
    // What is beyond the limit sits in the sockets' buffers.
    assert!(scene.registry.bytes_sent(&scene.blob(2)) < 16 * MIB);
    // By its digest, and by its tag where that is all there is to ask for.
    for behaviours in [vec![Behaviour::Endless], vec![Behaviour::Endless, Behaviour::NoDigestHeader]] {
        let scene = Scene::small();
        scene.always_of_manifest(METHODS[0], &behaviours);
        scene.fails_without_a_trace(1, &["manifest", "4194304"]);
        assert_eq!(scene.registry.count("GET", "/manifests/"), 1);
        assert!(scene.registry.bytes_sent("/manifests/") < 20 * MIB);
    }
}

#[test]
fn f05_empty_success_is_neither_a_manifest_nor_a_blob() {
    let empty = || Behaviour::Body(Bytes::new());
    let scene = Scene::small();
    scene.always_of_manifest(METHODS[0], &[empty(), Behaviour::NoDigestHeader]);
    scene.fails_without_a_trace(4, &["manifest"]);
    let scene = Scene::small();
    scene.always_of_manifest(METHODS[0], &[empty()]);
    scene.fails_without_a_trace(4, &[&scene.image.root.digest, "expected"]);
    let scene = Scene::small();
    for behaviours in [vec![empty()], vec![empty(), Behaviour::Chunked]] {
        scene.registry.always(&scene.blob(2), behaviours);
        scene.fails(4, &[&scene.image.blob(2).digest]);
        scene.assert_hidden(2);
    }
    let scene = Scene::small();
    let status = Behaviour::status;
    for code in [204, 206] {
        scene.registry.always(&scene.blob(2), [status(code)]);
        scene.fails(1, &[&scene.image.blob(2).digest]);
        scene.assert_hidden(2);
    }
}

#[test]
fn f06_our_own_hash_counts_where_the_digest_header_is_missing_or_garbage() {
    let garbage = || Behaviour::LieDigestHeader("sha256:../../etc/passwd".to_owned());
    for behaviour in [Behaviour::NoDigestHeader, garbage()] {
        let (scene, child) = index_of_one();
        scene.always_of_manifest(METHODS[0], std::slice::from_ref(&behaviour));
        scene.registry.always(&manifest_path(REPOSITORY, &child.root.digest), [behaviour.clone()]);
        for position in 0..3 {
            scene.registry.always(&scene.blob(position), [behaviour.clone()]);
        }
        scene.succeeds();
    }
}

#[test]
fn f06_digest_header_of_another_digest_says_nothing_about_what_was_asked_for_by_digest() {
    let (scene, child) = index_of_one();
    let lie = Behaviour::LieDigestHeader(sha256(b"something else"));
    for path in [scene.pinned(), manifest_path(REPOSITORY, &child.root.digest), scene.blob(2)] {
        scene.registry.always(&path, [lie.clone()]);
    }
    scene.succeeds();
}

#[test]
fn f07_ignored_or_wrong_range_starts_over_and_splices_nothing() {
    let wrong = |value: &str| Behaviour::WrongContentRange(value.to_owned());
    for behaviour in [
        Behaviour::IgnoreRange,
        wrong("bytes 0-49999/50000"),
        wrong("bytes 999-200000/200001"),
        wrong("bytes 1000-900/200000"),
        wrong("nonsense"),
        Behaviour::NoHeader("Content-Range"),
        Behaviour::status(416),
    ] {
        let scene = one_layer(100_000);
        scene.registry.script(&scene.blob(1), [Behaviour::Cut { after_bytes: 1000 }]);
        scene.registry.script(&scene.blob(1), [behaviour]);
        scene.succeeds();
        assert!(scene.ranges(1).len() <= 3, "{:?}", scene.ranges(1));
    }
}

#[test]
fn f08_blob_that_changes_while_it_is_resumed_is_discarded_whole() {
    let scene = one_layer(100_000);
    let path = scene.blob(1);
    scene.registry.script(&path, [Behaviour::Cut { after_bytes: 60_000 }]);
    // The tag stays, so that only the hash can tell.
    scene.registry.script(&path, [Behaviour::FlipByte { at: 70_000 }]);
    scene.fails(4, &[&scene.image.blob(1).digest]);
    scene.assert_hidden(1);
    scene.recovers();
    assert_eq!(scene.ranges(1)[2], None, "a part of what was refused was kept");
}

#[test]
fn f08_blob_whose_tag_changes_is_taken_from_the_start() {
    let scene = one_layer(100_000);
    let path = scene.blob(1);
    let other = |tag: &str| Behaviour::Header("ETag", format!("\"{tag}\""));
    let flipped = Behaviour::FlipByte { at: 500 };
    scene.registry.script(&path, [flipped, other("old"), Behaviour::Cut { after_bytes: 60_000 }]);
    // It has moved to other bytes, and this registry does not understand If-Range.
    scene.registry.script(&path, [other("new")]);
    scene.succeeds();
    let requests = scene.registry.requests();
    let conditions: Vec<_> = requests
        .iter()
        .filter(|one| one.request.path == path)
        .map(|one| one.request.header("if-range"))
        .collect();
    assert_eq!(conditions[..2], [None, Some("\"old\"")]);
}
