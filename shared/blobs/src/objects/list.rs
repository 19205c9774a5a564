//! What lies in the object store, and what was left unfinished there.

use std::collections::HashMap;
use std::future;
use std::time::{Duration, SystemTime};

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use larder_oci::Digest;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::{Objects, age, failed};
use crate::{BlobError, Stored};

impl Objects {
    pub(crate) fn list(&self) -> BoxStream<'static, Result<Stored, BlobError>> {
        let objects = self.clone();
        let listing = async move {
            let used = objects.used().await?;
            let blobs = objects.objects("blobs");
            Ok(blobs.try_filter_map(move |object| future::ready(Ok(stored(&object, &used)))))
        };
        stream::once(listing).try_flatten().boxed()
    }

    pub(crate) async fn sweep(&self, older_than: Duration) -> Result<u64, BlobError> {
        let mut swept = 0;
        let mut drafts = self.objects("ingest");
        while let Some(draft) = drafts.try_next().await? {
            if age(&draft).is_some_and(|age| age >= older_than) {
                match self.store.delete(&draft.location).await {
                    Ok(()) => swept += 1,
                    Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(failed("delete", &draft.location)(error)),
                }
            }
        }
        Ok(swept)
    }

    /// When each marked blob was last relied on.
    async fn used(&self) -> Result<HashMap<Digest, SystemTime>, BlobError> {
        let markers = self.objects("used").try_filter_map(|marker| {
            let digest = address(&marker, "used/", '-');
            future::ready(Ok(digest.map(|digest| (digest, marker.last_modified.into()))))
        });
        markers.try_collect().await
    }

    fn objects(&self, prefix: &'static str) -> BoxStream<'static, Result<ObjectMeta, BlobError>> {
        let path = Path::from(prefix);
        self.store.list(Some(&path)).map_err(move |error| failed("list", &path)(error)).boxed()
    }
}

fn stored(object: &ObjectMeta, used: &HashMap<Digest, SystemTime>) -> Option<Stored> {
    let digest = address(object, "blobs/", '/')?;
    let written = object.last_modified.into();
    let modified = used.get(&digest).copied().map_or(written, |used| used.max(written));
    Some(Stored { digest, size: object.size, modified })
}

fn address(object: &ObjectMeta, prefix: &str, separator: char) -> Option<Digest> {
    let name = object.location.as_ref().strip_prefix(prefix)?;
    name.replacen(separator, ":", 1).parse().ok()
}
