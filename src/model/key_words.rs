//! Words of a text that may be keys, also if characters of them are percent-encoded, and their shortening.
//!
//! A word consists of characters of base64url. Escapes are decoded for the search, as often as they can be:
//! `%6bg_live_…` and `%256bg_live_…` have the same words as `kg_live_…`.

#[cfg(feature = "cli")]
use std::borrow::Cow;

use super::key_text::{contains_well_formed, is_base64url};

/// The least length of a word that may be a key, and of what follows the first `_` of one. UUIDs are shorter
/// and have no `_`.
const MIN_KEY_WORD: usize = 40;
const MIN_RANDOM: usize = 32;

/// The number of characters that are shown of such a word, and what stands for the others.
const WORD_SHOWN: usize = 12;
const ELLIPSIS: &str = "…";

/// Whether a text contains a key, also within a longer word.
pub(crate) fn contains_key(text: &str) -> bool {
    let text = text.as_bytes();
    has_long_run(text) && words(&decoded(text)).any(|word| contains_well_formed(&bytes(word)))
}

/// Shortens the keys in a message that quotes what somebody sent. Other long words stay whole.
pub(crate) fn quoted_without_keys(message: String) -> String {
    match contains_key(&message) {
        true => without_keys(&message),
        false => message,
    }
}

/// Shortens each word that may be a key, or a part of one.
pub(crate) fn without_keys(text: &str) -> String {
    match shortened(text.as_bytes(), false, may_be_key) {
        Some(shown) => String::from_utf8_lossy(&shown).into_owned(),
        None => text.to_owned(),
    }
}

/// Shortens keys, also mistyped and incomplete ones, and secrets of 32 bytes as `init` creates them, in a message for
/// a user. Keeps the other words that [`path_without_keys`] keeps, such as most names of files.
#[cfg(feature = "cli")]
pub(crate) fn message_without_keys(message: &str) -> Cow<'_, str> {
    let is_confidential =
        |word: &[u8]| may_be_key(word) && (mixes_cases(word) || may_be_secret(word));
    match shortened(message.as_bytes(), false, is_confidential) {
        Some(shown) => Cow::Owned(String::from_utf8_lossy(&shown).into_owned()),
        None => Cow::Borrowed(message),
    }
}

/// Returns a path in which each word that may be a key is shortened, and which is not longer; `None` if it has no
/// such word. If it was cut, its last word may be the start of a key, and is shortened, too.
///
/// Unlike [`without_keys`], keeps words whose letters have the same case: digests, slugs and the like. Of 10⁹
/// keys, fewer than one is such a word.
pub(crate) fn path_without_keys(path: &[u8], is_cut: bool) -> Option<Vec<u8>> {
    shortened(path, is_cut, |word| may_be_key(word) && mixes_cases(word))
}

/// Replaces a text, also if characters of it are percent-encoded or its blanks are `+`, as in queries.
#[cfg(feature = "serve")]
pub(crate) fn without_text(text: &str, hidden: &str) -> String {
    let text = text.replace(hidden, ELLIPSIS);
    // Both are decoded, because the hidden text may itself look like an escape.
    let (chars, hidden) = (decoded(text.as_bytes()), decoded(hidden.as_bytes()));
    if hidden.is_empty() {
        return text;
    }
    let (searched, wanted) = (without_plus(&chars), without_plus(&hidden));
    let mut shown = String::with_capacity(text.len());
    let (mut copied, mut place, mut passed) = (0, 0, 0);
    // Takes time in proportion to both texts, whatever they are.
    for (found, _) in searched.match_indices(&wanted) {
        place += searched[passed..found].chars().count() + hidden.len();
        passed = found + wanted.len();
        let start = chars[place - hidden.len()].start;
        shown.push_str(&String::from_utf8_lossy(&text.as_bytes()[copied..start]));
        shown.push_str(ELLIPSIS);
        copied = chars[place - 1].end;
    }
    shown.push_str(&String::from_utf8_lossy(&text.as_bytes()[copied..]));
    shown
}

/// Returns a string of one character for each byte, with blanks for each `+`.
#[cfg(feature = "serve")]
fn without_plus(text: &[DecodedByte]) -> String {
    let chars = text.iter().map(|char| match char.byte {
        b'+' => ' ',
        byte => char::from(byte),
    });
    chars.collect()
}

