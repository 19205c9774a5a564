//! Hostile and broken registries against the real binary: what must be refused, what must be mended, and what neither may
//! leave behind. The number of each test is that of its fault:
//!
//! 1–8 content (`content`), 9–13 and 17 documents (`documents`), 14–16 and 18 where a registry sends us (`egress`), 19–22 time
//! and encoding (`patience`).

mod content;
mod documents;
mod egress;
mod patience;

use std::fs;
use std::time::Duration;

use larder_tests::image::Blob;
use larder_tests::scripted::{blob_path, manifest_path};
use larder_tests::{Behaviour, Finished, Image, Larder, ScriptedRegistry};

const REPOSITORY: &str = "team/app";
/// No refusal takes longer.
const LIMIT: Duration = Duration::from_secs(30);
/// No refusal takes more requests.
const REQUESTS_MAX: usize = 16;
/// The methods that ask for a manifest: a fault may show in each, or only where the bytes are sent.
const METHODS: [&[&str]; 2] = [&["HEAD", "GET"], &["GET"]];
/// One more try, soon.
const IMPATIENT: &str = "[registry]\nretry_wait_ms_min = 5\nretry_wait_ms_max = 20\n";

/// An image in a registry, as `team/app:1`, and a larder that is to pull it.
struct Scene {
    larder: Larder,
    registry: ScriptedRegistry,
    image: Image,
}

impl Scene {
    fn of(image: Image) -> Self {
        Self::at(ScriptedRegistry::serving(REPOSITORY, "1", &image), image)
    }

    fn small() -> Self {
        Self::of(Image::small())
    }

    fn at(registry: ScriptedRegistry, image: Image) -> Self {
        registry.put(REPOSITORY, "1", &image);
        Self { larder: Larder::new().limit(LIMIT), registry, image }.config("").retries(1)
    }

    /// Adds `settings` of the registry client to the configuration.
    fn config(mut self, settings: &str) -> Self {
        self.larder = self.larder.config(&format!("{IMPATIENT}{settings}"));
        self
    }

    /// Tries so often again.
    fn retries(mut self, retries_max: u32) -> Self {
        self.larder = self.larder.env("LARDER_REGISTRY__RETRIES_MAX", &retries_max.to_string());
        self
    }

    fn login(mut self, user: &str, password: &str) -> Self {
        self.larder = self.larder.login(&self.registry.host(), user, password);
        self
    }

    /// The path of the blob at `position`; see [`Image::blob`].
    fn blob(&self, position: usize) -> String {
        blob_path(REPOSITORY, &self.image.blob(position).digest)
    }

    /// The path of the image's manifest by its digest.
    fn pinned(&self) -> String {
        manifest_path(REPOSITORY, &self.image.root.digest)
    }

    /// Has the image's manifest answered with `behaviours` by whichever name these methods ask for it.
    fn always_of_manifest(&self, methods: &[&str], behaviours: &[Behaviour]) {
        for method in methods {
            for path in [tagged(), self.pinned()] {
                self.registry.always_method(method, &path, behaviours.to_vec());
            }
        }
    }

    /// Expects that it was asked what the tag stands for, then for that manifest, and for nothing else.
    #[track_caller]
    fn assert_got_manifest_alone(&self) {
        let requests = self.registry.requests();
        let asked = requests.iter().map(|one| (one.request.method.as_str(), one.request.path.clone()));
        let expected = [("HEAD", tagged()), ("GET", self.pinned())];
        assert_eq!(asked.collect::<Vec<_>>(), expected, "a refused manifest was followed");
    }

    fn reference(&self) -> String {
        self.registry.reference(&format!("{REPOSITORY}:1"))
    }

    fn pull(&self) -> Finished {
        self.pull_with(&[])
    }

    fn pull_with(&self, flags: &[&str]) -> Finished {
        self.pull_reference(&self.reference(), flags)
    }

