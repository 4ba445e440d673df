//! Who may publish and subscribe to what: rules for all clients, and what is left of them for
//! one.
//!
//! A [`Policy`] is what a file says; [`Policy::rules_for`] picks the rules that concern a
//! client and puts its names in, so that a shard only matches plain Topic Filters. Clients with
//! the same rules share them.

use std::collections::HashSet;
use std::sync::Arc;

use octopus_engine::{Acl, Action, Rule, Verdict};
use octopus_mqtt::TopicFilter;

use super::address::Network;
use super::credentials::Credentials;

/// All rules of a node, in order; the first that matches decides. Scope: node.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) entries: Vec<Entry>,
    /// What holds where no rule matches.
    pub(crate) otherwise: Verdict,
}

/// A rule and the clients it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) whom: Whom,
    pub(crate) rule: Template,
}

/// Which clients a rule is for: those that fit all that is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Whom {
    pub(crate) user: Option<Name>,
    pub(crate) client: Option<Name>,
    pub(crate) address: Option<Network>,
}

/// A user name or Client Identifier to compare with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Exactly(Box<str>),
    /// Written with `*` at its end.
    BeginsWith(Box<str>),
    /// No user name at all.
    Nobody,
}

/// A rule whose filter may hold `%u` and `%c`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    pub(crate) verdict: Verdict,
    pub(crate) action: Action,
    pub(crate) filter: Box<str>,
    /// Whether `%u` and `%c` stand for the client's names; else they are plain text.
    pub(crate) substitutes: bool,
}

impl Name {
    pub(crate) fn parse(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(beginning) => Self::BeginsWith(beginning.into()),
            None => Self::Exactly(text.into()),
        }
    }

    fn fits(&self, name: Option<&str>) -> bool {
        match self {
            Self::Exactly(wanted) => name == Some(wanted),
            Self::BeginsWith(beginning) => name.is_some_and(|name| name.starts_with(&**beginning)),
            Self::Nobody => name.is_none(),
        }
    }
}

impl Whom {
    fn fits(&self, who: &Credentials) -> bool {
        self.user.as_ref().is_none_or(|user| user.fits(who.user.as_deref()))
            && self.client.as_ref().is_none_or(|client| client.fits(Some(&who.client)))
            && self
                .address
                .as_ref()
                .is_none_or(|network| who.address.is_some_and(|address| network.contains(address)))
    }
}

impl Template {
    /// A rule with the client's names put in; `None` if it says nothing about this client.
    ///
    /// A name with `+`, `#` or `/` in it would reach other topics than those meant: a rule
    /// that allows is left out then, a rule that denies is widened to deny too much rather
    /// than too little. An empty name counts as such a name.
    pub(crate) fn for_client(&self, who: &Credentials) -> Option<Rule> {
        let rule = |filter: String| {
            TopicFilter::parse(&filter).ok()?;
            let filter = filter.into();
            Some(Rule { verdict: self.verdict, action: self.action, filter })
        };
        if !self.substitutes {
            return rule(self.filter.to_string());
        }
        let uses = |mark: &str, name: &str| !self.filter.contains(mark) || is_plain(name);
        if uses("%u", who.user()) && uses("%c", &who.client) {
            return rule(put_in(&self.filter, who));
        }
        match self.verdict {
            Verdict::Allow => None,
            Verdict::Deny => rule(widened(&self.filter)),
        }
    }
}

/// `%u` and `%c` replaced in one go, so that a name with such a mark in it stays as it is.
fn put_in(filter: &str, who: &Credentials) -> String {
    let mut parts = filter.split('%');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match (part.strip_prefix('u'), part.strip_prefix('c')) {
            (Some(rest), _) => text.extend([who.user(), rest]),
            (_, Some(rest)) => text.extend([&*who.client, rest]),
            _ => text.extend(["%", part]),
        }
    }
    text
}

/// Everything below the level that holds the first mark.
fn widened(filter: &str) -> String {
    let is_free = |level: &&str| !level.contains("%u") && !level.contains("%c");
    let before: Vec<&str> = filter.split('/').take_while(is_free).collect();
    before.into_iter().chain(["#"]).collect::<Vec<_>>().join("/")
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains(['+', '#', '/'])
}

impl Policy {
    /// The rules for one client: `own`, which its backend said, then the policy's.
    pub(crate) fn rules_for(&self, who: &Credentials, own: Option<&[Template]>) -> Acl {
        let own = own.unwrap_or_default().iter();
        let fitting = self.entries.iter().filter(|entry| entry.whom.fits(who));
        let templates = own.chain(fitting.map(|entry| &entry.rule));
        let rules = templates.filter_map(|template| template.for_client(who)).collect();
        Acl { rules, otherwise: self.otherwise }
    }
}

