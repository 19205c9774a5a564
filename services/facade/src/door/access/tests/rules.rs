//! What is granted to whom.

use super::*;

fn with_rules(rules: Vec<RuleConfig>) -> Result<Access, DoorError> {
    let config = AccessConfig { anonymous: Some(vec![]), rules, ..AccessConfig::default() };
    Access::open(&config, false)
}

#[test]
fn nothing_is_granted_that_no_rule_grants() {
    let access = Access::open(&AccessConfig::default(), false).unwrap();
    for action in Action::ALL {
        assert!(!access.allows(&Caller::Anonymous, action, "docker.io/library/alpine"));
        assert!(!access.allows(&user("ci"), action, "docker.io/library/alpine"));
    }
    assert!(access.is_restricted());
}

#[test]
fn anybody_pulls_where_only_this_machine_can_reach_the_door() {
    let access = Access::open(&AccessConfig::default(), true).unwrap();
    let can = |action| access.allows(&Caller::Anonymous, action, "quay.io/a/b");
    assert!(can(Action::Pull) && !can(Action::Push) && !can(Action::Delete));
    assert!(access.may_pull_everything(&Caller::Anonymous));
    assert!(!access.is_restricted());
    let closed = AccessConfig { anonymous: Some(vec![]), ..AccessConfig::default() };
    assert!(Access::open(&closed, true).unwrap().is_restricted());
}

#[test]
fn a_rule_grants_what_lies_at_or_below_its_repositories() {
    let grants = |prefix: &str, repository: &str| {
        let access = with_rules(vec![rule(&["ci"], &[prefix], &[Action::Push])]).unwrap();
        access.allows(&user("ci"), Action::Push, repository)
    };
    for (prefix, repository, expected) in [
        ("docker.io/myorg", "docker.io/myorg", true),
        ("docker.io/myorg", "docker.io/myorg/app", true),
        ("docker.io/myorg", "docker.io/myorg/app/base", true),
        ("docker.io/myorg", "docker.io/myorganic/app", false),
        ("docker.io/myorg/", "docker.io/myorg/app", true),
        ("docker.io/myorg/", "docker.io/myorg", false),
        ("docker.io", "docker.io/library/alpine", true),
        ("docker.io", "docker.io.example.com/library/alpine", false),
        ("Docker.io/myorg", "docker.io/myorg/app", true),
        ("localhost:5000/a", "localhost:5000/a/b", true),
        ("*", "quay.io/a", true),
        ("", "quay.io/a", true),
    ] {
        assert_eq!(grants(prefix, repository), expected, "{prefix} {repository}");
    }
}

#[test]
fn a_rule_grants_to_those_it_names_and_what_it_names() {
    let access = with_rules(vec![
        rule(&["ci", "ops"], &["docker.io/a"], &[Action::Push]),
        rule(&["@users"], &["docker.io/b"], &[Action::Pull]),
        rule(&["*"], &["docker.io/c"], &[Action::Pull]),
    ]);
    let access = access.unwrap();
    let nobody = Caller::User { name: "".into(), grants: Some([].into()) };
    for (caller, action, repository, expected) in [
        (user("ci"), Action::Push, "docker.io/a", true),
        (user("ops"), Action::Push, "docker.io/a", true),
        (user("ci"), Action::Delete, "docker.io/a", false),
        (user("cici"), Action::Push, "docker.io/a", false),
        (user("x"), Action::Pull, "docker.io/b", true),
        (Caller::Anonymous, Action::Pull, "docker.io/b", false),
        (nobody.clone(), Action::Pull, "docker.io/b", false),
        (Caller::Anonymous, Action::Pull, "docker.io/c", true),
        (nobody, Action::Pull, "docker.io/c", true),
        (user("x"), Action::Pull, "docker.io/c", true),
    ] {
        assert_eq!(
            access.allows(&caller, action, repository),
            expected,
            "{caller:?} {action:?} {repository}"
        );
    }
    assert!(!access.may_pull_everything(&user("ci")));
}

#[test]
fn refuses_rules_that_cannot_be_meant() {
    let pull = [Action::Pull];
    for (config, what) in [
        (rule(&[], &["*"], &pull), "grants nothing"),
        (rule(&["a"], &[], &pull), "grants nothing"),
        (rule(&["a"], &["*"], &[]), "grants nothing"),
        (rule(&["@ops"], &["*"], &pull), "only group"),
        (rule(&["ci-*"], &["*"], &pull), "part of a name"),
        (rule(&["a"], &["docker.io/my*"], &pull), "part of a name"),
        (rule(&["a"], &["myorg/app"], &pull), "begins with its registry"),
    ] {
        let message = with_rules(vec![config]).err().unwrap().to_string();
        assert!(message.starts_with("access.rules.0: ") && message.contains(what), "{message}");
    }
}

#[test]
fn refuses_settings_that_it_does_not_know() {
    for text in [r#"{"annonymous": []}"#, r#"{"anonymous": ["write"]}"#, r#"{"jwt": {"secret": "x"}}"#] {
        serde_json::from_str::<AccessConfig>(text).unwrap_err();
    }
    let text = r#"{"anonymous": ["pull"], "rules": [{"who": ["*"], "repositories": ["*"], "actions": ["push", "delete"]}]}"#;
    let access = Access::open(&serde_json::from_str(text).unwrap(), false).unwrap();
    assert!(Action::ALL.iter().all(|action| access.allows(&Caller::Anonymous, *action, "quay.io/a")));
}

#[test]
fn challenges_only_those_whom_other_credentials_could_help() {
    let files = Files::new();
    let without = Access::open(&AccessConfig::default(), false).unwrap();
    assert!(without.challenges(&Caller::Anonymous, None).is_empty());
    let htpasswd = Some(files.write("users", ""));
    let access = Access::open(&AccessConfig { htpasswd, ..AccessConfig::default() }, false).unwrap();
    assert_eq!(access.challenges(&Caller::Anonymous, None), ["Basic realm=\"larder\""]);
    assert!(access.challenges(&user("ci"), None).is_empty());
}
