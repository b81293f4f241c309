//! The client address in the header fields of trusted proxies.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::input::{self, InvalidInput, deserialize_from_text};
use crate::net::{CidrSet, ClientIp, Nat64Prefixes};

/// Maximum number of hops that are parsed.
const MOST_HOPS: usize = 32;

/// Header fields in which proxies report the client, most common first.
pub(crate) const KNOWN_FIELDS: [&str; 5] = [
    "x-forwarded-for",
    "forwarded",
    "x-real-ip",
    "cf-connecting-ip",
    "true-client-ip",
];

/// The header field in which trusted proxies report the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ClientIpHeader {
    /// `X-Forwarded-For`: a list to which each proxy appends its peer.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239): a list with parameters.
    Forwarded,
    /// Any other field. It contains one address. The name is in lower case.
    Single(Box<str>),
}

impl ClientIpHeader {
    /// The name in lower case.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
            Self::Single(name) => name,
        }
    }
}

impl FromStr for ClientIpHeader {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = input::field_name("client_ip_header", text)?.to_ascii_lowercase();
        Ok(match name.as_str() {
            "x-forwarded-for" => Self::XForwardedFor,
            "forwarded" => Self::Forwarded,
            _ => Self::Single(name.into()),
        })
    }
}

deserialize_from_text!(ClientIpHeader);

/// The header field is present but contains no valid client address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnreadableClient;

/// The client reported by a trusted proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NamedClient {
    pub(crate) ip: ClientIp,
    /// The hop before the client in a list: the address that the client, if it is a proxy, claims
    /// to forward.
    pub(crate) before: Option<ClientIp>,
}

/// Reads the client from the values of `header`. Returns `None` if the field is absent.
///
/// Hops are read from right to left, nearest first. Trusted hops are skipped and the first
/// untrusted hop is the client; if all are trusted, the leftmost is. An invalid address before
/// that, a list that is too long, or a repeated single-address field is unreadable. Hops further
/// left are not parsed.
pub(crate) fn client<'a>(
    trusted: &CidrSet,
    nat64: &Nat64Prefixes,
    header: &ClientIpHeader,
    lines: impl Iterator<Item = &'a [u8]>,
) -> Result<Option<NamedClient>, UnreadableClient> {
    let mut hops = Hops::default();
    let mut count = 0;
    for line in lines {
        count += 1;
        match header {
            ClientIpHeader::XForwardedFor => list_hops(line, &mut hops),
            ClientIpHeader::Forwarded => rfc_hops(line, &mut hops),
            ClientIpHeader::Single(_) => hops.push(address(line.trim_ascii())),
        }
    }
    match header {
        _ if count == 0 => return Ok(None),
        ClientIpHeader::Single(_) if count > 1 => return Err(UnreadableClient),
        _ => {}
    }
    let mut leftmost = None;
    let mut nearest_first = hops.nearest_first();
    while let Some(hop) = nearest_first.next() {
        let ip = nat64.canonical(hop.ok_or(UnreadableClient)?);
        leftmost = Some(NamedClient { ip, before: None });
        if !trusted.contains(ip) {
            let before = nearest_first.next().flatten();
            return Ok(Some(NamedClient { ip, before }));
        }
    }
    match leftmost {
        Some(named) if hops.count <= MOST_HOPS => Ok(Some(named)),
        _ => Err(UnreadableClient),
    }
}

/// The hops, nearest first; `None` for an invalid address.
#[derive(Default)]
struct Hops {
    last: [Option<ClientIp>; MOST_HOPS],
    count: usize,
}

impl Hops {
    fn push(&mut self, hop: Option<ClientIp>) {
        self.last[self.count % MOST_HOPS] = hop;
        self.count += 1;
    }

    fn nearest_first(&self) -> impl Iterator<Item = Option<ClientIp>> {
        let kept = self.count.min(MOST_HOPS);
        (1..=kept).map(|back| self.last[(self.count - back) % MOST_HOPS])
    }
}

