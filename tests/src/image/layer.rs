//! Layers: tar streams, compressed or not.

use std::io::Write;

use bytes::Bytes;

use super::{Format, sha256};

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// gzip.
    #[default]
    Gzip,
    /// Zstandard.
    Zstd,
}

/// A layer before it is put into an image.
#[derive(Debug, Clone)]
pub struct Layer {
    tar: Vec<u8>,
    compression: Compression,
}

impl Layer {
    /// Makes a gzip layer of the files given as path and content.
    pub fn files(files: &[(&str, &[u8])]) -> Self {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(0);
            archive.append_data(&mut header, path, *content).expect("memory can be written");
        }
        Self { tar: archive.into_inner().expect("memory can be written"), compression: Compression::Gzip }
    }

    /// Makes a gzip layer of one file that holds `bytes` random bytes, the same for the same `seed`.
    pub fn random(bytes: usize, seed: u64) -> Self {
        Self::files(&[(&format!("var/noise-{seed}"), &random(bytes, seed))])
    }

    /// Takes `tar` as it stands, well-formed or not.
    pub fn raw(tar: Vec<u8>) -> Self {
        Self { tar, compression: Compression::Gzip }
    }

    /// Chooses the compression.
    #[must_use]
    pub fn compress(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Returns the digest of the layer before compression.
    pub fn diff_id(&self) -> String {
        sha256(&self.tar)
    }

    pub(super) fn media_type(&self, format: Format) -> &'static str {
        format.layer(self.compression)
    }

    pub(super) fn bytes(&self) -> Bytes {
        match self.compression {
            Compression::Plain => self.tar.clone().into(),
            Compression::Gzip => gzip(&self.tar).into(),
            Compression::Zstd => {
                zstd::encode_all(self.tar.as_slice(), 1).expect("memory can be compressed").into()
            }
        }
    }
}

/// Returns `bytes` as gzip.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory can be compressed");
    encoder.finish().expect("memory can be compressed")
}

/// Returns `bytes` bytes that do not compress, the same for the same `seed`.
pub fn random(bytes: usize, seed: u64) -> Vec<u8> {
    let mut noise = Vec::with_capacity(bytes + 8);
    let mut state = seed;
    while noise.len() < bytes {
        // SplitMix64: every seed will do, zero too.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        noise.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}
