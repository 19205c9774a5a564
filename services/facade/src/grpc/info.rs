//! What is known of stored content, and what a namespace says of it.

use std::collections::{BTreeMap, HashMap};
use std::future::ready;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use larder_blobs::{Blobs, Stored};
use larder_catalog::{Catalog, Labels};
use larder_containerd_api::content::{Info, ListContentResponse};
use larder_oci::Digest;
use tonic::Status;

use super::fault::{absent, blob_fault, catalog_fault};
use super::filter::Filters;
use super::namespace::Namespace;

/// A label's key and value together.
const LABEL_BYTES_MAX: usize = 4096;
/// What a listing says in one message.
const LISTED_PER_MESSAGE: usize = 100;

pub(super) async fn look(
    blobs: &Blobs,
    catalog: &Catalog,
    namespace: &Namespace,
    digest: &Digest,
) -> Result<Info, Status> {
    let stored = blobs.stat(digest).await.map_err(|error| blob_fault(&error))?;
    let stored = stored.ok_or_else(|| absent(digest))?;
    let labels = catalog.labels(namespace.as_str(), digest).await.map_err(|error| catalog_fault(&error))?;
    Ok(info(&stored, labels))
}

pub(super) async fn list(
    blobs: &Blobs,
    catalog: &Catalog,
    namespace: &Namespace,
    filters: Filters,
) -> Result<BoxStream<'static, Result<ListContentResponse, Status>>, Status> {
    let labels = catalog.labels_within(namespace.as_str()).await;
    let mut labels = labels.map_err(|error| catalog_fault(&error))?;
    let all = blobs.list().map_err(|error| blob_fault(&error));
    let infos = all.map_ok(move |stored| {
        let labels = labels.remove(&stored.digest);
        info(&stored, labels)
    });
    let listed = infos.try_filter(move |info| ready(is_listed(info, &filters)));
    let messages = listed.try_chunks(LISTED_PER_MESSAGE).map_ok(|info| ListContentResponse { info });
    Ok(messages.map_err(|error| error.1).boxed())
}

fn info(stored: &Stored, labels: Option<Labels>) -> Info {
    let updated = labels.as_ref().map_or(stored.modified, |labels| labels.updated.max(stored.modified));
    Info {
        digest: stored.digest.to_string(),
        size: i64::try_from(stored.size).unwrap_or(i64::MAX),
        created_at: Some(stored.modified.into()),
        updated_at: Some(updated.into()),
        labels: labels.into_iter().flat_map(|labels| labels.values).collect(),
    }
}

fn is_listed(info: &Info, filters: &Filters) -> bool {
    let size = info.size.to_string();
    filters.match_fields(|path| match path[0].as_str() {
        "digest" => Some(&info.digest),
        "size" => Some(&size),
        "labels" => info.labels.get(&path[1..].join(".")).map(String::as_str),
        _ => None,
    })
}

/// A change of labels: all of them, or those with a value here, where an empty one removes.
pub(super) enum Relabel {
    All(BTreeMap<String, String>),
    Some(BTreeMap<String, String>),
}

impl Relabel {
    /// What a field mask makes of `labels`.
    pub(super) fn masked(labels: HashMap<String, String>, mask: &[String]) -> Result<Self, Status> {
        check(&labels)?;
        let mut some = BTreeMap::new();
        let mut is_all = mask.is_empty();
        for path in mask {
            if let Some(key) = path.strip_prefix("labels.") {
                some.insert(key.to_owned(), labels.get(key).cloned().unwrap_or_default());
            } else if path == "labels" {
                is_all = true;
            } else {
                let message = format!("cannot update {path:?}: nothing but labels can be changed");
                return Err(Status::invalid_argument(message));
            }
        }
        Ok(if is_all { Self::All(labels.into_iter().collect()) } else { Self::Some(some) })
    }

    pub(super) async fn apply(
        self,
        catalog: &Catalog,
        namespace: &Namespace,
        digest: &Digest,
    ) -> Result<(), Status> {
        let change = |labels: &mut BTreeMap<String, String>| {
            match &self {
                Self::All(all) => labels.clone_from(all),
                Self::Some(some) => labels.extend(some.clone()),
            }
            labels.retain(|_, value| !value.is_empty());
        };
        let set = catalog.set_labels(namespace.as_str(), digest, change).await;
        set.map(drop).map_err(|error| catalog_fault(&error))
    }
}

/// Refuses labels that containerd would.
fn check(labels: &HashMap<String, String>) -> Result<(), Status> {
    match labels.iter().find(|(key, value)| key.len() + value.len() > LABEL_BYTES_MAX) {
        None => Ok(()),
        Some((key, _)) => {
            let key: String = key.chars().take(64).collect();
            let message = format!("label {key:?} has more than {LABEL_BYTES_MAX} bytes with its value");
            Err(Status::invalid_argument(message))
        }
    }
}
