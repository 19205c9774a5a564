//! Pushing blobs and manifests, in every way that there is, broken ones too.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;

use larder_tests::client::{self, Response};
use larder_tests::image::{Blob, random};
use larder_tests::process::wait_for;
use larder_tests::scripted::{blob_path, manifest_path};
use larder_tests::{Image, Layer};
use sha2::{Digest as _, Sha512};

use super::farm::Farm;
use super::{LIMIT, REPOSITORY, World, assert_refused, assert_whole, get, push_blob, push_manifest, send};

const UPLOADS: &str = "/v2/team/app/blobs/uploads/";

fn blob(bytes: usize, seed: u64) -> Blob {
    Blob::new("application/octet-stream", random(bytes, seed))
}

fn begin(host: &str) -> String {
    let begun = send(host, "POST", UPLOADS, &[], &[]);
    assert_eq!((begun.status, begun.header("range")), (202, Some("0-0")));
    location(&begun)
}

fn location(answer: &Response) -> String {
    answer.header("location").expect("an upload has a location").to_owned()
}

/// Sends a piece that begins at `first`; returns where to go on.
#[track_caller]
fn patch(host: &str, upload: &str, first: usize, piece: &[u8]) -> String {
    let range = format!("{first}-{}", first + piece.len() - 1);
    let answer = send(host, "PATCH", upload, &[("Content-Range", &range)], piece);
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(answer.header("range"), Some(format!("0-{}", first + piece.len() - 1).as_str()));
    location(&answer)
}

fn put(host: &str, upload: &str, digest: &str, piece: &[u8]) -> Response {
    send(host, "PUT", &format!("{upload}?digest={digest}"), &[], piece)
}

#[track_caller]
fn assert_created(answer: &Response, host: &str, blob: &Blob) {
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(answer.header("docker-content-digest"), Some(blob.digest.as_str()));
    let path = blob_path(REPOSITORY, &blob.digest);
    assert_eq!(answer.header("location"), Some(path.as_str()));
    assert_whole(&get(host, &path, &[]), blob);
}

fn sha512(bytes: &[u8]) -> String {
    Sha512::digest(bytes).iter().fold("sha512:".to_owned(), |mut digest, byte| {
        let _ = write!(digest, "{byte:02x}");
        digest
    })
}

#[test]
fn blob_is_taken_in_one_request_in_two_and_in_pieces() {
    let world = World::start();
    let host = world.host();
    let whole = blob(100_000, 1);
    let target = format!("{UPLOADS}?digest={}", whole.digest);
    assert_created(&send(&host, "POST", &target, &[], &whole.bytes), &host, &whole);
    let second = blob(100_000, 2);
    assert_created(&put(&host, &begin(&host), &second.digest, &second.bytes), &host, &second);
    let third = blob(100_000, 3);
    let mut upload = begin(&host);
    for first in (0..90_000).step_by(30_000) {
        upload = patch(&host, &upload, first, &third.bytes[first..first + 30_000]);
    }
    let told = get(&host, &upload, &[]);
    assert_eq!((told.status, told.header("range")), (204, Some("0-89999")));
    assert_created(&put(&host, &upload, &third.digest, &third.bytes[90_000..]), &host, &third);
    assert_refused(&get(&host, &upload, &[]), 404, "BLOB_UPLOAD_UNKNOWN");
    let empty = blob(0, 0);
    assert_created(&put(&host, &begin(&host), &empty.digest, &[]), &host, &empty);
    assert_eq!(world.registry.connections(), 0);
    world.larder.assert_store_is_sound();
}

