use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use larder_oci::{Descriptor, Digest, Document};

use crate::scripted::{Answer, Heard, Scripted, answer, client, config, head, silence};
use crate::{Client, Config, Content, HostConfig, RegistryError};

const BLOB: &[u8] = b"0123456789abcdefghij";
const INDEX: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

fn blob() -> Descriptor {
    Descriptor::new("application/octet-stream", Digest::of(BLOB), 20)
}

fn content(frames: &[Result<&'static [u8], io::ErrorKind>]) -> Content {
    let frames: Vec<_> =
        frames.iter().map(|frame| frame.map(Bytes::from_static).map_err(io::Error::from)).collect();
    stream::iter(frames).boxed()
}

fn whole(offset: u64) -> BoxFuture<'static, Result<Content, io::Error>> {
    assert_eq!(offset, 0);
    async { Ok(content(&[Ok(&BLOB[..8]), Ok(&BLOB[8..])])) }.boxed()
}

/// Opens uploads at `location`, and answers all else by `rest`.
async fn registry(
    location: &'static str,
    rest: impl Fn(&Heard) -> Answer + Send + Sync + 'static,
) -> Scripted {
    Scripted::start(move |heard| match heard.method.as_str() {
        "POST" => answer(202, &[("location", location)], ""),
        "DELETE" => head(204, &[]),
        _ => rest(heard),
    })
    .await
}

#[tokio::test]
async fn sends_a_blob_in_one_request() {
    let registry = registry("/upload/1?state=x", |_| answer(201, &[], "")).await;
    let (client, to) = (client(), registry.reference(":1"));
    client.push_blob(&to, &blob(), whole).await.unwrap();
    let digest = Digest::of(BLOB).to_string().replace(':', "%3A");
    assert_eq!(
        registry.lines(),
        ["POST /v2/a/b/blobs/uploads/".to_owned(), format!("PUT /upload/1?state=x&digest={digest}"),]
    );
    let put = &registry.heard()[1];
    assert_eq!((put.body.as_slice(), put.header("content-length")), (BLOB, Some("20")));
    assert_eq!(client.traffic().bytes_out.load(Ordering::Relaxed), 20);
}

#[tokio::test]
async fn registry_may_say_what_it_has_got_but_nothing_else() {
    let (right, wrong) = (Digest::of(BLOB).to_string(), Digest::of(b"other").to_string());
    for (said, is_confirmed) in [(Some(right), Some(true)), (None, Some(false)), (Some(wrong), None)] {
        for push_chunk_bytes in [0, 8] {
            let said = said.clone();
            let registry = registry("/upload", move |_| match &said {
                Some(digest) => answer(201, &[("docker-content-digest", digest)], ""),
                None => answer(201, &[], ""),
            })
            .await;
            let client = Client::new(Config { push_chunk_bytes, ..config() }).unwrap();
            let pushed = client.push_blob(&registry.reference(":1"), &blob(), whole).await;
            match is_confirmed {
                Some(is_confirmed) => assert_eq!(pushed.unwrap(), is_confirmed),
                None => assert!(matches!(pushed, Err(RegistryError::Corrupt { .. })), "{pushed:?}"),
            }
        }
    }
}

/// The methods and paths heard, with the bodies that came.
fn exchanges(registry: &Scripted) -> Vec<String> {
    let line = |heard: Heard| {
        let path = heard.target.split('?').next().unwrap_or_default().to_owned();
        let range = heard.header("content-range").map(|range| format!(" {range}")).unwrap_or_default();
        format!("{} {path}{range} {}", heard.method, String::from_utf8_lossy(&heard.body))
    };
    registry.heard().into_iter().map(|heard| line(heard).trim_end().to_owned()).collect()
}

/// What is after an offset, in two frames if there is enough.
fn rest(offset: u64) -> BoxFuture<'static, Result<Content, io::Error>> {
    let rest = &BLOB[usize::try_from(offset).unwrap()..];
    let (one, other) = rest.split_at(rest.len().min(5));
    async move { Ok(content(&[Ok(one), Ok(other)])) }.boxed()
}

