//! Requests and answers over HTTP/1.1, by raw bytes.

use super::*;

const GET: &str = "GET /hello HTTP/1.1\r\nHost: h\r\n\r\n";

#[tokio::test]
async fn answers_one_request_after_the_other_on_one_connection() {
    let door = Door::open(patient()).await;
    let mut stream = door.connect().await;
    for _ in 0..3 {
        stream.write_all(GET.as_bytes()).await.unwrap();
        let answer = until(&mut stream, "hello\n").await;
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("content-length: 6\r\n"),
            "{answer}"
        );
    }
    stream.write_all(format!("{GET}{GET}").as_bytes()).await.unwrap();
    until(&mut stream, "hello\n").await;
    until(&mut stream, "hello\n").await;
}

#[tokio::test]
async fn takes_bodies_with_a_length_and_in_chunks() {
    let door = Door::open(patient()).await;
    let mut stream = door.connect().await;
    for request in [
        "PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nabcde",
        "PUT /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n",
        "PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nabcde",
    ] {
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = until(&mut stream, "abcde").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn refuses_requests_that_two_readers_would_understand_differently() {
    let door = Door::open(patient()).await;
    for head in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 99999999999999999999",
        "Content-Length : 5",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Content-Length: 5\r\n Transfer-Encoding: chunked",
        "Content-Length: 5\0",
    ] {
        let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
        let request = format!("PUT /echo HTTP/1.1\r\nHost: h\r\n{head}\r\n\r\n{smuggled}");
        let answer = door.send(request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{head}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{head}: {answer}");
    }
    assert_eq!(door.inside.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn refuses_heads_that_are_too_large_or_none() {
    let door = Door::open(patient()).await;
    let long = "a".repeat(17 * 1_024);
    let fine = "a".repeat(15 * 1_024);
    for (request, status) in [
        (format!("GET / HTTP/1.1\r\nHost: h\r\nX: {fine}\r\nConnection: close\r\n\r\n"), "200"),
        (format!("GET / HTTP/1.1\r\nHost: h\r\nX: {long}\r\n\r\n"), "431"),
        (format!("GET /{long} HTTP/1.1\r\nHost: h\r\n\r\n"), "4"),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(200)), "431"),
        ("GET / HTTP/9.9\r\n\r\n".to_owned(), "400"),
        ("\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n".to_owned(), "400"),
    ] {
        let answer = door.send(&request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request:.40}: {answer}");
    }
}

#[tokio::test]
async fn an_answer_without_a_body_tells_its_length() {
    let door = Door::open(patient()).await;
    let answer = door.send("HEAD /exact HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    assert!(answer.contains("content-length: 10\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn content_that_does_not_hold_never_ends_well() {
    let door = Door::open(patient()).await;
    for path in ["/short", "/long", "/broken"] {
        let answer = door.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")).await;
        // The length is said before: whoever reads sees that bytes are missing.
        let missing = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n";
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        assert!(
            (answer.is_empty() || answer.starts_with(missing)) && "hello".starts_with(body),
            "{path}: {answer}"
        );
    }
    let answer = door.send("GET /exact HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    assert!(answer.ends_with("\r\n\r\nhelloworld"), "{answer}");
}

#[tokio::test]
async fn a_refusal_reaches_who_is_still_sending() {
    let door = Door::open(patient()).await;
    let (mut reader, mut writer) = door.connect().await.into_split();
    let head = format!("PUT /refuse HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", 64 << 20);
    let sender = tokio::spawn(async move {
        writer.write_all(head.as_bytes()).await.unwrap();
        // The connection breaks before all of it is sent.
        while writer.write_all(&[0; 8_192]).await.is_ok() {}
    });
    let answer = rest(&mut reader).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    drop(reader);
    soon(sender).await.unwrap();
}

#[tokio::test]
async fn says_that_it_waits_for_a_body_when_asked() {
    let door = Door::open(patient()).await;
    let mut stream = door.connect().await;
    let head = "PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(until(&mut stream, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"abcde").await.unwrap();
    until(&mut stream, "abcde").await;
}
