//! Manifests that are not what they seem.

use std::time::Duration;

use larder_tests::image::{Blob, Layer, sha256};
use larder_tests::scripted::{blob_path, manifest_path};
use larder_tests::{Behaviour, Format, Image, ScriptedRegistry};
use serde_json::{Value, json};

use super::{METHODS, REPOSITORY, Scene, claim};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A small image's manifest with `change` made to its text.
fn rewritten(change: impl FnOnce(&str) -> String) -> Scene {
    let mut image = Image::small();
    let text = String::from_utf8(image.root.bytes.to_vec()).unwrap();
    image.root = Blob::new(OCI_MANIFEST, change(&text));
    image.manifests = vec![image.root.clone()];
    Scene::of(image)
}

fn with_field(key: &str, value: Value) -> Scene {
    Scene::of(Image::build("linux/amd64").layer(Layer::random(1000, 1)).field(key, value).finish())
}

fn with_layer(layer: &Value) -> Scene {
    let layer = layer.clone();
    Scene::of(
        Image::build("linux/amd64").layer(Layer::random(1000, 1)).field("layers", json!([layer])).finish(),
    )
}

/// Expects that the image is refused by its manifest alone.
#[track_caller]
fn refused(scene: &Scene, says: &[&str]) {
    scene.fails_without_a_trace(4, says);
    scene.assert_got_manifest_alone();
}

#[test]
fn f09_manifest_that_is_image_and_index_at_once_is_refused() {
    refused(&with_field("manifests", json!([])), &["ambiguous", "team/app"]);
}

#[test]
fn f09_manifest_whose_type_disagrees_with_its_declaration_is_refused() {
    refused(&with_field("mediaType", OCI_INDEX.into()), &["ambiguous"]);
    let scene = Scene::small();
    scene.always_of_manifest(METHODS[0], &[Behaviour::Header("Content-Type", OCI_INDEX.to_owned())]);
    refused(&scene, &["ambiguous", OCI_INDEX]);
}

#[test]
fn f09_child_that_is_not_of_the_type_its_index_gives_is_refused() {
    let child = Image::small();
    let mut entry = child.root.descriptor();
    entry["mediaType"] = OCI_INDEX.into();
    let mut image = Image::index(Format::Oci).descriptor(entry).finish();
    image.manifests.insert(0, child.root.clone());
    image.blobs = child.blobs;
    let scene = Scene::of(image);
    scene.fails(4, &["ambiguous", &child.root.digest]);
    assert_eq!(scene.registry.count("GET", "/blobs/"), 0);
}

#[test]
fn f09_schema_1_is_refused_with_advice() {
    let text =
        r#"{"schemaVersion":1,"name":"x","tag":"1","architecture":"amd64","fsLayers":[],"history":[]}"#;
    for media_type in ["application/vnd.docker.distribution.manifest.v1+prettyjws", "application/json"] {
        let scene = Scene::of(Image::raw(media_type, text));
        scene.fails_without_a_trace(1, &["schema 1", "re-push"]);
    }
}

#[test]
fn f09_what_is_no_manifest_is_refused() {
    for text in ["", "<html>", "[]", "null", "{}", r#"{"schemaVersion":2}"#, "\u{feff}{}"] {
        let scene = Scene::of(Image::raw(OCI_MANIFEST, text));
        refused(&scene, &["manifest"]);
    }
}

#[test]
fn f09_list_in_place_of_an_object_is_refused() {
    // Whoever reads fields by their place would take these; nobody else does.
    let image = Image::small();
    let manifest = image.root.json();
    let whole =
        json!([2, OCI_MANIFEST, null, manifest["config"], manifest["layers"], null, null, null, null]);
    refused(&Scene::of(Image::raw(OCI_MANIFEST, whole.to_string())), &["manifest"]);
    let layer = json!([LAYER, sha256(b"x"), 1, null, null, {}]);
    refused(&with_layer(&layer), &["manifest"]);
}

#[test]
fn f10_manifest_with_a_key_twice_is_refused() {
    refused(&rewritten(|text| text.replacen('{', "{\"layers\": [],", 1)), &["manifest"]);
    refused(&rewritten(|text| text.replacen('{', "{\"mediaType\": \"x/y\",", 1)), &["manifest"]);
    refused(&rewritten(|text| text.replacen("\"digest\"", "\"size\": 1, \"digest\"", 1)), &["manifest"]);
}