#[tokio::test]
async fn tries_again_in_a_fresh_session() {
    let registry = registry("/upload", |heard| match heard.nth {
        1 => answer(500, &[], ""),
        5 => answer(404, &[], ""),
        7 => silence(),
        8 => answer(416, &[], ""),
        _ if heard.method == "GET" => answer(404, &[], ""),
        _ => answer(201, &[], ""),
    })
    .await;
    let to = registry.reference(":1");
    client().push_blob(&to, &blob(), whole).await.unwrap();
    let methods: Vec<_> = registry.heard().into_iter().map(|one| one.method).collect();
    let expected = ["POST", "PUT", "GET", "POST", "PUT"];
    assert_eq!(methods, expected);
}

#[tokio::test]
async fn upload_that_is_cut_goes_on_from_what_the_registry_has() {
    let registry = registry("/upload/1", |heard| match (heard.nth, heard.method.as_str()) {
        (1, _) => silence(),
        (_, "GET") => head(204, &[("location", "/upload/2"), ("range", "0-11")]),
        (_, "PATCH") => head(202, &[("location", "/upload/3"), ("range", "0-19"), ("content-length", "0")]),
        _ => answer(201, &[], ""),
    })
    .await;
    client().push_blob(&registry.reference(":1"), &blob(), rest).await.unwrap();
    assert_eq!(
        exchanges(&registry),
        [
            "POST /v2/a/b/blobs/uploads/",
            "PUT /upload/1 0123456789abcdefghij",
            "GET /upload/1",
            "PATCH /upload/2 12-19 cdefghij",
            "PUT /upload/3",
        ]
    );
    let digest = Digest::of(BLOB).to_string().replace(':', "%3A");
    assert_eq!(registry.heard()[4].target, format!("/upload/3?digest={digest}"));
}

#[tokio::test]
async fn upload_that_arrived_before_it_was_cut_is_only_closed() {
    let registry = registry("/upload", |heard| match (heard.nth, heard.method.as_str()) {
        (1, _) => silence(),
        (_, "GET") => head(204, &[("range", "bytes=0-19")]),
        _ => answer(201, &[], ""),
    })
    .await;
    client().push_blob(&registry.reference(":1"), &blob(), whole).await.unwrap();
    let last = exchanges(&registry).pop();
    assert_eq!((registry.heard().len(), last.as_deref()), (4, Some("PUT /upload")));
}

#[tokio::test]
async fn resumed_upload_that_is_refused_is_sent_whole() {
    let registry = registry("/upload", |heard| match (heard.nth, heard.method.as_str()) {
        (1, _) => silence(),
        (4, "PUT") => answer(400, &[], r#"{"errors":[{"code":"DIGEST_INVALID","message":""}]}"#),
        (_, "GET") => head(204, &[("range", "0-11")]),
        (_, "PATCH") => answer(202, &[], ""),
        _ => answer(201, &[], ""),
    })
    .await;
    client().push_blob(&registry.reference(":1"), &blob(), rest).await.unwrap();
    let methods: Vec<_> = registry.heard().into_iter().map(|one| one.method).collect();
    assert_eq!(methods, ["POST", "PUT", "GET", "PATCH", "PUT", "DELETE", "POST", "PUT"]);
}

#[tokio::test]
async fn upload_that_never_gets_further_is_given_up() {
    let registry = registry("/upload", |heard| match heard.method.as_str() {
        "GET" => head(204, &[("range", "0-11")]),
        _ => silence(),
    })
    .await;
    let error = client().push_blob(&registry.reference(":1"), &blob(), rest).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error:?}");
    let sends =
        registry.heard().iter().filter(|heard| ["PUT", "PATCH"].contains(&heard.method.as_str())).count();
    assert_eq!(sends, 4, "once, and as often as configured");
}

