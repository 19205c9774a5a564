//! Names of entries, and what they say about lower layers (OCI image-spec, layer.md).

use super::EntryFault;

const WHITEOUT: &[u8] = b".wh.";
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What lazy-loading snapshotters keep at the root of a layer; no part of the filesystem.
const LAZY: [&[u8]; 3] = [b"stargz.index.json", b".prefetch.landmark", b".no.prefetch.landmark"];

/// What the name of an entry stands for. Paths are clean: relative, without `.`, `..` or empty components; the root is
/// the empty path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// A path of the filesystem.
    Path(Vec<u8>),
    /// Hides the path in lower layers.
    Whiteout(Vec<u8>),
    /// Hides what lower layers hold in the directory of this path.
    Opaque(Vec<u8>),
    /// No part of the filesystem, though hard links may point at it.
    Aside(Vec<u8>),
}

impl Name {
    pub(super) fn parse(name: &[u8], name_bytes_max: usize) -> Result<Self, EntryFault> {
        if name.starts_with(b"/") {
            return Err(EntryFault::Absolute);
        }
        let path = clean(name, name_bytes_max)?;
        let (parent, base) = split(&path);
        if base == OPAQUE {
            return Ok(Self::Opaque(parent.to_vec()));
        }
        if path.split(|byte| *byte == b'/').any(|component| component.starts_with(AUFS)) {
            return Ok(Self::Aside(path));
        }
        if parent.split(|byte| *byte == b'/').any(|component| component.starts_with(WHITEOUT)) {
            return Err(EntryFault::Reserved);
        }
        if let Some(hidden) = base.strip_prefix(WHITEOUT) {
            return match hidden {
                b"" | b"." | b".." => Err(EntryFault::Reserved),
                _ if parent.is_empty() => Ok(Self::Whiteout(hidden.to_vec())),
                _ => Ok(Self::Whiteout([parent, b"/", hidden].concat())),
            };
        }
        Ok(if LAZY.contains(&path.as_slice()) { Self::Aside(path) } else { Self::Path(path) })
    }
}

/// Returns the clean path of the target of a hard link. It is only looked up, so the slash that some tools put before
/// it does no harm.
pub(super) fn target(name: &[u8], name_bytes_max: usize) -> Result<Vec<u8>, EntryFault> {
    clean(name, name_bytes_max)
}

/// The path of the directory that holds `path`, and the rest.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

fn clean(name: &[u8], name_bytes_max: usize) -> Result<Vec<u8>, EntryFault> {
    if name.is_empty() {
        return Err(EntryFault::Empty);
    }
    if name.len() > name_bytes_max {
        return Err(EntryFault::TooLong);
    }
    if name.contains(&0) {
        return Err(EntryFault::Nul);
    }
    let mut path = Vec::with_capacity(name.len());
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(EntryFault::Climbs),
            _ => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(component);
            }
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expected: &Result<Name, EntryFault>) {
        assert_eq!(&Name::parse(name.as_bytes(), 40), expected, "{name:?}");
    }

    #[test]
    fn cleans_paths() {
        for (name, path) in
            [("./", ""), (".", ""), ("./a//b/./c/", "a/b/c"), ("a", "a"), ("a.wh.b", "a.wh.b")]
        {
            check(name, &Ok(Name::Path(path.into())));
        }
    }

    #[test]
    fn tells_whiteouts() {
        check(".wh.f", &Ok(Name::Whiteout("f".into())));
        check("./a/.wh.f/", &Ok(Name::Whiteout("a/f".into())));
        check(".wh..wh..opq", &Ok(Name::Opaque(Vec::new())));
        check("a/b/.wh..wh..opq", &Ok(Name::Opaque("a/b".into())));
        check(".wh..hidden", &Ok(Name::Whiteout(".hidden".into())));
    }

    #[test]
    fn sets_metadata_of_other_tools_aside() {
        for name in [".wh..wh.aufs", ".wh..wh.plnk/1.2", "stargz.index.json", ".prefetch.landmark"] {
            check(name, &Ok(Name::Aside(name.into())));
        }
        check("a/stargz.index.json", &Ok(Name::Path("a/stargz.index.json".into())));
    }

    #[test]
    fn refuses_escapes() {
        check("", &Err(EntryFault::Empty));
        check("/etc/passwd", &Err(EntryFault::Absolute));
        for name in ["..", "../evil", "a/../b", "a/..", "./../x"] {
            check(name, &Err(EntryFault::Climbs));
        }
        check("a\0b", &Err(EntryFault::Nul));
        check(&"x".repeat(41), &Err(EntryFault::TooLong));
        for name in [".wh.", "a/.wh..", ".wh...", ".wh.d/f"] {
            check(name, &Err(EntryFault::Reserved));
        }
    }
}
