//! Manifests that refer to others (OCI distribution-spec, "Listing Referrers").

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::Descriptor;
use crate::document::{Document, Kind};

/// What a list of referrers says of a manifest beside its descriptor.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    artifact_type: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
}

impl Document {
    /// What this manifest refers to, if it does.
    pub fn subject(&self) -> Option<&Descriptor> {
        match self.kind() {
            Kind::Image(image) => image.subject.as_ref(),
            Kind::Index(index) => index.subject.as_deref(),
        }
    }

    /// A descriptor of this manifest as a list of referrers has it: with its annotations and with what kind of artifact it is,
    /// which for an image that does not say so is the type of its configuration.
    pub fn referrer(&self) -> Descriptor {
        let said = serde_json::from_slice::<Said>(self.bytes()).ok();
        let (own, annotations) = said.map_or((None, None), |said| (said.artifact_type, said.annotations));
        let of_config = match self.kind() {
            Kind::Image(image) => Some(image.config.media_type.clone()),
            Kind::Index(_) => None,
        };
        Descriptor {
            artifact_type: own.filter(|own| !own.is_empty()).or(of_config),
            annotations: annotations.unwrap_or_default(),
            ..self.descriptor()
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn check(artifact_type: &str, expected: &str) {
        let blob = r#"{"mediaType":"a/config","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}"#;
        let text = format!(
            r#"{{"schemaVersion":2{artifact_type},"config":{blob},"layers":[],"subject":{blob},"annotations":{{"a":"b"}}}}"#
        );
        let document = Document::parse(Bytes::from(text), None).unwrap();
        let referrer = document.referrer();
        assert_eq!(document.subject().unwrap().media_type, "a/config");
        assert_eq!(referrer.artifact_type.as_deref(), Some(expected));
        assert_eq!(referrer.annotations["a"], "b");
    }

    #[test]
    fn artifact_type_is_its_own_or_that_of_its_configuration() {
        check(r#","artifactType":"a/signature""#, "a/signature");
        check("", "a/config");
        check(r#","artifactType":"""#, "a/config");
    }
}
