//! Rules: limits with the subject and the events that they count.

use crate::counter::RuleName;
use crate::limit::Limit;
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

    /// Whether both rules use the same counter.
    pub(crate) fn is_counted_as(&self, other: &Self) -> bool {
        self.subject == other.subject
            && self.limit.shadow == other.limit.shadow
            && self.limit.period.is_counted_as(other.limit.period)
            && self.events == other.events
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
