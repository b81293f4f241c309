//! Readings of request targets: the paths that different servers may derive from one target.
//!
//! | read by some servers | example for `/api` |
//! |---|---|
//! | escapes decoded, once or again, and between segments only | `/%61pi`, `/%2561pi`, `/x%2f..%2fapi` |
//! | `\\` as `/` | `\\api` |
//! | slashes merged | `//api` |
//! | dot segments resolved, also behind empty ones | `/x/../api`, `/x//../api` |
//! | parameters of segments dropped | `/api;v=1`, `/..;/api` |
//! | white space and control characters at both ends of a segment dropped | `/api%0a`, `/%20api` |
//! | dots and spaces at the end of a segment dropped | `/api.`, `/api%20/x` |
//! | bytes of overlong UTF-8 as the ASCII they stand for | `/%c0%afapi` |
//! | an end at a NUL, at an encoded `?` or at `#` | `/api%00.png`, `/api%3Fx`, `/api#x` |
//! | a scheme and a host, or a host behind `//`, left out | `http://host/api`, `//host/api` |
//! | a slash put in front | `api` |
//!
//! in any order and combination, and with ASCII case ignored if the policy says so.
//!
//! Not covered, because it depends on more than the path or is rare: non-ASCII letters that a
//! server folds, normalizes or maps to ASCII (`/ＡＰＩ`); `%u0061`; `+` as a space; file system
//! aliases (`/API~1`, `/api::$DATA`, links); extensions that a router treats as a format
//! (`/api.json`); rewriting by a server or proxy behind KeyGuard; and header fields that replace
//! path or method (`X-Original-URL`, `X-HTTP-Method-Override`).

use super::percent_decoded;

/// Maximum number of readings.
const MAX_READINGS: usize = 32;

/// Maximum total size of the readings of a path. An 8 KiB path of escapes has two or three
/// readings; paths with many readings must be short.
const MAX_BYTES: usize = 32 * 1_024;

/// The readings of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Readings<'a> {
    /// Every server reads the path without its query literally.
    Plain(&'a str),
    /// The path as sent and all other readings.
    Several(Vec<Vec<u8>>),
    /// Too many or too long readings.
    Unreadable,
}

/// Computes the readings of an undecoded target. The query begins at the first `?`.
pub(crate) fn readings(target: &str) -> Readings<'_> {
    match plain(target) {
        Some(path) => Readings::Plain(path),
        None => several(target),
    }
}

/// The path without its query, if it is plain: it begins with `/` and contains no empty segments
/// except at the end, no segments that end with a dot, and no bytes that servers decode, strip or
/// replace.
#[inline]
fn plain(target: &str) -> Option<&str> {
    let bytes = target.as_bytes();
    if !bytes.starts_with(b"/") {
        return None;
    }
    // Chunks are checked without a branch for each byte. The last one overlaps the one before.
    let mut at = 1;
    while let Some(chunk) = bytes[at - 1..].first_chunk()
        && are_plain(chunk)
    {
        at += CHUNK;
    }
    if bytes.len() - at < CHUNK && bytes.last_chunk().is_some_and(are_plain) {
        at = bytes.len();
    }
    while at < bytes.len() && bytes[at] != b'?' {
        if !PLAIN[usize::from(bytes[at])] || !may_follow(bytes[at - 1], bytes[at]) {
            return None;
        }
        at += 1;
    }
    let path = &target[..at];
    (!path.ends_with('.')).then_some(path)
}

/// The number of bytes that are checked at once.
const CHUNK: usize = 16;

/// Whether all bytes are plain, except the first, which is checked as the one before the others only.
#[inline]
fn are_plain(bytes: &[u8; CHUNK + 1]) -> bool {
    let pairs = bytes.iter().zip(&bytes[1..]);
    pairs.fold(true, |plain, (before, byte)| {
        plain & is_plain_in_path(*byte) & may_follow(*before, *byte)
    })
}

/// Whether a byte may follow another: a slash neither a slash nor a dot.
#[inline]
const fn may_follow(before: u8, byte: u8) -> bool {
    (byte != b'/') | ((before != b'/') & (before != b'.'))
}

/// Whether every server reads a byte of a segment literally.
pub(super) const fn is_plain_in_segment(byte: u8) -> bool {
    byte != b'/' && is_plain_in_path(byte)
}

const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < plain.len() {
        plain[byte] = is_plain_in_path(byte as u8);
        byte += 1;
    }
    plain
};

