//! The registry client through the binary: who we say we are, whom we ask, and over what.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use larder_tests::image::{Compression, ImageBuilder, Layer};
use larder_tests::scripted::{Auth, Authority, Bearer, Exchange, Wire, blob_path, manifest_path};
use larder_tests::{Behaviour, Finished, Image, Larder, ScriptedRegistry};
use serde_json::json;

const REPOSITORY: &str = "team/app";
const USER: &str = "ann";
const PASSWORD: &str = "hunter2-and-more";
/// Both, as basic authentication sends them.
const ENCODED: &str = "Basic YW5uOmh1bnRlcjItYW5kLW1vcmU=";

fn serve(image: &Image) -> ScriptedRegistry {
    ScriptedRegistry::serving(REPOSITORY, "1", image)
}

fn serve_with(wire: Wire, image: &Image) -> ScriptedRegistry {
    let registry = ScriptedRegistry::start_with(wire);
    registry.put(REPOSITORY, "1", image);
    registry
}

fn run(larder: &Larder, reference: &str) -> Finished {
    larder.run(&["pull", "--platform", "linux/amd64", "-vv", reference])
}

/// Pulls `team/app:1` and finds all of `image`; what is logged on the way holds no secret.
#[track_caller]
fn pull(larder: &Larder, registry: &ScriptedRegistry, image: &Image) -> Finished {
    let finished = run(larder, &registry.reference("team/app:1")).expect_code(0);
    larder.assert_store_is_sound();
    for digest in image.digests() {
        assert!(larder.blob_path(digest).is_file(), "{digest} is not there");
    }
    assert_tells_no_secret(&finished);
    finished
}

/// Pulls in vain for want of credentials.
#[track_caller]
fn is_denied(larder: &Larder, registry: &ScriptedRegistry, says: &str) {
    let finished = run(larder, &registry.reference("team/app:1")).expect_code(1);
    assert!(finished.stderr.contains(says), "{}", finished.stderr);
    assert!(larder.visible_blobs().is_empty());
    assert_tells_no_secret(&finished);
}

#[track_caller]
fn assert_tells_no_secret(finished: &Finished) {
    for secret in [PASSWORD, &ENCODED[6..], "identity-secret", "Bearer token-"] {
        let told = finished.stderr.contains(secret) || finished.stdout.contains(secret);
        assert!(!told, "{secret} is printed: {}", finished.stderr);
    }
}

fn basic() -> Auth {
    Auth::Basic { user: USER.to_owned(), password: PASSWORD.to_owned() }
}

fn bearer() -> Auth {
    let credentials = Some((USER.to_owned(), PASSWORD.to_owned()));
    Auth::Bearer(Bearer { realm: None, credentials })
}

fn authorizations(registry: &ScriptedRegistry, path: &str) -> Vec<Option<String>> {
    let requests = registry.requests();
    let of_path = requests.iter().filter(|one| one.request.path == path);
    of_path.map(|one| one.request.header("authorization").map(str::to_owned)).collect()
}

/// Makes a credential helper that answers `get` for `host` and fails for every other; returns `PATH` with it.
fn helper(larder: &Larder, host: &str, answer: &str) -> String {
    let folder = larder.home().join("bin");
    fs::create_dir_all(&folder).unwrap();
    let script = format!(
        "#!/bin/sh\nread -r host\necho \"$1 $host\" >> \"$HOME/asked\"\n\
         [ \"$1\" = get ] && [ \"$host\" = '{host}' ] || {{ echo 'credentials not found in native keychain'; exit 1; }}\n\
         {answer}\n"
    );
    let path = folder.join("docker-credential-larder-test");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default())
}

fn with_helper(host: &str, answer: &str) -> Larder {
    let larder = Larder::new().docker_config(&json!({ "credHelpers": { host: "larder-test" } }));
    let path = helper(&larder, host, answer);
    larder.env("PATH", &path)
}

#[test]
fn anonymous_bearer_token_is_fetched_once_and_used_for_all() {
    let image = Image::small();
    let registry = serve(&image);
    registry.require(Auth::Bearer(Bearer::default()));
    pull(&Larder::new(), &registry, &image);
    assert_eq!(registry.count("GET", "/token"), 1);
    assert_eq!(authorizations(&registry, "/token"), [None]);
    let token = &registry.requests()[1].request;
    assert!(token.query.contains("service=scripted"), "{}", token.query);
    assert!(token.query.contains("scope=repository%3Ateam%2Fapp%3Apull"), "{}", token.query);
    // Only the first request had to be told.
    assert_eq!(registry.requests().iter().filter(|one| one.status == 401).count(), 1);
}

