//! Merges what the survey found: which entry of which layer is written, and under which names.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use super::header::Metadata;
use super::survey::{Found, What};
use super::{EntryFault, FlattenLimits, Layer, name};
use crate::ArchiveError;

/// The place of an entry: layer, then position in the layer. That of a file's content is the file's identity.
type Place = (usize, usize);

/// A path that is written where an entry is met.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'a> {
    pub(super) name: &'a [u8],
    /// The path, written before, that this one is a hard link to; otherwise this is the entry itself.
    pub(super) target: Option<&'a [u8]>,
}

/// What is written.
pub(super) struct Plan<'a> {
    /// All directories; those that no layer describes have no metadata.
    pub(super) directories: Directories<'a>,
    /// For each layer, for each of its entries, what is written where it is met; nothing where it is hidden.
    pub(super) written: Vec<Vec<Vec<Named<'a>>>>,
}

pub(super) type Directories<'a> = BTreeMap<&'a [u8], Option<&'a Metadata>>;

impl<'a> Plan<'a> {
    /// Merges the layers, the lowest first.
    pub(super) fn new(
        layers: &[Layer],
        found: &'a [Vec<Found>],
        limits: &FlattenLimits,
    ) -> Result<Self, ArchiveError> {
        let mut tree = Tree::default();
        for (index, (layer, found)) in layers.iter().zip(found).enumerate() {
            tree.add(index, found)
                .map_err(|Refused { name, fault }| ArchiveError::entry(&layer.digest, name, fault))?;
        }
        tree.plan(found, limits.entries_max)
            .map_err(|layer| ArchiveError::limit(&layers[layer].digest, "directories", limits.entries_max))
    }
}

struct Refused<'a> {
    name: &'a [u8],
    fault: EntryFault,
}

#[derive(Clone, Copy)]
enum Node<'a> {
    Directory { metadata: &'a Metadata, place: Place },
    Content { inode: Place, place: Place },
}

/// The merged layers so far. Of a path that is there, every ancestor that is there is a directory.
#[derive(Default)]
struct Tree<'a>(BTreeMap<&'a [u8], Node<'a>>);

