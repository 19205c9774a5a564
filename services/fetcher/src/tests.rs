//! The fetcher against a registry that can be held up.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use larder_blobs::Blobs;
use larder_messages::{
    BlobProgress, BlobStored, BlobWanted, ImageWanted, Job, Listing, ListingSought, Reach, UpstreamResting,
    now_ms, topic,
};
use larder_oci::{Digest, OnLocal, PlatformSet, Reference, media_type};
use larder_registry::{Client, RegistryError};
use larder_runtime::{Ear, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::image::Fetch;
use crate::{Config, FetchError, Ports, blob, list, rest, seek};

const MIB: usize = 1 << 20;

/// What the registry has, by path, and what it was asked.
#[derive(Default)]
struct Shelf {
    content: BTreeMap<String, Bytes>,
    /// Under which path heads name which digest.
    heads: BTreeMap<String, Digest>,
    /// Whether it keeps the length of whole blobs to itself.
    is_terse: bool,
    asked: Vec<String>,
}

#[derive(Clone)]
struct Registry {
    shelf: Arc<Mutex<Shelf>>,
    /// How many bytes of a whole blob it gives out; past the end it cuts the connection.
    tap: watch::Sender<usize>,
    address: SocketAddr,
}

impl Registry {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let registry = Self { shelf: Arc::default(), tap: watch::Sender::new(usize::MAX - 1), address };
        let routes = Router::new().fallback(serve).with_state(registry.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        registry
    }

    fn at(&self, suffix: &str) -> Reference {
        format!("{}/a/b{suffix}", self.address).parse().unwrap()
    }

    fn put(&self, path: &str, content: impl Into<Bytes>) {
        self.shelf.lock().unwrap().content.insert(format!("/v2/a/b/{path}"), content.into());
    }

    /// Puts a blob and says that it is wanted.
    fn blob(&self, content: &Bytes, size: Option<u64>) -> BlobWanted {
        let digest = Digest::of(content);
        self.put(&format!("blobs/{digest}"), content.clone());
        BlobWanted { digest, size, is_manifest: false, from: self.at(":1") }
    }

    fn asked(&self) -> Vec<String> {
        self.shelf.lock().unwrap().asked.clone()
    }
}

async fn serve(State(registry): State<Registry>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let range = request.headers().get("range").and_then(|range| range.to_str().ok().map(str::to_owned));
    let (content, head, is_terse) = {
        let mut shelf = registry.shelf.lock().unwrap();
        let line = format!("{} {path} {}", request.method(), range.as_deref().unwrap_or_default());
        shelf.asked.push(line.trim_end().to_owned());
        (shelf.content.get(&path).cloned(), shelf.heads.get(&path).cloned(), shelf.is_terse)
    };
    let Some(content) = content else {
        return Response::builder().status(404).body(Body::empty()).unwrap();
    };
    let mut response = Response::builder();
    if let Some(digest) = head.filter(|_| request.method() == "HEAD") {
        response = response.header("docker-content-digest", digest.as_str());
    }
    if request.method() == "HEAD" {
        return response.header("content-length", content.len()).body(Body::empty()).unwrap();
    }
    if let Some(range) = range {
        let (from, to) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let from: usize = from.parse().unwrap();
        let to = to.parse().unwrap_or(content.len() - 1);
        let told = format!("bytes {from}-{to}/{}", content.len());
        let part = content.slice(from..=to);
        return response.status(206).header("content-range", told).body(part.into()).unwrap();
    }
    if !is_terse {
        response = response.header("content-length", content.len());
    }
    response.body(Body::from_stream(tapped(content, registry.tap.subscribe()))).unwrap()
}

/// `content` as far as the tap is open.
fn tapped(
    content: Bytes,
    tap: watch::Receiver<usize>,
) -> impl stream::Stream<Item = Result<Bytes, &'static str>> {
    stream::try_unfold((content, 0, tap), |(content, at, mut tap)| async move {
        if at == content.len() {
            return Ok(None);
        }
        let open = *tap.wait_for(|open| *open > at).await.map_err(|_| "gone")?;
        if open == usize::MAX {
            return Err("cut");
        }
        let to = open.min(content.len());
        Ok(Some((content.slice(at..to), (content, to, tap))))
    })
}

