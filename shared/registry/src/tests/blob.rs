use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use futures::FutureExt as _;
use larder_oci::Digest;

use crate::scripted::{Answer, Heard, Scripted, Then, answer, client, config, head};
use crate::{BlobStream, Chunk, Client, Config, HostConfig, RegistryError};

const BLOB: &[u8] = b"0123456789abcdefghij";
const SIZE: Option<u64> = Some(20);
const TAG: (&str, &str) = ("etag", "\"one\"");

/// What a stream gave: the bytes that count in the end, and how often it started over.
async fn drain(stream: &mut BlobStream) -> Result<(Vec<u8>, usize), RegistryError> {
    let (mut bytes, mut restarts) = (Vec::new(), 0);
    while let Some(chunk) = stream.next().await? {
        match chunk {
            Chunk::Bytes(more) => bytes.extend_from_slice(&more),
            Chunk::Restart => {
                assert_eq!(stream.offset(), 0);
                bytes.clear();
                restarts += 1;
            }
        }
    }
    Ok((bytes, restarts))
}

async fn pull(
    client: &Client,
    registry: &Scripted,
    size: Option<u64>,
    offset: u64,
) -> Result<(Vec<u8>, usize), RegistryError> {
    let at = registry.reference(":1");
    let mut stream = client.blob(&at, &Digest::of(BLOB), size, offset).await?;
    drain(&mut stream).await
}

/// The whole blob is declared, but the connection ends after 8 bytes.
fn cut() -> Answer {
    head(200, &[("content-length", "20"), TAG]).with(&BLOB[..8]).then(Then::Close)
}

fn part(range: &str, from: usize, tag: (&str, &str)) -> Answer {
    answer(206, &[("content-range", range), tag], &BLOB[from..])
}

/// The first transfer is cut; `second` answers the request for the rest, and the whole blob comes after that.
async fn after_a_cut(second: fn() -> Answer) -> (Vec<u8>, usize, Vec<Heard>) {
    let registry = Scripted::start(move |heard| match heard.nth {
        0 => cut(),
        1 => second(),
        _ => answer(200, &[TAG], BLOB),
    })
    .await;
    let (bytes, restarts) = pull(&client(), &registry, SIZE, 0).await.unwrap();
    (bytes, restarts, registry.heard())
}

#[tokio::test]
async fn resumes_where_it_was_cut() {
    let (bytes, restarts, heard) = after_a_cut(|| part("bytes 8-19/20", 8, TAG)).await;
    assert_eq!((bytes.as_slice(), restarts), (BLOB, 0));
    assert_eq!(heard[0].header("range"), None);
    assert_eq!(heard[1].header("range"), Some("bytes=8-"));
    assert_eq!(heard[1].header("if-range"), Some("\"one\""));
    assert_eq!(heard.len(), 2);
}

#[tokio::test]
async fn starts_over_rather_than_splice() {
    let cases: [(fn() -> Answer, usize); 6] = [
        (|| answer(200, &[], BLOB), 2),
        (|| part("bytes 4-19/20", 4, TAG), 3),
        (|| part("bytes 8-19/99", 8, TAG), 3),
        (|| part("bytes 8-19/20", 8, ("etag", "\"two\"")), 3),
        (|| part("nonsense", 8, TAG), 3),
        (|| answer(416, &[], ""), 3),
    ];
    for (second, requests) in cases {
        let (bytes, restarts, heard) = after_a_cut(second).await;
        assert_eq!((bytes.as_slice(), restarts), (BLOB, 1));
        assert_eq!(heard.len(), requests);
    }
}

#[tokio::test]
async fn a_busy_registry_is_asked_again_for_the_rest() {
    let registry = Scripted::start(|heard| match heard.nth {
        0 => cut(),
        1 => answer(503, &[("retry-after", "0")], ""),
        2 => answer(429, &[], ""),
        _ => part("bytes 8-19/20", 8, TAG),
    })
    .await;
    let (bytes, restarts) = pull(&client(), &registry, SIZE, 0).await.unwrap();
    assert_eq!((bytes.as_slice(), restarts), (BLOB, 0));
}

#[tokio::test]
async fn begins_where_the_caller_stands() {
    let registry = Scripted::start(|_| part("bytes 15-19/20", 15, TAG)).await;
    let (bytes, restarts) = pull(&client(), &registry, SIZE, 15).await.unwrap();
    assert_eq!((bytes.as_slice(), restarts), (&BLOB[15..], 0));

    let registry = Scripted::start(|_| answer(200, &[], BLOB)).await;
    let (bytes, restarts) = pull(&client(), &registry, SIZE, 15).await.unwrap();
    assert_eq!((bytes.as_slice(), restarts), (BLOB, 1));

    let (bytes, restarts) = pull(&client(), &registry, SIZE, 20).await.unwrap();
    assert_eq!((bytes.len(), restarts), (0, 0));
    assert_eq!(registry.heard().len(), 1, "nothing is left to ask for");
}

