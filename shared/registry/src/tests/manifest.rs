use std::collections::BTreeMap;
use std::time::Duration;

use larder_oci::Digest;

use crate::scripted::{Scripted, Then, answer, client, config, head};
use crate::{Client, Config, Head, HostConfig, RegistryError};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const BODY: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"x":1}"#;

async fn get(headers: &[(&'static str, &'static str)], suffix: &str) -> Result<(), RegistryError> {
    let headers = headers.to_vec();
    let registry = Scripted::start(move |_| answer(200, &headers, BODY)).await;
    let got = client().manifest(&registry.reference(suffix)).await?;
    assert_eq!(got.bytes(), BODY);
    Ok(())
}

#[tokio::test]
async fn gets_a_manifest_byte_for_byte() {
    let digest = Digest::of(BODY.as_bytes());
    get(&[("content-type", INDEX)], ":1").await.unwrap();
    get(&[("content-type", INDEX)], &format!("@{digest}")).await.unwrap();
}

#[tokio::test]
async fn refuses_a_manifest_that_does_not_have_the_digest_asked_for() {
    let other = Digest::of(b"other");
    let error = get(&[("content-type", INDEX)], &format!("@{other}")).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Corrupt { want, .. } if *want == other));
    assert!(error.is_integrity() && !error.is_retryable());
}

#[tokio::test]
async fn a_digest_header_binds_if_it_is_one() {
    let lie = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    let error = get(&[("docker-content-digest", lie)], ":1").await.unwrap_err();
    assert!(matches!(error, RegistryError::Corrupt { .. }));
    get(&[("docker-content-digest", "garbage")], ":1").await.unwrap();
}

#[tokio::test]
async fn refuses_what_is_encoded_unsupported_or_no_manifest() {
    let error = get(&[("content-encoding", "gzip")], ":1").await.unwrap_err();
    assert!(matches!(error, RegistryError::Encoded { encoding, .. } if encoding == "gzip"));
    let schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let error = get(&[("content-type", schema1)], ":1").await.unwrap_err();
    assert!(matches!(error, RegistryError::Unsupported { .. }));
    let registry = Scripted::start(|_| answer(200, &[], "")).await;
    let error = client().manifest(&registry.reference(":1")).await.unwrap_err();
    assert!(matches!(error, RegistryError::InvalidDocument { .. }));
}

#[tokio::test]
async fn bounds_a_manifest_whether_or_not_its_length_is_declared() {
    let declared = Scripted::start(|_| head(200, &[("content-length", "99999999")])).await;
    let endless = Scripted::start(|_| {
        let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
        head(200, &[("transfer-encoding", "chunked")]).with(chunk.repeat(8)).then(Then::Stall)
    })
    .await;
    let client = Client::new(Config { manifest_bytes_max: 4096, ..config() }).unwrap();
    for registry in [declared, endless] {
        let error = client.manifest(&registry.reference(":1")).await.unwrap_err();
        assert!(matches!(error, RegistryError::TooLarge { limit_bytes: 4096, .. }));
    }
}

#[tokio::test]
async fn tries_again_when_the_registry_is_busy() {
    let registry = Scripted::start(|heard| match heard.nth {
        0 => answer(503, &[("retry-after", "0")], ""),
        1 => answer(429, &[], ""),
        2 => head(200, &[("content-length", "999")]).with("{").then(Then::Close),
        _ => answer(200, &[], BODY),
    })
    .await;
    let client = client();
    client.manifest(&registry.reference(":1")).await.unwrap();
    assert_eq!(client.traffic().retries.load(std::sync::atomic::Ordering::Relaxed), 3);
}

#[tokio::test]
async fn says_how_long_a_registry_asks_to_wait_and_why() {
    let registry = Scripted::start(|_| {
        answer(
            429,
            &[("retry-after", "7")],
            r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#,
        )
    })
    .await;
    let error = client().manifest(&registry.reference(":1")).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    assert!(error.to_string().ends_with(": TOOMANYREQUESTS: slow down"));
    assert_eq!(registry.heard().len(), 1, "nobody waits that long");
}

#[tokio::test]
async fn does_not_try_again_what_is_the_callers_fault() {
    let registry = Scripted::start(|_| answer(400, &[], "")).await;
    let error = client().manifest(&registry.reference(":1")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Status { status, .. } if status == 400));
    assert_eq!(registry.heard().len(), 1);
}