struct Scene {
    registry: Registry,
    ports: Arc<Ports>,
    runtime: Runtime,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        Self::with(Config::default()).await
    }

    async fn with(config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bus = larder_bus::open("mem:", &larder_bus::Config::default()).await.unwrap();
        let runtime = Runtime::new(bus);
        let upstream = larder_registry::Config {
            auth_file: Some("/nonexistent/config.json".into()),
            retries_max: 2,
            retry_wait_ms_min: 1,
            ..larder_registry::Config::default()
        };
        let (blobs, client) = (Blobs::on_disk(folder.path()).unwrap(), Client::new(upstream).unwrap());
        let ports = Arc::new(Ports::new(runtime.voice().clone(), &config, blobs, client));
        ports.fills.serve(&runtime).await.unwrap();
        Self { registry: Registry::start().await, ports, runtime, _folder: folder }
    }

    async fn listen(&self) -> Ear {
        self.runtime.voice().listen(&[topic::<BlobProgress>(None)]).await.unwrap()
    }

    /// Starts to fetch, and returns where it can be read.
    async fn begin(&self, wanted: &BlobWanted) -> (JoinHandle<Result<BlobStored, FetchError>>, BlobProgress) {
        let mut ear = self.listen().await;
        let (ports, wanted) = (Arc::clone(&self.ports), wanted.clone());
        let fetch = tokio::spawn(async move { blob::fetch(&ports, &Job::new(60_000), &wanted).await });
        let progress = ear.next().await.unwrap().of::<BlobProgress>().unwrap();
        (fetch, progress)
    }

    async fn image(&self, wanted: &ImageWanted) -> Result<larder_messages::ImageStored, FetchError> {
        let job = Job::new(60_000);
        Fetch { ports: &self.ports, job: &job, wanted, fetched: larder_messages::Fetched::default() }
            .image()
            .await
    }
}

fn noise(length: usize) -> Bytes {
    let mut state = 7_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(next).collect::<Vec<u8>>().into()
}

async fn get(url: &str) -> reqwest::Response {
    reqwest::get(url).await.unwrap()
}

#[tokio::test]
async fn readers_of_a_growing_blob_cost_one_request_and_see_it_grow() {
    let scene = Scene::new().await;
    let content = noise(MIB);
    scene.registry.tap.send_replace(MIB / 2);
    let wanted = scene.registry.blob(&content, None);
    let (fetch, progress) = scene.begin(&wanted).await;
    assert_eq!(progress.size, Some(MIB as u64), "the registry has declared it");
    let url = progress.at.unwrap();
    let mut early = get(&url).await;
    assert_eq!(early.content_length(), Some(MIB as u64));
    assert_eq!(early.headers()["larder-size"], MIB.to_string());
    let first = early.chunk().await.unwrap().unwrap();
    assert_eq!(first, content[..first.len()]);
    let part = get(&format!("{url}?offset=1000&length=2000")).await;
    assert_eq!(part.content_length(), Some(2000));
    assert_eq!(part.bytes().await.unwrap(), content[1000..3000]);
    let late = get(&format!("{url}?offset=524288")).await;
    scene.registry.tap.send_replace(usize::MAX - 1);
    let mut rest = Vec::from(first);
    while let Some(chunk) = early.chunk().await.unwrap() {
        rest.extend_from_slice(&chunk);
    }
    assert_eq!(rest, content);
    assert_eq!(late.bytes().await.unwrap(), content[524_288..]);
    let stored = fetch.await.unwrap().unwrap();
    assert_eq!((stored.size, stored.fetched_bytes), (MIB as u64, MIB as u64));
    assert_eq!(scene.registry.asked().len(), 1);
    assert_eq!(get(&url).await.status(), 404, "it is in the store now");
}

#[tokio::test]
async fn a_blob_that_does_not_hold_never_completes() {
    let scene = Scene::new().await;
    let content = noise(MIB);
    scene.registry.tap.send_replace(MIB / 2);
    let mut wanted = scene.registry.blob(&content, Some(MIB as u64));
    let path = format!("blobs/{}", Digest::of(b"other"));
    scene.registry.put(&path, content);
    wanted.digest = Digest::of(b"other");
    let (fetch, progress) = scene.begin(&wanted).await;
    let reader = get(&progress.at.unwrap()).await;
    scene.registry.tap.send_replace(usize::MAX - 1);
    assert!(reader.bytes().await.is_err());
    assert!(fetch.await.unwrap().unwrap_err().is_integrity());
}