/// `192.0.2.7, 192.0.2.8:443, 2001:db8::1, [2001:db8::1]:443`
fn list_hops(line: &[u8], hops: &mut Hops) {
    for element in line.split(|byte| *byte == b',') {
        hops.push(address(element.trim_ascii()));
    }
}

/// `for=192.0.2.7;proto=https, for="[2001:db8::1]:443"`. A line with unbalanced quotes is a single
/// unreadable hop, because its elements cannot be separated.
fn rfc_hops(line: &[u8], hops: &mut Hops) {
    if has_open_quote(line) {
        return hops.push(None);
    }
    for element in split_unquoted(line, b',') {
        hops.push(for_of(element));
    }
}

/// The address of the only `for` parameter of an element.
fn for_of(element: &[u8]) -> Option<ClientIp> {
    let mut found = None;
    for pair in split_unquoted(element, b';') {
        let pair = pair.trim_ascii();
        if pair.is_empty() {
            continue;
        }
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (&pair[..at], unquoted(pair[at + 1..].trim_ascii())?);
        if !name.trim_ascii().eq_ignore_ascii_case(b"for") {
            continue;
        }
        if found.replace(node(&value)?).is_some() {
            return None;
        }
    }
    found
}

/// IPv6 addresses have brackets (RFC 7239 §6).
fn node(text: &[u8]) -> Option<ClientIp> {
    let is_bare_ipv6 = !text.starts_with(b"[") && text.iter().filter(|b| **b == b':').count() > 1;
    if is_bare_ipv6 { None } else { address(text) }
}

/// Tracks whether successive bytes are inside a quoted string.
fn quotes() -> impl FnMut(u8) -> bool {
    let (mut is_quoted, mut is_escaped) = (false, false);
    move |byte| {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            _ => {}
        }
        is_quoted
    }
}

fn has_open_quote(text: &[u8]) -> bool {
    let mut is_quoted = quotes();
    text.iter().fold(false, |_, byte| is_quoted(*byte))
}

/// Splits at separators outside quoted strings.
fn split_unquoted(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut is_quoted = quotes();
    text.split(move |&byte| !is_quoted(byte) && byte == separator)
}

/// Unquotes a quoted string (RFC 9110 §5.6.4); returns a token unchanged.
fn unquoted(value: &[u8]) -> Option<Vec<u8>> {
    let Some(rest) = value.strip_prefix(b"\"") else {
        return (!value.contains(&b'"')).then(|| value.to_vec());
    };
    let mut text = Vec::new();
    let mut bytes = rest.strip_suffix(b"\"")?.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'"' => return None,
            b'\\' => text.push(*bytes.next()?),
            byte => text.push(byte),
        }
    }
    Some(text)
}

