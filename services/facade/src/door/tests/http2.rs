//! Requests and answers over HTTP/2.

use h2::client::SendRequest;
use http::Version;

use super::*;

async fn connect(door: &Door) -> SendRequest<Bytes> {
    let (client, connection) = h2::client::handshake(door.connect().await).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client
}

fn get(door: &Door, path: &str) -> Request<()> {
    let uri = format!("http://{}{path}", door.address);
    Request::builder().version(Version::HTTP_2).uri(uri).body(()).unwrap()
}

async fn text(mut body: h2::RecvStream) -> Result<String, h2::Error> {
    let mut text = Vec::new();
    while let Some(chunk) = soon(body.data()).await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        text.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn answers_many_requests_at_once() {
    let door = Door::open(patient()).await;
    let mut client = connect(&door).await;
    let mut answers = Vec::new();
    for path in ["/hello", "/exact", "/hello"] {
        client = client.ready().await.unwrap();
        answers.push(client.send_request(get(&door, path), true).unwrap().0);
    }
    let mut texts = Vec::new();
    for answer in answers {
        texts.push(text(soon(answer).await.unwrap().into_body()).await.unwrap());
    }
    assert_eq!(texts, ["hello\n", "helloworld", "hello\n"]);
}

#[tokio::test]
async fn content_that_does_not_hold_ends_in_a_reset() {
    let door = Door::open(patient()).await;
    let client = connect(&door).await;
    for path in ["/short", "/long", "/broken"] {
        let mut client = client.clone().ready().await.unwrap();
        let (answer, _) = client.send_request(get(&door, path), true).unwrap();
        let whole = async { text(soon(answer).await?.into_body()).await };
        assert!(whole.await.unwrap_err().is_reset(), "{path}");
    }
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_dropped_and_others_go_on() {
    let door = Door::open(Config { idle_timeout_s: 60, ..impatient() }).await;
    let client = connect(&door).await;
    let mut ready = client.clone().ready().await.unwrap();
    let (answer, _) = ready.send_request(get(&door, "/endless"), true).unwrap();
    let mut body = soon(answer).await.unwrap().into_body();
    // What was sent before the window closed is read, and no more of it is asked for.
    let ended = loop {
        match soon(body.data()).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("it ended well"),
        }
    };
    assert!(ended.is_reset(), "{ended}");
    door.is_quiet().await;
    let mut ready = client.clone().ready().await.unwrap();
    let (answer, _) = ready.send_request(get(&door, "/hello"), true).unwrap();
    assert_eq!(soon(answer).await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_answer_that_is_taken_slowly_enough_goes_on() {
    let door = Door::open(impatient()).await;
    let mut client = connect(&door).await.ready().await.unwrap();
    let (answer, _) = client.send_request(get(&door, "/endless"), true).unwrap();
    let mut body = soon(answer).await.unwrap().into_body();
    let begun = std::time::Instant::now();
    let mut every = tokio::time::interval(Duration::from_millis(100));
    // Ten times the floor, for three times the window.
    while begun.elapsed() < Duration::from_secs(3) {
        every.tick().await;
        let chunk = soon(body.data()).await.unwrap().unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
    }
}

#[tokio::test]
async fn a_client_that_resets_what_it_asks_is_bounded() {
    let door = Door::open(patient()).await;
    let client = connect(&door).await;
    let mut sent = 0;
    for _ in 0..20_000 {
        let Ok(mut ready) = client.clone().ready().await else { break };
        let Ok((answer, mut stream)) = ready.send_request(get(&door, "/wait"), true) else { break };
        stream.send_reset(h2::Reason::CANCEL);
        drop(answer);
        sent += 1;
    }
    assert!(sent > 20);
    door.is_quiet().await;
    let at_once = door.inside.in_flight_max.load(Ordering::SeqCst);
    assert!(at_once <= 128, "{at_once} at once");
    // Whatever became of that connection, others are served.
    let mut other = connect(&door).await.ready().await.unwrap();
    let (answer, _) = other.send_request(get(&door, "/hello"), true).unwrap();
    assert_eq!(soon(answer).await.unwrap().status(), 200);
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

async fn raw(door: &Door) -> TcpStream {
    let mut stream = door.connect().await;
    let mut preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    preface.extend(frame(4, 0, 0, &[]));
    stream.write_all(&preface).await.unwrap();
    stream
}

/// Whether the door ends the connection while `frames` are being sent over it.
async fn ends(stream: TcpStream, frames: impl Iterator<Item = Vec<u8>>) -> bool {
    let (mut reader, mut writer) = stream.into_split();
    let ended = tokio::spawn(async move {
        let mut ignored = [0; 8_192];
        while !matches!(reader.read(&mut ignored).await, Ok(0) | Err(_)) {}
    });
    for frame in frames {
        if writer.write_all(&frame).await.is_err() {
            break;
        }
    }
    timeout(SOON, ended).await.is_ok()
}

#[tokio::test]
async fn endless_heads_and_empty_frames_end_the_connection() {
    let door = Door::open(patient()).await;
    // ":method: GET", ":scheme: http", ":path: /" of the static table; then a header of 200 bytes in each CONTINUATION.
    let open = frame(1, 0, 1, &[0x82, 0x86, 0x84]);
    let mut header = vec![0x00, 0x01, b'x', 0x7f, 200 - 127];
    header.extend([b'y'; 200]);
    let head = std::iter::once(open).chain(std::iter::repeat_n(frame(9, 0, 1, &header), 20_000));
    assert!(ends(raw(&door).await, head).await);
    // Many empty CONTINUATIONs.
    let open = frame(1, 0, 1, &[0x82, 0x86, 0x84]);
    let head = std::iter::once(open).chain(std::iter::repeat_n(frame(9, 0, 1, &[]), 20_000));
    assert!(ends(raw(&door).await, head).await);
    // Resets of streams as fast as they can be opened, in raw bytes.
    let pairs = (0..20_000u32).map(|number| {
        let stream = 2 * number + 1;
        let mut both = frame(1, 5, stream, &[0x82, 0x86, 0x84, 0x41, 1, b'h']);
        both.extend(frame(3, 0, stream, &8u32.to_be_bytes()));
        both
    });
    let flood = vec![pairs.flatten().collect::<Vec<u8>>()];
    assert!(ends(raw(&door).await, flood.into_iter()).await);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let door = Door::open(patient()).await;
    let mut client = connect(&door).await.ready().await.unwrap();
    let mut request = get(&door, "/hello");
    request.headers_mut().insert("x", "a".repeat(20 * 1_024).parse().unwrap());
    let outcome = match client.send_request(request, true) {
        Ok((answer, _)) => soon(answer).await.map(|answer| answer.status().as_u16()),
        Err(error) => Err(error),
    };
    assert!(!matches!(outcome, Ok(200)), "{outcome:?}");
    assert_eq!(door.inside.asked.load(Ordering::SeqCst), 0);
}
