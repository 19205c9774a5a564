//! T77–T81: what is said of an image: its attestations and its configuration.

use larder_oci::{Descriptor, Platform};
use larder_provider::ProviderError;
use larder_tests::image::Blob;
use larder_tests::{Format, Image, Layer};
use serde_json::{Value, json};

use super::archive::{put, put_as};
use super::stage::{self, Stage};

const APP: &str = "registry.example.org/team/app:1";
const SPDX: &str = "https://spdx.dev/Document";
const PROVENANCE: &str = "https://slsa.dev/provenance/v0.2";

fn image(platform: &str, seed: u64) -> Image {
    Image::build(platform).layer(Layer::random(500, seed)).finish()
}

fn platform(text: &str) -> Platform {
    text.parse().unwrap()
}

/// An attestation of `subject` as BuildKit writes them, with a statement of each type and its predicate as it stands, and its entry in
/// an index.
fn attestation(subject: &Image, statements: &[(&str, &str)]) -> (Image, Value) {
    let mut blobs = vec![Blob::new(
        "application/vnd.oci.image.config.v1+json",
        r#"{"architecture":"unknown","os":"unknown","rootfs":{"type":"layers","diff_ids":[]}}"#,
    )];
    let mut layers = Vec::new();
    for (kind, predicate) in statements {
        let text = format!(
            r#"{{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"{kind}","subject":[],"predicate":{predicate}}}"#
        );
        let blob = Blob::new("application/vnd.in-toto+json", text);
        let mut layer = blob.descriptor();
        layer["annotations"]["in-toto.io/predicate-type"] = (*kind).into();
        layers.push(layer);
        blobs.push(blob);
    }
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type, "config": blobs[0].descriptor(), "layers": layers,
    });
    let root = Blob::new(media_type, manifest.to_string());
    let mut entry = root.descriptor();
    entry["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
    entry["annotations"] = json!({
        "vnd.docker.reference.digest": subject.root.digest,
        "vnd.docker.reference.type": "attestation-manifest",
    });
    (Image { manifests: vec![root.clone()], root, blobs, platform: None }, entry)
}

/// Has [`APP`] be an index of `images`, each with these statements.
async fn put_attested(stage: &Stage, images: &[(&Image, &[(&str, &str)])]) {
    let mut index = Image::index(Format::Oci);
    for (image, statements) in images {
        let (attestation, entry) = attestation(image, statements);
        put(stage, &attestation).await;
        index = index.image(image).descriptor(entry);
    }
    put_as(stage, APP, &index.finish()).await;
}

async fn sboms(stage: &Stage, wanted: &str) -> Result<Vec<String>, ProviderError> {
    let source = stage.cache().new_source(APP, &platform(wanted)).await?;
    let sboms = source.sboms().await?;
    Ok(sboms.into_iter().map(|sbom| String::from_utf8(sbom.to_vec()).unwrap()).collect())
}

#[test]
fn t77_image_without_attestations_has_no_sboms() {
    stage::on_both(async |stage| {
        let image = image("linux/amd64", 1);
        put_as(stage, APP, &image).await;
        assert!(sboms(stage, "linux/amd64").await.unwrap().is_empty());
        put_as(stage, APP, &Image::index(Format::Oci).image(&image).finish()).await;
        assert!(sboms(stage, "linux/amd64").await.unwrap().is_empty());
    });
}

