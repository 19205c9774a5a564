//! The newest record of every name in one object, `ledger/snapshot`, a record a line.
//!
//! It is never more than a hint: a listing of the ledger says which of its records are the newest still, so one that is old, lost
//! or damaged only costs time, and of several that are written at once any will do.

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::ledger::Record;

const KEY: &str = "ledger/snapshot";
/// A longer line is damage.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Gives what can be read of it.
pub(crate) async fn read(store: &dyn ObjectStore, mut give: impl FnMut(Record)) {
    let read = async {
        let mut chunks = store.get(&Path::from(KEY)).await?.into_stream();
        let mut rest = Vec::new();
        while let Some(chunk) = chunks.try_next().await? {
            let mut lines = chunk.split(|&byte| byte == b'\n');
            rest.extend_from_slice(lines.next().unwrap_or_default());
            for line in lines {
                if let Ok(record) = serde_json::from_slice(&rest) {
                    give(record);
                }
                rest.clear();
                rest.extend_from_slice(line);
            }
            if rest.len() > LINE_BYTES_MAX {
                return Ok(());
            }
        }
        Ok::<_, object_store::Error>(())
    };
    match read.await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
        Err(error) => tracing::debug!(%error, "no snapshot of the ledger"),
    }
}

/// Replaces it, if that is allowed.
pub(crate) async fn write(store: &dyn ObjectStore, records: &[Record]) {
    let mut lines = Vec::new();
    for record in records {
        lines.append(&mut record.to_json());
        lines.push(b'\n');
    }
    if let Err(error) = store.put(&Path::from(KEY), lines.into()).await {
        tracing::debug!(%error, "the snapshot of the ledger stays old");
    }
}

#[cfg(test)]
mod tests {
    use larder_oci::{Descriptor, Digest, media_type};
    use object_store::memory::InMemory;

    use super::*;
    use crate::ledger::Change;
    use crate::objects::Objects;
    use crate::{Expected, Origin};

    async fn snapshot(store: &InMemory) -> Vec<Record> {
        let mut records = Vec::new();
        read(store, |record| records.push(record)).await;
        records
    }

    #[tokio::test]
    async fn snapshot_is_written_when_it_is_worth_it_and_never_believed_against_the_ledger() {
        let store = std::sync::Arc::new(InMemory::new());
        let objects = Objects::new(store.clone());
        let set = async |number: usize, what: &str| {
            let (name, digest) = (format!("name:{number}"), Digest::of(what.as_bytes()));
            let descriptor = Some(Descriptor::new(media_type::OCI_MANIFEST, digest, 7));
            let change = Change { name, descriptor, origin: Origin::Pulled, expected: Expected::Any };
            objects.change(&change).await.unwrap();
        };
        for number in 0..300 {
            set(number, "one").await;
        }
        assert_eq!(snapshot(&store).await, []);
        let listed = objects.list().await.unwrap();
        assert_eq!((listed.len(), &snapshot(&store).await), (300, &listed));
        set(7, "two").await;
        let newer = objects.list().await.unwrap();
        assert_eq!(newer.iter().filter(|record| record.seq == 2).count(), 1);
        assert_eq!(snapshot(&store).await, listed, "one change is not worth a new one");
        // Cut short in the middle of a record, behind a line that is damaged and one of a name that the ledger does not have.
        let mut bytes = b"{\"damaged\n".to_vec();
        let gone = Record { name: "gone".to_owned(), ..listed[0].clone() };
        for record in [&gone, &listed[1], &listed[2]] {
            bytes.append(&mut record.to_json());
            bytes.push(b'\n');
        }
        bytes.truncate(bytes.len() - 20);
        store.put(&Path::from(KEY), bytes.into()).await.unwrap();
        assert_eq!(objects.list().await.unwrap(), newer);
        assert_eq!(snapshot(&store).await, newer);
    }
}
