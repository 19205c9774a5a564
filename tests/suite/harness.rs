//! The harness is judged by other people's tools before it judges larder.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use larder_tests::image::{Compression, sha256};
use larder_tests::scripted::{Auth, Authority, Bearer, Wire, blob_path, manifest_path};
use larder_tests::{
    Behaviour, DockerRegistry, Format, Gate, Image, Layer, NatsServer, ScriptedRegistry, Seaweed,
};
use larder_tests::{client, debian, tools};

fn skopeo_copy(registry: &ScriptedRegistry, name: &str, layout: &Path) -> Command {
    let mut skopeo = tools::command("skopeo");
    skopeo.args(["copy", "--all", "--preserve-digests", "--src-tls-verify=false"]);
    skopeo.arg(format!("docker://{}", registry.reference(name)));
    skopeo.arg(format!("oci:{}:copy", layout.display()));
    skopeo
}

fn crane_pull(registry: &ScriptedRegistry, name: &str, layout: &Path) -> Command {
    let mut crane = tools::command("crane");
    crane.args(["pull", "--insecure", "--format=oci", &registry.reference(name)]);
    crane.arg(layout);
    crane
}

fn multi_platform() -> Image {
    let shared = Layer::files(&[("etc/motd", b"hello\n".as_slice())]);
    let amd64 = Image::build("linux/amd64").layer(shared.clone()).finish();
    let arm64 = Image::build("linux/arm64/v8")
        .layer(shared)
        .layer(Layer::random(10_000, 7).compress(Compression::Zstd))
        .layer(Layer::random(10_000, 8).compress(Compression::Plain))
        .finish();
    Image::index(Format::Oci).image(&amd64).attestation(&amd64).image(&arm64).finish()
}

fn assert_layout_holds(layout: &Path, image: &Image) {
    for digest in image.digests() {
        let path = layout.join("blobs").join(digest.replace(':', "/"));
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(sha256(&bytes), digest);
    }
}

#[test]
fn skopeo_copies_an_index_from_the_scripted_registry() {
    let image = multi_platform();
    let registry = ScriptedRegistry::serving("a/multi", "1", &image);
    let directory = tempfile::tempdir().unwrap();
    tools::run(skopeo_copy(&registry, "a/multi:1", directory.path()));
    assert_layout_holds(directory.path(), &image);
}

#[test]
fn crane_pulls_a_docker_image_from_the_scripted_registry() {
    let image = Image::build("linux/amd64").format(Format::Docker).layer(Layer::random(1000, 1)).finish();
    let registry = ScriptedRegistry::serving("docker", "1", &image);
    let directory = tempfile::tempdir().unwrap();
    tools::run(crane_pull(&registry, "docker:1", directory.path()));
    assert_layout_holds(directory.path(), &image);
    assert_eq!(registry.count("GET", &image.blob(1).digest), 1);
}

#[test]
fn umoci_unpacks_an_image_of_the_harness() {
    let registry = ScriptedRegistry::serving("small", "1", &Image::small());
    let directory = tempfile::tempdir().unwrap();
    let (layout, bundle) = (directory.path().join("layout"), directory.path().join("bundle"));
    tools::run(skopeo_copy(&registry, "small:1", &layout));
    let mut umoci = tools::command("umoci");
    umoci.args(["unpack", "--rootless", "--image"]).arg(format!("{}:copy", layout.display())).arg(&bundle);
    tools::run(umoci);
    assert_eq!(fs::read(bundle.join("rootfs/etc/hostname")).unwrap(), b"larder\n");
}

#[test]
fn scripted_answers_come_once_and_in_order() {
    let image = Image::small();
    let registry = ScriptedRegistry::serving("small", "1", &image);
    let layer = image.blob(2);
    let path = blob_path("small", &layer.digest);
    registry.script(&path, [Behaviour::retry_after(503, 1)]);
    registry.script(&path, [Behaviour::Cut { after_bytes: 100 }]);
    registry.script(&path, [Behaviour::FlipByte { at: 3 }]);
    let get = || client::get(&registry.host(), &path);
    assert_eq!(get().unwrap().header("retry-after"), Some("1"));
    assert!(get().is_err(), "a cut body is shorter than announced");
    assert_eq!(get().unwrap().body[3], !layer.bytes[3]);
    assert_eq!(get().unwrap().body, layer.bytes);
    let sent: Vec<u64> = registry.requests().iter().map(|exchange| exchange.sent_bytes).collect();
    assert_eq!(sent[1], 100);
}

#[test]
fn ranges_are_served_and_can_be_scripted_wrong() {
    let image = Image::small();
    let registry = ScriptedRegistry::serving("small", "1", &image);
    let layer = image.blob(2);
    let path = blob_path("small", &layer.digest);
    let from_ten =
        |range: &str| client::request("GET", &registry.host(), &path, &[("Range", range)], &[]).unwrap();
    let answer = from_ten("bytes=10-");
    assert_eq!((answer.status, answer.body.as_slice()), (206, &layer.bytes[10..]));
    assert_eq!(from_ten("bytes=10-19").body, &layer.bytes[10..20]);
    assert_eq!(from_ten("bytes=99999999-").status, 416);
    registry.script(&path, [Behaviour::IgnoreRange]);
    assert_eq!(from_ten("bytes=10-").status, 200);
    registry.script(&path, [Behaviour::WrongContentRange("bytes 0-1/2".to_owned())]);
    assert_eq!(from_ten("bytes=10-").header("content-range"), Some("bytes 0-1/2"));
}

