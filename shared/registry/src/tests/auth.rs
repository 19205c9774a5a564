use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;
use tempfile::NamedTempFile;

use crate::scripted::{Answer, Heard, Scripted, answer, client, config};
use crate::{Client, Config, RegistryError};

const BODY: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// A client whose docker configuration has `entry` for `registry`, while the file lives.
pub(super) fn client_with(registry: &Scripted, entry: &str) -> (Client, NamedTempFile) {
    let mut file = NamedTempFile::new().unwrap();
    write!(file, r#"{{"auths": {{"{}": {entry}}}}}"#, registry.host()).unwrap();
    let config = Config { auth_file: Some(file.path().to_owned()), ..config() };
    (Client::new(config).unwrap(), file)
}

fn challenge(heard: &Heard) -> Answer {
    let host = heard.header("host").unwrap();
    let challenge = format!(r#"Bearer realm="http://{host}/token?x=y",service="the registry""#);
    answer(401, &[("www-authenticate", &challenge)], "")
}

/// A registry whose tokens are `t0`, `t1`, …; `takes` says which it takes.
async fn registry(takes: impl Fn(&str) -> bool + Send + Sync + 'static) -> Scripted {
    let tokens = AtomicUsize::new(0);
    Scripted::start(move |heard| {
        if heard.target.starts_with("/token") {
            let nth = tokens.fetch_add(1, Ordering::SeqCst);
            return answer(200, &[], format!(r#"{{"token":"t{nth}"}}"#));
        }
        match heard.header("authorization") {
            Some(shown) if takes(shown.trim_start_matches("Bearer ")) => answer(200, &[], BODY),
            _ => challenge(heard),
        }
    })
    .await
}

fn tokens(client: &Client) -> u64 {
    client.traffic().token.load(Ordering::Relaxed)
}

#[tokio::test]
async fn sixteen_at_a_time_ask_for_one_token() {
    let registry = registry(|_| true).await;
    let (client, at) = (client(), registry.reference(":1"));
    let all = join_all((0..16).map(|_| client.manifest(&at))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(tokens(&client), 1);
    let asked = registry.lines();
    let token: Vec<_> = asked.iter().filter(|line| line.starts_with("GET /token")).collect();
    assert_eq!(token, ["GET /token?x=y&service=the+registry&scope=repository%3Aa%2Fb%3Apull"]);
}

#[tokio::test]
async fn a_registry_that_takes_no_token_is_given_up_on() {
    let registry = registry(|_| false).await;
    let client = client();
    let error = client.manifest(&registry.reference(":1")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { .. }));
    assert_eq!(registry.heard().len(), 3, "{:?}", registry.lines());
}

#[tokio::test]
async fn a_token_endpoint_that_is_not_there_says_nothing_of_the_image_and_is_not_remembered() {
    let asked = AtomicUsize::new(0);
    let registry = Scripted::start(move |heard| {
        if heard.target.starts_with("/token") {
            return answer(404, &[], "");
        }
        // It asks for tokens at first, and then no more.
        if asked.fetch_add(1, Ordering::SeqCst) < 2 { challenge(heard) } else { answer(200, &[], BODY) }
    })
    .await;
    let (client, at) = (client(), registry.reference(":1"));
    for _ in 0..2 {
        let error = client.manifest(&at).await.unwrap_err();
        assert!(matches!(error, RegistryError::Protocol { .. }), "{error:?}");
    }
    client.manifest(&at).await.unwrap();
}

#[tokio::test]
async fn a_token_that_is_no_longer_taken_is_renewed_once() {
    let taken = Arc::new(AtomicUsize::new(0));
    let now = Arc::clone(&taken);
    let registry = registry(move |token| token == format!("t{}", now.load(Ordering::SeqCst))).await;
    let client = client();
    client.manifest(&registry.reference(":1")).await.unwrap();
    taken.store(1, Ordering::SeqCst);
    client.manifest(&registry.reference(":1")).await.unwrap();
    client.manifest(&registry.reference(":1")).await.unwrap();
    assert_eq!(tokens(&client), 2);
    // Challenged, t0; t0 refused, t1; t1.
    assert_eq!(registry.heard().len(), 2 + 1 + 2 + 1 + 1);
}

#[tokio::test]
async fn a_password_goes_to_the_realm_and_an_identity_token_into_a_form() {
    let first = registry(|_| true).await;
    let (client, _file) = client_with(&first, r#"{"username":"me","password":"hunter2"}"#);
    client.manifest(&first.reference(":1")).await.unwrap();
    let heard = first.heard();
    let shown: Vec<_> = heard.iter().map(|one| one.header("authorization")).collect();
    assert_eq!(shown, [None, Some("Basic bWU6aHVudGVyMg=="), Some("Bearer t0")]);

    let second = registry(|_| true).await;
    let (client, _file) = client_with(&second, r#"{"identitytoken":"ident"}"#);
    client.manifest(&second.reference(":1")).await.unwrap();
    let heard = &second.heard()[1];
    assert_eq!(heard.method, "POST");
    let form = String::from_utf8(heard.body.clone()).unwrap();
    assert!(form.contains("grant_type=refresh_token") && form.contains("refresh_token=ident"));
}

#[tokio::test]
async fn a_token_body_is_bounded_and_has_a_token() {
    for (body, is_large) in [("x".repeat(70_000), true), ("{}".to_owned(), false)] {
        let registry = Scripted::start(move |heard| {
            if heard.target.starts_with("/token") {
                return answer(200, &[], &body);
            }
            challenge(heard)
        })
        .await;
        let error = client().manifest(&registry.reference(":1")).await.unwrap_err();
        match error {
            RegistryError::TooLarge { limit_bytes, .. } => {
                assert!(is_large && limit_bytes == 65_536);
            }
            RegistryError::Protocol { .. } => assert!(!is_large),
            error => panic!("{error:?}"),
        }
    }
}

#[tokio::test]
async fn secrets_are_in_no_error() {
    let registry = Scripted::start(|heard| {
        if heard.target.starts_with("/token") {
            return answer(401, &[], "");
        }
        challenge(heard)
    })
    .await;
    let (client, _file) = client_with(&registry, r#"{"username":"me","password":"hunter2"}"#);
    let error = client.manifest(&registry.reference(":1")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { .. }));
    let shown = format!("{client:?} {error} {error:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("aHVudGVyMg"));

    let registry = Scripted::start(|_| {
        let location = "http://127.0.0.1:9/blob?signature=s3cret";
        answer(307, &[("location", location)], "")
    })
    .await;
    let error = crate::scripted::client().manifest(&registry.reference(":1")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { .. }));
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("s3cret"), "{shown}");
}
