//! Removal of key texts from a log.

use crate::model::key_text;

/// Returns the listed prefix if `user` is the whole text of a key, else `user` unchanged.
pub(super) fn listed_prefix(user: &str) -> &str {
    key_text::shown_part(user).unwrap_or(user)
}

/// The least number of letters, digits, `-` and `_` after the first `_` of a text that may be a key.
const MIN_KEY: usize = 32;

/// How many characters of such a text are kept.
const SHOWN: usize = 12;

/// Shortens each word that may be the text of a key.
pub(super) fn without_keys(text: &str) -> String {
    let is_of_key = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let mut shown = String::with_capacity(text.len());
    for piece in text.split_inclusive(|c| !is_of_key(c)) {
        let word = piece.trim_end_matches(|c| !is_of_key(c));
        let secret = word.split_once('_').map_or("", |(_, secret)| secret);
        match secret.len() >= MIN_KEY {
            true => shown.extend([&word[..SHOWN], "…", &piece[word.len()..]]),
            false => shown.push_str(piece),
        }
    }
    shown
}
