//! Blobs that are read while they come in.

use std::io::ErrorKind;
use std::sync::Arc;
use std::thread;

use larder_tests::client::{self, Arriving};
use larder_tests::image::Blob;
use larder_tests::process::wait_for;
use larder_tests::{Behaviour, Gate, Image};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Barrier;

use super::{LIMIT, OPEN, REPOSITORY, World, assert_whole, blob_at, get, open};

const MIB: usize = 1 << 20;
/// Of what upstream has sent, no more than this is on its way.
const HELD_BACK_BYTES: usize = 512 << 10;

/// An image with one large layer, which upstream holds back after so many bytes.
fn held(world: &World, bytes: usize, after_bytes: usize) -> (Image, Gate) {
    let (image, gate) = (Image::of_noise(1, bytes), Gate::new());
    world.put("1", &image);
    let hold = Behaviour::Hold { after_bytes: after_bytes as u64, gate: gate.clone() };
    world.registry.always(&blob_at(&image, 1), [hold]);
    (image, gate)
}

/// Expects the rest, and all of it right.
#[track_caller]
pub(super) fn assert_completes(arriving: Arriving, blob: &Blob) {
    assert_whole(&arriving.finish().unwrap(), blob);
}

/// The `Range` headers with which upstream was asked for a layer.
fn ranges(world: &World, path: &str) -> Vec<Option<String>> {
    let requests = world.registry.requests();
    let gets = requests.iter().filter(|one| one.request.path == path && one.request.method == "GET");
    gets.map(|one| one.request.header("range").map(str::to_owned)).collect()
}

fn await_stored(world: &World, digest: &str) {
    wait_for("the blob in the store", LIMIT, || world.is_stored(digest).then_some(()), String::new);
}

#[test]
fn first_half_reaches_the_client_while_upstream_withholds_the_second() {
    let world = World::start();
    let (image, gate) = held(&world, 4 * MIB, 2 * MIB);
    let mut client = world.open(&blob_at(&image, 1));
    let size = image.blob(1).bytes.len();
    assert_eq!(client.so_far().status, 200);
    assert_eq!(client.so_far().header("content-length"), Some(size.to_string().as_str()));
    assert_eq!(client.so_far().header("docker-content-digest"), Some(image.blob(1).digest.as_str()));
    client.read(2 * MIB - HELD_BACK_BYTES).unwrap();
    assert!(client.so_far().body == image.blob(1).bytes[..2 * MIB - HELD_BACK_BYTES]);
    assert!(!world.is_stored(&image.blob(1).digest));
    gate.open();
    assert_completes(client, image.blob(1));
    assert!(world.is_stored(&image.blob(1).digest), "the last byte came before the blob was there");
}

#[test]
fn whoever_joins_late_gets_all_from_the_same_request() {
    let world = World::start();
    let (image, gate) = held(&world, 4 * MIB, 2 * MIB);
    let path = blob_at(&image, 1);
    let join = |_| {
        let mut client = world.open(&path);
        client.read(MIB).unwrap();
        client
    };
    let clients: Vec<Arriving> = (0..12).map(join).collect();
    let mut part = open(&world.host(), &path, &[("Range", "bytes=1000-1500000")]);
    part.read(1000).unwrap();
    gate.open();
    for client in clients {
        assert_completes(client, image.blob(1));
    }
    let part = part.finish().unwrap();
    assert!(part.status == 206 && part.body == image.blob(1).bytes[1000..=1_500_000]);
    assert_eq!(world.registry.count("GET", &path), 1);
}

