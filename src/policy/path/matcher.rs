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
#[derive(Clone, Debug)]
pub(crate) struct Matcher {
    root: Node,
    ignore_case: bool,
}

/// The patterns that begin with the same segments.
#[derive(Clone, Debug)]
struct Node {
    /// Patterns that end here.
    ends: Box<[(u16, Methods)]>,
    literals: Literals,
    wildcard: Option<Box<Node>>,
}

/// The patterns that continue with a literal segment.
#[derive(Clone, Debug)]
enum Literals {
    None,
    /// All continue with the same segments, which are separated by slashes.
    Same(Box<[u8]>, Box<Node>),
    /// By the next segment.
    Several(HashMap<Box<[u8]>, Node, RandomState>),
}

/// A pattern as seen from a node: its remaining segments, its index and its methods.
#[derive(Clone, Copy)]
struct Rest<'a> {
    segments: &'a [String],
    end: (u16, Methods),
}

impl Matcher {
    /// `ignore_case` is for servers that treat `/API` as `/api`; ASCII only.
    pub(crate) fn new<'a>(
        patterns: impl IntoIterator<Item = &'a Pattern>,
        ignore_case: bool,
    ) -> Self {
        let segment = |segment: &str| match ignore_case {
            true => segment.to_ascii_lowercase(),
            false => segment.to_owned(),
        };
        let split =
            |pattern: &Pattern| (pattern.segments().map(segment).collect(), pattern.methods());
        let patterns: Vec<(Vec<String>, Methods)> = patterns.into_iter().map(split).collect();
        let rests = patterns
            .iter()
            .enumerate()
            .map(|(index, (segments, methods))| Rest {
                segments,
                end: (u16::try_from(index).unwrap_or(u16::MAX), *methods),
            });
        Self {
            root: Node::new(rests),
            ignore_case,
        }
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
    fn new<'a>(rests: impl IntoIterator<Item = Rest<'a>>) -> Self {
        let mut ends = Vec::new();
        let mut wildcards = Vec::new();
        let mut literals: HashMap<&str, Vec<Rest<'a>>, RandomState> = HashMap::default();
        for Rest { segments, end } in rests {
            let Some((first, segments)) = segments.split_first() else {
                ends.push(end);
                continue;
            };
            let rests = match first.as_str() {
                WILDCARD => &mut wildcards,
                literal => literals.entry(literal).or_default(),
            };
            rests.push(Rest { segments, end });
        }
        Self {
            ends: ends.into(),
            literals: Literals::new(literals),
            wildcard: (!wildcards.is_empty()).then(|| Box::new(Self::new(wildcards))),
        }
    }

    /// Adds the patterns of this node and its descendants that cover `path`, the rest of the path
    /// below this node. Empty segments count, except at the end.
    fn collect(&self, path: &[u8], method: Method, matched: &mut Matched) {
        let (mut node, mut path) = (self, path);
        loop {
            let ends = node.ends.iter();
            for (index, _) in ends.filter(|(_, methods)| methods.contains(method)) {
                matched.push(*index);
            }
            if path.is_empty() {
                return;
            }
            let literal = node.literals.next(path);
            (node, path) = match (literal, node.wildcard.as_deref()) {
                (Some(next), None) => next,
                (None, Some(wildcard)) => (wildcard, split_segment(path).1),
                (Some((node, below)), Some(wildcard)) => {
                    node.collect(below, method, matched);
                    (wildcard, split_segment(path).1)
                }
                (None, None) => return,
            };
        }
    }
}

impl Literals {
    fn new(mut rests: HashMap<&str, Vec<Rest<'_>>, RandomState>) -> Self {
        if rests.len() > 1 {
            let nodes = rests.into_iter();
            let nodes = nodes.map(|(segment, rests)| (segment.as_bytes().into(), Node::new(rests)));
            return Self::Several(nodes.collect());
        }
        match rests.drain().next() {
            None => Self::None,
            Some((segment, rests)) => Self::same(segment.as_bytes(), Node::new(rests)),
        }
    }

    /// Returns the node that a path continues with, and the rest of the path below it.
    #[inline]
    fn next<'p>(&self, path: &'p [u8]) -> Option<(&Node, &'p [u8])> {
        match self {
            Self::None => None,
            Self::Same(segments, node) => Some((&**node, below(path, segments)?)),
            Self::Several(nodes) => {
                let (segment, below) = split_segment(path);
                Some((nodes.get(segment)?, below))
            }
        }
    }

    /// Joins the segment with those that all patterns of the node continue with.
    fn same(segment: &[u8], node: Node) -> Self {
        match node.literals {
            Self::Same(segments, below) if node.ends.is_empty() && node.wildcard.is_none() => {
                Self::Same([segment, &segments].join(&b'/').into(), below)
            }
            _ => Self::Same(segment.into(), Box::new(node)),
        }
    }
}

/// The rest of a path that begins with the segments.
#[inline]
fn below<'p>(path: &'p [u8], segments: &[u8]) -> Option<&'p [u8]> {
    match path.strip_prefix(segments)? {
        [b'/', below @ ..] => Some(below),
        [] => Some(&[]),
        _ => None,
    }
}

/// The first segment of a path, and the rest.
#[inline]
fn split_segment(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().position(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (path, &[]),
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
