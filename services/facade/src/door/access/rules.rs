//! What callers may do.

use serde::Deserialize;

use super::super::DoorError;
use super::Caller;

/// What can be done to a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Reading it.
    Pull,
    /// Writing to it.
    Push,
    /// Deleting from it.
    Delete,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pull, Self::Push, Self::Delete];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }
}

/// Who may do what to which repositories.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuleConfig {
    /// Names of users; `@users` for all of them, `*` for anybody, also without credentials.
    pub who: Vec<String>,
    /// Repositories, and what lies below them, with their registry: `docker.io/myorg`. `*` for all.
    pub repositories: Vec<String>,
    /// What they may do.
    pub actions: Vec<Action>,
}

/// What is granted; nothing else is.
#[derive(Debug)]
pub(super) struct Rules(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    who: Vec<Who>,
    repositories: Vec<Below>,
    actions: Vec<Action>,
}

#[derive(Debug)]
enum Who {
    Anybody,
    AnyUser,
    User(String),
}

/// A repository with all that lies below it.
#[derive(Debug)]
enum Below {
    Everything,
    /// Without a slash at its end.
    Repository(String),
    /// With one: not the repository itself.
    Folder(String),
}

impl Rules {
    /// What `rules` grant, and to anybody `anonymous` everywhere.
    ///
    /// # Errors
    /// [`DoorError::Setting`] for a rule that grants nothing, or that names no registry.
    pub(super) fn new(anonymous: &[Action], rules: &[RuleConfig]) -> Result<Self, DoorError> {
        let anybody = Rule {
            who: vec![Who::Anybody],
            repositories: vec![Below::Everything],
            actions: anonymous.to_vec(),
        };
        let mut all = vec![anybody];
        for (index, rule) in rules.iter().enumerate() {
            let refused = |what| DoorError::Setting { setting: format!("access.rules.{index}"), what };
            all.push(Rule::new(rule).map_err(refused)?);
        }
        Ok(Self(all))
    }

    pub(super) fn allow(&self, caller: &Caller, action: Action, repository: &str) -> bool {
        let granting = self.0.iter().filter(|rule| rule.is_for(caller, action));
        granting.flat_map(|rule| &rule.repositories).any(|below| below.holds(repository))
    }

    pub(super) fn allow_anything(&self, caller: &Caller) -> bool {
        Action::ALL.iter().any(|action| self.0.iter().any(|rule| rule.is_for(caller, *action)))
    }

    pub(super) fn allow_everywhere(&self, caller: &Caller, action: Action) -> bool {
        let granting = self.0.iter().filter(|rule| rule.is_for(caller, action));
        granting.flat_map(|rule| &rule.repositories).any(|below| matches!(below, Below::Everything))
    }
}

impl Rule {
    fn new(config: &RuleConfig) -> Result<Self, &'static str> {
        if config.who.is_empty() || config.repositories.is_empty() || config.actions.is_empty() {
            return Err("grants nothing: it needs who, repositories and actions");
        }
        let who = config.who.iter().map(|who| match who.as_str() {
            "*" => Ok(Who::Anybody),
            "@users" => Ok(Who::AnyUser),
            "" => Err("who must not be empty"),
            name if name.starts_with('@') => Err("the only group is @users"),
            name if name.contains('*') => Err("* stands for anybody, not for a part of a name"),
            name => Ok(Who::User(name.to_owned())),
        });
        Ok(Self {
            who: who.collect::<Result<_, _>>()?,
            repositories: config
                .repositories
                .iter()
                .map(|below| Below::new(below))
                .collect::<Result<_, _>>()?,
            actions: config.actions.clone(),
        })
    }

    fn is_for(&self, caller: &Caller, action: Action) -> bool {
        self.actions.contains(&action) && self.who.iter().any(|who| who.is(caller))
    }
}

impl Who {
    fn is(&self, caller: &Caller) -> bool {
        match (self, caller.name()) {
            (Self::Anybody, _) | (Self::AnyUser, Some(_)) => true,
            (Self::User(name), Some(caller)) => name == caller,
            (Self::AnyUser | Self::User(_), None) => false,
        }
    }
}

impl Below {
    fn new(prefix: &str) -> Result<Self, &'static str> {
        if prefix.is_empty() || prefix == "*" {
            return Ok(Self::Everything);
        }
        if prefix.contains('*') {
            return Err("* stands for all repositories, not for a part of a name");
        }
        let registry = prefix.split('/').next().unwrap_or_default();
        if registry != "localhost" && !registry.contains(['.', ':']) {
            return Err("a repository begins with its registry, as docker.io/myorg");
        }
        let prefix = prefix.to_ascii_lowercase();
        Ok(if prefix.ends_with('/') { Self::Folder(prefix) } else { Self::Repository(prefix) })
    }

    fn holds(&self, repository: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Folder(folder) => repository.starts_with(folder.as_str()),
            Self::Repository(name) => {
                let rest = repository.strip_prefix(name.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }
}
