//! `export`.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use futures::StreamExt;
use larder_facade::Facade;
use larder_oci::{Platform, PlatformSet};
use larder_provider::{ByteStream, CacheProvider};

use crate::args::Format;
use crate::screen::Screen;
use larder::Failure;

/// What to export, and where to.
pub(crate) struct Wish {
    pub(crate) name: String,
    pub(crate) platform: Option<PlatformSet>,
    pub(crate) as_name: Option<String>,
    pub(crate) output: PathBuf,
}

pub(crate) async fn export(
    facade: &Facade,
    screen: Screen,
    format: Format,
    wish: Wish,
) -> Result<(), Failure> {
    if format == Format::Filesystem && wish.as_name.is_some() {
        return Err(Failure::usage("a filesystem has no name: leave --name out"));
    }
    let output = wish.output.as_path();
    let to_stdout = output == Path::new("-");
    if to_stdout && format == Format::Layout {
        return Err(Failure::usage("a layout is a directory: name it with --output DIR"));
    }
    if to_stdout && io::stdout().is_terminal() {
        let what = "a tar stream does not belong on a terminal: redirect it, or use --output FILE";
        return Err(Failure::usage(what));
    }
    if format == Format::Layout {
        let (platforms, name) = (wish.platform.as_ref(), wish.as_name.as_deref());
        facade.export_layout(&wish.name, platforms, name, output).await?;
    } else {
        let archive = archive(facade, format, &wish).await?;
        if to_stdout {
            write(archive, &mut io::stdout()).await?;
        } else if output.exists() && !output.is_file() {
            // A pipe or a device is written to; a file renamed over it would take its place.
            let out = File::options().write(true).open(output);
            let mut out =
                out.map_err(|error| Failure::failed(&format!("cannot write {}", output.display()), error))?;
            write(archive, &mut out).await?;
        } else {
            let mut partial = Partial::create(output)?;
            write(archive, &mut partial.file).await?;
            partial.keep()?;
        }
    }
    if !to_stdout {
        screen.note(&format!("wrote {}", output.display()));
    }
    Ok(())
}

async fn archive(facade: &Facade, format: Format, wish: &Wish) -> Result<ByteStream, Failure> {
    let (name, as_name) = (wish.name.as_str(), wish.as_name.as_deref());
    let one = match &wish.platform {
        Some(PlatformSet::Only(platforms)) if platforms.len() == 1 => Some(platforms[0].clone()),
        _ => None,
    };
    if format == Format::Oci {
        return Ok(match (one, &wish.platform) {
            (Some(platform), _) => facade.new_source(name, &platform).await?.oci_tar_reader(as_name).await?,
            (None, platforms) => {
                let platforms = platforms.clone().unwrap_or_default();
                facade.new_index_source(name, &platforms).await?.oci_tar_reader(as_name).await?
            }
        });
    }
    if one.is_none() && wish.platform.is_some() {
        return Err(Failure::usage("this format holds one image: choose one platform"));
    }
    let source = facade.new_source(name, &one.unwrap_or_else(Platform::host)).await?;
    Ok(if format == Format::Docker {
        source.v1_tar_reader(as_name).await?
    } else {
        source.tar_reader().await?
    })
}

async fn write(mut archive: ByteStream, out: &mut impl Write) -> Result<(), Failure> {
    while let Some(chunk) = archive.next().await {
        out.write_all(&chunk?)?;
    }
    out.flush().map_err(Failure::from)
}

/// A file that gets its name only when it is whole.
struct Partial {
    target: PathBuf,
    path: PathBuf,
    file: File,
    kept: bool,
}

impl Partial {
    fn create(target: &Path) -> Result<Self, Failure> {
        let name = target.file_name().ok_or_else(|| Failure::usage("the output is no file"))?;
        let path = target.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
        let file = File::create(&path)
            .map_err(|error| Failure::failed(&format!("cannot create {}", path.display()), error))?;
        Ok(Self { target: target.to_owned(), path, file, kept: false })
    }

    fn keep(mut self) -> Result<(), Failure> {
        self.file.sync_all()?;
        fs::rename(&self.path, &self.target)
            .map_err(|error| Failure::failed(&format!("cannot write {}", self.target.display()), error))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}