impl<'a> Tree<'a> {
    fn add(&mut self, layer: usize, found: &'a [Found]) -> Result<(), Refused<'a>> {
        // Links may mean what this very layer hides, so they are resolved first.
        let inodes = self.inodes(layer, found)?;
        let mut last = BTreeMap::new();
        for (position, item) in found.iter().enumerate() {
            match item.what {
                What::Whiteout => self.hide(&item.path),
                What::Opaque => self.hide_below(&item.path),
                _ if item.aside => {}
                _ => {
                    last.insert(&*item.path, position);
                }
            }
        }
        // Sorted, so parents come before their children.
        for (path, position) in last {
            let node = match &found[position].what {
                What::Directory(metadata) => Node::Directory { metadata, place: (layer, position) },
                _ => Node::Content { inode: inodes[position], place: (layer, position) },
            };
            self.insert(path, node)?;
        }
        let hiding = found.iter().filter(|item| matches!(item.what, What::Whiteout | What::Opaque));
        for item in hiding {
            self.check_parents(&item.path)?;
            if matches!(item.what, What::Opaque)
                && matches!(self.0.get(&*item.path), Some(Node::Content { .. }))
            {
                return Err(Refused { name: &item.path, fault: EntryFault::Parent });
            }
        }
        Ok(())
    }

    /// Tells for each entry of a layer whose content it has; of directories and whiteouts, itself.
    fn inodes(&self, layer: usize, found: &'a [Found]) -> Result<Vec<Place>, Refused<'a>> {
        let mut inodes: Vec<Place> = (0..found.len()).map(|position| (layer, position)).collect();
        let mut here: HashMap<&[u8], Option<Place>> = HashMap::new();
        let mut ahead = Vec::new();
        for (position, item) in found.iter().enumerate() {
            match &item.what {
                What::Directory(_) => {
                    here.insert(&item.path, None);
                }
                What::Content => {
                    here.insert(&item.path, Some((layer, position)));
                }
                What::Link(target) => {
                    match here.get(&**target).copied().unwrap_or_else(|| self.inode(target)) {
                        Some(inode) => {
                            inodes[position] = inode;
                            here.insert(&item.path, Some(inode));
                        }
                        None => ahead.push((position, item, target)),
                    }
                }
                What::Whiteout | What::Opaque => {}
            }
        }
        // What is left means something that follows it; so the last comes first.
        for (position, item, target) in ahead.into_iter().rev() {
            let Some(Some(inode)) = here.get(&**target).copied() else {
                return Err(Refused { name: &item.path, fault: EntryFault::Target });
            };
            inodes[position] = inode;
            here.entry(&item.path).or_insert(Some(inode));
        }
        Ok(inodes)
    }

    fn inode(&self, path: &[u8]) -> Option<Place> {
        match self.0.get(path)? {
            Node::Content { inode, .. } => Some(*inode),
            Node::Directory { .. } => None,
        }
    }

    fn insert(&mut self, path: &'a [u8], node: Node<'a>) -> Result<(), Refused<'a>> {
        self.check_parents(path)?;
        if matches!(node, Node::Content { .. }) {
            self.hide_below(path);
        }
        self.0.insert(path, node);
        Ok(())
    }

    /// Checks that the nearest ancestor that is there is a directory; by the invariant, the others are.
    fn check_parents(&self, path: &'a [u8]) -> Result<(), Refused<'a>> {
        let mut ancestor = path;
        while !ancestor.is_empty() {
            ancestor = name::split(ancestor).0;
            match self.0.get(ancestor) {
                Some(Node::Directory { .. }) => return Ok(()),
                Some(Node::Content { .. }) => return Err(Refused { name: path, fault: EntryFault::Parent }),
                None => {}
            }
        }
        Ok(())
    }

    fn hide(&mut self, path: &[u8]) {
        self.0.remove(path);
        self.hide_below(path);
    }

    fn hide_below(&mut self, path: &[u8]) {
        if path.is_empty() {
            self.0.retain(|path, _| path.is_empty());
            return;
        }
        // All paths below sort between "path/" and "path0", for '0' follows '/'.
        let first = [path, b"/"].concat();
        let end = [path, b"0"].concat();
        let bounds = (Bound::Included(&first[..]), Bound::Excluded(&end[..]));
        let below: Vec<&[u8]> = self.0.range::<[u8], _>(bounds).map(|(path, _)| *path).collect();
        for path in below {
            self.0.remove(path);
        }
    }

    /// Fails with the layer that takes the image beyond `directories_max`.
    fn plan(self, found: &'a [Vec<Found>], directories_max: u64) -> Result<Plan<'a>, usize> {
        let mut directories = BTreeMap::new();
        let mut written: Vec<Vec<Vec<Named>>> =
            found.iter().map(|layer| vec![Vec::new(); layer.len()]).collect();
        let mut contents = Vec::new();
        for (path, node) in self.0 {
            let (Node::Directory { place, .. } | Node::Content { place, .. }) = node;
            match node {
                Node::Directory { metadata, place: (layer, position) } => {
                    directories.insert(path, Some(metadata));
                    written[layer][position].push(Named { name: path, target: None });
                }
                // Of all names of a file its own sorts first, then those of links as they come.
                Node::Content { inode, place } => contents.push((inode, place != inode, place, path)),
            }
            let mut ancestor = name::split(path).0;
            while !ancestor.is_empty() && !directories.contains_key(ancestor) {
                directories.insert(ancestor, None);
                ancestor = name::split(ancestor).0;
            }
            // One deep name stands for thousands of directories that no layer lists.
            if directories.len() as u64 > directories_max {
                return Err(place.0);
            }
        }
        contents.sort_unstable();
        for names in contents.chunk_by(|one, next| one.0 == next.0) {
            let first = names[0].3;
            for (index, (inode, _, place, name)) in names.iter().enumerate() {
                // The first name stands where the content does, which another may come before.
                let (layer, position) = if index == 0 { *inode } else { *inode.max(place) };
                let target = (index > 0).then_some(first);
                written[layer][position].push(Named { name, target });
            }
        }
        Ok(Plan { directories, written })
    }
}
