//! A collector, and requests to it.

use std::io;
use std::str::FromStr;

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::Full;

use crate::input::InvalidInput;
use crate::serve::http_client;

/// The address of a collector without TLS: one on the same machine, or in a network that is trusted.
#[derive(Clone, Debug)]
pub(super) struct Collector {
    host: String,
    port: u16,
    /// For the field `Host`.
    authority: String,
    path: String,
}

impl FromStr for Collector {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || {
            let expected = "expected the address of a collector, such as `http://127.0.0.1:4318`, with a port from 1 \
                            to 65535";
            InvalidInput::new("otlp_endpoint", expected)
        };
        let uri: Uri = text.parse().map_err(|_| invalid())?;
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http"));
        let authority = authority.ok_or_else(invalid)?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(invalid());
        }
        Ok(Self {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: http_client::port_of(authority, 80).ok_or_else(invalid)?,
            authority: authority.to_string(),
            path: format!("{}/v1/traces", uri.path().trim_end_matches('/')),
        })
    }
}

impl Collector {
    pub(super) async fn send(&self, body: String) -> io::Result<()> {
        let request = Request::post(&self.path)
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(io::Error::other)?;
        let stream = http_client::connect((self.host.as_str(), self.port)).await?;
        let status = http_client::send(stream, request).await?.status;
        match status.is_success() {
            true => Ok(()),
            false => Err(io::Error::other(format!(
                "it responds with status {status}"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_http() {
        let collector = |text: &str| text.parse::<Collector>().ok();
        let paths = |text: &str| {
            let collector = collector(text).unwrap();
            (collector.host, collector.port, collector.path)
        };
        let expected = |host: &str, port, path: &str| (host.to_owned(), port, path.to_owned());
        assert_eq!(
            paths("http://127.0.0.1:4318"),
            expected("127.0.0.1", 4_318, "/v1/traces")
        );
        assert_eq!(
            paths("http://[::1]:4318/otel/"),
            expected("::1", 4_318, "/otel/v1/traces")
        );
        for invalid in [
            "",
            "127.0.0.1:4318",
            "https://collector:4318",
            "http://user:password@collector",
            "http://collector/?a=b",
            "http://collector:99999",
            "http://collector:",
        ] {
            assert!(collector(invalid).is_none(), "{invalid}");
        }
    }
}
