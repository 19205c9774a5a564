//! Gives a verified image its name.
//! Hears [`ImageVerified`]; says [`ImageIndexed`]; touches `catalog`, `blobs` (merged indexes).
//! Invariant: an image is said to be indexed only when its name is durable, and what was written here is not lost to what is pulled.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use actix::{Context, Handler};
use larder_blobs::closure::{Scope, walk};
use larder_catalog::{CatalogError, Origin, Record, Set};
use larder_messages::{ImageIndexed, ImageVerified, NameChanged, Naming, Reach};
use larder_oci::{Descriptor, Digest, Document, Expected, Kind, OnLocal, merge, overlay};
use larder_runtime::{Outcome, Says, on_pool};
use tokio::sync::{Mutex, MutexGuard};

use crate::{IndexError, Indexer, Ports};

/// How often a change starts anew because another indexer was quicker.
const TRIES_MAX: usize = 64;
/// Names whose changes exclude each other in this process; more would only save chance meetings.
const TURNS: usize = 64;

/// Give the verified image its name.
#[derive(actix::Message)]
#[rtype(result = "Outcome")]
pub struct Index {
    /// The image.
    pub verified: ImageVerified,
}

impl Handler<Index> for Indexer {
    type Result = actix::ResponseFuture<Outcome>;

    fn handle(&mut self, Index { mut verified }: Index, _: &mut Context<Self>) -> Self::Result {
        let ports = Arc::clone(&self.ports);
        on_pool(async move {
            let name = verified.reference.name();
            let _turn = ports.turns.of(&name).await;
            // What the verifier has seen may have been deleted since, and from here on is not.
            let _still =
                ports.catalog.keep_still().await.map_err(|source| IndexError::catalog(&name, source))?;
            ports.refuse_vanished(&name, &verified).await?;
            let (root, changed) = Change { ports: &ports, name: &name }.settle(&verified).await?;
            verified.root = root;
            let mut says = Says::default();
            if changed {
                // Who remembers names hears of it before who asked for the change hears that it was made.
                says = says.news(&NameChanged { name });
            }
            Ok(says.news(&ImageIndexed::from(verified)))
        })
    }
}

impl Ports {
    async fn refuse_vanished(&self, name: &str, verified: &ImageVerified) -> Result<(), IndexError> {
        let scope = match verified.reach {
            Reach::Root => return self.refuse_vanished_root(name, &verified.root).await,
            Reach::Sparse => Scope::Present,
            Reach::Whole => Scope::Wanted(&verified.platforms),
        };
        let walked = walk(&self.blobs, &verified.root, &scope).await;
        let closure = walked.map_err(|source| IndexError::Store { name: name.to_owned(), source })?;
        if closure.missing.is_empty() && !closure.is_hollow() {
            return Ok(());
        }
        let missing = if closure.missing.is_empty() { closure.absent } else { closure.missing };
        Err(IndexError::Vanished { name: name.to_owned(), missing })
    }

    async fn refuse_vanished_root(&self, name: &str, root: &Descriptor) -> Result<(), IndexError> {
        let has = self.blobs.has(root).await;
        if has.map_err(|source| IndexError::Store { name: name.to_owned(), source })? {
            return Ok(());
        }
        Err(IndexError::Vanished { name: name.to_owned(), missing: vec![root.digest.clone()] })
    }
}

/// Changes of one name take turns here: compare-and-swap alone would have all start over for each that succeeds.
pub(crate) struct Turns(Vec<Mutex<()>>);

impl Default for Turns {
    fn default() -> Self {
        Self((0..TURNS).map(|_| Mutex::new(())).collect())
    }
}

impl Turns {
    async fn of(&self, name: &str) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % TURNS as u64).unwrap_or(0);
        self.0[place].lock().await
    }
}

/// What a name is to point to.
struct Target {
    descriptor: Descriptor,
    origin: Origin,
}

/// One name being changed.
struct Change<'a> {
    ports: &'a Ports,
    name: &'a str,
}

