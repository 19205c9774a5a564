//! Which registry a request means, and what is said to requests that mean nothing.

use larder_tests::image::{Layer, sha256};
use larder_tests::process::wait_for;
use larder_tests::scripted::{blob_path, manifest_path};
use larder_tests::{Format, Image, Larder, ScriptedRegistry, client};

use super::{LIMIT, REPOSITORY, World, assert_refused, assert_whole, blob_at, get, send, tagged};

#[test]
fn registry_is_that_of_ns_else_of_the_path_else_the_default() {
    let world = World::start();
    let image = Image::small();
    world.put("1", &image);
    let upstream = world.registry.host();
    let named = format!("/v2/{upstream}/{REPOSITORY}/manifests/1");
    let by_ns = format!("{}?ns={upstream}", tagged());
    for target in [&tagged(), &named, &by_ns] {
        let answer = world.get(target);
        assert_whole(&answer, &image.root);
        assert_eq!(answer.header("docker-content-digest"), Some(image.root.digest.as_str()));
        assert_eq!(answer.header("content-type"), Some(image.root.media_type.as_str()));
        assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
        let namespace = (target == &by_ns).then_some(upstream.as_str());
        assert_eq!(answer.header("oci-namespace"), namespace);
    }
    // They are one name.
    assert_eq!(world.registry.count("GET", "/manifests/"), 1);
    let layer = format!("/v2/{upstream}/{REPOSITORY}/blobs/{}", image.blob(1).digest);
    assert_whole(&world.get(&layer), image.blob(1));
    assert_whole(&world.get(&format!("{}?ns={upstream}", blob_at(&image, 1))), image.blob(1));
    assert_eq!(world.registry.count("GET", &blob_at(&image, 1)), 1);
}

#[test]
fn f36_registry_that_is_not_listed_is_never_asked_and_what_is_stored_of_it_is_served() {
    let world = World::start();
    let (other, stored, unknown) = (ScriptedRegistry::start(), Image::small(), Image::of_noise(1, 500));
    let stranger = other.host();
    other.put(REPOSITORY, "1", &unknown);
    world.push(&format!("{stranger}/{REPOSITORY}"), "kept", &stored, &[]);
    let path = |what: &str| format!("/v2/{stranger}/{REPOSITORY}/{what}");
    for target in [
        path("manifests/1"),
        path(&format!("manifests/{}", unknown.root.digest)),
        format!("{}?ns={stranger}", tagged()),
    ] {
        assert_refused(&world.get(&target), 404, "MANIFEST_UNKNOWN");
        assert_eq!(world.send("HEAD", &target, &[], &[]).status, 404);
    }
    let blob = path(&format!("blobs/{}", unknown.blob(0).digest));
    assert_refused(&world.get(&blob), 404, "BLOB_UNKNOWN");
    assert_eq!(world.send("HEAD", &blob, &[], &[]).status, 404);
    assert_whole(&world.get(&path("manifests/kept")), &stored.root);
    assert_whole(&world.get(&format!("{}?ns={stranger}", blob_at(&stored, 1))), stored.blob(1));
    assert!(world.get(&path("tags/list")).text().contains("\"kept\""));
    assert_eq!(world.get(&path(&format!("referrers/{}", stored.root.digest))).status, 200);
    assert_eq!(other.connections(), 0, "{:?}", other.requests());
}

#[test]
fn f36_ns_that_is_no_host_is_unknown_and_nobody_is_asked() {
    let world = World::start();
    let upstream = world.registry.host();
    for ns in [
        "",
        "docker",
        "user:word@docker.io",
        &format!("user@{upstream}"),
        &format!("{upstream}/x"),
        &format!("{upstream}%23"),
        &format!("http://{upstream}"),
        "docker.io:99999",
        "docker.io:x",
        "169.254.169.254",
        "[::1]:5000",
        "0x7f.1:80",
        "..",
    ] {
        let answer = world.get(&format!("{}?ns={ns}", tagged()));
        assert!(matches!(answer.status, 400 | 404), "{ns}: {} {}", answer.status, answer.text());
        assert!(answer.header("oci-namespace").is_none(), "{ns}");
    }
    assert_eq!(world.registry.connections(), 0);
}

