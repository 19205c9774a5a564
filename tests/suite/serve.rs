//! `/v2/` against upstreams and clients that are slow, broken or hostile. Where a test is that of a fault, its name begins with the
//! fault's number.

mod access;
mod farm;
mod fills;
mod lists;
mod names;
mod tags;
mod uploads;

use std::time::Duration;

use larder_tests::client::{self, Arriving, Response};
use larder_tests::image::Blob;
use larder_tests::scripted::{blob_path, manifest_path};
use larder_tests::{Image, Larder, ScriptedRegistry, Service};
use serde_json::Value;

const REPOSITORY: &str = "team/app";
/// Nothing here takes longer.
const LIMIT: Duration = Duration::from_mins(1);
/// No upstream is asked again after it failed, and none rests for having failed before.
const IMPATIENT: &str = "[registry]\nretries_max = 1\nretry_wait_ms_min = 5\nretry_wait_ms_max = 20\n";
const OPEN: &str = "[access]\nanonymous = [\"pull\", \"push\", \"delete\"]\n";

/// Settings of a larder that may ask the registry at `upstream`, which is also the one that names without a registry mean.
fn settings(upstream: &str, facade: &str, more: &str) -> String {
    format!(
        "{IMPATIENT}[facade]\ndefault_upstream = \"{upstream}\"\nupstreams = [\"{upstream}\"]\n{facade}{more}"
    )
}

/// A registry, and a larder in one process that may ask it.
struct World {
    service: Service,
    larder: Larder,
    registry: ScriptedRegistry,
}

impl World {
    fn start() -> Self {
        Self::with("", OPEN)
    }

    /// A world with these settings of the facade, and `more` in sections of their own.
    fn with(facade: &str, more: &str) -> Self {
        Self::at(ScriptedRegistry::start(), |larder, host| larder.config(&settings(host, facade, more)))
    }

    fn at(registry: ScriptedRegistry, configure: impl FnOnce(Larder, &str) -> Larder) -> Self {
        let larder = configure(Larder::new(), &registry.host());
        Self { service: larder.serve(&[]), larder, registry }
    }

    /// Has `image` upstream as `team/app:TAG`.
    fn put(&self, tag: &str, image: &Image) {
        self.registry.put(REPOSITORY, tag, image);
    }

    fn host(&self) -> String {
        self.service.address("listen")
    }

    fn get(&self, target: &str) -> Response {
        get(&self.host(), target, &[])
    }

    fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        send(&self.host(), method, target, headers, body)
    }

    fn open(&self, target: &str) -> Arriving {
        open(&self.host(), target, &[])
    }

    fn is_stored(&self, digest: &str) -> bool {
        self.larder.blob_path(digest).exists()
    }

    /// Pushes `image` to `repository`.
    #[track_caller]
    fn push(&self, repository: &str, tag: &str, image: &Image, headers: &[(&str, &str)]) {
        push(&self.host(), repository, tag, image, headers);
    }
}

fn get(host: &str, target: &str, headers: &[(&str, &str)]) -> Response {
    send(host, "GET", target, headers, &[])
}

fn send(host: &str, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let answer = client::request(method, host, target, headers, body);
    answer.unwrap_or_else(|error| panic!("{method} {target}: {error}"))
}

fn open(host: &str, target: &str, headers: &[(&str, &str)]) -> Arriving {
    client::open(host, target, headers).unwrap_or_else(|error| panic!("GET {target}: {error}"))
}

#[track_caller]
fn push(host: &str, repository: &str, tag: &str, image: &Image, headers: &[(&str, &str)]) {
    for blob in &image.blobs {
        push_blob(host, repository, blob, headers);
    }
    for (position, manifest) in image.manifests.iter().enumerate() {
        let is_root = position + 1 == image.manifests.len();
        let answer =
            push_manifest(host, repository, if is_root { tag } else { &manifest.digest }, manifest, headers);
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
}

#[track_caller]
fn push_blob(host: &str, repository: &str, blob: &Blob, headers: &[(&str, &str)]) {
    let target = format!("/v2/{repository}/blobs/uploads/?digest={}", blob.digest);
    let answer = send(host, "POST", &target, headers, &blob.bytes);
    assert_eq!(answer.status, 201, "{}", answer.text());
}

fn push_manifest(
    host: &str,
    repository: &str,
    name: &str,
    manifest: &Blob,
    headers: &[(&str, &str)],
) -> Response {
    let headers = [headers, &[("Content-Type", manifest.media_type.as_str())]].concat();
    send(host, "PUT", &manifest_path(repository, name), &headers, &manifest.bytes)
}

fn blob_at(image: &Image, position: usize) -> String {
    blob_path(REPOSITORY, &image.blob(position).digest)
}

/// The path of the tag `1`.
fn tagged() -> String {
    manifest_path(REPOSITORY, "1")
}

/// Expects a refusal with this status and code.
#[track_caller]
fn assert_refused(answer: &Response, status: u16, code: &str) {
    let text = answer.text();
    assert_eq!(answer.status, status, "{text}");
    let told: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"));
    assert_eq!(told["errors"][0]["code"], code, "{text}");
}

/// Expects exactly these bytes, as a whole.
#[track_caller]
fn assert_whole(answer: &Response, blob: &Blob) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.body == blob.bytes, "{} bytes came that are not {}", answer.body.len(), blob.digest);
}
