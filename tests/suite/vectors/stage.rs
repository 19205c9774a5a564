//! The two modes, on both of which a vector has to hold.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::TryStreamExt;
use larder::{Config, Process, Role, S3};
use larder_blobs::Blobs;
use larder_catalog::Catalog;
use larder_oci::{Descriptor, Digest, PlatformSet, Reference};
use larder_provider::{ByteStream, CacheProvider, ProviderError, PullOptions, Pulled, WriteOptions};
use larder_tests::image::{Blob, IndexBuilder};
use larder_tests::{Format, Image, Layer, NatsServer, ScriptedRegistry, Seaweed};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt};
use tempfile::TempDir;

/// How long anything may take before a test gives up.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

/// The SeaweedFS of the tests that run at the moment; each has a prefix of its own there.
static SEAWEED: Mutex<Weak<Seaweed>> = Mutex::new(Weak::new());
static PREFIXES: AtomicUsize = AtomicUsize::new(0);

/// Runs `body` in one process on a directory, then on a farm: NATS and S3.
#[expect(clippy::needless_pass_by_value, reason = "the body stands in the call")]
pub(crate) fn on_both(body: impl AsyncFn(&Stage)) {
    // Held over both, so that the next test finds it running.
    let seaweed = seaweed();
    run(&Place::embedded(), &body);
    run(&Place::distributed(&seaweed), &body);
}

/// Runs `body` in one process on a directory alone, where the vector is about files.
#[expect(clippy::needless_pass_by_value, reason = "the body stands in the call")]
pub(crate) fn on_disk(body: impl AsyncFn(&Stage)) {
    run(&Place::embedded(), &body);
}

fn run(place: &Place, body: &impl AsyncFn(&Stage)) {
    let _told = Told(place.mode);
    larder::system().block_on(async {
        let stage = Stage::start(place).await;
        body(&stage).await;
        stage.end(&stage.process).await;
    });
}

fn seaweed() -> Arc<Seaweed> {
    let mut shared = SEAWEED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let seaweed = Arc::new(Seaweed::start());
        *shared = Arc::downgrade(&seaweed);
        seaweed
    })
}

/// Says in which mode a test has failed.
struct Told(&'static str);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was {}", self.0);
        }
    }
}

/// Where a stage stands: bus and store, and what runs for them.
struct Place {
    mode: &'static str,
    store: String,
    bus: String,
    s3: S3,
    directory: TempDir,
    _nats: Option<NatsServer>,
}

impl Place {
    fn embedded() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = format!("file://{}", directory.path().join("store").display());
        let bus = "mem:".to_owned();
        Self { mode: "embedded", store, bus, s3: S3::default(), directory, _nats: None }
    }

    fn distributed(seaweed: &Seaweed) -> Self {
        let nats = NatsServer::start();
        let prefix = PREFIXES.fetch_add(1, Ordering::Relaxed);
        let s3 = S3 {
            endpoint: Some(seaweed.endpoint()),
            region: Some("us-east-1".to_owned()),
            access_key_id: Some(Seaweed::ACCESS_KEY.to_owned()),
            secret_access_key: Some(Seaweed::SECRET_KEY.to_owned().into()),
            ..S3::default()
        };
        Self {
            mode: "distributed",
            store: format!("{}/vector-{prefix}", seaweed.url()),
            bus: nats.url(),
            s3,
            directory: tempfile::tempdir().unwrap(),
            _nats: Some(nats),
        }
    }

    /// What is waited for in vain in a test is waited for in seconds; no credentials but a test's own.
    fn config(&self) -> Config {
        let auth = self.directory.path().join("auth.json");
        fs::write(&auth, "{}").unwrap();
        let (store, bus, s3) = (self.store.clone(), self.bus.clone(), self.s3.clone());
        let mut config = Config { store, bus, s3, ..Config::default() };
        config.registry.auth_file = Some(auth);
        config.registry.retries_max = 1;
        config.registry.retry_wait_ms_min = 10;
        config.registry.retry_wait_ms_max = 50;
        config.facade.answer_timeout_s = LIMIT.as_secs();
        config
    }

    /// The store as it is behind the product's back.
    fn objects(&self) -> Arc<dyn ObjectStore> {
        let Some(prefix) = self.store.strip_prefix(&format!("s3://{}/", Seaweed::BUCKET)) else {
            return Arc::new(LocalFileSystem::new_with_prefix(self.root()).unwrap());
        };
        let s3 = AmazonS3Builder::new()
            .with_endpoint(self.s3.endpoint.clone().unwrap())
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_bucket_name(Seaweed::BUCKET)
            .with_access_key_id(Seaweed::ACCESS_KEY)
            .with_secret_access_key(Seaweed::SECRET_KEY);
        Arc::new(PrefixStore::new(s3.build().unwrap(), prefix))
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("store")
    }
}

