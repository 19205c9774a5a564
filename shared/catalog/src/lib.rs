//! The ledger of names, on an object store or a local directory.
//!
//! Each change of a name is a new immutable record, created only if it does not exist yet: that is compare-and-swap for
//! concurrent writers, and a history for free. A local directory also has the view that other tools read, `index.json` of an OCI
//! image layout; it follows the ledger, and what other tools write there is adopted.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod directory;
mod error;
mod labels;
mod lease;
mod ledger;
mod objects;
mod snapshot;
#[cfg(feature = "suite")]
pub mod suite;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use larder_oci::{Descriptor, Digest};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

pub use error::CatalogError;
pub use labels::Labels;
pub use larder_oci::Expected;
pub use lease::{Lease, LeaseId};
pub use ledger::{Origin, Record};

use directory::{Directory, Follower};
use labels::LabelRecords;
use lease::Leases;
use ledger::{Change, Step};
use objects::Objects;

/// The names of a store; clones share it. The last clone of a directory's waits, when it is dropped, until the view is up to
/// date.
#[derive(Clone)]
pub struct Catalog {
    names: Names,
    leases: Leases,
    labels: LabelRecords,
}

#[derive(Clone)]
enum Names {
    Directory(Arc<Followed>),
    Objects(Arc<Objects>),
}

struct Followed {
    directory: Arc<Directory>,
    follower: Follower,
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
        let folder = root.to_owned();
        let directory =
            Arc::new(joined(tokio::task::spawn_blocking(move || Directory::open(&folder)).await)?);
        let objects = LocalFileSystem::new_with_prefix(root).map_err(|source| {
            let key = root.display().to_string();
            CatalogError::Objects { action: "open", key, source }
        })?;
        let objects: Arc<dyn ObjectStore> = Arc::new(objects);
        let labels = LabelRecords::new(Arc::clone(&objects));
        let leases = Leases::new(objects, directory.is_read_only());
        let followed = Followed { directory, follower: Follower::default() };
        // What a crash has kept from the view comes into it now.
        if followed.directory.lags() {
            followed.follower.wake(&followed.directory);
        }
        Ok(Self { names: Names::Directory(Arc::new(followed)), leases, labels })
    }

    /// Uses an object store.
    pub fn on_objects(objects: Arc<dyn ObjectStore>) -> Self {
        let leases = Leases::new(Arc::clone(&objects), false);
        let labels = LabelRecords::new(Arc::clone(&objects));
        Self { names: Names::Objects(Arc::new(Objects::new(objects))), leases, labels }
    }

    /// What `name` points to, or `None`.
    ///
    /// # Errors
    /// [`CatalogError::Name`], [`CatalogError::Disk`], [`CatalogError::Layout`], [`CatalogError::Objects`],
    /// [`CatalogError::Record`].
    pub async fn resolve(&self, name: &str) -> Result<Option<Record>, CatalogError> {
        match &self.names {
            Names::Directory(followed) => {
                if followed.directory.is_at_hand()? {
                    return followed.directory.resolve(name);
                }
                let name = name.to_owned();
                followed.run(move |directory| directory.resolve(&name)).await
            }
            Names::Objects(objects) => objects.resolve(name).await,
        }
    }

    /// All names, in their order. A directory's say where they point, not since when: their `seq` and `at_ms` are 0.
    ///
    /// # Errors
    /// As [`Catalog::resolve`].
    pub async fn list(&self) -> Result<Vec<Record>, CatalogError> {
        match &self.names {
            Names::Directory(followed) => followed.run(Directory::list).await,
            Names::Objects(objects) => objects.list().await,
        }
    }

    /// Every change of `name`, oldest first. Of a read-only layout that another tool wrote, what it says comes last.
    ///
    /// # Errors
    /// As [`Catalog::resolve`].
    pub async fn history(&self, name: &str) -> Result<Vec<Record>, CatalogError> {
        match &self.names {
            Names::Directory(followed) => {
                let name = name.to_owned();
                followed.run(move |directory| directory.history(&name)).await
            }
            Names::Objects(objects) => objects.history(name).await,
        }
    }

    /// Points `name` to `descriptor`, durably. Doing it twice changes nothing. `index.json` follows; see [`Catalog::flush`].
    ///
    /// # Errors
    /// [`CatalogError::Contended`], and as [`Catalog::resolve`].
    pub async fn set(
        &self,
        name: &str,
        descriptor: &Descriptor,
        origin: Origin,
    ) -> Result<Set, CatalogError> {
        self.set_if(name, descriptor, origin, Expected::Any).await
    }

    /// Points `name` to `descriptor` if it points to what is `expected`, or to `descriptor` already: a change that is made
    /// twice has succeeded.
    ///
    /// # Errors
    /// [`CatalogError::Moved`], and as [`Catalog::set`].
    pub async fn set_if(
        &self,
        name: &str,
        descriptor: &Descriptor,
        origin: Origin,
        expected: Expected,
    ) -> Result<Set, CatalogError> {
        let (name, descriptor) = (name.to_owned(), Some(descriptor.clone()));
        match self.change(Change { name, descriptor, origin, expected }).await? {
            Step::Append(record) => Ok(Set::Changed(record)),
            Step::Settled(record) => Ok(Set::Unchanged(record.expect("a name points somewhere by a record"))),
        }
    }

    /// Makes `name` point to nothing; `false` when it did already.
    ///
    /// # Errors
    /// As [`Catalog::set`].
    pub async fn remove(&self, name: &str, origin: Origin) -> Result<bool, CatalogError> {
        let name = name.to_owned();
        let step = self.change(Change { name, descriptor: None, origin, expected: Expected::Any }).await?;
        Ok(matches!(step, Step::Append(_)))
    }

    async fn change(&self, change: Change) -> Result<Step, CatalogError> {
        let followed = match &self.names {
            Names::Directory(followed) => followed,
            Names::Objects(objects) => return objects.change(&change).await,
        };
        let step = followed.run(move |directory| directory.change(&change)).await?;
        if matches!(step, Step::Append(_)) {
            followed.follower.wake(&followed.directory);
        }
        Ok(step)
    }

    /// Waits until `index.json` holds everything that was set so far. An object store has nothing to wait for.
    ///
    /// # Errors
    /// [`CatalogError::Disk`], [`CatalogError::Layout`], [`CatalogError::Record`]. The names are durable all the same.
    pub async fn flush(&self) -> Result<(), CatalogError> {
        match &self.names {
            Names::Directory(followed) => followed.run(Directory::catch_up).await,
            Names::Objects(_) => Ok(()),
        }
    }

    /// Keeps what hangs on `root`, or without one all that is written or relied on from now on, from being evicted for `ttl`, or
    /// until [`Catalog::release`]. In a read-only directory, where nothing is evicted, it only gives an id.
    ///
    /// # Errors
    /// [`CatalogError::Objects`].
    pub async fn lease(&self, root: Option<&Digest>, ttl: Duration) -> Result<LeaseId, CatalogError> {
        self.leases.take(root, ttl).await
    }

    /// Held while a name is given to what was found whole: nothing is deleted meanwhile, by no process that shares the directory.
    /// Object stores have no such lock; there only the grace of a collection parts the two.
    ///
    /// # Errors
    /// [`CatalogError::Disk`].
    pub async fn keep_still(&self) -> Result<Still, CatalogError> {
        self.still(false).await
    }

    /// Held while blobs are deleted: no name is given meanwhile, as [`Catalog::keep_still`] has it.
    ///
    /// # Errors
    /// [`CatalogError::Disk`].
    pub async fn keep_others_still(&self) -> Result<Still, CatalogError> {
        self.still(true).await
    }

    async fn still(&self, alone: bool) -> Result<Still, CatalogError> {
        Ok(Still(match &self.names {
            Names::Directory(followed) => Some(followed.run(move |directory| directory.still(alone)).await?),
            Names::Objects(_) => None,
        }))
    }

    /// Ends a lease; one that has ended stays so.
    ///
    /// # Errors
    /// [`CatalogError::Objects`].
    pub async fn release(&self, id: &LeaseId) -> Result<(), CatalogError> {
        self.leases.release(id).await
    }

    /// The leases that hold, oldest first. Those that have ended are removed.
    ///
    /// # Errors
    /// [`CatalogError::Objects`].
    pub async fn leases(&self) -> Result<Vec<Lease>, CatalogError> {
        self.leases.all().await
    }
}

