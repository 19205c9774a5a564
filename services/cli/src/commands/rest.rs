//! What is at rest: `verify`, `gc` and `du`.

use std::fmt::Write as _;
use std::time::Duration;

use indicatif::HumanBytes;
use larder_facade::Facade;
use larder_provider::{Audit, CacheProvider};
use serde::Serialize;

use crate::screen::Screen;
use larder::{Failure, Kind};

pub(crate) async fn gc(
    facade: &Facade,
    screen: Screen,
    grace: Duration,
    dry_run: bool,
) -> Result<(), Failure> {
    let collected = facade.collect(grace, dry_run).await?;
    screen.result(&collected, || {
        let verb = if dry_run { "would delete" } else { "deleted" };
        let mut text = format!(
            "{verb} {} blobs, {}; kept {} blobs, {}",
            collected.deleted_blobs,
            HumanBytes(collected.deleted_bytes),
            collected.kept_blobs,
            HumanBytes(collected.kept_bytes)
        );
        if collected.young_blobs > 0 {
            let _ = write!(
                text,
                ", and {} that were used within {}",
                collected.young_blobs,
                humantime::format_duration(grace)
            );
        }
        if collected.unfinished > 0 {
            let _ = write!(text, "; removed {} unfinished writes", collected.unfinished);
        }
        text
    })
}

pub(crate) async fn du(facade: &Facade, screen: Screen) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Usage {
        names: usize,
        blobs: u64,
        bytes: u64,
        unreached_blobs: u64,
        unreached_bytes: u64,
    }
    let names = facade.list().await?.len();
    let counted = facade.collect(Duration::ZERO, true).await?;
    let usage = Usage {
        names,
        blobs: counted.kept_blobs + counted.deleted_blobs,
        bytes: counted.kept_bytes + counted.deleted_bytes,
        unreached_blobs: counted.deleted_blobs,
        unreached_bytes: counted.deleted_bytes,
    };
    screen.result(&usage, || {
        format!(
            "{} names, {} blobs, {}; no name reaches {} of them, {}",
            usage.names,
            usage.blobs,
            HumanBytes(usage.bytes),
            usage.unreached_blobs,
            HumanBytes(usage.unreached_bytes)
        )
    })
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
