//! Reads images from the tar streams that tools write: OCI image layouts, and what `docker save` writes.
//!
//! One pass, whatever the order of the entries; content goes on as it comes, and only names and the two lists of images are held.
//! Where an archive is both (as current docker writes it), the OCI image layout counts.

mod content;
mod gathered;
mod saved;
mod stream;
#[cfg(test)]
mod tests;
mod witness;

use std::io::{self, Read};

use larder_oci::{Descriptor, Digest, MANIFEST_BYTES_MAX};
use serde::Deserialize;

use self::content::Content;
use self::gathered::{Gathered, Role};
use self::stream::{Stream, Watch};
use crate::ArchiveError;
use crate::compression::Growth;
use crate::error::shown;

/// Who takes what an archive holds.
pub trait Sink {
    /// Takes a blob of `size` bytes whose digest its path says, reads it to its end and verifies it.
    ///
    /// # Errors
    /// When it does not hold or cannot be stored. A failure of `content` ends the unpacking in any case.
    fn blob(&mut self, digest: &Digest, size: u64, content: &mut dyn Read) -> io::Result<()>;

    /// Takes content whose digest is not known, and returns what it was stored as, and its size in bytes.
    ///
    /// # Errors
    /// When it cannot be stored. A failure of `content` ends the unpacking in any case.
    fn draft(&mut self, content: &mut dyn Read) -> io::Result<(Digest, u64)>;
}

/// An image that an archive lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its names as they stand, perhaps none: those of `io.containerd.image.name`, then that of
    /// `org.opencontainers.image.ref.name`; or the tags that docker knew it by.
    pub names: Vec<String>,
    /// Its root, as `index.json` describes it, or the manifest that was made for what docker saved.
    pub descriptor: Descriptor,
}

/// What an archive may demand before it is refused.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UnpackLimits {
    /// Its entries; 100,000.
    pub entries_max: u64,
    /// The bytes of one name or link target; 4096, the longest path Linux takes.
    pub name_bytes_max: u64,
    /// The bytes of all names that must be remembered until the end; 32 MiB.
    pub names_bytes_max: u64,
    /// The bytes of the headers of one entry; 1 MiB.
    pub header_bytes_max: u64,
    /// The bytes of `index.json`, of `manifest.json`, and of a configuration that docker saved; 4 MiB, as of a manifest.
    pub index_bytes_max: u64,
    /// The bytes of one blob; 128 GiB.
    pub blob_bytes_max: u64,
    /// The bytes behind the end of the archive; 16 MiB.
    pub trailing_bytes_max: u64,
    /// The bytes a compressed archive may inflate to, as a multiple of its own, and all layers that docker saved of theirs; 100.
    pub ratio_max: u64,
    /// The bytes either may inflate to whatever the ratio; 64 MiB.
    pub ratio_floor_bytes: u64,
    /// The window a zstd frame may ask for, in bytes, taken as the power of two below; 8 MiB.
    pub zstd_window_bytes_max: u64,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self {
            entries_max: 100_000,
            name_bytes_max: 4096,
            names_bytes_max: 32 << 20,
            header_bytes_max: 1 << 20,
            index_bytes_max: MANIFEST_BYTES_MAX as u64,
            blob_bytes_max: 128 << 30,
            trailing_bytes_max: 16 << 20,
            ratio_max: 100,
            ratio_floor_bytes: 64 << 20,
            zstd_window_bytes_max: 8 << 20,
        }
    }
}

impl UnpackLimits {
    pub(crate) fn growth(&self) -> Growth {
        Growth { ratio_max: self.ratio_max, floor_bytes: self.ratio_floor_bytes }
    }
}