#[test]
fn gate_holds_an_answer_until_it_is_opened() {
    let image = Image::small();
    let registry = ScriptedRegistry::serving("small", "1", &image);
    let layer = image.blob(2);
    let path = blob_path("small", &layer.digest);
    let gate = Gate::new();
    registry.script(&path, [Behaviour::Hold { after_bytes: 50, gate: gate.clone() }]);
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| client::get(&registry.host(), &path).unwrap());
        gate.await_reached(1, Duration::from_secs(10));
        assert_eq!(registry.requests()[0].sent_bytes, 50);
        gate.open();
        assert_eq!(answer.join().unwrap().body, layer.bytes);
    });
}

#[test]
fn lengths_lie_to_order() {
    let registry = ScriptedRegistry::start();
    let path = "/v2/x/blobs/y";
    let get = || client::get(&registry.host(), path).unwrap();
    registry.script(path, [Behaviour::Body(Bytes::from_static(b"abcdef")), Behaviour::Short]);
    registry
        .script(path, [Behaviour::Body(Bytes::from_static(b"abcdef")), Behaviour::Long { extra_bytes: 2 }]);
    registry.script(path, [Behaviour::Body(Bytes::from_static(b"abcdef")), Behaviour::Chunked]);
    registry
        .script(path, [Behaviour::Body(Bytes::from_static(b"abcdef")), Behaviour::Drip { bytes_per_s: 100 }]);
    assert_eq!(get().body, b"abcde");
    assert_eq!(get().body, b"abcdefxx");
    assert_eq!(get().header("transfer-encoding"), Some("chunked"));
    assert_eq!(get().body, b"abcdef");
}

#[test]
fn tokens_are_asked_for_with_credentials() {
    let registry = ScriptedRegistry::serving("team/small", "1", &Image::small());
    let credentials = Some(("ann".to_owned(), "secret".to_owned()));
    registry.require(Auth::Bearer(Bearer { realm: None, credentials }));
    let directory = tempfile::tempdir().unwrap();
    let mut skopeo = skopeo_copy(&registry, "team/small:1", directory.path());
    assert!(!skopeo.output().unwrap().status.success());
    tools::run({
        skopeo.args(["--src-creds", "ann:secret"]);
        skopeo
    });
    assert!(registry.count("GET", "/token") >= 2);
    let denied = client::get(&registry.host(), &manifest_path("team/small", "1")).unwrap();
    assert!(denied.header("www-authenticate").unwrap().contains("repository:team/small:pull"));
}

#[test]
fn curl_speaks_http2_to_the_scripted_registry() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let ca = authority.write_to(directory.path());
    for (wire, version) in
        [(Wire::Tls(authority.clone()), "HTTP/1.1"), (Wire::Http2(authority.clone()), "HTTP/2.0")]
    {
        let registry = ScriptedRegistry::start_with(wire);
        let mut curl = tools::command("curl");
        curl.args(["--silent", "--fail", "--noproxy", "*", "--cacert"])
            .arg(&ca)
            .arg(format!("{}/v2/", registry.url()));
        assert_eq!(tools::run(curl), "{}");
        assert_eq!(registry.requests()[0].request.version, version);
    }
}

#[test]
fn docker_registry_keeps_what_is_pushed_over_a_restart() {
    let mut registry = DockerRegistry::start();
    let image = multi_platform();
    registry.push("a/multi", "1", &image);
    registry.restart();
    let path = manifest_path("a/multi", "1");
    let accept = [("Accept", image.root.media_type.as_str())];
    let answer = client::request("GET", &registry.host(), &path, &accept, &[]).unwrap();
    assert_eq!(answer.body, image.root.bytes);
    assert_eq!(registry.requests("GET", "/manifests/1"), 1);
}

#[test]
fn nats_server_syncs_always_and_comes_back_on_its_port() {
    let mut server = NatsServer::start();
    let url = server.url();
    assert_eq!(server.monitor("/jsz")["config"]["sync_always"], true);
    server.restart();
    assert_eq!(server.url(), url);
    assert!(NatsServer::start_unsynced().monitor("/jsz")["config"]["sync_always"].is_null());
}

#[test]
fn seaweed_has_its_bucket_and_comes_back_on_its_port() {
    let mut server = Seaweed::start();
    assert!(server.list("").is_empty());
    server.restart();
    let answer = client::get(server.endpoint().trim_start_matches("http://"), "/larder").unwrap();
    assert_eq!(answer.status, 403, "anybody may read the bucket");
}

#[test]
fn debian_image_is_real_and_has_two_platforms() {
    let registry = DockerRegistry::start();
    debian::push_to(&registry.reference("debian:12"));
    let mut inspect = tools::command("skopeo");
    inspect
        .args(["inspect", "--raw", "--tls-verify=false"])
        .arg(format!("docker://{}", registry.reference("debian:12")));
    let index: serde_json::Value = serde_json::from_str(&tools::run(inspect)).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    let layout = tempfile::tempdir().unwrap();
    let mut skopeo = tools::command("skopeo");
    skopeo.args(["copy", "--override-arch", "amd64", "--src-tls-verify=false"]);
    skopeo.arg(format!("docker://{}", registry.reference("debian:12")));
    skopeo.arg(format!("oci:{}:12", layout.path().display()));
    tools::run(skopeo);
    let bundle = layout.path().join("bundle");
    let mut umoci = tools::command("umoci");
    umoci
        .args(["unpack", "--rootless", "--image"])
        .arg(format!("{}:12", layout.path().display()))
        .arg(&bundle);
    tools::run(umoci);
    assert!(bundle.join("rootfs/bin/bash").is_file());
}
