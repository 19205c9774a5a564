//! Streams that may be compressed: told by their first bytes, never by what somebody calls them.

use std::cell::Cell;
use std::io::{self, BufReader, Cursor, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;

const READ_BYTES: usize = 128 << 10;
/// How many bytes tell.
pub(crate) const MAGIC_BYTES: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    Gzip,
    Zstd,
    /// Begins like something else that compresses, unless it is a plain archive whose first name begins so.
    Foreign(&'static str),
    None,
}

impl Compression {
    /// What a stream that begins with `magic` is compressed with.
    pub(crate) fn of(magic: &[u8]) -> Self {
        match magic {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // The second is a skippable frame, with which a zstd stream may begin.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', ..] => Self::Foreign("xz"),
            [b'B', b'Z', b'h', ..] => Self::Foreign("bzip2"),
            [0x04, 0x22, 0x4d, 0x18, ..] => Self::Foreign("lz4"),
            [b'L', b'Z', b'I', b'P', ..] => Self::Foreign("lzip"),
            [0x5d, 0, 0, ..] => Self::Foreign("lzma"),
            [0x1f, 0x9d | 0xa0, ..] => Self::Foreign("compress"),
            [b'P', b'K', 3, 4, ..] => Self::Foreign("zip"),
            [b'7', b'z', 0xbc, 0xaf, ..] => Self::Foreign("7z"),
            _ => Self::None,
        }
    }

    /// Whether it is one that is inflated here.
    pub(crate) fn is_inflated(self) -> bool {
        matches!(self, Self::Gzip | Self::Zstd)
    }

    /// Inflates `stream`, which is taken for plain if it is compressed otherwise; a zstd frame may ask for a window of the power of
    /// two below `zstd_window_bytes_max`, in bytes.
    pub(crate) fn inflate<'a>(
        mut stream: impl Read + 'a,
        zstd_window_bytes_max: u64,
    ) -> io::Result<(Self, Box<dyn Read + 'a>)> {
        let mut magic = Vec::with_capacity(MAGIC_BYTES);
        stream.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut magic)?;
        let compression = Self::of(&magic);
        let whole = BufReader::with_capacity(READ_BYTES, Cursor::new(magic).chain(stream));
        let inflated: Box<dyn Read + 'a> = match compression {
            Self::Gzip => Box::new(MultiGzDecoder::new(whole)),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(whole)?;
                decoder.window_log_max(zstd_window_bytes_max.max(1).ilog2())?;
                Box::new(decoder)
            }
            Self::Foreign(_) | Self::None => Box::new(whole),
        };
        Ok((compression, inflated))
    }
}

/// How many bytes compressed ones may inflate to: `ratio_max` times as many, and up to `floor_bytes` however few they are.
#[derive(Clone, Copy)]
pub(crate) struct Growth {
    pub(crate) ratio_max: u64,
    pub(crate) floor_bytes: u64,
}

impl Growth {
    pub(crate) fn allows(self, stored_bytes: u64, inflated_bytes: u64) -> bool {
        inflated_bytes <= stored_bytes.saturating_mul(self.ratio_max).max(self.floor_bytes)
    }
}

/// Counts the bytes that are read through it.
pub(crate) struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Counted<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, count: Rc::default() }
    }

    /// The count, as it goes on.
    pub(crate) fn count(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.count)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count.set(self.count.get() + count as u64);
        Ok(count)
    }
}
