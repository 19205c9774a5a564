//! Opaque tokens, of which a file holds the hashes.

use std::collections::HashMap;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::super::DoorError;
use super::super::watched::lines;

/// Whose tokens these are, by their SHA-256. A holder may have several, so that one can take another's place.
pub(super) struct Tokens(HashMap<[u8; 32], String>);

impl Tokens {
    pub(super) fn read(path: &Path) -> Result<Self, DoorError> {
        Ok(Self(lines(path, parse)?.into_iter().collect()))
    }

    /// The name of who holds `token`. How long it takes tells nothing of the hashes that would make it another's.
    pub(super) fn holder(&self, token: &str) -> Option<&str> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        self.0.get(&hash).map(String::as_str)
    }
}

fn parse(line: &str) -> Result<([u8; 32], String), String> {
    let wrong = || "is not NAME:SHA256, with 64 hexadecimal digits".to_owned();
    let (name, hex) = line.rsplit_once(':').ok_or_else(wrong)?;
    if name.is_empty() || hex.len() != 64 || !hex.is_ascii() {
        return Err(wrong());
    }
    let mut hash = [0; 32];
    for (byte, digits) in hash.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok((hash, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Tokens, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        std::fs::write(&path, text).unwrap();
        Tokens::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn knows_holders_by_the_hashes_of_their_tokens() {
        let hash = |token: &str| {
            let hash: [u8; 32] = Sha256::digest(token).into();
            hash.map(|byte| format!("{byte:02x}")).concat()
        };
        let text = format!("# builders\nci:{}\n\nci:{}\nops:{}\n", hash("old"), hash("new"), hash("o"));
        let tokens = read(&text).unwrap();
        for (token, holder) in [("old", Some("ci")), ("new", Some("ci")), ("o", Some("ops")), ("x", None)] {
            assert_eq!(tokens.holder(token), holder, "{token}");
        }
    }

    #[test]
    fn refuses_lines_that_are_none_without_saying_what_they_hold() {
        for text in [
            "ci",
            "ci:secret",
            ":abc",
            "\nci:+f5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d154",
        ] {
            let message = read(text).err().unwrap();
            assert!(message.contains("line "), "{message}");
            assert!(!message.contains("secret") && !message.contains("f5e8"), "{message}");
        }
    }
}