#[tokio::test]
async fn an_unknown_size_ends_with_the_body() {
    let registry = Scripted::start(|_| {
        head(200, &[("transfer-encoding", "chunked")]).with("14\r\n").with(BLOB).with("\r\n0\r\n\r\n")
    })
    .await;
    let (bytes, _) = pull(&client(), &registry, None, 0).await.unwrap();
    assert_eq!(bytes, BLOB);
}

#[tokio::test]
async fn stops_at_the_first_byte_too_many() {
    let registry = Scripted::start(|_| {
        head(200, &[("transfer-encoding", "chunked")])
            .with("15\r\n")
            .with(BLOB)
            .with("!\r\n")
            .then(Then::Stall)
    })
    .await;
    let error = pull(&client(), &registry, SIZE, 0).await.unwrap_err();
    assert!(matches!(error, RegistryError::TooLong { size: 20 }));
    assert!(error.is_integrity());
}

#[tokio::test]
async fn a_blob_that_always_ends_early_is_too_short() {
    let registry = Scripted::start(|heard| {
        let status = if heard.nth == 0 { 200 } else { 206 };
        let range = ("content-range", "bytes 4-19/20");
        head(status, &[("transfer-encoding", "chunked"), range])
            .with(if heard.nth == 0 { "4\r\n0123\r\n" } else { "" })
            .with("0\r\n\r\n")
    })
    .await;
    let error = pull(&client(), &registry, SIZE, 0).await.unwrap_err();
    assert!(matches!(error, RegistryError::TooShort { size: 20, got: 4 }));
    assert_eq!(registry.heard().len(), 4, "three tries again");
}

#[tokio::test]
async fn a_declared_length_that_contradicts_the_manifest_is_an_error_at_once() {
    for body in [&BLOB[..19], b""] {
        let registry = Scripted::start(move |_| answer(200, &[], body)).await;
        let error = pull(&client(), &registry, SIZE, 0).await.unwrap_err();
        assert!(matches!(error, RegistryError::WrongLength { want: 20, .. }));
        assert_eq!(registry.heard().len(), 1);
    }
}

#[tokio::test]
async fn refuses_encoded_blobs() {
    let registry = Scripted::start(|_| answer(200, &[("content-encoding", "gzip")], BLOB)).await;
    let error = pull(&client(), &registry, SIZE, 0).await.unwrap_err();
    assert!(matches!(error, RegistryError::Encoded { .. }));
}

#[tokio::test]
async fn gives_up_on_a_registry_that_gets_nowhere() {
    let always = Scripted::start(|_| cut()).await;
    let error = pull(&client(), &always, SIZE, 0).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { .. }));
    assert_eq!(always.heard().len(), 4, "three tries again");
}

#[tokio::test]
async fn silence_and_trickles_count_as_cuts() {
    let impatient = |read_timeout_ms| {
        Client::new(Config { read_timeout_ms, retries_max: 0, rate_floor_window_s: 1, ..config() }).unwrap()
    };
    let endless = || head(200, &[("content-length", "1000000")]).with("x");
    let silent = Scripted::start(move |_| endless().then(Then::Stall)).await;
    let error = pull(&impatient(100), &silent, None, 0).await.unwrap_err();
    assert!(matches!(error, RegistryError::TimedOut { .. }));
    let trickle = Scripted::start(move |_| endless().then(Then::Drip)).await;
    let error = pull(&impatient(5_000), &trickle, None, 0).await;
    assert!(matches!(error, Err(RegistryError::TooSlow { .. })));
}

