//! Where a registry would like to send us, and what we would show there.
//!
//! A name that resolves to something else the second time needs a resolver of its own: `larder_registry`'s
//! `names_are_screened_where_the_connection_is_made` covers it, and its `a_server_sends_us_no_closer_than_it_is` the classes of
//! addresses that a registry on loopback cannot show.

use std::time::Duration;

use larder_tests::scripted::{ANY_PATH, Auth, Authority, Bearer, Wire};
use larder_tests::{Behaviour, Gate, Image, ScriptedRegistry};

use super::{METHODS, REPOSITORY, Scene, assert_kept_secret, assert_no_credentials_at, tagged};

const USER: &str = "ann";
const PASSWORD: &str = "hunter2-and-more";
/// Both, as basic authentication sends them.
const ENCODED: &str = "YW5uOmh1bnRlcjItYW5kLW1vcmU=";

fn bearer(realm: Option<String>) -> Auth {
    let credentials = Some((USER.to_owned(), PASSWORD.to_owned()));
    Auth::Bearer(Bearer { realm, credentials })
}

/// A scene whose registry asks for a token from `realm`, with the user's password in the docker configuration.
fn with_realm(realm: &str) -> Scene {
    let scene = Scene::small().login(USER, PASSWORD);
    scene.registry.require(bearer(Some(realm.to_owned())));
    scene
}

fn localhost(registry: &ScriptedRegistry) -> String {
    registry.url().replace("127.0.0.1", "localhost")
}