#[test]
fn blob_is_taken_as_a_stream_of_unknown_length() {
    let world = World::start();
    let host = world.host();
    let blob = blob(300_000, 4);
    let upload = begin(&host);
    let mut stream = TcpStream::connect(&host).unwrap();
    let head = format!(
        "PATCH {upload} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    for piece in blob.bytes.chunks(50_000) {
        write!(stream, "{:x}\r\n", piece.len()).unwrap();
        stream.write_all(piece).unwrap();
        stream.write_all(b"\r\n").unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    assert_created(&put(&host, &upload, &blob.digest, &[]), &host, &blob);
}

#[test]
fn piece_that_is_out_of_order_is_refused_with_where_to_go_on() {
    let world = World::start();
    let host = world.host();
    let blob = blob(10_000, 5);
    let upload = patch(&host, &begin(&host), 0, &blob.bytes[..4000]);
    for range in ["5000-5999", "3999-4998", "0-3999"] {
        for (method, target) in
            [("PATCH", upload.clone()), ("PUT", format!("{upload}?digest={}", blob.digest))]
        {
            let gap = send(&host, method, &target, &[("Content-Range", range)], &blob.bytes[5000..6000]);
            assert_refused(&gap, 416, "BLOB_UPLOAD_INVALID");
            assert_eq!(gap.header("range"), Some("0-3999"), "{method} {range}");
            assert_eq!(location(&gap), upload);
        }
    }
    for range in ["x", "4000", "5999-4000", "4000-", "-1-5"] {
        let wrong = send(&host, "PATCH", &upload, &[("Content-Range", range)], &blob.bytes[4000..5000]);
        assert_refused(&wrong, 400, "BLOB_UPLOAD_INVALID");
    }
    assert_eq!(get(&host, &upload, &[]).header("range"), Some("0-3999"));
    let upload = patch(&host, &upload, 4000, &blob.bytes[4000..]);
    assert_created(&put(&host, &upload, &blob.digest, &[]), &host, &blob);
}

#[test]
fn wrong_digest_is_refused_and_the_upload_can_still_be_finished() {
    let world = World::start();
    let host = world.host();
    let (blob, other) = (blob(50_000, 6), blob(10, 7));
    let single = begin(&host);
    assert_refused(&put(&host, &single, &other.digest, &blob.bytes), 400, "DIGEST_INVALID");
    assert!(!world.is_stored(&other.digest));
    assert_refused(&put(&host, &single, "sha256:x", &blob.bytes), 400, "DIGEST_INVALID");
    assert_refused(&send(&host, "PUT", &single, &[], &blob.bytes), 400, "DIGEST_INVALID");
    assert_created(&put(&host, &single, &blob.digest, &blob.bytes), &host, &blob);
    let pieces = Blob::new("application/octet-stream", random(60_000, 8));
    let upload = patch(&host, &begin(&host), 0, &pieces.bytes[..30_000]);
    let upload = patch(&host, &upload, 30_000, &pieces.bytes[30_000..]);
    assert_refused(&put(&host, &upload, &other.digest, &[]), 400, "DIGEST_INVALID");
    assert_eq!(get(&host, &upload, &[]).header("range"), Some("0-59999"));
    assert_created(&put(&host, &upload, &pieces.digest, &[]), &host, &pieces);
    assert!(!world.is_stored(&other.digest));
    world.larder.assert_store_is_sound();
}

#[test]
fn upload_that_is_aborted_or_of_another_repository_is_unknown() {
    let world = World::start();
    let host = world.host();
    let upload = patch(&host, &begin(&host), 0, b"abc");
    let elsewhere = upload.replace("/team/app/", "/team/other/");
    for method in ["GET", "PATCH", "PUT", "DELETE"] {
        let target = format!("{elsewhere}?digest={}", blob(3, 1).digest);
        assert_refused(&send(&host, method, &target, &[], b"x"), 404, "BLOB_UPLOAD_UNKNOWN");
    }
    assert_eq!(send(&host, "DELETE", &upload, &[], &[]).status, 204);
    assert_refused(&send(&host, "DELETE", &upload, &[], &[]), 404, "BLOB_UPLOAD_UNKNOWN");
    assert_refused(&send(&host, "PATCH", &upload, &[], b"x"), 404, "BLOB_UPLOAD_UNKNOWN");
}

#[test]
fn blobs_and_manifests_have_sha512_names_too() {
    let world = World::start();
    let host = world.host();
    let mut layer = blob(70_000, 9);
    layer.digest = sha512(&layer.bytes);
    let target = format!("{UPLOADS}?digest={}", layer.digest);
    assert_created(&send(&host, "POST", &target, &[], &layer.bytes), &host, &layer);
    let mut pieces = blob(70_000, 10);
    pieces.digest = sha512(&pieces.bytes);
    let upload = patch(&host, &begin(&host), 0, &pieces.bytes[..30_000]);
    assert_created(&put(&host, &upload, &pieces.digest, &pieces.bytes[30_000..]), &host, &pieces);
    let wrong = sha512(b"other");
    assert_refused(&put(&host, &begin(&host), &wrong, &pieces.bytes), 400, "DIGEST_INVALID");
    let image = Image::artifact("application/x", b"x", None);
    for blob in &image.blobs {
        push_blob(&host, REPOSITORY, blob, &[]);
    }
    let mut manifest = image.root.clone();
    manifest.digest = sha512(&manifest.bytes);
    let pushed = push_manifest(&host, REPOSITORY, &manifest.digest, &manifest, &[]);
    assert_eq!(
        (pushed.status, pushed.header("docker-content-digest")),
        (201, Some(manifest.digest.as_str()))
    );
    assert_whole(&get(&host, &manifest_path(REPOSITORY, &manifest.digest), &[]), &manifest);
    let wrong = push_manifest(&host, REPOSITORY, &wrong, &manifest, &[]);
    assert_refused(&wrong, 400, "DIGEST_INVALID");
}

#[test]
fn blob_that_is_here_is_mounted_and_one_that_is_not_is_asked_for() {
    let world = World::start();
    let host = world.host();
    let here = blob(1000, 11);
    push_blob(&host, REPOSITORY, &here, &[]);
    for target in [
        format!("/v2/other/blobs/uploads/?mount={}&from={REPOSITORY}", here.digest),
        format!("/v2/another/blobs/uploads/?mount={}", here.digest),
    ] {
        let mounted = send(&host, "POST", &target, &[], &[]);
        assert_eq!(mounted.status, 201, "{}", mounted.text());
        assert_whole(&get(&host, &location(&mounted), &[]), &here);
    }
    let absent = blob(1000, 12);
    for from in ["", "&from=team/app", "&from=team/none"] {
        let target = format!("/v2/other/blobs/uploads/?mount={}{from}", absent.digest);
        let begun = send(&host, "POST", &target, &[], &[]);
        assert_eq!(begun.status, 202, "{from}: {}", begun.text());
        assert_eq!(put(&host, &location(&begun), &blob(10, 13).digest, &blob(10, 13).bytes).status, 201);
    }
    let nonsense = send(&host, "POST", "/v2/other/blobs/uploads/?mount=sha256:x&from=team/app", &[], &[]);
    assert_refused(&nonsense, 400, "DIGEST_INVALID");
}

#[test]
fn manifest_whose_blobs_are_missing_is_refused_and_gets_no_name() {
    let world = World::start();
    let host = world.host();
    let image = Image::build("linux/amd64").layer(Layer::random(1000, 14)).finish();
    let refused = push_manifest(&host, REPOSITORY, "1", &image.root, &[]);
    assert_refused(&refused, 400, "MANIFEST_BLOB_UNKNOWN");
    push_blob(&host, REPOSITORY, image.blob(0), &[]);
    for name in ["1", &image.root.digest] {
        let refused = push_manifest(&host, REPOSITORY, name, &image.root, &[]);
        assert_refused(&refused, 400, "MANIFEST_BLOB_UNKNOWN");
    }
    assert_eq!(get(&host, &super::tagged(), &[]).status, 404);
    push_blob(&host, REPOSITORY, image.blob(1), &[]);
    assert_eq!(push_manifest(&host, REPOSITORY, "1", &image.root, &[]).status, 201);
    assert_whole(&get(&host, &super::tagged(), &[]), &image.root);
}

#[test]
fn f09_manifest_that_is_none_or_says_two_things_is_refused() {
    let world = World::start();
    let host = world.host();
    let oci = "application/vnd.oci.image.manifest.v1+json";
    for (media_type, text) in [
        (oci, "not json"),
        (oci, ""),
        (oci, "[]"),
        (oci, r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#),
        (oci, r#"{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}"#),
        ("text/html", "<html></html>"),
    ] {
        let manifest = Blob::new(media_type, text.to_owned());
        assert_refused(&push_manifest(&host, REPOSITORY, "1", &manifest, &[]), 400, "MANIFEST_INVALID");
    }
    assert_eq!(get(&host, &super::tagged(), &[]).status, 404);
}

#[test]
fn of_two_pieces_for_one_place_one_is_taken() {
    let world = World::start();
    let host = world.host();
    let (one, other) = (blob(20_000, 17), blob(20_000, 18));
    let upload = begin(&host);
    let mut both = [&one, &other].map(|blob| {
        let mut piece = client::begin("PATCH", &host, &upload, &[], 20_000).unwrap();
        piece.write(&blob.bytes[..19_999]).unwrap();
        Some(piece)
    });
    let mut finish = |at: usize, blob: &Blob| {
        let mut piece = both[at].take().unwrap();
        piece.write(&blob.bytes[19_999..]).unwrap();
        piece.answer().unwrap().finish().unwrap()
    };
    assert_eq!(finish(1, &other).status, 202);
    let late = finish(0, &one);
    assert_refused(&late, 416, "BLOB_UPLOAD_INVALID");
    assert_created(&put(&host, &upload, &other.digest, &[]), &host, &other);
}

#[test]
fn upload_goes_on_after_the_process_was_killed() {
    let world = World::start();
    let blob = blob(50_000, 19);
    let host = world.host();
    let upload = patch(&host, &begin(&host), 0, &blob.bytes[..20_000]);
    let World { service, larder, registry: _registry } = world;
    service.kill();
    let service = larder.serve(&[]);
    let host = service.address("listen");
    assert_eq!(get(&host, &upload, &[]).header("range"), Some("0-19999"));
    assert_created(&put(&host, &upload, &blob.digest, &blob.bytes[20_000..]), &host, &blob);
    larder.assert_store_is_sound();
}

#[test]
fn upload_that_broke_off_at_one_facade_goes_on_at_the_other() {
    let farm = Farm::start("");
    let [first, second] = farm.hosts();
    let blob = blob(3 << 20, 15);
    let upload = patch(&first, &begin(&first), 0, &blob.bytes[..1 << 20]);
    let piece = &blob.bytes[1 << 20..];
    let range = format!("{}-{}", 1 << 20, blob.bytes.len() - 1);
    let headers = [("Content-Range", range.as_str())];
    let mut broken = client::begin("PATCH", &first, &upload, &headers, piece.len() as u64).unwrap();
    broken.write(&piece[..700_000]).unwrap();
    drop(broken);
    let there = || {
        let told = get(&second, &upload, &[]);
        let last: usize = told.header("range")?.strip_prefix("0-")?.parse().ok()?;
        (last + 1 > 1 << 20).then_some(last + 1)
    };
    let there = wait_for("what came of the broken piece", LIMIT, there, String::new);
    assert!(there <= (1 << 20) + 700_000, "{there}");
    let upload = patch(&second, &upload, there, &blob.bytes[there..]);
    assert_created(&put(&first, &upload, &blob.digest, &[]), &second, &blob);
    // And in turn, with the last piece in the closing request.
    let blob = Blob::new("application/octet-stream", random(300_000, 16));
    let mut upload = begin(&second);
    for (turn, begin) in (0..200_000).step_by(50_000).enumerate() {
        let host = if turn % 2 == 0 { &first } else { &second };
        upload = patch(host, &upload, begin, &blob.bytes[begin..begin + 50_000]);
    }
    assert_created(&put(&first, &upload, &blob.digest, &blob.bytes[200_000..]), &second, &blob);
}
