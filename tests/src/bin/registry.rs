//! A throwaway registry on loopback with a real image in it, for a machine that has nothing but Rust.
//!
//! `registry` makes an image for two platforms from files of this machine that anybody may read, prints its reference,
//! and serves it until standard input ends.

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use larder_tests::{Format, Image, Layer, ScriptedRegistry};

/// How much of the machine's settings goes into the layer that both platforms share, in bytes.
const SETTINGS_BYTES_MAX: u64 = 8 << 20;
/// How much of its programs goes into the layer that only its own platform has, in bytes.
const PROGRAMS_BYTES_MAX: u64 = 48 << 20;
/// Permission to read for everybody.
const READABLE_BY_ALL: u32 = 0o004;

fn main() -> Result<(), Box<dyn Error>> {
    let registry = ScriptedRegistry::serving("machine", "1", &machine()?);
    let mut out = io::stdout();
    writeln!(out, "{}", registry.reference("machine:1"))?;
    out.flush()?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn machine() -> io::Result<Image> {
    let (own, other) = match std::env::consts::ARCH {
        "x86_64" => ("linux/amd64", "linux/arm64"),
        "aarch64" => ("linux/arm64", "linux/amd64"),
        architecture => (&*format!("linux/{architecture}"), "linux/amd64"),
    };
    let settings = layer(Path::new("/etc"), SETTINGS_BYTES_MAX)?;
    let programs = layer(Path::new("/bin"), PROGRAMS_BYTES_MAX)?;
    let about = |platform: &str| Layer::files(&[("etc/platform", format!("{platform}\n").as_bytes())]);
    let own = Image::build(own).layer(settings.clone()).layer(programs).layer(about(own)).finish();
    let other = Image::build(other).layer(settings).layer(about(other)).finish();
    Ok(Image::index(Format::Oci).image(&own).image(&other).finish())
}

fn layer(folder: &Path, bytes_max: u64) -> io::Result<Layer> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.mode(tar::HeaderMode::Deterministic);
    let mut left = bytes_max;
    pack(folder, &mut tar, &mut left)?;
    Ok(Layer::raw(tar.into_inner()?))
}

/// Packs the regular files of `folder`, in the order of their names, as long as they fit.
fn pack(folder: &Path, tar: &mut tar::Builder<Vec<u8>>, left: &mut u64) -> io::Result<()> {
    // A folder that cannot be listed has nothing for everybody in it.
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Ok(about) = fs::symlink_metadata(&path) else { continue };
        if about.is_dir() {
            pack(&path, tar, left)?;
        } else if about.is_file() && about.permissions().mode() & READABLE_BY_ALL != 0 && about.len() <= *left
        {
            *left -= about.len();
            tar.append_path_with_name(&path, path.strip_prefix("/").unwrap_or(&path))?;
        }
    }
    Ok(())
}