#[tokio::test]
async fn a_fill_that_is_cut_goes_on_by_range_under_its_readers() {
    let scene = Scene::new().await;
    let content = noise(MIB);
    scene.registry.tap.send_replace(MIB / 2);
    let wanted = scene.registry.blob(&content, Some(MIB as u64));
    let (fetch, progress) = scene.begin(&wanted).await;
    let mut reader = get(&progress.at.unwrap()).await;
    let first = reader.chunk().await.unwrap().unwrap();
    scene.registry.tap.send_replace(usize::MAX);
    let mut all = Vec::from(first);
    while let Some(chunk) = reader.chunk().await.unwrap() {
        all.extend_from_slice(&chunk);
    }
    assert_eq!(all, content);
    assert_eq!(fetch.await.unwrap().unwrap().fetched_bytes, MIB as u64);
    assert!(scene.registry.asked()[1].contains("bytes=524288-"), "{:?}", scene.registry.asked());
}

#[tokio::test]
async fn a_part_far_ahead_does_not_wait_for_what_is_before_it() {
    let scene = Scene::new().await;
    let content = noise(24 * MIB);
    scene.registry.tap.send_replace(MIB);
    let wanted = scene.registry.blob(&content, Some(content.len() as u64));
    let (fetch, progress) = scene.begin(&wanted).await;
    let url = progress.at.unwrap();
    let (from, to) = (23 * MIB, 23 * MIB + 5_000);
    let part = get(&format!("{url}?offset={from}&length=5000")).await;
    assert_eq!(part.content_length(), Some(5000));
    assert_eq!(part.bytes().await.unwrap(), content[from..to]);
    let tail = get(&format!("{url}?offset={from}")).await;
    assert_eq!(tail.bytes().await.unwrap(), content[from..]);
    assert_eq!(scene.registry.asked().len(), 3);
    fetch.abort();
}

#[tokio::test]
async fn wrong_secrets_parts_and_blobs_are_refused() {
    let scene = Scene::new().await;
    let content = noise(MIB);
    scene.registry.tap.send_replace(1);
    let wanted = scene.registry.blob(&content, Some(MIB as u64));
    let (fetch, progress) = scene.begin(&wanted).await;
    let url = progress.at.unwrap();
    let status = async |url: &str| get(url).await.status().as_u16();
    let (base, _) = url.rsplit_once('/').unwrap();
    assert_eq!(status(&format!("{base}/{}", Digest::of(b"other"))).await, 404);
    assert_eq!(status(&format!("{base}x/{}", wanted.digest)).await, 404);
    assert_eq!(status(&format!("{base}/sha256:..")).await, 404);
    assert_eq!(status(&format!("{url}?offset=1048577")).await, 416);
    assert_eq!(status(&format!("{url}?offset=-1")).await, 400);
    assert_eq!(status(&format!("{url}?length=0")).await, 400);
    fetch.abort();
}

#[tokio::test]
async fn a_blob_of_which_nobody_says_the_size_is_bounded() {
    let scene = Scene::with(Config { undeclared_bytes_max: 99, ..Config::default() }).await;
    let fetch = async |length, is_terse| {
        scene.registry.shelf.lock().unwrap().is_terse = is_terse;
        let wanted = scene.registry.blob(&noise(length), None);
        blob::fetch(&scene.ports, &Job::new(60_000), &wanted).await
    };
    assert!(matches!(fetch(100, true).await, Err(FetchError::Endless { limit_bytes: 99, .. })));
    for (length, is_terse) in [(99, true), (100, false)] {
        assert_eq!(fetch(length, is_terse).await.unwrap().fetched_bytes, length as u64);
        assert_eq!(fetch(length, is_terse).await.unwrap().fetched_bytes, 0, "it is there");
    }
    assert_eq!(scene.registry.asked().len(), 3);
}

fn shallow(reference: Reference, revalidate: bool) -> ImageWanted {
    ImageWanted {
        reference,
        platforms: PlatformSet::All,
        known: None,
        revalidate,
        shallow: true,
        local: OnLocal::default(),
    }
}

fn index(note: &str) -> Bytes {
    let kind = media_type::OCI_INDEX;
    format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","manifests":[],"note":"{note}"}}"#).into()
}

