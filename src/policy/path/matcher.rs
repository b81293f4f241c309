//! A trie of patterns.

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use super::methods::Methods;
use super::pattern::{Pattern, WILDCARD};
use super::readings::{Readings, readings};
use crate::model::Method;

/// Indexes of patterns, ascending and unique.
pub(crate) type Matched = SmallVec<[u16; 4]>;

/// An ordered list of at most 65,536 patterns; further ones share the last index.
///
/// Patterns form a trie of segments, so a look-up takes one step per segment of the target,
/// regardless of the number of patterns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Matcher {
    root: Node,
    ignore_case: bool,
}

/// The patterns that begin with the same segments.
#[derive(Clone, Debug, Default)]
struct Node {
    /// Patterns that end here.
    ends: SmallVec<[(u16, Methods); 2]>,
    literals: HashMap<Box<[u8]>, Node, RandomState>,
    wildcard: Option<Box<Node>>,
}

impl Matcher {
    /// `ignore_case` is for servers that treat `/API` as `/api`; ASCII only.
    pub(crate) fn new<'a>(
        patterns: impl IntoIterator<Item = &'a Pattern>,
        ignore_case: bool,
    ) -> Self {
        let mut matcher = Self {
            ignore_case,
            ..Self::default()
        };
        for (index, pattern) in patterns.into_iter().enumerate() {
            let index = u16::try_from(index).unwrap_or(u16::MAX);
            let node = pattern.segments().fold(&mut matcher.root, |node, segment| {
                node.child(segment, ignore_case)
            });
            node.ends.push((index, pattern.methods()));
        }
        matcher
    }

    /// The patterns that match any reading of the target; `None` if it has too many readings.
    pub(crate) fn matching(&self, target: &str, method: Method) -> Option<Matched> {
        let mut matched = Matched::new();
        match readings(target) {
            Readings::Plain(path) => self.read(path.as_bytes(), method, &mut matched),
            Readings::Several(texts) => {
                for text in &texts {
                    self.read(text, method, &mut matched);
                }
            }
            Readings::Unreadable => return None,
        }
        Some(matched)
    }

    /// Adds the patterns that cover one reading.
    #[inline]
    fn read(&self, path: &[u8], method: Method, matched: &mut Matched) {
        if self.ignore_case && path.iter().any(u8::is_ascii_uppercase) {
            let mut lower = SmallVec::<[u8; 256]>::from_slice(path);
            lower.make_ascii_lowercase();
            self.root.collect(below_root(&lower), method, matched);
        } else {
            self.root.collect(below_root(path), method, matched);
        }
        if matched.len() > 1 {
            matched.sort_unstable();
            matched.dedup();
        }
    }
}

/// A reading without a leading slash also counts with one.
fn below_root(path: &[u8]) -> &[u8] {
    path.strip_prefix(b"/").unwrap_or(path)
}

impl Node {
    fn child(&mut self, segment: &str, ignore_case: bool) -> &mut Self {
        if segment == WILDCARD {
            return self.wildcard.get_or_insert_default();
        }
        let mut segment = segment.as_bytes().to_vec();
        if ignore_case {
            segment.make_ascii_lowercase();
        }
        self.literals.entry(segment.into()).or_default()
    }

    #[inline]
    fn literal(&self, segment: &[u8]) -> Option<&Self> {
        // Most rules share their first segments, and comparing is cheaper than hashing.
        if self.literals.len() == 1 {
            let (only, node) = self.literals.iter().next()?;
            return (**only == *segment).then_some(node);
        }
        self.literals.get(segment)
    }

    /// Adds the patterns of this node and its descendants that cover `path`, the rest of the path
    /// below this node. Empty segments count, except at the end.
    fn collect(&self, path: &[u8], method: Method, matched: &mut Matched) {
        for (index, methods) in &self.ends {
            if methods.contains(method) {
                matched.push(*index);
            }
        }
        if path.is_empty() || (self.literals.is_empty() && self.wildcard.is_none()) {
            return;
        }
        let slash = path.iter().position(|byte| *byte == b'/');
        let (segment, below) = match slash {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (path, &[][..]),
        };
        if let Some(node) = self.literal(segment) {
            node.collect(below, method, matched);
        }
        if let Some(node) = &self.wildcard {
            node.collect(below, method, matched);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matching(patterns: &[&str], target: &str, method: Method) -> Vec<u16> {
        let patterns: Vec<Pattern> = patterns.iter().map(|text| text.parse().unwrap()).collect();
        Matcher::new(&patterns, false)
            .matching(target, method)
            .unwrap()
            .to_vec()
    }

    #[test]
    fn matches_are_ordered() {
        let patterns = [
            "/api/*/x",
            "/b",
            "/api",
            "/",
            "/api/a",
            "/api",
            "/*/a",
            "/api/a/x/y",
        ];
        assert_eq!(
            matching(&patterns, "/api/a/x", Method::Get),
            [0, 2, 3, 4, 5, 6]
        );
        assert_eq!(matching(&patterns, "/b/a", Method::Get), [1, 3, 6]);
        assert_eq!(matching(&patterns, "/c", Method::Get), [3]);
        assert_eq!(matching(&["/a", "/b"], "/c", Method::Get), [0; 0]);
        assert_eq!(matching(&[], "/%2f", Method::Get), [0; 0]);
    }

    #[test]
    fn readings_may_match_different_patterns() {
        let patterns = ["/public", "/admin", "/x"];
        let target = "/public/..;/admin";
        assert_eq!(matching(&patterns, target, Method::Get), [0, 1]);
    }

    #[test]
    fn an_unreadable_target_cannot_be_matched() {
        let long = format!("/{}", "é".repeat(20_000));
        for patterns in [&[][..], &["/a".parse().unwrap()]] {
            let matcher = Matcher::new(patterns, false);
            assert_eq!(matcher.matching(&long, Method::Get), None);
        }
    }

    #[test]
    fn a_wildcard_is_one_segment() {
        let meta = &["/files/*/meta"];
        for target in ["/files/a/meta", "/files/a/meta/b", "/files/%2e%2e%2e/meta/"] {
            assert_eq!(matching(meta, target, Method::Get), [0], "{target}");
        }
        for target in ["/files/meta", "/files/a/b/meta", "/files/a", "/files/"] {
            assert_eq!(matching(meta, target, Method::Get), [0; 0], "{target}");
        }
        assert_eq!(matching(&["/files/{id}"], "/files/", Method::Get), [0; 0]);
    }

    #[test]
    fn patterns_match_their_methods_and_unknown_ones() {
        let patterns = ["POST,PUT /a", "/a", "GET /a/b"];
        assert_eq!(matching(&patterns, "/a/b", Method::Put), [0, 1]);
        assert_eq!(matching(&patterns, "/a/b", Method::Get), [1, 2]);
        assert_eq!(matching(&patterns, "/a/b", Method::Other), [0, 1, 2]);
    }
}
