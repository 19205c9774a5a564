//! Who may do what, and what nobody gets to see.

use std::fmt::Write as _;
use std::fs;
use std::thread;

use larder_tests::image::{Blob, sha256};
use larder_tests::scripted::{Auth, Bearer, blob_path, manifest_path};
use larder_tests::{Behaviour, Gate, Image, Layer, ScriptedRegistry, client};

use super::{
    LIMIT, OPEN, REPOSITORY, World, assert_refused, assert_whole, blob_at, get, push_manifest, send, settings,
};

/// `htpasswd -nbB -C 4`: of `ann-word` and of `bob-word`.
const USERS: &str = "ann:$2b$04$abcdefghijklmnopqrstuuxSgNnH24OCxnzkKuwFALOiQubtAqLk2\n\
                     bob:$2b$04$abcdefghijklmnopqrstuuFldoxJxaCKmP5DRjyUW5ZTqcrli2cpW\n";
/// `ann:ann-word`, `ann:bob-word` and `bob:bob-word`.
const ANN: (&str, &str) = ("Authorization", "Basic YW5uOmFubi13b3Jk");
const NOT_ANN: (&str, &str) = ("Authorization", "Basic YW5uOmJvYi13b3Jk");
const BOB: (&str, &str) = ("Authorization", "Basic Ym9iOmJvYi13b3Jk");
const CI_TOKEN: &str = "a-token-of-ci";

