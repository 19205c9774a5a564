//! The view that other tools read and write: `index.json` of an OCI image layout (OCI image-spec, image-layout.md).
//!
//! As larder writes it, it has an entry a line: first the names in their order, then, behind an empty line, what cannot be a name
//! here and is carried along. `ledger/stamp` tells that file from one that somebody else wrote, which can have any form.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use larder_oci::{Descriptor, Digest};
use serde::de::Error as _;

use super::file::{Replacement, failed, found, replace};
use crate::CatalogError;
use crate::ledger::is_name;

const NAME_ANNOTATION: &str = "org.opencontainers.image.ref.name";
const HEAD: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":["#;
const TAIL: &str = "]}";
const ENTRY_BYTES_TYPICAL: usize = 250;

/// Where names point now that the view may have otherwise; nothing for a name that was removed.
pub(super) type Changes = BTreeMap<String, Option<Descriptor>>;

pub(super) struct View {
    folder: PathBuf,
    path: PathBuf,
    stamp: PathBuf,
    /// The stamp last found to be larder's: a file that has been will be.
    known: Mutex<String>,
}

/// The file that a new view is made from: another one in its place makes the new view void.
pub(super) struct Base(Option<String>);

impl View {
    pub(super) fn new(root: &Path) -> Self {
        let folder = root.join("ledger");
        Self { path: root.join("index.json"), stamp: folder.join("stamp"), folder, known: Mutex::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether larder wrote the view last.
    pub(super) fn is_ours(&self) -> Result<bool, CatalogError> {
        match self.current_stamp()? {
            Some(stamp) => self.is_known(&stamp),
            None => Ok(false),
        }
    }

    /// The view, if larder wrote it last.
    pub(super) fn open_ours(&self) -> Result<Option<Ours<'_>>, CatalogError> {
        let Some(file) = found(File::open(&self.path)).map_err(failed("read", &self.path))? else {
            return Ok(None);
        };
        let stamp = stamp_of(&file.metadata().map_err(failed("look at", &self.path))?);
        if !self.is_known(&stamp)? {
            return Ok(None);
        }
        let lines = BufReader::with_capacity(64 * 1024, file);
        let mut ours = Ours { view: self, base: Base(Some(stamp)), lines, line: String::new() };
        ours.advance()?;
        if ours.line != HEAD {
            return Err(self.damaged(serde_json::Error::custom("the first line is not larder's")));
        }
        Ok(Some(ours))
    }

    /// The text of a view that anybody wrote; nothing when there is none.
    pub(super) fn read(&self) -> Result<(Option<Vec<u8>>, Base), CatalogError> {
        let base = Base(self.current_stamp()?);
        let text = found(fs::read(&self.path)).map_err(failed("read", &self.path))?;
        Ok((text, base))
    }

    pub(super) fn damaged(&self, source: serde_json::Error) -> CatalogError {
        CatalogError::Layout { path: self.path.clone(), source }
    }

    pub(super) fn nameless(&self) -> CatalogError {
        self.damaged(serde_json::Error::custom("an entry of larder's has no name"))
    }

    /// Puts a view that cannot be read out of the way.
    pub(super) fn set_aside(&self) -> Result<Base, CatalogError> {
        let aside = self.path.with_extension("json.damaged");
        fs::rename(&self.path, &aside).map_err(failed("rename to", &aside))?;
        Ok(Base(None))
    }

    pub(super) fn rewrite(&self) -> Result<Rewrite<'_>, CatalogError> {
        let mut out = Replacement::begin(&self.folder, &self.path)?;
        out.write(HEAD.as_bytes())?;
        Ok(Rewrite { view: self, out, is_first: true, has_kept: false })
    }

