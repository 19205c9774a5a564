use larder_messages::{PushMode, ReasonKind};
use larder_runtime::Failure;

use super::{World, digests, image, index};
use crate::PushError;

#[tokio::test]
async fn children_come_before_what_points_to_them() {
    let world = World::new().await;
    let inner = index(&[&image(Some("linux/amd64"), "a")]);
    let outer = index(&[&image(Some("linux/arm64"), "b"), &inner]);
    world.store(&outer).await;
    world.pushed(&outer, PushMode::IfAbsent).await;
    let puts = world.registry.heard(&["PUT"]);
    let place = |part: &str| puts.iter().position(|line| line.contains(part)).unwrap();
    let last_blob = puts.iter().rposition(|line| line.contains("/blobs/")).unwrap();
    let [nested, leaf] = [&inner, &inner.children[0]].map(|made| place(made.root.digest.as_str()));
    assert!(last_blob < leaf && leaf < nested && nested < place("/manifests/1"), "{puts:#?}");
    assert_eq!(place("/manifests/1"), puts.len() - 1);
}

#[tokio::test]
async fn index_with_children_that_are_nowhere_is_refused_before_anything_is_sent() {
    let world = World::new().await;
    let images = ["linux/amd64", "linux/arm64", "linux/riscv64"].map(|at| image(Some(at), at));
    let made = index(&images.each_ref());
    world.store_alone(&made).await;
    world.store(&images[0]).await;
    let error = world.push(&world.wanted(&made, PushMode::IfAbsent)).await.unwrap_err();
    let reason = Failure::from(error).reason;
    assert_eq!((reason.kind, reason.missing), (ReasonKind::Incomplete, digests(&[&images[1], &images[2]])));
    assert!(reason.message.contains("--platform all"), "{}", reason.message);
    assert_eq!(world.registry.heard(&["PUT", "POST"]), Vec::<String>::new());
    // What the registry has already need not be here.
    for image in &images[1..] {
        world.remote(image.root.digest.as_str(), image);
    }
    let pushed = world.pushed(&made, PushMode::IfAbsent).await;
    assert_eq!((world.there(), pushed.sent_blobs), (made.bytes, 4));
}

#[tokio::test]
async fn damaged_blob_is_told_and_gets_no_manifest_whether_the_registry_hashes_or_not() {
    for is_gullible in [false, true] {
        let world = World::new().await;
        world.registry.content().is_gullible = is_gullible;
        let made = image(Some("linux/amd64"), "layer");
        world.store(&made).await;
        let layer = &made.blobs[1].0.digest;
        let path = world.directory.path().join("blobs/sha256").join(layer.hex());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "Layer").unwrap();
        let error = world.push(&world.wanted(&made, PushMode::IfAbsent)).await.unwrap_err();
        assert!(matches!(error, PushError::Store { .. }), "{error:?}");
        let reason = Failure::from(error).reason;
        assert_eq!(reason.kind, ReasonKind::Integrity);
        assert!(reason.message.contains(layer.as_str()), "{}", reason.message);
        let puts = world.registry.heard(&["PUT"]);
        assert!(puts.iter().all(|line| !line.contains("/manifests/")), "{puts:#?}");
    }
}

#[tokio::test]
async fn whole_blobs_are_taken_by_a_registry_that_does_not_say_what_it_has_got() {
    let world = World::new().await;
    world.registry.content().is_gullible = true;
    let made = image(Some("linux/amd64"), "a");
    world.store(&made).await;
    assert_eq!(world.pushed(&made, PushMode::IfAbsent).await.sent_blobs, 3);
    assert_eq!(world.there(), made.bytes);
}

#[tokio::test]
async fn blobs_are_mounted_from_where_they_are() {
    let world = World::new().await;
    let made = image(Some("linux/amd64"), "a");
    world.store(&made).await;
    for (blob, bytes) in &made.blobs {
        let key = ("team/b".to_owned(), blob.digest.to_string());
        world.registry.content().blobs.insert(key, bytes.clone());
    }
    let mut wanted = world.wanted(&made, PushMode::IfAbsent);
    // Itself and another registry have nothing to give.
    wanted.mount_from = ["a:2", "none:1", "team/b:1"].map(|name| world.registry.reference(name)).to_vec();
    wanted.mount_from.push("elsewhere.example/team/c:1".parse().unwrap());
    let pushed = world.push(&wanted).await.unwrap();
    assert_eq!((pushed.mounted_blobs, pushed.sent_blobs), (2, 1));
    assert_eq!(world.there(), made.bytes);
    let posts = world.registry.heard(&["POST"]);
    assert_eq!(posts.len(), 4, "{posts:#?}");
    assert!(posts.iter().all(|line| line.contains("from=none") || line.contains("from=team%2Fb")));
}

#[tokio::test]
async fn repositories_without_the_blobs_are_soon_asked_no_more() {
    let world = World::new().await;
    let images: Vec<_> = (0..64).map(|n| image(Some("linux/amd64"), &n.to_string())).collect();
    let made = index(&images.iter().collect::<Vec<_>>());
    world.store(&made).await;
    let mut wanted = world.wanted(&made, PushMode::IfAbsent);
    wanted.mount_from = vec![world.registry.reference("none:1")];
    let pushed = world.push(&wanted).await.unwrap();
    assert_eq!(pushed.mounted_blobs, 0);
    let mounts = world.registry.heard(&["POST"]).into_iter().filter(|line| line.contains("mount="));
    let count = mounts.count();
    assert!((4..=20).contains(&count), "{count} of 65");
}
