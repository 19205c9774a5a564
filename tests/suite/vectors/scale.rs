//! T100: what one name costs does not depend on how many there are.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use larder_catalog::{Catalog, Origin};
use larder_oci::{Descriptor, Digest};
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use serde_json::{Value, json};

const FEW: usize = 200;
const MANY: usize = 20_000;
/// Names looked up and written, of all that there are.
const SAMPLE: usize = 20;

fn name(number: usize) -> String {
    format!("registry.example.org/team/app{number:06}:1")
}

fn target(seed: &str) -> Descriptor {
    let digest = Digest::of(seed.as_bytes());
    Descriptor::new("application/vnd.oci.image.manifest.v1+json", digest, seed.len() as u64)
}

/// What looking names up and writing them has cost, in whatever unit.
#[derive(Debug)]
struct Cost {
    find: u64,
    write: u64,
}

impl Cost {
    /// Asserts that this, at [`MANY`] names, is not much more than it was at [`FEW`].
    fn assert_like(&self, few: &Self) {
        // What grows with the logarithm doubles at most; what grows with the number is a hundred times as much.
        assert!(few.find > 0 && few.write > 0, "nothing was measured: {few:?}");
        assert!(self.find <= 3 * few.find && self.write <= 3 * few.write, "{few:?} became {self:?}");
    }
}

/// Looks up and writes some of `names` names, and takes what `spent` says before and after.
async fn cost(catalog: &Catalog, names: usize, spent: impl AsyncFn() -> u64) -> Cost {
    let begun = spent().await;
    for number in (0..names).step_by(names / SAMPLE) {
        assert!(catalog.resolve(&name(number)).await.unwrap().is_some());
        assert!(catalog.resolve(&format!("{}0", name(number))).await.unwrap().is_none());
    }
    let found = spent().await;
    for number in (0..names).step_by(names / SAMPLE) {
        catalog.set(&name(number), &target("moved"), Origin::Written).await.unwrap();
        catalog.set(&format!("{}1", name(number)), &target("new"), Origin::Written).await.unwrap();
    }
    let written = spent().await;
    Cost { find: found - begun, write: written - found }
}

/// Bytes and calls of this thread, read and written.
fn moved() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/io").unwrap();
    let value = |line: &str| line.split_once(": ").map_or(0, |(_, value)| value.parse::<u64>().unwrap());
    let counted =
        |line: &&str| ["rchar", "wchar", "syscr", "syscw"].iter().any(|name| line.starts_with(name));
    text.lines().filter(counted).map(value).sum()
}

/// A directory with as many names, as another tool left them.
fn layout(root: &Path, names: usize) {
    let entry = |number: usize| -> Value {
        let mut entry = serde_json::to_value(target("old")).unwrap();
        entry["annotations"]["org.opencontainers.image.ref.name"] = name(number).into();
        entry
    };
    let index = json!({ "schemaVersion": 2, "manifests": (0..names).map(entry).collect::<Vec<_>>() });
    fs::write(root.join("index.json"), index.to_string()).unwrap();
}

fn cost_on_disk(names: usize) -> Cost {
    let root = tempfile::tempdir().unwrap();
    layout(root.path(), names);
    // One thread does all that is asked for; the one that follows with `index.json` is not it.
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let catalog = Catalog::on_disk(root.path()).await.unwrap();
        // The first open adopts what is there.
        catalog.flush().await.unwrap();
        cost(&catalog, names, async || tokio::task::spawn_blocking(moved).await.unwrap()).await
    })
}

/// The names stand for the cache: beside them it touches nothing that there is more of. `index.json` follows behind, and nobody
/// waits for it.
#[test]
fn t100_bytes_moved_for_one_name_on_disk_do_not_grow_with_the_number_of_names() {
    cost_on_disk(MANY).assert_like(&cost_on_disk(FEW));
}

/// Counts what a store is asked for, and what its lists give.
#[derive(Debug, Default)]
struct Counted {
    inner: InMemory,
    steps: Arc<AtomicU64>,
}

impl Counted {
    fn count(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    fn counted(
        &self,
        list: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.count();
        let steps = Arc::clone(&self.steps);
        let count = move |_: &_| {
            steps.fetch_add(1, Ordering::Relaxed);
        };
        list.inspect(count).boxed()
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Counted {
    async fn put_opts(&self, at: &Key, content: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.count();
        self.inner.put_opts(at, content, options).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Key,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.count();
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Key, options: GetOptions) -> Result<GetResult> {
        self.count();
        self.inner.get_opts(at, options).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Key>>) -> BoxStream<'static, Result<Key>> {
        self.count();
        self.inner.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.counted(self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Key>, from: &Key) -> BoxStream<'static, Result<ObjectMeta>> {
        self.counted(self.inner.list_with_offset(prefix, from))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult> {
        let listed = self.inner.list_with_delimiter(prefix).await?;
        self.steps
            .fetch_add((1 + listed.objects.len() + listed.common_prefixes.len()) as u64, Ordering::Relaxed);
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> Result<()> {
        self.count();
        self.inner.copy_opts(from, to, options).await
    }
}

async fn cost_on_objects(names: usize) -> Cost {
    let store = Counted::default();
    let steps = Arc::clone(&store.steps);
    let catalog = Catalog::on_objects(Arc::new(store));
    for number in 0..names {
        catalog.set(&name(number), &target("old"), Origin::Written).await.unwrap();
    }
    cost(&catalog, names, async || steps.load(Ordering::Relaxed)).await
}

#[tokio::test]
async fn t100_requests_for_one_name_on_objects_do_not_grow_with_the_number_of_names() {
    cost_on_objects(MANY).await.assert_like(&cost_on_objects(FEW).await);
}
