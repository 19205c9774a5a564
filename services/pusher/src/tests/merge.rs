use larder_messages::{PushMode, ReasonKind};
use larder_oci::{Digest, Document};
use larder_runtime::Failure;

use super::{Made, World, attestation, children, digests, image, index};

/// Pushes `ours` with a merge onto `theirs`; returns what is there then, with the digest it was merged from.
async fn merged(ours: &Made, theirs: &Made) -> (Vec<u8>, Option<Digest>) {
    let world = World::new().await;
    world.store(ours).await;
    world.remote("1", theirs);
    let pushed = world.pushed(ours, PushMode::Merge).await;
    assert_eq!(pushed.root.digest, Digest::of(&world.there()));
    (world.there(), pushed.merged_from)
}

#[tokio::test]
async fn local_images_win_and_remote_ones_for_other_platforms_stay() {
    let [v6, v7] = ["linux/arm/v6", "linux/arm/v7"].map(|at| image(Some(at), at));
    let (old, new) = (image(Some("linux/amd64"), "old"), image(Some("linux/amd64"), "new"));
    let (of_v6, of_old) = (attestation(&v6, "of v6"), attestation(&old, "of old"));
    let theirs = index(&[&old, &of_old, &v6, &of_v6]);
    let (bytes, from) = merged(&index(&[&new, &v7]), &theirs).await;
    assert_eq!(children(&bytes), digests(&[&new, &v6, &v7, &of_v6]));
    assert_eq!(from, Some(theirs.root.digest));
    let compact = Document::parse(bytes.clone().into(), None).unwrap();
    assert!(!compact.bytes().contains(&b'\n'));
}

#[tokio::test]
async fn local_bytes_are_pushed_when_there_is_nothing_to_merge() {
    let (old, new) = (image(Some("linux/amd64"), "old"), image(Some("linux/amd64"), "new"));
    let ours = index(&[&new, &attestation(&new, "of new")]);
    assert_eq!(merged(&ours, &index(&[&old])).await, (ours.bytes.clone(), None));
    assert_eq!(merged(&ours, &old).await, (ours.bytes, None));
    assert_eq!(merged(&new, &index(&[&old])).await, (new.bytes.clone(), None));
    assert_eq!(merged(&new, &old).await, (new.bytes, None));
}

#[tokio::test]
async fn nothing_is_pushed_when_all_of_it_is_there() {
    let (amd64, arm64) = (image(Some("linux/amd64"), "a"), image(Some("linux/arm64"), "b"));
    let theirs = index(&[&arm64, &amd64]);
    for ours in [index(&[&amd64]), amd64] {
        let world = World::new().await;
        world.store(&ours).await;
        world.remote("1", &theirs);
        let pushed = world.pushed(&ours, PushMode::Merge).await;
        assert_eq!((pushed.skipped, &pushed.root.digest), (true, &theirs.root.digest));
        assert_eq!(world.registry.heard(&["PUT", "POST"]), Vec::<String>::new());
    }
}

#[tokio::test]
async fn single_images_become_an_index_when_they_run_on_different_platforms() {
    let (amd64, arm64) = (image(Some("linux/amd64"), "a"), image(Some("linux/arm64"), "b"));
    for (ours, theirs) in
        [(&amd64, &arm64), (&amd64, &index(&[&arm64])), (&index(&[&amd64]), &arm64), (&arm64, &amd64)]
    {
        let (bytes, from) = merged(ours, theirs).await;
        assert_eq!(children(&bytes), digests(&[&amd64, &arm64]));
        assert_eq!(from.as_ref(), Some(&theirs.root.digest));
    }
}

#[tokio::test]
async fn nothing_is_lost_by_merging_what_names_no_platform() {
    let (amd64, plain) = (image(Some("linux/amd64"), "a"), image(None, "b"));
    for (ours, theirs) in [(&amd64, &plain), (&plain, &amd64), (&index(&[&amd64]), &plain)] {
        let world = World::new().await;
        world.store(ours).await;
        world.remote("1", theirs);
        let error = world.push(&world.wanted(ours, PushMode::Merge)).await.unwrap_err();
        assert_eq!(Failure::from(error).reason.kind, ReasonKind::Conflict);
        assert_eq!(world.there(), theirs.bytes);
    }
}

#[tokio::test]
async fn what_others_push_in_between_is_merged_too() {
    let [amd64, arm64, riscv64] =
        ["linux/amd64", "linux/arm64", "linux/riscv64"].map(|at| image(Some(at), at));
    // Somebody writes the name while blobs are sent, or right over what was just written.
    for (request, before) in [("POST", true), ("PUT /v2/a/manifests/1", false)] {
        for theirs in [None, Some(index(&[&arm64]))] {
            let world = World::new().await;
            let ours = index(&[&amd64]);
            world.store(&ours).await;
            let others = index(&[&arm64, &riscv64]);
            world.remote("other", &others);
            if let Some(theirs) = &theirs {
                world.remote("1", theirs);
            }
            let (media_type, bytes) = (others.root.media_type.clone(), others.bytes.clone());
            world.registry.interfere(request, before, 1, move |content| {
                content.put("a", "1", &media_type, &bytes);
            });
            let pushed = world.pushed(&ours, PushMode::Merge).await;
            assert_eq!(children(&world.there()), digests(&[&amd64, &arm64, &riscv64]));
            assert_eq!(pushed.merged_from, Some(others.root.digest));
        }
    }
}

#[tokio::test]
async fn merging_is_given_up_when_somebody_always_writes_over_it() {
    let world = World::new().await;
    let ours = index(&[&image(Some("linux/amd64"), "a")]);
    world.store(&ours).await;
    let others = index(&[&image(Some("linux/arm64"), "b")]);
    world.remote("1", &others);
    let (media_type, bytes) = (others.root.media_type.clone(), others.bytes.clone());
    world.registry.interfere("PUT /v2/a/manifests/1", false, usize::MAX, move |content| {
        content.put("a", "1", &media_type, &bytes);
    });
    let error = world.push(&world.wanted(&ours, PushMode::Merge)).await.unwrap_err();
    assert_eq!(Failure::from(error).reason.kind, ReasonKind::Conflict);
    assert_eq!(world.registry.heard(&["PUT /v2/a/manifests/1"]).len(), 8);
}