#[test]
fn f10_deep_nesting_is_refused_or_passed_over_but_ends_nothing() {
    let nest = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    // Where something is to be read, depth is bounded.
    let scene = rewritten(|text| text.replacen('{', &format!("{{\"subject\": {},", nest(500_000)), 1));
    refused(&scene, &["manifest"]);
    // What nobody reads is nobody's stack.
    let scene = rewritten(|text| text.replacen('{', &format!("{{\"x-unknown\": {},", nest(500_000)), 1));
    scene.succeeds();
    scene.larder.ok(&["inspect", &scene.reference()]);
}

#[test]
fn f10_manifest_of_5_mib_is_refused_declared_or_not() {
    let long = || rewritten(|text| format!("{text}{}", " ".repeat(5 << 20)));
    let scene = long();
    refused_as_too_large(&scene);
    assert!(scene.registry.bytes_sent("") < 5 << 20, "it was read to its end");
    let scene = long();
    scene.always_of_manifest(METHODS[0], &[Behaviour::Chunked]);
    refused_as_too_large(&scene);
}

#[track_caller]
fn refused_as_too_large(scene: &Scene) {
    let finished = scene.fails_without_a_trace(1, &["manifest", "exceeds 4194304 bytes"]);
    assert!(finished.rss_peak_bytes < 128 << 20);
    scene.assert_got_manifest_alone();
}

#[test]
fn f10_valid_bytes_are_kept_unaltered_however_odd() {
    let scene = rewritten(|text| {
        let spaced = text.replace("\": ", "\"\t:\n ");
        let broken_up = spaced.replace("schemaVersion", "schema\\u0056ersion");
        format!("\n{}\r\n\n", broken_up.replacen('{', "{\"x\\/y\":1e2,\"z\":[{}],", 1))
    });
    scene.succeeds();
    let mut inspect = scene.larder.command(&["inspect", "--raw", &scene.reference()]);
    assert_eq!(inspect.output().unwrap().stdout, scene.image.root.bytes);
}

#[test]
fn f11_index_that_is_given_for_its_own_child_is_refused() {
    let child = sha256(b"a child that is only claimed");
    let entry = json!({ "mediaType": OCI_INDEX, "digest": child, "size": 100 });
    let scene = Scene::of(Image::index(Format::Oci).descriptor(entry).finish());
    // No index holds its own digest: a circle takes a registry that lies.
    scene.registry.always(&manifest_path(REPOSITORY, &child), [claim(&scene.image.root, &child)]);
    scene.fails(4, &[&child, &scene.image.root.digest]);
    let by_child = scene.registry.count("GET", &manifest_path(REPOSITORY, &child));
    assert_eq!((scene.registry.count("GET", ""), by_child), (2, 1));
}

#[test]
fn f11_indexes_nest_eight_deep_and_no_deeper() {
    let nested = |depth: usize| {
        (0..depth).fold(Image::small(), |image, _| Image::index(Format::Oci).image(&image).finish())
    };
    let scene = Scene::of(nested(30));
    scene.fails(4, &["too many nested indexes", "8"]);
    assert_eq!(scene.registry.count("GET", "/blobs/"), 0);
    Scene::of(nested(8)).succeeds();
}

#[test]
fn f11_index_with_too_many_children_is_refused() {
    let index = |children: usize| {
        let entry = |number: usize| json!({ "mediaType": OCI_MANIFEST, "digest": sha256(&number.to_le_bytes()), "size": 10 });
        let document =
            json!({ "schemaVersion": 2, "manifests": (0..children).map(entry).collect::<Vec<_>>() });
        Scene::of(Image::raw(OCI_INDEX, document.to_string()))
    };
    refused(&index(10_001), &["too many descriptors", "10000"]);
    let scene = index(100_000);
    scene.fails_without_a_trace(1, &["exceeds 4194304 bytes"]);
}