fn may_be_key(word: &[u8]) -> bool {
    let underscore = word.iter().position(|byte| *byte == b'_');
    let behind_prefix = underscore.map_or(0, |at| word.len() - at - 1);
    word.len() >= MIN_KEY_WORD || behind_prefix >= MIN_RANDOM
}

/// Whether a word has the form of a secret that `init` creates: 32 bytes in hexadecimal digits.
#[cfg(feature = "cli")]
fn may_be_secret(word: &[u8]) -> bool {
    word.len() == 64 && word.iter().all(u8::is_ascii_hexdigit)
}

fn mixes_cases(word: &[u8]) -> bool {
    word.iter().any(u8::is_ascii_uppercase) && word.iter().any(u8::is_ascii_lowercase)
}

fn shortened(text: &[u8], is_cut: bool, may_be_key: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    if !is_cut && !has_long_run(text) {
        return None;
    }
    let mut chars = decoded(text);
    if is_cut {
        remove_begun_escape(&mut chars);
    }
    let end = chars.last()?.end;
    let mut shown = Vec::with_capacity(text.len());
    let mut copied = 0;
    for run in words(&chars) {
        let [first, ..] = run else { continue };
        let [.., last] = run else { continue };
        let word = bytes(run);
        let is_start = is_cut && last.end == end && word.len() > WORD_SHOWN;
        if is_start || may_be_key(&word) {
            // The path does not become longer.
            let len = WORD_SHOWN.min(word.len() - ELLIPSIS.len());
            shown.extend_from_slice(&text[copied..first.start]);
            shown.extend_from_slice(&word[..len]);
            shown.extend_from_slice(ELLIPSIS.as_bytes());
            copied = if is_start { text.len() } else { last.end };
        }
    }
    if shown.is_empty() {
        return None;
    }
    shown.extend_from_slice(&text[copied..]);
    Some(shown)
}

/// Whether a text has a run of characters of words and escapes that is long enough for a key. Reads few bytes
/// of a text of short runs.
fn has_long_run(text: &[u8]) -> bool {
    let is_of_run = |byte: &&u8| is_base64url(**byte) || **byte == b'%';
    // A run of this length has one of these places.
    let mut places = (MIN_RANDOM - 1..text.len()).step_by(MIN_RANDOM);
    places.any(|at| {
        let before = text[..=at].iter().rev().take_while(is_of_run).count();
        let behind = || text[at + 1..].iter().take_while(is_of_run).count();
        before > 0 && before + behind() >= MIN_RANDOM
    })
}

fn words(chars: &[DecodedByte]) -> impl Iterator<Item = &[DecodedByte]> {
    let runs = chars.chunk_by(|a, b| a.is_of_word() == b.is_of_word());
    runs.filter(|run| run[0].is_of_word())
}

fn bytes(word: &[DecodedByte]) -> Vec<u8> {
    word.iter().map(|char| char.byte).collect()
}

/// A byte of a decoded text, and where it is in the text.
struct DecodedByte {
    byte: u8,
    start: usize,
    end: usize,
}

impl DecodedByte {
    fn is_of_word(&self) -> bool {
        is_base64url(self.byte)
    }
}

/// Decodes escapes, and those that consist of decoded bytes.
fn decoded(text: &[u8]) -> Vec<DecodedByte> {
    let mut chars = Vec::with_capacity(text.len());
    for (start, byte) in text.iter().enumerate() {
        let end = start + 1;
        chars.push(DecodedByte {
            byte: *byte,
            start,
            end,
        });
        while let Some((start, byte)) = escape_at_end(&chars) {
            chars.truncate(chars.len() - 3);
            chars.push(DecodedByte { byte, start, end });
        }
    }
    chars
}

/// The byte that the last three characters encode, and where they start.
fn escape_at_end(chars: &[DecodedByte]) -> Option<(usize, u8)> {
    let [.., percent, high, low] = chars else {
        return None;
    };
    if percent.byte != b'%' {
        return None;
    }
    let digit = |char: &DecodedByte| char::from(char.byte).to_digit(16);
    let byte = u8::try_from(16 * digit(high)? + digit(low)?).ok()?;
    Some((percent.start, byte))
}