/// A cache with all its services in this process, what it stores, and a registry to fill it from.
pub(crate) struct Stage {
    /// What the process was started with.
    pub(crate) config: Config,
    /// The process.
    pub(crate) process: Process,
    /// Another handle on its blobs.
    pub(crate) blobs: Blobs,
    /// Another handle on its names.
    pub(crate) catalog: Catalog,
    /// Its files or objects, to look at and to damage.
    pub(crate) objects: Arc<dyn ObjectStore>,
    /// An empty registry.
    pub(crate) registry: ScriptedRegistry,
    root: Option<PathBuf>,
}

impl Stage {
    async fn start(place: &Place) -> Self {
        let config = place.config();
        let process = start(&config).await;
        let objects = place.objects();
        let root = (place.bus == "mem:").then(|| place.root());
        let (blobs, catalog) = match &root {
            Some(root) => (Blobs::on_disk(root).unwrap(), Catalog::on_disk(root).await.unwrap()),
            None => (Blobs::on_objects(Arc::clone(&objects)), Catalog::on_objects(Arc::clone(&objects))),
        };
        let registry = ScriptedRegistry::start();
        Self { config, process, blobs, catalog, objects, registry, root }
    }

    /// The cache under test.
    pub(crate) fn cache(&self) -> &dyn CacheProvider {
        &self.process.facade
    }

    /// The directory of the store, where it is one.
    pub(crate) fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// Starts another process with all services on the same bus and store. It wants [`Stage::end`].
    pub(crate) async fn another(&self) -> Process {
        start(&self.config).await
    }

    /// Ends a process as the command line does.
    pub(crate) async fn end(&self, process: &Process) {
        process.finish(&self.config).await.unwrap_or_else(|failure| panic!("{}", failure.message));
        process.runtime.stop(Duration::from_secs(5)).await;
    }

    /// `name` in the registry, such as `team/app:1`.
    pub(crate) fn reference(&self, name: &str) -> Reference {
        self.registry.reference(name).parse().unwrap()
    }

    /// Has the registry hold `image` as `team/app:1`; returns its reference.
    pub(crate) fn serve(&self, image: &Image) -> Reference {
        self.registry.put("team/app", "1", image);
        self.reference("team/app:1")
    }

    /// Pulls without options; `platforms` as on the command line.
    pub(crate) async fn pull(&self, reference: &Reference, platforms: &str) -> Result<Pulled, ProviderError> {
        self.cache().image_pull(reference, &set(platforms), &PullOptions::default()).await
    }

    /// Has the registry hold `image` as `team/app:1` and pulls all of it; returns its reference.
    pub(crate) async fn filled(&self, image: &Image) -> Reference {
        let reference = self.serve(image);
        self.pull(&reference, "all").await.unwrap();
        self.registry.clear_requests();
        reference
    }

    /// Stores all of `image` and points `name` to it, as a build would; returns the reference.
    pub(crate) async fn written(&self, name: &str, image: &Image) -> Reference {
        for blob in image.blobs.iter().chain(&image.manifests) {
            self.blobs.put(&digest(blob), blob.bytes.clone()).await.unwrap();
        }
        let reference: Reference = name.parse().unwrap();
        let root = descriptor(&image.root);
        self.cache().descriptor_write(&reference, &root, &WriteOptions::default()).await.unwrap();
        reference
    }

