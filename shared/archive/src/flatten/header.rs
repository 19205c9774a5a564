//! Header blocks (POSIX ustar, with the extensions of GNU tar): where fields lie, how numbers are written.

use std::ops::Range;

pub(super) const BLOCK_BYTES: usize = 512;
pub(super) type Block = [u8; BLOCK_BYTES];

pub(super) const NAME: Range<usize> = 0..100;
pub(super) const MODE: Range<usize> = 100..108;
pub(super) const UID: Range<usize> = 108..116;
pub(super) const GID: Range<usize> = 116..124;
pub(super) const SIZE: Range<usize> = 124..136;
pub(super) const MTIME: Range<usize> = 136..148;
pub(super) const CHECKSUM: Range<usize> = 148..156;
pub(super) const TYPE: usize = 156;
pub(super) const LINK: Range<usize> = 157..257;
pub(super) const MAGIC: Range<usize> = 257..265;
pub(super) const USER: Range<usize> = 265..297;
pub(super) const GROUP: Range<usize> = 297..329;
pub(super) const DEVICE_MAJOR: Range<usize> = 329..337;
pub(super) const DEVICE_MINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;
/// Joerg Schilling's tar marks its headers at the end and keeps times behind a shorter prefix.
const STAR_PREFIX: Range<usize> = 345..476;

pub(super) const POSIX_MAGIC: &[u8; 8] = b"ustar\x0000";

/// What an entry says about itself besides name, kind, size and target.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) mtime_s: i64,
    pub(super) user: Box<[u8]>,
    pub(super) group: Box<[u8]>,
    pub(super) device_major: u64,
    pub(super) device_minor: u64,
    /// PAX records that are carried along.
    pub(super) records: Box<[u8]>,
}

impl Metadata {
    /// Root's, mode 0755, of time 0.
    pub(super) fn absent() -> Self {
        Self {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime_s: 0,
            user: Box::default(),
            group: Box::default(),
            device_major: 0,
            device_minor: 0,
            records: Box::default(),
        }
    }

    /// Parses the header; `None` where a number is malformed.
    pub(super) fn parse(block: &Block) -> Option<Self> {
        let ustar = block[MAGIC].starts_with(b"ustar");
        // Linux has 20 bits for these, ustar 21, and PAX no record.
        let device = |number: &u64| *number < 1 << 21;
        let extended = |field: Range<usize>| if ustar { &block[field] } else { &[] };
        Some(Self {
            // Older tools put the kind of the file into the mode too.
            mode: u32::try_from(unsigned(&block[MODE])? & 0o7777).ok()?,
            uid: unsigned(&block[UID])?,
            gid: unsigned(&block[GID])?,
            mtime_s: number(&block[MTIME])?,
            user: text(extended(USER)).into(),
            group: text(extended(GROUP)).into(),
            device_major: unsigned(extended(DEVICE_MAJOR)).filter(device)?,
            device_minor: unsigned(extended(DEVICE_MINOR)).filter(device)?,
            records: Box::default(),
        })
    }
}

/// The name a header holds, the prefix put before it.
pub(super) fn name(block: &Block) -> Vec<u8> {
    let name = text(&block[NAME]);
    if !block[MAGIC].starts_with(b"ustar\0") {
        return name.to_vec();
    }
    let prefix = text(&block[if block.ends_with(b"tar\0") { STAR_PREFIX } else { PREFIX }]);
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

/// The bytes of a field before its first zero.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Parses a number, which is octal text or, where the first bit is set, a big-endian two's complement.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    if let Some((first, rest)) = field.split_first()
        && first & 0x80 != 0
    {
        let sign = if first & 0x40 == 0 { i128::from(first & 0x3f) } else { i128::from(*first) - 0x100 };
        let value = rest.iter().fold(sign, |value, byte| (value << 8) | i128::from(*byte));
        return i64::try_from(value).ok();
    }
    let digits = text(field).trim_ascii();
    if digits.is_empty() {
        return Some(0);
    }
    let octal = digits.iter().all(|digit| (b'0'..=b'7').contains(digit));
    octal.then(|| i64::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok())?
}

/// Parses a number that is not below zero.
pub(super) fn unsigned(field: &[u8]) -> Option<u64> {
    u64::try_from(number(field)?).ok()
}

/// Writes `value` as octal digits that fill the field but for a zero at its end; says whether it fits.
pub(super) fn put_number(field: &mut [u8], mut value: u64) -> bool {
    let Some((end, digits)) = field.split_last_mut() else { return value == 0 };
    *end = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value & 7).expect("three bits fit");
        value >>= 3;
    }
    value == 0
}

/// The sum of all bytes, those of the checksum itself taken as spaces.
pub(super) fn checksum(block: &Block) -> u64 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    sum(&block[..CHECKSUM.start]) + sum(&block[CHECKSUM.end..]) + 8 * u64::from(b' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_numbers_of_all_dialects() {
        for (field, expected) in [
            (b"0000644\0".as_slice(), Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"", Some(0)),
            (b"0000648\0", None),
            (b"-000644\0", None),
            (b"\x80\0\0\0\0\x20\0\x01", Some((1 << 21) + 1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(number(field), expected, "{field:?}");
        }
    }

    #[test]
    fn writes_numbers_that_fit() {
        let mut field = [1; 8];
        assert!(put_number(&mut field, 0o7_777_777));
        assert_eq!(&field, b"7777777\0");
        assert!(!put_number(&mut field, 0o10_000_000));
    }
}