#[test]
fn password_of_the_docker_configuration_goes_to_the_token_endpoint_alone() {
    let image = Image::small();
    let registry = serve(&image);
    registry.require(bearer());
    pull(&Larder::new().login(&registry.host(), USER, PASSWORD), &registry, &image);
    assert_eq!(authorizations(&registry, "/token"), [Some(ENCODED.to_owned())]);
    for exchange in registry.requests() {
        let shown = exchange.request.header("authorization");
        assert!(exchange.request.path == "/token" || shown != Some(ENCODED), "{}", exchange.request.path);
    }
    is_denied(&Larder::new(), &registry, "credentials");
    is_denied(&Larder::new().login(&registry.host(), USER, "wrong"), &registry, "credentials");
}

#[test]
fn basic_authentication_is_shown_once_it_is_asked_for() {
    let image = Image::small();
    let registry = serve(&image);
    registry.require(basic());
    let larder = Larder::new().login(&registry.host(), USER, PASSWORD);
    pull(&larder, &registry, &image);
    let shown = authorizations(&registry, &manifest_path(REPOSITORY, "1"));
    assert_eq!(shown, [None, Some(ENCODED.to_owned())]);
    let requests = registry.requests();
    let bare = requests.iter().filter(|one| one.request.header("authorization").is_none());
    assert_eq!(bare.count(), 1, "what was asked for once is shown with each request");
    assert_eq!(registry.requests().iter().filter(|one| one.status == 401).count(), 1);
}

#[test]
fn password_is_for_its_own_host_and_shown_only_where_it_is_asked_for() {
    let image = Image::small();
    let (registry, open) = (serve(&image), serve(&image));
    registry.require(basic());
    is_denied(&Larder::new().login(&open.host(), USER, PASSWORD), &registry, "credentials");
    pull(&Larder::new().login(&open.host(), USER, PASSWORD), &open, &image);
    for one in open.requests().iter().chain(&registry.requests()) {
        assert_eq!(one.request.header("authorization"), None);
    }
}

#[test]
fn credential_helper_is_asked_for_its_host() {
    let image = Image::small();
    let registry = serve(&image);
    registry.require(bearer());
    let answer = format!("echo '{{\"ServerURL\":\"\",\"Username\":\"{USER}\",\"Secret\":\"{PASSWORD}\"}}'");
    let larder = with_helper(&registry.host(), &answer);
    pull(&larder, &registry, &image);
    let asked = fs::read_to_string(larder.home().join("asked")).unwrap();
    assert_eq!(asked, format!("get {}\n", registry.host()), "asked once, for this host");
}

#[test]
fn credential_helper_that_fails_is_named_and_not_quoted() {
    let image = Image::small();
    let registry = serve(&image);
    registry.require(bearer());
    for answer in [format!("echo {PASSWORD}; exit 1"), format!("echo {PASSWORD}")] {
        let larder = with_helper(&registry.host(), &answer);
        is_denied(&larder, &registry, "config.json names");
    }
    assert_eq!(registry.count("GET", "/token"), 0);
}

#[test]
fn credential_helper_that_knows_nothing_means_anonymous() {
    let image = Image::small();
    let registry = serve(&image);
    registry.require(Auth::Bearer(Bearer::default()));
    let larder = Larder::new().docker_config(&json!({ "credsStore": "larder-test" }));
    let path = helper(&larder, "another.example", "");
    pull(&larder.env("PATH", &path), &registry, &image);
}

#[test]
fn identity_token_is_traded_for_a_token_by_post() {
    let image = Image::small();
    let registry = serve(&image);
    registry.require(Auth::Bearer(Bearer::default()));
    let host = registry.host();
    let larder =
        Larder::new().docker_config(&json!({ "auths": { host: { "identitytoken": "identity-secret" } } }));
    pull(&larder, &registry, &image);
    let requests = registry.requests();
    let trade = &requests[1].request;
    assert_eq!((trade.method.as_str(), trade.path.as_str()), ("POST", "/token"));
    assert_eq!(trade.header("content-type"), Some("application/x-www-form-urlencoded"));
    let form = String::from_utf8_lossy(&trade.body);
    for part in ["grant_type=refresh_token", "refresh_token=identity-secret", "service=scripted", "scope="] {
        assert!(form.contains(part), "no {part}");
    }
    assert_eq!(trade.query, "", "a secret in a query ends up in logs");
    let told =
        |one: &&Exchange| one.request.header("authorization").is_some_and(|shown| shown.contains("identity"));
    assert_eq!(requests.iter().filter(told).count(), 0);
}

