//! Patterns of methods and paths.

use std::fmt;
use std::str::FromStr;

use super::methods::{Methods, invalid};
use super::readings::{self, Readings};
use crate::input::{InvalidInput, serde_as_text, try_from_text};
use crate::model::Method;

/// Maximum length of a pattern, in bytes.
const MAX_LEN: usize = 1_024;

/// The segment that matches any segment.
pub(super) const WILDCARD: &str = "*";

/// A pattern for requests: `[METHODS ]/PATH`, such as `/api`, `POST /api/orders` or `GET,HEAD
/// /files/*/meta`.
///
/// It covers its path and everything below it, by whole segments. `*` or `{name}` matches any one
/// segment. Methods are separated by commas; `GET` includes `HEAD`. At most 1,024 bytes. Patterns with
/// the same canonical text are equal.
///
/// ```
/// use keyguard::Pattern;
/// let pattern: Pattern = "PUT,DELETE /files/{id}/meta/".parse()?;
/// assert_eq!(pattern.to_string(), "PUT,DELETE /files/*/meta");
/// assert!("files".parse::<Pattern>().is_err()); // no `/`
/// assert!("/files*".parse::<Pattern>().is_err()); // a wildcard is a whole segment
/// # Ok::<(), keyguard::InvalidInput>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    methods: Methods,
    /// Without a trailing slash, unless it is `/`.
    path: Box<str>,
}

impl Pattern {
    /// The pattern that matches every request.
    pub(in crate::policy) fn root() -> Self {
        Self {
            methods: Methods::ALL,
            path: "/".into(),
        }
    }

    /// The segments; empty for `/`. [`WILDCARD`] matches any segment.
    pub(super) fn segments(&self) -> impl Iterator<Item = &str> {
        self.path.split('/').filter(|segment| !segment.is_empty())
    }

    /// Whether the pattern can match a path below a prefix, comparing the written forms.
    #[cfg(feature = "http")]
    pub(crate) fn may_match_below(&self, prefix: &str, ignore_case: bool) -> bool {
        let below = prefix.split('/').filter(|segment| !segment.is_empty());
        self.segments().zip(below).all(|(own, other)| {
            own == WILDCARD || own == other || (ignore_case && own.eq_ignore_ascii_case(other))
        })
    }

    /// The methods it matches. Unknown methods match every pattern, and `HEAD` matches `GET` (RFC
    /// 9110 §9.3.2).
    pub(super) fn methods(&self) -> Methods {
        let methods = self.methods.with(Method::Other);
        if methods.contains(Method::Get) {
            methods.with(Method::Head)
        } else {
            methods
        }
    }

    /// Whether every server reads a matching target as covered by this pattern: the method is
    /// listed, all readings of the path are covered, and no reading contains a possible dot
    /// segment.
    pub(crate) fn matches_surely(&self, target: &str, method: Method, ignore_case: bool) -> bool {
        let is_get = method == Method::Head && self.methods.contains(Method::Get);
        (is_get || self.methods.contains(method))
            && match readings::readings(target) {
                Readings::Plain(_) => true,
                Readings::Several(texts) => texts
                    .iter()
                    .all(|text| self.covers_reading(text, ignore_case) && stays_below(text)),
                Readings::Unreadable => false,
            }
    }

    /// Whether a reading begins with the segments of the pattern. Empty segments count.
    fn covers_reading(&self, text: &[u8], ignore_case: bool) -> bool {
        let Some(text) = text.strip_prefix(b"/") else {
            return false;
        };
        let mut found = text.split(|byte| *byte == b'/');
        self.segments().all(|wanted| {
            found.next().is_some_and(|segment| match wanted {
                WILDCARD => !segment.is_empty(),
                wanted if ignore_case => segment.eq_ignore_ascii_case(wanted.as_bytes()),
                wanted => segment == wanted.as_bytes(),
            })
        })
    }

    /// Whether it matches everything that `other` matches.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let mut segments = other.segments();
        let mut wanted = self.segments();
        self.methods().includes(other.methods())
            && wanted.all(|wanted| {
                let segment = segments.next();
                segment.is_some_and(|segment| wanted == WILDCARD || wanted == segment)
            })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.methods, self.path)
    }
}

impl FromStr for Pattern {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (methods, path) = methods_and_path(text)?;
        let mut canonical = String::with_capacity(path.len());
        for segment in segments(path) {
            canonical.push('/');
            canonical.push_str(if is_wildcard(segment) {
                WILDCARD
            } else {
                literal(segment)?
            });
        }
        if canonical.is_empty() {
            canonical.push('/');
        }
        Ok(Self {
            methods,
            path: canonical.into(),
        })
    }
}

