use std::collections::BTreeMap;

use super::*;

/// What is listed: a name, and labels.
fn corpus() -> Vec<(&'static str, BTreeMap<String, String>)> {
    let entry = |name, labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        (name, labels.collect())
    };
    vec![
        entry("plain", &[]),
        entry("one", &[("kind", "layer")]),
        entry("two", &[("kind", "config-1.0_b"), ("a longer label", "yes")]),
        entry("one", &[("with \\ and \"", "yes"), ("dotted.name", "x, y")]),
    ]
}

fn matching(filters: &[&str]) -> Result<Vec<usize>, FilterError> {
    let filters: Vec<String> = filters.iter().map(|&filter| filter.to_owned()).collect();
    let filters = Filters::parse(&filters)?;
    let corpus = corpus();
    let is_match = |(name, labels): &(&'static str, BTreeMap<String, String>)| {
        filters.match_fields(|path| match path[0].as_str() {
            "name" => Some(*name),
            "labels" => labels.get(&path[1..].join(".")).map(String::as_str),
            _ => None,
        })
    };
    Ok(corpus.iter().enumerate().filter(|(_, entry)| is_match(entry)).map(|(number, _)| number).collect())
}

fn check(filter: &str, expected: &[usize]) {
    assert_eq!(matching(&[filter]), Ok(expected.to_vec()), "{filter}");
}

fn refused(filter: &str, at: usize) {
    let FilterError(message) = matching(&[filter]).unwrap_err();
    assert!(message.contains(&format!(" at byte {at}: ")), "{message}");
}

#[test]
fn fields_are_present_equal_different_or_match() {
    check("", &[0, 1, 2, 3]);
    check("name", &[0, 1, 2, 3]);
    check("other", &[]);
    check("labels.kind", &[1, 2]);
    check("name==one", &[1, 3]);
    check("name == one", &[1, 3]);
    check("name!=one", &[0, 2]);
    check("other!=one", &[0, 1, 2, 3]);
    check("other==\"\"", &[]);
    check("labels.kind==config-1.0_b", &[2]);
    check("name~=^(one|plain)$", &[0, 1, 3]);
    check("labels.kind~=lay", &[1]);
    check("other~=^$", &[0, 1, 2, 3]);
}

#[test]
fn all_selectors_of_one_filter_have_to_match_and_one_filter_of_all() {
    check("name==one,labels.kind", &[1]);
    check("name==one, labels.kind!=layer", &[3]);
    check("name==one,name==two", &[]);
    assert_eq!(matching(&["name==two", "name==plain"]), Ok(vec![0, 2]));
    assert_eq!(matching(&["name==nobody", ""]), Ok(vec![0, 1, 2, 3]));
    assert_eq!(matching(&[]), Ok(vec![0, 1, 2, 3]));
}

#[test]
fn quotes_hold_what_has_no_other_place() {
    check(r#"labels."a longer label"==yes"#, &[2]);
    check(r#"labels."with \\ and \""==yes"#, &[3]);
    check(r#"labels.dotted.name=="x, y""#, &[3]);
    check(r#"labels."dotted".name"#, &[3]);
    check(r#"name=="\x6f\156\u0065""#, &[1, 3]);
    check("name~=/^[a-z]{3}$/", &[1, 2, 3]);
    check(r"name~=|^\x6f|", &[1, 3]);
    check(r"labels.kind~=/\\./,name", &[2]);
}

#[test]
fn what_is_no_filter_is_refused_where_it_goes_wrong() {
    refused("name==one,", 10);
    refused("labels.", 7);
    refused("name=one", 5);
    refused("name===one", 7);
    refused("name~=,other", 6);
    refused("name==one labels", 9);
    refused("name ,other", 5);
    refused("?name", 0);
    refused("labels.|kind|==layer", 7);
    refused("name==/one/", 6);
    refused("labels.ns/key==value", 9);
    refused("name==\"one", 6);
    refused("name~=/one\n/", 6);
    refused(r#"name=="\q""#, 8);
    refused(r#"name=="\xg0""#, 8);
    refused(r#"name=="\400""#, 8);
    refused(r#"name=="\ud800""#, 8);
    refused(r#"name=="\xff""#, 12);
    refused("name~=a(", 8);
    refused("name~=(a{1000}){1000}", 21);
    assert!(matching(&[&"a".repeat(70_000)]).is_err());
}
