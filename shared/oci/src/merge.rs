//! Putting the children of indexes together.

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{Descriptor, Digest, Document, Kind, OciError, Platform, media_type};

/// Where attestations, as BuildKit writes them, say what they are about.
const SUBJECT_ANNOTATION: &str = "vnd.docker.reference.digest";

/// Adds `additions` to the index `base`, or to an empty one. A child for a platform (system, architecture, variant, version and
/// features) takes the place of the one that was there, with the default variants filled in; an attestation takes the place of an
/// earlier one of the same image; attestations of images that are not in the result are dropped. All else of `base` stays.
///
/// The order of the result does not depend on the order of the additions: images by platform, then their attestations, then what
/// has no platform. When nothing changes the result is `base`, byte for byte.
///
/// # Errors
/// [`OciError::NotAnIndex`] when `base` is an image, [`OciError::Empty`] when there is nothing to put into a new index, and those
/// of [`Document::parse`] when the result is beyond the limits of an index.
pub fn merge(base: Option<&Document>, additions: &[Descriptor]) -> Result<Document, OciError> {
    let additions: Vec<Child> = additions.iter().map(Child::of).collect();
    let Some(base) = base else {
        let children = union(Vec::new(), additions);
        return if children.is_empty() { Err(OciError::Empty) } else { Frame::default().around(children) };
    };
    let (frame, children) = Frame::of(base)?;
    let merged = union(children.clone(), additions);
    if same(&merged, &children) { Ok(base.clone()) } else { frame.around(merged) }
}

/// An index of just `children`, in their order.
///
/// # Errors
/// [`OciError::Empty`], and those of [`Document::parse`] when there are too many.
pub fn bundle(children: &[Descriptor]) -> Result<Document, OciError> {
    if children.is_empty() {
        return Err(OciError::Empty);
    }
    Frame::default().around(children.iter().map(Child::of).collect())
}

/// Puts the index `primary` over the index `secondary`: the children of `primary`, and those of `secondary` for other platforms with
/// their attestations. All else is that of `primary`. The result is `primary` or `secondary`, byte for byte, when it has just
/// the same children.
///
/// # Errors
/// As [`merge`].
pub fn overlay(primary: &Document, secondary: &Document) -> Result<Document, OciError> {
    let (frame, over) = Frame::of(primary)?;
    let (_, under) = Frame::of(secondary)?;
    let merged = union(under.clone(), over.clone());
    if same(&merged, &over) {
        Ok(primary.clone())
    } else if same(&merged, &under) {
        Ok(secondary.clone())
    } else {
        frame.around(merged)
    }
}

/// Drops the attestations of images that `index` does not have; `index` itself, byte for byte, when there are none.
///
/// # Errors
/// As [`merge`].
pub fn without_dangling(index: &Document) -> Result<Document, OciError> {
    let (frame, children) = Frame::of(index)?;
    let kept = attached(children.clone());
    if kept.len() == children.len() { Ok(index.clone()) } else { frame.around(kept) }
}

/// Keeps only the children of `index` that `kept` names; `index` itself, byte for byte, when those are all.
///
/// # Errors
/// As [`merge`].
pub fn restrict(index: &Document, kept: &[Digest]) -> Result<Document, OciError> {
    let (frame, mut children) = Frame::of(index)?;
    let all = children.len();
    children.retain(|child| child.digest.as_ref().is_some_and(|digest| kept.contains(digest)));
    if children.len() == all { Ok(index.clone()) } else { frame.around(children) }
}

/// A child of an index, with all that its document says of it.
#[derive(Clone, PartialEq)]
struct Child {
    json: Value,
    digest: Option<Digest>,
    platform: Option<Platform>,
    subject: Option<Digest>,
}

impl Child {
    fn of(descriptor: &Descriptor) -> Self {
        Self::read(serde_json::to_value(descriptor).expect("a descriptor is plain data"))
    }

    fn read(json: Value) -> Self {
        let descriptor = serde_json::from_value::<Descriptor>(json.clone()).ok();
        let platform = descriptor.as_ref().and_then(|own| own.platform.clone());
        let subject =
            descriptor.as_ref().and_then(|own| own.annotations.get(SUBJECT_ANNOTATION)?.parse().ok());
        let digest = descriptor.map(|own| own.digest);
        Self { json, digest, platform: platform.filter(|platform| !platform.is_unknown()), subject }
    }

