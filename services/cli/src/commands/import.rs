//! `import`.

use std::io;
use std::path::Path;

use futures::{StreamExt, TryStreamExt};
use larder_facade::Facade;
use larder_provider::{ByteStream, CacheProvider, LoadOptions, ProviderError};
use tokio::fs::File;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use super::pull::parse;
use crate::screen::Screen;
use larder::{Failure, Kind};

const CHUNK_BYTES: usize = 1 << 20;

pub(crate) async fn import(
    facade: &Facade,
    screen: Screen,
    from: &Path,
    name: Option<&str>,
) -> Result<(), Failure> {
    let options = LoadOptions { name: name.map(parse).transpose()? };
    let loaded = if from.is_dir() {
        facade.load_layout(from, &options).await?
    } else {
        facade.image_load(open(from).await?, &options).await?
    };
    if loaded.is_empty() {
        screen.note("the archive names no image; what it holds is kept for an hour");
    }
    for image in &loaded {
        screen.result(image, || {
            let digest = &image.descriptor.digest;
            if image.names.is_empty() {
                return format!("(no name)  {digest}");
            }
            let lines: Vec<String> = image.names.iter().map(|name| format!("{name}  {digest}")).collect();
            lines.join("\n")
        })?;
        if image.names.is_empty() {
            screen
                .note("nothing reaches it by name: import it with --name, or `larder tag` it within an hour");
        }
    }
    Ok(())
}

async fn open(from: &Path) -> Result<ByteStream, Failure> {
    if from == Path::new("-") {
        return Ok(stream(tokio::io::stdin()));
    }
    match File::open(from).await {
        Ok(file) => Ok(stream(file)),
        Err(error) => {
            let kind = if error.kind() == io::ErrorKind::NotFound { Kind::NotFound } else { Kind::Failed };
            Err(Failure { message: format!("cannot open {}: {error}", from.display()), kind })
        }
    }
}

fn stream(reader: impl AsyncRead + Send + 'static) -> ByteStream {
    let chunks = ReaderStream::with_capacity(reader, CHUNK_BYTES);
    chunks.map_err(|error| ProviderError::Storage(format!("cannot read the archive: {error}"))).boxed()
}