    /// Inverts a byte of a stored blob, behind the product's back.
    pub(crate) async fn flip(&self, digest: &Digest) {
        let mut bytes = self.stored(digest).await.expect("what is to be damaged is stored");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        self.overwrite(digest, bytes).await;
    }

    /// Takes a stored blob's last byte.
    pub(crate) async fn shorten(&self, digest: &Digest) {
        let mut bytes = self.stored(digest).await.expect("what is to be damaged is stored");
        bytes.pop();
        self.overwrite(digest, bytes).await;
    }

    /// Puts `bytes` where the blob belongs, whatever they are.
    pub(crate) async fn overwrite(&self, digest: &Digest, bytes: Vec<u8>) {
        self.objects.put(&key(digest), bytes.into()).await.unwrap();
    }

    /// Takes a blob away.
    pub(crate) async fn lose(&self, digest: &Digest) {
        self.objects.delete(&key(digest)).await.unwrap();
    }

    /// The bytes under a blob's name, unproven; nothing when there are none.
    pub(crate) async fn stored(&self, digest: &Digest) -> Option<Vec<u8>> {
        match self.objects.get(&key(digest)).await {
            Ok(object) => Some(object.bytes().await.unwrap().to_vec()),
            Err(object_store::Error::NotFound { .. }) => None,
            Err(error) => panic!("{digest}: {error}"),
        }
    }

    /// The digests of all visible blobs, sorted; each of them is proven.
    pub(crate) async fn visible(&self) -> Vec<String> {
        let listed: Vec<_> = self.blobs.list().try_collect().await.unwrap();
        let mut digests = Vec::new();
        for blob in listed {
            let bytes = self.stored(&blob.digest).await.expect("a listed blob is there");
            assert_eq!(Digest::of(&bytes), blob.digest, "a visible blob is corrupt");
            digests.push(blob.digest.to_string());
        }
        digests.sort();
        digests
    }

    /// The names in the cache, sorted.
    pub(crate) async fn names(&self) -> Vec<String> {
        let listed = self.cache().list().await.unwrap();
        listed.into_iter().map(|name| name.name).collect()
    }

    /// The digest that `name` points to, if it does.
    pub(crate) async fn target(&self, name: &str) -> Option<Digest> {
        let found = self.cache().find_descriptor(name).await.unwrap();
        found.map(|name| name.descriptor.digest)
    }
}

async fn start(config: &Config) -> Process {
    let started = Process::start(config, &Role::ALL).await;
    started.unwrap_or_else(|failure| panic!("{}", failure.message))
}

fn key(digest: &Digest) -> object_store::path::Path {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex()).into()
}

/// A small image with a layer of its own, and one that all of them share.
pub(crate) fn image(platform: &str, seed: u64) -> Image {
    Image::build(platform)
        .layer(Layer::files(&[("etc/motd", b"hello\n".as_slice())]))
        .layer(Layer::random(20_000, seed))
        .finish()
}

/// An index of `images`, in their order.
pub(crate) fn index<'a>(images: impl IntoIterator<Item = &'a Image>) -> Image {
    images.into_iter().fold(Image::index(Format::Oci), IndexBuilder::image).finish()
}

/// Platforms as on the command line.
pub(crate) fn set(platforms: &str) -> PlatformSet {
    platforms.parse().unwrap()
}

/// The digest of a blob of a test image.
pub(crate) fn digest(blob: &Blob) -> Digest {
    blob.digest.parse().unwrap()
}

/// The descriptor of a blob of a test image.
pub(crate) fn descriptor(blob: &Blob) -> Descriptor {
    serde_json::from_value(blob.descriptor()).unwrap()
}

/// All that a stream gives.
pub(crate) async fn read(stream: ByteStream) -> Result<Vec<u8>, ProviderError> {
    stream
        .try_fold(Vec::new(), async |mut all, chunk| {
            all.extend_from_slice(&chunk);
            Ok(all)
        })
        .await
}

/// Has `work`, which may block, done where nothing else waits for it.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}
