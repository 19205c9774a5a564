//! Writes the entries of the flattened archive: ustar headers, and PAX records for what does not fit them.

use std::io::{self, Write};

use super::entries::{Entry, Kind};
use super::header::{self, BLOCK_BYTES, Block, Metadata, put_number};
use super::plan::Directories;
use super::{name, pax};
use crate::ArchiveError;

/// What one header says.
struct Head<'a> {
    name: &'a [u8],
    kind: Kind,
    link: &'a [u8],
    size_bytes: u64,
    metadata: &'a Metadata,
    /// PAX records to carry along.
    records: &'a [u8],
}

/// The archive being written.
pub(super) struct Writer<'a, W> {
    out: W,
    /// The directories that are not written yet.
    waiting: Directories<'a>,
}

impl<'a, W: Write> Writer<'a, W> {
    /// Begins an archive; each of `directories` is written when it, or something below it, first is.
    pub(super) fn new(out: W, directories: Directories<'a>) -> Self {
        Self { out, waiting: directories }
    }

    /// Writes those directories above `path` that are not written yet.
    pub(super) fn parents(&mut self, path: &[u8]) -> Result<(), ArchiveError> {
        if path.is_empty() { Ok(()) } else { self.directory(name::split(path).0) }
    }

    /// Writes the directory `path` and those above it, unless they are written already.
    pub(super) fn directory(&mut self, path: &[u8]) -> Result<(), ArchiveError> {
        let mut missing = Vec::new();
        let mut directory = path;
        // Above what has been written, all has been.
        while let Some((name, metadata)) = self.waiting.remove_entry(directory) {
            missing.push((name, metadata));
            directory = name::split(directory).0;
        }
        missing.into_iter().rev().try_for_each(|(name, metadata)| self.put_directory(name, metadata))
    }

    fn put_directory(&mut self, path: &[u8], metadata: Option<&Metadata>) -> Result<(), ArchiveError> {
        let name = if path.is_empty() { b"./".to_vec() } else { [path, b"/"].concat() };
        let absent = Metadata::absent();
        let metadata = metadata.unwrap_or(&absent);
        let records = &metadata.records;
        let head = Head { name: &name, kind: Kind::Directory, link: &[], size_bytes: 0, metadata, records };
        written(put(&mut self.out, &head))
    }

    /// Writes the header of `entry`, called `name`.
    pub(super) fn head(&mut self, entry: &Entry, name: &[u8]) -> Result<(), ArchiveError> {
        let (link, metadata) = (&*entry.link, &entry.metadata);
        // For other kinds the field means nothing, and some tools leave something in it.
        let link = if entry.kind == Kind::SymbolicLink { link } else { &[] };
        let (kind, size_bytes, records) = (entry.kind, entry.size_bytes, &*metadata.records);
        written(put(&mut self.out, &Head { name, kind, link, size_bytes, metadata, records }))
    }

    /// Writes a hard link to `target`, which has been written.
    pub(super) fn hard_link(
        &mut self,
        name: &[u8],
        target: &[u8],
        metadata: &Metadata,
    ) -> Result<(), ArchiveError> {
        let head = Head { name, kind: Kind::HardLink, link: target, size_bytes: 0, metadata, records: &[] };
        written(put(&mut self.out, &head))
    }

    /// Has `content` write `size_bytes`, and pads them.
    pub(super) fn padded(
        &mut self,
        size_bytes: u64,
        content: impl FnOnce(&mut W) -> Result<(), ArchiveError>,
    ) -> Result<(), ArchiveError> {
        content(&mut self.out)?;
        written(pad(&mut self.out, size_bytes))
    }

    /// Ends the archive, and returns what it was written to, flushed.
    pub(super) fn finish(mut self) -> Result<W, ArchiveError> {
        written(self.out.write_all(&[0; 2 * BLOCK_BYTES]).and_then(|()| self.out.flush()))?;
        Ok(self.out)
    }
}

fn written(result: io::Result<()>) -> Result<(), ArchiveError> {
    result.map_err(|source| ArchiveError::Write { source })
}

fn pad(out: &mut impl Write, size_bytes: u64) -> io::Result<()> {
    let beyond = size_bytes % BLOCK_BYTES as u64;
    let beyond = usize::try_from(beyond).expect("it is less than a block");
    if beyond == 0 { Ok(()) } else { out.write_all(&[0; BLOCK_BYTES][beyond..]) }
}

fn put(out: &mut impl Write, head: &Head) -> io::Result<()> {
    let metadata = head.metadata;
    let mut block = [0; BLOCK_BYTES];
    let mut records = Vec::new();
    put_text(&mut block[header::NAME], head.name, "path", &mut records);
    put_text(&mut block[header::LINK], head.link, "linkpath", &mut records);
    put_number(&mut block[header::MODE], metadata.mode.into());
    for (field, value, key) in [
        (header::UID, metadata.uid, "uid"),
        (header::GID, metadata.gid, "gid"),
        (header::SIZE, head.size_bytes, "size"),
    ] {
        if !put_number(&mut block[field.clone()], value) {
            put_number(&mut block[field], 0);
            pax::push(&mut records, key, value.to_string().as_bytes());
        }
    }
    let mtime_s = u64::try_from(metadata.mtime_s).ok();
    if !mtime_s.is_some_and(|mtime_s| put_number(&mut block[header::MTIME], mtime_s)) {
        put_number(&mut block[header::MTIME], 0);
        if !pax::holds(head.records, b"mtime") {
            pax::push(&mut records, "mtime", metadata.mtime_s.to_string().as_bytes());
        }
    }
    records.extend_from_slice(head.records);
    block[header::TYPE] = head.kind.flag();
    for (field, text) in [(header::USER, &metadata.user), (header::GROUP, &metadata.group)] {
        block[field.start..field.start + text.len()].copy_from_slice(text);
    }
    for (field, value) in
        [(header::DEVICE_MAJOR, metadata.device_major), (header::DEVICE_MINOR, metadata.device_minor)]
    {
        put_number(&mut block[field], value);
    }
    if !records.is_empty() {
        put_records(out, &records)?;
    }
    out.write_all(seal(&mut block))
}

/// Puts a name into its field; one that does not fit, or that readers could take for another character set, gets a
/// record as well.
fn put_text(field: &mut [u8], text: &[u8], key: &str, records: &mut Vec<u8>) {
    let fits = text.len().min(field.len());
    field[..fits].copy_from_slice(&text[..fits]);
    if fits < text.len() || !text.is_ascii() {
        pax::push(records, key, text);
    }
}

fn put_records(out: &mut impl Write, records: &[u8]) -> io::Result<()> {
    let mut block = [0; BLOCK_BYTES];
    let name = b"PaxHeaders/records";
    block[..name.len()].copy_from_slice(name);
    let size_bytes = records.len() as u64;
    put_number(&mut block[header::MODE], 0o644);
    put_number(&mut block[header::SIZE], size_bytes);
    for field in [header::UID, header::GID, header::MTIME] {
        put_number(&mut block[field], 0);
    }
    block[header::TYPE] = b'x';
    out.write_all(seal(&mut block))?;
    out.write_all(records)?;
    pad(out, size_bytes)
}

/// Completes a header by its magic and its checksum.
fn seal(block: &mut Block) -> &Block {
    block[header::MAGIC].copy_from_slice(header::POSIX_MAGIC);
    let checksum = header::checksum(block);
    // Six digits, a zero, a space: so it has always been.
    put_number(&mut block[header::CHECKSUM.start..header::CHECKSUM.end - 1], checksum);
    block[header::CHECKSUM.end - 1] = b' ';
    block
}
