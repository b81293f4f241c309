//! The path of a request, as it is matched and as it is stored.

mod matcher;
mod methods;
mod pattern;
mod readings;
#[cfg(test)]
mod spellings;

pub(crate) use matcher::Matcher;
pub use pattern::{ExactPath, Pattern};
use readings::{Readings, readings};

/// The longest path that is stored, in bytes; a longer one is cut.
pub(crate) const MAX_STORED_LEN: usize = 256;

/// The path without its query. Queries carry secrets and are never looked at nor stored.
pub(crate) fn without_query(target: &str) -> &str {
    let end = target.bytes().position(|byte| matches!(byte, b'?' | b'#'));
    &target[..end.unwrap_or(target.len())]
}

/// The path as it is stored: without its query and at most [`MAX_STORED_LEN`] bytes long.
pub(crate) fn stored(target: &str) -> &str {
    cut(without_query(target))
}

fn cut(path: &str) -> &str {
    let mut end = path.len().min(MAX_STORED_LEN);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    &path[..end]
}

/// The path as locks are kept by: decoded once, without empty and dot segments, and cut as when it
/// is stored. Different ways to write a path are one path.
pub(crate) fn normalised(target: &str) -> String {
    tidied(&percent_decoded(without_query(target).as_bytes(), |_| true))
}

/// Whether a server might read a target as the path `wanted`, which is [`normalised`].
pub(crate) fn may_mean(target: &str, wanted: &str, ignore_case: bool) -> bool {
    let is_wanted = |reading: &[u8]| match (tidied(reading), ignore_case) {
        (path, true) => path.eq_ignore_ascii_case(wanted),
        (path, false) => path == wanted,
    };
    match readings(target) {
        Readings::Plain(path) => is_wanted(path.as_bytes()),
        Readings::Several(texts) => texts.iter().any(|text| is_wanted(text)),
        Readings::Unreadable => true,
    }
}

/// A decoded path without empty and dot segments, cut as when it is stored.
fn tidied(decoded: &[u8]) -> String {
    let decoded = String::from_utf8_lossy(decoded);
    let mut segments = Vec::new();
    for segment in decoded.split(['/', '\\']) {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    cut(&format!("/{}", segments.join("/"))).to_owned()
}

/// `%` and two hexadecimal digits become the byte they stand for (RFC 3986 §2.1), if it is one of
/// the `wanted`.
fn percent_decoded(path: &[u8], wanted: impl Fn(u8) -> bool) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [byte, after @ ..] = rest {
        let (byte, after) = match escaped(rest) {
            Some(byte) if wanted(byte) => (byte, &rest[3..]),
            _ => (*byte, after),
        };
        decoded.push(byte);
        rest = after;
    }
    decoded
}

/// The byte that an escape at the start of `text` stands for.
fn escaped(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else {
        return None;
    };
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    u8::try_from(16 * digit(high)? + digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_dropped() {
        assert_eq!(without_query("/api/data?key=secret"), "/api/data");
        assert_eq!(without_query("/api#x?y"), "/api");
        assert_eq!(without_query("?a"), "");
    }

    #[test]
    fn ways_to_write_a_path_are_one_path() {
        for target in [
            "/a/b",
            "//a/./b/",
            "/x/../a/b?q",
            "/%61/b",
            "a\\b",
            "/../a/b",
        ] {
            assert_eq!(normalised(target), "/a/b", "{target}");
        }
        assert_eq!(normalised("/a%2"), "/a%2");
        assert_eq!(normalised("/%ff"), "/\u{fffd}");
        assert_eq!(normalised("/a%3fb"), "/a?b");
        assert_eq!(normalised(""), "/");
        assert!(normalised(&"/é".repeat(300)).len() <= MAX_STORED_LEN);
    }

    #[test]
    fn a_target_may_mean_each_of_its_readings() {
        for target in [
            "/login",
            "/login/",
            "/login?x",
            "//login",
            "/./login",
            "/%6cogin",
            "/%256cogin",
            "/login;x",
            "/a/..;/login",
            "/login%00.png",
            "http://host/login",
            "/x\\..\\login",
        ] {
            assert!(may_mean(target, "/login", false), "{target}");
        }
        for target in ["/logins", "/login/x", "/", "/LOGIN", "/a?/login"] {
            assert!(!may_mean(target, "/login", false), "{target}");
        }
        assert!(may_mean("/LOG%49N", "/login", true));
        let unreadable = format!("/%{}61", "25".repeat(99));
        assert!(may_mean(&unreadable, "/login", false));
    }

    #[test]
    fn a_long_path_is_cut_at_a_character() {
        let path = format!("{}é?q", "a".repeat(MAX_STORED_LEN - 1));
        assert_eq!(stored(&path), "a".repeat(MAX_STORED_LEN - 1));
    }
}