    /// Whether `self`, when added, takes the place of `other`.
    fn replaces(&self, other: &Self) -> bool {
        if self.subject.is_some() || other.subject.is_some() {
            return self.subject == other.subject;
        }
        match (&self.platform, &other.platform) {
            (Some(own), Some(others)) => own.is_same(others),
            (None, None) => self.digest == other.digest,
            _ => false,
        }
    }
}

fn union(mut children: Vec<Child>, additions: Vec<Child>) -> Vec<Child> {
    children.retain(|known| !additions.iter().any(|child| child.replaces(known)));
    for child in additions {
        // Of one image there can be several attestations, of one platform only one image.
        children.retain(|known| {
            let both_attest = child.subject.is_some() && known.subject.is_some();
            if both_attest { child.digest != known.digest } else { !child.replaces(known) }
        });
        children.push(child);
    }
    let mut children = attached(children);
    let place = |digest: Option<&Digest>| digest.map(|digest| digest.as_str().to_owned());
    let platforms: Vec<(Option<Digest>, Option<Platform>)> =
        children.iter().map(|child| (child.digest.clone(), child.platform.clone())).collect();
    let platform_of = |digest: &Option<Digest>| {
        platforms.iter().find(|(known, _)| known == digest).and_then(|(_, platform)| platform.clone())
    };
    children.sort_by_cached_key(|child| match (&child.platform, &child.subject) {
        (Some(platform), None) => (0, Some(platform.clone()), place(child.digest.as_ref())),
        (_, Some(_)) => (1, platform_of(&child.subject), place(child.digest.as_ref())),
        (None, None) => (2, None, place(child.digest.as_ref())),
    });
    children
}

/// Those of `children` that are not about something that is not there.
fn attached(mut children: Vec<Child>) -> Vec<Child> {
    let present: Vec<Option<Digest>> = children.iter().map(|child| child.digest.clone()).collect();
    children.retain(|child| child.subject.is_none() || present.contains(&child.subject));
    children
}

fn same(one: &[Child], other: &[Child]) -> bool {
    one.len() == other.len() && one.iter().all(|child| other.contains(child))
}

/// What an index has beside its children.
struct Frame {
    media_type: String,
    rest: Map<String, Value>,
}

impl Default for Frame {
    fn default() -> Self {
        Self { media_type: media_type::OCI_INDEX.to_owned(), rest: Map::new() }
    }
}

/// The fields in the order of the specification's examples.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    schema_version: u32,
    media_type: &'a str,
    manifests: Vec<Value>,
    #[serde(flatten)]
    rest: &'a Map<String, Value>,
}

impl Frame {
    fn of(index: &Document) -> Result<(Self, Vec<Child>), OciError> {
        if !matches!(index.kind(), Kind::Index(_)) {
            return Err(OciError::NotAnIndex(index.descriptor().digest));
        }
        let malformed = |source| OciError::Malformed { what: "index", source };
        let mut rest: Map<String, Value> = serde_json::from_slice(index.bytes()).map_err(malformed)?;
        let children = match rest.remove("manifests") {
            Some(Value::Array(children)) => children.into_iter().map(Child::read).collect(),
            _ => Vec::new(),
        };
        rest.remove("schemaVersion");
        rest.remove("mediaType");
        Ok((Self { media_type: index.media_type().to_owned(), rest }, children))
    }

    fn around(&self, children: Vec<Child>) -> Result<Document, OciError> {
        let written = Written {
            schema_version: 2,
            media_type: &self.media_type,
            manifests: children.into_iter().map(|child| child.json).collect(),
            rest: &self.rest,
        };
        let json = serde_json::to_vec(&written).expect("an index is plain data");
        Document::parse(Bytes::from(json), Some(&self.media_type))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(what: &str, platform: &str) -> Descriptor {
        let mut image = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(what.as_bytes()), 7);
        image.platform = Some(platform.parse().unwrap());
        image
    }

    fn attestation(what: &str, of: &Descriptor) -> Descriptor {
        let mut attestation = image(what, "unknown/unknown");
        let kind = "vnd.docker.reference.type".to_owned();
        attestation.annotations.insert(kind, "attestation-manifest".to_owned());
        attestation.annotations.insert(SUBJECT_ANNOTATION.to_owned(), of.digest.to_string());
        attestation
    }

    fn index(children: &[Descriptor]) -> Document {
        merge(None, children).unwrap()
    }

