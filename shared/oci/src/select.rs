//! Which children of an index somebody who wants certain platforms needs.

use crate::{Descriptor, Index, OciError, Platform, PlatformSet, media_type};

/// The children of an index, parted by a wish for platforms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Needed: the wanted platforms, their attestations, nested indexes, and children of no platform.
    pub wanted: Vec<Descriptor>,
    /// Not needed: other platforms and their attestations.
    pub skipped: Vec<Descriptor>,
    /// Wanted platforms that have no child here.
    pub unmet: Vec<Platform>,
    /// The platforms that have one.
    pub offered: Vec<Platform>,
}

/// Parts the children of `index`.
pub fn select(index: &Index, platforms: &PlatformSet) -> Selection {
    let known = |child: &Descriptor| child.platform.clone().filter(|platform| !platform.is_unknown());
    let offered: Vec<Platform> = index.manifests.iter().filter_map(known).collect();
    let PlatformSet::Only(wishes) = platforms else {
        return Selection { wanted: index.manifests.clone(), offered, ..Selection::default() };
    };
    let unmet = wishes.iter().filter(|wish| !offered.iter().any(|platform| wish.accepts(platform)));
    let mut selection = Selection { unmet: unmet.cloned().collect(), offered, ..Selection::default() };
    let (attestations, images): (Vec<_>, Vec<_>) =
        index.manifests.iter().partition(|child| child.attests().is_some());
    for child in images {
        let side = if is_needed(child, wishes) { &mut selection.wanted } else { &mut selection.skipped };
        side.push(child.clone());
    }
    for attestation in attestations {
        let subject = attestation.attests();
        let follows = selection.wanted.iter().any(|child| Some(&child.digest) == subject.as_ref());
        let side = if follows { &mut selection.wanted } else { &mut selection.skipped };
        side.push(attestation.clone());
    }
    selection
}

impl Selection {
    /// The children needed, if every wish is met, or may be by what cannot be told before it is read: a nested index, or a child that
    /// names no platform.
    ///
    /// # Errors
    /// [`OciError::PlatformNotFound`].
    pub fn complete(self) -> Result<Vec<Descriptor>, OciError> {
        let undecided = |child: &Descriptor| {
            media_type::is_index(&child.media_type)
                || (child.platform.is_none() && child.artifact_type.is_none() && child.is_manifest())
        };
        if self.unmet.is_empty() || self.wanted.iter().any(undecided) {
            return Ok(self.wanted);
        }
        Err(OciError::PlatformNotFound { wanted: self.unmet, present: self.offered })
    }
}

fn is_needed(child: &Descriptor, wanted: &[Platform]) -> bool {
    match &child.platform {
        Some(platform) if !platform.is_unknown() => wanted.iter().any(|wish| wish.accepts(platform)),
        // No platform, or an unknown one, and no attestation: what it is for cannot be told, so it comes along.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    fn child(name: &str, platform: Option<&str>) -> Descriptor {
        let mut child = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(name.as_bytes()), 1);
        child.platform = platform.map(|text| text.parse().unwrap());
        child
    }

    fn attestation(of: &Descriptor) -> Descriptor {
        let mut child = child(&format!("att-{}", of.digest), Some("unknown/unknown"));
        child.annotations.insert("vnd.docker.reference.type".into(), "attestation-manifest".into());
        child.annotations.insert("vnd.docker.reference.digest".into(), of.digest.to_string());
        child
    }

    fn index(manifests: Vec<Descriptor>) -> Index {
        Index { manifests, subject: None }
    }

    #[test]
    fn takes_the_wanted_platform_with_its_attestation() {
        let (amd, arm) = (child("a", Some("linux/amd64")), child("b", Some("linux/arm64/v8")));
        let index = index(vec![amd.clone(), arm.clone(), attestation(&amd), attestation(&arm)]);
        let selection = select(&index, &"linux/arm64".parse().unwrap());
        assert_eq!(selection.wanted, [arm.clone(), attestation(&arm)]);
        assert_eq!(selection.skipped, [amd.clone(), attestation(&amd)]);
        assert_eq!(select(&index, &PlatformSet::All).wanted.len(), 4);
    }

    #[test]
    fn names_the_platforms_that_are_missing_and_those_that_are_there() {
        let index = index(vec![child("a", Some("linux/amd64"))]);
        let error = select(&index, &"linux/amd64,linux/riscv64".parse().unwrap()).complete().unwrap_err();
        assert_eq!(error.to_string(), "no manifest for linux/riscv64; the image has linux/amd64");
    }

    #[test]
    fn follows_what_may_still_hold_the_platform() {
        let index = index(vec![child("a", None), child("b", Some("linux/amd64"))]);
        let wanted = select(&index, &"linux/arm64".parse().unwrap()).complete().unwrap();
        assert_eq!(wanted, [child("a", None)]);
    }
}
