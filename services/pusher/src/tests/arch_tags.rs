use larder_messages::{PushMode, ReasonKind};
use larder_oci::Reference;
use larder_runtime::Failure;

use super::{World, attestation, image, index};

#[tokio::test]
async fn each_image_gets_its_tag_and_no_attestation_gets_one() {
    let world = World::new().await;
    let images = ["linux/amd64", "linux/arm64/v8", "linux/arm/v6", "linux/arm/v7", "windows/amd64"];
    let images = images.map(|at| image(Some(at), at));
    let (plain, attestation) = (image(None, "plain"), attestation(&images[0], "of amd64"));
    let mut all: Vec<_> = images.iter().collect();
    all.extend([&plain, &attestation]);
    let made = index(&all);
    world.store(&made).await;
    // The index is there already; its tags are not.
    world.remote("1", &made);
    let mut wanted = world.wanted(&made, PushMode::IfAbsent);
    wanted.arch_tags = true;
    let pushed = world.push(&wanted).await.unwrap();
    assert!(pushed.skipped);
    assert_eq!(pushed.tags, ["1-amd64", "1-arm64", "1-armv6", "1-armv7"]);
    for (tag, image) in pushed.tags.iter().zip(&images) {
        assert_eq!(world.registry.manifest("a", tag).as_ref(), Some(&image.bytes), "{tag}");
    }
    assert_eq!(world.registry.heard(&["PUT"]).len(), 4);
}

#[tokio::test]
async fn image_that_was_never_fetched_is_tagged_where_it_is() {
    let world = World::new().await;
    let made = index(&[&image(Some("linux/amd64"), "a"), &image(Some("linux/arm64"), "b")]);
    world.store_alone(&made).await;
    world.store(&made.children[0]).await;
    let there = &made.children[1];
    world.remote(there.root.digest.as_str(), there);
    let mut wanted = world.wanted(&made, PushMode::IfAbsent);
    wanted.arch_tags = true;
    let pushed = world.push(&wanted).await.unwrap();
    assert_eq!(pushed.tags, ["1-amd64", "1-arm64"]);
    assert_eq!(world.registry.manifest("a", "1-arm64"), Some(there.bytes.clone()));
}

#[tokio::test]
async fn single_image_is_tagged_for_what_it_says_it_runs_on() {
    let world = World::new().await;
    let made = image(Some("linux/arm/v7"), "a");
    world.store(&made).await;
    let mut wanted = world.wanted(&made, PushMode::IfAbsent);
    wanted.arch_tags = true;
    assert_eq!(world.push(&wanted).await.unwrap().tags, ["1-armv7"]);
}

#[tokio::test]
async fn names_that_give_no_tag_are_refused_before_anything_is_sent() {
    let world = World::new().await;
    let made = image(Some("linux/amd64"), "a");
    world.store(&made).await;
    let digest = world.registry.reference(&format!("a@{}", made.root.digest));
    let both: Reference =
        format!("{}@{}", world.registry.reference("a:1"), made.root.digest).parse().unwrap();
    let long = world.registry.reference(&format!("a:{}", "x".repeat(127)));
    for to in [digest.clone(), both, long] {
        let mut wanted = world.wanted(&made, PushMode::IfAbsent);
        (wanted.arch_tags, wanted.to) = (true, to);
        let error = world.push(&wanted).await.unwrap_err();
        assert_eq!(Failure::from(error).reason.kind, ReasonKind::Invalid);
    }
    assert_eq!(world.registry.heard(&[""]), Vec::<String>::new());
    let mut wanted = world.wanted(&made, PushMode::IfAbsent);
    wanted.to = digest;
    assert!(!world.push(&wanted).await.unwrap().skipped);
    assert!(world.push(&wanted).await.unwrap().skipped);
}
