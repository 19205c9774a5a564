//! Encrypted connections.

use std::path::Path;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;

/// A certificate for `localhost`, written to `folder`.
fn certify(folder: &Path) -> CertificateDer<'static> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("key.pem"), signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join("certificate.pem"), cert.pem()).unwrap();
    cert.der().clone()
}

fn config(folder: &Path) -> Config {
    let file = |name| Some(folder.join(name));
    let tls = TlsConfig { certificate: file("certificate.pem"), key: file("key.pem") };
    Config { tls, ..patient() }
}

async fn connect(
    door: &Door,
    trusted: &CertificateDer<'static>,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, door.connect().await).await
}

#[tokio::test]
async fn speaks_what_was_agreed_on() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = certify(folder.path());
    let door = Door::open(config(folder.path())).await;
    for protocols in [&["http/1.1"][..], &[]] {
        let mut stream = connect(&door, &certificate, protocols).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        assert!(until(&mut stream, "hello\n").await.starts_with("HTTP/1.1 200"));
    }
    let stream = connect(&door, &certificate, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut client: h2::client::SendRequest<Bytes> = client.ready().await.unwrap();
    let request = Request::get("https://localhost/hello").body(()).unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    assert_eq!(soon(answer).await.unwrap().status(), 200);
}

#[tokio::test]
async fn who_does_not_encrypt_or_does_not_go_on_is_not_served() {
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path());
    let door = Door::open(Config { header_timeout_s: 1, ..config(folder.path()) }).await;
    let answer = door.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert!(!answer.contains("hello"), "{answer}");
    rest(&mut door.connect().await).await;
}

#[tokio::test]
async fn takes_a_new_certificate_and_keeps_the_old_one_when_it_cannot() {
    let folder = tempfile::tempdir().unwrap();
    let first = certify(folder.path());
    let tls = super::super::tls::open(&config(folder.path()).tls).unwrap().unwrap();
    let (_, edition) = tls.now();
    std::fs::write(folder.path().join("certificate.pem"), "nothing").unwrap();
    tls.look();
    assert_eq!(tls.now().1, edition);
    let second = certify(folder.path());
    assert_ne!(first, second);
    tls.look();
    assert_eq!(tls.now().1, edition + 1);
}

#[test]
fn says_which_file_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let check = |what: &str| {
        let error = super::super::tls::open(&config(folder.path()).tls).err().unwrap();
        let message = crate::error::chain(&error);
        assert!(message.contains(what), "{message}");
    };
    check("cannot read");
    certify(folder.path());
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("key.pem", "nothing");
    check("key.pem: holds no private key");
    write("key.pem", &rcgen::KeyPair::generate().unwrap().serialize_pem());
    check("certificate.pem");
    write("certificate.pem", "nothing");
    check("certificate.pem: holds no certificate");
}
