//! For which client a trusted proxy asks.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::addresses::Addresses;
use crate::client_ip::ClientIp;

/// More hops than this are not read.
const MOST_HOPS: usize = 32;

/// Who asks, of a request that came through proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) ip: ClientIp,
    /// Both header fields are there and name different clients.
    pub(crate) is_disputed: bool,
}

/// The client that a proxy at `peer` speaks for, by the values of `X-Forwarded-For` and of
/// `Forwarded` (RFC 7239).
///
/// Hops are read from the right, those nearest to us first. Trusted ones are passed over and the
/// first that is not is the client; if all are trusted, the leftmost is. What is not an address
/// before that, or a chain that is too long, names nobody: the peer stands for itself, and nothing
/// further left is looked at. Where both fields name different clients the peer stands for itself
/// too: a proxy that sets one of them hands the other on as a client wrote it.
pub(crate) fn client<'a>(
    peer: ClientIp,
    trusted: &Addresses,
    x_forwarded_for: impl Iterator<Item = &'a [u8]>,
    forwarded: impl Iterator<Item = &'a [u8]>,
) -> Client {
    let undisputed = |ip| Client {
        ip,
        is_disputed: false,
    };
    if !trusted.contains(peer) {
        return undisputed(peer);
    }
    let by_list = named(trusted, x_forwarded_for, list_hops);
    let by_rfc = named(trusted, forwarded, rfc_hops);
    match (by_list, by_rfc) {
        (Named::Absent, Named::Absent) => undisputed(peer),
        (named, Named::Absent) | (Named::Absent, named) => {
            undisputed(named.client().unwrap_or(peer))
        }
        (one, other) if one == other => undisputed(one.client().unwrap_or(peer)),
        _ => Client {
            ip: peer,
            is_disputed: true,
        },
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    Absent,
    Nobody,
    Client(ClientIp),
}

impl Named {
    fn client(self) -> Option<ClientIp> {
        match self {
            Self::Client(ip) => Some(ip),
            Self::Absent | Self::Nobody => None,
        }
    }
}

/// The client that the lines of one field name. Lines are one list, in their order.
fn named<'a>(
    trusted: &Addresses,
    lines: impl Iterator<Item = &'a [u8]>,
    hops: impl Fn(&'a [u8], &mut Hops),
) -> Named {
    let mut all = Hops::default();
    let mut is_absent = true;
    for line in lines {
        is_absent = false;
        hops(line, &mut all);
    }
    if is_absent {
        return Named::Absent;
    }
    let mut leftmost = None;
    for hop in all.nearest_first() {
        match hop {
            None => return Named::Nobody,
            Some(ip) if trusted.contains(ip) => leftmost = Some(ip),
            Some(ip) => return Named::Client(ip),
        }
    }
    match leftmost {
        Some(ip) if all.count <= MOST_HOPS => Named::Client(ip),
        _ => Named::Nobody,
    }
}

/// The last hops that were read; `None` for one that is no address.
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

/// `for=192.0.2.7;proto=https, for="[2001:db8::1]:443"`
fn rfc_hops(line: &[u8], hops: &mut Hops) {
    for element in split_unquoted(line, b',') {
        hops.push(for_of(element));
    }
}

/// The address of the one `for` of an element.
fn for_of(element: &[u8]) -> Option<ClientIp> {
    let mut found = None;
    for pair in split_unquoted(element, b';') {
        let at = pair.iter().position(|byte| *byte == b'=');
        let (name, value) = at.map_or((pair, None), |at| (&pair[..at], Some(&pair[at + 1..])));
        if !name.trim_ascii().eq_ignore_ascii_case(b"for") {
            continue;
        }
        let text = unquoted(value?.trim_ascii())?;
        let ip = node(&text)?;
        if found.replace(ip).is_some() {
            return None;
        }
    }
    found
}

/// An IPv6 address has brackets here (RFC 7239 §6).
fn node(text: &[u8]) -> Option<ClientIp> {
    let is_bare_ipv6 = !text.starts_with(b"[") && text.iter().filter(|b| **b == b':').count() > 1;
    if is_bare_ipv6 { None } else { address(text) }
}

/// The parts between separators that are not within a quoted string.
fn split_unquoted(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(move |&byte| {
        if is_escaped {
            is_escaped = false;
            return false;
        }
        match byte {
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            _ => {}
        }
        byte == separator && !is_quoted
    })
}

/// A token as it is, or what a quoted string says (RFC 9110 §5.6.4).
fn unquoted(value: &[u8]) -> Option<Vec<u8>> {
    let Some(rest) = value.strip_prefix(b"\"") else {
        return Some(value.to_vec());
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

/// An address, with a port or without.
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
    // A port may be obfuscated: letters, digits, `.`, `_`, `-` behind an underscore (RFC 7239 §6.2).
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

    const PEER: &str = "10.0.0.1";

    fn asked(peer: &str, lists: &[&str], rfc: &[&str]) -> Client {
        let trusted: Addresses = "10.0.0.0/8,2001:db8:aaaa::/48,local".parse().unwrap();
        client(
            peer.parse().unwrap(),
            &trusted,
            lists.iter().map(|line| line.as_bytes()),
            rfc.iter().map(|line| line.as_bytes()),
        )
    }

    #[test]
    fn the_rightmost_hop_that_is_not_trusted_is_the_client() {
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
            // All are trusted.
            (&["10.9.9.9, 10.0.0.9"], "10.9.9.9"),
            // Not leftward past what is no address.
            (&["192.0.2.7, unknown"], PEER),
            (&["192.0.2.7, _hidden"], PEER),
            (&["192.0.2.7, , 10.0.0.9"], PEER),
            (&["192.0.2.7,"], PEER),
            (&["192.0.2.7, 10.0.0.256"], PEER),
            (&["192.0.2.7, localhost"], PEER),
            (&["192.0.2.7 10.0.0.9"], PEER),
            (&["192.0.2.7:99999"], PEER),
            (&["192.0.2.7:"], PEER),
            (&["[2001:db8::1"], PEER),
            (&["2001:db8::1]:443"], PEER),
            (&["010.0.2.7"], PEER),
            (&["fe80::1%eth0"], PEER),
            (&["192.0.2.7;x"], PEER),
            (&["\u{ff11}92.0.2.7"], PEER),
            (&[""], PEER),
            (&[], PEER),
        ] {
            let found = asked(PEER, lines, &[]);
            assert_eq!(found.ip.to_string(), expected, "{lines:?}");
            assert!(!found.is_disputed);
        }
    }

    #[test]
    fn the_field_of_the_standard_is_read_as_it_says() {
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
            (&["for=2001:db8::1"], PEER),
            (&["for=unknown"], PEER),
            (&["for=_gazonk"], PEER),
            (&["for=192.0.2.7, proto=http"], PEER),
            (&["for=192.0.2.7;for=192.0.2.8"], PEER),
            (&[r#"for="192.0.2.7"#], PEER),
            (&["for"], PEER),
            (&["for="], PEER),
        ] {
            let found = asked(PEER, &[], lines);
            assert_eq!(found.ip.to_string(), expected, "{lines:?}");
        }
    }

    #[test]
    fn fields_that_name_different_clients_name_nobody() {
        let found = asked(PEER, &["192.0.2.7"], &["for=192.0.2.8"]);
        assert_eq!(
            (found.ip.to_string().as_str(), found.is_disputed),
            (PEER, true)
        );
        let found = asked(PEER, &["192.0.2.7"], &["for=_x"]);
        assert!(found.is_disputed);
        let found = asked(PEER, &["192.0.2.7"], &["for=192.0.2.7, for=10.0.0.3"]);
        assert_eq!(found.ip.to_string(), "192.0.2.7");
    }

    #[test]
    fn who_is_not_trusted_is_not_believed() {
        for peer in ["192.0.2.1", "2001:db8::1"] {
            let found = asked(peer, &["203.0.113.9"], &["for=203.0.113.9"]);
            assert_eq!(found.ip.to_string(), peer);
        }
        assert_eq!(
            asked("local", &["192.0.2.7"], &[]).ip.to_string(),
            "192.0.2.7"
        );
    }

    #[test]
    fn only_so_many_hops_are_read() {
        let chain = |hops: usize| format!("192.0.2.7{}", ", 10.0.0.9".repeat(hops));
        assert_eq!(asked(PEER, &[&chain(31)], &[]).ip.to_string(), "192.0.2.7");
        assert_eq!(asked(PEER, &[&chain(32)], &[]).ip.to_string(), PEER);
        let trusted = vec!["10.0.0.9"; 33].join(",");
        assert_eq!(asked(PEER, &[&trusted], &[]).ip.to_string(), PEER);
    }

    proptest! {
        #[test]
        fn no_bytes_are_believed_of_a_stranger(lines: Vec<Vec<u8>>, trusted: bool) {
            let peer: ClientIp = if trusted { PEER } else { "192.0.2.1" }.parse().unwrap();
            let proxies: Addresses = "10.0.0.0/8".parse().unwrap();
            let values = || lines.iter().map(Vec::as_slice);
            let found = client(peer, &proxies, values(), values());
            prop_assert!(trusted || found.ip == peer);
        }
    }
}