/// Parses an address with or without a port.
fn address(text: &[u8]) -> Option<ClientIp> {
    let text = std::str::from_utf8(text).ok()?;
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(ip.into());
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.ip().into());
    }
    if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return inner
            .parse::<Ipv6Addr>()
            .ok()
            .map(|ip| IpAddr::V6(ip).into());
    }
    // A port may be obfuscated: an underscore, then letters, digits, `.`, `_`, `-` (RFC 7239 §6.2).
    let (host, port) = text.rsplit_once(':')?;
    let is_obfuscated = port.strip_prefix('_').is_some_and(|port| {
        port.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    });
    if !is_obfuscated {
        return None;
    }
    let host = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host);
    host.parse::<IpAddr>().ok().map(ClientIp::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The result for values without a client.
    const NOBODY: &str = "";

    fn read(header: &str, lines: &[&str]) -> Result<Option<String>, UnreadableClient> {
        let trusted: CidrSet = "10.0.0.0/8,2001:db8:aaaa::/48,local".parse().unwrap();
        let nat64 = Nat64Prefixes::parse(["2001:db8:64::/96"]).unwrap();
        let lines = lines.iter().map(|line| line.as_bytes());
        let found = client(&trusted, &nat64, &header.parse().unwrap(), lines);
        found.map(|named| named.map(|named| named.ip.to_string()))
    }

    /// The client, or `NOBODY` for an unreadable value.
    fn named(header: &str, lines: &[&str]) -> String {
        read(header, lines).map_or_else(|_| String::new(), Option::unwrap)
    }

    #[test]
    fn the_rightmost_untrusted_hop_is_the_client() {
        for (lines, expected) in [
            (&["192.0.2.7"][..], "192.0.2.7"),
            (&["192.0.2.7, 10.0.0.9"], "192.0.2.7"),
            (&["203.0.113.9, 192.0.2.7, 10.0.0.9, 10.0.0.8"], "192.0.2.7"),
            (&["203.0.113.9", "192.0.2.7", "10.0.0.9"], "192.0.2.7"),
            (&["10.0.0.9", "192.0.2.7"], "192.0.2.7"),
            (&["garbage, 192.0.2.7"], "192.0.2.7"),
            (&[" \t192.0.2.7\t "], "192.0.2.7"),
            (&["192.0.2.7:4711"], "192.0.2.7"),
            (&["192.0.2.7:4711, 10.0.0.9:80"], "192.0.2.7"),
            (&["2001:db8::1"], "2001:db8::1"),
            (&["[2001:db8::1]"], "2001:db8::1"),
            (&["[2001:db8::1]:443"], "2001:db8::1"),
            (&["2001:db8::1, 2001:db8:aaaa::2"], "2001:db8::1"),
            (&["::ffff:192.0.2.7"], "192.0.2.7"),
            (&["192.0.2.7, ::ffff:10.0.0.9"], "192.0.2.7"),
            // All hops are trusted.
            (&["10.9.9.9, 10.0.0.9"], "10.9.9.9"),
            // Never past an invalid address.
            (&["192.0.2.7, unknown"], NOBODY),
            (&["192.0.2.7, _hidden"], NOBODY),
            (&["192.0.2.7, , 10.0.0.9"], NOBODY),
            (&["192.0.2.7,"], NOBODY),
            (&["192.0.2.7, 10.0.0.256"], NOBODY),
            (&["192.0.2.7, localhost"], NOBODY),
            (&["192.0.2.7 10.0.0.9"], NOBODY),
            (&["192.0.2.7:99999"], NOBODY),
            (&["192.0.2.7:"], NOBODY),
            (&["[2001:db8::1"], NOBODY),
            (&["2001:db8::1]:443"], NOBODY),
            (&["010.0.2.7"], NOBODY),
            (&["fe80::1%eth0"], NOBODY),
            (&["192.0.2.7;x"], NOBODY),
            (&["\u{ff11}92.0.2.7"], NOBODY),
            (&[""], NOBODY),
        ] {
            assert_eq!(named("X-Forwarded-For", lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn forwarded_fields_follow_rfc_7239() {
        for (lines, expected) in [
            (&["for=192.0.2.7"][..], "192.0.2.7"),
            (&["For=192.0.2.7;proto=http;by=10.0.0.1"], "192.0.2.7"),
            (&["proto=http; FOR = 192.0.2.7"], "192.0.2.7"),
            (&["for=192.0.2.7, for=10.0.0.9"], "192.0.2.7"),
            (&["for=192.0.2.7", "for=10.0.0.9"], "192.0.2.7"),
            (&[r#"for="192.0.2.7:80""#], "192.0.2.7"),
            (&[r#"for="[2001:db8::1]""#], "2001:db8::1"),
            (&[r#"for="[2001:db8::1]:443""#], "2001:db8::1"),
            (&[r#"for="[2001:db8::1]:_port""#], "2001:db8::1"),
            (&[r#"for="\1\92.0.2.7""#], "192.0.2.7"),
            (&[r#"host="a,b;for=1.2.3.4";for=192.0.2.7"#], "192.0.2.7"),
            (
                &[r#"for=192.0.2.7, host="a\",for=8.8.8.8";for=10.0.0.9"#],
                "192.0.2.7",
            ),
            (&["for=2001:db8::1"], NOBODY),
            (&["for=unknown"], NOBODY),
            (&["for=_gazonk"], NOBODY),
            (&["for=192.0.2.7, proto=http"], NOBODY),
            (&["for=192.0.2.7;for=192.0.2.8"], NOBODY),
            (&[r#"for="192.0.2.7"#], NOBODY),
            (&["for"], NOBODY),
            (&["for="], NOBODY),
        ] {
            assert_eq!(named("Forwarded", lines), expected, "{lines:?}");
        }
    }

    /// Regression: the rest of a line after an open quote became part of its last value.
    #[test]
    fn an_open_quote_does_not_hide_appended_hops() {
        for forged in [
            r#"for=8.8.8.8;x=""#,
            r#"for=8.8.8.8;x="\"#,
            r#"for=8.8.8.8;x="\""#,
            r#"for=8.8.8.8;""#,
            r#"for="8.8.8.8"#,
        ] {
            for added in [
                "for=192.0.2.7",
                r#"for="[2001:db8::1]:443""#,
                r#"for=192.0.2.7;x="\"""#,
            ] {
                let line = format!("{forged}, {added}");
                assert_eq!(named("forwarded", &[&line]), NOBODY, "{line}");
            }
            assert_eq!(named("forwarded", &[forged, "for=192.0.2.7"]), "192.0.2.7");
        }
    }

    #[test]
    fn other_fields_contain_one_address() {
        for (lines, expected) in [
            (&["192.0.2.7"][..], "192.0.2.7"),
            (&[" 2001:db8::1 "], "2001:db8::1"),
            (&["10.0.0.9"], "10.0.0.9"),
            (&["192.0.2.7, 10.0.0.9"], NOBODY),
            (&["192.0.2.7", "192.0.2.7"], NOBODY),
            (&["for=192.0.2.7"], NOBODY),
            (&[""], NOBODY),
        ] {
            assert_eq!(named("CF-Connecting-IP", lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn an_absent_field_is_not_an_error() {
        for header in KNOWN_FIELDS {
            assert_eq!(read(header, &[]), Ok(None));
        }
        assert!("x forwarded".parse::<ClientIpHeader>().is_err());
        assert!("".parse::<ClientIpHeader>().is_err());
    }

    #[test]
    fn translated_hops_become_ipv4() {
        for (hops, expected) in [
            ("64:ff9b::192.0.2.7", "192.0.2.7"),
            ("2001:db8:64::192.0.2.7", "192.0.2.7"),
            ("192.0.2.7, 2001:db8:64::10.0.0.9", "192.0.2.7"),
        ] {
            assert_eq!(named("x-forwarded-for", &[hops]), expected);
        }
    }

    #[test]
    fn the_number_of_hops_is_bounded() {
        let chain = |hops: usize| format!("192.0.2.7{}", ", 10.0.0.9".repeat(hops));
        let named = |line: &str| named("x-forwarded-for", &[line]);
        assert_eq!(named(&chain(31)), "192.0.2.7");
        assert_eq!(named(&chain(32)), NOBODY);
        assert_eq!(named(&vec!["10.0.0.9"; 33].join(",")), NOBODY);
    }

    proptest! {
        /// The hop appended by a proxy counts, whatever the client wrote before it.
        #[test]
        fn the_last_hop_is_the_client_or_nobody_is(client in ".{0,30}", field in 0..2_usize) {
            let added = ["192.0.2.7", "for=192.0.2.7"][field];
            let line = format!("{client}, {added}");
            let found = named(KNOWN_FIELDS[field], &[&line]);
            prop_assert!(found == "192.0.2.7" || (field == 1 && found == NOBODY), "{line}: {found}");
        }

        #[test]
        fn no_bytes_panic(lines: Vec<Vec<u8>>) {
            let proxies: CidrSet = "10.0.0.0/8".parse().unwrap();
            for header in KNOWN_FIELDS {
                let lines = lines.iter().map(Vec::as_slice);
                let _ = client(&proxies, &Nat64Prefixes::default(), &header.parse().unwrap(), lines);
            }
        }
    }
}
