//! Blobs that are read while they are written.

use bytes::Bytes;
use futures::future::join_all;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use larder_oci::Digest;

use super::{collect, granted, noise};
use crate::{BlobError, Blobs, Filling, Ingest};

const LENGTH: usize = (3 << 20) + 17;
const READERS: usize = 200;

type Stream = BoxStream<'static, Result<Bytes, BlobError>>;

pub(super) async fn all(blobs: &Blobs, seed: &str) {
    only_a_shared_ingest_is_found(blobs, seed).await;
    early_and_late_readers_get_the_whole(blobs, seed).await;
    slow_reader_holds_nobody_up(blobs, seed).await;
    parts_are_given_as_they_come(blobs, seed).await;
    size_that_nobody_announced_is_learned(blobs, seed).await;
    many_readers_share_one_ingest(blobs, seed).await;
    failure_reaches_readers_before_the_last_bytes(blobs, seed).await;
    restart_ends_only_those_who_have_bytes(blobs, seed).await;
    dropped_ingest_ends_its_readers(blobs, seed).await;
    empty_blob_ends_only_when_it_is_proven(blobs).await;
}

struct Case {
    digest: Digest,
    bytes: Bytes,
    ingest: Ingest,
    filling: Filling,
}

async fn shared(blobs: &Blobs, what: &str, length: usize) -> Case {
    let bytes = noise(what, length);
    let digest = Digest::of(&bytes);
    let mut ingest = granted(blobs, &digest, Some(length as u64)).await;
    ingest.share().await.expect("share");
    let filling = blobs.filling(&digest).expect("found at once");
    Case { digest, bytes, ingest, filling }
}

/// What a stream yields, and how it ends.
async fn read_out(mut stream: Stream) -> (Vec<u8>, Option<BlobError>) {
    let mut all = Vec::new();
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => all.extend_from_slice(&chunk),
            Err(error) => return (all, Some(error)),
        }
    }
    (all, None)
}

async fn first(stream: &mut Stream) -> Bytes {
    stream.try_next().await.expect("reads").expect("has begun")
}

async fn only_a_shared_ingest_is_found(blobs: &Blobs, seed: &str) {
    let bytes = noise(&format!("{seed} found"), 9);
    let digest = Digest::of(&bytes);
    let mut ingest = granted(blobs, &digest, Some(9)).await;
    assert!(blobs.filling(&digest).is_none());
    ingest.share().await.expect("share");
    assert_eq!(blobs.filling(&digest).and_then(|filling| filling.size()), Some(9));
    ingest.write(bytes).await.expect("write");
    ingest.commit().await.expect("commit");
    assert!(blobs.filling(&digest).is_none(), "it is in the store now");
}

async fn early_and_late_readers_get_the_whole(blobs: &Blobs, seed: &str) {
    let Case { digest, bytes, mut ingest, filling } = shared(blobs, &format!("{seed} grown"), LENGTH).await;
    let early = tokio::spawn(read_out(filling.read(0, None)));
    ingest.write(bytes.slice(..1 << 20)).await.expect("write");
    let mut late = filling.read(0, None);
    first(&mut late).await;
    ingest.write(bytes.slice(1 << 20..)).await.expect("write");
    let behind = filling.read(2 << 20, None);
    ingest.commit().await.expect("commit");
    let after = filling.read(0, None);
    let (all, error) = early.await.expect("joins");
    assert!(all == bytes && error.is_none(), "{error:?}");
    assert!(read_out(after).await.0 == bytes);
    assert!(read_out(behind).await.0 == bytes[2 << 20..]);
    assert!(read_out(late).await.1.is_none());
    assert_eq!((filling.size(), filling.written()), (Some(LENGTH as u64), LENGTH as u64));
    assert!(collect(blobs, &digest).await.expect("read") == bytes);
    let beyond = read_out(filling.read(LENGTH as u64 + 1, None)).await;
    assert!(matches!(beyond.1, Some(BlobError::OutOfRange { .. })), "{beyond:?}");
    assert_eq!(read_out(filling.read(LENGTH as u64, None)).await.0.len(), 0);
}

async fn slow_reader_holds_nobody_up(blobs: &Blobs, seed: &str) {
    let Case { digest, bytes, mut ingest, filling } = shared(blobs, &format!("{seed} slow"), LENGTH).await;
    let mut slow = filling.read(0, None);
    ingest.write(bytes.slice(..100)).await.expect("write");
    let begun = first(&mut slow).await;
    ingest.write(bytes.slice(100..)).await.expect("write");
    ingest.commit().await.expect("commit");
    blobs.delete(&digest).await.expect("delete");
    drop(filling);
    let (rest, error) = read_out(slow).await;
    assert!(error.is_none(), "{error:?}");
    assert!([&begun[..], &rest].concat() == bytes, "what it holds open outlives even the blob");
}

async fn parts_are_given_as_they_come(blobs: &Blobs, seed: &str) {
    let Case { bytes, mut ingest, filling, .. } = shared(blobs, &format!("{seed} parts"), LENGTH).await;
    ingest.write(bytes.slice(..2000)).await.expect("write");
    let (part, error) = read_out(filling.read(500, Some(1000))).await;
    assert!(part == bytes[500..1500] && error.is_none(), "{error:?}");
    ingest.write(bytes.slice(2000..)).await.expect("write");
    let end = LENGTH as u64;
    assert_eq!(read_out(filling.read(end - 11, Some(10))).await.0.len(), 10);
    let last = tokio::spawn(read_out(filling.read(end - 10, Some(100))));
    ingest.commit().await.expect("commit");
    assert!(last.await.expect("joins").0 == bytes[LENGTH - 10..]);
}

