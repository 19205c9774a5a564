//! T01 to T07: what people type, and the one name that it stands for.

use larder_oci::Reference;
use larder_provider::ProviderError;
use larder_tests::Image;

use super::stage::{digest, on_both};

fn check(text: &str, name: &str) {
    let reference: Reference = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(reference.name(), name, "{text}");
}

#[test]
fn t01_bare_word_is_an_official_image_of_docker_hub() {
    check("redis", "docker.io/library/redis:latest");
}

#[test]
fn t02_only_what_looks_like_a_host_is_one() {
    check("foo/bar:1", "docker.io/foo/bar:1");
    check("myreg.io/foo", "myreg.io/foo:latest");
    check("foo/bar/baz", "foo/bar/baz:latest");
    assert_eq!("foo/bar/baz".parse::<Reference>().unwrap().registry(), "foo");
}

#[test]
fn t03_port_is_no_tag() {
    check("localhost:5000/foo", "localhost:5000/foo:latest");
    let reference: Reference = "localhost:5000/foo".parse().unwrap();
    assert_eq!((reference.registry(), reference.tag()), ("localhost:5000", Some("latest")));
}

const ALPINES: [&str; 4] =
    ["docker.io/alpine", "index.docker.io/library/alpine", "registry-1.docker.io/alpine:latest", "alpine"];

#[test]
fn t04_all_names_of_docker_hub_are_one_key() {
    for text in ALPINES {
        check(text, "docker.io/library/alpine:latest");
    }
    on_both(async |stage| {
        let image = Image::small();
        for text in ALPINES {
            stage.written(text, &image).await;
        }
        assert_eq!(stage.names().await, ["docker.io/library/alpine:latest"]);
        for text in ALPINES {
            assert_eq!(stage.target(text).await, Some(digest(&image.root)), "{text}");
        }
    });
}

#[test]
fn t05_names_are_found_as_they_are_typed() {
    on_both(async |stage| {
        let image = Image::small();
        let by_digest = format!("alpine@{}", image.root.digest);
        for text in ["alpine:3.15", &by_digest] {
            assert_eq!(stage.target(text).await, None, "{text} is no error where there is nothing");
        }
        stage.written("docker.io/library/alpine:3.15", &image).await;
        for text in ["alpine:3.15", &by_digest] {
            assert_eq!(stage.target(text).await, Some(digest(&image.root)), "{text}");
        }
    });
}

#[test]
fn t06_short_digest_is_refused_and_never_a_hit_of_the_tag() {
    on_both(async |stage| {
        stage.written("docker.io/library/x:tag", &Image::small()).await;
        for text in ["x:tag@sha256:abc", "x:tag@sha256:", "x:tag@", "x:tag@latest"] {
            let found = stage.cache().find_descriptor(text).await;
            assert!(matches!(found, Err(ProviderError::InvalidReference(_))), "{text}: {found:?}");
        }
    });
}

/// The vector refuses sha512 because the cache it was made for knows sha256 alone; to larder both are digests, and what has to hold
/// is that one is never taken for less than it says: it finds what it names, nothing for the tag beside it, and no part of it is enough.
#[test]
fn t07_sha512_is_a_digest_and_half_of_one_is_none() {
    on_both(async |stage| {
        stage.written("docker.io/library/x:tag", &Image::small()).await;
        let hex = "0123456789abcdef".repeat(8);
        assert_eq!(stage.target(&format!("x:tag@sha512:{hex}")).await, None);
        for text in [format!("x:tag@sha512:{}", &hex[..64]), format!("x:tag@sha384:{}", &hex[..96])] {
            let found = stage.cache().find_descriptor(&text).await;
            assert!(matches!(found, Err(ProviderError::InvalidReference(_))), "{text}: {found:?}");
        }
    });
}