#[test]
fn registry_auth_file_comes_before_the_docker_configuration() {
    let image = Image::small();
    let registry = serve(&image);
    registry.require(basic());
    let larder = Larder::new().login(&registry.host(), USER, "wrong");
    let file = larder.home().join("auth.json");
    let encoded = &ENCODED[6..];
    fs::write(&file, json!({ "auths": { registry.host(): { "auth": encoded } } }).to_string()).unwrap();
    is_denied(&larder, &registry, "credentials");
    pull(&larder.env("REGISTRY_AUTH_FILE", file.to_str().unwrap()), &registry, &image);
}

#[test]
fn auth_file_of_the_configuration_and_docker_config_are_read() {
    let image = Image::small();
    let registry = serve(&image);
    registry.require(basic());
    let other = Larder::new().login(&registry.host(), USER, PASSWORD);
    let folder = other.home().join(".docker");
    let file = folder.join("config.json");
    pull(&Larder::new().config(&format!("[registry]\nauth_file = {file:?}\n")), &registry, &image);
    pull(&Larder::new().env("LARDER_REGISTRY__AUTH_FILE", file.to_str().unwrap()), &registry, &image);
    pull(&Larder::new().env("DOCKER_CONFIG", folder.to_str().unwrap()), &registry, &image);
}

#[test]
fn broken_docker_configuration_is_named() {
    let image = Image::small();
    let registry = serve(&image);
    registry.require(basic());
    let larder = Larder::new().docker_config(&json!([PASSWORD]));
    is_denied(&larder, &registry, ".docker/config.json is not a docker configuration");
}

fn mirrored(registry: &ScriptedRegistry, mirrors: &[String]) -> Larder {
    let quick = "[registry]\nretries_max = 1\nretry_wait_ms_min = 5\nretry_wait_ms_max = 20\n";
    Larder::new().config(&format!("{quick}hosts.\"{}\".mirrors = {mirrors:?}\n", registry.host()))
}

#[test]
fn mirror_is_asked_first_and_told_whom_it_stands_for() {
    let image = Image::small();
    let (origin, mirror) = (serve(&image), ScriptedRegistry::start());
    mirror.put("cache/team/app", "1", &image);
    let larder = mirrored(&origin, &[format!("{}/cache/", mirror.url())]);
    let larder = larder.login(&origin.host(), USER, PASSWORD);
    pull(&larder, &origin, &image);
    assert_eq!(origin.requests().len(), 0);
    assert_eq!((mirror.count("HEAD", ""), mirror.count("GET", "")), (1, 4));
    for one in mirror.requests() {
        assert_eq!(one.request.query, format!("ns={}", origin.host().replace(':', "%3A")));
        assert!(one.request.path.starts_with("/v2/cache/team/app/"), "{}", one.request.path);
        assert_eq!(one.request.header("authorization"), None);
    }
    let listed = larder.ok(&["ls"]);
    assert!(listed.contains(&origin.host()) && !listed.contains(&mirror.host()), "{listed}");
}

#[test]
fn origins_password_is_not_for_its_mirror_even_when_the_mirror_asks() {
    let image = Image::small();
    let (origin, mirror) = (serve(&image), serve(&image));
    for registry in [&origin, &mirror] {
        registry.require(basic());
    }
    pull(&mirrored(&origin, &[mirror.url()]).login(&origin.host(), USER, PASSWORD), &origin, &image);
    assert!(origin.count("GET", "/blobs/") == 3);
    for one in mirror.requests() {
        assert_eq!(one.request.header("authorization"), None);
    }
}