    /// Brings `changes` into the view; `false` when it is not larder's, or is not any more.
    pub(super) fn apply(&self, changes: &Changes) -> Result<bool, CatalogError> {
        let Some(mut ours) = self.open_ours()? else {
            return Ok(false);
        };
        let mut rewrite = self.rewrite()?;
        ours.merge(changes, |entry| match entry {
            Entry::Line(line) => rewrite.line(line),
            Entry::Changed(name, descriptor) => rewrite.named(name, descriptor),
        })?;
        while let Some(line) = ours.next()? {
            let is_removed = |name: String| matches!(changes.get(&name), Some(None));
            if !named(line).is_some_and(|(name, _)| is_removed(name)) {
                rewrite.kept(line)?;
            }
        }
        let base = ours.base;
        rewrite.finish(&base, true)
    }

    fn current_stamp(&self) -> Result<Option<String>, CatalogError> {
        let file = found(fs::metadata(&self.path)).map_err(failed("look at", &self.path))?;
        Ok(file.as_ref().map(stamp_of))
    }

    fn is_known(&self, stamp: &str) -> Result<bool, CatalogError> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if *known() == stamp {
            return Ok(true);
        }
        let ours = found(fs::read_to_string(&self.stamp)).map_err(failed("read", &self.stamp))?;
        let is_ours = ours.is_some_and(|ours| ours.lines().any(|line| line == stamp));
        if is_ours {
            stamp.clone_into(&mut known());
        }
        Ok(is_ours)
    }
}

fn stamp_of(file: &Metadata) -> String {
    format!("{}:{}:{}.{}", file.ino(), file.len(), file.mtime(), file.mtime_nsec())
}

/// What stands at one name.
pub(super) enum Entry<'a> {
    /// As it was.
    Line(&'a str),
    /// As it is now.
    Changed(&'a str, &'a Descriptor),
}

/// A view of larder's own form.
pub(super) struct Ours<'a> {
    view: &'a View,
    base: Base,
    lines: BufReader<File>,
    line: String,
}

impl Ours<'_> {
    fn advance(&mut self) -> Result<(), CatalogError> {
        self.line.clear();
        self.lines.read_line(&mut self.line).map_err(failed("read", &self.view.path))?;
        if self.line.ends_with('\n') {
            self.line.pop();
        } else if self.line != TAIL {
            return Err(self.view.damaged(serde_json::Error::custom("the last line is missing")));
        }
        Ok(())
    }

    /// About as many entries as there are.
    pub(super) fn len_about(&self) -> usize {
        let bytes = self.lines.get_ref().metadata().map_or(0, |file| file.len());
        usize::try_from(bytes).map_or(0, |bytes| bytes / ENTRY_BYTES_TYPICAL)
    }

    /// The next entry of the part that is read; nothing at its end.
    fn next(&mut self) -> Result<Option<&str>, CatalogError> {
        if self.line == TAIL {
            return Ok(None);
        }
        self.advance()?;
        if self.line.ends_with(',') {
            self.line.pop();
        }
        Ok((!self.line.is_empty() && self.line != TAIL).then_some(&self.line))
    }

    /// Gives what stands at each name once `changes` are made, in the order of the names.
    pub(super) fn merge<F: FnMut(Entry<'_>) -> Result<(), CatalogError>>(
        &mut self,
        changes: &Changes,
        mut give: F,
    ) -> Result<(), CatalogError> {
        let view = self.view;
        let mut changes = changes.iter().peekable();
        let give_changed = |(name, descriptor): (&String, &Option<Descriptor>), give: &mut F| {
            descriptor.as_ref().map_or(Ok(()), |descriptor| give(Entry::Changed(name, descriptor)))
        };
        while let Some(line) = self.next()? {
            // Behind the last change nothing has to be understood.
            if changes.peek().is_some() {
                let (name, _) = named(line).ok_or_else(|| view.nameless())?;
                while let Some(earlier) = changes.next_if(|(changed, _)| **changed < name) {
                    give_changed(earlier, &mut give)?;
                }
                if let Some(same) = changes.next_if(|(changed, _)| **changed == name) {
                    give_changed(same, &mut give)?;
                    continue;
                }
            }
            give(Entry::Line(line))?;
        }
        changes.try_for_each(|later| give_changed(later, &mut give))
    }
}

