//! Manifests and indexes, kept byte for byte beside what they say.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::value::MapAccessDeserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::{Descriptor, Digest, OciError, media_type};

/// The largest manifest that is taken, in bytes (OCI distribution-spec, "Pushing Manifests").
pub const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// How many descriptors one manifest may hold.
pub const INDEX_DESCRIPTORS_MAX: usize = 10_000;
/// How deep indexes may nest.
pub const INDEX_DEPTH_MAX: usize = 8;

/// An image manifest (OCI or docker schema 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// What this refers to (OCI 1.1).
    pub subject: Option<Descriptor>,
    /// What this is, when it is no image to run.
    pub artifact_type: Option<String>,
}

/// An image index or docker manifest list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The children, in the order of the document.
    pub manifests: Vec<Descriptor>,
    /// What this refers to (OCI 1.1).
    pub subject: Option<Box<Descriptor>>,
}

/// Which of the two a document is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One image.
    Image(Box<Image>),
    /// Several.
    Index(Index),
}

/// A manifest: the bytes that its digest is of, and what they say.
#[derive(Clone, Debug)]
pub struct Document {
    bytes: Bytes,
    media_type: String,
    kind: Kind,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Object<Descriptor>>,
    layers: Option<Vec<Object<Descriptor>>>,
    manifests: Option<Vec<Object<Descriptor>>>,
    subject: Option<Object<Descriptor>>,
    // Only schema 1 documents have these two.
    fs_layers: Option<IgnoredAny>,
    signatures: Option<IgnoredAny>,
}

/// What is read from an object alone. Derived code would also take a list of the fields by their place, as no other tool does.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

impl Document {
    /// Reads a manifest. `declared` is the type that whoever handed it over gave it (a `Content-Type`, or the descriptor's
    /// media type); parameters behind a `;` are ignored.
    ///
    /// # Errors
    /// [`OciError::TooLarge`], [`OciError::Malformed`], [`OciError::Unsupported`] (schema 1, or no manifest at all),
    /// [`OciError::Ambiguous`] when it can be read as an image and as an index (CVE-2021-41190) or when the declared type,
    /// its own `mediaType` and its shape disagree, and [`OciError::TooMany`] beyond [`INDEX_DESCRIPTORS_MAX`].
    pub fn parse(bytes: Bytes, declared: Option<&str>) -> Result<Self, OciError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            let (bytes, max) = (bytes.len(), MANIFEST_BYTES_MAX);
            return Err(OciError::TooLarge { bytes, max });
        }
        let declared = declared
            .map(|text| text.split(';').next().unwrap_or(text).trim().to_ascii_lowercase())
            .filter(|text| is_telling(text));
        if let Some(text) = declared.as_deref().filter(|text| media_type::is_schema1(text)) {
            return Err(OciError::Unsupported(text.to_owned()));
        }
        let Object(raw): Object<Raw> = serde_json::from_slice(&bytes)
            .map_err(|source| OciError::Malformed { what: "manifest", source })?;
        if raw.schema_version == 1 || raw.fs_layers.is_some() || raw.signatures.is_some() {
            let schema1 = "application/vnd.docker.distribution.manifest.v1+json";
            return Err(OciError::Unsupported(schema1.to_owned()));
        }
        let media_type = raw.agreed_type(declared.as_deref())?;
        let kind = raw.into_kind(&media_type)?;
        Ok(Self { bytes, media_type, kind })
    }

    /// The bytes, as they came.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The media type that declaration, content and shape agree on.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// What it says.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// A descriptor of this document, by sha256.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(&self.media_type, Digest::of(&self.bytes), self.bytes.len() as u64)
    }

    /// All that it points to within the image: the children of an index, or config and layers. A foreign layer is left out: it
    /// may not be distributed, and so no cache holds it.
    pub fn children(&self) -> Vec<&Descriptor> {
        match &self.kind {
            Kind::Index(index) => index.manifests.iter().collect(),
            Kind::Image(image) => std::iter::once(&image.config)
                .chain(&image.layers)
                .filter(|blob| !media_type::is_foreign(&blob.media_type))
                .collect(),
        }
    }
}

/// Registries and stores that do not know better say these; they claim nothing.
fn is_telling(declared: &str) -> bool {
    !matches!(declared, "" | "application/json" | "application/octet-stream" | "text/plain")
}

impl Raw {
    fn agreed_type(&self, declared: Option<&str>) -> Result<String, OciError> {
        let own = self.media_type.as_deref().filter(|text| !text.is_empty());
        if let (Some(declared), Some(own)) = (declared, own)
            && declared != own
        {
            return Err(OciError::Ambiguous(format!("it was sent as {declared:?} but calls itself {own:?}")));
        }
        if let Some(given) = declared.or(own) {
            return Ok(given.to_owned());
        }
        let shape = if self.manifests.is_some() { media_type::OCI_INDEX } else { media_type::OCI_MANIFEST };
        Ok(shape.to_owned())
    }

