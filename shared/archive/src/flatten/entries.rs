//! Reads the entries of one layer from its inflated bytes.

use std::io::Write;

use larder_oci::Digest;

use super::header::{self, BLOCK_BYTES, Block, Metadata};
use super::inflate::Chunks;
use super::pax::Extension;
use super::write::Writer;
use super::{EntryFault, FlattenLimits};
use crate::ArchiveError;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    SymbolicLink,
    CharacterDevice,
    BlockDevice,
    Directory,
    Fifo,
}

impl Kind {
    fn of(flag: u8) -> Result<Self, EntryFault> {
        match flag {
            // The last is a contiguous file, which is a file.
            0 | b'0' | b'7' => Ok(Self::File),
            b'1' => Ok(Self::HardLink),
            b'2' => Ok(Self::SymbolicLink),
            b'3' => Ok(Self::CharacterDevice),
            b'4' => Ok(Self::BlockDevice),
            b'5' => Ok(Self::Directory),
            b'6' => Ok(Self::Fifo),
            b'S' => Err(EntryFault::Sparse),
            _ => Err(EntryFault::Kind),
        }
    }

    /// How ustar writes it.
    pub(super) fn flag(self) -> u8 {
        match self {
            Self::File => b'0',
            Self::HardLink => b'1',
            Self::SymbolicLink => b'2',
            Self::CharacterDevice => b'3',
            Self::BlockDevice => b'4',
            Self::Directory => b'5',
            Self::Fifo => b'6',
        }
    }
}

/// An entry as its headers describe it; names are as they stand.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) kind: Kind,
    /// The target of a link.
    pub(super) link: Vec<u8>,
    /// The bytes of content; only files have any.
    pub(super) size_bytes: u64,
    pub(super) metadata: Metadata,
}

/// The entries of one layer.
pub(super) struct Entries<'a, C> {
    layer: &'a Digest,
    limits: &'a FlattenLimits,
    chunks: C,
    chunk: Vec<u8>,
    consumed: usize,
    content_left_bytes: u64,
    padding_bytes: u64,
}

/// What comes before the header of an entry.
#[derive(Default)]
struct Before {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    extension: Option<Extension>,
}

impl Before {
    fn is_empty(&self) -> bool {
        self.long_name.is_none() && self.long_link.is_none() && self.extension.is_none()
    }
}

fn is_zero(block: &Block) -> bool {
    block.iter().all(|byte| *byte == 0)
}

impl<'a, C: Chunks> Entries<'a, C> {
    pub(super) fn new(layer: &'a Digest, chunks: C, limits: &'a FlattenLimits) -> Self {
        Self {
            layer,
            limits,
            chunks,
            chunk: Vec::new(),
            consumed: 0,
            content_left_bytes: 0,
            padding_bytes: 0,
        }
    }

