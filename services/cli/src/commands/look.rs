//! `ls`, `inspect`, `history`, `cat`, `sbom`, `config`.

use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use futures::StreamExt;
use indicatif::HumanBytes;
use larder_facade::Facade;
use larder_oci::{Digest, Platform};
use larder_provider::{CacheProvider, Inspection, Part};

use crate::screen::Screen;
use larder::{Failure, Kind};

pub(crate) async fn ls(facade: &Facade, screen: Screen) -> Result<(), Failure> {
    let names = facade.list().await?;
    let width = names.iter().map(|name| name.name.len()).max().unwrap_or(0);
    screen.results(&names, |name| format!("{:width$}  {}", name.name, name.descriptor.digest))
}

pub(crate) async fn inspect(facade: &Facade, screen: Screen, name: &str, raw: bool) -> Result<(), Failure> {
    if raw {
        let found = facade.find_descriptor(name).await?;
        let found = found.ok_or_else(|| not_cached(name))?;
        return write_blob(facade, &found.descriptor.digest).await;
    }
    let inspection = facade.inspect(name).await?;
    screen.result(&inspection, || describe(&inspection))
}

fn describe(inspection: &Inspection) -> String {
    let root = &inspection.descriptor;
    let mut lines = vec![
        format!("name      {}", inspection.name),
        format!("digest    {}", root.digest),
        format!("type      {}", root.media_type),
    ];
    if inspection.sparse {
        lines.push("sparse    yes: some platforms were not fetched".to_owned());
    }
    for part in &inspection.parts {
        lines.push(describe_part(part));
        for blob in &part.blobs {
            lines.push(format!(
                "    {}  {:>10}  {}",
                blob.digest,
                HumanBytes(blob.size).to_string(),
                blob.media_type
            ));
        }
    }
    lines.join("\n")
}

fn describe_part(part: &Part) -> String {
    let platform = match (&part.descriptor.platform, part.descriptor.attests()) {
        (_, Some(subject)) => format!("attestation of {}…", &subject.as_str()[..19]),
        (Some(platform), None) => platform.to_string(),
        (None, None) => "image".to_owned(),
    };
    let presence = if part.present { "present" } else { "absent" };
    format!("  {platform}  {presence}  {}", part.descriptor.digest)
}

pub(crate) async fn history(facade: &Facade, screen: Screen, name: &str) -> Result<(), Failure> {
    let changes = facade.history(name).await?;
    if changes.is_empty() {
        return Err(not_cached(name));
    }
    for change in &changes {
        screen.result(change, || {
            let digest = change.descriptor.as_ref().map_or("-", |descriptor| descriptor.digest.as_str());
            format!("{:>4}  {}  {:8}  {digest}", change.seq, utc(change.at_ms), change.origin)
        })?;
    }
    Ok(())
}

/// The moment in RFC 3339, to the second.
fn utc(at_ms: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(at_ms)).to_string()
}

pub(crate) async fn cat(facade: &Facade, digest: &str) -> Result<(), Failure> {
    let digest: Digest =
        digest.parse().map_err(|error: larder_oci::OciError| Failure::usage(error.to_string()))?;
    write_blob(facade, &digest).await
}

pub(crate) async fn sbom(
    facade: &Facade,
    screen: Screen,
    name: &str,
    platform: Option<Platform>,
) -> Result<(), Failure> {
    let source = facade.new_source(name, &platform.unwrap_or_else(Platform::host)).await?;
    let documents = source.sboms().await?;
    if documents.is_empty() {
        screen.note(&format!("{name} has no SPDX attestation for this platform"));
    }
    let mut out = io::stdout();
    for document in documents {
        out.write_all(&document)?;
        out.write_all(b"\n")?;
    }
    out.flush().map_err(Failure::from)
}

pub(crate) async fn config(facade: &Facade, name: &str, platform: Option<Platform>) -> Result<(), Failure> {
    let source = facade.new_source(name, &platform.unwrap_or_else(Platform::host)).await?;
    let config = source.config().await?;
    io::stdout().write_all(&config.bytes)?;
    io::stdout().flush().map_err(Failure::from)
}

async fn write_blob(facade: &Facade, digest: &Digest) -> Result<(), Failure> {
    let mut content = facade.get_content(digest).await?;
    let mut out = io::stdout();
    while let Some(chunk) = content.bytes.next().await {
        out.write_all(&chunk?)?;
    }
    out.flush().map_err(Failure::from)
}

pub(crate) fn not_cached(name: &str) -> Failure {
    Failure { message: format!("{name} is not in the cache"), kind: Kind::NotFound }
}
