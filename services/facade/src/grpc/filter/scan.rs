//! The words of a filter.

use super::FilterError;

/// How much of a filter an error repeats.
const SHOWN_CHARS_MAX: usize = 200;

/// A place in a filter.
pub(super) struct Scanner<'a> {
    filter: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(filter: &'a str) -> Self {
        Self { filter, at: 0 }
    }

    /// The next character, spaces too.
    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Whether the next character is `wanted`, which is behind us then.
    pub(super) fn take(&mut self, wanted: char) -> bool {
        let is_next = self.peek() == Some(wanted);
        if is_next {
            self.at += wanted.len_utf8();
        }
        is_next
    }

    pub(super) fn refuse(&self, what: &'static str) -> FilterError {
        let shown: String = self.filter.chars().take(SHOWN_CHARS_MAX).collect();
        FilterError(format!("filter {shown:?} at byte {}: {what}", self.at))
    }

    /// A field's name: a word, or anything in double quotes.
    pub(super) fn field(&mut self) -> Result<String, FilterError> {
        self.skip_spaces();
        if let Some(quoted) = self.quoted(false)? {
            return Ok(quoted);
        }
        match self.run(|next| next == '_' || next.is_ascii_alphanumeric()) {
            "" => Err(self.refuse("expected a field, or one in double quotes")),
            field => Ok(field.to_owned()),
        }
    }

    pub(super) fn operator(&mut self) -> Result<&'a str, FilterError> {
        self.skip_spaces();
        match self.run(|next| matches!(next, '=' | '!' | '~')) {
            "" => Err(self.refuse("expected ==, != or ~=")),
            operator => Ok(operator),
        }
    }

    /// A value: anything up to a comma or a space, or in quotes; a regular expression may stand between slashes or bars, too.
    pub(super) fn value(&mut self, is_pattern: bool) -> Result<String, FilterError> {
        self.skip_spaces();
        if let Some(quoted) = self.quoted(is_pattern)? {
            return Ok(quoted);
        }
        if matches!(self.peek(), Some('.' | '=' | '!' | '~')) {
            return Err(self.refuse("expected a value, or one in quotes"));
        }
        match self.run(|next| next != ',' && !next.is_whitespace() && !next.is_control()) {
            "" => Err(self.refuse("expected a value, or one in quotes")),
            value => Ok(value.to_owned()),
        }
    }

    fn rest(&self) -> &'a str {
        &self.filter[self.at..]
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn run(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|next| !belongs(next)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn skip_spaces(&mut self) {
        self.run(char::is_whitespace);
    }

    /// What stands in quotes, if the next character is one.
    fn quoted(&mut self, is_pattern: bool) -> Result<Option<String>, FilterError> {
        let Some(quote @ ('"' | '/' | '|')) = self.peek() else {
            return Ok(None);
        };
        if quote != '"' && !is_pattern {
            return Err(self.refuse("only a regular expression stands between these"));
        }
        let begin = self.at;
        self.at += 1;
        // Escapes can give any byte, and together they have to be text.
        let mut bytes = Vec::new();
        loop {
            match self.next() {
                Some(next) if next == quote => break,
                Some('\\') => self.escape(quote, &mut bytes)?,
                Some(next) if next != '\n' => bytes.extend(next.encode_utf8(&mut [0; 4]).bytes()),
                _ => {
                    self.at = begin;
                    return Err(self.refuse("this quote is never closed"));
                }
            }
        }
        String::from_utf8(bytes).map(Some).map_err(|_| self.refuse("what is quoted is not UTF-8"))
    }

    /// What stands behind a backslash, as in a string of Go.
    fn escape(&mut self, quote: char, bytes: &mut Vec<u8>) -> Result<(), FilterError> {
        let refused = self.refuse("no such escape");
        let kind = self.next().ok_or_else(|| refused.clone())?;
        let short = match kind {
            'a' => Some(7),
            'b' => Some(8),
            't' => Some(b'\t'),
            'n' => Some(b'\n'),
            'v' => Some(11),
            'f' => Some(12),
            'r' => Some(b'\r'),
            '\\' => Some(b'\\'),
            _ if kind == quote => u8::try_from(kind).ok(),
            _ => None,
        };
        if let Some(byte) = short {
            bytes.push(byte);
            return Ok(());
        }
        let (digits, radix) = match kind {
            '0'..='7' => {
                self.at -= 1;
                (3, 8)
            }
            'x' => (2, 16),
            'u' => (4, 16),
            'U' => (8, 16),
            _ => return Err(refused),
        };
        let text = self.rest().get(..digits).filter(|text| text.chars().all(|digit| digit.is_digit(radix)));
        let number =
            text.and_then(|text| u32::from_str_radix(text, radix).ok()).ok_or_else(|| refused.clone())?;
        self.at += digits;
        if matches!(kind, 'u' | 'U') {
            let point = char::from_u32(number).ok_or(refused)?;
            bytes.extend(point.encode_utf8(&mut [0; 4]).bytes());
        } else {
            bytes.push(u8::try_from(number).map_err(|_| refused)?);
        }
        Ok(())
    }
}
