//! Which bytes a request wants (RFC 9110, section 14).

use super::reply::{Code, Refusal};

/// The most ranges that one header may list; such a request gets the whole, as one with nonsense does.
const RANGES_MAX: usize = 16;

/// A part of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// From an offset on, up to a last byte if one is given.
    From {
        /// The first byte.
        first: u64,
        /// The last byte, included.
        last: Option<u64>,
    },
    /// The last bytes.
    Last(u64),
}

/// Bytes of a blob of known size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl Wanted {
    /// Reads a `Range` header. What asks for several ranges, or for something else than bytes, is answered with the whole.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let ranges = header.trim().strip_prefix("bytes=")?;
        if ranges.split(',').take(RANGES_MAX).count() != 1 {
            return None;
        }
        let (first, last) = ranges.trim().split_once('-')?;
        let number = |text: &str| -> Option<u64> {
            let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            // A number beyond all sizes is as good as the largest.
            is_number.then(|| text.parse().unwrap_or(u64::MAX))
        };
        match (first, last) {
            ("", last) => Some(Self::Last(number(last)?)),
            (first, "") => Some(Self::From { first: number(first)?, last: None }),
            (first, last) => Some(Self::From { first: number(first)?, last: Some(number(last)?) }),
        }
    }

    /// Whether it ends before it begins, and so lies within no blob.
    pub(super) fn is_inverted(self) -> bool {
        matches!(self, Self::From { first, last: Some(last) } if last < first)
    }

    /// The bytes it means in a blob of `size` bytes.
    pub(super) fn within(self, size: u64) -> Result<Span, Refusal> {
        let (first, end) = match self {
            Self::From { first, last } => (first, last.map_or(size, |last| last.saturating_add(1).min(size))),
            Self::Last(count) => (size.saturating_sub(count), size),
        };
        if first >= end {
            let range = super::reply::header(&format!("bytes */{size}"));
            let refusal = Refusal::new(Code::RangeInvalid, format!("the blob has {size} bytes"));
            return Err(refusal.with(http::header::CONTENT_RANGE, range));
        }
        Ok(Span { offset: first, length: end - first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: &str, size: u64, expected: Option<(u64, u64)>) {
        let span = Wanted::parse(header).map(|wanted| wanted.within(size));
        let found = span.map(|span| span.map(|span| (span.offset, span.length)));
        match (found, expected) {
            (Some(Ok(found)), Some(expected)) => assert_eq!(found, expected, "{header}"),
            (None | Some(Err(_)), None) => {}
            (found, _) => panic!("{header}: {found:?}"),
        }
    }

    #[test]
    fn ranges_are_cut_to_the_blob() {
        check("bytes=0-0", 10, Some((0, 1)));
        check("bytes=2-", 10, Some((2, 8)));
        check("bytes=2-99", 10, Some((2, 8)));
        check("bytes=-3", 10, Some((7, 3)));
        check("bytes=-99", 10, Some((0, 10)));
        check("bytes=0-99999999999999999999999", 10, Some((0, 10)));
    }

    #[test]
    fn what_lies_behind_the_end_or_makes_no_sense_is_no_range() {
        for header in
            ["bytes=10-", "bytes=-0", "bytes=5-2", "bytes=a-b", "items=0-1", "bytes=0-1,4-5", "bytes=--1"]
        {
            check(header, 10, None);
        }
        check("bytes=0-", 0, None);
    }
}