/// A new view in the making: the names in their order, then what is carried along.
pub(super) struct Rewrite<'a> {
    view: &'a View,
    out: Replacement,
    is_first: bool,
    has_kept: bool,
}

impl Rewrite<'_> {
    /// Writes an entry as it is.
    pub(super) fn line(&mut self, line: &str) -> Result<(), CatalogError> {
        self.out.write(if self.is_first { b"\n" } else { b",\n" })?;
        self.is_first = false;
        self.out.write(line.as_bytes())
    }

    pub(super) fn named(&mut self, name: &str, descriptor: &Descriptor) -> Result<(), CatalogError> {
        let mut descriptor = Cow::Borrowed(descriptor);
        // An entry that has only its digest for a name came without one, and stays so.
        if name.parse::<Digest>().is_err() {
            descriptor.to_mut().annotations.insert(NAME_ANNOTATION.to_owned(), name.to_owned());
        }
        self.line(&serde_json::to_string(&descriptor).expect("a descriptor is plain data"))
    }

    /// Writes what cannot be a name here.
    pub(super) fn kept(&mut self, line: &str) -> Result<(), CatalogError> {
        if self.has_kept {
            return self.line(line);
        }
        self.has_kept = true;
        self.out.write(if self.is_first { b"\n\n" } else { b",\n\n" })?;
        self.is_first = false;
        self.out.write(line.as_bytes())
    }

    /// Puts the new view in the place of the one it was made from, which is larder's if `was_ours`; `false` when another tool has
    /// written in the meantime.
    pub(super) fn finish(mut self, base: &Base, was_ours: bool) -> Result<bool, CatalogError> {
        let view = self.view;
        self.out.write(b"\n")?;
        self.out.write(TAIL.as_bytes())?;
        let mut stamp = stamp_of(&self.out.sync()?);
        if view.current_stamp()? != base.0 {
            return Ok(false);
        }
        // Whoever looks between the two renames finds a view that is known, whichever it is.
        if let Some(old) = base.0.as_ref().filter(|_| was_ours) {
            stamp.push('\n');
            stamp.push_str(old);
        }
        replace(&view.folder, &view.stamp, stamp.as_bytes())?;
        self.out.commit()?;
        Ok(true)
    }
}

/// The name and target of an entry as larder writes nearly all, which are very many: as [`named`], in a fraction of the time.
pub(super) fn plain(entry: &str) -> Option<(String, Descriptor)> {
    let (media_type, rest) = entry.strip_prefix(r#"{"mediaType":""#)?.split_once('"')?;
    let (digest, rest) = rest.strip_prefix(r#","digest":""#)?.split_once('"')?;
    let (size, rest) = rest.strip_prefix(r#","size":"#)?.split_once(',')?;
    let label = r#""annotations":{"org.opencontainers.image.ref.name":""#;
    let (name, rest) = rest.strip_prefix(label)?.split_once('"')?;
    let size = size.parse().ok().filter(|&size: &u64| i64::try_from(size).is_ok())?;
    let is_escaped = media_type.contains('\\') || name.contains('\\');
    let is_plain = rest == "}}" && !is_escaped && is_name(name);
    is_plain.then_some((name.to_owned(), Descriptor::new(media_type, digest.parse().ok()?, size)))
}

/// The name and target of an entry, if it has a target that can be understood and a name that can be kept.
pub(super) fn named(entry: &str) -> Option<(String, Descriptor)> {
    if let Some(plain) = plain(entry) {
        return Some(plain);
    }
    let mut descriptor: Descriptor = serde_json::from_str(entry).ok()?;
    let name = descriptor.annotations.remove(NAME_ANNOTATION).filter(|name| !name.is_empty());
    if descriptor.annotations.is_empty() {
        // An emptied map keeps its memory, and there can be very many.
        descriptor.annotations = BTreeMap::new();
    }
    let name = name.unwrap_or_else(|| descriptor.digest.to_string());
    is_name(&name).then_some((name, descriptor))
}