/// Whether no server can interpret dots in the text as a parent directory: no two dots in a row and
/// no character that some servers map to a dot (`%u002e`, `．`).
fn stays_below(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else {
        return false;
    };
    let is_odd = |char: char| !char.is_ascii() && !char.is_alphanumeric();
    !["..", "%u", "%U"].iter().any(|odd| text.contains(odd)) && !text.contains(is_odd)
}

/// An exempt path: `[METHODS ]/PATH` without wildcards.
///
/// It matches that path only, byte for byte: `/health/` is not `/health`. The path must be plain,
/// so that no server reads it differently.
///
/// ```
/// use keyguard::ExactPath;
/// assert!("GET /health".parse::<ExactPath>().is_ok());
/// assert!("/health/*".parse::<ExactPath>().is_err());
/// assert!("/a/../health".parse::<ExactPath>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExactPath {
    methods: Methods,
    path: Box<str>,
}

impl ExactPath {
    /// Whether a request has this path and one of the methods.
    #[inline]
    pub(crate) fn matches(&self, target: &str, method: Method) -> bool {
        let after = target.as_bytes().strip_prefix(self.path.as_bytes());
        matches!(after, Some([] | [b'?', ..])) && self.methods.contains(method)
    }

    /// Whether it is the path of a pattern, with all of its methods.
    pub(in crate::policy) fn is_root_of(&self, pattern: &Pattern) -> bool {
        self.path == pattern.path && self.methods.includes(pattern.methods)
    }
}

impl fmt::Display for ExactPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.methods, self.path)
    }
}

impl FromStr for ExactPath {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (methods, path) = methods_and_path(text)?;
        if path.contains(['*', '{', '}']) {
            return Err(invalid("contains a wildcard; expected one literal path"));
        }
        for segment in segments(path) {
            literal(segment)?;
        }
        Ok(Self {
            methods,
            path: path.into(),
        })
    }
}

fn methods_and_path(text: &str) -> Result<(Methods, &str), InvalidInput> {
    if text.len() > MAX_LEN {
        return Err(invalid("is longer than 1,024 bytes"));
    }
    let (methods, path) = text.split_at(text.find('/').unwrap_or(text.len()));
    if path.is_empty() || !(methods.is_empty() || methods.ends_with(' ')) {
        return Err(invalid(
            "does not start with `/`; expected `/PATH` or `METHODS /PATH`, such as `POST /api`",
        ));
    }
    let methods = match methods {
        "" => Methods::ALL,
        names => Methods::parse(names)?,
    };
    Ok((methods, path))
}

/// Splits a path that begins with `/` into segments. A trailing slash adds none.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_suffix('/').unwrap_or(path).split('/').skip(1)
}

fn is_wildcard(segment: &str) -> bool {
    let name = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
    let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    segment == WILDCARD || name.is_some_and(|name| !name.is_empty() && name.chars().all(in_name))
}

/// Whether every server reads a segment literally.
fn literal(segment: &str) -> Result<&str, InvalidInput> {
    if segment.is_empty() {
        return Err(invalid(
            "contains an empty segment (`//`); expected one slash",
        ));
    }
    if matches!(segment, "." | "..") {
        return Err(invalid(
            "contains a segment `.` or `..`; expected the path it leads to",
        ));
    }
    if segment.ends_with('.') {
        return Err(invalid(
            "contains a segment that ends with a dot, which some servers remove; expected it without",
        ));
    }
    if segment.contains(['*', '{', '}']) {
        return Err(invalid(
            "contains a wildcard that is not `*` or `{name}` alone between two slashes",
        ));
    }
    match segment.chars().find(|c| !is_plain(*c)) {
        None => Ok(segment),
        Some(c) => Err(invalid(format!(
            "contains `{}`; expected ASCII letters, digits and -._~:@!$&'()+,=",
            c.escape_debug()
        ))),
    }
}

fn is_plain(c: char) -> bool {
    u8::try_from(c).is_ok_and(readings::is_plain_in_segment)
}

serde_as_text!(Pattern, ExactPath);
try_from_text!(Pattern, ExactPath);

#[cfg(test)]
mod tests {
    use super::*;

    fn problem<T: FromStr<Err = InvalidInput>>(text: &str) -> String {
        let Err(error) = text.parse::<T>() else {
            panic!("{text} is accepted")
        };
        assert_eq!(error.field(), "path");
        error.to_string()
    }