/// Rules in force, each set once however many clients have it. Scope: node.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    sets: HashSet<Arc<Acl>>,
    /// Look for sets that nobody has any more when there are so many.
    sweep_at: usize,
}

impl Shared {
    const SWEEP_MIN: usize = 1024;

    pub(crate) fn intern(&mut self, acl: Acl) -> Arc<Acl> {
        if let Some(found) = self.sets.get(&acl) {
            return Arc::clone(found);
        }
        if self.sets.len() >= self.sweep_at.max(Self::SWEEP_MIN) {
            self.sets.retain(|acl| Arc::strong_count(acl) > 1);
            self.sweep_at = self.sets.len() * 2;
        }
        let acl = Arc::new(acl);
        self.sets.insert(Arc::clone(&acl));
        acl
    }
}

/// Reads `[read|write|readwrite|deny] <topic>`; without a word in front it is `readwrite`.
/// Reading is subscribing, writing is publishing.
pub(crate) fn access_and_topic(text: &str, substitutes: bool) -> Option<Template> {
    let (verdict, action, filter) = match text.split_once(char::is_whitespace) {
        Some(("read", rest)) => (Verdict::Allow, Action::Subscribe, rest),
        Some(("write", rest)) => (Verdict::Allow, Action::Publish, rest),
        Some(("readwrite", rest)) => (Verdict::Allow, Action::Both, rest),
        Some(("deny", rest)) => (Verdict::Deny, Action::Both, rest),
        _ => (Verdict::Allow, Action::Both, text),
    };
    let filter = filter.trim();
    TopicFilter::parse(filter).ok()?;
    Some(Template { verdict, action, filter: filter.into(), substitutes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(user: &str, client: &str) -> Credentials {
        let user = (!user.is_empty()).then(|| user.into());
        let address = "10.1.2.3".parse().ok();
        Credentials { client: client.into(), user, address, ..Credentials::default() }
    }

    fn filters(lines: &[&str], who: &Credentials) -> Vec<String> {
        let templates = lines.iter().filter_map(|line| access_and_topic(line, true));
        let rules = templates.filter_map(|template| template.for_client(who));
        rules.map(|rule| format!("{:?} {}", rule.verdict, rule.filter)).collect()
    }

    #[test]
    fn names_are_put_in() {
        let found = filters(&["read a/%u/%c", "write %c", "deny %u/x"], &who("u", "c"));
        assert_eq!(found, ["Allow a/u/c", "Allow c", "Deny u/x"]);
    }

    #[test]
    fn a_name_with_wildcards_opens_nothing_and_passes_no_denial() {
        for bad in ["#", "+", "a/b", ""] {
            let found = filters(&["read s/%u", "deny t/x-%u/y", "deny z"], &who(bad, "c"));
            assert_eq!(found, ["Deny t/#", "Deny z"], "{bad:?}");
        }
    }

    #[test]
    fn a_mark_in_a_name_is_not_put_in_again() {
        let mut client = who("%c", "#");
        assert_eq!(filters(&["read s/%u"], &client), ["Allow s/%c"]);
        client.client = "plain".into();
        let found = filters(&["read s/%u/%c/100%"], &client);
        assert_eq!(found, ["Allow s/%c/plain/100%"]);
    }

    #[test]
    fn a_rule_is_for_those_who_fit_all_it_says() {
        let whom = Whom {
            user: Some(Name::parse("sensor-*")),
            client: None,
            address: "10.0.0.0/8".parse().ok(),
        };
        assert!(whom.fits(&who("sensor-1", "x")));
        assert!(!whom.fits(&who("pump-1", "x")) && !whom.fits(&who("", "x")));
        let elsewhere = Credentials { address: None, ..who("sensor-1", "x") };
        assert!(!whom.fits(&elsewhere));
    }

    #[test]
    fn clients_with_the_same_rules_share_them() {
        let policy = Policy {
            entries: vec![Entry {
                whom: Whom::default(),
                rule: access_and_topic("read a/#", true).expect("a rule"),
            }],
            otherwise: Verdict::Deny,
        };
        let mut shared = Shared::default();
        let one = shared.intern(policy.rules_for(&who("a", "1"), None));
        let other = shared.intern(policy.rules_for(&who("b", "2"), None));
        assert!(Arc::ptr_eq(&one, &other));
    }

    #[test]
    fn sets_that_nobody_has_are_forgotten() {
        let mut shared = Shared::default();
        for n in 0..10 * Shared::SWEEP_MIN {
            let rule = access_and_topic(&format!("read {n}"), true).expect("a rule");
            let rules = rule.for_client(&who("a", "b")).into_iter().collect();
            shared.intern(Acl { rules, otherwise: Verdict::Deny });
        }
        assert!(shared.sets.len() <= Shared::SWEEP_MIN);
    }
}
