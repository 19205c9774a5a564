//! `push`.

use std::fmt::Write as _;

use indicatif::HumanBytes;
use larder_facade::Facade;
use larder_provider::{CacheProvider, PushOptions, Pushed};
use serde::Serialize;

use crate::screen::Screen;
use larder::Failure;

pub(crate) async fn push(
    facade: &Facade,
    screen: Screen,
    names: &[String],
    options: &PushOptions,
) -> Result<(), Failure> {
    if options.remote.is_some() && names.len() > 1 {
        return Err(Failure::usage("--remote-name is for a single image: push them one by one"));
    }
    let mut failed: Option<Failure> = None;
    for name in names {
        let local = facade.find_descriptor(name).await?;
        match facade.push(name, options).await {
            Ok(pushed) => {
                let same = local.is_none_or(|local| local.descriptor.digest == pushed.root.digest);
                report(screen, &pushed, same)?;
            }
            Err(error) => {
                if let Some(earlier) = failed.replace(error.into()) {
                    screen.failed(&earlier);
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

fn report(screen: Screen, pushed: &Pushed, same: bool) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Line<'a> {
        event: &'static str,
        #[serde(flatten)]
        pushed: &'a Pushed,
    }
    screen.note(&summary(pushed, same));
    screen.result(&Line { event: "pushed", pushed }, || format!("{}  {}", pushed.to, pushed.root.digest))
}

fn summary(pushed: &Pushed, same: bool) -> String {
    if pushed.skipped && !same {
        return format!("left alone: {} is something else there", pushed.to);
    }
    if pushed.skipped && pushed.tags.is_empty() {
        return "nothing was sent: the registry has this name".to_owned();
    }
    let mut text = format!("sent {} blobs, {}", pushed.sent_blobs, HumanBytes(pushed.sent_bytes));
    if pushed.mounted_blobs > 0 {
        let _ = write!(text, ", mounted {}", pushed.mounted_blobs);
    }
    if let Some(before) = &pushed.merged_from {
        let _ = write!(text, ", merged with {before}");
    }
    if !pushed.tags.is_empty() {
        let _ = write!(text, ", tagged {}", pushed.tags.join(" "));
    }
    text
}
