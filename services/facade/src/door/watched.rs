//! Files that may change while the process runs.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::DoorError;

/// How long a change may go unnoticed.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The largest file that is read, in bytes; ten thousand users need less.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What is made of some files, made again when one of them changes; clones share it.
///
/// Files that cannot be read, or do not hold what they should, leave what was made of them before, and are logged once.
pub(super) struct Watched<T>(Arc<Inner<T>>);

struct Inner<T> {
    paths: Vec<PathBuf>,
    make: fn(&[PathBuf]) -> Result<T, DoorError>,
    state: Mutex<State<T>>,
}

struct State<T> {
    made: Arc<T>,
    /// Counts what was made; two that differ in it differ.
    edition: u64,
    marks: Vec<Option<Mark>>,
    looked: Instant,
}

/// What tells two states of a file apart: also when a link to it was turned to another one.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Mark {
    modified: SystemTime,
    size: u64,
    inode: u64,
}

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Send + Sync + 'static> Watched<T> {
    /// What `make` makes of `paths`.
    ///
    /// # Errors
    /// Those of `make`.
    pub(super) fn open(
        paths: Vec<PathBuf>,
        make: fn(&[PathBuf]) -> Result<T, DoorError>,
    ) -> Result<Self, DoorError> {
        // Looked at first: what changes in between is then seen the next time.
        let marks = marks(&paths);
        let made = Arc::new(make(&paths)?);
        let state = Mutex::new(State { made, edition: 0, marks, looked: Instant::now() });
        Ok(Self(Arc::new(Inner { paths, make, state })))
    }

    /// What there is now, and its edition.
    pub(super) fn now(&self) -> (Arc<T>, u64) {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&state.made), state.edition)
    }

    /// What there is now, and its edition, after a look at the files when the last one is long ago.
    pub(super) async fn fresh(&self) -> (Arc<T>, u64) {
        if self.is_due() {
            let watched = self.clone();
            // It only fails when the runtime shuts down.
            let _ = tokio::task::spawn_blocking(move || watched.look()).await;
        }
        self.now()
    }

    /// Whether it is time to look; says so to one caller only.
    fn is_due(&self) -> bool {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = state.looked.elapsed() >= LOOK_EVERY;
        if is_due {
            state.looked = Instant::now();
        }
        is_due
    }

    /// Looks at the files, and makes of them anew what has changed. It blocks.
    pub(super) fn look(&self) {
        let marks = marks(&self.0.paths);
        {
            let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.marks == marks {
                return;
            }
            state.marks = marks;
        }
        let made = (self.0.make)(&self.0.paths);
        let path = self.0.paths[0].display();
        match made {
            Ok(made) => {
                let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.made = Arc::new(made);
                state.edition += 1;
                tracing::info!(%path, "read again");
            }
            Err(error) => {
                let error = crate::error::chain(&error);
                tracing::error!(%path, error, "cannot use what changed; what was there before stays in use");
            }
        }
    }
}

fn marks(paths: &[PathBuf]) -> Vec<Option<Mark>> {
    let mark = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok()?;
        Some(Mark { modified: metadata.modified().ok()?, size: metadata.len(), inode: metadata.ino() })
    };
    paths.iter().map(mark).collect()
}

/// The bytes of a file of settings.
///
/// # Errors
/// [`DoorError::Read`], [`DoorError::Content`] when it is too large to be one.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, DoorError> {
    let failed = |source| DoorError::Read { path: path.to_owned(), source };
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > FILE_BYTES_MAX {
        let what = format!("has more than {FILE_BYTES_MAX} bytes");
        return Err(DoorError::Content { path: path.to_owned(), what });
    }
    fs::read(path).map_err(failed)
}

/// The lines of a file that say something, with their numbers from 1 on.
///
/// # Errors
/// Those of [`read`], and [`DoorError::Content`] when it is no text.
pub(super) fn lines<T>(
    path: &Path,
    mut take: impl FnMut(&str) -> Result<T, String>,
) -> Result<Vec<T>, DoorError> {
    let refuse = |what| DoorError::Content { path: path.to_owned(), what };
    let text = String::from_utf8(read(path)?).map_err(|_| refuse("is no text".to_owned()))?;
    let said = text.lines().map(str::trim).enumerate();
    said.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(index, line)| take(line).map_err(|what| refuse(format!("line {}: {what}", index + 1))))
        .collect()
}