/// What [`Catalog::keep_still`] gives; ends when dropped.
pub struct Still(#[expect(dead_code, reason = "it holds a lock")] Option<directory::Lock>);

impl Followed {
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Directory) -> Result<T, CatalogError> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let directory = Arc::clone(&self.directory);
        joined(tokio::task::spawn_blocking(move || work(&directory)).await)
    }
}

fn joined<T>(work: Result<Result<T, CatalogError>, tokio::task::JoinError>) -> Result<T, CatalogError> {
    work.map_err(|_| CatalogError::Interrupted)?
}

#[cfg(test)]
mod tests {
    use larder_oci::media_type;

    use super::*;

    fn index(root: &Path) -> String {
        std::fs::read_to_string(root.join("index.json")).unwrap()
    }

    #[tokio::test]
    async fn view_holds_every_name_after_a_flush_and_after_the_last_handle_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let catalog = Catalog::on_disk(root.path()).await.unwrap();
        let target = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(b""), 0);
        for flushed in [true, false] {
            for number in 0..20 {
                let name = format!("{flushed}:{number}");
                catalog.clone().set(&name, &target, Origin::Written).await.unwrap();
            }
            if flushed {
                catalog.flush().await.unwrap();
                assert_eq!(index(root.path()).matches("true:").count(), 20);
            }
        }
        drop(catalog);
        assert_eq!(index(root.path()).matches("false:").count(), 20);
    }

    #[cfg(feature = "suite")]
    #[tokio::test(flavor = "multi_thread")]
    async fn disk_passes_the_suite() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) =
            (Catalog::on_disk(root.path()).await.unwrap(), Catalog::on_disk(root.path()).await.unwrap());
        suite::all(&one, &two, "disk").await;
    }

    #[cfg(feature = "suite")]
    #[tokio::test(flavor = "multi_thread")]
    async fn memory_passes_the_suite() {
        let store: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
        let other = Catalog::on_objects(Arc::clone(&store));
        suite::all(&Catalog::on_objects(store), &other, "memory").await;
    }
}
