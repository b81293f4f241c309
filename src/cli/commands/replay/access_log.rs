//! Access logs in the common and combined formats.

use jiff::fmt::strtime;

use crate::model::Method;
use crate::net::ClientIp;
use crate::time::Timestamp;

/// A request of a log.
#[derive(Debug, PartialEq)]
pub(super) struct LoggedRequest<'a> {
    pub(super) ip: ClientIp,
    /// `None` for `-`.
    pub(super) user: Option<&'a str>,
    pub(super) time: Timestamp,
    pub(super) method: Method,
    pub(super) target: &'a str,
}

impl<'a> LoggedRequest<'a> {
    /// Parses a line: `HOST IDENT USER [TIME] "METHOD TARGET PROTOCOL" …`.
    pub(super) fn parse(line: &'a str) -> Option<Self> {
        let (host, rest) = line.split_once(' ')?;
        let (_ident, rest) = rest.split_once(' ')?;
        // The name of a user may contain spaces.
        let (user, rest) = rest.split_once(" [")?;
        let (time, rest) = rest.split_once("] \"")?;
        let request = &rest[..closing_quote(rest)?];
        let (method, rest) = request.split_once(' ')?;
        let target = rest
            .rsplit_once(" HTTP/")
            .map_or(rest, |(target, _)| target);
        Some(Self {
            ip: host.parse().ok()?,
            user: (user != "-").then_some(user),
            time: parse_time(time)?,
            method: method.into(),
            target,
        })
    }
}

/// Returns the position of the first quote without a backslash before it.
fn closing_quote(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    })
}

/// Parses a time such as `10/Oct/2000:13:55:36 -0700`.
fn parse_time(text: &str) -> Option<Timestamp> {
    let time = strtime::parse("%d/%b/%Y:%H:%M:%S %z", text).ok()?;
    let millis = time.to_timestamp().ok()?.as_millisecond();
    Some(Timestamp::from_unix_millis(u64::try_from(millis).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = r#"[10/Oct/2000:13:55:36 -0700] "GET /a?b HTTP/1.0" 200 2326"#;

    #[test]
    fn both_formats_are_parsed() {
        for end in ["", r#" "http://x/" "Mozilla/4.08""#, " whatever"] {
            let line = format!("192.0.2.7 - 17 {REST}{end}");
            let request = LoggedRequest::parse(&line).unwrap();
            assert_eq!(request.time.to_string(), "2000-10-10T20:55:36Z");
            assert_eq!((request.user, request.target), (Some("17"), "/a?b"));
            assert_eq!(
                (request.ip.to_string().as_str(), request.method),
                ("192.0.2.7", Method::Get)
            );
        }
        let line = format!("::1 - - {REST}");
        assert_eq!(LoggedRequest::parse(&line).unwrap().user, None);
        let odd = r#"::1 - a b [10/Oct/2000:13:55:36 +0000] "BREW /a\"b c" 200 -"#;
        let request = LoggedRequest::parse(odd).unwrap();
        assert_eq!((request.user, request.target), (Some("a b"), r#"/a\"b c"#));
        assert_eq!(request.method, Method::Other);
    }

    #[test]
    fn other_lines_are_not_requests() {
        for line in [
            "",
            "x",
            "example.com - - [10/Oct/2000:13:55:36 -0700] \"GET / HTTP/1.0\" 200 1",
            "::1 - - [10/Okt/2000:13:55:36 -0700] \"GET / HTTP/1.0\" 200 1",
            "::1 - - [10/Oct/2000:13:55:36] \"GET / HTTP/1.0\" 200 1",
            "::1 - - [10/Oct/2000:13:55:36 -0700] \"GET / HTTP/1.0",
            "::1 - - [10/Oct/2000:13:55:36 -0700] \"-\" 408 0",
        ] {
            assert_eq!(LoggedRequest::parse(line), None, "{line}");
        }
    }
}