    /// The next entry, whether or not the content of the last one has been read; `None` at the end of the archive.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut before = Before::default();
        loop {
            self.skip()?;
            let Some(block) = self.block()?.filter(|block| !is_zero(block)) else {
                let whole = before.is_empty() && self.block()?.is_none_or(|block| is_zero(&block));
                return if whole { Ok(None) } else { Err(self.malformed()) };
            };
            if header::unsigned(&block[header::CHECKSUM]) != Some(header::checksum(&block)) {
                return Err(self.malformed());
            }
            let size = header::unsigned(&block[header::SIZE]).ok_or_else(|| self.malformed())?;
            match block[header::TYPE] {
                b'g' => self.expect_content(size),
                b'L' => before.long_name = Some(header::text(&self.small(size)?).to_vec()),
                b'K' => before.long_link = Some(header::text(&self.small(size)?).to_vec()),
                // Which of two would count is not agreed upon.
                b'x' if before.extension.is_some() => return Err(self.malformed()),
                b'x' => {
                    let content = self.small(size)?;
                    before.extension = Some(Extension::parse(&content).ok_or_else(|| self.malformed())?);
                }
                _ => return self.entry(&block, before, size).map(Some),
            }
        }
    }

    fn entry(&mut self, block: &Block, before: Before, size_bytes: u64) -> Result<Entry, ArchiveError> {
        let extension = before.extension.unwrap_or_default();
        let name = extension.path.or(before.long_name).unwrap_or_else(|| header::name(block));
        let refused = |fault| ArchiveError::entry(self.layer, &name, fault);
        let mut kind = Kind::of(block[header::TYPE]).map_err(refused)?;
        if block[header::TYPE] == 0 && name.ends_with(b"/") {
            kind = Kind::Directory;
        }
        if extension.sparse {
            return Err(refused(EntryFault::Sparse));
        }
        let link = extension.link.or(before.long_link);
        let link = link.unwrap_or_else(|| header::text(&block[header::LINK]).to_vec());
        if link.contains(&0) {
            return Err(refused(EntryFault::Nul));
        }
        let mut metadata = Metadata::parse(block).ok_or_else(|| self.malformed())?;
        metadata.uid = extension.uid.unwrap_or(metadata.uid);
        metadata.gid = extension.gid.unwrap_or(metadata.gid);
        metadata.records = extension.kept.into();
        // Only files have content; what others say of their size is noise.
        let size_bytes = if kind == Kind::File { extension.size_bytes.unwrap_or(size_bytes) } else { 0 };
        self.expect_content(size_bytes);
        Ok(Entry { name, kind, link, size_bytes, metadata })
    }

    /// Copies the content of the entry to `out`, padded.
    pub(super) fn copy_content<W: Write>(&mut self, out: &mut Writer<W>) -> Result<(), ArchiveError> {
        out.padded(self.content_left_bytes, |out| {
            self.consume_content(|bytes| {
                out.write_all(bytes).map_err(|source| ArchiveError::Write { source })
            })
        })
    }

    /// Consumes what follows the end of the archive, up to the end of the layer.
    pub(super) fn drain(&mut self) -> Result<(), ArchiveError> {
        while self.fill()? {
            self.consumed = self.chunk.len();
        }
        Ok(())
    }

    fn expect_content(&mut self, size_bytes: u64) {
        let block = BLOCK_BYTES as u64;
        self.content_left_bytes = size_bytes;
        self.padding_bytes = (block - size_bytes % block) % block;
    }

    /// Consumes what is left of the content, then the padding.
    fn skip(&mut self) -> Result<(), ArchiveError> {
        self.consume_content(|_| Ok(()))?;
        self.content_left_bytes = std::mem::take(&mut self.padding_bytes);
        self.consume_content(|_| Ok(()))
    }

    /// The content of an extension, which is small.
    fn small(&mut self, size_bytes: u64) -> Result<Vec<u8>, ArchiveError> {
        let bytes_max = self.limits.extension_bytes_max;
        if size_bytes > bytes_max {
            return Err(ArchiveError::limit(self.layer, "bytes of an extended header", bytes_max));
        }
        self.expect_content(size_bytes);
        let mut content = Vec::new();
        self.consume_content(|bytes| {
            content.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(content)
    }

    fn consume_content(
        &mut self,
        mut take: impl FnMut(&[u8]) -> Result<(), ArchiveError>,
    ) -> Result<(), ArchiveError> {
        while self.content_left_bytes > 0 {
            if !self.fill()? {
                return Err(self.malformed());
            }
            let rest = &self.chunk[self.consumed..];
            let count =
                usize::try_from(self.content_left_bytes).map_or(rest.len(), |left| left.min(rest.len()));
            take(&rest[..count])?;
            self.consumed += count;
            self.content_left_bytes -= count as u64;
        }
        Ok(())
    }

    /// The next block; `None` at the end of the layer, which some tools do not mark.
    fn block(&mut self) -> Result<Option<Block>, ArchiveError> {
        if !self.fill()? {
            return Ok(None);
        }
        let mut block = [0; BLOCK_BYTES];
        let mut filled = 0;
        self.content_left_bytes = BLOCK_BYTES as u64;
        self.consume_content(|bytes| {
            block[filled..filled + bytes.len()].copy_from_slice(bytes);
            filled += bytes.len();
            Ok(())
        })?;
        Ok(Some(block))
    }

    /// Makes sure that the chunk holds unconsumed bytes; `false` at the end of the layer.
    fn fill(&mut self) -> Result<bool, ArchiveError> {
        if self.consumed == self.chunk.len() {
            self.consumed = 0;
            // A failing source may leave old bytes behind, which nobody must take for new ones.
            let next = self.chunks.next(&mut self.chunk);
            if next.is_err() {
                self.chunk.clear();
            }
            next?;
        }
        Ok(self.consumed < self.chunk.len())
    }

    fn malformed(&self) -> ArchiveError {
        ArchiveError::Malformed { layer: self.layer.clone() }
    }
}