#[test]
fn head_is_get_without_the_body() {
    let world = World::start();
    let image = Image::index(Format::Docker).image(&Image::small()).finish();
    world.put("1", &image);
    let child = manifest_path(REPOSITORY, &image.manifests[0].digest);
    let told = ["content-length", "content-type", "docker-content-digest", "etag", "accept-ranges"];
    for target in [tagged(), child, blob_at(&image, 0), blob_at(&image, 2)] {
        // Before anything of it is here, and after.
        for _ in 0..2 {
            let (head, got) = (world.send("HEAD", &target, &[], &[]), world.get(&target));
            assert_eq!((head.status, got.status, head.body.len()), (200, 200, 0), "{target}");
            for name in told {
                assert_eq!(head.header(name), got.header(name), "{name} of {target}");
            }
        }
    }
    let absent = sha256(b"nowhere");
    for target in
        [manifest_path(REPOSITORY, "2"), manifest_path(REPOSITORY, &absent), blob_path(REPOSITORY, &absent)]
    {
        let (head, got) = (world.send("HEAD", &target, &[], &[]), world.get(&target));
        assert_eq!((head.status, got.status, head.body.len()), (404, 404, 0), "{target}");
        assert_eq!(head.header("content-length"), got.header("content-length"));
    }
}

#[test]
fn head_of_a_cold_blob_brings_nothing_in() {
    let world = World::start();
    let image = Image::small();
    world.put("1", &image);
    assert_eq!(world.send("HEAD", &blob_at(&image, 2), &[], &[]).status, 200);
    assert_eq!(world.registry.count("GET", ""), 0);
    assert!(!world.is_stored(&image.blob(2).digest));
}

#[test]
fn documents_are_served_byte_for_byte() {
    let world = World::start();
    let odd = br#"{ "schemaVersion" : 2,"mediaType":"application/vnd.oci.image.index.v1+json",
        "manifests":[],  "x-unknown": {"\u0041":1.50}, "annotations": null }"#;
    let image = Image::raw("application/vnd.oci.image.index.v1+json", odd.to_vec());
    world.put("1", &image);
    assert_whole(&world.get(&tagged()), &image.root);
    assert_whole(&world.get(&manifest_path(REPOSITORY, &image.root.digest)), &image.root);
    let pushed = super::push_manifest(&world.host(), "other", "1", &image.root, &[]);
    assert_eq!(pushed.header("docker-content-digest"), Some(image.root.digest.as_str()));
    assert_whole(&world.get("/v2/other/manifests/1"), &image.root);
}

#[test]
fn what_the_client_has_already_is_not_sent_again() {
    let world = World::start();
    let image = Image::small();
    world.put("1", &image);
    for target in [tagged(), blob_at(&image, 2)] {
        let etag = world.get(&target).header("etag").unwrap().to_owned();
        for given in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}"), "*".to_owned()] {
            let same = get(&world.host(), &target, &[("If-None-Match", &given)]);
            assert_eq!((same.status, same.body.len()), (304, 0), "{given}");
            assert_eq!(same.header("etag"), Some(etag.as_str()));
            assert!(same.header("docker-content-digest").is_some());
        }
        assert_eq!(get(&world.host(), &target, &[("If-None-Match", "\"x\"")]).status, 200);
    }
}

#[test]
fn f13_f25_names_tags_digests_and_ids_that_are_none_are_refused_with_their_code() {
    let world = World::start();
    let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let long = "a".repeat(300);
    for (target, status, code) in [
        ("/v2/team/app/blobs/sha256:..%2F..%2Fx", 404, "NAME_UNKNOWN"),
        ("/v2/team/app/blobs/sha256:x", 400, "DIGEST_INVALID"),
        (&format!("/v2/team/app/blobs/sha256:{}", hex.to_uppercase()), 400, "DIGEST_INVALID"),
        (&format!("/v2/team/app/blobs/sha256:{hex}0"), 400, "DIGEST_INVALID"),
        ("/v2/team/app/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID"),
        (&format!("/v2/team/app/manifests/sha256:{}", hex.to_uppercase()), 400, "DIGEST_INVALID"),
        ("/v2/team/app/referrers/sha256:x", 400, "DIGEST_INVALID"),
        ("/v2/team/app/manifests/-x", 400, "TAG_INVALID"),
        (&format!("/v2/team/app/manifests/{long}"), 400, "TAG_INVALID"),
        ("/v2/team/app/manifests/a%20b", 400, "TAG_INVALID"),
        ("/v2/Team/app/manifests/1", 400, "NAME_INVALID"),
        ("/v2/team//app/manifests/1", 400, "NAME_INVALID"),
        ("/v2/team/../app/manifests/1", 400, "NAME_INVALID"),
        ("/v2/team/%2e%2e/app/manifests/1", 400, "NAME_INVALID"),
        ("/v2/team/app%00/manifests/1", 400, "NAME_INVALID"),
        ("/v2/team/app%ff/manifests/1", 400, "NAME_INVALID"),
        ("/v2/team/app%0d%0aX-Evil:%201/manifests/1", 400, "NAME_INVALID"),
        (&format!("/v2/{long}/{long}/manifests/1"), 400, "NAME_INVALID"),
        ("/v2/team/app", 404, "NAME_UNKNOWN"),
        ("/v1/_ping", 404, "NAME_UNKNOWN"),
        ("/", 404, "NAME_UNKNOWN"),
    ] {
        assert_refused(&world.get(target), status, code);
    }
    for id in ["7", "..%2f..%2fx", &long, "01890a5d-ac96-774b-bcce-b302099a8057"] {
        for method in ["GET", "PATCH", "PUT", "DELETE"] {
            let target = format!("/v2/team/app/blobs/uploads/{id}?digest=sha256:{hex}");
            let answer = world.send(method, &target, &[], b"x");
            assert_eq!(answer.status, 404, "{method} {target}: {}", answer.text());
        }
    }
    assert_eq!(world.registry.connections(), 0);
    assert!(world.larder.visible_blobs().is_empty());
}

