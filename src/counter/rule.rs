//! Rules: limits with the subject and the events that they count.

use smallvec::SmallVec;

use crate::counter::RuleName;
use crate::limit::{Limit, Period, WindowLength};
use crate::lockout::AuthFailure;
use crate::model::{KeyId, OrgId};

/// A limit with the subject and the events that it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) limit: Limit,
    pub(crate) subject: Subject,
    pub(crate) events: Events,
    /// Whether this is the per-minute limit of a key, which is named `default`.
    pub(crate) is_default: bool,
}

/// The kind of subject that a rule limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Key,
    /// All keys of an organization together.
    Org,
    Address,
}

/// The events that a rule counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Events {
    /// All requests of the subject.
    AllRequests,
    /// Requests that match the route of this name.
    Route(RuleName),
    /// Requests that are checked against the [`IpLimit`](crate::IpLimit) of this name.
    IpLimit(RuleName),
    AuthFailures(AuthFailure),
}

impl Events {
    #[inline(always)]
    pub(crate) fn is_all_requests(&self) -> bool {
        matches!(self, Self::AllRequests)
    }
}

impl Rule {
    pub(crate) fn new(limit: Limit, subject: Subject) -> Self {
        Self {
            limit,
            subject,
            events: Events::AllRequests,
            is_default: false,
        }
    }

    /// The name in header fields and listings.
    pub(crate) fn name(&self) -> String {
        let mut name = String::new();
        self.push_name(&mut name);
        name
    }

    /// Appends the name to a text.
    pub(crate) fn push_name(&self, text: &mut String) {
        match (&self.events, self.subject) {
            (Events::IpLimit(name), _) => return text.push_str(name),
            (Events::AuthFailures(AuthFailure::BadKey), _) => return text.push_str("bad_keys"),
            (Events::AuthFailures(AuthFailure::MissingKey), _) => {
                return text.push_str("missing_keys");
            }
            (Events::AllRequests, _) if self.is_default => return text.push_str("default"),
            (Events::Route(name), Subject::Address) => text.extend([&**name, " ip "]),
            (Events::Route(name), _) => text.extend([&**name, " "]),
            (Events::AllRequests, Subject::Org) => text.push_str("org "),
            (Events::AllRequests, Subject::Address) => text.push_str("ip "),
            (Events::AllRequests, Subject::Key) => {}
        }
        text.push_str(&self.limit.name());
    }

    /// Returns the rule as a plain one, if it is one.
    #[inline(always)]
    pub(crate) fn plain(&self) -> Option<PlainRule> {
        match self.limit.period {
            Period::Sliding(length) if !self.limit.shadow && self.events.is_all_requests() => {
                Some(PlainRule {
                    length,
                    amount: self.limit.amount.get(),
                })
            }
            _ => None,
        }
    }

    /// Whether both rules use the same counter.
    pub(crate) fn is_counted_as(&self, other: &Self) -> bool {
        self.subject == other.subject
            && self.limit.shadow == other.limit.shadow
            && self.limit.period.is_counted_as(other.limit.period)
            && self.events == other.events
    }
}

/// The window of an enforced limit on all requests, in a quarter of the space of a [`Rule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlainRule {
    pub(crate) length: WindowLength,
    pub(crate) amount: u64,
}

/// The rules of a key and of its organization if all are plain; else none.
#[derive(Debug, Default)]
pub(crate) struct PlainRules {
    /// The number of rules of the key, which come first.
    of_key: usize,
    all: SmallVec<[PlainRule; 1]>,
}

impl PlainRules {
    /// Takes over the order of the rules.
    pub(crate) fn of(rules: &[Rule]) -> Self {
        let of_key = rules.iter().take_while(|rule| rule.subject == Subject::Key);
        let of_key = of_key.count();
        let is_of_org = |rule: &Rule| rule.subject == Subject::Org;
        let all = rules.iter().map(Rule::plain).collect::<Option<_>>();
        match all {
            Some(all) if rules[of_key..].iter().all(is_of_org) => Self { of_key, all },
            _ => Self::default(),
        }
    }

    #[inline(always)]
    pub(crate) fn all(&self) -> &[PlainRule] {
        &self.all
    }

    /// The rules of the key, and those of its organization.
    #[inline(always)]
    pub(crate) fn by_subject(&self) -> (&[PlainRule], &[PlainRule]) {
        self.all.split_at(self.of_key)
    }
}

/// Identifies a [`CounterSet`](crate::limiter::CounterSet), that of a key or of an organization.
/// Addresses are identified by their [`IpKey`](crate::net::IpKey).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SubjectId(u64);

impl SubjectId {
    /// Marks organizations. Ids are counted up from 1 and never reach this bit.
    const ORG: u64 = 1 << 63;

    pub(crate) const fn key(id: KeyId) -> Self {
        Self(id.0 & !Self::ORG)
    }

    pub(crate) const fn org(id: OrgId) -> Self {
        Self(id.0 | Self::ORG)
    }

    pub(crate) const fn to_bits(self) -> u64 {
        self.0
    }

    #[cfg_attr(not(feature = "cli"), allow(dead_code))]
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

/// Adds a rule. Of rules that use the same counter, only the tightest is kept.
pub(crate) fn add_tightest(rules: &mut Vec<Rule>, rule: Rule) {
    match rules.iter_mut().find(|known| known.is_counted_as(&rule)) {
        Some(known) if rule.limit.amount < known.limit.amount => *known = rule,
        Some(_) => {}
        None => rules.push(rule),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(limit: &str, subject: Subject) -> Rule {
        Rule::new(limit.parse().unwrap(), subject)
    }

    #[test]
    fn plain_rules_keep_their_order_and_subjects() {
        let rules = [
            rule("5/min", Subject::Key),
            rule("9/s", Subject::Key),
            rule("7/h", Subject::Org),
        ];
        let plain = PlainRules::of(&rules);
        let amounts =
            |rules: &[PlainRule]| rules.iter().map(|rule| rule.amount).collect::<Vec<_>>();
        let (of_key, of_org) = plain.by_subject();
        assert_eq!((amounts(of_key), amounts(of_org)), (vec![5, 9], vec![7]));
        assert_eq!(amounts(plain.all()), [5, 9, 7]);
    }

    #[test]
    fn rules_are_plain_only_together() {
        let window = rule("5/min", Subject::Key);
        let of_route = Rule {
            events: Events::Route("api".into()),
            ..rule("6/min", Subject::Key)
        };
        let others = ["5 daily", "5/h shadow", "5 concurrent", "5 credits"];
        let others = others.map(|limit| rule(limit, Subject::Key));
        for other in others.into_iter().chain([of_route]) {
            assert_eq!(PlainRules::of(&[window.clone(), other]).all(), []);
        }
        // Rules of the organization come last.
        let of_org = rule("7/h", Subject::Org);
        assert_eq!(PlainRules::of(&[of_org, window]).all(), []);
    }
}
