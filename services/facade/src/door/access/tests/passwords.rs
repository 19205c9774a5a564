//! Passwords and opaque tokens.

use std::time::{Duration, Instant};

use futures::future::join_all;

use super::*;

fn hash(password: &str) -> String {
    bcrypt::hash(password, 4).unwrap()
}

fn open(files: &Files, text: &str) -> Result<Access, DoorError> {
    let htpasswd = Some(files.write("users", text));
    Access::open(&AccessConfig { htpasswd, ..AccessConfig::default() }, false)
}

#[tokio::test]
async fn knows_users_by_their_passwords() {
    let files = Files::new();
    // What other tools write begins in other ways.
    let with = |prefix: &str, password: &str| hash(password).replacen("$2b$", prefix, 1);
    let text =
        format!("# of ours\nci:{}\n\nold:{}\nnew:{}\n", hash("a:b"), with("$2y$", "y"), with("$2a$", "a"));
    let access = open(&files, &text).unwrap();
    for (name, password) in [("ci", "a:b"), ("old", "y"), ("new", "a"), ("ci", "a:b")] {
        assert_eq!(access.identify(&basic(name, password)).await, Ok(user(name)), "{name}");
    }
    for (name, password) in
        [("ci", "a"), ("ci", ""), ("", "a:b"), ("CI", "a:b"), ("nobody", "a:b"), ("old", "a")]
    {
        assert_eq!(access.identify(&basic(name, password)).await, Err(Refused::Credentials), "{name}");
    }
}

#[tokio::test]
async fn refuses_what_is_no_authorization() {
    let files = Files::new();
    let access = open(&files, &format!("ci:{}", hash("x"))).unwrap();
    assert_eq!(access.identify(&HeaderMap::new()).await, Ok(Caller::Anonymous));
    for value in ["Basic", "Basic !", "Basic Y2k=", "Basic /w==", "Bearer x", "Negotiate x", "x", ""] {
        assert_eq!(access.identify(&authorization(value)).await, Err(Refused::Credentials), "{value}");
    }
    let mut twice = basic("ci", "x");
    twice.append(AUTHORIZATION, HeaderValue::from_static("Basic eA=="));
    assert_eq!(access.identify(&twice).await, Err(Refused::Credentials));
}

#[tokio::test]
async fn looks_at_no_credentials_where_there_are_none() {
    let access = Access::open(&AccessConfig::default(), true).unwrap();
    assert_eq!(access.identify(&basic("ci", "x")).await, Ok(Caller::Anonymous));
}

#[tokio::test]
async fn checks_a_password_once_for_many_clients() {
    let files = Files::new();
    let costly = bcrypt::hash("x", 8).unwrap();
    let begun = Instant::now();
    assert!(bcrypt::verify("x", &costly).unwrap());
    let cost = begun.elapsed();
    let access = open(&files, &format!("ci:{costly}")).unwrap();
    let (right, wrong) = (basic("ci", "x"), basic("ci", "y"));
    let begun = Instant::now();
    let callers = join_all((0..60).map(|_| access.identify(&right))).await;
    assert!(callers.into_iter().all(|caller| caller == Ok(user("ci"))));
    for _ in 0..10 {
        assert_eq!(access.identify(&wrong).await, Err(Refused::Credentials));
    }
    // Two for the right one, as two are checked at a time, and five for the wrong one.
    assert!(begun.elapsed() < cost * 20, "{:?} against {cost:?}", begun.elapsed());
}

#[tokio::test]
async fn refuses_more_attempts_than_may_wait() {
    let files = Files::new();
    let access = open(&files, &format!("ci:{}", hash("x"))).unwrap();
    let headers: Vec<_> = (0..200).map(|number| basic("ci", &format!("guess {number}"))).collect();
    let outcomes = join_all(headers.iter().map(|headers| access.identify(headers))).await;
    let busy = outcomes.iter().filter(|outcome| **outcome == Err(Refused::Busy)).count();
    assert!((100..200).contains(&busy), "{busy} of 200");
}

