//! Images for one platform.

use serde_json::{Map, Value, json};

use super::{Blob, Format, Image, Layer, document, platform};

/// An image in the making.
#[derive(Debug)]
pub struct ImageBuilder {
    format: Format,
    platform: Value,
    layers: Vec<Layer>,
    annotations: Map<String, Value>,
    extra: Map<String, Value>,
}

impl ImageBuilder {
    pub(super) fn new(text: &str) -> Self {
        Self {
            format: Format::Oci,
            platform: platform(text),
            layers: Vec::new(),
            annotations: Map::new(),
            extra: Map::new(),
        }
    }

    /// Chooses the media types; OCI's without this.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Puts `layer` on top.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// Annotates the manifest.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.into());
        self
    }

    /// Sets a field of the manifest last of all, over whatever was there: the way to make a bad one.
    #[must_use]
    pub fn field(mut self, key: &str, value: Value) -> Self {
        self.extra.insert(key.to_owned(), value);
        self
    }

    /// Builds it: config, layers and manifest, with digests that hold.
    pub fn finish(self) -> Image {
        let layers: Vec<Blob> =
            self.layers.iter().map(|layer| Blob::new(layer.media_type(self.format), layer.bytes())).collect();
        let config = Blob::new(self.format.config(), document(&self.config()));
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": self.format.manifest(),
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        if !self.annotations.is_empty() {
            manifest["annotations"] = self.annotations.into();
        }
        for (key, value) in self.extra {
            manifest[key] = value;
        }
        let root = Blob::new(self.format.manifest(), document(&manifest));
        let mut blobs = vec![config];
        blobs.extend(layers);
        Image { manifests: vec![root.clone()], root, blobs, platform: Some(self.platform) }
    }

    fn config(&self) -> Value {
        let diff_ids: Vec<String> = self.layers.iter().map(Layer::diff_id).collect();
        let history = |_: &Layer| json!({ "created": "1970-01-01T00:00:00Z", "created_by": "larder-tests" });
        let mut config = self.platform.clone();
        config["created"] = "1970-01-01T00:00:00Z".into();
        config["config"] = json!({ "Env": ["PATH=/usr/bin:/bin"], "Cmd": ["/bin/sh"] });
        config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        config["history"] = self.layers.iter().map(history).collect();
        config
    }
}
