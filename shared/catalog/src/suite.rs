//! What every catalog must hold to, run against each by the tests.

use larder_oci::{Descriptor, Digest, media_type};

use crate::{Catalog, Origin, Set};

/// Runs the whole suite on `catalog`; `other` is a second handle on the same names. `seed` keeps runs apart.
pub async fn all(catalog: &Catalog, other: &Catalog, seed: &str) {
    name_points_to_what_was_set_last(catalog, other, seed).await;
    setting_twice_changes_nothing(catalog, seed).await;
    removed_name_is_gone_but_remembered(catalog, other, seed).await;
    concurrent_writers_lose_no_name(catalog, other, seed).await;
    concurrent_writers_of_one_name_leave_a_gapless_history(catalog, other, seed).await;
    awkward_names_are_kept_apart(catalog, seed).await;
}

fn descriptor(what: &str) -> Descriptor {
    Descriptor::new(media_type::OCI_MANIFEST, Digest::of(what.as_bytes()), 7)
}

async fn target(catalog: &Catalog, name: &str) -> Option<Digest> {
    let record = catalog.resolve(name).await.expect("resolve");
    record.and_then(|record| record.descriptor).map(|descriptor| descriptor.digest)
}

async fn name_points_to_what_was_set_last(catalog: &Catalog, other: &Catalog, seed: &str) {
    let name = format!("example.org/{seed}/last:1");
    assert_eq!(target(catalog, &name).await, None);
    for what in ["one", "two"] {
        catalog.set(&name, &descriptor(what), Origin::Written).await.expect("set");
        assert_eq!(target(other, &name).await, Some(descriptor(what).digest));
    }
    let listed = other.list().await.expect("list");
    let found: Vec<_> = listed.iter().filter(|record| record.name == name).collect();
    assert_eq!(found.len(), 1);
    assert!(found[0].points_to(&descriptor("two")));
}

async fn setting_twice_changes_nothing(catalog: &Catalog, seed: &str) {
    let name = format!("example.org/{seed}/twice:1");
    let first = catalog.set(&name, &descriptor("same"), Origin::Pulled).await.expect("set");
    let second = catalog.set(&name, &descriptor("same"), Origin::Pulled).await.expect("set");
    assert!(matches!((first, second), (Set::Changed(a), Set::Unchanged(b)) if a == b));
    assert_eq!(catalog.history(&name).await.expect("history").len(), 1);
}

async fn removed_name_is_gone_but_remembered(catalog: &Catalog, other: &Catalog, seed: &str) {
    let name = format!("example.org/{seed}/removed:1");
    assert!(!catalog.remove(&name, Origin::Removed).await.expect("remove"));
    catalog.set(&name, &descriptor("gone"), Origin::Written).await.expect("set");
    assert!(other.remove(&name, Origin::Removed).await.expect("remove"));
    assert_eq!(target(catalog, &name).await, None);
    assert!(catalog.list().await.expect("list").iter().all(|record| record.name != name));
    let history = catalog.history(&name).await.expect("history");
    let seen: Vec<_> = history.iter().map(|record| (record.seq, record.descriptor.is_some())).collect();
    assert_eq!(seen, [(1, true), (2, false)]);
}

async fn concurrent_writers_lose_no_name(catalog: &Catalog, other: &Catalog, seed: &str) {
    let write = |number: usize| async move {
        let name = format!("example.org/{seed}/many:{number}");
        let writer = if number.is_multiple_of(2) { catalog } else { other };
        writer.set(&name, &descriptor(&name), Origin::Written).await.expect("set");
    };
    futures::future::join_all((0..16).map(write)).await;
    for number in 0..16 {
        let name = format!("example.org/{seed}/many:{number}");
        assert_eq!(target(other, &name).await, Some(descriptor(&name).digest), "{name} was lost");
    }
}

async fn concurrent_writers_of_one_name_leave_a_gapless_history(
    catalog: &Catalog,
    other: &Catalog,
    seed: &str,
) {
    let name = &format!("example.org/{seed}/contended:1");
    let write = |number: usize| async move {
        let writer = if number.is_multiple_of(2) { catalog } else { other };
        writer.set(name, &descriptor(&number.to_string()), Origin::Written).await.expect("set");
    };
    futures::future::join_all((0..8).map(write)).await;
    let history = catalog.history(name).await.expect("history");
    let sequence: Vec<u64> = history.iter().map(|record| record.seq).collect();
    assert_eq!(sequence, (1..=8).collect::<Vec<_>>());
    let last = history.last().and_then(|record| record.descriptor.clone()).expect("a target");
    assert_eq!(target(other, name).await, Some(last.digest));
}

async fn awkward_names_are_kept_apart(catalog: &Catalog, seed: &str) {
    let long = format!("{seed}/{}", "long/".repeat(60));
    let names = [
        format!("{seed}-12"),
        format!("{seed}/a b"),
        format!("{seed}=2fa"),
        format!("{seed}/[::1]:5000/a:t"),
        long,
    ];
    for name in &names {
        catalog.set(name, &descriptor(name), Origin::Adopted).await.expect("set");
    }
    for name in &names {
        assert_eq!(target(catalog, name).await, Some(descriptor(name).digest), "{name}");
    }
    assert!(catalog.set("", &descriptor(""), Origin::Written).await.is_err());
}
