//! Request paths: patterns, readings, and the stored form.

mod matcher;
mod methods;
mod pattern;
mod readings;
#[cfg(test)]
mod spellings;

pub(crate) use matcher::Matcher;
pub use pattern::{ExactPath, Pattern};
use readings::{Readings, readings};

use crate::model::key_words::path_without_keys;

/// Maximum length of a stored path, in bytes. Longer paths are cut.
pub(crate) const MAX_STORED_LEN: usize = 256;

/// Length of the longest character, in bytes.
const LONGEST_CHAR: usize = 4;

/// The path without its query. Queries may contain secrets and are never read or stored.
pub(crate) fn without_query(target: &str) -> &str {
    let bytes = target.as_bytes();
    let is_end = |byte: &u8| matches!(byte, b'?' | b'#');
    // Eight bytes at a time, without a branch for each.
    let (chunks, _) = bytes.as_chunks::<8>();
    let has_end = |chunk: &[u8; 8]| chunk.iter().fold(false, |found, byte| found | is_end(byte));
    let clear = 8 * chunks.iter().take_while(|chunk| !has_end(chunk)).count();
    let end = bytes[clear..].iter().position(is_end);
    &target[..end.map_or(target.len(), |end| clear + end)]
}

/// The stored form of a path: without its query, cut at [`MAX_STORED_LEN`] bytes.
pub(crate) fn stored(target: &str) -> &str {
    cut(without_query(target))
}

/// Returns a stored path in which each word that may be a key is shortened; `None` if it has none.
pub(crate) fn without_keys(stored: &[u8]) -> Option<Vec<u8>> {
    path_without_keys(stored, stored.len() > MAX_STORED_LEN - LONGEST_CHAR)
}

/// The form of a path that may be shown: as stored, with words that may be keys shortened.
pub(crate) fn shown(target: &str) -> String {
    let path = stored(target);
    match without_keys(path.as_bytes()) {
        Some(shown) => String::from_utf8_lossy(&shown).into_owned(),
        None => path.to_owned(),
    }
}

fn cut(path: &str) -> &str {
    let mut end = path.len().min(MAX_STORED_LEN);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    &path[..end]
}

/// The normalized path for locks: decoded once, without empty and dot segments, and cut like a
/// stored path.
pub(crate) fn normalized(target: &str) -> String {
    without_dot_segments(&percent_decoded(without_query(target).as_bytes(), |_| true))
}

/// Whether any reading of a target is `wanted`, a [`normalized`] path; `None` if it has too many
/// readings.
pub(crate) fn may_mean(target: &str, wanted: &str, ignore_case: bool) -> Option<bool> {
    let is_wanted = |reading: &[u8]| match (without_dot_segments(reading), ignore_case) {
        (path, true) => path.eq_ignore_ascii_case(wanted),
        (path, false) => path == wanted,
    };
    match readings(target) {
        Readings::Plain(path) => Some(is_wanted(path.as_bytes())),
        Readings::Several(texts) => Some(texts.iter().any(|text| is_wanted(text))),
        Readings::Unreadable => None,
    }
}

/// Removes empty and dot segments from a decoded path and cuts it like a stored path.
fn without_dot_segments(decoded: &[u8]) -> String {
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

/// Decodes percent-encoded bytes (RFC 3986 §2.1) for which `wanted` is true.
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

/// The byte encoded by the escape at the start of `text`.
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
    fn queries_are_dropped() {
        assert_eq!(without_query("/api/data?key=secret"), "/api/data");
        assert_eq!(without_query("/api#x?y"), "/api");
        assert_eq!(without_query("?a"), "");
        for len in 0..30 {
            let path = "é/".repeat(len).split_off(len / 2 * 3);
            assert_eq!(without_query(&path), path);
            assert_eq!(without_query(&format!("{path}?{path}#a")), path);
            assert_eq!(without_query(&format!("{path}#{path}?a")), path);
        }
    }

    #[test]
    fn spellings_of_a_path_normalize_to_one() {
        for target in [
            "/a/b",
            "//a/./b/",
            "/x/../a/b?q",
            "/%61/b",
            "a\\b",
            "/../a/b",
        ] {
            assert_eq!(normalized(target), "/a/b", "{target}");
        }
        assert_eq!(normalized("/a%2"), "/a%2");
        assert_eq!(normalized("/%ff"), "/\u{fffd}");
        assert_eq!(normalized("/a%3fb"), "/a?b");
        assert_eq!(normalized(""), "/");
        assert!(normalized(&"/é".repeat(300)).len() <= MAX_STORED_LEN);
    }

    #[test]
    fn targets_may_mean_any_of_their_readings() {
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
            assert_eq!(may_mean(target, "/login", false), Some(true), "{target}");
        }
        for target in ["/logins", "/login/x", "/", "/LOGIN", "/a?/login"] {
            assert_eq!(may_mean(target, "/login", false), Some(false), "{target}");
        }
        assert_eq!(may_mean("/LOG%49N", "/login", true), Some(true));
        let unreadable = format!("/%{}61", "25".repeat(99));
        assert_eq!(may_mean(&unreadable, "/login", false), None);
    }

    #[test]
    fn long_paths_are_cut_at_a_character() {
        let path = format!("{}é?q", "a".repeat(MAX_STORED_LEN - 1));
        assert_eq!(stored(&path), "a".repeat(MAX_STORED_LEN - 1));
    }

    #[test]
    fn shown_paths_have_no_key_wherever_they_are_cut() {
        const KEY: &str = "kg_live_2loam6jy9PNDwjKpPpShaRI8k1BYhn-t0PeWeGdlHm03z7H35";
        for len in 0..=MAX_STORED_LEN {
            for last in ["", "?q", "é"] {
                let before = "a".repeat(len % 2) + &"é".repeat(len / 2);
                let target = format!("{before}/{KEY}{last}");
                let shown = shown(&target);
                assert!(
                    shown.len() <= MAX_STORED_LEN && !shown.contains(&KEY[..16]),
                    "{shown}"
                );
            }
        }
    }
}