/// A world where ann has `a/`, bob has `b/`, ci may pull from both, and anybody may pull from `public/`.
fn restricted() -> World {
    World::at(ScriptedRegistry::start(), |larder, host| {
        let (users, tokens) = (larder.home().join("users"), larder.home().join("tokens"));
        fs::write(&users, USERS).unwrap();
        let hash = sha256(CI_TOKEN.as_bytes());
        fs::write(&tokens, format!("ci:{}\n", hash.trim_start_matches("sha256:"))).unwrap();
        let mut access = format!(
            "[access]\nanonymous = []\nhtpasswd = \"{}\"\ntokens = \"{}\"\n",
            users.display(),
            tokens.display()
        );
        for (who, repositories, actions) in [
            ("ann", vec!["a"], r#""pull", "push", "delete""#),
            ("bob", vec!["b"], r#""pull", "push", "delete""#),
            ("ci", vec!["a", "b"], r#""pull""#),
            ("*", vec!["public"], r#""pull""#),
        ] {
            let repositories: Vec<String> =
                repositories.iter().map(|path| format!("{host}/{path}")).collect();
            let _ = write!(
                access,
                "[[access.rules]]\nwho = [\"{who}\"]\nrepositories = {repositories:?}\nactions = [{actions}]\n"
            );
        }
        larder.config(&settings(host, "", &access))
    })
}

fn image(seed: u64) -> Image {
    Image::build("linux/amd64").layer(Layer::random(5000, seed)).finish()
}

#[test]
fn rules_decide_by_user_repository_and_action() {
    let world = restricted();
    let host = world.host();
    for repository in ["a/app", "b/app", "public/app"] {
        world.registry.put(repository, "1", &image(1));
    }
    let bearer = format!("Bearer {CI_TOKEN}");
    let (ci, ci_too) =
        (("Authorization", bearer.as_str()), ("Authorization", "Basic Y2k6YS10b2tlbi1vZi1jaQ=="));
    let uploads = |repository: &str| ("POST", format!("/v2/{repository}/blobs/uploads/"));
    let tag = |method, repository: &str| (method, manifest_path(repository, "1"));
    for (who, (method, target), status) in [
        (None, tag("GET", "a/app"), 401),
        (None, tag("GET", "public/app"), 200),
        (None, tag("DELETE", "public/app"), 401),
        (None, uploads("public/app"), 401),
        (Some(NOT_ANN), tag("GET", "public/app"), 401),
        (Some(("Authorization", "Bearer nonsense")), tag("GET", "public/app"), 401),
        (Some(ANN), tag("GET", "a/app"), 200),
        (Some(ANN), tag("HEAD", "a/app"), 200),
        (Some(ANN), tag("GET", "b/app"), 403),
        (Some(ANN), tag("GET", "ab/app"), 403),
        (Some(ANN), uploads("a/app"), 202),
        (Some(ANN), uploads("b/app"), 403),
        (Some(ANN), uploads("public/app"), 403),
        (Some(ci), tag("GET", "b/app"), 200),
        (Some(ci_too), tag("GET", "a/app"), 200),
        (Some(ci), uploads("a/app"), 403),
        (Some(ci), tag("PUT", "a/app"), 403),
        (Some(ci), tag("DELETE", "a/app"), 403),
        (Some(BOB), tag("DELETE", "a/app"), 403),
        (Some(BOB), ("GET", "/v2/a/app/tags/list".to_owned()), 403),
        (Some(ANN), ("GET", "/v2/".to_owned()), 200),
        (Some(NOT_ANN), ("GET", "/v2/".to_owned()), 401),
        (Some(ANN), tag("DELETE", "a/app"), 202),
    ] {
        let headers: Vec<_> = who.into_iter().collect();
        let answer = send(&host, method, &target, &headers, &[]);
        assert_eq!(answer.status, status, "{who:?} {method} {target}: {}", answer.text());
        match status {
            401 => {
                assert_refused(&answer, 401, "UNAUTHORIZED");
                assert!(answer.header("www-authenticate").is_some_and(|told| told.starts_with("Basic ")));
            }
            403 => assert_refused(&answer, 403, "DENIED"),
            _ => assert_eq!(answer.header("www-authenticate"), None),
        }
    }
    for exchange in world.registry.requests() {
        assert_eq!(exchange.request.header("authorization"), None, "a client's credentials went upstream");
    }
}

#[test]
fn default_is_that_this_machine_may_pull_and_nobody_may_change_anything() {
    let world = World::with("", "");
    world.put("1", &Image::small());
    assert_eq!(world.get("/v2/").status, 200);
    assert_eq!(world.get(&super::tagged()).status, 200);
    assert_refused(&world.send("DELETE", &super::tagged(), &[], &[]), 403, "DENIED");
}

/// Whatever bob tries to get at `secret` through what he may use himself.
fn assert_out_of_reach(world: &World, secret: &Blob) {
    let (host, digest) = (world.host(), &secret.digest);
    let nowhere = sha256(b"nowhere");
    for path in [manifest_path as fn(&str, &str) -> String, blob_path] {
        for method in ["GET", "HEAD"] {
            let tried = send(&host, method, &path("b/app", digest), &[BOB], &[]);
            let control = send(&host, method, &path("b/app", &nowhere), &[BOB], &[]);
            // Whether it is here at all cannot be told.
            assert_eq!((tried.status, control.status), (404, 404), "{method} {digest}");
            assert_eq!(tried.text().replace(digest.as_str(), ""), control.text().replace(&nowhere, ""));
        }
    }
    let part = [BOB, ("Range", "bytes=0-9")];
    assert_eq!(get(&host, &blob_path("b/app", digest), &part).status, 404);
    let known = [BOB, ("If-None-Match", &format!("\"{digest}\""))];
    assert_eq!(get(&host, &blob_path("b/app", digest), &known).status, 404);
    for from in ["", "&from=a/app", "&from=b/app", "&from=b/other"] {
        let mount = format!("/v2/b/app/blobs/uploads/?mount={digest}{from}");
        assert_eq!(send(&host, "POST", &mount, &[BOB], &[]).status, 202, "{from}");
    }
    let mut child = secret.descriptor();
    child["mediaType"] = "application/vnd.oci.image.manifest.v1+json".into();
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [child],
        "mediaType": "application/vnd.oci.image.index.v1+json" });
    let layers = serde_json::json!({ "schemaVersion": 2, "config": secret.descriptor(), "layers": [secret.descriptor()],
        "mediaType": "application/vnd.oci.image.manifest.v1+json" });
    for document in [index, layers] {
        let manifest = Blob::new(document["mediaType"].as_str().unwrap(), document.to_string());
        for name in ["stolen", &manifest.digest] {
            let refused = push_manifest(&host, "b/app", name, &manifest, &[BOB]);
            assert_refused(&refused, 400, "MANIFEST_BLOB_UNKNOWN");
        }
    }
    for path in [manifest_path("b/app", digest), blob_path("b/app", digest)] {
        assert_eq!(send(&host, "DELETE", &path, &[BOB], &[]).status, 404, "{path}");
    }
    assert_eq!(get(&host, &blob_path("b/app", digest), &[BOB]).status, 404, "it was stolen after all");
    assert_eq!(get(&host, &blob_path("a/app", digest), &[BOB]).status, 403);
}

#[test]
fn f34_digest_that_only_anothers_repository_has_is_out_of_reach() {
    let world = restricted();
    let host = world.host();
    let (pushed, pulled, own) = (image(10), image(20), image(30));
    super::push(&host, "b/app", "own", &own, &[BOB]);
    super::push(&host, "a/app", "pushed", &pushed, &[ANN]);
    world.registry.put("a/app", "pulled", &pulled);
    let orphan = Blob::new("application/octet-stream", "pushed, and named by nothing yet");
    super::push_blob(&host, "a/app", &orphan, &[ANN]);
    for (position, tag) in [(0, "pulled"), (1, "pulled")] {
        assert_eq!(get(&host, &manifest_path("a/app", tag), &[ANN]).status, 200);
        assert_whole(
            &get(&host, &blob_path("a/app", &pulled.blob(position).digest), &[ANN]),
            pulled.blob(position),
        );
    }
    let secrets = [&pushed.root, pushed.blob(1), &pulled.root, pulled.blob(1), &orphan];
    for secret in secrets {
        assert_out_of_reach(&world, secret);
    }
    // Whose it is has it all.
    for secret in secrets {
        assert_whole(&get(&host, &blob_path("a/app", &secret.digest), &[ANN]), secret);
    }
    for blob in [&own.root, own.blob(0), own.blob(1)] {
        assert_whole(&get(&host, &blob_path("b/app", &blob.digest), &[BOB]), blob);
    }
    // Who pushes the bytes has them.
    super::push_blob(&host, "b/app", pushed.blob(1), &[BOB]);
    assert_whole(&get(&host, &blob_path("b/app", &pushed.blob(1).digest), &[BOB]), pushed.blob(1));
}

#[test]
fn f34_blob_on_its_way_to_another_is_out_of_reach() {
    let world = restricted();
    let host = world.host();
    let (image, gate) = (Image::of_noise(1, 300_000), Gate::new());
    world.registry.put("a/app", "1", &image);
    let path = blob_path("a/app", &image.blob(1).digest);
    world.registry.always(&path, [Behaviour::Hold { after_bytes: 1000, gate: gate.clone() }]);
    thread::scope(|scope| {
        let ann = scope.spawn(|| get(&host, &path, &[ANN]));
        gate.await_reached(1, LIMIT);
        assert_eq!(get(&host, &blob_path("b/app", &image.blob(1).digest), &[BOB]).status, 404);
        gate.open();
        assert_whole(&ann.join().unwrap(), image.blob(1));
    });
}

#[test]
fn f34_lists_show_only_what_may_be_pulled() {
    let world = restricted();
    let host = world.host();
    super::push(&host, "a/app", "1", &image(1), &[ANN]);
    super::push(&host, "b/app", "1", &image(2), &[BOB]);
    let catalog = |headers: &[(&str, &str)]| get(&host, "/v2/_catalog", headers).text();
    let (anns, bobs) = (catalog(&[ANN]), catalog(&[BOB]));
    assert!(anns.contains("/a/app") && !anns.contains("/b/app"), "{anns}");
    assert!(bobs.contains("/b/app") && !bobs.contains("/a/app"), "{bobs}");
    assert!(!catalog(&[]).contains("app"));
    let subject = image(1).root;
    let referrer = Image::artifact("application/x", b"about it", Some(&subject));
    super::push(&host, "a/app", "about", &referrer, &[ANN]);
    let list =
        |repository: &str, who| get(&host, &format!("/v2/{repository}/referrers/{}", subject.digest), &[who]);
    assert!(list("a/app", ANN).text().contains(&referrer.root.digest));
    assert!(!list("b/app", BOB).text().contains(&referrer.root.digest));
    assert_eq!(list("a/app", BOB).status, 403);
}

#[test]
fn credentials_for_upstream_appear_in_no_answer() {
    let (user, password) = ("robot", "the-upstream-word");
    for is_bearer in [false, true] {
        let registry = ScriptedRegistry::start();
        let credentials = (user.to_owned(), password.to_owned());
        registry.require(if is_bearer {
            Auth::Bearer(Bearer { realm: None, credentials: Some(credentials) })
        } else {
            Auth::Basic { user: credentials.0, password: credentials.1 }
        });
        let world = World::at(registry, |larder, host| {
            larder.login(host, user, password).config(&settings(host, "fresh_s = 0\nnegative_s = 0\n", OPEN))
        });
        let image = image(40);
        world.put("1", &image);
        let targets = [
            super::tagged(),
            manifest_path(REPOSITORY, &image.root.digest),
            blob_at(&image, 1),
            format!("/v2/{REPOSITORY}/tags/list"),
            format!("/v2/{REPOSITORY}/referrers/{}", image.root.digest),
            manifest_path(REPOSITORY, "none"),
            blob_path(REPOSITORY, &sha256(b"none")),
        ];
        let mut seen = String::new();
        let mut look = |target: &str| {
            // Once more with credentials of the client's own, which are nobody's business upstream.
            for headers in [&[][..], &[ANN]] {
                if let Ok(answer) = client::request("GET", &world.host(), target, headers, &[]) {
                    let _ = writeln!(seen, "{:?} {}", answer.headers, answer.text());
                }
            }
        };
        for target in &targets {
            look(target);
        }
        assert_whole(&world.get(&super::tagged()), &image.root);
        for behaviour in
            [Behaviour::Unauthorized, Behaviour::status(403), Behaviour::status(500), Behaviour::Close]
        {
            world.registry.always("*", [behaviour]);
            for target in &targets {
                look(target);
            }
        }
        let given = world.registry.requests();
        let given: Vec<_> = given.iter().filter_map(|one| one.request.header("authorization")).collect();
        assert!(!given.is_empty() && given.iter().all(|value| *value != ANN.1));
        let words = given.iter().filter_map(|value| value.split(' ').nth(1)).chain([password]);
        for word in words {
            assert!(!seen.contains(word), "{word} in {seen}");
        }
    }
}
