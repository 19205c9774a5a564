//! What the documentation says is there, and what is there is in the documentation.

use std::collections::BTreeSet;

use super::{files, product, read, root};

const ARCHITECTURE_LINES_MAX: usize = 300;
/// Lines of a program that still shows at a glance how a thing is used.
const EXAMPLE_LINES_MAX: usize = 60;

/// The words of `text` between single backticks.
fn code(text: &str) -> BTreeSet<&str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// The names of the fields of every struct in `source` that is part of the configuration.
fn keys(source: &str) -> Vec<&str> {
    let mut keys = Vec::new();
    for part in source.split("#[serde(deny_unknown_fields").skip(1) {
        let (head, body) = part.split_once('{').expect("a struct has a body");
        if !head.contains("Config") && !head.contains("struct S3") {
            continue;
        }
        let body = body.split_once("\n}").expect("a struct ends").0;
        for line in body.lines().map(str::trim).filter(|line| !line.starts_with(['/', '#'])) {
            let field = line.split_once(": ").map(|(name, _)| name.rsplit(' ').next().unwrap());
            keys.extend(field);
        }
    }
    keys
}

#[test]
fn every_setting_is_documented() {
    let page = read("docs/configuration.md");
    let documented = code(&page);
    let mut count = 0;
    for (path, source) in product() {
        for key in keys(&source) {
            count += 1;
            let is_section = || documented.contains(format!("[{key}]").as_str());
            assert!(
                documented.contains(key) || is_section(),
                "docs/configuration.md does not know `{key}` of {path}"
            );
        }
    }
    assert!(count > 50, "only {count} settings were found");
}

#[test]
fn every_metric_is_documented_and_every_documented_one_exists() {
    let (page, source) = (read("docs/metrics.md"), read("shared/runtime/src/metrics.rs"));
    let exists: BTreeSet<&str> = source.split('"').filter(|text| text.starts_with("larder_")).collect();
    assert!(exists.len() >= 6);
    let is_name = |text: &&str| {
        text.starts_with("larder_") && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
    };
    let documented: BTreeSet<&str> = code(&page).into_iter().filter(is_name).collect();
    assert_eq!(documented, exists);
}

#[test]
fn every_command_is_documented_and_every_documented_one_exists() {
    let (page, source) = (read("docs/cli.md"), read("services/cli/src/args.rs"));
    let body = source.split_once("pub(crate) enum Command {").unwrap().1.split_once("\n}").unwrap().0;
    let variant = |line: &str| {
        let name = line.strip_prefix("    ")?.trim_end_matches([',', '{', ' ']);
        let is_name =
            name.starts_with(|c: char| c.is_ascii_uppercase()) && name.chars().all(char::is_alphanumeric);
        is_name.then(|| name.to_ascii_lowercase())
    };
    let commands: BTreeSet<String> = body.lines().filter_map(variant).collect();
    assert!(commands.len() > 8, "{commands:?}");
    let headings = page.lines().filter_map(|line| line.strip_prefix("### `larder "));
    let documented = headings.map(|rest| rest.split([' ', '`']).next().unwrap().to_owned());
    assert_eq!(documented.collect::<BTreeSet<_>>(), commands);
}

#[test]
fn links_between_pages_lead_somewhere() {
    let pages = files("docs", ".md").into_iter().chain(["README.md".to_owned()]);
    for page in pages {
        let text = read(&page);
        let folder = root().join(&page).parent().unwrap().to_owned();
        for target in
            text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
        {
            let path = target.split('#').next().unwrap();
            let is_local = !path.contains("://") && !path.is_empty();
            assert!(!is_local || folder.join(path).exists(), "{page} links to {path}, which is not there");
        }
    }
}

#[test]
fn every_test_that_a_page_names_exists() {
    let mut named = 0;
    for page in files("docs", ".md") {
        let text = read(&page);
        for path in
            code(&text).into_iter().filter(|code| code.contains("::") && !code.contains([' ', '(', '<']))
        {
            let first = path.split("::").next().unwrap();
            if !root().join(format!("tests/suite/{first}.rs")).exists() {
                continue;
            }
            let (module, name) = path.rsplit_once("::").unwrap();
            let source = read(&format!("tests/suite/{}.rs", module.replace("::", "/")));
            assert!(source.contains(&format!("fn {name}()")), "{page} names {path}, which does not exist");
            named += 1;
        }
    }
    assert!(named > 10, "only {named} tests are named");
}

#[test]
fn example_of_the_provider_is_the_program_that_is_tested() {
    let (page, program) = (read("docs/provider.md"), read("services/cli/examples/build_tool.rs"));
    let blocks: Vec<&str> =
        page.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks, [program.as_str()]);
    let lines = program.lines().count();
    assert!(lines <= EXAMPLE_LINES_MAX, "{lines} lines of at most {EXAMPLE_LINES_MAX}");
}

#[test]
fn every_operation_of_the_provider_is_documented() {
    let page = read("docs/provider.md");
    let documented = code(&page);
    let mut count = 0;
    for file in ["lib", "source", "content"] {
        let source = read(&format!("shared/provider/src/{file}.rs"));
        let traits = source.split("pub trait ").skip(1).map(|rest| rest.split_once("\n}").unwrap().0);
        for body in traits.filter(|body| !body.starts_with("ContentWriter")) {
            for rest in body.split("fn ").skip(1) {
                let name = rest.split('(').next().unwrap();
                count += 1;
                assert!(documented.contains(name), "docs/provider.md does not know `{name}`");
            }
        }
    }
    assert!(count > 30, "only {count} operations were found");
}

#[test]
fn architecture_can_be_read_in_one_sitting() {
    let lines = read("docs/architecture.md").lines().count();
    assert!(lines <= ARCHITECTURE_LINES_MAX, "{lines} lines of at most {ARCHITECTURE_LINES_MAX}");
}
