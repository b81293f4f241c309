//! Addresses of webhooks.

use std::fmt;
use std::str::FromStr;

use http::Uri;

use crate::input::InvalidInput;
use crate::serve::http_client;

/// The address of a receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WebhookUrl {
    text: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) is_encrypted: bool,
    /// For the field `Host`.
    pub(super) authority: String,
    /// The path and the query.
    pub(super) target: String,
}

impl FromStr for WebhookUrl {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || {
            let expected = "expected the address of a receiver, such as `https://example.com/events`, \
                            without a user name, a password or a fragment, and with a port from 1 to 65535, if any";
            InvalidInput::new("webhook", expected)
        };
        let uri: Uri = text.parse().map_err(|_| invalid())?;
        let is_encrypted = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(invalid()),
        };
        let authority = uri.authority().ok_or_else(invalid)?;
        if authority.as_str().contains('@') || authority.host().is_empty() || text.contains('#') {
            return Err(invalid());
        }
        let port = if is_encrypted { 443 } else { 80 };
        Ok(Self {
            text: text.to_owned(),
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: http_client::port_of(authority, port).ok_or_else(invalid)?,
            is_encrypted,
            authority: authority.to_string(),
            target: uri
                .path_and_query()
                .map_or("/", |target| target.as_str())
                .to_owned(),
        })
    }
}

impl WebhookUrl {
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// The scheme and the host: the path of a webhook may be its password, so that it is in no log.
    pub(super) fn origin(&self) -> Origin<'_> {
        Origin(self)
    }
}

pub(super) struct Origin<'a>(&'a WebhookUrl);

impl fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.0.is_encrypted { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.0.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_those_of_the_address() {
        let url = |text: &str| text.parse::<WebhookUrl>().unwrap();
        let parts = |text: &str| {
            let url = url(text);
            (url.host, url.port, url.is_encrypted, url.target)
        };
        let expected = |host: &str, port, is_encrypted, target: &str| {
            (host.to_owned(), port, is_encrypted, target.to_owned())
        };
        assert_eq!(
            parts("https://example.com/events?of=a"),
            expected("example.com", 443, true, "/events?of=a")
        );
        assert_eq!(
            parts("http://[::1]:8080"),
            expected("::1", 8_080, false, "/")
        );
        let shown = url("https://example.com:8443/token").origin().to_string();
        assert_eq!(shown, "https://example.com:8443");
    }

    #[test]
    fn other_addresses_are_refused() {
        for text in [
            "",
            "example.com",
            "/events",
            "ftp://example.com",
            "https://",
            "https://user:hunter2@example.com",
            "https://example.com/#a",
            "https://example.com:99999/x",
            "https://example.com:/x",
            "http://[::1]:0",
        ] {
            let error = text.parse::<WebhookUrl>().unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
