//! What a command prints, for people or for programs.

use std::io::{self, BufWriter, Write};

use serde::Serialize;

use larder::{Failure, Kind};

/// How much to print, and how.
#[derive(Clone, Copy)]
pub(crate) struct Screen {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
}

impl Screen {
    /// Prints a result: as JSON for programs, as `text` for people.
    pub(crate) fn result(self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        let line = if self.json {
            serde_json::to_string(value).map_err(|error| Failure::failed("cannot print", error))?
        } else {
            text()
        };
        writeln!(io::stdout(), "{line}").map_err(Failure::from)
    }

    /// Prints many results at once.
    pub(crate) fn results<T: Serialize>(
        self,
        values: &[T],
        text: impl Fn(&T) -> String,
    ) -> Result<(), Failure> {
        let mut out = BufWriter::new(io::stdout().lock());
        for value in values {
            if self.json {
                serde_json::to_writer(&mut out, value).map_err(io::Error::from)?;
            } else {
                out.write_all(text(value).as_bytes())?;
            }
            out.write_all(b"\n")?;
        }
        out.flush().map_err(Failure::from)
    }

    /// Tells a person what was done.
    pub(crate) fn note(self, text: &str) {
        if !self.json && !self.quiet {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    pub(crate) fn failed(self, failure: &Failure) {
        #[derive(Serialize)]
        struct Line<'a> {
            event: &'static str,
            kind: Kind,
            message: &'a str,
        }
        if failure.kind == Kind::Unread {
            return;
        }
        if self.json {
            let line = Line { event: "failed", kind: failure.kind, message: &failure.message };
            let _ = writeln!(io::stdout(), "{}", serde_json::to_string(&line).unwrap_or_default());
        }
        let _ = writeln!(io::stderr(), "larder: {}", failure.message);
    }
}
