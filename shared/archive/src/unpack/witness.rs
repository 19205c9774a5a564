//! What must be known of a part of what docker saved, learned while it passes by on its way to who stores it.

use std::io::{self, Write};

use flate2::write::MultiGzDecoder;
use larder_oci::{Algorithm, Config, Digest, Digester};
use zstd::stream::write::Decoder as ZstdDecoder;

use super::UnpackLimits;
use crate::ArchiveError;
use crate::compression::{Compression, Growth};

/// What inflating took by now, over all parts: many small bombs are one large one.
#[derive(Clone, Copy, Default)]
pub(super) struct Spent {
    stored_bytes: u64,
    inflated_bytes: u64,
}

/// Sees the content of one entry pass by.
pub(super) enum Witness {
    /// Needs nothing but the digest that it is stored by.
    Idle,
    /// May be a configuration, and keeps it.
    Text(Vec<u8>),
    Gzip(Box<MultiGzDecoder<Hash>>),
    Zstd(Box<ZstdDecoder<'static, Hash>>),
    /// Cannot be inflated, which matters only if it is a layer of an image.
    Failed(io::Error, Spent),
}

/// What was learned of an entry.
pub(super) struct Seen {
    /// The digest of what it inflates to, or why it does not; `None` for what is not compressed.
    pub(super) content: io::Result<Option<Digest>>,
    /// The layers it has as a configuration, if it can be one.
    pub(super) diff_ids: Option<Vec<String>>,
}

impl Witness {
    /// Begins with an entry of `size` bytes that begins with `magic`.
    pub(super) fn begin(magic: &[u8], size: u64, limits: &UnpackLimits, spent: Spent) -> Self {
        let hash = || Hash { digester: Digester::new(Algorithm::Sha256), spent, growth: limits.growth() };
        match Compression::of(magic) {
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(hash()))),
            Compression::Zstd => match zstd_decoder(hash(), limits.zstd_window_bytes_max) {
                Ok(decoder) => Self::Zstd(Box::new(decoder)),
                Err(error) => Self::Failed(error, spent),
            },
            _ if size <= limits.index_bytes_max && may_be_object(magic) => Self::Text(Vec::new()),
            _ => Self::Idle,
        }
    }

    pub(super) fn see(&mut self, bytes: &[u8]) {
        let failure = match self {
            Self::Idle | Self::Failed(..) => return,
            Self::Text(text) => return text.extend_from_slice(bytes),
            Self::Gzip(decoder) => {
                decoder.get_mut().spent.stored_bytes += bytes.len() as u64;
                decoder.write_all(bytes).err().map(|error| (error, decoder.get_ref().spent))
            }
            Self::Zstd(decoder) => {
                decoder.get_mut().spent.stored_bytes += bytes.len() as u64;
                decoder.write_all(bytes).err().map(|error| (error, decoder.get_ref().spent))
            }
        };
        if let Some((error, spent)) = failure {
            *self = Self::Failed(error, spent);
        }
    }

    /// What was seen, now that all of it was, with what that took added to `spent`.
    pub(super) fn end(self, spent: &mut Spent) -> Seen {
        let mut diff_ids = None;
        let content = match self {
            Self::Idle => Ok(None),
            Self::Text(text) => {
                diff_ids = Config::parse(&text).ok().map(|config| config.diff_ids);
                Ok(None)
            }
            Self::Failed(error, by_then) => {
                *spent = by_then;
                Err(error)
            }
            Self::Gzip(mut decoder) => {
                let ended = decoder.try_finish();
                let digest = decoder.get_ref().digest(spent);
                ended.map(|()| Some(digest))
            }
            Self::Zstd(mut decoder) => {
                let ended = decoder.do_finish();
                let digest = decoder.get_ref().digest(spent);
                ended.map(|()| Some(digest))
            }
        };
        Seen { content, diff_ids }
    }
}

fn zstd_decoder(hash: Hash, window_bytes_max: u64) -> io::Result<ZstdDecoder<'static, Hash>> {
    let mut decoder = ZstdDecoder::new(hash)?;
    decoder.window_log_max(window_bytes_max.max(1).ilog2())?;
    Ok(decoder)
}

fn may_be_object(magic: &[u8]) -> bool {
    magic.trim_ascii_start().first().is_none_or(|byte| *byte == b'{')
}

/// Hashes what comes out of a decoder, as long as it is not too much.
pub(super) struct Hash {
    digester: Digester,
    spent: Spent,
    growth: Growth,
}

impl Hash {
    fn digest(&self, spent: &mut Spent) -> Digest {
        *spent = self.spent;
        self.digester.clone().finish()
    }
}

impl Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.spent.inflated_bytes += bytes.len() as u64;
        if !self.growth.allows(self.spent.stored_bytes, self.spent.inflated_bytes) {
            return Err(io::Error::other(ArchiveError::Bomb { ratio_max: self.growth.ratio_max }));
        }
        self.digester.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
