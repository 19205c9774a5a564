//! What every catalog must hold to, run against each by the tests.

mod labels;

use std::time::Duration;

use larder_oci::{Descriptor, Digest, media_type};

use crate::{Catalog, CatalogError, Expected, Origin, Set};

/// Runs the whole suite on `catalog`; `other` is a second handle on the same names. `seed` keeps runs apart.
pub async fn all(catalog: &Catalog, other: &Catalog, seed: &str) {
    name_points_to_what_was_set_last(catalog, other, seed).await;
    setting_twice_changes_nothing(catalog, seed).await;
    removed_name_is_gone_but_remembered(catalog, other, seed).await;
    concurrent_writers_lose_no_name(catalog, other, seed).await;
    concurrent_writers_of_one_name_leave_a_gapless_history(catalog, other, seed).await;
    awkward_names_are_kept_apart(catalog, seed).await;
    conditional_change_is_made_only_of_what_was_expected(catalog, other, seed).await;
    of_many_who_expect_the_same_one_succeeds(catalog, other, seed).await;
    listing_is_ordered_and_says_what_resolving_says(catalog, other, seed).await;
    lease_holds_until_it_is_released_or_ends(catalog, other, seed).await;
    labels::all(catalog, other, seed).await;
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

async fn conditional_change_is_made_only_of_what_was_expected(
    catalog: &Catalog,
    other: &Catalog,
    seed: &str,
) {
    let name = &format!("example.org/{seed}/conditional:1");
    let set_if = async |what: &str, expected: Expected| {
        catalog.set_if(name, &descriptor(what), Origin::Written, expected).await
    };
    let at = |what: &str| Expected::At(descriptor(what).digest);
    let refused = set_if("one", at("zero")).await;
    assert!(matches!(refused, Err(CatalogError::Moved { found: None, .. })));
    assert!(matches!(set_if("one", Expected::Absent).await, Ok(Set::Changed(record)) if record.seq == 1));
    assert!(matches!(set_if("two", at("one")).await, Ok(Set::Changed(record)) if record.seq == 2));
    // The same change once more, as a job that is done twice makes it.
    assert!(matches!(set_if("two", at("one")).await, Ok(Set::Unchanged(record)) if record.seq == 2));
    for expected in [Expected::Absent, at("one")] {
        let refused = set_if("three", expected.clone()).await.expect_err("it has moved");
        let CatalogError::Moved { name: named, expected: wanted, found } = refused else {
            panic!("{refused}");
        };
        assert_eq!((&named, wanted, found), (name, expected, Some(descriptor("two").digest)));
    }
    assert_eq!(target(other, name).await, Some(descriptor("two").digest));
    assert!(other.remove(name, Origin::Removed).await.expect("remove"));
    assert!(matches!(set_if("four", Expected::Absent).await, Ok(Set::Changed(record)) if record.seq == 4));
}

async fn of_many_who_expect_the_same_one_succeeds(catalog: &Catalog, other: &Catalog, seed: &str) {
    let name = &format!("example.org/{seed}/raced:1");
    let mut expected = Expected::Absent;
    for round in 0..4_u64 {
        let write = |number: usize| {
            let (expected, what) = (expected.clone(), descriptor(&format!("{round}-{number}")));
            let writer = if number.is_multiple_of(2) { catalog } else { other };
            async move { writer.set_if(name, &what, Origin::Written, expected).await }
        };
        let mut won = Vec::new();
        for result in futures::future::join_all((0..8).map(write)).await {
            match result {
                Ok(Set::Changed(record)) => won.push(record),
                Err(CatalogError::Moved { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(won.iter().map(|record| record.seq).collect::<Vec<_>>(), [round + 1]);
        let digest = won.pop().and_then(|record| record.descriptor).expect("a target").digest;
        assert_eq!(target(other, name).await, Some(digest.clone()));
        expected = Expected::At(digest);
    }
}

async fn listing_is_ordered_and_says_what_resolving_says(catalog: &Catalog, other: &Catalog, seed: &str) {
    for round in ["one", "two"] {
        let write = |number: usize| async move {
            let name = format!("example.org/{seed}/listed:{number}");
            let writer = if number.is_multiple_of(2) { catalog } else { other };
            match (round, number % 5) {
                ("two", 0) => drop(writer.remove(&name, Origin::Removed).await.expect("remove")),
                ("two", 1) => {}
                _ => drop(writer.set(&name, &descriptor(round), Origin::Pulled).await.expect("set")),
            }
        };
        // Enough for a snapshot where there is one.
        futures::future::join_all((0..300).map(write)).await;
        // Once as it is, once more from what the first listing may have left behind, and once with all views up to date.
        for handle in [other, catalog, other] {
            let listed = handle.list().await.expect("list");
            assert!(listed.is_sorted_by(|a, b| a.name < b.name), "ordered, and each once");
            for number in 0..300 {
                let name = format!("example.org/{seed}/listed:{number}");
                let found = listed.binary_search_by(|record| record.name.cmp(&name)).ok();
                let found = found.and_then(|place| listed[place].descriptor.clone());
                let expected = match (round, number % 5) {
                    ("two", 0) => None,
                    ("two", 1) => Some("one"),
                    _ => Some(round),
                };
                assert_eq!(found, expected.map(descriptor), "{name}");
            }
            catalog.flush().await.expect("flush");
        }
    }
}

async fn lease_holds_until_it_is_released_or_ends(catalog: &Catalog, other: &Catalog, seed: &str) {
    let roots = ["held", "released", "ended"].map(|what| descriptor(&format!("{seed}-{what}")).digest);
    let hour = Duration::from_hours(1);
    let held = catalog.lease(Some(&roots[0]), hour).await.expect("lease");
    let released = catalog.lease(Some(&roots[1]), hour).await.expect("lease");
    let ended = catalog.lease(Some(&roots[2]), Duration::ZERO).await.expect("lease");
    assert!(held < released && released < ended);
    other.release(&released).await.expect("release");
    for _ in 0..2 {
        let leases = other.leases().await.expect("leases");
        let of_ours: Vec<_> = leases
            .iter()
            .filter(|lease| lease.root.as_ref().is_some_and(|root| roots.contains(root)))
            .collect();
        assert_eq!(of_ours.iter().map(|lease| &lease.id).collect::<Vec<_>>(), [&held]);
        assert!(of_ours[0].until_ms > 0);
    }
    catalog.release(&held).await.expect("release");
    catalog.release(&held).await.expect("a lease that has ended can be released");
}
