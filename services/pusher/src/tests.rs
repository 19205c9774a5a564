//! The pusher against a registry in memory.

mod arch_tags;
mod merge;
mod registry;
mod send;

use bytes::Bytes;
use larder_blobs::Blobs;
use larder_messages::{ImagePushed, PushMode, PushWanted};
use larder_oci::{Descriptor, Digest, Document, media_type};
use larder_registry::Client;
use serde_json::json;
use tempfile::TempDir;

use self::registry::Registry;
use crate::{Ports, PushError};

/// A cache and a registry, both empty.
struct World {
    ports: Ports,
    registry: Registry,
    directory: TempDir,
}

/// A manifest with all that is below it.
#[derive(Clone)]
struct Made {
    root: Descriptor,
    bytes: Vec<u8>,
    blobs: Vec<(Descriptor, Vec<u8>)>,
    children: Vec<Made>,
}

/// An image of one layer that says `text`.
fn image(platform: Option<&str>, text: &str) -> Made {
    let mut config = json!({ "rootfs": { "type": "layers", "diff_ids": [] } });
    let platform: Option<larder_oci::Platform> = platform.map(|text| text.parse().unwrap());
    if let Some(platform) = &platform {
        config["os"] = platform.os.clone().into();
        config["architecture"] = platform.architecture.clone().into();
        config["variant"] = platform.variant.clone().into();
    }
    let blob = |media_type: &str, bytes: Vec<u8>| {
        (Descriptor::new(media_type, Digest::of(&bytes), bytes.len() as u64), bytes)
    };
    let config = blob(media_type::OCI_CONFIG, config.to_string().into_bytes());
    let layer = blob("application/vnd.oci.image.layer.v1.tar", text.as_bytes().to_vec());
    let manifest = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config.0, "layers": [layer.0] });
    let bytes = manifest.to_string().into_bytes();
    let mut root = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(&bytes), bytes.len() as u64);
    root.platform = platform;
    Made { root, bytes, blobs: vec![config, layer], children: Vec::new() }
}

fn attestation(of: &Made, text: &str) -> Made {
    let mut made = image(None, text);
    made.root.platform = Some("unknown/unknown".parse().unwrap());
    let annotations = &mut made.root.annotations;
    annotations.insert("vnd.docker.reference.type".into(), "attestation-manifest".into());
    annotations.insert("vnd.docker.reference.digest".into(), of.root.digest.to_string());
    made
}

/// An index written as no tool of ours would, to see that its bytes stay.
fn index(children: &[&Made]) -> Made {
    let manifests: Vec<_> = children.iter().map(|child| &child.root).collect();
    let json = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests });
    let bytes = format!(" {json:#}\n").into_bytes();
    let root = Descriptor::new(media_type::OCI_INDEX, Digest::of(&bytes), bytes.len() as u64);
    Made { root, bytes, blobs: Vec::new(), children: children.iter().map(|&child| child.clone()).collect() }
}

/// The children of the index `bytes`.
fn children(bytes: &[u8]) -> Vec<Digest> {
    let document = Document::parse(Bytes::copy_from_slice(bytes), None).unwrap();
    document.children().iter().map(|child| child.digest.clone()).collect()
}

