//! Why an entry of a layer is refused.

use thiserror::Error;

/// Why an entry of a layer is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EntryFault {
    /// Its name is empty.
    #[error("has no name")]
    Empty,
    /// Its name holds a zero byte.
    #[error("has a zero byte in its name")]
    Nul,
    /// Its name begins at the root of the host.
    #[error("has an absolute name")]
    Absolute,
    /// Its name climbs with `..`.
    #[error("climbs out with \"..\"")]
    Climbs,
    /// Its name is longer than the limits allow.
    #[error("has too long a name")]
    TooLong,
    /// Its name uses the prefix `.wh.` for something other than a whiteout.
    #[error("misuses the prefix \".wh.\"")]
    Reserved,
    /// It replaces the root by something that is no directory.
    #[error("replaces the root directory")]
    Root,
    /// One of its parents is a symbolic link or something else that is no directory.
    #[error("has a parent that is no directory")]
    Parent,
    /// It is a hard link to something that is no file of the image.
    #[error("links to what is no file of the image")]
    Target,
    /// It is a sparse file.
    #[error("is a sparse file, which is not supported")]
    Sparse,
    /// It is of a kind that root filesystems do not have.
    #[error("is of an unknown kind")]
    Kind,
}
