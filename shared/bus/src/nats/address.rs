//! The URL of a NATS farm, its credentials kept apart from what may be shown.

use async_nats::ServerAddr;
use url::Url;

use crate::error::BusError;

/// Where the servers are and who we are to them.
pub(crate) struct Address {
    pub(super) servers: Vec<ServerAddr>,
    pub(super) tls: bool,
    pub(super) login: Option<Login>,
    /// The URL without credentials, for messages to people.
    pub(super) shown: String,
}

/// Who we are.
#[derive(PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub(super) enum Login {
    Password { user: String, password: String },
    Token(String),
}

impl Address {
    pub(crate) fn parse(url: &str) -> Result<Self, BusError> {
        let (scheme, hosts) = url.split_once("://").unwrap_or(("", url));
        if !matches!(scheme, "nats" | "tls") {
            // What follows an unknown scheme may hold a secret as well.
            let shown =
                if scheme.is_empty() { "without scheme".to_owned() } else { format!("{scheme}://…") };
            return Err(BusError::InvalidUrl { url: shown, why: "is not mem:, nats:// or tls://" });
        }
        let mut servers = Vec::new();
        let mut login = None;
        let mut shown = Vec::new();
        for host in hosts.trim_end_matches('/').split(',') {
            let host = host.split_once("://").map_or(host, |(_, host)| host);
            let invalid = |why| BusError::InvalidUrl { url: format!("{scheme}://{}", hide_login(host)), why };
            let mut server =
                Url::parse(&format!("{scheme}://{host}")).map_err(|_| invalid("does not name a server"))?;
            if server.host_str().is_none_or(str::is_empty) {
                return Err(invalid("does not name a server"));
            }
            login = login.or_else(|| Login::of(&server));
            server
                .set_username("")
                .and(server.set_password(None))
                .map_err(|()| invalid("does not name a server"))?;
            shown.push(server.authority().to_owned());
            servers.push(ServerAddr::from_url(server).map_err(|_| invalid("does not name a server"))?);
        }
        Ok(Self { servers, tls: scheme == "tls", login, shown: format!("{scheme}://{}", shown.join(",")) })
    }

    /// The host of the first server.
    pub(crate) fn first_host(&self) -> &str {
        self.servers.first().map_or("", ServerAddr::host)
    }
}

impl Login {
    fn of(server: &Url) -> Option<Self> {
        let user = percent_decoded(server.username());
        match server.password() {
            Some(password) => Some(Self::Password { user, password: percent_decoded(password) }),
            None => (!user.is_empty()).then_some(Self::Token(user)),
        }
    }
}

fn hide_login(host: &str) -> &str {
    host.rsplit_once('@').map_or(host, |(_, host)| host)
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = (byte == b'%').then(|| after.get(..2)).flatten();
        let escaped = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, shown: &str, login: Option<&Login>) {
        let address = Address::parse(url).unwrap();
        assert_eq!(address.shown, shown);
        assert_eq!(address.login.as_ref(), login);
    }

    #[test]
    fn keeps_credentials_out_of_what_is_shown() {
        let login = Login::Password { user: "u".to_owned(), password: "p@:/%".to_owned() };
        check("nats://u:p%40%3A%2F%25@a:4222,b:4333", "nats://a:4222,b:4333", Some(&login));
        check("tls://s3cret@a", "tls://a", Some(&Login::Token("s3cret".to_owned())));
        check("nats://a,nats://[::1]:1/", "nats://a,[::1]:1", None);
    }

    #[test]
    fn refuses_what_names_no_server_without_telling_secrets() {
        for url in [
            "redis://u:secret@a",
            "nats://",
            "nats://u:secret@",
            "nats://u:secret@a:port",
            "u:secret@a",
            "nats://a,,b",
        ] {
            let Err(refusal) = Address::parse(url) else { panic!("{url} is taken") };
            assert!(!refusal.to_string().contains("secret"), "{refusal}");
        }
    }
}
