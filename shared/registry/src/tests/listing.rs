use std::collections::BTreeMap;

use larder_oci::{Descriptor, Digest, Document, Kind, media_type};

use crate::scripted::{Answer, Scripted, answer, client, config};
use crate::{Client, Config, HostConfig, Refusal, RegistryError};

async fn tags_of(registry: &Scripted) -> Result<Option<Vec<String>>, RegistryError> {
    client().tags(&registry.reference(":1")).await
}

fn page(link: &str, body: &str) -> Answer {
    answer(200, &[("link", &format!("<{link}>; rel=\"next\""))], body)
}

#[tokio::test]
async fn tags_of_all_pages_come_in_order_and_once() {
    let registry = Scripted::start(|heard| match heard.nth {
        0 => page("/v2/a/b/tags/list?n=2&last=b", r#"{"name":"a/b","tags":["b","a"]}"#),
        1 => page("list?last=c", r#"{"tags":["c","b","no tag"]}"#),
        _ => answer(200, &[], r#"{"tags":null}"#),
    })
    .await;
    assert_eq!(tags_of(&registry).await.unwrap().unwrap(), ["a", "b", "c"]);
    assert_eq!(
        registry.lines(),
        ["GET /v2/a/b/tags/list?n=1000", "GET /v2/a/b/tags/list?n=2&last=b", "GET /v2/a/b/tags/list?last=c"]
    );
}

#[tokio::test]
async fn a_missing_repository_is_told_from_one_that_cannot_be_listed() {
    let missing = Scripted::start(|_| answer(404, &[], "")).await;
    assert_eq!(tags_of(&missing).await.unwrap(), None);
    let denied = Scripted::start(|_| answer(403, &[], "")).await;
    assert!(matches!(tags_of(&denied).await, Err(RegistryError::Denied { .. })));
    let garbage = Scripted::start(|_| answer(200, &[], "<html>")).await;
    assert!(matches!(tags_of(&garbage).await, Err(RegistryError::Protocol { .. })));
}

#[tokio::test]
async fn a_list_never_goes_on_elsewhere() {
    let elsewhere = Scripted::start(|_| answer(200, &[], r#"{"tags":["evil"]}"#)).await;
    let foreign = format!("http://{}/v2/a/b/tags/list", elsewhere.host());
    let links = [
        (foreign, Refusal::ForeignLink),
        ("https://127.0.0.1/v2/a/b/tags/list".to_owned(), Refusal::ForeignLink),
        ("file:///etc/passwd".to_owned(), Refusal::ForeignLink),
        ("//me:secret@127.0.0.1/x".to_owned(), Refusal::UserInfo),
    ];
    for (link, expected) in links {
        let registry = Scripted::start(move |_| page(&link, r#"{"tags":["a"]}"#)).await;
        match tags_of(&registry).await {
            Err(RegistryError::RedirectRefused { refusal, .. }) => assert_eq!(refusal, expected),
            other => panic!("{other:?}"),
        }
        assert_eq!(registry.heard().len(), 1);
    }
    assert!(elsewhere.heard().is_empty());
}

#[tokio::test]
async fn a_list_without_end_is_given_up() {
    let registry = Scripted::start(|_| page("?again", r#"{"tags":["a"]}"#)).await;
    assert!(matches!(tags_of(&registry).await, Err(RegistryError::Endless { limit: 1_000, .. })));
    assert_eq!(registry.heard().len(), 1_000);
    let many = Scripted::start(|heard| {
        let tags: Vec<String> = (0..60_000).map(|tag| format!("\"{}-{tag}\"", heard.nth)).collect();
        page("?again", &format!("{{\"tags\":[{}]}}", tags.join(",")))
    })
    .await;
    assert!(matches!(tags_of(&many).await, Err(RegistryError::Endless { limit: 100_000, .. })));
    assert_eq!(many.heard().len(), 2);
}

#[tokio::test]
async fn pages_of_a_mirror_say_whom_it_stands_for() {
    let mirror = Scripted::start(|heard| match heard.nth {
        0 => page("/v2/m/a/b/tags/list?last=a", r#"{"tags":["a"]}"#),
        _ => answer(200, &[], r#"{"tags":["b"]}"#),
    })
    .await;
    let settings =
        HostConfig { mirrors: vec![format!("http://{}/m", mirror.host())], ..HostConfig::default() };
    let hosts = BTreeMap::from([("r.example".to_owned(), settings)]);
    let client = Client::new(Config { hosts, ..config() }).unwrap();
    let tags = client.tags(&"r.example/a/b:1".parse().unwrap()).await.unwrap();
    assert_eq!(tags.unwrap(), ["a", "b"]);
    assert_eq!(mirror.lines()[1], "GET /v2/m/a/b/tags/list?last=a&ns=r.example");
}

fn descriptor(seed: &str) -> Descriptor {
    let mut referrer = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(seed.as_bytes()), 7);
    referrer.artifact_type = Some(format!("application/{seed}"));
    referrer.annotations.insert("seed".to_owned(), seed.to_owned());
    referrer
}

fn index(of: &[&str]) -> String {
    let manifests: Vec<Descriptor> = of.iter().map(|seed| descriptor(seed)).collect();
    let manifests = serde_json::to_string(&manifests).unwrap();
    format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":{manifests}}}"#, media_type::OCI_INDEX)
}

fn listed(document: Option<Document>) -> Vec<Descriptor> {
    match document.map(|document| document.kind().clone()) {
        Some(Kind::Index(index)) => index.manifests,
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn referrers_come_from_all_pages_with_what_is_said_of_them() {
    let registry = Scripted::start(|heard| match heard.nth {
        0 => page("?page=2", &index(&["one", "two"])),
        _ => answer(200, &[("content-type", media_type::OCI_INDEX)], index(&["two", "three"])),
    })
    .await;
    let subject = Digest::of(b"subject");
    let referrers = client().referrers(&registry.reference(":1"), &subject).await.unwrap();
    assert_eq!(listed(referrers), ["one", "two", "three"].map(descriptor));
    assert_eq!(registry.lines()[0], format!("GET /v2/a/b/referrers/{subject}"));
}

#[tokio::test]
async fn registries_without_the_api_are_asked_for_the_tag_instead() {
    let subject = Digest::of(b"subject");
    let tag = format!("/v2/a/b/manifests/sha256-{}", subject.hex());
    for status in [404, 405, 501] {
        let expected = tag.clone();
        let registry = Scripted::start(move |heard| match heard.target.as_str() {
            target if target == expected => answer(200, &[], index(&["one"])),
            _ => answer(status, &[], ""),
        })
        .await;
        let referrers = client().referrers(&registry.reference(":1"), &subject).await.unwrap();
        assert_eq!(listed(referrers), [descriptor("one")], "{status}");
    }
    let none = Scripted::start(|_| answer(404, &[], "")).await;
    assert!(client().referrers(&none.reference(":1"), &subject).await.unwrap().is_none());
    let empty = Scripted::start(|_| answer(200, &[], index(&[]))).await;
    assert!(client().referrers(&empty.reference(":1"), &subject).await.unwrap().is_none());
}

#[tokio::test]
async fn referrers_that_are_no_index_or_too_many_are_an_error() {
    let subject = Digest::of(b"subject");
    let garbage = Scripted::start(|_| answer(200, &[], "[]")).await;
    let got = client().referrers(&garbage.reference(":1"), &subject).await;
    assert!(matches!(got, Err(RegistryError::InvalidDocument { .. })));
    let many = Scripted::start(|heard| {
        let seeds: Vec<String> = (0..4_000).map(|seed| format!("{}-{seed}", heard.nth)).collect();
        page("?more", &index(&seeds.iter().map(String::as_str).collect::<Vec<_>>()))
    })
    .await;
    let got = client().referrers(&many.reference(":1"), &subject).await;
    assert!(matches!(got, Err(RegistryError::Endless { what: "manifests", .. })));
    assert_eq!(many.heard().len(), 3);
}
