//! `export`.

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use larder_facade::Facade;
use larder_oci::PlatformSet;

use crate::args::Format;
use crate::failure::Failure;
use crate::screen::Screen;

/// What to export, and where to.
pub(crate) struct Wish {
    pub(crate) name: String,
    pub(crate) platform: Option<PlatformSet>,
    pub(crate) as_name: Option<String>,
    pub(crate) output: PathBuf,
}

const BUFFER_BYTES: usize = 1 << 20;

pub(crate) async fn export(
    facade: &Facade,
    screen: Screen,
    format: Format,
    wish: Wish,
) -> Result<(), Failure> {
    let Wish { name, platform, as_name, output } = wish;
    let to_stdout = output == Path::new("-");
    match format {
        Format::Layout if to_stdout => {
            return Err(Failure::usage("a layout is a directory: name it with --output DIR"));
        }
        Format::Layout => facade.export_layout(&name, platform.as_ref(), as_name.as_deref(), &output).await?,
        Format::Oci if to_stdout => {
            if io::stdout().is_terminal() {
                return Err(Failure::usage(
                    "a tar stream does not belong on a terminal: redirect it, or use --output FILE",
                ));
            }
            let out = Box::new(BufWriter::with_capacity(BUFFER_BYTES, io::stdout()));
            return Ok(facade.export_archive(&name, platform.as_ref(), as_name.as_deref(), out).await?);
        }
        // A pipe or a device is written to; a file renamed over it would take its place.
        Format::Oci if output.exists() && !output.is_file() => {
            let out = File::options().write(true).open(&output);
            let out =
                out.map_err(|error| Failure::failed(&format!("cannot write {}", output.display()), error))?;
            let out = Box::new(BufWriter::with_capacity(BUFFER_BYTES, out));
            facade.export_archive(&name, platform.as_ref(), as_name.as_deref(), out).await?;
        }
        Format::Oci => {
            let partial = Partial::create(&output)?;
            let out = partial.writer()?;
            facade.export_archive(&name, platform.as_ref(), as_name.as_deref(), out).await?;
            partial.keep()?;
        }
    }
    screen.note(&format!("wrote {}", output.display()));
    Ok(())
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

    fn writer(&self) -> Result<Box<dyn Write + Send>, Failure> {
        Ok(Box::new(BufWriter::with_capacity(BUFFER_BYTES, self.file.try_clone()?)))
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
