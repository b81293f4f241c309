//! Names of keys in Redis.
//!
//! All counters of a group share a hash tag, so that a cluster keeps them on one node: those of an
//! organization with its keys, or those of an address.

use std::fmt::Write;

use super::super::Subjects;
use crate::counter::{Events, Rule, Subject};
use crate::limit::{Limit, Period};
use crate::lockout::AuthFailure;
use crate::model::Secret;

pub(super) struct Names {
    /// Separates deployments on one server.
    space: String,
    /// Key of the hash that stands for an address.
    ip_hash_key: [u8; 32],
}

impl Names {
    pub(super) fn new(secret: &Secret) -> Self {
        Self {
            space: blake3::Hash::from_bytes(secret.fingerprint().0).to_hex()[..8].to_owned(),
            ip_hash_key: secret.ip_hash_key(),
        }
    }

    /// The channel that announces new room in a group. The script derives it from its keys.
    pub(super) fn channel(&self) -> String {
        format!("kg:{}", self.space)
    }

    /// Returns the common prefix of the counters of a group: its hash tag.
    pub(super) fn group(&self, subjects: Subjects<'_>) -> String {
        match subjects {
            Subjects::Key(sets) => format!("{{kg:{}:o{}}}:", self.space, sets.org_id.0),
            Subjects::Address(ip_key) => {
                let text = ip_key.to_string();
                let hash = blake3::keyed_hash(&self.ip_hash_key, text.as_bytes());
                format!("{{kg:{}:n{}}}:", self.space, &hash.to_hex()[..24])
            }
        }
    }
}

/// Returns the name of the counter of a rule. Names that operators choose come last, so that no two
/// counters share a name.
pub(super) fn counter_name(group: &str, subjects: Subjects<'_>, rule: &Rule) -> String {
    let mut name = String::with_capacity(group.len() + 32);
    name.push_str(group);
    // Writing to a string does not fail.
    let _ = match (subjects, rule.subject) {
        (Subjects::Address(_), _) => write!(name, "ip"),
        (Subjects::Key(_), Subject::Org) => write!(name, "org"),
        (Subjects::Key(sets), _) => write!(name, "{}", sets.key.id().to_bits()),
    };
    write_limit(&mut name, rule.limit);
    let _ = match &rule.events {
        Events::AllRequests => Ok(()),
        Events::Route(route) => write!(name, ":r:{route}"),
        Events::IpLimit(limit) => write!(name, ":l:{limit}"),
        Events::AuthFailures(AuthFailure::BadKey) => write!(name, ":bad_keys"),
        Events::AuthFailures(AuthFailure::MissingKey) => write!(name, ":missing_keys"),
    };
    name
}

/// Returns the name of the set of all counter names of an address.
pub(super) fn index_name(group: &str) -> String {
    format!("{group}all")
}

/// Returns the name of the key in a group, as [`group_of`] returns it, that shows that writes succeed.
pub(super) fn probe_name(group: &str) -> String {
    format!("{group}}}:probe")
}

/// Returns the group in the name of a counter.
pub(super) fn group_of(name: &str) -> &str {
    name.split_once('}').map_or(name, |(group, _)| group)
}

/// Writes one part of a name, which contains no colon.
fn write_limit(name: &mut String, limit: Limit) {
    name.push_str(if limit.shadow { ":shadow-" } else { ":" });
    let _ = match limit.period {
        Period::Sliding(length) => write!(name, "w{}", length.nanos()),
        Period::Day => write!(name, "d"),
        Period::Month => write!(name, "m"),
        Period::Credits(_) => write!(name, "c"),
        Period::Concurrent => write!(name, "s"),
    };
}