async fn size_that_nobody_announced_is_learned(blobs: &Blobs, seed: &str) {
    let bytes = noise(&format!("{seed} of no size"), LENGTH);
    let digest = Digest::of(&bytes);
    let mut ingest = granted(blobs, &digest, None).await;
    ingest.share().await.expect("share");
    let filling = blobs.filling(&digest).expect("shared");
    let reader = tokio::spawn(read_out(filling.read(0, None)));
    ingest.write(bytes.slice(..1000)).await.expect("write");
    let begun = first(&mut filling.read(0, None)).await;
    assert!(begun.len() < 1000, "any byte may be the last");
    assert_eq!(filling.size(), None);
    ingest.write(bytes.slice(1000..)).await.expect("write");
    ingest.commit().await.expect("commit");
    assert!(reader.await.expect("joins").0 == bytes);
    assert_eq!(filling.size(), Some(LENGTH as u64));
}

async fn many_readers_share_one_ingest(blobs: &Blobs, seed: &str) {
    let Case { digest, bytes, mut ingest, filling } = shared(blobs, &format!("{seed} many"), LENGTH).await;
    let readers = (0..READERS).map(|_| {
        let stream = filling.read(0, None);
        let hashed = stream.try_fold(larder_oci::Digester::new(digest.algorithm()), |mut digester, chunk| {
            digester.update(&chunk);
            async { Ok(digester) }
        });
        tokio::spawn(hashed)
    });
    let readers: Vec<_> = readers.collect();
    for start in (0..LENGTH).step_by(50_000) {
        ingest.write(bytes.slice(start..LENGTH.min(start + 50_000))).await.expect("write");
    }
    ingest.commit().await.expect("commit");
    for reader in join_all(readers).await {
        assert_eq!(reader.expect("joins").expect("reads").finish(), digest);
    }
}

async fn failure_reaches_readers_before_the_last_bytes(blobs: &Blobs, seed: &str) {
    for announced in [true, false] {
        let bytes = noise(&format!("{seed} wrong {announced}"), LENGTH);
        let digest = Digest::of(b"something else");
        let mut ingest = granted(blobs, &digest, announced.then_some(LENGTH as u64)).await;
        ingest.share().await.expect("share");
        let filling = blobs.filling(&digest).expect("shared");
        let readers: Vec<_> = (0..3).map(|_| tokio::spawn(read_out(filling.read(0, None)))).collect();
        ingest.write(bytes).await.expect("write");
        let refused = ingest.commit().await;
        assert!(matches!(refused, Err(BlobError::Corrupt { .. })), "{refused:?}");
        for reader in join_all(readers).await {
            let (given, error) = reader.expect("joins");
            assert!(given.len() < LENGTH);
            assert!(matches!(error, Some(BlobError::Unfinished(_))), "{error:?}");
        }
        assert!(blobs.filling(&digest).is_none());
        let late = read_out(filling.read(LENGTH as u64 - 1, None)).await;
        assert!(late.0.is_empty() && late.1.is_some());
    }
}

async fn restart_ends_only_those_who_have_bytes(blobs: &Blobs, seed: &str) {
    let Case { bytes, mut ingest, filling, .. } = shared(blobs, &format!("{seed} again"), LENGTH).await;
    let mut begun = filling.read(0, None);
    let not_begun = filling.read(LENGTH as u64 / 2, None);
    ingest.write(Bytes::from(vec![0; 1000])).await.expect("write");
    first(&mut begun).await;
    ingest.restart().await.expect("restart");
    ingest.write(bytes.clone()).await.expect("write");
    ingest.commit().await.expect("commit");
    let (_, error) = read_out(begun).await;
    assert!(matches!(error, Some(BlobError::Unfinished(_))), "{error:?}");
    let (half, error) = read_out(not_begun).await;
    assert!(half == bytes[LENGTH / 2..] && error.is_none(), "{error:?}");
}

async fn dropped_ingest_ends_its_readers(blobs: &Blobs, seed: &str) {
    let Case { digest, bytes, mut ingest, filling } = shared(blobs, &format!("{seed} dropped"), LENGTH).await;
    let mut begun = filling.read(0, None);
    ingest.write(bytes.slice(..1000)).await.expect("write");
    first(&mut begun).await;
    drop(ingest);
    for stream in [begun, filling.read(2000, None)] {
        let (_, error) = read_out(stream).await;
        assert!(matches!(error, Some(BlobError::Unfinished(_))), "{error:?}");
    }
    assert!(blobs.filling(&digest).is_none());
    let mut again = granted(blobs, &digest, Some(LENGTH as u64)).await;
    again.share().await.expect("share");
    let filling = blobs.filling(&digest).expect("shared again");
    let reader = tokio::spawn(read_out(filling.read(0, None)));
    let offset = usize::try_from(again.offset()).expect("small");
    again.write(bytes.slice(offset..)).await.expect("write");
    again.commit().await.expect("commit");
    assert!(reader.await.expect("joins").0 == bytes);
}

async fn empty_blob_ends_only_when_it_is_proven(blobs: &Blobs) {
    let digest = Digest::of(b"not nothing");
    let mut wrong = granted(blobs, &digest, Some(0)).await;
    wrong.share().await.expect("share");
    let reader = tokio::spawn(read_out(blobs.filling(&digest).expect("shared").read(0, None)));
    wrong.commit().await.expect_err("it is nothing");
    assert!(reader.await.expect("joins").1.is_some());
}
