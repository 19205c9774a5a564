use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use larder_oci::{Descriptor, Digest, Document};

use crate::scripted::{Answer, Heard, Scripted, Then, answer, client, head};
use crate::{Content, RegistryError};

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
async fn tries_again_in_a_fresh_session() {
    let registry = registry("/upload", |heard| match heard.nth {
        1 => answer(500, &[], ""),
        4 => answer(404, &[], ""),
        7 => head(201, &[("content-length", "5")]).then(Then::Close),
        _ => answer(201, &[], ""),
    })
    .await;
    let to = registry.reference(":1");
    client().push_blob(&to, &blob(), whole).await.unwrap();
    let methods: Vec<_> = registry.heard().into_iter().map(|one| one.method).collect();
    let expected = ["POST", "PUT", "DELETE", "POST", "PUT", "DELETE", "POST", "PUT"];
    assert_eq!(methods, expected);
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
