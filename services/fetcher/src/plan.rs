//! Which blobs an image consists of, found level by level while its manifests come in.

use std::collections::HashSet;

use larder_oci::{
    Descriptor, Digest, Document, INDEX_DEPTH_MAX, INDEX_DESCRIPTORS_MAX, Kind, OciError, PlatformSet, select,
};

/// What is known of an image so far.
pub(crate) struct Plan {
    platforms: PlatformSet,
    depth: usize,
    seen: HashSet<Digest>,
    /// Manifests to read next.
    pub(crate) manifests: Vec<Descriptor>,
    /// Configurations and layers found.
    pub(crate) blobs: Vec<Descriptor>,
}

impl Plan {
    pub(crate) fn new(platforms: PlatformSet) -> Self {
        Self { platforms, depth: 0, seen: HashSet::new(), manifests: Vec::new(), blobs: Vec::new() }
    }

    /// Takes the manifests to read next; their children are one level deeper.
    pub(crate) fn next_level(&mut self) -> Result<Vec<Descriptor>, OciError> {
        self.depth += 1;
        if self.depth > INDEX_DEPTH_MAX && !self.manifests.is_empty() {
            return Err(OciError::TooMany { what: "nested indexes", max: INDEX_DEPTH_MAX });
        }
        Ok(std::mem::take(&mut self.manifests))
    }

    /// Notes what `document` points to. What was seen before, a cycle for example, is not followed again.
    pub(crate) fn add(&mut self, document: &Document) -> Result<(), OciError> {
        let children: Vec<Descriptor> = match document.kind() {
            Kind::Index(index) => select(index, &self.platforms)?.wanted,
            Kind::Image(_) => document.children().into_iter().cloned().collect(),
        };
        for child in children {
            if !self.seen.insert(child.digest.clone()) {
                continue;
            }
            if self.seen.len() > INDEX_DESCRIPTORS_MAX {
                return Err(OciError::TooMany { what: "descriptors", max: INDEX_DESCRIPTORS_MAX });
            }
            // What an index points to is a manifest, whatever else it may call itself; an image's children never are.
            let is_manifest = matches!(document.kind(), Kind::Index(_)) && child.is_manifest();
            if is_manifest { self.manifests.push(child) } else { self.blobs.push(child) }
        }
        Ok(())
    }
}