#[tokio::test]
async fn pieces_are_as_long_as_configured_and_no_shorter_than_the_registry_wants() {
    let pieces = async |least: &'static str| {
        let registry = Scripted::start(move |heard| match heard.method.as_str() {
            "POST" => answer(202, &[("location", "/upload"), ("oci-chunk-min-length", least)], ""),
            "PATCH" => answer(202, &[], ""),
            _ => answer(201, &[], ""),
        })
        .await;
        let client = Client::new(Config { push_chunk_bytes: 8, ..config() }).unwrap();
        client.push_blob(&registry.reference(":1"), &blob(), whole).await.unwrap();
        exchanges(&registry).split_off(1)
    };
    assert_eq!(
        pieces("0").await,
        [
            "PATCH /upload 0-7 01234567",
            "PATCH /upload 8-15 89abcdef",
            "PATCH /upload 16-19 ghij",
            "PUT /upload"
        ]
    );
    assert_eq!(
        pieces("11").await,
        ["PATCH /upload 0-10 0123456789a", "PATCH /upload 11-19 bcdefghij", "PUT /upload"]
    );
}

#[tokio::test]
async fn registry_that_refuses_one_long_request_gets_pieces() {
    for status in [411, 413] {
        let registry = registry("/upload", move |heard| match (heard.nth, heard.method.as_str()) {
            (1, _) => answer(status, &[], ""),
            (_, "PATCH") => answer(202, &[], ""),
            _ => answer(201, &[], ""),
        })
        .await;
        client().push_blob(&registry.reference(":1"), &blob(), whole).await.unwrap();
        let methods: Vec<_> = registry.heard().into_iter().map(|one| one.method).collect();
        assert_eq!(methods, ["POST", "PUT", "DELETE", "POST", "PATCH", "PUT"]);
    }
}

#[tokio::test]
async fn what_is_there_is_asked_of_the_registry_and_of_no_mirror() {
    let document = Document::parse(INDEX.into(), None).unwrap();
    let digest = document.descriptor().digest.to_string();
    let registry = Scripted::start(move |heard| match (heard.nth, heard.method.as_str()) {
        (0, _) => answer(500, &[], ""),
        (1, _) => head(200, &[("docker-content-digest", &digest), ("content-length", "88")]),
        (2, _) => head(200, &[("content-length", "88")]),
        (_, "GET") => answer(200, &[("content-type", "application/vnd.oci.image.index.v1+json")], INDEX),
        _ => answer(404, &[], ""),
    })
    .await;
    let mirror = Scripted::start(|_| answer(404, &[], "")).await;
    let mut config = config();
    let mirrors = vec![format!("http://{}", mirror.host())];
    config.hosts.insert(registry.host(), HostConfig { mirrors, ..HostConfig::default() });
    let (client, at) = (Client::new(config).unwrap(), registry.reference(":1"));
    let ask = async || client.origin_descriptor(&at).await.unwrap();
    let there = ask().await.unwrap();
    assert_eq!((&there.digest, there.size), (&document.descriptor().digest, 88));
    assert_eq!(ask().await, Some(document.descriptor()), "no digest is given, so it is made");
    assert_eq!(client.origin_manifest(&at).await.unwrap().unwrap().bytes(), document.bytes());
    assert_eq!(ask().await, None);
    assert!(mirror.heard().is_empty());
}

