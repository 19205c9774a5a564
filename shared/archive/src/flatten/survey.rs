//! The first pass: what the layers hold, by name.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread;

use super::entries::{Entries, Entry, Kind};
use super::header::Metadata;
use super::inflate::Inflate;
use super::name::{self, Name};
use super::{EntryFault, FlattenLimits, Layer, Layers};
use crate::ArchiveError;

const LAYERS_AT_ONCE_MAX: usize = 4;

/// An entry of a layer, in the order of the layer.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: Box<[u8]>,
    pub(super) what: What,
    /// Whether it is no part of the filesystem, and only hard links may mean it.
    pub(super) aside: bool,
}

/// What an entry is to the plan.
#[derive(Debug)]
pub(super) enum What {
    /// A directory, of which all is known.
    Directory(Box<Metadata>),
    /// Anything else that has an inode: files, symbolic links, devices.
    Content,
    /// Another name for what lies at this path.
    Link(Box<[u8]>),
    /// The path is hidden in lower layers.
    Whiteout,
    /// What lower layers hold in the directory of the path is hidden.
    Opaque,
}

/// What all layers together have used of their limits.
#[derive(Default)]
struct Used {
    entries: AtomicU64,
    names_bytes: AtomicU64,
}

/// Reads the headers of all layers, several layers at once.
pub(super) fn survey(
    layers: &[Layer],
    source: &dyn Layers,
    limits: &FlattenLimits,
) -> Result<Vec<Vec<Found>>, ArchiveError> {
    let used = Used::default();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Relaxed);
            let Some(layer) = layers.get(index) else { return done };
            let found = survey_layer(layer, source, limits, &used);
            if found.is_err() {
                // The others finish the layers they are at.
                next.store(layers.len(), Relaxed);
            }
            done.push((index, found));
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.min(LAYERS_AT_ONCE_MAX).min(layers.len());
    let mut surveyed: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    });
    surveyed.sort_unstable_by_key(|(index, _)| *index);
    surveyed.into_iter().map(|(_, found)| found).collect()
}

fn survey_layer(
    layer: &Layer,
    source: &dyn Layers,
    limits: &FlattenLimits,
    used: &Used,
) -> Result<Vec<Found>, ArchiveError> {
    let mut found = Vec::new();
    let mut entries = Entries::new(&layer.digest, Inflate::open(layer, source, limits)?, limits);
    while let Some(entry) = entries.next()? {
        let mut name_bytes = entry.name.len() + entry.link.len();
        if entry.kind == Kind::Directory {
            name_bytes += entry.metadata.records.len();
        }
        if used.entries.fetch_add(1, Relaxed) >= limits.entries_max {
            return Err(ArchiveError::limit(&layer.digest, "entries", limits.entries_max));
        }
        let names_bytes = used.names_bytes.fetch_add(name_bytes as u64, Relaxed);
        if names_bytes + name_bytes as u64 > limits.names_bytes_max {
            return Err(ArchiveError::limit(&layer.digest, "bytes of names", limits.names_bytes_max));
        }
        let name = entry.name.clone();
        let item = judge(entry, limits).map_err(|fault| ArchiveError::entry(&layer.digest, &name, fault))?;
        found.push(item);
    }
    entries.drain()?;
    Ok(found)
}

fn judge(entry: Entry, limits: &FlattenLimits) -> Result<Found, EntryFault> {
    let (path, aside) = match Name::parse(&entry.name, limits.name_bytes_max)? {
        Name::Whiteout(path) => return Ok(Found { path: path.into(), what: What::Whiteout, aside: false }),
        Name::Opaque(path) => return Ok(Found { path: path.into(), what: What::Opaque, aside: false }),
        Name::Path(path) => (path, false),
        Name::Aside(path) => (path, true),
    };
    let what = match entry.kind {
        Kind::Directory => What::Directory(Box::new(entry.metadata)),
        _ if path.is_empty() => return Err(EntryFault::Root),
        Kind::HardLink => What::Link(name::target(&entry.link, limits.name_bytes_max)?.into()),
        _ => What::Content,
    };
    Ok(Found { path: path.into(), what, aside })
}
