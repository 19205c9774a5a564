//! Credentials as docker and podman keep them: a configuration file, or a helper program that it names.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use docker_credential::{CredentialRetrievalError as Problem, DockerCredential};
use tokio::sync::OnceCell;

use crate::error::RegistryError;

/// Time for a credential helper to answer; one that asks a person on a terminal never will.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

/// What a user may show a registry. Never prints.
#[derive(Clone)]
pub(crate) enum Credential {
    /// To be traded for a token by POST.
    IdentityToken(String),
    /// For basic authentication, at the registry or its token endpoint.
    Password { user: String, password: String },
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IdentityToken(_) => "IdentityToken(..)",
            Self::Password { .. } => "Password(..)",
        })
    }
}

/// Beyond as many hosts, all are forgotten and read again.
const HOSTS_MAX: usize = 256;

type Cell = Arc<OnceCell<Option<Credential>>>;

/// The credentials of each host, read once, when first needed.
pub(crate) struct Credentials {
    file: Option<PathBuf>,
    known: Mutex<HashMap<String, Cell>>,
}

impl Credentials {
    /// Credentials from `file`, or from the usual places.
    pub(crate) fn new(file: Option<PathBuf>) -> Self {
        Self { file, known: Mutex::default() }
    }

    /// What to show `host`; `None` is nothing, anonymous access.
    pub(crate) async fn of(&self, host: &str) -> Result<Option<Credential>, RegistryError> {
        let cell = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= HOSTS_MAX && !known.contains_key(host) {
                known.clear();
            }
            Arc::clone(known.entry(host.to_owned()).or_default())
        };
        let found = cell.get_or_try_init(|| self.load(host)).await?;
        Ok(found.clone())
    }

    async fn load(&self, host: &str) -> Result<Option<Credential>, RegistryError> {
        let failed = |problem: String| RegistryError::Credentials { host: host.to_owned(), problem };
        let files = self.file.clone().map_or_else(usual_files, |file| vec![file]);
        let names = names(host);
        let search = tokio::task::spawn_blocking(move || search(&files, &names));
        match tokio::time::timeout(HELPER_TIMEOUT, search).await {
            Err(_) => Err(failed("the credential helper does not answer".to_owned())),
            Ok(Err(_)) => Err(failed("the search panicked".to_owned())),
            Ok(Ok(found)) => found.map_err(failed),
        }
    }
}

/// The names under which the tools file a host, the likeliest first.
fn names(host: &str) -> Vec<String> {
    let names: &[&str] = match host {
        "docker.io" => &["https://index.docker.io/v1/", "docker.io"],
        host => &[host],
    };
    names.iter().map(|&name| name.to_owned()).collect()
}

fn usual_files() -> Vec<PathBuf> {
    let place = |variable: &str, below: &str| {
        std::env::var_os(variable).map(|directory| Path::new(&directory).join(below))
    };
    let podman = std::env::var_os("REGISTRY_AUTH_FILE").map(PathBuf::from);
    let docker = place("DOCKER_CONFIG", "config.json").or(place("HOME", ".docker/config.json"));
    let runtime = place("XDG_RUNTIME_DIR", "containers/auth.json");
    [podman, docker, runtime].into_iter().flatten().collect()
}

fn search(files: &[PathBuf], names: &[String]) -> Result<Option<Credential>, String> {
    for path in files {
        for name in names {
            let file = match File::open(path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(format!("{}: {error}", path.display())),
            };
            match docker_credential::get_credential_from_reader(BufReader::new(file), name) {
                Ok(DockerCredential::IdentityToken(token)) => {
                    return Ok(Some(Credential::IdentityToken(token)));
                }
                Ok(DockerCredential::UsernamePassword(user, password)) => {
                    return Ok(Some(Credential::Password { user, password }));
                }
                Err(problem) => explain(&problem, path)?,
            }
        }
    }
    Ok(None)
}

/// Says what is wrong without what a helper printed, which may be the secret itself.
fn explain(problem: &Problem, path: &Path) -> Result<(), String> {
    let path = path.display();
    Err(match problem {
        Problem::NoCredentialConfigured | Problem::ConfigNotFound => return Ok(()),
        // The helper protocol's way of saying that there are none.
        Problem::HelperFailure { stdout, .. } if stdout.contains("credentials not found") => {
            return Ok(());
        }
        Problem::HelperFailure { helper, .. } => format!("{helper}, which {path} names, failed"),
        Problem::HelperCommunicationError => format!("the helper that {path} names cannot be run"),
        Problem::MalformedHelperResponse => format!("the helper that {path} names talks nonsense"),
        Problem::ConfigReadError => format!("{path} is not a docker configuration"),
        Problem::CredentialDecodingError | Problem::CredentialMismatchError => {
            format!("the entry in {path} is malformed")
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[track_caller]
    fn check(json: &str, host: &str) -> Result<Option<Credential>, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(json.as_bytes()).unwrap();
        search(&[file.path().to_owned()], &names(host))
    }

    #[test]
    fn finds_docker_hub_under_its_old_name() {
        // me:hunter2
        let json = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "bWU6aHVudGVyMg=="}, "x": {}}}"#;
        let found = check(json, "docker.io").unwrap().unwrap();
        assert!(
            matches!(&found, Credential::Password { user, password } if user == "me" && password == "hunter2")
        );
        assert!(!format!("{found:?}").contains("hunter2"));
        assert!(check(json, "quay.io").unwrap().is_none());
    }

    #[test]
    fn finds_identity_tokens() {
        let json = r#"{"auths": {"r.example": {"identitytoken": "secret"}}}"#;
        let found = check(json, "r.example").unwrap().unwrap();
        assert!(matches!(found, Credential::IdentityToken(token) if token == "secret"));
    }

    #[test]
    fn says_which_file_is_broken_but_not_what_it_holds() {
        let problem = check("{\"auths\": hunter2", "r.example").unwrap_err();
        assert!(problem.contains("not a docker configuration") && !problem.contains("hunter2"));
        let problem = check(r#"{"auths": {"r.example": {"auth": "%%"}}}"#, "r.example");
        assert!(problem.unwrap_err().contains("malformed"));
    }

    #[test]
    fn names_the_helper_that_cannot_be_run() {
        let json = r#"{"credHelpers": {"r.example": "no-such-helper-anywhere"}}"#;
        assert!(check(json, "r.example").unwrap_err().contains("helper"));
    }

    #[test]
    fn missing_files_mean_anonymous() {
        let files = [PathBuf::from("/nonexistent/config.json")];
        assert!(search(&files, &names("r.example")).unwrap().is_none());
    }
}
