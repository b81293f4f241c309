//! What the limiter is asked to enforce: a limit, and whose counter it goes by.

use std::fmt;
use std::sync::Arc;

use crate::limit::Limit;
use crate::model::{KeyId, OrgId};

/// One limit that a request must pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) limit: Limit,
    pub(crate) subject: Subject,
    /// The route, or the limit by address, that it is of.
    pub(crate) route: Option<Arc<str>>,
    /// Whether it is called by a name of its own: as its route, or `default`.
    pub(crate) has_own_name: bool,
}

/// Whose requests a rule counts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    /// Those of a key.
    Key,
    /// Those of all keys of an organization.
    Org,
    /// Those of an address.
    Address,
}

impl Rule {
    pub(crate) fn new(limit: Limit, subject: Subject) -> Self {
        Self {
            limit,
            subject,
            route: None,
            has_own_name: false,
        }
    }

    /// What header fields and listings call it.
    pub(crate) fn name(&self) -> String {
        self.to_string()
    }

    /// Whether both go by one counter.
    pub(crate) fn is_counted_as(&self, other: &Self) -> bool {
        self.subject == other.subject
            && self.limit.shadow == other.limit.shadow
            && self.limit.period.is_counted_as(other.limit.period)
            && self.route == other.route
    }
}

/// Its name.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.has_own_name {
            return f.write_str(self.route.as_deref().unwrap_or("default"));
        }
        if let Some(route) = &self.route {
            write!(f, "{route} ")?;
        }
        match (&self.route, self.subject) {
            (_, Subject::Address) => f.write_str("ip ")?,
            (None, Subject::Org) => f.write_str("org ")?,
            _ => {}
        }
        f.write_str(&self.limit.name())
    }
}

/// Whose counters are kept together, under one lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SubjectId(u64);

impl SubjectId {
    /// Ids are counted up from 1; nobody gets here.
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

/// Adds a rule, unless a tighter one that is counted the same is there; a looser one makes way.
pub(crate) fn add_tightest(rules: &mut Vec<Rule>, rule: Rule) {
    match rules.iter_mut().find(|known| known.is_counted_as(&rule)) {
        Some(known) if rule.limit.amount < known.limit.amount => *known = rule,
        Some(_) => {}
        None => rules.push(rule),
    }
}