#[test]
fn f11_descriptors_of_all_levels_together_are_bounded() {
    let index = |number: usize| {
        let entry = |child: usize| json!({ "mediaType": OCI_MANIFEST, "digest": sha256(format!("{number}/{child}").as_bytes()), "size": 10 });
        let entries =
            (0..6000).fold(Image::index(Format::Oci), |index, child| index.descriptor(entry(child)));
        entries.finish()
    };
    let scene = Scene::of(Image::index(Format::Oci).image(&index(1)).image(&index(2)).finish());
    scene.fails(4, &["too many descriptors", "10000"]);
    assert_eq!((scene.registry.count("GET", ""), scene.registry.count("GET", "/manifests/")), (3, 3));
}

#[test]
fn f12_sizes_that_are_no_count_of_bytes_are_refused() {
    for size in [
        "-1",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "1.5",
        "1e400",
        "\"10\"",
        "null",
        "[]",
    ] {
        let scene = rewritten(|text| {
            let start = text.find("\"size\": ").expect("a descriptor has a size") + 8;
            let end = start + text[start..].find(|c: char| !c.is_ascii_digit()).expect("a number ends");
            format!("{}{size}{}", &text[..start], &text[end..])
        });
        refused(&scene, &["manifest"]);
    }
}

#[test]
fn f12_sizes_at_the_edge_cost_neither_disk_nor_a_crash() {
    let blob = Blob::new(LAYER, vec![7; 1000]);
    let entry =
        |salt: &str| json!({ "mediaType": LAYER, "digest": sha256(salt.as_bytes()), "size": i64::MAX });
    let mut claimed = blob.descriptor();
    claimed["size"] = i64::MAX.into();
    let layers = json!([claimed, entry("a"), entry("b"), entry("c")]);
    let mut image = Image::build("linux/amd64").field("layers", layers).finish();
    image.blobs.push(blob.clone());
    let scene = Scene::of(image);
    for salt in ["a", "b", "c"] {
        let digest = sha256(salt.as_bytes());
        scene.registry.always(&blob_path(REPOSITORY, &digest), [claim(&blob, &digest)]);
    }
    let finished = scene.fails(4, &["9223372036854775807"]);
    assert!(finished.elapsed < Duration::from_secs(10));
    scene.assert_hidden(1);
    assert!(finished.rss_peak_bytes < 128 << 20);
}

#[test]
fn f13_malformed_digests_in_a_manifest_are_refused_before_they_are_part_of_anything() {
    let upper = sha256(b"x").to_uppercase();
    let upper_hex = format!("sha256:{}", &upper[7..]);
    let long = format!("{}0", sha256(b"x"));
    for digest in [
        "sha256:../x",
        "sha256:../../../../../../etc/passwd",
        "../../x",
        "",
        "sha256:",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "sha256:e3b0",
        &upper,
        &upper_hex,
        &long,
        "sha512:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "sha256:%2e%2e%2fxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    ] {
        refused(&with_layer(&json!({ "mediaType": LAYER, "digest": digest, "size": 3 })), &["manifest"]);
    }
}

#[test]
fn f13_malformed_digests_on_the_command_line_are_usage_errors_and_ask_nobody() {
    let scene = Scene::small();
    for digest in ["sha256:../x", "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:E3B0", "sha256:"] {
        let reference = scene.registry.reference(&format!("{REPOSITORY}@{digest}"));
        scene.judge(scene.pull_reference(&reference, &[]), 2, &["invalid"]);
        let _ = scene.larder.run(&["cat", digest]).expect_code(2);
    }
    assert!(scene.registry.requests().is_empty());
}

#[test]
fn f17_urls_in_a_manifest_are_never_asked() {
    let elsewhere = ScriptedRegistry::start();
    let layer = Blob::new(LAYER, vec![1; 100]);
    let mut entry = layer.descriptor();
    entry["urls"] = json!([format!("{}/layer", elsewhere.url()), "http://169.254.169.254/latest/meta-data"]);
    let scene = with_layer(&entry);
    // A registry that has not the layer does not make us look for it elsewhere.
    scene.fails(3, &[&layer.digest, "not in the registry"]);
    // A foreign layer may not be distributed: nobody is asked for it.
    entry["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into();
    let scene = with_layer(&entry);
    let _ = scene.pull().expect_code(0);
    assert_eq!(scene.registry.count("GET", &layer.digest), 0);
    assert!(elsewhere.requests().is_empty());
}
