//! The ACL file: mosquitto's `acl_file`, or ours in YAML, told apart by the ending `.yml` or
//! `.yaml`.
//!
//! mosquitto's syntax is read with one difference: mosquitto grants every subscription and
//! checks `read` when it delivers; here a subscription beyond what may be read is refused.

use octopus_engine::{Action, Verdict};
use octopus_mqtt::TopicFilter;
use serde::Deserialize;

use super::acl::{Entry, Name, Policy, Template, Whom, access_and_topic};
use super::file_error::FileError;

/// Reads mosquitto's syntax:
///
/// ```text
/// topic read public/#          # before any user: for clients without a user name
/// user roger
/// topic readwrite roger/#      # for roger
/// pattern write sensors/%c/#   # for everyone, wherever it stands
/// ```
///
/// Denials come first, as in mosquitto; what no line allows is denied.
///
/// # Errors
/// The first line that is none of these.
pub(crate) fn parse_mosquitto(text: &str) -> Result<Policy, FileError> {
    let mut entries = Vec::new();
    let mut user = Name::Nobody;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let error = |cause| FileError::line(index + 1, cause);
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let rule = |substitutes| {
            access_and_topic(rest, substitutes)
                .ok_or_else(|| error("expected [read|write|readwrite|deny] and a topic filter"))
        };
        match word {
            "user" if !rest.is_empty() => user = Name::Exactly(rest.into()),
            "topic" => {
                let whom = Whom { user: Some(user.clone()), ..Whom::default() };
                entries.push(Entry { whom, rule: rule(false)? });
            }
            "pattern" => entries.push(Entry { whom: Whom::default(), rule: rule(true)? }),
            _ => return Err(error("expected user, topic or pattern")),
        }
    }
    entries.sort_by_key(|entry| entry.rule.verdict != Verdict::Deny);
    Ok(Policy { entries, otherwise: Verdict::Deny })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Yaml {
    #[serde(default = "deny")]
    otherwise: YamlVerdict,
    #[serde(default)]
    rules: Vec<YamlRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct YamlRule {
    verdict: YamlVerdict,
    #[serde(default)]
    action: YamlAction,
    user: Option<String>,
    client: Option<String>,
    address: Option<String>,
    topics: Vec<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum YamlVerdict {
    Allow,
    Deny,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum YamlAction {
    Publish,
    Subscribe,
    #[default]
    Both,
}

fn deny() -> YamlVerdict {
    YamlVerdict::Deny
}

/// Reads our own form: `otherwise`, and `rules` in their order, each with `verdict`, and if
/// wanted `action`, `user`, `client`, `address`, and `topics`. The first that matches decides.
///
/// # Errors
/// What is wrong, with its line where YAML knows it.
pub(crate) fn parse_yaml(text: &str) -> Result<Policy, FileError> {
    let yaml: Yaml = serde_yaml::from_str(text).map_err(|error| {
        let line = error.location().map(|place| place.line());
        FileError::Content { line, cause: error.to_string() }
    })?;
    let mut entries = Vec::new();
    for (index, rule) in yaml.rules.iter().enumerate() {
        let error = |what: &str| FileError::content(format!("rules.{index}: {what}"));
        let address = rule.address.as_deref().map(str::parse).transpose();
        let whom = Whom {
            user: rule.user.as_deref().map(Name::parse),
            client: rule.client.as_deref().map(Name::parse),
            address: address.map_err(|()| error("address: expected an address or a network"))?,
        };
        for topic in &rule.topics {
            if TopicFilter::parse(topic).is_err() {
                return Err(error(&format!("topics: {topic:?} is no topic filter")));
            }
            let (verdict, action) = (rule.verdict.into(), rule.action.into());
            let rule =
                Template { verdict, action, filter: topic.as_str().into(), substitutes: true };
            entries.push(Entry { whom: whom.clone(), rule });
        }
    }
    Ok(Policy { entries, otherwise: yaml.otherwise.into() })
}

impl From<YamlVerdict> for Verdict {
    fn from(verdict: YamlVerdict) -> Self {
        match verdict {
            YamlVerdict::Allow => Self::Allow,
            YamlVerdict::Deny => Self::Deny,
        }
    }
}

impl From<YamlAction> for Action {
    fn from(action: YamlAction) -> Self {
        match action {
            YamlAction::Publish => Self::Publish,
            YamlAction::Subscribe => Self::Subscribe,
            YamlAction::Both => Self::Both,
        }
    }
}

#[cfg(test)]
mod tests {
    use octopus_mqtt::TopicName;

    use super::*;
    use crate::auth::credentials::Credentials;

    const MOSQUITTO: &str = "\
# comment
topic read public/#
topic read $SYS/#

user roger
topic roger/#
topic deny roger/secret
pattern write sensors/%c
";

    fn who(user: Option<&str>, client: &str) -> Credentials {
        Credentials { client: client.into(), user: user.map(Into::into), ..Credentials::default() }
    }

    fn check(policy: &Policy, who: &Credentials, publish: &[(&str, bool)], read: &[(&str, bool)]) {
        let acl = policy.rules_for(who, None);
        for (topic, expected) in publish {
            let name = TopicName::parse(topic).expect("a topic");
            assert_eq!(acl.allows_publish(name), *expected, "publish {topic} as {who:?}");
        }
        for (filter, expected) in read {
            let wanted = TopicFilter::parse(filter).expect("a filter");
            assert_eq!(acl.allows_subscribe(wanted), *expected, "read {filter} as {who:?}");
        }
    }

    #[test]
    fn mosquittos_file_means_what_it_says() {
        let policy = parse_mosquitto(MOSQUITTO).expect("a good file");
        let roger = who(Some("roger"), "c1");
        check(
            &policy,
            &roger,
            &[
                ("roger/a", true),
                ("roger/secret", false),
                ("sensors/c1", true),
                ("sensors/c2", false),
                ("$SYS/x", false),
            ],
            &[("roger/a", true), ("roger/#", false), ("public/x", false), ("sensors/c1", false)],
        );
        let nobody = who(None, "c2");
        check(
            &policy,
            &nobody,
            &[("public/x", false), ("sensors/c2", true)],
            &[("public/#", true), ("$SYS/#", true), ("roger/a", false), ("#", false)],
        );
    }

    #[test]
    fn a_broken_file_is_refused_with_its_line() {
        for (text, line) in [("topics a", 1), ("topic read", 0), ("user", 1), ("\ntopic a/#/b", 2)]
        {
            match parse_mosquitto(text) {
                // `read` alone is a topic of that name, as in mosquitto.
                Ok(policy) => assert!(line == 0 && policy.entries.len() == 1, "{text}"),
                Err(error) => {
                    assert!(error.to_string().contains(&format!("line {line}")), "{text}: {error}");
                }
            }
        }
    }

    #[test]
    fn our_file_goes_by_its_first_match() {
        let policy = parse_yaml(
            "otherwise: deny\nrules:\n  - {verdict: deny, user: guest, topics: ['a/secret']}\n  \
             - {verdict: allow, action: subscribe, address: 10.0.0.0/8, topics: ['lan/#']}\n  \
             - {verdict: allow, topics: ['a/#', 'own/%u/#']}\n",
        )
        .expect("a good file");
        check(
            &policy,
            &who(Some("guest"), "x"),
            &[("a/secret", false), ("a/b", true), ("own/guest/1", true), ("own/else/1", false)],
            &[("lan/#", false)],
        );
        let mut inside = who(None, "x");
        inside.address = "10.1.1.1".parse().ok();
        check(&policy, &inside, &[("lan/x", false), ("a/secret", true)], &[("lan/#", true)]);
    }

    #[test]
    fn the_examples_are_good() {
        let ours = parse_yaml(include_str!("../../config/acl.example.yml")).expect("ours");
        check(
            &ours,
            &who(Some("sensor-1"), "c"),
            &[("plant/sensor-1/t", true), ("plant/sensor-2/t", false), ("clients/c/x", true)],
            &[("plant/#", true), ("$SYS/#", false)],
        );
        let theirs = parse_mosquitto(include_str!("../../config/acl.example")).expect("theirs");
        check(
            &theirs,
            &who(Some("roger"), "c"),
            &[("roger/a", true), ("roger/secret", false)],
            &[],
        );
    }

    #[test]
    fn a_broken_yaml_is_refused() {
        for text in [
            "rules: [{verdict: maybe, topics: [a]}]",
            "rules: [{verdict: allow, topics: ['a/#/b']}]",
            "rules: [{verdict: allow, topic: [a]}]",
            "rules: [{verdict: allow, address: 10.0.0.0/99, topics: [a]}]",
        ] {
            assert!(parse_yaml(text).is_err(), "{text}");
        }
    }
}
