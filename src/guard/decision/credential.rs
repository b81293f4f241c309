//! Stage: the text that a request presents as its key.

use super::super::Guard;
use super::super::denial::Denial;
// Longer texts are refused unread; the longest key of ours has 81 bytes.
use super::super::key_cache::fingerprint::MAX_LEN;
use super::super::request::Headers;
use super::context::RequestContext;
use super::lockout;
use crate::model::{Method, Reason, key_text};
use crate::policy::Access;

/// A key as a request presents it.
#[derive(Clone, Copy)]
pub(super) struct PresentedKey<'h> {
    pub(super) text: &'h [u8],
    /// Whether the application may own the token: it does not have the form of a key.
    pub(super) is_optional: bool,
}

/// Whether the request needs a key. A preflight request of a browser (Fetch §3.2.2) needs none:
/// browsers send it without credentials.
#[inline(always)]
pub(super) fn is_required<H: Headers + ?Sized>(
    guard: &Guard,
    context: &RequestContext<'_, H>,
) -> bool {
    match context.route.access {
        Access::Exempt | Access::Open => false,
        Access::OpenInShadow | Access::Protected | Access::Unreadable => {
            !is_preflight(guard, context)
        }
    }
}

#[inline(always)]
fn is_preflight<H: Headers + ?Sized>(guard: &Guard, context: &RequestContext<'_, H>) -> bool {
    let headers = context.request.headers;
    let has = |name| headers.header_values(name).next().is_some();
    context.request.method == Method::Options
        && has("origin")
        && has("access-control-request-method")
        && matches!(presented(guard, headers), Ok(None))
}

/// Returns the credential of the request, or refuses it.
#[inline(always)]
pub(super) fn require<'h, 'c: 'h, H: Headers + ?Sized>(
    guard: &'h Guard,
    context: &mut RequestContext<'c, H>,
) -> Result<PresentedKey<'h>, Reason> {
    match presented(guard, context.request.headers)? {
        Some(credential) => Ok(credential),
        None => Err(missing(guard, context)),
    }
}

/// The refusal of a request without a key.
#[cold]
pub(super) fn missing<H: Headers + ?Sized>(
    guard: &Guard,
    context: &mut RequestContext<'_, H>,
) -> Reason {
    match lockout::check_keyless(guard, context) {
        Ok(()) => context.refuse(Denial::missing_key(Some(&guard.key_header))),
        Err(denial) => context.refuse(denial),
    }
}

/// Returns the one credential in the headers, if any.
#[inline(always)]
pub(super) fn presented<'a, H: Headers + ?Sized>(
    guard: &'a Guard,
    headers: &'a H,
) -> Result<Option<PresentedKey<'a>>, Reason> {
    let (text, is_optional) = match key(headers, &guard.key_header)? {
        None if guard.legacy.is_some() => (bearer_token(headers), true),
        text => (text, false),
    };
    Ok(text.map(|text| PresentedKey { text, is_optional }))
}

/// The text of the one key that the request presents, if any.
///
/// A key is sent in the header `key_header`, or as `Authorization: Bearer` if the token is formed
/// like a key; any other `Authorization` belongs to the application, or is
/// a key of the Python package. An empty value presents
/// nothing. The same key in both places is one key.
#[inline(always)]
fn key<'a, H: Headers + ?Sized>(
    headers: &'a H,
    key_header: &'a str,
) -> Result<Option<&'a [u8]>, Reason> {
    let in_key_header = only(headers.header_values(key_header))?
        .map(<[u8]>::trim_ascii)
        .filter(|text| !text.is_empty());
    if in_key_header.is_some_and(|text| text.len() > MAX_LEN) {
        return Err(Reason::OversizedKey);
    }
    let bearer = only(
        headers
            .header_values("authorization")
            .filter_map(bearer_key),
    )?;
    match (in_key_header, bearer) {
        (Some(text), Some(bearer)) if text != bearer => Err(Reason::AmbiguousKey),
        (text, bearer) => Ok(text.or(bearer)),
    }
}

