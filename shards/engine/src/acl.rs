//! What one client may publish and subscribe to: rules in order, the first match decides.
//!
//! Pure matching only. Where rules come from, and what `%u` and `%c` stood for, is settled in
//! `src/auth` before they get here, so a rule holds a plain Topic Filter.

use octopus_mqtt::{TopicFilter, TopicName};

/// The rules that hold for one client. Scope: connection; shared where clients have the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Acl {
    pub rules: Vec<Rule>,
    /// What happens when no rule matches.
    pub otherwise: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    pub verdict: Verdict,
    pub action: Action,
    /// A valid Topic Filter; what does not parse never matches.
    pub filter: Box<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Publish,
    Subscribe,
    Both,
}

impl Acl {
    /// May the client publish to `topic`? Cost: linear in the rules.
    pub fn allows_publish(&self, topic: TopicName<'_>) -> bool {
        self.decide(|rule| {
            rule.action != Action::Subscribe
                && TopicFilter::parse(&rule.filter).is_ok_and(|filter| filter.matches(topic))
        })
    }

    /// May the client subscribe with `filter`? An allowing rule must cover all that the filter
    /// can match; a denying rule needs only to overlap with it, so that no wildcard reaches
    /// around a denial.
    pub fn allows_subscribe(&self, filter: TopicFilter<'_>) -> bool {
        let wanted = filter.shared().map_or(filter, |(_, inner)| inner);
        self.decide(|rule| {
            if rule.action == Action::Publish {
                return false;
            }
            match rule.verdict {
                Verdict::Allow => covers(&rule.filter, wanted.as_str()),
                Verdict::Deny => overlaps(&rule.filter, wanted.as_str()),
            }
        })
    }

    fn decide(&self, matches: impl Fn(&Rule) -> bool) -> bool {
        let verdict = self.rules.iter().find(|rule| matches(rule)).map(|rule| rule.verdict);
        verdict.unwrap_or(self.otherwise) == Verdict::Allow
    }
}

/// Whether every topic that `inner` matches is matched by `outer`.
fn covers(outer: &str, inner: &str) -> bool {
    if starts_wild(outer) && inner.starts_with('$') {
        return false;
    }
    let (mut outer, mut inner) = (outer.split('/'), inner.split('/'));
    loop {
        match (outer.next(), inner.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

/// Whether some topic is matched by both.
fn overlaps(one: &str, other: &str) -> bool {
    let dollar = |a: &str, b: &str| starts_wild(a) && b.starts_with('$');
    if dollar(one, other) || dollar(other, one) {
        return false;
    }
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    loop {
        match (one.next(), other.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some(a), Some(b)) if a == b || a == "+" || b == "+" => {}
            _ => return false,
        }
    }
}

fn starts_wild(filter: &str) -> bool {
    filter.starts_with(['#', '+'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(otherwise: Verdict, rules: &[(Verdict, Action, &str)]) -> Acl {
        let rules = rules
            .iter()
            .map(|&(verdict, action, filter)| Rule { verdict, action, filter: filter.into() })
            .collect();
        Acl { rules, otherwise }
    }

    fn publish(acl: &Acl, topic: &str) -> bool {
        acl.allows_publish(TopicName::parse(topic).expect("a topic of this test"))
    }

    fn subscribe(acl: &Acl, filter: &str) -> bool {
        acl.allows_subscribe(TopicFilter::parse(filter).expect("a filter of this test"))
    }

    #[test]
    fn the_first_matching_rule_decides() {
        use Action::*;
        use Verdict::*;
        let acl = acl(Deny, &[(Deny, Publish, "a/secret"), (Allow, Both, "a/#")]);
        assert!(publish(&acl, "a/b"));
        assert!(!publish(&acl, "a/secret"));
        assert!(subscribe(&acl, "a/secret"), "the denial is for publishing only");
        assert!(!publish(&acl, "b"));
    }

    #[test]
    fn a_wildcard_does_not_reach_around_a_denial() {
        use Action::*;
        use Verdict::*;
        let acl = acl(Allow, &[(Deny, Subscribe, "secret/+")]);
        for filter in ["#", "secret/#", "+/x", "secret/x", "$share/g/secret/+"] {
            assert!(!subscribe(&acl, filter), "{filter}");
        }
        for filter in ["open/#", "secret", "secret/a/b"] {
            assert!(subscribe(&acl, filter), "{filter}");
        }
    }

    #[test]
    fn an_allowance_must_cover_the_whole_filter() {
        use Action::*;
        use Verdict::*;
        let acl = acl(Deny, &[(Allow, Subscribe, "a/+/c")]);
        assert!(subscribe(&acl, "a/b/c") && subscribe(&acl, "a/+/c"));
        assert!(!subscribe(&acl, "a/#") && !subscribe(&acl, "+/b/c") && !subscribe(&acl, "a/+/+"));
    }

    #[test]
    fn wildcards_do_not_cover_dollar_topics() {
        let acl = acl(Verdict::Deny, &[(Verdict::Allow, Action::Both, "#")]);
        assert!(!subscribe(&acl, "$SYS/#") && !publish(&acl, "$SYS/x"));
    }
}