#[test]
fn f37_method_that_a_route_does_not_know_is_refused_with_those_it_knows() {
    let world = World::start();
    let digest = sha256(b"x");
    let begun = world.send("POST", "/v2/team/app/blobs/uploads/", &[], &[]);
    let upload = begun.header("location").unwrap().to_owned();
    for (target, allowed) in [
        ("/v2/", "GET, HEAD"),
        ("/v2/_catalog", "GET, HEAD"),
        ("/v2/team/app/tags/list", "GET, HEAD"),
        (&format!("/v2/team/app/referrers/{digest}"), "GET, HEAD"),
        ("/v2/team/app/manifests/1", "GET, HEAD, PUT, DELETE"),
        (&format!("/v2/team/app/blobs/{digest}"), "GET, HEAD, DELETE"),
        ("/v2/team/app/blobs/uploads/", "POST"),
        (&upload, "GET, PATCH, PUT, DELETE"),
    ] {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            if allowed.split(", ").any(|known| known == method) {
                continue;
            }
            let answer = world.send(method, target, &[], &[]);
            assert_eq!((answer.status, answer.header("allow")), (405, Some(allowed)), "{method} {target}");
            if method != "HEAD" {
                assert_refused(&answer, 405, "UNSUPPORTED");
            }
        }
    }
    assert_eq!(world.registry.connections(), 0);
}

#[test]
fn f37_who_may_only_pull_is_refused_every_other_way_and_nothing_changes() {
    let world = World::with("", "");
    let image = Image::small();
    world.put("1", &image);
    assert_whole(&world.get(&tagged()), &image.root);
    let (blob, stored) = (image.blob(1), world.larder.visible_blobs());
    for (method, target) in [
        ("POST", format!("/v2/{REPOSITORY}/blobs/uploads/")),
        ("POST", format!("/v2/{REPOSITORY}/blobs/uploads/?digest={}", blob.digest)),
        ("POST", format!("/v2/other/blobs/uploads/?mount={}&from={REPOSITORY}", image.root.digest)),
        ("GET", format!("/v2/{REPOSITORY}/blobs/uploads/01890a5d-ac96-774b-bcce-b302099a8057")),
        ("PATCH", format!("/v2/{REPOSITORY}/blobs/uploads/01890a5d-ac96-774b-bcce-b302099a8057")),
        (
            "PUT",
            format!(
                "/v2/{REPOSITORY}/blobs/uploads/01890a5d-ac96-774b-bcce-b302099a8057?digest={}",
                blob.digest
            ),
        ),
        ("DELETE", format!("/v2/{REPOSITORY}/blobs/uploads/01890a5d-ac96-774b-bcce-b302099a8057")),
        ("PUT", tagged()),
        ("PUT", manifest_path(REPOSITORY, &image.root.digest)),
        ("DELETE", tagged()),
        ("DELETE", manifest_path(REPOSITORY, &image.root.digest)),
        ("DELETE", blob_path(REPOSITORY, &image.root.digest)),
    ] {
        let answer = world.send(method, &target, &[("Content-Type", &image.root.media_type)], &blob.bytes);
        assert_refused(&answer, 403, "DENIED");
    }
    assert_eq!(world.larder.visible_blobs(), stored);
    assert_whole(&world.get(&tagged()), &image.root);
}

