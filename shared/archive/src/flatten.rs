//! Flattens the layers of an image into one root-filesystem tar.
//!
//! Two passes: the survey reads the headers of all layers, several layers at once; the plan merges what it found; the
//! second pass inflates each layer ahead on a thread of its own and copies what survives. Content is never held, only
//! names and the metadata of directories are.
//!
//! Invariant: the two zero blocks that end a tar are written only after every layer has held its digests.

mod ahead;
mod entries;
mod fault;
mod header;
mod inflate;
mod name;
mod pax;
mod plan;
mod survey;
#[cfg(test)]
mod tests;
mod write;

use std::io::{self, BufWriter, Read, Write};

use larder_oci::Digest;
use serde::Deserialize;

use self::entries::Kind;
pub use self::fault::EntryFault;
use self::plan::Named;
use self::write::Writer;
use crate::ArchiveError;
use crate::compression::Growth;

/// Slices at least this long reach the writer without a copy.
const WRITE_BUFFER_BYTES: usize = 64 << 10;

/// A layer of an image, as its manifest and its config name it.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The digest of the stored bytes.
    pub digest: Digest,
    /// The digest of the inflated bytes; not verified where the config does not tell it.
    pub diff_id: Option<Digest>,
}

/// Where the bytes of layers come from.
pub trait Layers: Sync {
    /// Opens the stored (compressed) bytes of `layer`. A layer is opened twice, and read to its end both times.
    ///
    /// # Errors
    /// Where the layer cannot be read. The reader itself fails at its end when its bytes do not have the digest.
    fn open(&self, layer: &Layer) -> io::Result<Box<dyn Read + Send>>;
}

/// What a layer may demand before it is refused.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlattenLimits {
    /// The bytes a layer may inflate to, as a multiple of those stored; 100.
    pub ratio_max: u64,
    /// The bytes a layer may inflate to whatever the ratio; 64 MiB, for small layers of zeros are common.
    pub ratio_floor_bytes: u64,
    /// The window a zstd frame may ask for, in bytes, taken as the power of two below; 8 MiB.
    pub zstd_window_bytes_max: u64,
    /// The entries of all layers together, and again the directories of the image; one million.
    pub entries_max: u64,
    /// The bytes of one name; 4096, the longest path Linux takes.
    pub name_bytes_max: usize,
    /// The bytes of all names, and of the PAX records of all directories, in all layers; 128 MiB.
    pub names_bytes_max: u64,
    /// The bytes of one extended header or long name; 1 MiB.
    pub extension_bytes_max: u64,
}

impl Default for FlattenLimits {
    fn default() -> Self {
        Self {
            ratio_max: 100,
            ratio_floor_bytes: 64 << 20,
            zstd_window_bytes_max: 8 << 20,
            entries_max: 1_000_000,
            name_bytes_max: 4096,
            names_bytes_max: 128 << 20,
            extension_bytes_max: 1 << 20,
        }
    }
}

impl FlattenLimits {
    pub(crate) fn growth(&self) -> Growth {
        Growth { ratio_max: self.ratio_max, floor_bytes: self.ratio_floor_bytes }
    }
}

/// Writes the root filesystem that `layers`, the lowest first, make together to `out` as a tar, and returns `out`, flushed.
///
/// - Compression is told by magic: gzip, zstd or none.
/// - Whiteouts and opaque directories hide what lower layers hold; of duplicates in one layer the last counts.
/// - Entries keep the order of the layers, but a directory comes before what it holds, and a hard link behind its file.
///   A directory that no layer describes is owned by root, mode 0755, of time 0. A file whose own name is hidden lives
///   on under its first link.
/// - Extended attributes and other PAX records are kept. `.wh..wh.*` metadata of aufs, global PAX headers, and
///   at the root `stargz.index.json`, `.prefetch.landmark` and `.no.prefetch.landmark` are dropped.
/// - Equal layers make equal bytes.
///
/// # Errors
/// Every variant that speaks of a layer, and those of `out`. After an error `out` has seen no end of archive.
pub fn flatten<W: Write>(
    layers: &[Layer],
    source: &dyn Layers,
    limits: &FlattenLimits,
    out: W,
) -> Result<W, ArchiveError> {
    let found = survey::survey(layers, source, limits)?;
    let plan = plan::Plan::new(layers, &found, limits)?;
    let mut out = Writer::new(BufWriter::with_capacity(WRITE_BUFFER_BYTES, out), plan.directories);
    std::thread::scope(|scope| {
        let ahead = ahead::Ahead::start(scope, layers, source, limits);
        copy(layers, &plan.written, ahead, limits, &mut out)
    })?;
    let buffered = out.finish()?;
    buffered.into_inner().map_err(|error| ArchiveError::Write { source: error.into_error() })
}

fn copy<W: Write>(
    layers: &[Layer],
    written: &[Vec<Vec<plan::Named>>],
    mut ahead: ahead::Ahead,
    limits: &FlattenLimits,
    out: &mut Writer<W>,
) -> Result<(), ArchiveError> {
    for (layer, written) in layers.iter().zip(written) {
        ahead.begin(layer.diff_id.as_ref());
        let changed = || ArchiveError::Changed { layer: layer.digest.clone() };
        let mut written = written.iter();
        let mut entries = entries::Entries::new(&layer.digest, &mut ahead, limits);
        while let Some(entry) = entries.next()? {
            for Named { name, target } in written.next().ok_or_else(changed)? {
                out.parents(name)?;
                match target {
                    Some(target) => out.hard_link(name, target, &entry.metadata)?,
                    None if entry.kind == Kind::Directory => out.directory(name)?,
                    None => {
                        out.head(&entry, name)?;
                        entries.copy_content(out)?;
                    }
                }
            }
        }
        entries.drain()?;
        if written.next().is_some() {
            return Err(changed());
        }
        ahead.end(layer)?;
    }
    Ok(())
}