/// Whether a byte is a slash or plain in segments: RFC 3986 pchar without escapes and without `;`, which
/// begins parameters. Without branches, so that it is computed for many bytes at once.
#[inline]
const fn is_plain_in_path(byte: u8) -> bool {
    matches!(byte, b'&'..=b':')
        | matches!(byte, b'@'..=b'Z')
        | byte.is_ascii_lowercase()
        | (byte == b'!')
        | (byte == b'$')
        | (byte == b'=')
        | (byte == b'_')
        | (byte == b'~')
}

fn is_dots(segment: &[u8]) -> bool {
    matches!(segment, b"." | b"..")
}

#[cold]
fn several(target: &str) -> Readings<'static> {
    let path = target.split('?').next().unwrap_or(target);
    closure(path.as_bytes()).map_or(Readings::Unreadable, Readings::Several)
}

/// A transformation applied by some servers. `None` if it changes nothing.
type Step = fn(&[u8]) -> Option<Vec<u8>>;

/// Steps never lengthen a text, except by one leading slash.
const STEPS: [Step; 14] = [
    decoded,
    decoded_within_segments,
    with_forward_slashes,
    without_parameters,
    without_overlong_bytes,
    with_merged_slashes,
    with_dots_resolved,
    without_surrounding_spaces,
    without_trailing_dots_and_spaces,
    without_authority,
    with_leading_slash,
    |text| cut_at(b'\0', text),
    |text| cut_at(b'?', text),
    |text| cut_at(b'#', text),
];

/// The closure of a text under [`STEPS`]; `None` if it is too large.
fn closure(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut left = MAX_BYTES.checked_sub(text.len())?;
    let mut texts = vec![text.to_vec()];
    let mut at = 0;
    while let Some(text) = texts.get(at) {
        for next in STEPS.map(|step| step(text)).into_iter().flatten() {
            if texts.contains(&next) {
                continue;
            }
            if texts.len() == MAX_READINGS {
                return None;
            }
            left = left.checked_sub(next.len())?;
            texts.push(next);
        }
        at += 1;
    }
    Some(texts)
}

fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    text.contains(&b'%')
        .then(|| percent_decoded(text, |_| true))
}

/// Some servers split a path into segments before decoding.
fn decoded_within_segments(text: &[u8]) -> Option<Vec<u8>> {
    let wanted = |byte| !matches!(byte, b'/' | b'\\');
    text.contains(&b'%').then(|| percent_decoded(text, wanted))
}

fn with_forward_slashes(text: &[u8]) -> Option<Vec<u8>> {
    let forward = |byte: &u8| if *byte == b'\\' { b'/' } else { *byte };
    text.contains(&b'\\')
        .then(|| text.iter().map(forward).collect())
}

fn without_parameters(text: &[u8]) -> Option<Vec<u8>> {
    let mut in_parameters = false;
    let mut kept = |byte: &u8| {
        in_parameters = *byte == b';' || (in_parameters && *byte != b'/');
        !in_parameters
    };
    text.contains(&b';')
        .then(|| text.iter().copied().filter(|byte| kept(byte)).collect())
}

/// Decodes overlong ASCII of two to four bytes (forbidden by RFC 3629) like lenient decoders: the
/// low 6 bits of the last byte and the lowest bit of the byte before.
fn without_overlong_bytes(text: &[u8]) -> Option<Vec<u8>> {
    if text.is_ascii() {
        return None;
    }
    let mut short = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        let (byte, after) = match rest {
            [high @ (0xC0 | 0xC1), low, after @ ..]
            | [0xE0, high @ (0x80 | 0x81), low, after @ ..]
            | [0xF0, 0x80, high @ (0x80 | 0x81), low, after @ ..] => {
                (((high & 1) << 6) | (low & 0x3F), after)
            }
            _ => (*byte, after),
        };
        short.push(byte);
        rest = after;
    }
    (short.len() < text.len()).then_some(short)
}

fn with_merged_slashes(text: &[u8]) -> Option<Vec<u8>> {
    text.windows(2).any(|pair| pair == b"//").then(|| {
        let mut merged = text.to_vec();
        merged.dedup_by(|a, b| (*a, *b) == (b'/', b'/'));
        merged
    })
}

/// Removes dot segments (RFC 3986 §5.2.4). Empty segments count.
fn with_dots_resolved(text: &[u8]) -> Option<Vec<u8>> {
    let path = text.strip_prefix(b"/")?;
    let segments = || path.split(|byte| *byte == b'/');
    if !segments().any(is_dots) {
        return None;
    }
    let mut resolved: Vec<&[u8]> = Vec::new();
    for segment in segments() {
        match segment {
            b"." => {}
            b".." => drop(resolved.pop()),
            segment => resolved.push(segment),
        }
    }
    if segments().next_back().is_some_and(is_dots) {
        resolved.push(b"");
    }
    Some([b"/", resolved.join(&b'/').as_slice()].concat())
}

