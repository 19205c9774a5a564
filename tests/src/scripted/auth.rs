//! Challenges, tokens and what is accepted as an answer.

use super::exchange::Request;
use super::{Shared, locked};

/// What a registry asks for before it serves anything.
#[derive(Debug, Clone, Default)]
pub enum Auth {
    /// Nothing.
    #[default]
    Open,
    /// User and password with every request.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A token from the realm.
    Bearer(Bearer),
}

/// A token scheme.
#[derive(Debug, Clone, Default)]
pub struct Bearer {
    /// The URL named in the challenge; the registry's own `/token` where there is none.
    pub realm: Option<String>,
    /// User and password that the token endpoint asks for; anybody gets a token where there are none.
    pub credentials: Option<(String, String)>,
}

impl Shared {
    /// Returns the challenge to answer `request` with, or none where it may pass.
    pub(super) fn challenge(&self, request: &Request) -> Option<String> {
        let auth = locked(&self.auth).clone();
        let given = request.header("authorization").unwrap_or_default();
        match &auth {
            Auth::Open => None,
            Auth::Basic { user, password } => (given != basic(user, password)).then(|| self.demand(request)),
            Auth::Bearer(_) => {
                let token = given.strip_prefix("Bearer ").unwrap_or_default();
                let scope = locked(&self.tokens).get(token).cloned();
                let granted =
                    scope.is_some_and(|scope| scope.contains(&format!(":{}:", repository(&request.path))));
                let ping = locked(&self.tokens).contains_key(token) && request.path == "/v2/";
                (!granted && !ping).then(|| self.demand(request))
            }
        }
    }

    /// Returns the challenge of this registry for what `request` wants.
    pub(super) fn demand(&self, request: &Request) -> String {
        let Auth::Bearer(bearer) = locked(&self.auth).clone() else {
            return "Basic realm=\"scripted\"".to_owned();
        };
        let realm = bearer.realm.unwrap_or_else(|| format!("{}/token", self.url));
        let scope = match repository(&request.path) {
            "" => String::new(),
            name => format!(",scope=\"repository:{name}:pull\""),
        };
        format!("Bearer realm=\"{realm}\",service=\"scripted\"{scope}")
    }

    /// Returns a new token for the scope that `request` asks for, or none where its credentials are wrong.
    pub(super) fn issue_token(&self, request: &Request) -> Option<String> {
        if let Auth::Bearer(Bearer { credentials: Some((user, password)), .. }) = &*locked(&self.auth)
            && request.header("authorization") != Some(&basic(user, password))
        {
            return None;
        }
        // A form is written like a query.
        let form = String::from_utf8_lossy(&request.body);
        let asked = if request.method == "POST" { &form } else { request.query.as_str() };
        let scope = asked.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
        let mut tokens = locked(&self.tokens);
        let token = format!("token-{}", self.numbers.load(std::sync::atomic::Ordering::SeqCst));
        tokens.insert(token.clone(), scope);
        Some(token)
    }
}

fn repository(path: &str) -> &str {
    let rest = path.strip_prefix("/v2/").unwrap_or_default();
    let ends = ["/manifests/", "/blobs/", "/tags/", "/referrers/"];
    let end = ends.iter().find_map(|part| rest.rfind(part)).unwrap_or(0);
    &rest[..end]
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64(format!("{user}:{password}").as_bytes()))
}

/// Returns `bytes` in base64, with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let group = (0..3).fold(0_usize, |group, at| group << 8 | usize::from(*three.get(at).unwrap_or(&0)));
        for at in 0..4 {
            let sextet = group >> (18 - 6 * at) & 63;
            text.push(if at <= three.len() { char::from(ALPHABET[sextet]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads_to_four() {
        let check = |input: &str, expected: &str| assert_eq!(base64(input.as_bytes()), expected);
        check("", "");
        check("f", "Zg==");
        check("fo", "Zm8=");
        check("foo", "Zm9v");
        check("foobar", "Zm9vYmFy");
    }

    #[test]
    fn repository_may_have_many_components() {
        assert_eq!(repository("/v2/a/blobs/b/blobs/sha256:0"), "a/blobs/b");
        assert_eq!(repository("/v2/"), "");
    }
}
