//! The files of an archive being written: all of mode 0644, root's, of time 0, so that equal content makes equal bytes.

use std::io::{self, Read, Write};

pub(crate) struct Files<W: Write>(tar::Builder<W>);

impl<W: Write> Files<W> {
    pub(crate) fn new(out: W) -> Self {
        Self(tar::Builder::new(out))
    }

    /// Adds a file of `size` bytes.
    ///
    /// # Errors
    /// Those of `content`, which must have exactly `size` bytes, and of the writer.
    pub(crate) fn add(&mut self, path: &str, size: u64, mut content: impl Read) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        self.0.append_data(&mut header, path, Exact { inner: content.by_ref().take(size), left: size })?;
        // Content that hashes what it yields fails only when asked for more, so its end is always asked for.
        match content.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(io::Error::other(format!("{path} is longer than its {size} bytes"))),
        }
    }

    /// Ends the archive and returns the writer, flushed.
    pub(crate) fn finish(self) -> io::Result<W> {
        let mut out = self.0.into_inner()?;
        out.flush()?;
        Ok(out)
    }
}

/// Refuses to end early: an archive that says a size must hold that many bytes.
struct Exact<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if count == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "content ends early"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}
