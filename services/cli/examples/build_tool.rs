//! A build tool on larder: brings in a base, takes in what was built on it, and publishes that beside what other machines build.
//!
//! `cargo run --example build_tool -- debian:12 app.tar registry.example.org/app:1`

use std::io::{self, Write};
use std::path::Path;

use futures::{StreamExt, TryStreamExt, stream};
use larder::Failure;
use larder_oci::{Platform, PlatformSet, Reference};
use larder_provider::{
    ByteStream, CacheProvider, LoadOptions, ProviderError, PullOptions, PushMode, PushOptions, Pushed, Root,
    WriteOptions,
};
use tokio::{fs::File, io::AsyncReadExt};

/// Publishes the image in `archive`, which was built on `base`, as this machine's part of `app`.
pub(crate) async fn publish(
    cache: &dyn CacheProvider,
    base: &Reference,
    archive: &Path,
    app: &Reference,
) -> Result<Pushed, ProviderError> {
    cache.image_pull(base, &PlatformSet::host(), &PullOptions::default()).await?;
    // Here a real tool builds: `cache.new_source(…)` opens the base, and its `tar_reader` is the root filesystem to build on.
    let part = format!("{}-{}", app.name(), Platform::host().suffix());
    let part = part.parse().map_err(|_| ProviderError::InvalidReference(part))?;
    let mut manifests = Vec::new();
    for image in cache.image_load(open(archive).await?, &LoadOptions { name: Some(part) }).await? {
        // By its digest, an image is found with its platform.
        match cache.find_root(&app.at(&image.descriptor.digest).name()).await? {
            Root::Image { descriptor } => manifests.push(descriptor),
            Root::Index { children, .. } => manifests.extend(children),
        }
    }
    // Machines that build other platforms do the same at the same time: here and in the registry, nothing is lost.
    cache.index_write(app, &manifests, &WriteOptions::default()).await?;
    cache.push(&app.name(), &PushOptions { mode: PushMode::Merge, ..PushOptions::default() }).await
}

async fn open(path: &Path) -> Result<ByteStream, ProviderError> {
    let failed = |error: io::Error| ProviderError::Storage(format!("cannot read the archive: {error}"));
    let file = File::open(path).await.map_err(failed)?;
    let chunks = stream::try_unfold(file, |mut file| async move {
        let mut chunk = Vec::with_capacity(1 << 20);
        Ok((file.read_buf(&mut chunk).await? > 0).then(|| (chunk.into(), file)))
    });
    Ok(chunks.map_err(failed).boxed())
}

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [base, archive, app] = words.as_slice() else { return Err(Failure::usage("BASE ARCHIVE NAME")) };
    let reference = |text: &str| text.parse().map_err(|_| Failure::usage(format!("{text} is no reference")));
    let (base, app) = (reference(base)?, reference(app)?);
    larder::run(&larder::load(None, None, None)?, async |cache| {
        let pushed = publish(cache, &base, Path::new(archive), &app).await?;
        Ok(writeln!(io::stdout(), "{}  {}", pushed.to, pushed.root.digest)?)
    })
}