#[test]
fn f02_blob_whose_last_byte_is_wrong_is_complete_for_nobody_and_stored_nowhere() {
    for bytes in [1000, 300_000, 12 * MIB] {
        let world = World::start();
        let image = Image::of_noise(1, bytes);
        let (blob, path) = (image.blob(1), blob_at(&image, 1));
        world.put("1", &image);
        let gate = Gate::new();
        let last = blob.bytes.len() - 1;
        let hold = Behaviour::Hold { after_bytes: 500, gate: gate.clone() };
        world.registry.always(&path, [Behaviour::FlipByte { at: last }, hold]);
        let host = world.host();
        thread::scope(|scope| {
            let clients: Vec<_> = (0..5).map(|_| scope.spawn(|| client::get(&host, &path))).collect();
            gate.await_reached(1, LIMIT);
            gate.open();
            for client in clients {
                match client.join().unwrap() {
                    // The headers were out.
                    Err(error) => assert!(is_cut(&error), "{error}"),
                    Ok(answer) => assert_eq!(answer.status, 502, "{} bytes", answer.body.len()),
                }
            }
        });
        assert!(!world.is_stored(&blob.digest));
        world.registry.clear_scripts();
        assert_recovers(&world.host(), &path, blob);
        world.larder.assert_store_is_sound();
    }
}

fn is_cut(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset)
}

#[test]
fn f03_upstream_that_is_cut_is_resumed_unnoticed() {
    let world = World::start();
    let image = Image::of_noise(1, 3 * MIB);
    let path = blob_at(&image, 1);
    world.put("1", &image);
    for _ in 0..2 {
        world.registry.script(&path, [Behaviour::Cut { after_bytes: MIB as u64 }]);
    }
    assert_whole(&world.get(&path), image.blob(1));
    let from = |bytes: usize| Some(format!("bytes={bytes}-"));
    assert_eq!(ranges(&world, &path), [None, from(MIB), from(2 * MIB)]);
    assert_eq!(world.registry.bytes_sent(&path), image.blob(1).bytes.len() as u64);
}

#[test]
fn f08_upstream_that_starts_over_with_other_bytes_splices_nothing() {
    let world = World::start();
    let image = Image::of_noise(1, 3 * MIB);
    let path = blob_at(&image, 1);
    world.put("1", &image);
    world.registry.script(&path, [Behaviour::Cut { after_bytes: 2 * MIB as u64 }]);
    world.registry.script(&path, [Behaviour::IgnoreRange, Behaviour::FlipByte { at: 100 }]);
    if let Ok(answer) = client::get(&world.host(), &path) {
        assert_ne!(answer.status, 200, "a body of two halves was complete");
    }
    world.registry.clear_scripts();
    assert_recovers(&world.host(), &path, image.blob(1));
    world.larder.assert_store_is_sound();
}

#[test]
fn f04_f05_blob_of_another_length_is_complete_for_nobody_and_stored_nowhere() {
    let empty = || Behaviour::Body(bytes::Bytes::new());
    for behaviours in [
        vec![Behaviour::Short],
        vec![Behaviour::Long { extra_bytes: 1 }],
        vec![Behaviour::Long { extra_bytes: MIB }, Behaviour::Chunked],
        vec![Behaviour::Short, Behaviour::Chunked],
        vec![empty()],
        vec![empty(), Behaviour::Chunked],
    ] {
        let world = World::start();
        let image = Image::of_noise(1, 2 * MIB);
        let (blob, path) = (image.blob(1), blob_at(&image, 1));
        world.put("1", &image);
        world.registry.always(&path, behaviours.clone());
        if let Ok(answer) = client::get(&world.host(), &path) {
            assert_eq!(answer.status, 502, "{behaviours:?}: {} bytes", answer.body.len());
        }
        assert!(!world.is_stored(&blob.digest), "{behaviours:?}");
        world.registry.clear_scripts();
        assert_recovers(&world.host(), &path, blob);
        world.larder.assert_store_is_sound();
    }
}

/// Expects the blob as soon as the bad fill has ended; who joins that one is cut as well.
#[track_caller]
pub(super) fn assert_recovers(host: &str, path: &str, blob: &Blob) {
    let whole = || client::get(host, path).ok().filter(|answer| answer.status == 200);
    assert_whole(&wait_for("the blob", LIMIT, whole, String::new), blob);
}

