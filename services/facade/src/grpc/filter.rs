//! What a listing is narrowed by, in containerd's filter language.
//!
//! A filter is a list of selectors, `field.path`, `field.path==value`, `!=` or `~=` (a regular expression), parted by commas;
//! what is listed matches all selectors of one of the filters.

mod scan;
#[cfg(test)]
mod tests;

use regex::{Regex, RegexBuilder};

use scan::Scanner;

/// All filters of a request together.
const FILTERS_BYTES_MAX: usize = 64 << 10;
/// What a regular expression may take once it is compiled.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// Why a filter cannot be used, in words for who wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FilterError(pub(super) String);

/// Filters of which one has to match; without any, everything does.
pub(super) struct Filters(Vec<Vec<Selector>>);

struct Selector {
    path: Vec<String>,
    test: Test,
}

enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Filters {
    pub(super) fn parse(filters: &[String]) -> Result<Self, FilterError> {
        let length: usize = filters.iter().map(String::len).sum();
        if length > FILTERS_BYTES_MAX {
            let message = format!("the filters have {length} bytes, more than {FILTERS_BYTES_MAX}");
            return Err(FilterError(message));
        }
        filters.iter().map(|filter| selectors(filter)).collect::<Result<_, _>>().map(Self)
    }

    /// Whether that of which `field` gives the value at a path is to be listed.
    pub(super) fn match_fields<'a>(&self, field: impl Fn(&[String]) -> Option<&'a str>) -> bool {
        let holds = |selector: &Selector| selector.test.holds(field(&selector.path));
        self.0.is_empty() || self.0.iter().any(|selectors| selectors.iter().all(holds))
    }
}

impl Test {
    /// What is absent is empty for all but presence and equality.
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Self::Present => value.is_some(),
            Self::Equal(wanted) => value == Some(wanted),
            Self::NotEqual(unwanted) => value.unwrap_or_default() != unwanted,
            Self::Matches(pattern) => pattern.is_match(value.unwrap_or_default()),
        }
    }
}

fn selectors(filter: &str) -> Result<Vec<Selector>, FilterError> {
    let mut selectors = Vec::new();
    if filter.is_empty() {
        return Ok(selectors);
    }
    let mut scanner = Scanner::new(filter);
    loop {
        selectors.push(selector(&mut scanner)?);
        if scanner.peek().is_none() {
            return Ok(selectors);
        }
        if !scanner.take(',') {
            return Err(scanner.refuse("expected a comma or the end"));
        }
    }
}

fn selector(scanner: &mut Scanner) -> Result<Selector, FilterError> {
    let mut path = vec![scanner.field()?];
    while scanner.take('.') {
        path.push(scanner.field()?);
    }
    if matches!(scanner.peek(), None | Some(',')) {
        return Ok(Selector { path, test: Test::Present });
    }
    let test = match scanner.operator()? {
        "==" => Test::Equal(scanner.value(false)?),
        "!=" => Test::NotEqual(scanner.value(false)?),
        "~=" => {
            let pattern = RegexBuilder::new(&scanner.value(true)?).size_limit(REGEX_BYTES_MAX).build();
            Test::Matches(pattern.map_err(|_| scanner.refuse("this is no regular expression"))?)
        }
        _ => return Err(scanner.refuse("expected ==, != or ~=")),
    };
    Ok(Selector { path, test })
}