/// Reads an archive to its end, hands its blobs to `sink` in its order, and returns the images it lists in their order; none when
/// it is an OCI image layout that lists none. Each layer of an image that docker saved inflates to what the configuration says.
/// The stream may be compressed with gzip or zstd. What the images consist of besides is for the caller to check: their blobs may have been there before.
///
/// # Errors
/// [`ArchiveError::Unreadable`] and [`ArchiveError::Truncated`]; [`ArchiveError::TooMuch`] and [`ArchiveError::Bomb`] beyond
/// `limits`; [`ArchiveError::Store`] when `sink` refuses something; [`ArchiveError::Legacy`] for archives of docker before 1.10;
/// [`ArchiveError::NotTar`], [`ArchiveError::Compression`] and [`ArchiveError::Unknown`] for what is no archive of images;
/// [`ArchiveError::LayerContent`], [`ArchiveError::LayerCount`], [`ArchiveError::Inflate`] and [`ArchiveError::NotAConfig`] for what
/// docker cannot have saved; [`ArchiveError::Within`] where an entry is to blame; and those of an archive that contradicts itself.
/// Errors of the stream and of `sink` are kept as sources. Blobs that came before the fault stay with `sink`.
pub fn unpack(
    stream: impl Read,
    sink: &mut dyn Sink,
    limits: &UnpackLimits,
) -> Result<Vec<Found>, ArchiveError> {
    let stream = Stream::open(stream, limits)?;
    let watch = stream.watch();
    let mut archive = tar::Archive::new(stream);
    let mut gathered = Gathered::new(limits);
    let mut entries = archive.entries().map_err(|error| watch.fault(error))?;
    while let Some(mut entry) = watch.next_entry(&mut entries)? {
        take(&mut entry, sink, &mut gathered, &watch).map_err(|error| watch.within(error))?;
    }
    watch.expect_end()?;
    let trailing_bytes_max = limits.trailing_bytes_max;
    let mut rest = archive.into_inner().take(trailing_bytes_max.saturating_add(1));
    let trailing = io::copy(&mut rest, &mut io::sink()).map_err(|error| watch.fault(error))?;
    if trailing > trailing_bytes_max {
        return Err(ArchiveError::TooMuch { what: "bytes behind its end", max: trailing_bytes_max });
    }
    gathered.images(sink)
}

fn take<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    sink: &mut dyn Sink,
    gathered: &mut Gathered<'_>,
    watch: &Watch,
) -> Result<(), ArchiveError> {
    let name = gathered.name(&entry.path_bytes())?;
    let kind = entry.header().entry_type();
    let role = if kind.is_dir() { Role::Nothing } else { Role::of(&name)? };
    gathered.note(&role);
    let is_link = kind.is_symlink() || kind.is_hard_link();
    match role {
        Role::Part if is_link => gathered.link(name, kind, entry.link_name_bytes().as_deref())?,
        Role::Nothing | Role::Legacy | Role::Layout => {}
        _ if !(kind.is_file() || kind.is_contiguous()) => {
            return Err(ArchiveError::NotAFile { name: shown(&name) });
        }
        Role::Index | Role::List => {
            let mut content =
                Content::of(entry, gathered.limits.index_bytes_max, "bytes of one index", watch)?;
            let bytes = content.whole(watch)?;
            gathered.list(matches!(role, Role::Index), bytes)?;
        }
        Role::Blob(digest) => {
            let mut content = Content::of(entry, gathered.limits.blob_bytes_max, "bytes of one blob", watch)?;
            let size = content.left();
            // Its digest proves a layer already, and inflating one twice costs more than all the rest; a configuration is small.
            if size <= gathered.limits.index_bytes_max {
                content.witness(gathered);
            }
            content.store(&name, watch, |content| sink.blob(&digest, size, content))?;
            let part = content.part(digest, size, &mut gathered.spent);
            gathered.part(name, part)?;
        }
        Role::Part => {
            let mut content = Content::of(entry, gathered.limits.blob_bytes_max, "bytes of one blob", watch)?;
            content.witness(gathered);
            let (digest, size) = content.store(&name, watch, |content| sink.draft(content))?;
            let part = content.part(digest, size, &mut gathered.spent);
            gathered.part(name, part)?;
        }
    }
    // What nobody wants is passed over here, where its length is not that of a header.
    io::copy(entry, &mut io::sink()).map(drop).map_err(|error| watch.fault(error))
}