#[test]
fn blob_whose_length_upstream_does_not_tell_is_served_with_its_length() {
    let world = World::start();
    let image = Image::of_noise(1, 2 * MIB);
    let path = blob_at(&image, 1);
    world.put("1", &image);
    world.registry.always(&path, [Behaviour::Chunked]);
    let answer = world.get(&path);
    assert_whole(&answer, image.blob(1));
    let size = image.blob(1).bytes.len().to_string();
    assert_eq!(answer.header("content-length"), Some(size.as_str()));
}

#[test]
fn f31_client_that_leaves_does_not_end_the_fill() {
    let world = World::start();
    let (image, gate) = held(&world, 4 * MIB, 2 * MIB);
    let path = blob_at(&image, 1);
    let mut client = world.open(&path);
    client.read(MIB).unwrap();
    drop(client);
    drop(world.open(&path));
    gate.open();
    await_stored(&world, &image.blob(1).digest);
    assert_whole(&world.get(&path), image.blob(1));
    assert_eq!(world.registry.count("GET", &path), 1);
}

#[test]
fn f33_client_that_does_not_read_does_not_slow_others() {
    let world = World::start();
    let (image, gate) = held(&world, 48 * MIB, 1000);
    let path = blob_at(&image, 1);
    // More than the sockets' buffers take in lies before it.
    let idle = world.open(&path);
    gate.open();
    assert_completes(world.open(&path), image.blob(1));
    await_stored(&world, &image.blob(1).digest);
    assert_completes(idle, image.blob(1));
    assert_eq!(world.registry.count("GET", &path), 1);
}

#[test]
fn cold_range_is_answered_before_the_whole_has_come() {
    for (range, first) in [
        ("bytes=1000000-1099999", 1_000_000),
        ("bytes=-100000", usize::MAX),
        ("bytes=50000000-50099999", 50_000_000),
    ] {
        let world = World::start();
        let image = Image::of_noise(1, 64 * MIB);
        let (blob, path) = (image.blob(1), blob_at(&image, 1));
        world.put("1", &image);
        world.registry.always(&path, [Behaviour::Drip { bytes_per_s: MIB as u64 }]);
        let part = get(&world.host(), &path, &[("Range", range)]);
        let first = first.min(blob.bytes.len() - 100_000);
        assert_eq!(part.status, 206, "{}", part.text());
        assert!(part.body == blob.bytes[first..first + 100_000], "{range}");
        assert!(world.registry.bytes_sent(&path) < 16 * MIB as u64, "{range}");
        assert!(world.registry.count("GET", &path) <= 2, "{:?}", ranges(&world, &path));
    }
}

#[test]
fn f32_thousand_clients_of_a_cold_blob_cost_one_request() {
    const CLIENTS: usize = 1000;
    let http = "[http]\nconnections_per_peer_max = 2000\n";
    let world = World::with("", &format!("{OPEN}{http}"));
    let (image, gate) = held(&world, MIB, MIB / 2);
    let (path, blob) = (blob_at(&image, 1), image.blob(1).clone());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let all_wait = Arc::new(Barrier::new(CLIENTS + 1));
    let herd: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (host, path, blob, all_wait) =
                (world.host(), path.clone(), blob.clone(), Arc::clone(&all_wait));
            runtime.spawn(async move {
                let mut stream = TcpStream::connect(&host).await.unwrap();
                let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
                stream.write_all(request.as_bytes()).await.unwrap();
                let mut received = vec![0; 15];
                stream.read_exact(&mut received).await.unwrap();
                all_wait.wait().await;
                stream.read_to_end(&mut received).await.unwrap();
                assert!(received.starts_with(b"HTTP/1.1 200 OK"));
                assert!(received.ends_with(&blob.bytes));
            })
        })
        .collect();
    runtime.block_on(async {
        tokio::time::timeout(LIMIT, all_wait.wait()).await.expect("every client has its headers");
        gate.open();
        for client in herd {
            client.await.unwrap();
        }
    });
    assert_eq!(world.registry.count("GET", &path), 1);
    assert!(world.registry.requests().iter().all(|one| one.request.path.contains(REPOSITORY)));
}