/// Trims each segment, so that `.. ` becomes `..`.
fn without_surrounding_spaces(text: &[u8]) -> Option<Vec<u8>> {
    trimmed_segments(text, |segment| {
        let (mut start, mut end, mut at) = (segment.len(), 0, 0);
        let mut note = |len, is_kept| {
            if is_kept {
                (start, end) = (start.min(at), at + len);
            }
            at += len;
        };
        for chunk in segment.utf8_chunks() {
            let chars = chunk.valid().chars();
            chars.for_each(|char| note(char.len_utf8(), !is_space(char)));
            // Latin-1 next line and no-break space.
            let bytes = chunk.invalid().iter();
            bytes.for_each(|byte| note(1, !matches!(byte, 0x85 | 0xA0)));
        }
        segment.get(start..end).unwrap_or_default()
    })
}

/// Whether some servers strip a character at the ends of a text.
fn is_space(char: char) -> bool {
    let is_space_to_some = matches!(char, '\u{180e}' | '\u{200b}' | '\u{feff}');
    char.is_whitespace() || char.is_control() || is_space_to_some
}

/// Trims each segment like Windows file names. Dot segments are kept.
fn without_trailing_dots_and_spaces(text: &[u8]) -> Option<Vec<u8>> {
    trimmed_segments(text, |segment| match segment {
        segment if is_dots(segment) => segment,
        segment => without_last(segment, b". "),
    })
}

fn trimmed_segments(text: &[u8], trim: impl Fn(&[u8]) -> &[u8]) -> Option<Vec<u8>> {
    let segments: Vec<&[u8]> = text.split(|byte| *byte == b'/').map(trim).collect();
    let trimmed = segments.join(&b'/');
    (trimmed.len() < text.len()).then_some(trimmed)
}

/// The segment without trailing bytes in `ends`.
fn without_last<'a>(segment: &'a [u8], ends: &[u8]) -> &'a [u8] {
    let kept = segment.iter().rposition(|byte| !ends.contains(byte));
    &segment[..kept.map_or(0, |last| last + 1)]
}

/// Removes the authority of an absolute target (`http://host/path`) or of a target that begins with
/// `//` (RFC 3986 §4.2).
fn without_authority(text: &[u8]) -> Option<Vec<u8>> {
    let scheme = text.windows(2).position(|pair| pair == b"//")?;
    if !matches!(&text[..scheme], [] | [b'a'..=b'z' | b'A'..=b'Z', .., b':']) {
        return None;
    }
    let rest = &text[scheme + 2..];
    let path = rest.iter().position(|byte| *byte == b'/');
    Some(path.map_or_else(|| b"/".to_vec(), |path| rest[path..].to_vec()))
}

fn with_leading_slash(text: &[u8]) -> Option<Vec<u8>> {
    (!text.starts_with(b"/")).then(|| [b"/", text].concat())
}