#[test]
fn origin_fills_in_for_what_its_mirrors_lack_lie_about_or_break() {
    let image = Image::small();
    let (origin, empty, bad) = (serve(&image), ScriptedRegistry::start(), serve(&image));
    let gone = {
        let gone = ScriptedRegistry::start();
        gone.url()
    };
    let other = Image::build("linux/amd64").layer(Layer::random(10, 5)).finish();
    for method in ["HEAD", "GET"] {
        let lie = Behaviour::LieDigestHeader(other.root.digest.clone());
        bad.always_method(method, &manifest_path(REPOSITORY, "1"), [lie]);
    }
    bad.always(&blob_path(REPOSITORY, &image.blob(1).digest), [Behaviour::status(500)]);
    bad.always(&blob_path(REPOSITORY, &image.blob(2).digest), [Behaviour::Cut { after_bytes: 30_000 }]);
    pull(&mirrored(&origin, &[empty.url(), gone, bad.url()]), &origin, &image);
    // Nobody has what the mirror's lie names, and the mirror's manifest is not that either.
    for registry in [&empty, &bad, &origin] {
        assert_eq!(registry.count("GET", &manifest_path(REPOSITORY, "1")), 1);
    }
    assert_eq!(origin.count("HEAD", ""), 0);
    assert_eq!(origin.count("GET", &image.blob(0).digest), 0, "the mirror had it");
    let sent = origin.bytes_sent(&image.blob(2).digest);
    assert_eq!(sent, image.blob(2).bytes.len() as u64 - 30_000, "what the mirror gave was thrown away");
    let requests = empty.requests();
    let asked: BTreeSet<_> = requests.iter().map(|one| (&one.request.method, &one.request.path)).collect();
    assert_eq!(asked.len(), requests.len(), "it was asked again for what it lacks");
}

#[test]
fn origin_fills_in_for_a_mirror_whose_blobs_are_corrupt() {
    let image = Image::small();
    let (origin, mirror) = (serve(&image), serve(&image));
    mirror.always(&blob_path(REPOSITORY, &image.blob(2).digest), [Behaviour::FlipByte { at: 7 }]);
    pull(&mirrored(&origin, &[mirror.url()]), &origin, &image);
}

fn trusting(authority: &Authority, registry: &ScriptedRegistry) -> Larder {
    let larder = Larder::new();
    let ca = authority.write_to(&larder.home());
    larder.config(&format!(
        "[registry]\nca_file = \"{}\"\nhosts.\"{}\".scheme = \"https\"\n",
        ca.display(),
        registry.host()
    ))
}

