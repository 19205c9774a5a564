//! The ledger of names, on an object store or a local directory.
//!
//! Each change of a name is a new immutable record, created only if it does not exist yet: that is compare-and-swap for
//! concurrent writers, and a history for free. On a local directory the catalog also keeps the view other tools read,
//! `index.json` of an OCI image layout, and adopts what they write there.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod error;
mod layout;
mod ledger;
#[cfg(feature = "suite")]
pub mod suite;

use std::path::Path;
use std::sync::Arc;

use larder_oci::Descriptor;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

pub use error::CatalogError;
pub use ledger::{Origin, Record};

use layout::{Entries, Layout};
use ledger::Ledger;

/// The names of a store; clones share it.
#[derive(Clone)]
pub struct Catalog {
    ledger: Ledger,
    layout: Option<Arc<Layout>>,
}

/// What [`Catalog::set`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Set {
    /// The name pointed there already.
    Unchanged(Record),
    /// It points there now.
    Changed(Record),
}

impl Catalog {
    /// Opens the directory `root`: makes it an OCI image layout if it is none, and adopts the names that other tools have
    /// written to its `index.json`. A read-only layout can be read.
    ///
    /// # Errors
    /// [`CatalogError::Disk`], [`CatalogError::Layout`].
    pub async fn on_disk(root: &Path) -> Result<Self, CatalogError> {
        let objects = LocalFileSystem::new_with_prefix(root)
            .map_err(|source| CatalogError::Objects {
                action: "open",
                key: root.display().to_string(),
                source,
            })?
            .with_fsync(true);
        let catalog =
            Self { ledger: Ledger::new(Arc::new(objects)), layout: Some(Arc::new(Layout::open(root)?)) };
        catalog.adopt().await?;
        Ok(catalog)
    }

    /// Uses an object store.
    pub fn on_objects(objects: Arc<dyn ObjectStore>) -> Self {
        Self { ledger: Ledger::new(objects), layout: None }
    }

    /// What `name` points to, or `None`.
    ///
    /// # Errors
    /// [`CatalogError::Objects`], [`CatalogError::Record`].
    pub async fn resolve(&self, name: &str) -> Result<Option<Record>, CatalogError> {
        if let Some(foreign) = self.adopt().await? {
            return Ok(foreign.into_iter().find(|record| record.name == name));
        }
        let current = self.ledger.current(name).await?;
        Ok(current.filter(|record| record.descriptor.is_some()))
    }

    /// All names, in their order.
    ///
    /// # Errors
    /// [`CatalogError::Objects`], [`CatalogError::Record`].
    pub async fn list(&self) -> Result<Vec<Record>, CatalogError> {
        let mut names = match self.adopt().await? {
            Some(foreign) => foreign,
            None => self.ledger.list().await?,
        };
        names.retain(|record| record.descriptor.is_some());
        names.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(names)
    }

    /// Every change of `name`, oldest first.
    ///
    /// # Errors
    /// [`CatalogError::Objects`], [`CatalogError::Record`].
    pub async fn history(&self, name: &str) -> Result<Vec<Record>, CatalogError> {
        self.adopt().await?;
        self.ledger.history(name).await
    }

    /// Points `name` to `descriptor`. Doing it twice changes nothing.
    ///
    /// # Errors
    /// [`CatalogError::Name`], [`CatalogError::Contended`], [`CatalogError::Disk`], [`CatalogError::Objects`].
    pub async fn set(
        &self,
        name: &str,
        descriptor: &Descriptor,
        origin: Origin,
    ) -> Result<Set, CatalogError> {
        let _lock = self.lock_and_adopt().await?;
        let current = self.ledger.current(name).await?;
        if let Some(record) = current.filter(|record| record.points_to(descriptor)) {
            return Ok(Set::Unchanged(record));
        }
        if let Some(layout) = &self.layout {
            layout.show(name, Some(descriptor))?;
        }
        let record = self.ledger.append(name, Some(descriptor), origin).await?;
        self.stamp()?;
        Ok(Set::Changed(record))
    }

    /// Makes `name` point to nothing; `false` when it did already.
    ///
    /// # Errors
    /// As [`Catalog::set`].
    pub async fn remove(&self, name: &str, origin: Origin) -> Result<bool, CatalogError> {
        let _lock = self.lock_and_adopt().await?;
        let current = self.ledger.current(name).await?;
        if current.is_none_or(|record| record.descriptor.is_none()) {
            return Ok(false);
        }
        if let Some(layout) = &self.layout {
            layout.show(name, None)?;
        }
        self.ledger.append(name, None, origin).await?;
        self.stamp()?;
        Ok(true)
    }

    fn stamp(&self) -> Result<(), CatalogError> {
        self.layout.as_ref().map_or(Ok(()), |layout| layout.stamp())
    }

    /// Brings into the ledger what other tools, or a crash between view and ledger, have left in `index.json`. Returns the
    /// names of the view when the directory cannot be written.
    async fn adopt(&self) -> Result<Option<Vec<Record>>, CatalogError> {
        match &self.layout {
            Some(layout) if !layout.is_ours()? => {
                if layout.is_read_only() {
                    return layout.entries().map(|entries| Some(Record::of_view(entries.named)));
                }
                self.lock_and_adopt().await.map(|_| None)
            }
            _ => Ok(None),
        }
    }

    async fn lock_and_adopt(&self) -> Result<Option<layout::Lock>, CatalogError> {
        let Some(layout) = &self.layout else {
            return Ok(None);
        };
        let lock = layout.lock().await?;
        if layout.is_ours()? {
            return Ok(Some(lock));
        }
        let known = self.ledger.list().await?;
        let mut view = match layout.entries() {
            Err(error @ CatalogError::Layout { .. }) if !known.is_empty() => {
                tracing::warn!(%error, "index.json is damaged; it is kept as index.json.damaged and written anew from the ledger");
                layout.set_damaged_aside()?;
                Entries::default()
            }
            view => view?,
        };
        for (name, descriptor) in &view.named {
            let same = |record: &&Record| record.name == *name && record.points_to(descriptor);
            if known.iter().find(same).is_none() {
                self.ledger.append(name, Some(descriptor), Origin::Adopted).await?;
            }
        }
        for record in known {
            let Some(descriptor) = record.descriptor else {
                continue;
            };
            if view.named.iter().any(|(name, _)| *name == record.name) {
                continue;
            }
            // Another tool dropped it. Two tools that write at once also look like that, so it goes only with its content.
            if layout.holds(&descriptor) {
                view.named.push((record.name, descriptor));
            } else {
                self.ledger.append(&record.name, None, Origin::Adopted).await?;
            }
        }
        layout.rewrite(&view)?;
        layout.stamp()?;
        Ok(Some(lock))
    }
}