    #[test]
    fn patterns_display_canonically_and_parse_back() {
        for (text, shown) in [
            ("/", "/"),
            ("/api", "/api"),
            ("/api/", "/api"),
            ("POST /api/orders", "POST /api/orders"),
            ("HEAD, GET  /files/{id}/meta/", "GET,HEAD /files/*/meta"),
            ("GET,GET /*", "GET /*"),
            ("/v1/orders:cancel/@me", "/v1/orders:cancel/@me"),
        ] {
            let pattern: Pattern = text.parse().unwrap();
            assert_eq!(pattern.to_string(), shown);
            assert_eq!(shown.parse(), Ok(pattern.clone()));
            let json = serde_json::to_string(&pattern).unwrap();
            assert_eq!(json, format!("\"{shown}\""));
            assert_eq!(serde_json::from_str::<Pattern>(&json).unwrap(), pattern);
        }
        assert!(serde_json::from_str::<Pattern>("\"api\"").is_err());
    }

    #[cfg(feature = "http")]
    #[test]
    fn patterns_may_match_below_prefixes_of_themselves() {
        for (pattern, prefix, may) in [
            ("/api", "", true),
            ("/api", "/api", true),
            ("/api", "/api/v1", true),
            ("POST /api/v1", "/api", true),
            ("/*/v1", "/api", true),
            ("/*/v1", "/api/v2", false),
            ("/api", "/apiary", false),
            ("/api", "/API", false),
            ("/data", "/api", false),
            ("/", "/api", true),
        ] {
            let parsed: Pattern = pattern.parse().unwrap();
            assert_eq!(
                parsed.may_match_below(prefix, false),
                may,
                "{pattern} {prefix}"
            );
        }
        let api: Pattern = "/api".parse().unwrap();
        assert!(api.may_match_below("/API", true));
    }

    #[test]
    fn invalid_patterns_are_rejected_with_a_reason() {
        let long = format!("/{}", "a".repeat(MAX_LEN));
        for (text, reason) in [
            ("", "does not start with `/`"),
            ("api", "does not start with `/`"),
            ("GET", "does not start with `/`"),
            ("GET/api", "does not start with `/`"),
            ("GET api/x", "does not start with `/`"),
            (" /api", "names no method"),
            ("get /api", "unknown method"),
            ("GET, /api", "unknown method"),
            ("- /api", "unknown method"),
            ("GET POST /api", "unknown method"),
            ("//", "empty segment"),
            ("/a//b", "empty segment"),
            ("/a/../b", "`.` or `..`"),
            ("/.", "`.` or `..`"),
            ("/api./x", "ends with a dot"),
            ("/...", "ends with a dot"),
            ("/a*", "wildcard that is not"),
            ("/{}", "wildcard that is not"),
            ("/{*rest}", "wildcard that is not"),
            ("/a?b", "contains `?`"),
            ("/a%20b", "contains `%`"),
            ("/a;b", "contains `;`"),
            ("/caf\u{e9}", "contains `\u{e9}`"),
            ("/a\n", "contains `\\n`"),
            (&long, "longer than 1,024 bytes"),
        ] {
            let problem = problem::<Pattern>(text);
            assert!(problem.contains(reason), "{text}: {problem}");
        }
    }

    #[test]
    fn exact_paths_compare_bytes() {
        let health: ExactPath = "/health".parse().unwrap();
        assert!(health.matches("/health", Method::Other));
        assert!(health.matches("/health?a=/../b#c", Method::Get));
        for target in [
            "/health/",
            "/Health",
            "/health#",
            "/health;a",
            "/healthy",
            "/health/x",
            "//health",
            "/%68ealth",
            "health",
            "/x/../health",
            "",
            "/",
            "http://host/health",
            "/health%3F",
        ] {
            assert!(!health.matches(target, Method::Get), "{target}");
        }
        let slash: ExactPath = "/health/".parse().unwrap();
        assert_eq!(slash.to_string(), "/health/");
        assert!(slash.matches("/health/", Method::Get) && !slash.matches("/health", Method::Get));
        assert!("/".parse::<ExactPath>().unwrap().matches("/?", Method::Get));
    }

    #[test]
    fn exact_paths_match_their_methods() {
        let path: ExactPath = "OPTIONS,GET /login".parse().unwrap();
        assert_eq!(path.to_string(), "GET,OPTIONS /login");
        assert!(path.matches("/login", Method::Get) && path.matches("/login", Method::Options));
        assert!(!path.matches("/login", Method::Post) && !path.matches("/login", Method::Other));
    }

    #[test]
    fn exact_paths_have_no_wildcards() {
        for text in ["/*", "/files/{id}", "/a*b"] {
            assert!(problem::<ExactPath>(text).contains("contains a wildcard"));
        }
        for text in [
            "health", "/a//", "/a/..", "/health.", "/%61", "/a?b", "FETCH /a",
        ] {
            problem::<ExactPath>(text);
        }
    }
}
