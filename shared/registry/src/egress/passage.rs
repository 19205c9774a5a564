//! Leave to send a request to one URL.

use std::collections::BTreeSet;
use std::sync::Arc;

use url::{Host, Url};

use super::Reply;
use super::address::{Class, Screen};
use crate::error::{Refusal, RegistryError};

/// A URL that may be asked, and how its host is to be resolved. Made only here: from what the user named, or from what a
/// server said once it holds to the rules.
#[derive(Clone)]
pub(crate) struct Passage {
    pub(super) url: Url,
    /// The host that the user named, from which all this started.
    origin: Url,
    /// The outermost class of all who answered so far; nobody may send us closer than that.
    outermost: Option<Class>,
    /// How the host's addresses are screened; `None` if it is the origin's.
    pub(super) floor: Option<Class>,
    /// Whether a server has led us away from the origin, even if another led us back.
    strayed: bool,
    purpose: Purpose,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Named,
    Redirect,
    Realm,
}

impl Passage {
    /// Leave to ask what the user named.
    pub(crate) fn named(url: Url) -> Self {
        Self {
            origin: url.clone(),
            url,
            outermost: None,
            floor: None,
            strayed: false,
            purpose: Purpose::Named,
        }
    }

    /// Leave to ask `to`, as a server that is in `class` gives it.
    #[cfg(test)]
    pub(super) fn screened(to: &str, class: Class, exempt: &Arc<BTreeSet<String>>) -> Self {
        let origin = Self::named(Url::parse("http://r.example/").expect("a URL"));
        let url = Url::parse(to).expect("a URL");
        let stepped = origin.step(url, class, Purpose::Redirect, exempt);
        stepped.expect("a name, which only the resolver judges")
    }

    /// Leave to go where `location` in `reply` points.
    ///
    /// # Errors
    /// [`RegistryError::RedirectRefused`] when it breaks a rule.
    pub(crate) fn follow(
        reply: &Reply,
        location: &str,
        exempt: &Arc<BTreeSet<String>>,
    ) -> Result<Self, RegistryError> {
        let from = &reply.passage;
        let url = from.url.join(location);
        let url = url.map_err(|_| from.refused_to("?", Purpose::Redirect, Refusal::Malformed))?;
        from.step(url, reply.class(), Purpose::Redirect, exempt)
    }

    /// Leave to ask the token endpoint `realm` that `reply` names.
    ///
    /// # Errors
    /// [`RegistryError::RealmRefused`] when it breaks a rule.
    pub(crate) fn realm(
        reply: &Reply,
        realm: &str,
        known: &[String],
        exempt: &Arc<BTreeSet<String>>,
    ) -> Result<Self, RegistryError> {
        let from = &reply.passage;
        let url = Url::parse(realm).map_err(|_| from.refused_to("?", Purpose::Realm, Refusal::Malformed))?;
        let passage = from.step(url, reply.class(), Purpose::Realm, exempt)?;
        let host = passage.url.host_str().unwrap_or_default();
        let is_known = known.iter().any(|known| known.as_str() == host || *known == passage.authority());
        if is_known || same_host(&passage.url, &from.origin) || same_domain(host, &from.origin) {
            Ok(passage)
        } else {
            Err(from.refused_to(host, Purpose::Realm, Refusal::ForeignHost))
        }
    }

    fn step(
        &self,
        url: Url,
        answered: Class,
        purpose: Purpose,
        exempt: &Arc<BTreeSet<String>>,
    ) -> Result<Self, RegistryError> {
        let outermost = self.outermost.map_or(answered, |class| class.max(answered));
        let is_origin = same_host(&url, &self.origin);
        let floor = (!is_origin).then_some(outermost);
        if let Err(refusal) = self.judge(&url, floor, exempt) {
            return Err(self.refused_to(url.host_str().unwrap_or("?"), purpose, refusal));
        }
        let strayed = self.strayed || url.origin() != self.origin.origin();
        Ok(Self { url, origin: self.origin.clone(), outermost: Some(outermost), floor, strayed, purpose })
    }