fn digests(made: &[&Made]) -> Vec<Digest> {
    made.iter().map(|made| made.root.digest.clone()).collect()
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let blobs = Blobs::on_disk(directory.path()).unwrap();
        let config = larder_registry::Config {
            auth_file: Some("/nonexistent/config.json".into()),
            ..larder_registry::Config::default()
        };
        let registry = Client::new(config).unwrap();
        Self { ports: Ports { blobs, registry }, registry: Registry::start().await, directory }
    }

    /// Puts all of `made` into the cache.
    async fn store(&self, made: &Made) {
        for child in &made.children {
            Box::pin(self.store(child)).await;
        }
        self.store_alone(made).await;
    }

    /// Puts `made` into the cache without its children.
    async fn store_alone(&self, made: &Made) {
        for (blob, bytes) in &made.blobs {
            self.ports.blobs.put(&blob.digest, bytes.clone().into()).await.unwrap();
        }
        self.ports.blobs.put(&made.root.digest, made.bytes.clone().into()).await.unwrap();
    }

    /// Has all of `made` in the registry as `a:name`.
    fn remote(&self, name: &str, made: &Made) {
        for child in &made.children {
            self.remote(child.root.digest.as_str(), child);
        }
        let mut content = self.registry.content();
        for (blob, bytes) in &made.blobs {
            content.blobs.insert(("a".to_owned(), blob.digest.to_string()), bytes.clone());
        }
        content.put("a", name, &made.root.media_type, &made.bytes);
    }

    fn wanted(&self, made: &Made, mode: PushMode) -> PushWanted {
        PushWanted {
            root: Descriptor { platform: None, ..made.root.clone() },
            to: self.registry.reference("a:1"),
            mode,
            arch_tags: false,
            skip_if_exists: false,
            mount_from: Vec::new(),
        }
    }

    async fn push(&self, wanted: &PushWanted) -> Result<ImagePushed, PushError> {
        crate::push::push(&self.ports, wanted).await
    }

    async fn pushed(&self, made: &Made, mode: PushMode) -> ImagePushed {
        self.push(&self.wanted(made, mode)).await.unwrap()
    }

    /// What `a:1` is.
    fn there(&self) -> Vec<u8> {
        self.registry.manifest("a", "1").unwrap()
    }
}

#[tokio::test]
async fn what_is_absent_is_pushed_once() {
    let world = World::new().await;
    let made = index(&[&image(Some("linux/amd64"), "a"), &image(Some("linux/arm64"), "b")]);
    world.store(&made).await;
    let pushed = world.pushed(&made, PushMode::IfAbsent).await;
    assert!(!pushed.skipped && pushed.merged_from.is_none());
    assert_eq!((pushed.root.digest, pushed.sent_blobs), (made.root.digest.clone(), 7));
    assert_eq!(world.there(), made.bytes);
    world.registry.heard(&[]);
    for mode in [PushMode::IfAbsent, PushMode::Merge, PushMode::Replace] {
        let pushed = world.pushed(&made, mode).await;
        assert_eq!(
            (pushed.skipped, pushed.root.digest, pushed.sent_blobs),
            (true, made.root.digest.clone(), 0)
        );
        assert_eq!(world.registry.heard(&[""]), ["HEAD /v2/a/manifests/1"]);
    }
}

#[tokio::test]
async fn what_is_taken_is_left_alone_and_both_digests_are_named() {
    let world = World::new().await;
    let (ours, theirs) = (image(Some("linux/amd64"), "a"), image(Some("linux/amd64"), "b"));
    world.store(&ours).await;
    world.remote("1", &theirs);
    let mut wanted = world.wanted(&ours, PushMode::IfAbsent);
    wanted.arch_tags = true;
    let error = world.push(&wanted).await.unwrap_err();
    let told = error.to_string();
    assert!(matches!(error, PushError::Taken { .. }));
    assert!([&ours, &theirs].iter().all(|made| told.contains(made.root.digest.as_str())), "{told}");
    wanted.skip_if_exists = true;
    let pushed = world.push(&wanted).await.unwrap();
    assert_eq!((pushed.skipped, &pushed.root.digest, pushed.tags.len()), (true, &theirs.root.digest, 0));
    assert_eq!(world.registry.heard(&["PUT", "POST", "PATCH"]), Vec::<String>::new());
    world.pushed(&ours, PushMode::Replace).await;
    assert_eq!(world.there(), ours.bytes);
}

#[tokio::test]
async fn attestations_of_nothing_are_not_pushed_and_those_of_any_image_are() {
    let world = World::new().await;
    let (plain, gone) = (image(None, "a"), image(Some("linux/arm64"), "gone"));
    let (kept, dangling) = (attestation(&plain, "of a"), attestation(&gone, "of gone"));
    let made = index(&[&plain, &kept, &dangling]);
    world.store(&made).await;
    let pushed = world.pushed(&made, PushMode::Replace).await;
    assert_eq!(children(&world.there()), digests(&[&plain, &kept]));
    assert_eq!(pushed.root.digest, Digest::of(&world.there()));
    assert_ne!(pushed.root.digest, made.root.digest);
    assert!(world.registry.manifest("a", dangling.root.digest.as_str()).is_none());
    assert!(world.pushed(&made, PushMode::IfAbsent).await.skipped);
}
