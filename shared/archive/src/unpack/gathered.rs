//! What is known of an archive at its end: its lists of images, and where the parts are that docker's list names.

use std::collections::HashMap;

use larder_oci::{Digest, Document, Kind, OciError};

use super::saved::{self, Part};
use super::witness::Spent;
use super::{Found, Sink, UnpackLimits};
use crate::error::shown;
use crate::{ArchiveError, CONTAINERD_NAME_ANNOTATION, NAME_ANNOTATION};

/// What an entry is for, going by its name.
pub(super) enum Role {
    /// `index.json`, the list of an OCI image layout.
    Index,
    /// `manifest.json`, the list that docker writes.
    List,
    /// A blob of an OCI image layout.
    Blob(Digest),
    /// A configuration or layer that docker's list may name.
    Part,
    /// `oci-layout`, which says that this is an OCI image layout.
    Layout,
    /// What only archives of old versions of docker need.
    Legacy,
    /// Nothing that is known.
    Nothing,
}

impl Role {
    pub(super) fn of(name: &str) -> Result<Self, ArchiveError> {
        let components: Vec<&str> = name.split('/').collect();
        Ok(match components[..] {
            ["index.json"] => Self::Index,
            ["oci-layout"] => Self::Layout,
            ["manifest.json"] => Self::List,
            ["repositories"] | [_, "json" | "VERSION"] => Self::Legacy,
            ["blobs", algorithm, file] => match format!("{algorithm}:{file}").parse() {
                Ok(digest) => Self::Blob(digest),
                Err(_) if is_part(file) => Self::Part,
                Err(source) => return Err(ArchiveError::Misnamed { name: shown(name), source }),
            },
            [_, "layer.tar"] => Self::Part,
            [file] if is_part(file) => Self::Part,
            _ => Self::Nothing,
        })
    }
}

fn is_part(file: &str) -> bool {
    let endings = [".json", ".tar", ".tar.gz", ".tgz", ".tar.zst"];
    endings.iter().any(|ending| file.ends_with(ending)) || file.parse::<Digest>().is_ok()
}

pub(super) struct Gathered<'a> {
    pub(super) limits: &'a UnpackLimits,
    /// What was spent on looking into parts.
    pub(super) spent: Spent,
    is_legacy: bool,
    is_layout: bool,
    index: Option<Vec<u8>>,
    list: Option<Vec<u8>>,
    parts: HashMap<String, Part>,
    links: HashMap<String, String>,
    names_bytes: u64,
}

impl<'a> Gathered<'a> {
    pub(super) fn new(limits: &'a UnpackLimits) -> Self {
        Self {
            limits,
            spent: Spent::default(),
            is_legacy: false,
            is_layout: false,
            index: None,
            list: None,
            parts: HashMap::new(),
            links: HashMap::new(),
            names_bytes: 0,
        }
    }

    /// The name of an entry without what does not matter; empty when it leads out of the archive or is no text, for then it is
    /// nothing that is known.
    pub(super) fn name(&self, bytes: &[u8]) -> Result<String, ArchiveError> {
        if bytes.len() as u64 > self.limits.name_bytes_max {
            return Err(ArchiveError::TooMuch { what: "bytes of one name", max: self.limits.name_bytes_max });
        }
        let name = std::str::from_utf8(bytes).ok();
        Ok(name.and_then(|name| resolve("", name)).unwrap_or_default())
    }

    /// Remembers a list of images.
    pub(super) fn list(&mut self, is_index: bool, bytes: Vec<u8>) -> Result<(), ArchiveError> {
        let (slot, name) =
            if is_index { (&mut self.index, "index.json") } else { (&mut self.list, "manifest.json") };
        match slot {
            Some(earlier) if *earlier != bytes => Err(ArchiveError::Differs { name }),
            _ => {
                *slot = Some(bytes);
                Ok(())
            }
        }
    }

    /// Remembers what was stored of an entry.
    pub(super) fn part(&mut self, name: String, part: Part) -> Result<(), ArchiveError> {
        let diff_ids = part.seen.diff_ids.iter().flatten().map(String::len);
        self.remember(name.len() + diff_ids.sum::<usize>())?;
        self.parts.insert(name, part);
        Ok(())
    }

    /// Remembers of which kind the archive seems to be.
    pub(super) fn note(&mut self, role: &Role) {
        self.is_legacy |= matches!(role, Role::Legacy);
        self.is_layout |= matches!(role, Role::Layout | Role::Blob(_));
    }

    /// Whether `manifest.json` may count, so that what it names must be looked into.
    pub(super) fn may_be_saved(&self) -> bool {
        self.index.is_none()
    }

    /// Remembers that an entry is a link. One that leads out of the archive leads nowhere.
    pub(super) fn link(
        &mut self,
        name: String,
        kind: tar::EntryType,
        target: Option<&[u8]>,
    ) -> Result<(), ArchiveError> {
        let target = target.unwrap_or_default();
        self.remember(name.len() + target.len())?;
        let folder = match name.rsplit_once('/') {
            Some((folder, _)) if kind.is_symlink() => folder,
            _ => "",
        };
        let resolved = std::str::from_utf8(target).ok().and_then(|target| resolve(folder, target));
        if let Some(target) = resolved {
            self.links.insert(name, target);
        }
        Ok(())
    }

    fn remember(&mut self, bytes: usize) -> Result<(), ArchiveError> {
        self.names_bytes += bytes as u64;
        let max = self.limits.names_bytes_max;
        if self.names_bytes > max {
            Err(ArchiveError::TooMuch { what: "bytes of names", max })
        } else {
            Ok(())
        }
    }

    /// The images that the archive lists; the manifests of docker's are made and handed to `sink`.
    pub(super) fn images(self, sink: &mut dyn Sink) -> Result<Vec<Found>, ArchiveError> {
        match (self.index, self.list) {
            (Some(index), _) => indexed(index),
            (None, Some(list)) => saved::images(&list, &self.parts, &self.links, sink),
            (None, None) if self.is_legacy => Err(ArchiveError::Legacy),
            (None, None) if self.is_layout => Ok(Vec::new()),
            (None, None) => Err(ArchiveError::Unknown),
        }
    }
}

/// The images that `index.json` lists.
fn indexed(json: Vec<u8>) -> Result<Vec<Found>, ArchiveError> {
    let failed = |source| ArchiveError::Document { name: "index.json", source };
    let document = Document::parse(json.into(), None).map_err(failed)?;
    let Kind::Index(index) = document.kind() else {
        return Err(failed(OciError::NotAnIndex(document.descriptor().digest)));
    };
    let found = index.manifests.iter().map(|descriptor| {
        let annotation = |key| descriptor.annotations.get(key).map_or("", String::as_str);
        let mut names: Vec<String> = Vec::new();
        for name in annotation(CONTAINERD_NAME_ANNOTATION).split(',').chain([annotation(NAME_ANNOTATION)]) {
            let name = name.trim();
            if !name.is_empty() && !names.iter().any(|other| other == name) {
                names.push(name.to_owned());
            }
        }
        Found { names, descriptor: descriptor.clone() }
    });
    Ok(found.collect())
}

/// The path that `path`, seen from `folder`, means; `None` when it leads out.
pub(super) fn resolve(folder: &str, path: &str) -> Option<String> {
    let mut components: Vec<&str> = Vec::new();
    for component in folder.split('/').chain(path.split('/')) {
        match component {
            "" | "." => {}
            ".." => drop(components.pop()?),
            _ => components.push(component),
        }
    }
    Some(components.join("/"))
}