#[test]
fn custom_authority_is_trusted_where_it_is_configured_and_nowhere_else() {
    let (image, authority) = (Image::small(), Authority::new());
    let registry = serve_with(Wire::Tls(authority.clone()), &image);
    pull(&trusting(&authority, &registry), &registry, &image);
    registry.clear_requests();
    for larder in [
        trusting(&Authority::new(), &registry),
        Larder::new().config(&format!("[registry]\nhosts.\"{}\".scheme = \"https\"\n", registry.host())),
    ] {
        let larder = larder.env("LARDER_REGISTRY__RETRIES_MAX", "0");
        is_denied(&larder, &registry, "certificate");
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn authority_that_cannot_be_read_is_named() {
    let registry = serve(&Image::small());
    let larder = Larder::new();
    let empty = larder.home().join("empty.pem");
    fs::write(&empty, "").unwrap();
    for path in [empty, larder.home().join("missing.pem")] {
        let larder = Larder::new().config(&format!("[registry]\nca_file = {path:?}\n"));
        is_denied(&larder, &registry, path.to_str().unwrap());
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn http2_carries_all_requests_over_one_connection() {
    let authority = Authority::new();
    let layers = (0..8).map(|seed| Layer::random(20_000, seed).compress(Compression::Plain));
    let image = layers.fold(Image::build("linux/amd64"), ImageBuilder::layer).finish();
    let registry = serve_with(Wire::Http2(authority.clone()), &image);
    registry.require(bearer());
    let larder = trusting(&authority, &registry).login(&registry.host(), USER, PASSWORD);
    pull(&larder, &registry, &image);
    for exchange in registry.requests() {
        assert_eq!(exchange.request.version, "HTTP/2.0", "{}", exchange.request.path);
    }
    assert_eq!(registry.connections(), 1);
}

#[test]
fn connections_are_used_again_and_their_number_is_bounded() {
    let layers = (0..20).map(|seed| Layer::random(5_000, seed));
    let image = layers.fold(Image::build("linux/amd64"), ImageBuilder::layer).finish();
    let registry = serve(&image);
    registry.require(bearer());
    let larder = Larder::new().login(&registry.host(), USER, PASSWORD);
    let one = larder.config("[registry]\nconnections_per_host_max = 1\n");
    pull(&one, &registry, &image);
    // One that has just served may not be free yet when the next request leaves.
    let (connections, requests) = (registry.connections(), registry.requests().len());
    assert!(connections * 3 <= requests, "{connections} connections for {requests} requests");
    assert_eq!(registry.in_flight_max(), 1);
    let registry = serve(&image);
    pull(&Larder::new(), &registry, &image);
    // Another may still be under way for a request that then finds one free.
    assert!(registry.connections() <= 12, "{}", registry.connections());
    assert!(registry.in_flight_max() <= 6);
}

#[test]
fn after_a_cut_only_the_rest_is_asked_for() {
    let image = Image::of_noise(1, 300_000);
    let registry = serve(&image);
    let layer = image.blob(1);
    let path = blob_path(REPOSITORY, &layer.digest);
    registry.script(&path, [Behaviour::Cut { after_bytes: 100_000 }]);
    registry.script(&path, [Behaviour::Cut { after_bytes: 50_000 }]);
    pull(&Larder::new(), &registry, &image);
    let requests = registry.requests();
    let blob: Vec<_> = requests.iter().filter(|one| one.request.path == path).collect();
    let ranges: Vec<_> = blob.iter().map(|one| one.request.header("range")).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-"), Some("bytes=150000-")]);
    let tag = format!("\"{}\"", layer.digest);
    assert_eq!(blob[1].request.header("if-range"), Some(tag.as_str()));
    assert_eq!(registry.bytes_sent(&path), layer.bytes.len() as u64);
}

#[test]
fn retry_after_is_honoured() {
    let image = Image::small();
    let registry = serve(&image);
    let larder = Larder::new().config("[registry]\nretry_wait_ms_min = 1\n");
    let path = manifest_path(REPOSITORY, "1");
    for method in ["HEAD", "GET"] {
        registry.script_method(method, &path, [Behaviour::retry_after(429, 1)]);
    }
    let finished = pull(&larder, &registry, &image);
    assert!(finished.elapsed >= Duration::from_secs(1), "{:?}", finished.elapsed);
    assert_eq!(authorizations(&registry, &path).len(), 2);
}

#[test]
fn retry_after_is_bounded_by_our_own_patience() {
    let image = Image::small();
    let registry = serve(&image);
    let larder = Larder::new().config("[registry]\nretry_wait_ms_min = 1\nretry_wait_ms_max = 50\n");
    let path = manifest_path(REPOSITORY, "1");
    for method in ["HEAD", "GET"] {
        registry.script_method(method, &path, [Behaviour::retry_after(503, 86_400)]);
    }
    let finished = pull(&larder, &registry, &image);
    assert!(finished.elapsed < Duration::from_secs(10));
    assert_eq!(authorizations(&registry, &path).len(), 2);
}

/// An address of this machine that is not loopback's, but leads to it.
fn outside(registry: &ScriptedRegistry) -> String {
    registry.host().replace("127.0.0.1", "0.0.0.0")
}

#[test]
fn host_beyond_loopback_is_never_spoken_to_in_clear_text_unless_configured() {
    let image = Image::small();
    let registry = serve(&image);
    let reference = format!("{}/team/app:1", outside(&registry));
    let larder =
        Larder::new().config("[registry]\nretries_max = 0\n").login(&outside(&registry), USER, PASSWORD);
    let finished = run(&larder, &reference).expect_code(1);
    assert!(finished.stderr.contains(&outside(&registry)), "{}", finished.stderr);
    assert!(registry.requests().is_empty());
    let scheme = format!("[registry]\nhosts.\"{}\".scheme = \"http\"\n", outside(&registry));
    let _ = run(&larder.config(&scheme), &reference).expect_code(0);
    assert_eq!((registry.count("HEAD", ""), registry.count("GET", "")), (1, 4));
}

#[test]
fn nonsense_in_the_configuration_is_named_without_its_secrets() {
    let registry = serve(&Image::small());
    for (settings, says) in [
        ("retrys_max = 1", "retrys_max"),
        ("hosts.\"r.example\".scheme = \"ftp\"", "ftp"),
        ("hosts.\"r.example\".mirrors = [\"https://me:hunter2-and-more@m.example\"]", "credentials"),
        ("hosts.\"r.example\".mirrors = [\"m.example\"]", "not a URL"),
        ("connections_per_host_max = 0", "connections_per_host_max"),
    ] {
        let larder = Larder::new().config(&format!("[registry]\n{settings}\n"));
        let finished = run(&larder, &registry.reference("team/app:1"));
        assert!(matches!(finished.code, Some(1 | 2)), "{settings}: {}", finished.stderr);
        assert!(finished.stderr.contains(says), "{settings}: {}", finished.stderr);
        assert_tells_no_secret(&finished);
    }
    assert!(registry.requests().is_empty());
}