#[tokio::test]
async fn content_that_cannot_be_read_or_has_another_size_is_not_pushed() {
    type Frames = &'static [Result<&'static [u8], io::ErrorKind>];
    let cases: [(Frames, io::ErrorKind); 3] = [
        (&[Ok(b"01"), Err(io::ErrorKind::NotFound)], io::ErrorKind::NotFound),
        (&[Ok(b"01")], io::ErrorKind::InvalidData),
        (&[Ok(BLOB), Ok(b"!")], io::ErrorKind::InvalidData),
    ];
    for (frames, expected) in cases {
        let registry = registry("/upload", |_| answer(201, &[], "")).await;
        let opened = AtomicUsize::new(0);
        let open = |_| {
            opened.fetch_add(1, Ordering::SeqCst);
            async { Ok(content(frames)) }.boxed()
        };
        let to = registry.reference(":1");
        match client().push_blob(&to, &blob(), open).await {
            Err(RegistryError::Source { source }) => assert_eq!(source.kind(), expected),
            other => panic!("{expected}: {other:?}"),
        }
        assert_eq!(opened.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn uploads_go_nowhere_that_a_redirect_may_not() {
    let registry = registry("http://169.254.169.254/", |_| answer(201, &[], "")).await;
    let to = registry.reference(":1");
    let error = client().push_blob(&to, &blob(), whole).await.unwrap_err();
    assert!(matches!(error, RegistryError::RedirectRefused { .. }));
}

#[tokio::test]
async fn uploads_to_another_port_carry_no_authorization() {
    let storage = Scripted::start(|_| answer(201, &[], "")).await;
    let location = format!("http://{}/upload", storage.host());
    let registry = Scripted::start(move |heard| match heard.header("authorization") {
        Some(_) => answer(202, &[("location", &location)], ""),
        None => answer(401, &[("www-authenticate", "Basic realm=\"x\"")], ""),
    })
    .await;
    let entry = r#"{"username":"me","password":"hunter2"}"#;
    let (client, _file) = super::auth::client_with(&registry, entry);
    let to = registry.reference(":1");
    client.push_blob(&to, &blob(), whole).await.unwrap();
    assert_eq!(storage.heard()[0].header("authorization"), None);
}

#[tokio::test]
async fn mounts_or_leaves_no_session_behind() {
    let mounting = Scripted::start(|_| answer(201, &[], "")).await;
    let digest = Digest::of(BLOB);
    let mount = async |registry: &Scripted| {
        let to = registry.reference(":1");
        client().mount_blob(&to, &digest, "c/d").await.unwrap()
    };
    assert!(mount(&mounting).await);
    let escaped = digest.to_string().replace(':', "%3A");
    assert_eq!(mounting.lines(), [format!("POST /v2/a/b/blobs/uploads/?mount={escaped}&from=c%2Fd")]);
    let opening = registry("/upload/1", |_| answer(500, &[], "")).await;
    assert!(!mount(&opening).await);
    assert_eq!(opening.lines()[1], "DELETE /upload/1");
}

#[tokio::test]
async fn asks_whether_a_blob_is_there() {
    let registry = Scripted::start(|heard| match heard.nth {
        0 => head(200, &[("content-length", "20")]),
        _ => head(404, &[("content-length", "0")]),
    })
    .await;
    let (client, at) = (client(), registry.reference(":1"));
    let ask = async || client.blob_exists(&at, &Digest::of(BLOB)).await.unwrap();
    assert_eq!((ask().await, ask().await), (Some(20), None));
}

#[tokio::test]
async fn pushes_a_manifest_byte_for_byte() {
    let lie = Digest::of(b"lie").to_string();
    let registry = Scripted::start(move |heard| match heard.target.as_str() {
        "/v2/a/b/manifests/lie" => answer(201, &[("docker-content-digest", &lie)], ""),
        _ => answer(201, &[], ""),
    })
    .await;
    let document = Document::parse(INDEX.into(), None).unwrap();
    let push = async |suffix: &str| {
        let to = registry.reference(suffix);
        client().push_manifest(&to, &document).await
    };
    assert_eq!(push(":1").await.unwrap(), Digest::of(INDEX.as_bytes()));
    let heard = &registry.heard()[0];
    assert_eq!(heard.body, INDEX.as_bytes());
    assert_eq!(heard.header("content-type"), Some(document.media_type()));
    let error = push(":lie").await.unwrap_err();
    assert!(matches!(error, RegistryError::Corrupt { .. }));
    let error = push(&format!("@{}", Digest::of(b"other"))).await.unwrap_err();
    assert!(matches!(error, RegistryError::Corrupt { .. }));
    assert_eq!(registry.heard().len(), 2, "what is known to be wrong is not sent");
}
