//! PAX extended headers (POSIX.1-2008, pax): records of the form `length key=value\n`.

/// What an extended header says about the entry behind it.
#[derive(Debug, Default)]
pub(super) struct Extension {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size_bytes: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    /// Whether the entry is a sparse file in one of GNU tar's ways.
    pub(super) sparse: bool,
    /// All other records as they stand: times, user names, extended attributes.
    pub(super) kept: Vec<u8>,
}

impl Extension {
    /// Parses the content of an extended header; `None` where it is malformed.
    pub(super) fn parse(mut bytes: &[u8]) -> Option<Self> {
        let mut extension = Self::default();
        while !bytes.is_empty() {
            let (record, key, value) = record(bytes)?;
            bytes = &bytes[record.len()..];
            match key {
                // An empty value gives way to the plain header.
                b"path" | b"linkpath" | b"size" | b"uid" | b"gid" if value.is_empty() => {}
                b"path" => extension.path = Some(value.to_vec()),
                b"linkpath" => extension.link = Some(value.to_vec()),
                b"size" => extension.size_bytes = Some(number(value)?),
                b"uid" => extension.uid = Some(number(value)?),
                b"gid" => extension.gid = Some(number(value)?),
                _ => {
                    extension.sparse |= key.starts_with(b"GNU.sparse.");
                    extension.kept.extend_from_slice(record);
                }
            }
        }
        Some(extension)
    }
}

/// Splits off the first record: the whole of it, its key, its value.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(number(&bytes[..space])?).ok()?;
    let record = bytes.get(..length)?;
    let pair = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    (equals > 0).then(|| (record, &pair[..equals], &pair[equals + 1..]))
}

fn number(digits: &[u8]) -> Option<u64> {
    let plain = digits.iter().all(u8::is_ascii_digit);
    plain.then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
}

/// Whether `records` hold one of this key.
pub(super) fn holds(mut records: &[u8], wanted: &[u8]) -> bool {
    while let Some((record, key, _)) = record(records) {
        if key == wanted {
            return true;
        }
        records = &records[record.len()..];
    }
    false
}

/// Appends a record to `records`.
pub(super) fn push(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    // The length counts its own digits, and a digit more may make it need a digit more.
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_at_every_length() {
        for length in [0, 1, 4, 5, 6, 90, 91, 92, 93, 990, 9_990, 99_990] {
            let mut records = Vec::new();
            push(&mut records, "SCHILY.xattr.user.x", &vec![b'\n'; length]);
            push(&mut records, "path", b"p");
            let extension = Extension::parse(&records).unwrap();
            assert_eq!(extension.path.as_deref(), Some(b"p".as_slice()));
            assert!(holds(&extension.kept, b"SCHILY.xattr.user.x"), "{length}");
            assert!(!holds(&extension.kept, b"path"));
        }
    }

    #[test]
    fn refuses_malformed_records() {
        for bytes in [
            "x",
            "5 a=b",
            "6 a=bc",
            "99 a=b\n",
            "6 =bc\n",
            "5 abc\n",
            "+6 a=b\n",
            "0 a=b\n",
            "11 size=-12\n",
            "4 a\n",
        ] {
            assert!(Extension::parse(bytes.as_bytes()).is_none(), "{bytes:?} was taken");
        }
    }

    #[test]
    fn an_empty_value_gives_way_to_the_plain_header() {
        assert!(Extension::parse(b"8 path=\n").unwrap().path.is_none());
    }
}