    fn children(index: &Document) -> Vec<Descriptor> {
        index.children().into_iter().cloned().collect()
    }

    #[test]
    fn child_of_a_platform_takes_its_place_and_its_attestation_goes() {
        let (old, new) = (image("a", "linux/amd64"), image("b", "linux/amd64"));
        let base = index(&[old.clone(), attestation("att(a)", &old)]);
        let merged = merge(Some(&base), &[new.clone(), attestation("att(b)", &new)]).unwrap();
        assert_eq!(children(&merged), [new.clone(), attestation("att(b)", &new)]);
    }

    #[test]
    fn variants_are_platforms_of_their_own_but_for_the_default_ones() {
        let arms = [image("6", "linux/arm/v6"), image("7", "linux/arm/v7")];
        assert_eq!(children(&merge(Some(&index(&arms[..1])), &arms[1..]).unwrap()), arms);
        let merged = merge(Some(&index(&[image("a", "linux/arm64")])), &[image("b", "linux/arm64/v8")]);
        assert_eq!(children(&merged.unwrap()), [image("b", "linux/arm64/v8")]);
    }

    #[test]
    fn order_of_the_additions_does_not_matter() {
        let images: Vec<Descriptor> =
            ["linux/arm64", "linux/amd64", "windows/amd64", "linux/arm/v6"].map(|at| image(at, at)).to_vec();
        let attestations: Vec<Descriptor> =
            images.iter().map(|of| attestation(&of.digest.to_string(), of)).collect();
        let whole = index(&[images.clone(), attestations.clone()].concat());
        for first in 0..images.len() {
            let mut grown: Option<Document> = None;
            for place in (0..images.len()).map(|place| (place + first) % images.len()) {
                let both = [attestations[place].clone(), images[place].clone()];
                grown = Some(merge(grown.as_ref(), &both).unwrap());
            }
            assert_eq!(grown.unwrap().bytes(), whole.bytes());
        }
    }

    #[test]
    fn nothing_new_changes_no_byte() {
        let text = format!(
            "{{ \"annotations\": {{\"k\":\"v\"}}, \"schemaVersion\": 2, \"manifests\": [{}] }}",
            serde_json::to_string(&image("a", "linux/amd64")).unwrap()
        );
        let base = Document::parse(Bytes::from(text), None).unwrap();
        let merged = merge(Some(&base), &[image("a", "linux/amd64")]).unwrap();
        assert_eq!(merged.bytes(), base.bytes());
        let grown = merge(Some(&base), &[image("b", "linux/arm64")]).unwrap();
        assert!(std::str::from_utf8(grown.bytes()).unwrap().contains(r#""annotations":{"k":"v"}"#));
    }

    #[test]
    fn dangling_attestations_are_never_written() {
        let (here, gone) = (image("a", "linux/amd64"), image("b", "linux/arm64"));
        let made = index(&[here.clone(), attestation("att(b)", &gone)]);
        assert_eq!(children(&made), [here]);
        assert_eq!(without_dangling(&made).unwrap().bytes(), made.bytes());
    }

    #[test]
    fn overlay_keeps_what_only_the_other_has() {
        let (ours, theirs) = (image("a", "linux/amd64"), image("b", "linux/arm64"));
        let old = image("old", "linux/amd64");
        let local = index(std::slice::from_ref(&ours));
        let remote = index(&[
            old.clone(),
            attestation("att(old)", &old),
            theirs.clone(),
            attestation("att(b)", &theirs),
        ]);
        let merged = overlay(&local, &remote).unwrap();
        assert_eq!(children(&merged), [ours.clone(), theirs.clone(), attestation("att(b)", &theirs)]);
        assert_eq!(overlay(&local, &index(&[old])).unwrap().bytes(), local.bytes());
        assert_eq!(overlay(&local, &merged).unwrap().bytes(), merged.bytes());
    }

    #[test]
    fn an_image_is_no_index() {
        let config = Descriptor::new("application/vnd.oci.image.config.v1+json", Digest::of(b"c"), 1);
        let json = serde_json::json!({"schemaVersion": 2, "config": config, "layers": []}).to_string();
        let document = Document::parse(Bytes::from(json), None).unwrap();
        assert!(matches!(merge(Some(&document), &[]), Err(OciError::NotAnIndex(_))));
        assert!(matches!(merge(None, &[]), Err(OciError::Empty)));
    }
}
