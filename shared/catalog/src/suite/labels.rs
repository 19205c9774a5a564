//! What is said of blobs.

use std::collections::BTreeMap;

use larder_oci::Digest;

use crate::Catalog;

pub(super) async fn all(catalog: &Catalog, other: &Catalog, seed: &str) {
    labels_are_those_of_their_namespace_and_blob(catalog, other, seed).await;
    concurrent_changes_lose_no_label(catalog, other, seed).await;
    removed_labels_are_gone_from_every_namespace(catalog, other, seed).await;
}

fn blob(seed: &str, what: &str) -> Digest {
    Digest::of(format!("{seed} {what}").as_bytes())
}

async fn set(catalog: &Catalog, namespace: &str, digest: &Digest, key: &str, value: &str) {
    let change = |labels: &mut BTreeMap<_, _>| drop(labels.insert(key.to_owned(), value.to_owned()));
    catalog.set_labels(namespace, digest, change).await.expect("set labels");
}

async fn of(catalog: &Catalog, namespace: &str, digest: &Digest) -> Vec<(String, String)> {
    let labels = catalog.labels(namespace, digest).await.expect("labels");
    labels.into_iter().flat_map(|labels| labels.values).collect()
}

fn pair(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

async fn labels_are_those_of_their_namespace_and_blob(catalog: &Catalog, other: &Catalog, seed: &str) {
    let (here, there) = (&format!("here.{seed}"), &format!("there_{seed}"));
    let (one, two) = (blob(seed, "one"), blob(seed, "two"));
    assert_eq!(catalog.labels(here, &one).await.expect("labels"), None);
    set(catalog, here, &one, "a", "1").await;
    set(other, here, &one, "b/c.d", "2").await;
    set(catalog, here, &one, "a", "3").await;
    set(catalog, there, &two, "a", "4").await;
    for catalog in [catalog, other] {
        assert_eq!(of(catalog, here, &one).await, [pair("a", "3"), pair("b/c.d", "2")]);
        assert_eq!(of(catalog, here, &two).await, []);
        assert_eq!(of(catalog, there, &two).await, [pair("a", "4")]);
        let all = catalog.labels_within(there).await.expect("labels");
        assert_eq!(all.keys().collect::<Vec<_>>(), [&two]);
        assert_eq!(Some(&all[&two]), catalog.labels(there, &two).await.expect("labels").as_ref());
    }
}

async fn concurrent_changes_lose_no_label(catalog: &Catalog, other: &Catalog, seed: &str) {
    let (namespace, digest) = (&format!("many.{seed}"), &blob(seed, "many"));
    let write = |number: usize| async move {
        let writer = if number.is_multiple_of(2) { catalog } else { other };
        set(writer, namespace, digest, &format!("{number:02}"), "there").await;
    };
    futures::future::join_all((0..16).map(write)).await;
    let expected: Vec<_> = (0..16).map(|number| pair(&format!("{number:02}"), "there")).collect();
    assert_eq!(of(other, namespace, digest).await, expected);
}

async fn removed_labels_are_gone_from_every_namespace(catalog: &Catalog, other: &Catalog, seed: &str) {
    let (gone, kept) = (blob(seed, "gone"), blob(seed, "kept"));
    let namespaces = [format!("left.{seed}"), format!("right.{seed}")];
    for namespace in &namespaces {
        set(catalog, namespace, &gone, "a", "1").await;
        set(catalog, namespace, &kept, "a", "1").await;
    }
    other.remove_labels(&gone).await.expect("remove labels");
    for namespace in &namespaces {
        assert_eq!(catalog.labels(namespace, &gone).await.expect("labels"), None);
        assert_eq!(of(catalog, namespace, &kept).await, [pair("a", "1")]);
    }
}