/// Removes the first characters of an escape from the end.
fn remove_begun_escape(chars: &mut Vec<DecodedByte>) {
    let begun = chars.iter().rev().take(2);
    let percent = begun.map(|char| char.byte).position(|byte| byte == b'%');
    chars.truncate(chars.len() - percent.map_or(0, |behind| behind + 1));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "kg_live_2loam6jy9PNDwjKpPpShaRI8k1BYhn-t0PeWeGdlHm03z7H35";
    const SHOWN: &str = "kg_live_2loa…";

    fn path(text: &str) -> String {
        let shown = path_without_keys(text.as_bytes(), false);
        shown.map_or(text.to_owned(), |shown| String::from_utf8(shown).unwrap())
    }

    fn escaped(byte: u8, times: usize) -> String {
        format!("%{}{byte:02x}", "25".repeat(times - 1))
    }

    #[test]
    fn keys_are_shortened_in_texts_and_paths() {
        let both: [fn(&str) -> String; 2] = [path, without_keys];
        for shorten in both {
            assert_eq!(shorten(KEY), SHOWN);
            let two = format!("/é/{KEY}/%2f;{KEY}.x");
            assert_eq!(shorten(&two), format!("/é/{SHOWN}/%2f;{SHOWN}.x"));
            let imported = "/kg_live_Zk9hQ2xvdWQtd2ViLXNob3Ata2V5LTAwMDAwMDE";
            assert_eq!(shorten(imported), "/kg_live_Zk9h…");
            assert_eq!(shorten("/v1/%zz/%e3%81%82"), "/v1/%zz/%e3%81%82");
        }
    }

    #[test]
    fn paths_keep_what_is_no_key_and_logs_shorten_it() {
        for kept in [
            "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
            "how-to-write-a-very-long-title-with-many-words-in-it",
        ] {
            assert_eq!(path(kept), kept);
            assert_eq!(without_keys(kept), format!("{}…", &kept[..WORD_SHOWN]));
        }
        let uuid = "/orders/550e8400-E29b-41d4-a716-446655440000";
        assert_eq!((path(uuid), without_keys(uuid)), (uuid.into(), uuid.into()));
    }

    #[test]
    fn keys_are_found_in_any_encoding() {
        let encoded = KEY.replace('_', "%255F");
        for text in [
            KEY,
            &encoded,
            &format!("a `{KEY}`"),
            &format!("/%2f{encoded}?x"),
        ] {
            assert!(contains_key(text), "{text}");
        }
        let other = KEY.replace("2l", "2m");
        for text in [
            &other,
            &KEY[1..],
            "12345600b9cbe38a219f39a9941c9319b600c002",
            "",
        ] {
            assert!(!contains_key(text), "{text}");
        }
        assert_eq!(quoted_without_keys(other.clone()), other);
        assert_eq!(
            quoted_without_keys(format!("no `{encoded}`")),
            format!("no `{SHOWN}`")
        );
    }

    #[test]
    fn an_escape_of_escapes_is_decoded() {
        let inner: String = "%6b".bytes().map(|byte| escaped(byte, 1)).collect();
        for first in ["%6b", "%256B", "%25256b", "%%36%62", "%6%62", &inner] {
            assert_eq!(path(&format!("/{first}{}", &KEY[1..])), format!("/{SHOWN}"));
        }
    }

    #[test]
    fn the_last_word_of_a_cut_path_is_shortened() {
        let cut = |text: &str| {
            let shown = path_without_keys(text.as_bytes(), true);
            shown.map(|shown| String::from_utf8(shown).unwrap())
        };
        assert_eq!(cut(&KEY[..30]).as_deref(), Some(SHOWN));
        assert_eq!(cut(&KEY[..15]).as_deref(), Some(SHOWN));
        assert_eq!(cut(&KEY[..13]).as_deref(), Some("kg_live_2l…"));
        assert_eq!(cut(&KEY[..12]), None);
        assert_eq!(cut(&format!("{}/", &KEY[..30])), None);
        let escapes: String = KEY.bytes().map(|byte| escaped(byte, 2)).collect();
        for len in 5 * 16..5 * 17 {
            assert_eq!(cut(&escapes[..len]).as_deref(), Some(SHOWN), "{len}");
        }
        assert_eq!(cut(""), None);
        assert_eq!(cut("%"), None);
    }

    #[cfg(feature = "serve")]
    #[test]
    fn a_text_is_hidden_in_any_encoding() {
        for (hidden, text, expected) in [
            ("secret!1", "/a?b=secret!1&c", "/a?b=…&c"),
            ("secret!1", "/a?b=secret%211&c", "/a?b=…&c"),
            ("secret!1", "%73ecret%25211/secret!1", "…/…"),
            ("a b%41é", "/a+b%41é/a%20b%2541%C3%a9/a+bA%c3%a9", "/…/…/…"),
            ("secret!1", "/é/secret%212?%2f", "/é/secret%212?%2f"),
            ("%41", "/%%41", "/%…"),
        ] {
            assert_eq!(without_text(text, hidden), expected, "{text}");
        }
    }

    /// Regression: each character of the text was compared with as many of the hidden one.
    #[cfg(feature = "serve")]
    #[test]
    fn a_long_text_that_nearly_repeats_a_long_hidden_one_takes_no_longer() {
        let text = "a".repeat(1 << 20);
        let hidden = format!("{}b", "a".repeat(1 << 19));
        assert_eq!(without_text(&text, &hidden), text);
    }

    proptest! {
        #[cfg(feature = "serve")]
        #[test]
        fn only_what_is_hidden_is_replaced(text in ".{0,60}", hidden in ".{1,9}") {
            let shown = without_text(&text, &hidden);
            prop_assert!(!shown.contains(&hidden) || hidden.contains('…'));
            prop_assert_eq!(without_text(&text, "\u{0}absent"), text);
        }

        #[test]
        fn no_more_than_the_start_of_a_key_is_shown(
            escapes in prop::collection::vec(0..3_usize, KEY.len()),
            before in "[a-zA-Z0-9/%.é-]{0,60}[/.é]",
            behind in "[/.é%][a-zA-Z0-9/%.é-]{0,60}",
        ) {
            let key = KEY.bytes().zip(escapes).map(|(byte, times)| match times {
                0 => char::from(byte).to_string(),
                _ => escaped(byte, times),
            });
            let text = format!("{before}{}{behind}", key.collect::<String>());
            for shown in [path(&text), without_keys(&text)] {
                prop_assert!(shown.len() <= text.len());
                let shown = decoded(shown.as_bytes());
                let shown: Vec<u8> = shown.iter().map(|char| char.byte).collect();
                let shown = String::from_utf8_lossy(&shown);
                prop_assert!(shown.contains("…"), "{}", shown);
                prop_assert!(!shown.contains(&KEY[8..20]), "{}", shown);
            }
        }

        #[test]
        fn keys_are_found_within_longer_words(
            before in "[a-zA-Z0-9_-]{0,60}",
            behind in "[a-zA-Z0-9_-]{0,60}",
        ) {
            let word = format!("{before}{KEY}{behind}");
            prop_assert!(contains_key(&word));
            for shown in [path(&word), without_keys(&word), quoted_without_keys(word.clone())] {
                prop_assert!(!shown.contains(&KEY[8..20]), "{}", shown);
            }
        }

        #[test]
        fn words_without_keys_are_no_keys(word in "[a-zA-Z0-9_-]{0,200}") {
            prop_assert!(!contains_key(&word));
            prop_assert_eq!(quoted_without_keys(word.clone()), word);
        }

        #[test]
        fn any_bytes_are_accepted(text in prop::collection::vec(any::<u8>(), 0..90), is_cut: bool) {
            let shown = path_without_keys(&text, is_cut);
            prop_assert!(shown.is_none_or(|shown| shown.len() <= text.len()));
        }

        #[test]
        fn long_runs_are_found(runs in prop::collection::vec("[a-zA-Z0-9_%-]{0,80}", 0..9)) {
            let found = has_long_run(runs.join("/").as_bytes());
            prop_assert_eq!(found, runs.iter().any(|run| run.len() >= MIN_RANDOM));
        }
    }
}
