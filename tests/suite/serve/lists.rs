//! Lists of tags and referrers: what is here and what upstream has, as one.

use larder_tests::client::Response;
use larder_tests::image::{Layer, sha256};
use larder_tests::scripted::ANY_PATH;
use larder_tests::{Behaviour, Image};
use serde_json::{Value, json};

use super::{REPOSITORY, World, assert_refused};

const TAGS: &str = "/v2/team/app/tags/list";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn image(seed: u64) -> Image {
    Image::build("linux/amd64").layer(Layer::random(500, seed)).finish()
}

fn json_of(answer: &Response) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// The texts at `key` of each entry of a list.
fn texts(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn digests(answer: &Response) -> Vec<String> {
    let list = json_of(answer);
    assert_eq!((&list["schemaVersion"], &list["mediaType"]), (&2.into(), &INDEX.into()));
    assert_eq!(answer.header("content-type"), Some(INDEX));
    list["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["digest"].as_str().unwrap().to_owned())
        .collect()
}

/// The target of the `Link` to the next page.
fn next(answer: &Response) -> Option<String> {
    let link = answer.header("link")?;
    let target = link.strip_prefix('<')?.strip_suffix(">; rel=\"next\"");
    Some(target.unwrap_or_else(|| panic!("{link}")).to_owned())
}

/// All pages from `target` on.
fn pages(world: &World, target: &str) -> Vec<Response> {
    let mut pages = vec![world.get(target)];
    while let Some(target) = next(pages.last().unwrap()) {
        assert!(pages.len() < 20, "pages without end");
        pages.push(world.get(&target));
    }
    pages
}

fn sorted(mut digests: Vec<String>) -> Vec<String> {
    digests.sort();
    digests
}

#[test]
fn tags_of_upstream_and_of_here_are_one_sorted_list() {
    let world = World::start();
    for (seed, tag) in ["b", "latest", "1.10", "Z"].into_iter().enumerate() {
        world.put(tag, &image(seed as u64));
    }
    world.push(REPOSITORY, "mine", &image(9), &[]);
    world.push(REPOSITORY, "b", &image(10), &[]);
    world.push("team/app2", "other", &image(11), &[]);
    let list = json_of(&world.get(TAGS));
    assert_eq!(list["name"], REPOSITORY);
    assert_eq!(texts(&list["tags"]), ["1.10", "Z", "b", "latest", "mine"]);
    assert_eq!(texts(&json_of(&world.get("/v2/team/app2/tags/list"))["tags"]), ["other"]);
    let head = world.send("HEAD", TAGS, &[], &[]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(world.registry.count("GET", TAGS), 1, "the list is remembered for a while");
}

#[test]
fn f35_pages_of_tags_are_cut_by_n_and_last_and_linked() {
    let world = World::start();
    for (seed, tag) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        world.put(tag, &image(seed as u64));
    }
    let page = |query: &str| world.get(&format!("{TAGS}?{query}"));
    for (query, expected, is_cut) in [
        ("n=2", vec!["a", "b"], true),
        ("n=2&last=b", vec!["c", "d"], true),
        ("n=2&last=d", vec!["e"], false),
        ("last=bb", vec!["c", "d", "e"], false),
        ("n=5", vec!["a", "b", "c", "d", "e"], false),
        ("n=10000", vec!["a", "b", "c", "d", "e"], false),
        ("n=0", vec![], false),
        ("last=e", vec![], false),
    ] {
        let answer = page(query);
        assert_eq!(texts(&json_of(&answer)["tags"]), expected, "{query}");
        assert_eq!(next(&answer).is_some(), is_cut, "{query}");
    }
    for query in ["n=-1", "n=x", "n=", "n=1.5", "n=99999999999999999999999"] {
        assert_refused(&page(query), 400, "PAGINATION_NUMBER_INVALID");
    }
    let upstream = world.registry.host();
    for target in [format!("{TAGS}?n=1"), format!("{TAGS}?n=2&ns={upstream}")] {
        let pages = pages(&world, &target);
        let all: Vec<String> = pages.iter().flat_map(|page| texts(&json_of(page)["tags"])).collect();
        assert_eq!(all, ["a", "b", "c", "d", "e"], "{target}");
        let is_named = target.contains("ns=");
        assert!(pages.iter().all(|page| page.header("oci-namespace").is_some() == is_named), "{target}");
    }
}

#[test]
fn tags_of_here_are_listed_with_a_warning_while_upstream_is_away() {
    let world = World::with("fresh_s = 0\n", super::OPEN);
    assert_refused(&world.get(TAGS), 404, "NAME_UNKNOWN");
    world.put("theirs", &image(1));
    world.registry.always(ANY_PATH, [Behaviour::status(500)]);
    let away = world.get(TAGS);
    assert!(matches!(away.status, 502 | 504), "{} {}", away.status, away.text());
    world.push(REPOSITORY, "ours", &image(2), &[]);
    let here = world.get(TAGS);
    assert_eq!(texts(&json_of(&here)["tags"]), ["ours"]);
    assert!(here.header("warning").is_some());
    world.registry.clear_scripts();
    let both = world.get(TAGS);
    assert_eq!(texts(&json_of(&both)["tags"]), ["ours", "theirs"]);
    assert_eq!(both.header("warning"), None);
}

#[test]
fn referrers_of_upstream_and_of_here_are_one_list_that_can_be_filtered_and_cut() {
    let world = World::start();
    let subject = image(1);
    world.put("1", &subject);
    let artifact = |kind: &str, text: &str| Image::artifact(kind, text.as_bytes(), Some(&subject.root));
    let theirs = [artifact("application/sbom", "theirs"), artifact("application/signature", "theirs")];
    let ours = [artifact("application/sbom", "ours"), artifact("application/scan", "ours")];
    for (position, artifact) in theirs.iter().enumerate() {
        world.put(&format!("theirs-{position}"), artifact);
    }
    for (position, artifact) in ours.iter().enumerate() {
        super::push(&world.host(), REPOSITORY, &format!("ours-{position}"), artifact, &[]);
    }
    // One of theirs is here, too: it is one.
    super::push(&world.host(), REPOSITORY, "copy", &theirs[0], &[]);
    let target = format!("/v2/{REPOSITORY}/referrers/{}", subject.root.digest);
    let all = world.get(&target);
    let digest = |image: &Image| image.root.digest.clone();
    let expected = sorted(theirs.iter().chain(&ours).map(digest).collect());
    assert_eq!(sorted(digests(&all)), expected);
    assert_eq!((all.header("oci-filters-applied"), all.header("warning")), (None, None));
    for entry in json_of(&all)["manifests"].as_array().unwrap() {
        assert!(entry["artifactType"].is_string() && entry["size"].is_u64(), "{entry}");
    }
    let sboms = world.get(&format!("{target}?artifactType=application/sbom"));
    assert_eq!(sorted(digests(&sboms)), sorted(vec![digest(&theirs[0]), digest(&ours[0])]));
    assert_eq!(sboms.header("oci-filters-applied"), Some("artifactType"));
    assert!(digests(&world.get(&format!("{target}?artifactType=application/none"))).is_empty());
    for (query, count) in [("n=1", 4), ("n=3", 4), ("n=1&artifactType=application%2Fsbom", 2)] {
        let pages = pages(&world, &format!("{target}?{query}"));
        let found: Vec<String> = pages.iter().flat_map(digests).collect();
        assert_eq!(sorted(found).len(), count, "{query}");
    }
    // What they are is read by their digests, from where they are.
    for image in theirs.iter().chain(&ours) {
        let answer = world.get(&super::manifest_path(REPOSITORY, &image.root.digest));
        super::assert_whole(&answer, &image.root);
        super::assert_whole(&world.get(&super::blob_at(image, 1)), image.blob(1));
    }
}

#[test]
fn referrers_are_found_by_the_tag_of_registries_without_that_list() {
    let world = World::start();
    let subject = image(1);
    world.put("1", &subject);
    let referrer = Image::artifact("application/sbom", b"about it", Some(&subject.root));
    world.put("about", &referrer);
    let target = format!("/v2/{REPOSITORY}/referrers/{}", subject.root.digest);
    world.registry.always(&target, [Behaviour::status(404)]);
    let mut entry = referrer.root.descriptor();
    entry["artifactType"] = "application/sbom".into();
    let list = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
    let fallback = subject.root.digest.replace(':', "-");
    world.put(&fallback, &Image::raw(INDEX, list.to_string()));
    let found = world.get(&target);
    assert_eq!(digests(&found), [referrer.root.digest.as_str()]);
    assert_eq!(found.header("warning"), None);
}

#[test]
fn what_nothing_refers_to_has_an_empty_list_and_an_upstream_that_is_away_a_warning() {
    let world = World::with("fresh_s = 0\n", super::OPEN);
    let target = format!("/v2/{REPOSITORY}/referrers/{}", sha256(b"nothing"));
    let none = world.get(&target);
    assert!(digests(&none).is_empty() && none.header("warning").is_none());
    world.registry.always(ANY_PATH, [Behaviour::status(500)]);
    let away = world.get(&target);
    assert!(digests(&away).is_empty());
    assert!(away.header("warning").is_some());
}
