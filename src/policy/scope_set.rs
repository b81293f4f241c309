//! Sets of scopes, so that a decision compares numbers in place of texts.

use crate::model::Scope;

/// The numbers of the scopes that the routes of a policy require. Only the first 32 have one.
#[derive(Debug)]
pub(super) struct ScopeNumbers {
    policy: u32,
    scopes: Vec<Scope>,
}

/// A set of scopes that are numbered by one policy, with bit `1 << number` for each.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ScopeSet {
    /// The id of the policy.
    policy: u32,
    bits: u32,
}

impl ScopeNumbers {
    pub(super) fn new<'a>(policy: u32, required: impl IntoIterator<Item = &'a Scope>) -> Self {
        let mut scopes = Vec::new();
        for scope in required {
            if scopes.len() < u32::BITS as usize && !scopes.contains(scope) {
                scopes.push(scope.clone());
            }
        }
        Self { policy, scopes }
    }

    /// The set of all `scopes` that have a number.
    pub(super) fn set(&self, scopes: &[Scope]) -> ScopeSet {
        let numbered = (0..).zip(&self.scopes);
        let contained = numbered.filter(|(_, scope)| scopes.contains(scope));
        ScopeSet {
            policy: self.policy,
            bits: contained.fold(0, |bits, (number, _)| bits | 1 << number),
        }
    }

    /// The set of `scopes`; `None` unless all have a number.
    pub(super) fn whole_set(&self, scopes: &[Scope]) -> Option<ScopeSet> {
        let all_have = scopes.iter().all(|scope| self.scopes.contains(scope));
        all_have.then(|| self.set(scopes))
    }
}

impl ScopeSet {
    /// Whether it contains all scopes of another set; `None` if different policies number them.
    #[inline]
    pub(crate) fn includes(self, other: Self) -> Option<bool> {
        (self.policy == other.policy).then_some(other.bits & !self.bits == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(texts: &[&str]) -> Vec<Scope> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn sets_of_one_policy_include_each_other_by_their_scopes() {
        let numbers = ScopeNumbers::new(1, &scopes(&["read", "write", "read"]));
        let held = numbers.set(&scopes(&["other", "write"]));
        for (required, expected) in [
            (&[][..], true),
            (&["write"], true),
            (&["read"], false),
            (&["read", "write"], false),
        ] {
            let required = numbers.whole_set(&scopes(required)).unwrap();
            assert_eq!(held.includes(required), Some(expected));
        }
        assert!(numbers.whole_set(&scopes(&["other"])).is_none());
    }

    #[test]
    fn sets_of_different_policies_are_not_compared() {
        let [one, two] = [1, 2].map(|policy| ScopeNumbers::new(policy, &scopes(&["read"])));
        let read = scopes(&["read"]);
        assert_eq!(one.set(&read).includes(two.set(&read)), None);
    }

    #[test]
    fn scopes_beyond_the_numbers_have_no_set() {
        let many: Vec<String> = (0..40).map(|number| format!("scope-{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let numbers = ScopeNumbers::new(1, &scopes(&many));
        assert!(numbers.whole_set(&scopes(&many[..32])).is_some());
        assert!(numbers.whole_set(&scopes(&many[32..])).is_none());
    }
}