    fn into_kind(self, media_type: &str) -> Result<Kind, OciError> {
        let has_image = self.config.is_some() || self.layers.is_some();
        if has_image && self.manifests.is_some() {
            return Err(OciError::Ambiguous("it has both manifests and config or layers".into()));
        }
        let count = self.layers.as_ref().or(self.manifests.as_ref()).map_or(0, Vec::len);
        if count > INDEX_DESCRIPTORS_MAX {
            let (what, max) = ("descriptors", INDEX_DESCRIPTORS_MAX);
            return Err(OciError::TooMany { what, max });
        }
        let subject = self.subject.map(|Object(subject)| subject);
        let all = |objects: Vec<Object<Descriptor>>| objects.into_iter().map(|Object(one)| one).collect();
        match (self.manifests, self.config, self.layers) {
            (Some(manifests), None, None) if media_type::is_index(media_type) => {
                Ok(Kind::Index(Index { manifests: all(manifests), subject: subject.map(Box::new) }))
            }
            (None, Some(Object(config)), Some(layers)) if media_type::is_image(media_type) => {
                Ok(Kind::Image(Box::new(Image {
                    config,
                    layers: all(layers),
                    subject,
                    artifact_type: self.artifact_type,
                })))
            }
            _ if media_type::is_image(media_type) || media_type::is_index(media_type) => {
                Err(OciError::Ambiguous(format!("its content is not that of {media_type:?}")))
            }
            _ => Err(OciError::Unsupported(media_type.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn descriptor(media_type: &str, size: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{EMPTY}","size":{size}}}"#)
    }

    fn parse(json: &str, declared: Option<&str>) -> Result<Document, OciError> {
        Document::parse(Bytes::copy_from_slice(json.as_bytes()), declared)
    }

    fn image(size: &str) -> String {
        let blob = descriptor("application/vnd.oci.image.config.v1+json", size);
        format!(r#"{{"schemaVersion":2,"config":{blob},"layers":[{blob}]}}"#)
    }

    #[test]
    fn reads_an_image_and_keeps_its_bytes() {
        let text = image("0");
        let document =
            parse(&text, Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8")).unwrap();
        assert_eq!(document.bytes().as_ref(), text.as_bytes());
        assert_eq!(document.descriptor().digest, Digest::of(text.as_bytes()));
        assert_eq!(document.children().len(), 2);
    }

    #[test]
    fn refuses_sizes_that_are_not_counts_of_bytes() {
        for size in ["-1", "9223372036854775808", "9223372036854775808000", "1.5", "\"1\"", "null"] {
            assert!(parse(&image(size), None).is_err(), "size {size} was taken");
        }
    }

    #[test]
    fn refuses_a_document_that_is_two_things() {
        let blob = descriptor("x/y", "0");
        let both = format!(r#"{{"schemaVersion":2,"config":{blob},"layers":[],"manifests":[]}}"#);
        assert!(matches!(parse(&both, None), Err(OciError::Ambiguous(_))));
        assert!(matches!(parse(&image("0"), Some(media_type::OCI_INDEX)), Err(OciError::Ambiguous(_))));
        let lying = image("0").replacen('{', r#"{"mediaType":"application/vnd.oci.image.index.v1+json","#, 1);
        assert!(matches!(parse(&lying, Some(media_type::OCI_MANIFEST)), Err(OciError::Ambiguous(_))));
        let twice = image("0").replacen('{', r#"{"layers":[],"#, 1);
        assert!(matches!(parse(&twice, None), Err(OciError::Malformed { .. })));
        let blob = format!(r#"["x/y","{EMPTY}",0]"#);
        let listed = format!(r#"{{"schemaVersion":2,"config":{blob},"layers":[{blob}]}}"#);
        assert!(matches!(parse(&listed, None), Err(OciError::Malformed { .. })));
    }

    #[test]
    fn refuses_schema_one_and_says_what_to_do() {
        let text = r#"{"schemaVersion":1,"name":"x","fsLayers":[]}"#;
        let error = parse(text, None).unwrap_err().to_string();
        assert!(error.contains("re-push"), "{error}");
        let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        assert!(matches!(parse(text, Some(signed)), Err(OciError::Unsupported(_))));
    }

    #[test]
    fn bounds_bytes_children_and_nesting() {
        let long = " ".repeat(MANIFEST_BYTES_MAX + 1);
        assert!(matches!(parse(&long, None), Err(OciError::TooLarge { .. })));
        let blob = descriptor(media_type::OCI_MANIFEST, "0");
        let many = vec![blob; INDEX_DESCRIPTORS_MAX + 1].join(",");
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{many}]}}"#);
        assert!(matches!(parse(&index, None), Err(OciError::TooMany { .. })));
        let deep = format!(r#"{{"schemaVersion":2,"x":{}{}}}"#, "[".repeat(5000), "]".repeat(5000));
        assert!(parse(&deep, None).is_err());
    }
}