#[test]
fn f14_realm_that_is_not_the_registrys_is_never_asked() {
    let elsewhere = ScriptedRegistry::start();
    let (address, port) = (localhost(&elsewhere), elsewhere.host().replace("127.0.0.1:", ""));
    for (realm, rule) in [
        (format!("{address}/token"), "neither the registry's nor among realm_hosts"),
        (format!("http://127.0.0.2:{port}/token"), "neither the registry's nor among realm_hosts"),
        ("https://auth.docker.io/token".to_owned(), "neither the registry's nor among realm_hosts"),
        ("http://169.254.169.254/latest/meta-data".to_owned(), "off limits"),
        ("http://2852039166/".to_owned(), "off limits"),
        ("http://0xa9fea9fe/".to_owned(), "off limits"),
        ("http://0251.0376.0251.0376/".to_owned(), "off limits"),
        ("http://[::ffff:169.254.169.254]/".to_owned(), "off limits"),
        ("http://[fd00:ec2::254]/".to_owned(), "off limits"),
        (format!("http://0.0.0.0:{port}/token"), "off limits"),
        (format!("http://me:secret@127.0.0.1:{port}/token"), "credentials in the URL"),
        ("file:///etc/passwd".to_owned(), "neither http nor https"),
        ("/token".to_owned(), "not a URL"),
        (String::new(), "not a URL"),
    ] {
        let scene = with_realm(&realm);
        let finished = scene.fails_without_a_trace(1, &["token realm", rule]);
        assert_eq!(scene.registry.requests().len(), 1, "{realm}");
        assert_kept_secret(&finished, "secret");
        assert_kept_secret(&finished, PASSWORD);
        assert_no_credentials_at(&scene.registry);
    }
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn f14_realm_that_the_operator_names_is_asked_but_never_a_metadata_service() {
    let issuer = ScriptedRegistry::start();
    let token = r#"{"token":"t"}"#.into();
    issuer.always("/token", [Behaviour::Status { code: 200, headers: Vec::new(), body: token }]);
    let allowed = "realm_hosts = [\"localhost\", \"169.254.169.254\"]\n";
    let scene = with_realm(&format!("{}/token", localhost(&issuer))).config(allowed);
    // The token is none of this registry's own, which then refuses it.
    scene.fails(1, &["credentials"]);
    assert_eq!(issuer.count("GET", "/token"), 1);
    with_realm("http://169.254.169.254/token").config(allowed).fails(1, &["off limits"]);
}

#[test]
fn f14_realm_in_clear_text_of_a_registry_behind_tls_is_refused() {
    let plain = ScriptedRegistry::start();
    let scene = behind_tls();
    scene.registry.require(bearer(Some(format!("{}/token", plain.url()))));
    scene.fails(1, &["https to http"]);
    assert!(plain.requests().is_empty());
}

/// A scene whose registry speaks TLS only, and whose larder trusts it.
fn behind_tls() -> Scene {
    let authority = Authority::new();
    let scene = Scene::at(ScriptedRegistry::start_with(Wire::Tls(authority.clone())), Image::small());
    let ca = authority.write_to(&scene.larder.home());
    let host = scene.registry.host();
    scene.config(&format!("ca_file = \"{}\"\nhosts.\"{host}\".scheme = \"https\"\n", ca.display()))
}

#[test]
fn f15_redirects_to_where_no_server_may_send_us_are_refused() {
    let elsewhere = ScriptedRegistry::start();
    let port = elsewhere.host().replace("127.0.0.1:", "");
    for (to, rule) in [
        ("http://169.254.169.254/latest/meta-data?sig=s3cret".to_owned(), "off limits"),
        ("http://2852039166/".to_owned(), "off limits"),
        (format!("http://[::ffff:0.0.0.0]:{port}/"), "off limits"),
        (format!("http://0:{port}/"), "off limits"),
        ("http://100.100.100.200/".to_owned(), "off limits"),
        (format!("http://me:s3cret@127.0.0.1:{port}/"), "credentials in the URL"),
        ("file:///etc/passwd".to_owned(), "neither http nor https"),
        ("gopher://127.0.0.1/".to_owned(), "neither http nor https"),
        ("http://[".to_owned(), "not a URL"),
    ] {
        let redirect = || [Behaviour::Redirect { to: to.clone() }];
        for methods in [&[][..], METHODS[0], METHODS[1]] {
            let scene = Scene::small();
            scene.always_of_manifest(methods, &redirect());
            if methods.is_empty() {
                scene.registry.always(&scene.blob(2), redirect());
            }
            let finished = scene.fails(1, &["redirects to", rule]);
            assert_kept_secret(&finished, "s3cret");
        }
    }
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn f15_redirect_from_tls_to_clear_text_is_refused() {
    let plain = ScriptedRegistry::serving(REPOSITORY, "1", &Image::small());
    let scene = behind_tls();
    let to = format!("{}{}", plain.url(), scene.blob(2));
    scene.registry.always(&scene.blob(2), [Behaviour::Redirect { to }]);
    scene.fails(1, &["https to http"]);
    scene.assert_hidden(2);
    assert!(plain.requests().is_empty());
}

#[test]
fn f15_redirects_in_a_circle_end() {
    for methods in METHODS {
        let scene = Scene::small();
        scene.always_of_manifest(methods, &[Behaviour::Redirect { to: tagged() }]);
        scene.fails_without_a_trace(1, &["too many redirects"]);
        let requests = scene.registry.requests();
        assert_eq!(requests.iter().filter(|one| one.status == 307).count(), 6);
    }
}

#[test]
fn f15_redirect_to_storage_is_followed_without_credentials() {
    let storage = ScriptedRegistry::serving(REPOSITORY, "1", &Image::small());
    let scene = Scene::small().login(USER, PASSWORD);
    scene.registry.require(Auth::Basic { user: USER.to_owned(), password: PASSWORD.to_owned() });
    for position in 0..3 {
        let path = scene.blob(position);
        let to = format!("{}{path}?X-Signature=s3cret", storage.url());
        scene.registry.always(&path, [Behaviour::Redirect { to }]);
    }
    let finished = scene.pull_with(&["-vv"]).expect_code(0);
    scene.assert_whole();
    // The password was shown to the registry, and there it stayed.
    let requests = scene.registry.requests();
    let of_blob = requests.iter().filter(|one| one.request.path.contains("/blobs/"));
    let shown: Vec<_> = of_blob.map(|one| one.request.header("authorization")).collect();
    assert_eq!(shown, [Some(format!("Basic {ENCODED}").as_str()); 3]);
    assert_eq!(storage.count("GET", "/blobs/"), 3);
    assert_no_credentials_at(&storage);
    for secret in [PASSWORD, ENCODED, "s3cret"] {
        assert_kept_secret(&finished, secret);
    }
}

#[test]
fn f15_place_that_we_are_led_to_gets_no_answer_to_its_challenge() {
    let storage = ScriptedRegistry::serving(REPOSITORY, "1", &Image::small());
    storage.require(Auth::Basic { user: USER.to_owned(), password: PASSWORD.to_owned() });
    let scene = Scene::small().login(USER, PASSWORD);
    scene
        .registry
        .always(&scene.blob(2), [Behaviour::Redirect { to: format!("{}{}", storage.url(), scene.blob(2)) }]);
    scene.fails(1, &["credentials"]);
    assert_no_credentials_at(&storage);
    // And led back, neither.
    let back = format!("{}{}?back", scene.registry.url(), scene.blob(2));
    storage.clear_requests();
    scene.registry.clear_requests();
    scene.registry.require(Auth::Basic { user: USER.to_owned(), password: PASSWORD.to_owned() });
    storage.always(ANY_PATH, [Behaviour::Redirect { to: back }]);
    scene.fails(1, &[]);
    let requests = scene.registry.requests();
    let led_back = requests.iter().filter(|one| one.request.query == "back");
    for exchange in led_back {
        assert_eq!(exchange.request.header("authorization"), None);
    }
}

#[test]
fn f15_redirected_bytes_are_hashed_like_any() {
    let storage = ScriptedRegistry::serving(REPOSITORY, "1", &Image::small());
    let scene = Scene::small();
    let to = format!("{}{}", storage.url(), scene.blob(2));
    scene.registry.always(&scene.blob(2), [Behaviour::Redirect { to }]);
    storage.always(&scene.blob(2), [Behaviour::FlipByte { at: 5 }]);
    scene.fails(4, &[&scene.image.blob(2).digest]);
    scene.assert_hidden(2);
}

#[test]
fn f16_link_and_location_headers_of_a_success_lead_nowhere() {
    let elsewhere = ScriptedRegistry::start();
    let scene = Scene::small();
    let link = || Behaviour::Header("Link", format!("<{}/v2/next?n=1>; rel=\"next\"", elsewhere.url()));
    let location = || Behaviour::Header("Location", format!("{}/x", elsewhere.url()));
    let own = || Behaviour::Header("Refresh", "0; url=/v2/again".to_owned());
    for method in ["HEAD", "GET"] {
        scene.registry.always_method(method, ANY_PATH, [link(), location(), own()]);
    }
    scene.succeeds();
    // One for what the tag stands for; one for the manifest and one for each blob.
    assert_eq!((scene.registry.count("HEAD", ""), scene.registry.count("GET", "")), (1, 4));
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn f18_registry_that_takes_no_token_is_asked_twice_and_no_more() {
    let scene = Scene::small().login(USER, PASSWORD);
    scene.registry.require(bearer(None));
    scene.always_of_manifest(METHODS[0], &[Behaviour::Unauthorized]);
    let finished = scene.judge(scene.pull_with(&["-vv"]), 1, &["credentials"]);
    let asked = ["HEAD", "GET"].map(|method| scene.registry.count(method, "/manifests/"));
    assert_eq!(asked, [2, 0]);
    assert_eq!(scene.registry.count("GET", "/token"), 1);
    assert_kept_secret(&finished, PASSWORD);
    assert_kept_secret(&finished, "token-");
}

#[test]
fn f18_registry_that_takes_no_password_is_asked_twice_and_no_more() {
    let scene = Scene::small().login(USER, "another");
    scene.registry.require(Auth::Basic { user: USER.to_owned(), password: PASSWORD.to_owned() });
    scene.fails_without_a_trace(1, &["credentials"]);
    assert_eq!(scene.registry.requests().len(), 2);
    let scene = Scene::small();
    scene.registry.require(Auth::Basic { user: USER.to_owned(), password: PASSWORD.to_owned() });
    scene.fails_without_a_trace(1, &["credentials"]);
    assert_eq!(scene.registry.requests().len(), 1, "without a password there is nothing to try");
}

#[test]
fn f18_token_endpoint_that_never_ends_is_cut_off() {
    let scene = Scene::small();
    scene.registry.require(Auth::Bearer(Bearer::default()));
    scene.registry.always("/token", [Behaviour::Endless]);
    scene.fails_without_a_trace(1, &["token", "65536"]);
    assert!(scene.registry.bytes_sent("/token") < 16 << 20);
}

#[test]
fn f18_token_that_ends_mid_blob_is_renewed_once_and_the_blob_resumed() {
    let scene = Scene::of(Image::of_noise(1, 100_000)).login(USER, PASSWORD);
    scene.registry.require(bearer(None));
    let (gate, after_bytes) = (Gate::new(), 60_000);
    let cut = [Behaviour::Cut { after_bytes }, Behaviour::Hold { after_bytes, gate: gate.clone() }];
    scene.registry.script(&scene.blob(1), cut);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            gate.await_reached(1, Duration::from_secs(20));
            scene.registry.revoke_tokens();
            gate.open();
        });
        scene.succeeds();
    });
    assert_eq!(scene.registry.count("GET", "/token"), 2);
    let rest = Some("bytes=60000-".to_owned());
    assert_eq!(scene.ranges(1), [None, rest.clone(), rest]);
}