/// Byte for byte, with the spaces that a writer of JSON would leave out. Where there are several all are given.
#[test]
fn t78_sboms_are_the_predicates_of_spdx_statements_alone() {
    const FIRST: &str = r#"{ "spdxVersion" : "SPDX-2.3",  "name":"\u0061" }"#;
    const SECOND: &str = r#"{"spdxVersion":"SPDX-2.3","name":"b"}"#;
    stage::on_both(async |stage| {
        let statements = [(PROVENANCE, r#"{"builder":{}}"#), (SPDX, FIRST), (SPDX, SECOND)];
        put_attested(stage, &[(&image("linux/amd64", 1), &statements)]).await;
        assert_eq!(sboms(stage, "linux/amd64").await.unwrap(), [FIRST, SECOND]);
    });
}

#[test]
fn t78_statement_that_is_not_what_its_descriptor_says_is_corrupt() {
    stage::on_both(async |stage| {
        let image = image("linux/amd64", 1);
        let (good, mut entry) = attestation(&image, &[(PROVENANCE, "{}")]);
        let lying = String::from_utf8(good.root.bytes.to_vec()).unwrap().replace(PROVENANCE, SPDX);
        let root = Blob::new(&good.root.media_type, lying);
        entry["digest"] = root.digest.clone().into();
        entry["size"] = root.bytes.len().into();
        put(stage, &Image { manifests: vec![root.clone()], root, ..good }).await;
        put_as(stage, APP, &Image::index(Format::Oci).image(&image).descriptor(entry).finish()).await;
        let refused = sboms(stage, "linux/amd64").await.unwrap_err();
        assert!(matches!(refused, ProviderError::Corrupt(_)), "{refused:?}");
    });
}

#[test]
fn t79_absent_name_is_not_found_rather_than_without_sboms() {
    stage::on_both(async |stage| {
        let refused = sboms(stage, "linux/amd64").await.unwrap_err();
        assert!(matches!(refused, ProviderError::NotFound(_)), "{refused:?}");
    });
}

#[test]
fn t80_each_variant_has_its_own_sboms() {
    stage::on_both(async |stage| {
        let (v6, v7) = (image("linux/arm/v6", 6), image("linux/arm/v7", 7));
        let images: [(&Image, &[(&str, &str)]); 2] =
            [(&v6, &[(SPDX, r#"{"name":"v6"}"#)]), (&v7, &[(SPDX, r#"{"name":"v7"}"#)])];
        put_attested(stage, &images).await;
        for variant in ["v6", "v7"] {
            let found = sboms(stage, &format!("linux/arm/{variant}")).await.unwrap();
            assert_eq!(found, [format!(r#"{{"name":"{variant}"}}"#)]);
        }
        // A wish without a variant is for the default one.
        assert_eq!(sboms(stage, "linux/arm").await.unwrap(), [r#"{"name":"v7"}"#]);
    });
}

/// An image of no layers with this configuration.
fn configured(config: &Value) -> Image {
    let bare = Image::build("linux/amd64").finish();
    let config = Blob::new(&bare.blob(0).media_type, config.to_string());
    let mut manifest = bare.root.json();
    manifest["config"] = config.descriptor();
    let root = Blob::new(&bare.root.media_type, manifest.to_string());
    Image { manifests: vec![root.clone()], root, blobs: vec![config], ..bare }
}

/// A source is always for a platform, so that there is none to panic for; one that the image is not for is refused.
#[test]
fn t81_configuration_is_that_of_the_blob() {
    stage::on_both(async |stage| {
        let run = json!({
            "User": "1000:1000", "Env": ["PATH=/bin", "EMPTY="], "Entrypoint": ["/init", "--"], "Cmd": ["a b"],
            "Labels": { "org.example.team": "one" }, "WorkingDir": "/srv", "StopSignal": "SIGQUIT",
            "ExposedPorts": { "80/tcp": {} }, "Volumes": { "/data": {} }, "Healthcheck": { "Test": ["NONE"] },
        });
        let image = configured(&json!({
            "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [] }, "config": run,
        }));
        put_as(stage, APP, &image).await;
        let source = stage.cache().new_source(APP, &platform("linux/amd64")).await.unwrap();
        let config = source.config().await.unwrap();
        assert_eq!(serde_json::to_value(&config.run).unwrap(), run);
        assert_eq!(config.bytes, image.blob(0).bytes);
        assert_eq!(source.platform(), Some(&platform("linux/amd64")));

        let refused = stage.cache().new_source(APP, &platform("linux/arm64")).await.err().unwrap();
        assert!(matches!(refused, ProviderError::PlatformNotFound { .. }), "{refused:?}");
    });
}

#[test]
fn t81_what_has_no_configuration_of_an_image_says_so() {
    stage::on_both(async |stage| {
        let artifact = Image::artifact("application/vnd.example.chart", b"chart", None);
        put_as(stage, APP, &artifact).await;
        let source = stage.cache().new_source(APP, &platform("linux/amd64")).await.unwrap();
        assert_eq!(source.platform(), None);
        let refused = source.config().await.unwrap_err();
        assert!(matches!(refused, ProviderError::Unsupported(_)), "{refused:?}");
        let root: Descriptor = stage::descriptor(&artifact.root);
        assert_eq!(source.descriptor(), &root);
    });
}