#[tokio::test]
async fn head_tells_missing_from_broken() {
    let registry = Scripted::start(|heard| match heard.target.as_str() {
        "/v2/a/b/manifests/missing" => answer(404, &[], ""),
        "/v2/a/b/manifests/denied" => answer(403, &[], ""),
        _ => head(200, &[("content-length", "97"), ("content-type", INDEX), ("docker-content-digest", "?")]),
    })
    .await;
    let client = client();
    let ask = async |tag: &str| client.head_manifest(&registry.reference(tag)).await;
    assert_eq!(ask(":missing").await.unwrap(), None);
    assert!(matches!(ask(":denied").await, Err(RegistryError::Denied { .. })));
    let found = ask(":1").await.unwrap().unwrap();
    assert_eq!((found.digest, found.media_type.as_str(), found.size), (None, INDEX, Some(97)));
}

#[tokio::test]
async fn head_falls_back_to_get_where_it_is_not_supported() {
    let registry = Scripted::start(|heard| match heard.method.as_str() {
        "HEAD" => head(405, &[("content-length", "0")]),
        _ => answer(200, &[], BODY),
    })
    .await;
    let found = client().head_manifest(&registry.reference(":1")).await.unwrap();
    assert_eq!(found.unwrap().digest, Some(Digest::of(BODY.as_bytes())));
}

#[tokio::test]
async fn mirrors_are_asked_first_and_fallen_through() {
    let broken = Scripted::start(|_| answer(500, &[], "")).await;
    let empty = Scripted::start(|_| answer(404, &[], "")).await;
    let corrupt = Scripted::start(|_| answer(200, &[], "{}")).await;
    let origin = Scripted::start(|_| answer(200, &[], BODY)).await;
    let mut mirrors: Vec<_> =
        [&broken, &empty, &corrupt].map(|mirror| format!("http://{}/m", mirror.host())).into();
    // Nobody listens on the discard port.
    mirrors.push("http://127.0.0.1:9".to_owned());
    let host = HostConfig { mirrors, ..HostConfig::default() };
    let client = Client::new(Config { hosts: BTreeMap::from([(origin.host(), host)]), ..config() }).unwrap();
    let digest = Digest::of(BODY.as_bytes());
    client.manifest(&origin.reference(&format!("@{digest}"))).await.unwrap();
    let name = origin.host().replace(':', "%3A");
    let line = format!("GET /v2/m/a/b/manifests/{digest}?ns={name}");
    for mirror in [&broken, &empty, &corrupt] {
        assert_eq!(mirror.lines(), [line.as_str()]);
    }
    assert_eq!(origin.lines(), [format!("GET /v2/a/b/manifests/{digest}")]);
}

#[tokio::test]
async fn what_a_head_named_is_got_by_its_digest() {
    let digest = Digest::of(BODY.as_bytes());
    let by_digest = format!("GET /v2/a/b/manifests/{digest}");
    let pinned = digest.clone();
    let registry = Scripted::start(move |heard| match (heard.method.as_str(), heard.target.as_str()) {
        ("HEAD", _) => head(200, &[("docker-content-digest", pinned.as_str())]),
        (_, target) if target.ends_with(pinned.as_str()) => answer(200, &[], BODY),
        _ => answer(200, &[], r#"{"schemaVersion":2,"manifests":[],"moved":1}"#),
    })
    .await;
    let (client, at) = (client(), registry.reference(":1"));
    let seen = client.head_manifest(&at).await.unwrap().unwrap();
    assert_eq!(client.headed_manifest(&at, &seen).await.unwrap().bytes(), BODY);
    assert_eq!(registry.lines(), ["HEAD /v2/a/b/manifests/1", by_digest.as_str()]);
}

#[tokio::test]
async fn what_a_head_named_is_got_by_its_tag_where_the_digest_leads_nowhere() {
    let registry = Scripted::start(|heard| match heard.target.as_str() {
        "/v2/a/b/manifests/1" => answer(200, &[], BODY),
        _ => answer(404, &[], ""),
    })
    .await;
    let at = registry.reference(":1");
    for (digest, requests) in [(Some(Digest::of(b"gone")), 2), (None, 3)] {
        let seen = Head { digest, media_type: String::new(), size: None };
        assert_eq!(client().headed_manifest(&at, &seen).await.unwrap().bytes(), BODY);
        assert_eq!(registry.heard().len(), requests);
    }
}
