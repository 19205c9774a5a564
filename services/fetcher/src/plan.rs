//! Which blobs an image consists of, found level by level while its manifests come in.

use std::collections::HashSet;

use larder_oci::{
    Descriptor, Digest, Document, INDEX_DEPTH_MAX, INDEX_DESCRIPTORS_MAX, Kind, OciError, Platform,
    PlatformSet, media_type, select,
};

/// What is known of an image so far.
pub(crate) struct Plan {
    platforms: PlatformSet,
    depth: usize,
    seen: HashSet<Digest>,
    /// What the indexes say they have.
    offered: Vec<Platform>,
    /// Whether there are images whose index does not say what they run on.
    undecided: bool,
    /// Manifests to read next.
    pub(crate) manifests: Vec<Descriptor>,
    /// Configurations and layers found.
    pub(crate) blobs: Vec<Descriptor>,
}

impl Plan {
    pub(crate) fn new(platforms: PlatformSet) -> Self {
        Self {
            platforms,
            depth: 0,
            seen: HashSet::new(),
            offered: Vec::new(),
            undecided: false,
            manifests: Vec::new(),
            blobs: Vec::new(),
        }
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
            Kind::Index(index) => {
                let selection = select(index, &self.platforms);
                self.offered.extend(selection.offered.iter().cloned());
                self.undecided |= index.manifests.iter().any(says_no_platform);
                // Only the root can tell by itself that a platform is missing.
                if self.depth == 0 { selection.complete()? } else { selection.wanted }
            }
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

    /// Refuses, once all manifests are known, platforms that none of the indexes has.
    pub(crate) fn refuse_missing(&self) -> Result<(), OciError> {
        let PlatformSet::Only(wanted) = &self.platforms else {
            return Ok(());
        };
        if self.offered.is_empty() || self.undecided {
            return Ok(());
        }
        let missing = |wish: &&Platform| !self.offered.iter().any(|platform| wish.accepts(platform));
        let missing: Vec<Platform> = wanted.iter().filter(missing).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(OciError::PlatformNotFound { wanted: missing, present: self.offered.clone() })
    }
}

fn says_no_platform(child: &Descriptor) -> bool {
    child.platform.is_none() && child.artifact_type.is_none() && media_type::is_image(&child.media_type)
}
