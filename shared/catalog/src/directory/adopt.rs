//! Brings into the ledger what other tools have written to the view.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use larder_oci::Descriptor;

use super::Directory;
use super::foreign::{Foreign, compact};
use super::view::{Base, named};
use crate::CatalogError;
use crate::ledger::{Origin, Record, key};

/// How often other tools may write while the view is being made anew.
pub(super) const REWRITES_MAX: usize = 16;

impl Directory {
    /// Adopts the view until it is larder's; the lock of the view is held.
    pub(super) fn adopt(&self) -> Result<(), CatalogError> {
        for _ in 0..REWRITES_MAX {
            if self.view.is_ours()? || self.adopt_once()? {
                return Ok(());
            }
        }
        Err(CatalogError::Contended(self.view.path().display().to_string()))
    }

    /// `false` when another tool has written in the meantime.
    fn adopt_once(&self) -> Result<bool, CatalogError> {
        // Changes wait: what is adopted follows what is known here.
        let lock = self.journal.lock()?;
        let pending = self.journal.read()?;
        self.records.restore(&lock, &pending)?;
        let pending = pending.into_keys().map(|(name, _)| name).collect();
        let (text, base) = self.view.read()?;
        let foreign = text.as_deref().map_or(Ok(Foreign::default()), Foreign::parse);
        match foreign {
            Ok(foreign) => self.merge(foreign, &pending, &base, Truth::View),
            Err(source) if self.records.is_empty()? => Err(self.view.damaged(source)),
            Err(error) => {
                tracing::warn!(%error, "index.json is damaged; it is kept as index.json.damaged and written anew from the ledger");
                let base = self.view.set_aside()?;
                self.merge(Foreign::default(), &pending, &base, Truth::Ledger)
            }
        }
    }

    fn merge(
        &self,
        foreign: Foreign<'_>,
        pending: &BTreeSet<String>,
        base: &Base,
        truth: Truth,
    ) -> Result<bool, CatalogError> {
        let mut names: BTreeMap<String, Option<&str>> =
            foreign.named.into_iter().map(|(name, entry)| (name, Some(entry))).collect();
        let known = names.keys().map(|name| key(name)).collect::<Result<HashSet<_>, _>>()?;
        names.extend(self.records.names_besides(&known)?.into_iter().map(|name| (name, None)));
        drop(known);

        let mut pack = self.records.pack.extend();
        let mut rewrite = self.view.rewrite()?;
        let mut removed = HashSet::new();
        for (name, entry) in &names {
            let current = self.records.current(name)?;
            let entry = entry.filter(|_| !pending.contains(name));
            let told = entry.and_then(|entry| Some((entry, named(entry)?.1)));
            if let Some((entry, told)) = told {
                if current.as_ref().is_none_or(|current| !current.points_to(&told)) {
                    pack.add(&Record::next(name, current.as_ref(), Origin::Adopted, Some(told)))?;
                }
                rewrite.line(&compact(entry))?;
                continue;
            }
            let target = current.as_ref().and_then(|current| current.descriptor.as_ref());
            match target {
                // Two tools that write at once lose one another's entries, so a name goes only with its content.
                Some(target) if truth == Truth::Ledger || pending.contains(name) || self.holds(target) => {
                    rewrite.named(name, target)?;
                }
                Some(_) => pack.add(&Record::next(name, current.as_ref(), Origin::Adopted, None))?,
                // Another entry of that name would take its place.
                None => drop(removed.insert(name.as_str())),
            }
        }
        pack.finish()?;
        for entry in foreign.kept {
            if !named(entry).is_some_and(|(name, _)| removed.contains(name.as_str())) {
                rewrite.kept(&compact(entry))?;
            }
        }
        rewrite.finish(base, false)
    }

    /// Whether the blob behind `descriptor` is there.
    fn holds(&self, descriptor: &Descriptor) -> bool {
        let digest = &descriptor.digest;
        self.root.join("blobs").join(digest.algorithm().name()).join(digest.hex()).exists()
    }
}

/// Whom to believe about a name that only the ledger has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Truth {
    /// The view, which can be read.
    View,
    /// The ledger.
    Ledger,
}
