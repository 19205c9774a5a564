//! A view that another tool wrote.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::view::named;

#[derive(Deserialize)]
struct Index<'a> {
    #[serde(rename = "schemaVersion")]
    _schema_version: u32,
    #[serde(borrow, default, deserialize_with = "null_as_empty")]
    manifests: Vec<&'a RawValue>,
}

/// Tools that remove the last entry write `null`.
fn null_as_empty<'de, D: serde::Deserializer<'de>>(json: D) -> Result<Vec<&'de RawValue>, D::Error> {
    Ok(Option::deserialize(json)?.unwrap_or_default())
}

/// What it lists.
#[derive(Default)]
pub(super) struct Foreign<'a> {
    /// By name; of several with one name the first, as other tools take it.
    pub(super) named: BTreeMap<String, &'a str>,
    /// What cannot be a name here.
    pub(super) kept: Vec<&'a str>,
}

impl<'a> Foreign<'a> {
    pub(super) fn parse(text: &'a [u8]) -> Result<Self, serde_json::Error> {
        let index: Index<'a> = serde_json::from_slice(text)?;
        let mut foreign = Self::default();
        for entry in index.manifests {
            let entry = entry.get();
            match named(entry) {
                Some((name, _)) if !foreign.named.contains_key(&name) => {
                    foreign.named.insert(name, entry);
                }
                _ => foreign.kept.push(entry),
            }
        }
        Ok(foreign)
    }
}

/// An entry as larder writes its own: with nothing between its tokens, and so on one line, for no string of JSON holds a line break.
pub(super) fn compact(entry: &str) -> String {
    let (mut in_string, mut is_escaped) = (false, false);
    let kept = entry.chars().filter(|&character| {
        let is_kept = in_string || !character.is_ascii_whitespace();
        match character {
            '"' if !is_escaped => in_string = !in_string,
            '\\' if in_string && !is_escaped => {
                is_escaped = true;
                return true;
            }
            _ => {}
        }
        is_escaped = false;
        is_kept
    });
    kept.collect()
}