fn cut_at(end: u8, text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().position(|byte| *byte == end)?;
    Some(text[..end].to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    /// The readings of a target that is not plain.
    fn texts(target: &str) -> Vec<Vec<u8>> {
        match readings(target) {
            Readings::Several(texts) => texts,
            other => panic!("{:.99}: {other:?}", target),
        }
    }

    #[test]
    fn a_plain_path_has_one_reading() {
        for path in [
            "/",
            "/api",
            "/api/",
            "/.well-known/x",
            "/...x/",
            "/a.b/~c",
            "/@a/b:c*,",
        ] {
            assert_eq!(readings(path), Readings::Plain(path));
            let with_query = format!("{path}?a=/../%2e#;");
            assert_eq!(readings(&with_query), Readings::Plain(path));
        }
    }

    #[test]
    fn ambiguous_paths_are_not_plain() {
        for target in [
            "", "?", "*", "a", "//", "/a//", "//a", "/a//b", "/.", "/..", "/a/.", "/a/../b",
            "/a/..?b", "/a./b", "/a.", "/a.?b", "/.../b", "/a./", "/%61", "/a\\b", "/a;b", "/a#b",
            "/a\0", "/a\tb", "/a b", "/é", "/a\x7f", "/{a}", "/a|b",
        ] {
            assert_eq!(plain(target), None, "{target}");
        }
    }

    /// The path of a target, if it is plain by its segments.
    fn plain_by_segments(target: &str) -> Option<&str> {
        let path = target.split('?').next()?;
        let mut segments = path.strip_prefix('/')?.split('/').rev();
        let is_plain =
            |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:@!$&'()*+,=".contains(&byte);
        let is_literal = |segment: &str| segment.bytes().all(is_plain) && !segment.ends_with('.');
        let is_plain = segments.next().is_some_and(is_literal)
            && segments.all(|segment| !segment.is_empty() && is_literal(segment));
        is_plain.then_some(path)
    }

    proptest! {
        #[test]
        fn a_path_is_plain_by_its_segments(
            segments in vec("[a-z0-9_.~:@!$&'()*+,=-]{1,20}", 0..5),
            odd in any::<char>(),
            end in select(&["", "/", "?", "/?a//b", "."][..]),
        ) {
            let target = format!("/{}{end}", segments.join("/"));
            prop_assert_eq!(plain(&target), plain_by_segments(&target), "{}", target);
            for inserted in ['/', '.', '?', '%', odd] {
                for at in 0..=target.len() {
                    let mut target = target.clone();
                    target.insert(at, inserted);
                    prop_assert_eq!(plain(&target), plain_by_segments(&target), "{}", target);
                }
            }
        }
    }

    #[test]
    fn each_step_is_one_reading() {
        for (target, expected) in [
            ("/%61%2Fb%5c", "/a/b\\"),
            ("/%61%2Fb%5c", "/a%2Fb%5c"),
            ("/a\\b", "/a/b"),
            ("/a;x=1/b;y", "/a/b"),
            ("/a%00b", "/a"),
            ("/a%C0%AFb%C1%81", "/a/bA"),
            ("/a%E0%80%AFb%e0%81%81", "/a/bA"),
            ("/%F0%80%80%AE", "/."),
            ("//a///b", "/a/b"),
            ("/a/./b/../c/", "/a/c/"),
            ("/a./b..", "/a/b"),
            ("/a%20/b .", "/a/b"),
            ("/a%0a/%20b%c2%a0%09", "/a/b"),
            ("/%0a%a0/b", "//b"),
            ("/x/..%20/a", "/x/../a"),
            ("/x/..%20/a", "/a"),
            ("/x/...", "/x/"),
            ("/x/. ./a", "/x//a"),
            ("/a//../b", "/a/b"),
            ("/../..", "/"),
            ("/a/b/..", "/a/"),
            ("/a%3Fb", "/a"),
            ("/a#b", "/a"),
            ("HTTP://u@host:80/a", "/a"),
            ("http://host?q", "/"),
            ("//host/a", "/a"),
            ("a", "/a"),
            ("", "/"),
        ] {
            let texts = texts(target);
            assert!(texts.contains(&expected.as_bytes().to_vec()), "{target}");
        }
    }

    #[test]
    fn unambiguous_paths_have_few_readings() {
        assert_eq!(texts("/caf\u{e9}").len(), 1);
        assert_eq!(texts("/caf%C3%A9/a%20b").len(), 2);
        assert_eq!(texts("/voil%C3%A0").len(), 2);
        assert_eq!(texts("/a%2").len(), 1);
        assert_eq!(texts("/%zz").len(), 1);
    }

    #[test]
    fn too_many_readings_are_unreadable() {
        let target = "/%61/..;a//%2e/b\\c%2f%00#d/%c0%af%3f;x";
        assert_eq!(readings(target), Readings::Unreadable);
        let deep = format!("/%{}61", "25".repeat(MAX_READINGS));
        assert_eq!(readings(&deep), Readings::Unreadable);
    }

    #[test]
    fn a_long_escaped_url_is_readable() {
        for escapes in ["%E6%97%A5", "%C3%A9", "%20x"] {
            let target = format!("/{}", escapes.repeat(8_000 / escapes.len()));
            assert_ne!(texts(&target).len(), 0, "{escapes}");
        }
    }

    #[test]
    fn long_paths_of_many_readings_are_unreadable() {
        let target = format!("/a;b/%61/x%2f{}", "a".repeat(8_000));
        assert_eq!(readings(&target), Readings::Unreadable);
    }

    #[test]
    fn only_a_path_that_is_not_plain_can_be_too_long() {
        let long = format!("/{}", "a".repeat(MAX_BYTES));
        assert_eq!(readings(&long), Readings::Plain(&long));
        assert_eq!(readings(&long.replacen('a', "/", 1)), Readings::Unreadable);
        assert_eq!(texts(&format!("//?{long}")).len(), 2);
    }
}
