//! What peers may not do for long, or too often.

use std::time::Instant;

use super::*;

/// Sends `bytes` one by one until the connection ends, and returns what came back and how long that took.
async fn drip(door: &Door, begin: &str, byte: &[u8]) -> (String, Duration) {
    let (mut reader, mut writer) = door.connect().await.into_split();
    writer.write_all(begin.as_bytes()).await.unwrap();
    let begun = Instant::now();
    let byte = byte.to_vec();
    let sender = tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_millis(50));
        while writer.write_all(&byte).await.is_ok() {
            every.tick().await;
        }
    });
    let answer = rest(&mut reader).await;
    let took = begun.elapsed();
    sender.abort();
    (answer, took)
}

#[tokio::test]
async fn a_head_that_does_not_come_to_its_end_is_not_waited_for() {
    let door = Door::open(impatient()).await;
    for begin in ["", "P", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP"] {
        let (answer, took) = drip(&door, begin, b"X").await;
        assert!(took < Duration::from_secs(10), "{begin:?} took {took:?}: {answer}");
    }
}

#[tokio::test]
async fn a_connection_without_a_request_ends() {
    let door = Door::open(impatient()).await;
    let begun = Instant::now();
    assert_eq!(rest(&mut door.connect().await).await, "");
    let answer = door.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert!(answer.ends_with("hello\n"), "{answer}");
    let mut http2 = door.connect().await;
    http2.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    rest(&mut http2).await;
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_request_that_is_being_answered_may_take_its_time() {
    let door = Door::open(impatient()).await;
    let mut stream = door.connect().await;
    stream.write_all(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    let begun = Instant::now();
    // Longer than a head, a body or a rest may take.
    let early = timeout(Duration::from_secs(3), stream.read_u8()).await;
    assert!(early.is_err(), "{early:?} after {:?}", begun.elapsed());
    door.inside.go_on.notify_one();
    until(&mut stream, "waited\n").await;
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_given_up() {
    let door = Door::open(impatient()).await;
    let (answer, took) =
        drip(&door, "PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 99999\r\n\r\n", b"X").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn a_body_that_comes_fast_enough_is_taken_however_long_it_takes() {
    let door = Door::open(impatient()).await;
    let mut stream = door.connect().await;
    let (pieces, size) = (30, 8 * 1_024);
    let head = format!("PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", pieces * size);
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut every = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..pieces {
        every.tick().await;
        stream.write_all(&vec![b'x'; size]).await.unwrap();
    }
    assert!(until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn an_answer_that_nobody_takes_ends_the_connection() {
    let door = Door::open(impatient()).await;
    let mut stream = door.connect().await;
    stream.write_all(b"GET /endless HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    soon(door.inside.begun.notified()).await;
    let begun = Instant::now();
    door.is_quiet().await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_answer_that_is_taken_slowly_enough_goes_on() {
    let door = Door::open(impatient()).await;
    let mut stream = door.connect().await;
    stream.write_all(b"GET /endless HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    let begun = Instant::now();
    let mut every = tokio::time::interval(Duration::from_millis(50));
    let mut taken = vec![0; 64 * 1_024];
    while begun.elapsed() < Duration::from_secs(4) {
        every.tick().await;
        soon(stream.read_exact(&mut taken)).await.unwrap();
    }
}

#[tokio::test]
async fn a_peer_gets_no_more_connections_than_its_share() {
    let door = Door::open(Config { connections_per_peer_max: 3, ..patient() }).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = door.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        until(&mut stream, "hello\n").await;
        held.push(stream);
    }
    for _ in 0..20 {
        assert_eq!(rest(&mut door.connect().await).await, "");
    }
    held.pop();
    // Once the door has seen that it is gone.
    soon(async {
        while !door.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.contains("hello") {}
    })
    .await;
}

#[tokio::test]
async fn connections_beyond_the_most_wait_for_their_turn() {
    let door = Door::open(Config { connections_max: 2, ..impatient() }).await;
    let idle = [door.connect().await, door.connect().await];
    // Served when those who say nothing are gone.
    let answer = door.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    assert!(answer.contains("hello"), "{answer}");
    drop(idle);
}

#[tokio::test]
async fn refuses_settings_that_make_no_sense() {
    let bus = larder_bus::open("mem:", &larder_bus::Config::default()).await.unwrap();
    let runtime = Runtime::new(bus);
    for (config, setting) in [
        (Config { connections_max: 0, ..patient() }, "connections_max"),
        (Config { header_bytes_max: 100, ..patient() }, "header_bytes_max"),
        (Config { rate_floor_window_s: 0, ..patient() }, "rate_floor_window_s"),
        (Config { tls: TlsConfig { key: Some("k".into()), certificate: None }, ..patient() }, "tls"),
    ] {
        let answer = |_, _| std::future::ready(Response::new(Body::empty()));
        let message = serve(&runtime, &config, answer).await.unwrap_err().to_string();
        assert!(message.starts_with(setting), "{message}");
    }
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let listen = taken.local_addr().unwrap();
    let answer = |_, _| std::future::ready(Response::new(Body::empty()));
    let message = serve(&runtime, &Config { listen, ..patient() }, answer).await.unwrap_err().to_string();
    assert_eq!(message, format!("cannot listen on {listen}"));
}
