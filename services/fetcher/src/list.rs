//! Looks what upstream has in a list.
//! Hears [`ListingSought`]; says [`ListingSeen`]; touches `registry`, `blobs`.
//! Invariant: says that upstream has no such list only when upstream says so.

use std::sync::Arc;

use actix::{Context, Handler};
use bytes::Bytes;
use larder_messages::{Listing, ListingSeen, ListingSought, Work};
use larder_oci::{Descriptor, Digest};
use larder_runtime::{Outcome, Says, on_pool};

use crate::{FetchError, Fetcher, Ports};

/// Look what upstream lists.
#[derive(actix::Message)]
#[rtype(result = "Outcome")]
pub struct List {
    /// In which list.
    pub sought: ListingSought,
}

impl Handler<List> for Fetcher {
    type Result = actix::ResponseFuture<Outcome>;

    fn handle(&mut self, List { sought }: List, _: &mut Context<Self>) -> Self::Result {
        let ports = Arc::clone(&self.ports);
        on_pool(async move {
            let list = list(&ports, &sought).await?;
            Ok(Says::default().news(&ListingSeen { id: sought.id(), list }))
        })
    }
}

/// Stores the list that is sought; `None` when there is none.
pub(crate) async fn list(ports: &Ports, sought: &ListingSought) -> Result<Option<Descriptor>, FetchError> {
    let at = &sought.repository;
    let found = match &sought.of {
        Listing::Tags => ports.registry.tags(at).await.map(|tags| {
            let json = |tags| serde_json::to_vec(&tags).expect("texts are plain data");
            tags.map(|tags| (Bytes::from(json(tags)), "application/json".to_owned()))
        }),
        Listing::Referrers { subject } => ports
            .registry
            .referrers(at, subject)
            .await
            .map(|index| index.map(|index| (index.bytes().clone(), index.media_type().to_owned()))),
    };
    let found = found.map_err(|source| FetchError::Upstream { reference: at.clone(), source })?;
    let Some((bytes, media_type)) = found else {
        return Ok(None);
    };
    let list = Descriptor::new(media_type, Digest::of(&bytes), bytes.len() as u64);
    let put = ports.blobs.put(&list.digest, bytes).await;
    put.map_err(|source| FetchError::Store { reference: at.clone(), source })?;
    Ok(Some(list))
}
