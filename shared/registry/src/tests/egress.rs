use std::sync::atomic::Ordering;

use crate::scripted::{Scripted, answer, client};
use crate::{Refusal, RegistryError};

const BODY: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

async fn redirected_to(location: &'static str) -> RegistryError {
    let registry = Scripted::start(move |_| answer(307, &[("location", location)], "")).await;
    client().manifest(&registry.reference(":1")).await.unwrap_err()
}

#[tokio::test]
async fn refuses_redirects_to_where_no_server_may_send_us() {
    for (location, expected) in [
        ("http://169.254.169.254/latest", Refusal::Address),
        ("http://2852039166/latest", Refusal::Address),
        ("http://0xa9fea9fe/latest", Refusal::Address),
        ("http://[::ffff:169.254.169.254]/", Refusal::Address),
        ("http://0.0.0.0/", Refusal::Address),
        ("file:///etc/passwd", Refusal::Scheme),
        ("http://me:secret@127.0.0.1/", Refusal::UserInfo),
        ("http://[", Refusal::Malformed),
    ] {
        match redirected_to(location).await {
            RegistryError::RedirectRefused { refusal, .. } => {
                assert_eq!(refusal, expected, "{location}");
            }
            error => panic!("{location}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn circles_end() {
    let registry = Scripted::start(|heard| answer(302, &[("location", &heard.target)], "")).await;
    let error = client().manifest(&registry.reference(":1")).await.unwrap_err();
    assert!(matches!(error, RegistryError::RedirectRefused { refusal: Refusal::TooMany, .. }));
    assert_eq!(registry.heard().len(), 6);
}

#[tokio::test]
async fn neither_authorization_nor_cookies_follow_to_another_port() {
    let storage = Scripted::start(|_| answer(200, &[], BODY)).await;
    let location = format!("http://{}/blob?signature=secret", storage.host());
    let registry = Scripted::start(move |heard| match heard.header("authorization") {
        Some(_) => answer(307, &[("location", &location), ("set-cookie", "a=b")], ""),
        None => answer(401, &[("www-authenticate", "Basic realm=\"x\"")], ""),
    })
    .await;
    let (client, _file) = super::auth::client_with(&registry, r#"{"username":"me","password":"hunter2"}"#);
    client.manifest(&registry.reference(":1")).await.unwrap();
    assert!(registry.heard()[1].header("authorization").is_some());
    let heard = &storage.heard()[0];
    assert_eq!(heard.header("authorization"), None);
    assert_eq!(heard.header("cookie"), None);
    assert_eq!(heard.header("accept-encoding"), Some("identity"));
}

#[tokio::test]
async fn asks_no_realm_that_is_not_the_registrys() {
    for (realm, expected) in [
        ("http://169.254.169.254/token", Refusal::Address),
        ("http://127.0.0.2:1/token", Refusal::ForeignHost),
        ("https://auth.docker.io/token", Refusal::ForeignHost),
        ("token", Refusal::Malformed),
    ] {
        let challenge = format!(r#"Bearer realm="{realm}",service="s""#);
        let registry = Scripted::start(move |_| answer(401, &[("www-authenticate", &challenge)], "")).await;
        let client = client();
        match client.manifest(&registry.reference(":1")).await {
            Err(RegistryError::RealmRefused { refusal, .. }) => {
                assert_eq!(refusal, expected, "{realm}");
            }
            other => panic!("{realm}: {other:?}"),
        }
        assert_eq!(client.traffic().token.load(Ordering::Relaxed), 0);
    }
}
