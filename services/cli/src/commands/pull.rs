//! `pull`.

use std::time::Instant;

use futures::StreamExt;
use indicatif::HumanBytes;
use larder_facade::Facade;
use larder_oci::{PlatformSet, Reference};
use larder_provider::{CacheProvider, PullOptions, Pulled};
use serde::Serialize;

use crate::screen::Screen;
use larder::Failure;

/// Images pulled at the same time.
const PULLS_IN_FLIGHT_MAX: usize = 4;

#[derive(Serialize)]
struct Line<'a, T> {
    event: &'static str,
    reference: &'a Reference,
    #[serde(flatten)]
    what: T,
}

pub(crate) async fn pull(
    facade: &Facade,
    screen: Screen,
    typed: &[String],
    platforms: Option<PlatformSet>,
    options: &PullOptions,
) -> Result<(), Failure> {
    let platforms = platforms.unwrap_or_else(PlatformSet::host);
    let references: Vec<Reference> = typed.iter().map(|text| parse(text)).collect::<Result<_, _>>()?;
    let platforms = &platforms;
    let pulls = references.into_iter().map(|reference| async move {
        let begun = Instant::now();
        let pulled = facade.image_pull(&reference, platforms, options).await;
        (reference, begun, pulled)
    });
    let mut pulls = futures::stream::iter(pulls).buffered(PULLS_IN_FLIGHT_MAX);
    let mut failed: Option<Failure> = None;
    while let Some((reference, begun, pulled)) = pulls.next().await {
        match pulled {
            Ok(pulled) => report(screen, &reference, &pulled, begun)?,
            Err(error) => {
                if let Some(earlier) = failed.replace(error.into()) {
                    screen.failed(&earlier);
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

fn report(screen: Screen, reference: &Reference, pulled: &Pulled, begun: Instant) -> Result<(), Failure> {
    match pulled {
        Pulled::AlreadyPresent { .. } => screen.note("already present"),
        Pulled::Pulled { blobs, bytes, fetched_blobs, fetched_bytes, .. } => screen.note(&format!(
            "fetched {fetched_blobs} of {blobs} blobs, {} of {}, in {:.2} s",
            HumanBytes(*fetched_bytes),
            HumanBytes(*bytes),
            begun.elapsed().as_secs_f64()
        )),
    }
    let line = Line { event: "pulled", reference, what: pulled };
    screen.result(&line, || format!("{}  {}", reference.name(), pulled.root().digest))
}

pub(crate) fn parse(text: &str) -> Result<Reference, Failure> {
    text.parse().map_err(|error: larder_oci::OciError| Failure::usage(error.to_string()))
}
