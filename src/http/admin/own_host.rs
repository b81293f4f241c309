//! Protection against other web origins.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use http::uri::Authority;
use http::{HeaderMap, StatusCode, Uri, header};

use crate::http::problem::Problem;

/// Checks that `Host` is a name of this service, which prevents DNS rebinding, and that `Origin`, if
/// present, is the same.
pub(super) fn require_own_host(
    headers: &HeaderMap,
    uri: &Uri,
    hosts: &BTreeSet<String>,
) -> Result<(), Problem> {
    let authority = authority(headers, uri)?;
    let is_own = |host: &str| {
        host.eq_ignore_ascii_case("localhost")
            || is_ip_address(host)
            || hosts.contains(&host.to_ascii_lowercase())
    };
    let Some(authority) = authority.filter(|authority| host(authority).is_some_and(is_own)) else {
        let detail = "`Host` is not a name of this service: use an IP address or `localhost`, or add \
                      the name with `AdminService::hosts` (`keyguard serve --host`).";
        return Err(Problem::new(StatusCode::FORBIDDEN, "foreign_host", detail));
    };
    for origin in headers.get_all(header::ORIGIN) {
        let origin = origin
            .to_str()
            .ok()
            .and_then(|o| Some(o.split_once("://")?.1));
        if origin.is_none_or(|origin| !origin.eq_ignore_ascii_case(authority.as_str())) {
            let detail = "Pages of other origins must not use this service.";
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "foreign_origin",
                detail,
            ));
        }
    }
    Ok(())
}

/// Returns the authority in `Host` or in the target of a request (HTTP/2, or the absolute form). A
/// request with two different authorities is malformed (RFC 9113 §8.3.1, RFC 9112 §3.2.2).
fn authority(headers: &HeaderMap, uri: &Uri) -> Result<Option<Authority>, Problem> {
    let mut values = headers.get_all(header::HOST).iter();
    let host = match (values.next(), values.next()) {
        (None, _) => return Ok(uri.authority().cloned()),
        (Some(value), None) => value.to_str().ok().and_then(|value| value.parse().ok()),
        _ => return Err(conflicting("`Host` must occur once only.")),
    };
    let is_same = |host: &Authority, target: &Authority| {
        let default = match uri.scheme_str() {
            Some("https") => 443,
            _ => 80,
        };
        let port = |authority: &Authority| authority.port_u16().unwrap_or(default);
        host.host().eq_ignore_ascii_case(target.host()) && port(host) == port(target)
    };
    match (&host, uri.authority()) {
        (Some(host), Some(target)) if !is_same(host, target) => Err(conflicting(
            "`Host` and the target contain different hosts.",
        )),
        _ => Ok(host),
    }
}

fn conflicting(detail: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "conflicting_hosts", detail)
}

/// Returns the host of an authority that consists of a host and, optionally, a port.
fn host(authority: &Authority) -> Option<&str> {
    let host = authority.host();
    match authority.as_str().strip_prefix(host)? {
        "" => Some(host),
        port => authority
            .port_u16()
            .filter(|_| port.starts_with(':'))
            .map(|_| host),
    }
}

/// Whether a host is an IP address; IPv6 is in brackets (RFC 3986 §3.2.2).
fn is_ip_address(host: &str) -> bool {
    let bracketed = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match bracketed {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host.parse::<Ipv4Addr>().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Status of the refusal of a request with this target and these header fields.
    fn refusal(target: &str, fields: &[(&'static str, &str)]) -> Option<u16> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let hosts = BTreeSet::from(["guard.internal".to_owned()]);
        let result = require_own_host(&headers, &target.parse().unwrap(), &hosts);
        let problem = result.err()?;
        Some(problem.into_response::<String>().status().as_u16())
    }

    #[test]
    fn host_must_be_an_own_name_or_an_ip_address() {
        for own in [
            "localhost",
            "LOCALHOST:8700",
            "127.0.0.1:8700",
            "192.0.2.7",
            "[::1]",
            "[2001:db8::1]:8700",
            "guard.internal",
            "Guard.Internal:443",
        ] {
            assert_eq!(refusal("/", &[("host", own)]), None, "{own}");
        }
        for foreign in [
            "evil.example",
            "[::1].evil",
            "[::1].evil:80",
            "[::1]evil",
            "[[::1]]",
            "[::1",
            "[127.0.0.1]",
            "::1",
            "127.0.0.1.evil",
            "127.1",
            "localhost.evil",
            "localhost.",
            "localhost:",
            "localhost:99999",
            "localhost:80:80",
            "user@localhost",
            "localhost@evil.example",
            "localhost/evil",
            "localhost, evil.example",
            "",
        ] {
            assert_eq!(refusal("/", &[("host", foreign)]), Some(403), "{foreign}");
        }
        assert_eq!(refusal("/", &[]), Some(403));
    }

    #[test]
    fn host_and_target_authority_must_agree() {
        let both = |target: &str, host| refusal(target, &[("host", host)]);
        for (target, host) in [
            ("http://localhost/", "localhost"),
            ("http://localhost/", "LOCALHOST:80"),
            ("https://localhost:443/", "localhost"),
            ("http://[::1]:8700/", "[::1]:8700"),
        ] {
            assert_eq!(both(target, host), None, "{target} {host}");
        }
        for (target, host) in [
            ("http://evil.example/", "localhost"),
            ("http://localhost/", "evil.example"),
            ("http://localhost:8700/", "localhost"),
            ("https://localhost/", "localhost:80"),
            ("http://[::1]/", "[::2]"),
        ] {
            assert_eq!(both(target, host), Some(400), "{target} {host}");
        }
        assert_eq!(both("http://evil.example/", "evil.example"), Some(403));
        assert_eq!(both("http://localhost/", "[::1].evil"), Some(400));
        assert_eq!(refusal("http://localhost/", &[]), None);
        assert_eq!(refusal("http://evil.example/", &[]), Some(403));
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(refusal("/", &twice), Some(400));
    }

    #[test]
    fn origin_must_match_the_authority() {
        let of = |origin| refusal("http://localhost:8700/", &[("origin", origin)]);
        assert_eq!(of("http://localhost:8700"), None);
        for foreign in ["https://evil.example", "null", "http://localhost"] {
            assert_eq!(of(foreign), Some(403), "{foreign}");
        }
    }
}