#[test]
fn f29_manifest_of_one_byte_too_many_is_refused_and_one_of_the_most_is_taken() {
    let world = World::start();
    let index = |bytes: usize| {
        let head =
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]"#;
        let mut text = head.to_owned();
        text.push_str(&" ".repeat(bytes - head.len() - 1));
        text.push('}');
        Image::raw("application/vnd.oci.image.index.v1+json", text).root
    };
    let limit = 4 << 20;
    let large = super::push_manifest(&world.host(), REPOSITORY, "1", &index(limit + 1), &[]);
    assert_refused(&large, 413, "MANIFEST_INVALID");
    assert!(world.larder.visible_blobs().is_empty());
    let endless = client::begin("PUT", &world.host(), &tagged(), &[], 1 << 40).unwrap().answer().unwrap();
    assert_eq!(endless.so_far().status, 413, "what is announced too large is not waited for");
    let most = index(limit);
    assert_eq!(super::push_manifest(&world.host(), REPOSITORY, "1", &most, &[]).status, 201);
    assert_whole(&world.get(&tagged()), &most);
}

#[test]
fn f30_ranges_give_their_part_and_nonsense_gives_the_whole() {
    let world = World::start();
    let image = Image::of_noise(1, 100_000);
    world.put("1", &image);
    let (blob, target) = (image.blob(1), blob_at(&image, 1));
    let size = blob.bytes.len();
    let many = format!("bytes={}", (0..1000).map(|at| format!("{at}-{at}")).collect::<Vec<_>>().join(","));
    // Cold, then stored.
    for _ in 0..2 {
        for (range, first, end) in [
            ("bytes=0-0", 0, 1),
            ("bytes=1000-1999", 1000, 2000),
            ("bytes=99000-", 99_000, size),
            ("bytes=-10", size - 10, size),
            ("bytes=50-999999999999999999999999", 50, size),
            ("bytes=-999999999", 0, size),
        ] {
            let part = get(&world.host(), &target, &[("Range", range)]);
            assert_eq!(part.status, 206, "{range}: {}", part.text());
            assert!(part.body == blob.bytes[first..end], "{range}");
            let told = format!("bytes {first}-{}/{size}", end - 1);
            assert_eq!(part.header("content-range"), Some(told.as_str()), "{range}");
        }
        for range in [&format!("bytes={size}-"), "bytes=-0", "bytes=5-2", "bytes=999999999999999999999999-"] {
            let beyond = get(&world.host(), &target, &[("Range", range)]);
            assert_refused(&beyond, 416, "BLOB_UPLOAD_INVALID");
            assert_eq!(beyond.header("content-range"), Some(format!("bytes */{size}").as_str()), "{range}");
        }
        for range in ["bytes=a-b", "items=0-1", "bytes=--1", "bytes=", "bytes=0-1,3-4", &many] {
            assert_whole(&get(&world.host(), &target, &[("Range", range)]), blob);
        }
        let stale = [("Range", "bytes=0-0"), ("If-Range", "\"other\"")];
        assert_whole(&send(&world.host(), "GET", &target, &stale, &[]), blob);
    }
    assert_eq!(world.registry.count("GET", &target), 1);
}

#[test]
fn blob_that_is_damaged_at_rest_is_never_given_whole_and_comes_anew() {
    let world = World::start();
    let image = Image::build("linux/amd64").layer(Layer::random(3 << 20, 7)).finish();
    world.put("1", &image);
    let blob = image.blob(1);
    let path = format!("/v2/{REPOSITORY}/blobs/{}", blob.digest);
    assert_eq!(world.get(&path).body, blob.bytes);
    let at = world.larder.blob_path(&blob.digest);
    let mut damaged = std::fs::read(&at).unwrap();
    damaged[1 << 20] ^= 1;
    std::fs::remove_file(&at).unwrap();
    std::fs::write(&at, damaged).unwrap();
    let given = client::request("GET", &world.host(), &path, &[], &[]);
    assert!(given.is_err(), "a damaged blob was given whole");
    let is_mended = || {
        let given = client::request("GET", &world.host(), &path, &[], &[]).ok()?;
        (given.body == blob.bytes).then_some(())
    };
    wait_for("the blob anew", LIMIT, is_mended, || format!("{:?}", world.registry.requests()));
    assert_eq!(world.registry.count("GET", &path), 2);
}

#[test]
fn upstreams_that_are_no_hosts_are_refused_at_the_start() {
    for setting in ["upstreams = [\"https://docker.io\"]", "default_upstream = \"http://127.0.0.1:5000\""] {
        let larder = Larder::new().config(&format!("[facade]\n{setting}\n"));
        let ports =
            ["--listen", "127.0.0.1:0", "--content-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
        let finished = larder.run(&[&["serve"], &ports[..]].concat()).expect_code(2);
        assert!(finished.stderr.contains("HOST[:PORT]"), "{}", finished.stderr);
    }
}