impl Change<'_> {
    /// Points the name to what `verified` wants, and returns what that is, and whether it did not before.
    async fn settle(&self, verified: &ImageVerified) -> Result<(Descriptor, bool), IndexError> {
        let root = &verified.root;
        for _ in 0..TRIES_MAX {
            let current = self.ports.catalog.resolve(self.name).await.map_err(|error| self.refused(error))?;
            let found = digest(current.as_ref());
            let (target, expected) = match &verified.naming {
                Naming::Pulled { local } => {
                    let origin = match verified.reach {
                        Reach::Root => Origin::Proxied,
                        Reach::Whole | Reach::Sparse => Origin::Pulled,
                    };
                    let theirs = Target { descriptor: root.clone(), origin };
                    (self.pulled(current.as_ref(), theirs, *local).await?, &Expected::Any)
                }
                Naming::Written { expected } => {
                    (Target { descriptor: root.clone(), origin: Origin::Written }, expected)
                }
                Naming::Merged { expected } => (self.merged(current.as_ref(), root).await?, expected),
            };
            // Who does the same twice, as after a lost answer, has succeeded.
            if found != Some(&target.descriptor.digest) && !expected.holds(found) {
                let (name, expected, found) = (self.name.to_owned(), expected.clone(), found.cloned());
                return Err(self.refused(CatalogError::Moved { name, expected, found }));
            }
            let still = Expected::still(found);
            let set = self.ports.catalog.set_if(self.name, &target.descriptor, target.origin, still).await;
            match set {
                Ok(set) => return Ok((target.descriptor, matches!(set, Set::Changed(_)))),
                Err(CatalogError::Moved { .. }) => {}
                Err(error) => return Err(self.refused(error)),
            }
        }
        Err(self.refused(CatalogError::Contended(self.name.to_owned())))
    }

    /// What upstream has, unless the name was written here and would lose something.
    async fn pulled(
        &self,
        current: Option<&Record>,
        theirs: Target,
        on_local: OnLocal,
    ) -> Result<Target, IndexError> {
        let root = &theirs.descriptor;
        let local = current.filter(|record| record.origin == Origin::Written && !record.points_to(root));
        let Some(local) = local.and_then(|record| record.descriptor.as_ref()) else {
            return Ok(theirs);
        };
        let (Some(ours), Some(upstream)) = (self.document(local).await?, self.document(root).await?) else {
            return Ok(theirs);
        };
        let both = matches!((ours.kind(), upstream.kind()), (Kind::Index(_), Kind::Index(_)));
        match on_local {
            OnLocal::Replace => Ok(theirs),
            OnLocal::Merge if both => {
                let document = overlay(&ours, &upstream).map_err(|source| self.unmergeable(source))?;
                if document.descriptor().digest == root.digest {
                    Ok(theirs)
                } else {
                    self.written(&document).await
                }
            }
            OnLocal::Merge | OnLocal::Fail => Err(IndexError::Local { name: self.name.to_owned() }),
        }
    }

    /// What the name points to, with the children of the index `additions`.
    async fn merged(&self, current: Option<&Record>, additions: &Descriptor) -> Result<Target, IndexError> {
        let base = match current.and_then(|record| record.descriptor.as_ref()) {
            // An index that is lost cannot be kept; the name must not be lost with it.
            Some(descriptor) => self.document(descriptor).await?,
            None => None,
        };
        let Some(additions) = self.document(additions).await? else {
            let source = larder_blobs::BlobError::NotFound(additions.digest.clone());
            return Err(IndexError::Store { name: self.name.to_owned(), source });
        };
        let children: Vec<Descriptor> = additions.children().into_iter().cloned().collect();
        if let Some(digest) =
            digest(current).filter(|digest| children.iter().any(|child| child.digest == **digest))
        {
            return Err(IndexError::Cycle { name: self.name.to_owned(), digest: digest.clone() });
        }
        let document = merge(base.as_ref(), &children).map_err(|source| self.unmergeable(source))?;
        self.written(&document).await
    }

    async fn written(&self, document: &Document) -> Result<Target, IndexError> {
        let descriptor = document.descriptor();
        let put = self.ports.blobs.put(&descriptor.digest, document.bytes().clone()).await;
        put.map_err(|source| IndexError::Store { name: self.name.to_owned(), source })?;
        Ok(Target { descriptor, origin: Origin::Written })
    }

    async fn document(&self, at: &Descriptor) -> Result<Option<Document>, IndexError> {
        let read = self.ports.blobs.document(at).await;
        read.map_err(|source| IndexError::Store { name: self.name.to_owned(), source })
    }

    fn refused(&self, source: CatalogError) -> IndexError {
        IndexError::catalog(self.name, source)
    }

    fn unmergeable(&self, source: larder_oci::OciError) -> IndexError {
        IndexError::Merge { name: self.name.to_owned(), source }
    }
}

fn digest(record: Option<&Record>) -> Option<&Digest> {
    record?.descriptor.as_ref().map(|descriptor| &descriptor.digest)
}
