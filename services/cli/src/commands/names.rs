//! `rm` and `verify`.

use std::fmt::Write as _;

use indicatif::HumanBytes;
use larder_facade::Facade;
use larder_provider::{Audit, CacheProvider};
use serde::Serialize;

use super::look::not_cached;
use crate::failure::{Failure, Kind};
use crate::screen::Screen;

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

pub(crate) async fn verify(
    facade: &Facade,
    screen: Screen,
    mut names: Vec<String>,
    all: bool,
) -> Result<(), Failure> {
    if all {
        names = facade.list().await?.into_iter().map(|name| name.name).collect();
    }
    let mut bad = 0;
    let mut failed: Option<Failure> = None;
    for name in &names {
        match facade.verify(name).await {
            Ok(audit) => {
                bad += usize::from(!audit.problems.is_empty());
                screen.result(&audit, || describe(&audit))?;
            }
            // Somebody removed it meanwhile.
            Err(error) if all && error.is_not_found() => {}
            Err(error) => {
                if let Some(earlier) = failed.replace(error.into()) {
                    screen.failed(&earlier);
                }
            }
        }
    }
    if bad == 0 {
        return failed.map_or(Ok(()), Err);
    }
    // A byte that does not hold outweighs a name that is not there.
    if let Some(failed) = failed {
        screen.failed(&failed);
    }
    Err(Failure { message: format!("{bad} of {} names do not hold", names.len()), kind: Kind::Integrity })
}

fn describe(audit: &Audit) -> String {
    let verdict = if audit.problems.is_empty() { "ok" } else { "BAD" };
    let mut text = format!("{verdict}  {}  {} blobs, {}", audit.name, audit.blobs, HumanBytes(audit.bytes));
    if audit.absent_platforms > 0 {
        let _ = write!(text, ", {} not fetched", audit.absent_platforms);
    }
    for problem in &audit.problems {
        text.push_str("\n    ");
        text.push_str(problem);
    }
    text
}