    fn pull_reference(&self, reference: &str, flags: &[&str]) -> Finished {
        let arguments = [&["pull", "--platform", "linux/amd64"], flags, &[reference]].concat();
        self.larder.run(&arguments)
    }

    /// Pulls in vain: with this exit code, saying where and all of `says`, in few requests, and leaving no name behind.
    #[track_caller]
    fn fails(&self, code: i32, says: &[&str]) -> Finished {
        self.judge(self.pull(), code, says)
    }

    #[track_caller]
    fn judge(&self, finished: Finished, code: i32, says: &[&str]) -> Finished {
        let finished = finished.expect_code(code);
        let host = self.registry.host();
        for word in says.iter().chain([&host.as_str()]) {
            assert!(finished.stderr.contains(word), "no {word:?} in {}", finished.stderr);
        }
        let requests = self.registry.requests().len();
        assert!(requests <= REQUESTS_MAX, "{requests} requests");
        assert_eq!(self.larder.ok(&["ls"]), "", "a failed pull left a name");
        self.larder.assert_store_is_sound();
        finished
    }

    /// Does as [`Scene::fails`], and finds no blob at all.
    #[track_caller]
    fn fails_without_a_trace(&self, code: i32, says: &[&str]) -> Finished {
        let finished = self.fails(code, says);
        assert_eq!(self.larder.visible_blobs(), [""; 0], "a refused manifest left a blob");
        finished
    }

    #[track_caller]
    fn assert_hidden(&self, position: usize) {
        let digest = &self.image.blob(position).digest;
        assert!(!self.larder.blob_path(digest).exists(), "{digest} is visible");
    }

    /// Pulls, and finds the whole image, byte for byte.
    #[track_caller]
    fn succeeds(&self) -> Finished {
        let finished = self.pull().expect_code(0);
        self.assert_whole();
        finished
    }

    #[track_caller]
    fn assert_whole(&self) {
        self.larder.assert_store_is_sound();
        for blob in self.image.manifests.iter().chain(&self.image.blobs) {
            let stored = fs::read(self.larder.blob_path(&blob.digest)).expect("the blob is visible");
            assert!(stored == blob.bytes, "{} was altered", blob.digest);
        }
        assert!(self.larder.ok(&["ls"]).contains(&self.reference()), "no name");
    }

    /// Behaves well again, and expects that what went before is no obstacle.
    #[track_caller]
    fn recovers(&self) {
        self.registry.clear_scripts();
        self.succeeds();
    }

    /// The blob requests, as their `Range` headers.
    fn ranges(&self, position: usize) -> Vec<Option<String>> {
        let path = self.blob(position);
        let requests = self.registry.requests();
        let of_blob = requests.iter().filter(|one| one.request.path == path);
        of_blob.map(|one| one.request.header("range").map(str::to_owned)).collect()
    }
}

/// The path of the image's manifest by its tag.
fn tagged() -> String {
    manifest_path(REPOSITORY, "1")
}

/// Answers with `manifest` as if its digest were `digest`.
fn claim(manifest: &Blob, digest: &str) -> Behaviour {
    Behaviour::Status {
        code: 200,
        headers: vec![
            ("Content-Type", manifest.media_type.clone()),
            ("Docker-Content-Digest", digest.to_owned()),
        ],
        body: manifest.bytes.clone(),
    }
}

/// Expects `secret` in none of what was written.
#[track_caller]
fn assert_kept_secret(finished: &Finished, secret: &str) {
    for written in [&finished.stdout, &finished.stderr] {
        assert!(!written.contains(secret), "the secret is printed: {written}");
    }
}

/// Expects that nothing that authorises was ever sent to `registry`.
#[track_caller]
fn assert_no_credentials_at(registry: &ScriptedRegistry) {
    for exchange in registry.requests() {
        for name in ["authorization", "proxy-authorization", "cookie"] {
            assert_eq!(exchange.request.header(name), None, "{}", exchange.request.path);
        }
    }
}