    fn judge(&self, url: &Url, floor: Option<Class>, exempt: &Arc<BTreeSet<String>>) -> Result<(), Refusal> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refusal::Scheme);
        }
        if url.scheme() == "http" && self.url.scheme() == "https" {
            return Err(Refusal::Downgrade);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::UserInfo);
        }
        let screen = Screen { floor, exempt: Arc::clone(exempt) };
        let host = url.host_str().unwrap_or_default();
        // A literal address never sees the resolver; the parser has normalised its decimal, octal and hex forms.
        let admitted = match url.host() {
            None => return Err(Refusal::Malformed),
            Some(Host::Domain(_)) => true,
            Some(Host::Ipv4(address)) => screen.admits(host, address.into()),
            Some(Host::Ipv6(address)) => screen.admits(host, address.into()),
        };
        admitted.then_some(()).ok_or(Refusal::Address)
    }

    /// Whether what authorises us at the origin may be shown here.
    pub(crate) fn is_trusted(&self) -> bool {
        !self.strayed
    }

    /// The `host[:port]` to name in errors; a path or query may hold secrets.
    pub(crate) fn authority(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        match self.url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// The same place, with `pairs` added to its query.
    pub(crate) fn with_query<'a>(mut self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        self.url.query_pairs_mut().extend_pairs(pairs);
        self
    }

    /// Says that this passage breaks a rule.
    pub(crate) fn refused(&self, refusal: Refusal) -> RegistryError {
        let target = self.url.host_str().unwrap_or("?");
        self.refused_to(target, self.purpose, refusal)
    }

    fn refused_to(&self, target: &str, purpose: Purpose, refusal: Refusal) -> RegistryError {
        let host = self.origin.host_str().unwrap_or_default().to_owned();
        let target = target.to_owned();
        match purpose {
            Purpose::Realm => RegistryError::RealmRefused { host, realm: target, refusal },
            Purpose::Named | Purpose::Redirect => RegistryError::RedirectRefused { host, target, refusal },
        }
    }
}

fn same_host(one: &Url, other: &Url) -> bool {
    one.host().is_some() && one.host() == other.host()
}

/// Whether both hosts are names below one registrable domain.
fn same_domain(host: &str, origin: &Url) -> bool {
    let Some(Host::Domain(origin)) = origin.host() else {
        return false;
    };
    let domain = psl::domain_str(origin);
    domain.is_some() && domain == psl::domain_str(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes one step from `origin`, which answered from `class`.
    fn step(origin: &str, class: Class, to: &str) -> Result<Passage, RegistryError> {
        let exempt = Arc::new(BTreeSet::from(["192.168.7.7".to_owned()]));
        let origin = Passage::named(Url::parse(origin).unwrap());
        origin.step(to.parse().unwrap(), class, Purpose::Redirect, &exempt)
    }

    #[test]
    fn a_server_sends_us_no_closer_than_it_is() {
        let check = |class: Class, to: &str, expected: Option<Refusal>| {
            let refusal = match step("http://r.example", class, to) {
                Err(RegistryError::RedirectRefused { refusal, .. }) => Some(refusal),
                stepped => stepped.map(|_| None).unwrap(),
            };
            assert_eq!(refusal, expected, "{class:?} {to}");
        };
        check(Class::Public, "http://8.8.8.8/", None);
        check(Class::Public, "http://10.0.0.1/", Some(Refusal::Address));
        check(Class::Public, "http://192.168.7.7/", None);
        check(Class::Public, "http://127.1/", Some(Refusal::Address));
        check(Class::Public, "http://r.example:81/", None);
        check(Class::Private, "https://10.0.0.1/", None);
        check(Class::Private, "https://8.8.8.8/", None);
        check(Class::Private, "http://[::1]/", Some(Refusal::Address));
        check(Class::Loopback, "http://127.0.0.1/", None);
        check(Class::Loopback, "http://169.254.0.1/", Some(Refusal::Address));
    }

    #[test]
    fn encryption_is_never_given_up() {
        let refused = step("https://r.example", Class::Public, "http://r.example/");
        let is_downgrade = |error| matches!(error, RegistryError::RedirectRefused { refusal, .. } if refusal == Refusal::Downgrade);
        assert!(refused.is_err_and(is_downgrade));
        assert!(step("https://r.example", Class::Public, "https://s.example/").is_ok());
    }

    #[test]
    fn who_was_led_away_is_not_trusted_even_when_led_back() {
        let exempt = Arc::default();
        let go = |from: &Passage, to: &str, class| {
            let url = Url::parse(to).unwrap();
            from.step(url, class, Purpose::Redirect, &exempt)
        };
        let origin = Passage::named(Url::parse("https://r.example/").unwrap());
        let same = go(&origin, "https://r.example/x", Class::Private).unwrap();
        assert!(same.is_trusted());
        let away = go(&same, "https://cdn.example/x", Class::Private).unwrap();
        assert!(!away.is_trusted() && away.floor == Some(Class::Private));
        let further = go(&away, "https://other.example/", Class::Public).unwrap();
        assert_eq!(further.floor, Some(Class::Public));
        let back = go(&further, "https://r.example/x", Class::Loopback).unwrap();
        assert!(!back.is_trusted());
    }

    #[test]
    fn registrable_domains_are_not_public_suffixes() {
        let check = |host: &str, origin: &str, expected: bool| {
            let origin = Url::parse(origin).unwrap();
            assert_eq!(same_domain(host, &origin), expected, "{host} {origin}");
        };
        check("auth.docker.io", "https://registry-1.docker.io", true);
        check("gitlab.example.com", "https://registry.example.com", true);
        check("evil.co.uk", "https://registry.co.uk", false);
        check("evil.github.io", "https://me.github.io", false);
        check("localhost", "https://localhost", false);
        check("1.2.3.4", "https://1.2.3.4", false);
    }
}