#[tokio::test]
async fn a_wrong_password_keeps_its_place_for_a_while() {
    let files = Files::new();
    let access = open(&files, &format!("ci:{}", hash("x"))).unwrap();
    let begun = Instant::now();
    bcrypt::verify("guess", &hash("x")).unwrap();
    let costs = begun.elapsed() / 2;
    let begun = Instant::now();
    access.identify(&basic("ci", "guess")).await.unwrap_err();
    assert!(begun.elapsed() > costs * 2, "{:?} against {costs:?}", begun.elapsed());
}

#[tokio::test]
async fn reads_a_file_again_that_changes_and_keeps_what_it_had_when_it_cannot() {
    let files = Files::new();
    let access = open(&files, &format!("ci:{}", hash("old"))).unwrap();
    let users = access.0.passwords.as_ref().unwrap().users.clone();
    assert_eq!(access.identify(&basic("ci", "old")).await, Ok(user("ci")));
    files.write("users", &format!("ci:{}\nops:{}", hash("new"), hash("o")));
    users.look();
    assert_eq!(access.identify(&basic("ci", "old")).await, Err(Refused::Credentials));
    assert_eq!(access.identify(&basic("ci", "new")).await, Ok(user("ci")));
    files.write("users", "ci:plain");
    users.look();
    assert_eq!(access.identify(&basic("ops", "o")).await, Ok(user("ops")));
}

#[test]
fn refuses_hashes_other_than_bcrypt_without_saying_them() {
    let files = Files::new();
    let ci = format!("ci:{}", hash("x"));
    for (line, what) in [
        ("ops:$apr1$b2dCzRXm$KnU0gPj1Qvz8vp5.bMrKl1", "no bcrypt hash"),
        ("ops:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=", "no bcrypt hash"),
        ("ops:plain", "no bcrypt hash"),
        ("ops:$2x$10$abcdefghijklmnopqrstuuNGyGlTVk5i9Bw8n4g4dbAr5UqHHHeZW", "no bcrypt hash"),
        ("ops:$2b$10$tooshort", "damaged"),
        ("ops:$2b$31$abcdefghijklmnopqrstuuNGyGlTVk5i9Bw8n4g4dbAr5UqHHHeZW", "cost"),
        ("ops", "NAME:HASH"),
        (":x", "no name"),
        (ci.as_str(), "further up"),
    ] {
        let error = open(&files, &format!("# users\n{ci}\n{line}\n")).err().unwrap();
        let message = format!("{error} {error:?}");
        assert!(message.contains("line 3") && message.contains(what), "{message}");
        let secret = line.rsplit_once(':').map_or("none", |(_, secret)| secret);
        assert!(!message.contains(secret) || secret == "x", "{message}");
    }
    let missing = AccessConfig { htpasswd: Some("/nowhere/users".into()), ..AccessConfig::default() };
    let message = Access::open(&missing, false).err().unwrap().to_string();
    assert_eq!(message, "cannot read /nowhere/users");
}

#[tokio::test]
async fn takes_opaque_tokens_as_bearer_and_as_password() {
    let files = Files::new();
    let hex = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    let tokens = Some(files.write("tokens", &format!("ci:{hex}\n")));
    let access = Access::open(&AccessConfig { tokens, ..AccessConfig::default() }, false).unwrap();
    assert_eq!(access.identify(&authorization("Bearer secret")).await, Ok(user("ci")));
    assert_eq!(access.identify(&authorization("bearer secret")).await, Ok(user("ci")));
    assert_eq!(access.identify(&basic("ci", "secret")).await, Ok(user("ci")));
    for headers in [authorization("Bearer Secret"), basic("ops", "secret"), basic("ci", hex)] {
        assert_eq!(access.identify(&headers).await, Err(Refused::Credentials));
    }
    assert_eq!(access.challenges(&Caller::Anonymous, None).len(), 1);
}

#[tokio::test]
async fn looks_at_files_no_more_often_than_needed() {
    let files = Files::new();
    let access = open(&files, &format!("ci:{}", hash("x"))).unwrap();
    assert_eq!(access.identify(&basic("ci", "x")).await, Ok(user("ci")));
    files.write("users", "");
    // The last look is not five seconds old.
    let answer = tokio::time::timeout(Duration::from_secs(4), access.identify(&basic("ci", "x"))).await;
    assert_eq!(answer.unwrap(), Ok(user("ci")));
}
