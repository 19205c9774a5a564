//! `index`, `tag`, `rm` and `clean`.

use futures::TryStreamExt;
use larder_facade::Facade;
use larder_provider::{CacheProvider, Cleaned, Name, WriteOptions};
use serde::Serialize;

use super::look::not_cached;
use super::pull::parse;
use crate::screen::Screen;
use larder::Failure;

pub(crate) async fn rm(facade: &Facade, screen: Screen, names: &[String]) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Line<'a> {
        event: &'static str,
        name: &'a str,
    }
    let mut failed = None;
    for name in names {
        let failure = match facade.remove(name).await {
            Ok(true) => {
                screen.result(&Line { event: "removed", name }, || name.clone())?;
                continue;
            }
            Ok(false) => not_cached(name),
            Err(error) => error.into(),
        };
        if let Some(earlier) = failed.replace(failure) {
            screen.failed(&earlier);
        }
    }
    failed.map_or(Ok(()), Err)
}

pub(crate) async fn index(
    facade: &Facade,
    screen: Screen,
    name: &str,
    references: &[String],
) -> Result<(), Failure> {
    let target = parse(name)?;
    let mut manifests = Vec::new();
    for reference in references {
        manifests.extend(facade.manifests(reference).await?);
    }
    // A pulled index lacks the platforms that nobody wanted.
    let options = WriteOptions { allow_sparse: true, ..WriteOptions::default() };
    let root = facade.index_write(&target, &manifests, &options).await?;
    let written = Name { name: target.name(), descriptor: root };
    screen.result(&written, || format!("{}  {}", written.name, written.descriptor.digest))
}

pub(crate) async fn tag(facade: &Facade, screen: Screen, source: &str, target: &str) -> Result<(), Failure> {
    let target = parse(target)?;
    let found = facade.find_descriptor(source).await?.ok_or_else(|| not_cached(source))?;
    let options = WriteOptions { allow_sparse: true, ..WriteOptions::default() };
    let root = facade.descriptor_write(&target, &found.descriptor, &options).await?;
    let written = Name { name: target.name(), descriptor: root };
    screen.result(&written, || format!("{}  {}", written.name, written.descriptor.digest))
}

pub(crate) async fn clean(facade: &Facade, screen: Screen, published_only: bool) -> Result<(), Failure> {
    let mut cleaning = std::pin::pin!(facade.cleaning(published_only).await?);
    while let Some(cleaned) = cleaning.try_next().await? {
        screen.result(&cleaned, || match &cleaned {
            Cleaned::Removed { name } => format!("removed  {name}"),
            Cleaned::Kept { name, reason } => format!("kept     {name}  ({reason})"),
        })?;
    }
    screen.note("their content stays until `larder gc` deletes it");
    Ok(())
}