#[inline(always)]
fn only<'a>(values: impl Iterator<Item = &'a [u8]>) -> Result<Option<&'a [u8]>, Reason> {
    let mut only = None;
    // One loop, so that the look-up of a header is inlined once.
    for value in values {
        if only.replace(value).is_some() {
            return Err(Reason::RepeatedHeader);
        }
    }
    Ok(only)
}

/// The token of a `Bearer` credential, if it is formed like a key.
fn bearer_key(value: &[u8]) -> Option<&[u8]> {
    token(value).filter(|token| key_text::has_key_shape(token))
}

/// The token of the one `Bearer` credential of a request, whatever its form.
fn bearer_token<H: Headers + ?Sized>(headers: &H) -> Option<&[u8]> {
    let token = only(headers.header_values("authorization").filter_map(token));
    let fits = |token: &&[u8]| (1..=MAX_LEN).contains(&token.len());
    token.ok().flatten().filter(fits)
}

/// The token of a `Bearer` credential (RFC 6750 §2.1, its scheme in any case, RFC 9110 §11.1).
fn token(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.trim_ascii().split_at_checked("bearer ".len())?;
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer ");
    is_bearer.then_some(token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "kg_live_abcdefghijabcdefghijabcdefghijabcdefghijabc0aZ81c";
    const OTHER: &str = "kg_live_bbcdefghijabcdefghijabcdefghijabcdefghijabc0aZ81c";

    fn found<'a>(headers: &'a [(&'a str, &'a str)]) -> Result<Option<&'a str>, Reason> {
        let text = key(headers, "X-API-Key")?;
        Ok(text.map(|text| std::str::from_utf8(text).unwrap()))
    }

    #[test]
    fn a_key_is_read_from_either_place() {
        assert_eq!(found(&[("x-api-key", KEY)]), Ok(Some(KEY)));
        for scheme in ["Bearer", "bearer", "BEARER"] {
            assert_eq!(
                found(&[("Authorization", &format!("{scheme} {KEY}"))]),
                Ok(Some(KEY))
            );
        }
        assert_eq!(
            found(&[
                ("X-API-Key", KEY),
                ("Authorization", &format!("Bearer {KEY}"))
            ]),
            Ok(Some(KEY))
        );
    }

    #[test]
    fn other_credentials_are_left_to_the_application() {
        for value in [
            "Basic dXNlcjpwYXNz",
            "Bearer eyJhbGciOi.eyJzdWIi.c2ln",
            "Bearer",
            "Bearer ",
            "",
        ] {
            assert_eq!(found(&[("Authorization", value)]), Ok(None), "{value}");
            assert_eq!(
                found(&[("X-API-Key", KEY), ("Authorization", value)]),
                Ok(Some(KEY))
            );
        }
    }

    #[test]
    fn a_single_bearer_token_is_found_in_any_form() {
        let one = [("Authorization", "bearer any.text~at/all=")];
        assert_eq!(bearer_token(&one), Some(&b"any.text~at/all="[..]));
        let long = format!("Bearer {}", "x".repeat(257));
        for value in ["Basic eA==", "Bearer", "Bearer ", &long] {
            assert_eq!(bearer_token(&[("Authorization", value)]), None, "{value}");
        }
        let two = [("Authorization", "Bearer a"), ("Authorization", "Bearer b")];
        assert_eq!(bearer_token(&two), None);
    }

    #[test]
    fn nothing_and_an_empty_header_present_nothing() {
        assert_eq!(found(&[]), Ok(None));
        assert_eq!(found(&[("X-API-Key", "  ")]), Ok(None));
    }

    #[test]
    fn ambiguous_keys_are_refused() {
        let bearer = format!("Bearer {OTHER}");
        assert_eq!(
            found(&[("X-API-Key", KEY), ("Authorization", &bearer)]),
            Err(Reason::AmbiguousKey)
        );
        assert_eq!(
            found(&[("X-API-Key", KEY), ("x-api-key", KEY)]),
            Err(Reason::RepeatedHeader)
        );
        assert_eq!(
            found(&[("Authorization", &bearer), ("Authorization", &bearer)]),
            Err(Reason::RepeatedHeader)
        );
        assert_eq!(
            found(&[("X-API-Key", &"k".repeat(257))]),
            Err(Reason::OversizedKey)
        );
    }
}
