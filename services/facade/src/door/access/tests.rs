mod passwords;
mod rules;
mod signed;

use std::path::PathBuf;

use http::HeaderMap;
use tempfile::TempDir;

use super::*;

/// A folder with files of credentials.
pub(super) struct Files(TempDir);

impl Files {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

pub(super) fn authorization(value: &str) -> HeaderMap {
    HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())])
}

pub(super) fn basic(name: &str, password: &str) -> HeaderMap {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
    authorization(&format!("Basic {encoded}"))
}

pub(super) fn user(name: &str) -> Caller {
    Caller::User { name: name.into(), grants: None }
}

pub(super) fn rule(who: &[&str], repositories: &[&str], actions: &[Action]) -> RuleConfig {
    let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    RuleConfig { who: owned(who), repositories: owned(repositories), actions: actions.to_vec() }
}

#[tokio::test]
async fn nobody_pulls_by_default_once_something_is_said_of_access() {
    let rule = RuleConfig {
        who: vec!["ci".to_owned()],
        repositories: vec!["docker.io/myorg".to_owned()],
        actions: vec![Action::Pull],
    };
    for (rules, expected) in [(Vec::new(), true), (vec![rule], false)] {
        let access = Access::open(&AccessConfig { rules, ..AccessConfig::default() }, true).unwrap();
        let allowed = access.allows(&Caller::Anonymous, Action::Pull, "docker.io/library/alpine");
        assert_eq!(allowed, expected);
    }
}