#[tokio::test]
async fn a_shallow_wish_costs_a_head_and_a_pinned_manifest_and_then_only_the_head() {
    let scene = Scene::new().await;
    let (old, digest) = (index("old"), Digest::of(&index("old")));
    scene.registry.put("manifests/1", index("moved between head and get"));
    scene.registry.put(&format!("manifests/{digest}"), old);
    scene.registry.shelf.lock().unwrap().heads.insert("/v2/a/b/manifests/1".to_owned(), digest.clone());
    let stored = scene.image(&shallow(scene.registry.at(":1"), true)).await.unwrap();
    assert_eq!((stored.reach, &stored.root.digest), (Reach::Root, &digest));
    assert_eq!((stored.fetched.blobs, stored.fetched.fetched_blobs), (1, 1));
    let by_digest = format!("GET /v2/a/b/manifests/{digest}");
    assert_eq!(scene.registry.asked(), ["HEAD /v2/a/b/manifests/1", by_digest.as_str()]);
    let mut again = shallow(scene.registry.at(":1"), true);
    for known in [None, Some(stored.root.clone())] {
        again.known = known;
        let stored = scene.image(&again).await.unwrap();
        assert_eq!((stored.root.digest, stored.fetched.fetched_blobs), (digest.clone(), 0));
    }
    assert_eq!(scene.registry.asked()[2..], ["HEAD /v2/a/b/manifests/1", "HEAD /v2/a/b/manifests/1"]);
    scene.image(&shallow(scene.registry.at(&format!("@{digest}")), true)).await.unwrap();
    assert_eq!(scene.registry.asked().len(), 4, "what a digest names does not change");
}

#[tokio::test]
async fn a_head_that_names_something_stored_that_is_no_manifest_changes_nothing() {
    let scene = Scene::new().await;
    let layer = noise(5 * MIB);
    let digest = Digest::of(&layer);
    scene.ports.blobs.put(&digest, layer).await.unwrap();
    scene.registry.put("manifests/1", index("one"));
    scene.registry.shelf.lock().unwrap().heads.insert("/v2/a/b/manifests/1".to_owned(), digest.clone());
    let stored = scene.image(&shallow(scene.registry.at(":1"), true)).await.unwrap();
    assert_eq!(stored.root.digest, Digest::of(&index("one")));
    assert!(scene.ports.blobs.size(&digest).await.unwrap().is_some());
}

#[tokio::test]
async fn an_image_or_blob_that_is_not_there_is_told_from_one_that_is() {
    let scene = Scene::new().await;
    let missing = scene.image(&shallow(scene.registry.at(":1"), false)).await.unwrap_err();
    assert!(matches!(missing, FetchError::Upstream { source: RegistryError::NotFound { .. }, .. }));
    let wanted = scene.registry.blob(&noise(100), None);
    let there = seek::blob_size(&scene.ports, &wanted.from.at(&wanted.digest)).await.unwrap();
    assert_eq!(there, Some(100));
    let missing = wanted.from.at(&Digest::of(b"missing"));
    assert_eq!(seek::blob_size(&scene.ports, &missing).await.unwrap(), None);
}

#[tokio::test]
async fn lists_are_stored_as_blobs() {
    let scene = Scene::new().await;
    let sought = |of| ListingSought { repository: scene.registry.at(":1"), of };
    assert_eq!(list::list(&scene.ports, &sought(Listing::Tags)).await.unwrap(), None);
    scene.registry.put("tags/list", r#"{"tags":["b","a"]}"#);
    let tags = list::list(&scene.ports, &sought(Listing::Tags)).await.unwrap().unwrap();
    assert_eq!(scene.ports.blobs.read_small(&tags.digest, 100).await.unwrap(), r#"["a","b"]"#);
    let subject = Digest::of(b"subject");
    scene.registry.put(
        &format!("referrers/{subject}"),
        format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{subject}","size":3}}]}}"#,
            media_type::OCI_MANIFEST
        ),
    );
    let referrers = sought(Listing::Referrers { subject });
    let referrers = list::list(&scene.ports, &referrers).await.unwrap().unwrap();
    assert_eq!(referrers.media_type, media_type::OCI_INDEX);
    assert!(scene.ports.blobs.document(&referrers).await.unwrap().is_some());
}

#[tokio::test]
async fn fetchers_agree_on_whom_to_leave_alone() {
    let scene = Scene::new().await;
    let other = Client::new(larder_registry::Config::default()).unwrap();
    let mut ear = scene.runtime.voice().listen(&[topic::<UpstreamResting>(None)]).await.unwrap();
    rest::agree(&scene.runtime, &other);
    // The other fetcher listens as soon as its task runs; until then the news are repeated.
    let said =
        |host: &str, limited| UpstreamResting { host: host.to_owned(), until_ms: now_ms() + 60_000, limited };
    let mut again = tokio::time::interval(Duration::from_millis(5));
    while other.resting().is_empty() {
        again.tick().await;
        scene.runtime.voice().announce(&Job::new(1_000), &said("broken.example", false)).await.unwrap();
        scene.runtime.voice().announce(&Job::new(1_000), &said("limited.example", true)).await.unwrap();
    }
    assert_eq!(other.resting()[0].host, "limited.example");
    assert!(ear.next().await.unwrap().of::<UpstreamResting>().is_some());
    scene.runtime.stop(Duration::from_secs(5)).await;
}
