//! How the door closes.

use super::*;

#[tokio::test]
async fn requests_in_flight_are_answered_when_the_door_closes() {
    let door = Door::open(patient()).await;
    let mut idle = door.connect().await;
    idle.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    until(&mut idle, "hello\n").await;
    soon(door.inside.begun.notified()).await;
    let mut silent = door.connect().await;
    let mut waiting = door.connect().await;
    waiting.write_all(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    soon(door.inside.begun.notified()).await;
    let runtime = door.runtime.clone();
    let stopping = tokio::spawn(async move { runtime.stop(SOON).await });
    assert_eq!(rest(&mut idle).await, "");
    assert_eq!(rest(&mut silent).await, "");
    soon(async { while TcpStream::connect(door.address).await.is_ok() {} }).await;
    assert!(!stopping.is_finished());
    door.inside.go_on.notify_one();
    assert!(rest(&mut waiting).await.ends_with("waited\n"));
    soon(stopping).await.unwrap();
}

#[tokio::test]
async fn requests_that_take_too_long_are_cut_off() {
    let door = Door::open(patient()).await;
    let mut waiting = door.connect().await;
    waiting.write_all(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    soon(door.inside.begun.notified()).await;
    door.runtime.stop(Duration::from_millis(100)).await;
    assert_eq!(rest(&mut waiting).await, "");
    door.is_quiet().await;
}