#[tokio::test]
async fn a_token_that_ends_mid_blob_is_renewed() {
    let registry = Scripted::start(|heard| {
        if heard.target.starts_with("/token") {
            return answer(200, &[], format!(r#"{{"access_token":"t{}"}}"#, heard.nth));
        }
        match heard.header("authorization") {
            Some("Bearer t1") if heard.nth == 2 => cut(),
            Some("Bearer t4") => part("bytes 8-19/20", 8, TAG),
            _ => {
                let realm = format!("http://{}/token", heard.header("host").unwrap());
                let challenge = format!("Bearer realm=\"{realm}\"");
                answer(401, &[("www-authenticate", &challenge)], "")
            }
        }
    })
    .await;
    let (bytes, restarts) = pull(&client(), &registry, SIZE, 0).await.unwrap();
    assert_eq!((bytes.as_slice(), restarts), (BLOB, 0));
}

fn with_host(host: String, settings: HostConfig) -> Client {
    Client::new(Config { hosts: BTreeMap::from([(host, settings)]), ..config() }).unwrap()
}

#[tokio::test]
async fn goes_on_at_the_registry_where_a_mirror_was_cut() {
    let mirror = Scripted::start(|_| cut()).await;
    let origin = Scripted::start(|_| part("bytes 8-19/20", 8, ("etag", "\"other\""))).await;
    let mirrored = HostConfig { mirrors: vec![format!("http://{}", mirror.host())], ..HostConfig::default() };
    let client = with_host(origin.host(), mirrored);
    let (bytes, restarts) = pull(&client, &origin, SIZE, 0).await.unwrap();
    assert_eq!((bytes.as_slice(), restarts), (BLOB, 0));
    assert_eq!(origin.heard()[0].header("if-range"), None);
    assert_eq!(client.traffic().bytes_in.load(Ordering::Relaxed), 20);
    assert_eq!(client.traffic().blob_get.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn transfers_of_one_host_wait_for_each_other() {
    let registry = Scripted::start(|_| answer(200, &[], BLOB)).await;
    let settings = HostConfig { connections_max: Some(1), ..HostConfig::default() };
    let client = with_host(registry.host(), settings);
    let (at, digest) = (registry.reference(":1"), Digest::of(BLOB));
    let first = client.blob(&at, &digest, SIZE, 0).await.unwrap();
    let mut second = Box::pin(client.blob(&at, &digest, SIZE, 0));
    assert!(second.as_mut().now_or_never().is_none());
    assert_eq!(registry.heard().len(), 1);
    drop(first);
    let (bytes, _) = drain(&mut second.await.unwrap()).await.unwrap();
    assert_eq!(bytes, BLOB);
}

#[tokio::test]
async fn a_missing_blob_is_not_found() {
    let registry = Scripted::start(|_| answer(404, &[], "")).await;
    let error = pull(&client(), &registry, SIZE, 0).await.unwrap_err();
    assert!(matches!(error, RegistryError::NotFound { .. }));
}

async fn size(answers: fn(&Heard) -> Answer) -> Result<Option<u64>, RegistryError> {
    let registry = Scripted::start(answers).await;
    client().head_blob(&registry.reference(":1"), &Digest::of(BLOB)).await
}

#[tokio::test]
async fn head_of_a_blob_tells_its_size_and_missing_from_broken() {
    assert_eq!(size(|_| head(200, &[("content-length", "20")])).await.unwrap(), Some(20));
    assert_eq!(size(|_| head(404, &[("content-length", "0")])).await.unwrap(), None);
    assert!(matches!(size(|_| answer(403, &[], "")).await, Err(RegistryError::Denied { .. })));
    assert!(matches!(size(|_| answer(503, &[], "")).await, Err(RegistryError::Status { .. })));
}

#[tokio::test]
async fn a_blob_is_asked_for_where_its_head_says_nothing() {
    let whole = |heard: &Heard| match heard.method.as_str() {
        "HEAD" => head(405, &[("content-length", "0")]),
        _ => answer(200, &[], BLOB),
    };
    assert_eq!(size(whole).await.unwrap(), SIZE);
    let silent = |heard: &Heard| match heard.method.as_str() {
        "HEAD" => head(200, &[("transfer-encoding", "chunked")]),
        _ => head(200, &[("transfer-encoding", "chunked")]).with("0\r\n\r\n"),
    };
    assert!(matches!(size(silent).await, Err(RegistryError::Protocol { .. })));
}

async fn part_of(answers: fn(&Heard) -> Answer) -> (Result<(Vec<u8>, usize), RegistryError>, Vec<Heard>) {
    let registry = Scripted::start(answers).await;
    let at = registry.reference(":1");
    let got = async {
        let mut stream = client().blob_range(&at, &Digest::of(BLOB), 4, 6).await?;
        drain(&mut stream).await
    };
    (got.await, registry.heard())
}

#[tokio::test]
async fn gives_just_the_part_that_is_wanted_and_mends_it() {
    let (got, heard) = part_of(|heard| match heard.nth {
        0 => head(206, &[("content-length", "6"), ("content-range", "bytes 4-9/20")])
            .with(&BLOB[4..6])
            .then(Then::Close),
        // More than was asked for.
        _ => part("bytes 6-19/20", 6, TAG),
    })
    .await;
    assert_eq!(got.unwrap(), (BLOB[4..10].to_vec(), 0));
    assert_eq!(heard[0].header("range"), Some("bytes=4-9"));
    assert_eq!(heard[1].header("range"), Some("bytes=6-9"));
}

#[tokio::test]
async fn takes_nothing_else_for_the_part_that_is_wanted() {
    for answers in [
        (|_: &Heard| answer(200, &[], BLOB)) as fn(&Heard) -> Answer,
        |_| part("bytes 5-19/20", 5, TAG),
        |_| answer(416, &[("content-range", "bytes */3")], ""),
    ] {
        let (got, heard) = part_of(answers).await;
        assert!(got.is_err());
        assert_eq!(heard.len(), 1);
    }
}

#[tokio::test]
async fn nothing_more_to_give_is_the_end_of_a_blob_of_unknown_size() {
    let registry = Scripted::start(|_| answer(416, &[("content-range", "bytes */20")], "")).await;
    let (bytes, restarts) = pull(&client(), &registry, None, 20).await.unwrap();
    assert_eq!((bytes.len(), restarts), (0, 0));
}
