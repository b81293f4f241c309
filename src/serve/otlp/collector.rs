//! A collector, and requests to it.

use std::io;
use std::str::FromStr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Uri, header};
use http_body_util::Full;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::input::InvalidInput;
use crate::serve::http_client;

/// The address of a collector.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    host: String,
    port: u16,
    pub(super) is_encrypted: bool,
    /// For the field `Host`.
    authority: String,
    path: String,
}

impl FromStr for Endpoint {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || {
            let expected = "expected the address of a collector, such as `http://127.0.0.1:4318` or \
                            `https://otel.example.com`, with a port from 1 to 65535, if any";
            InvalidInput::new("otlp_endpoint", expected)
        };
        let uri: Uri = text.parse().map_err(|_| invalid())?;
        let (is_encrypted, port) = match uri.scheme_str() {
            Some("https") => (true, 443),
            Some("http") => (false, 80),
            _ => return Err(invalid()),
        };
        let authority = uri.authority().ok_or_else(invalid)?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(invalid());
        }
        Ok(Self {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: http_client::port_of(authority, port).ok_or_else(invalid)?,
            is_encrypted,
            authority: authority.to_string(),
            path: format!("{}/v1/traces", uri.path().trim_end_matches('/')),
        })
    }
}

/// A collector.
pub(super) struct Collector {
    pub(super) endpoint: Endpoint,
    /// Further header fields of requests.
    pub(super) headers: HeaderMap,
    /// `None` without TLS.
    pub(super) tls: Option<TlsConnector>,
}

impl Collector {
    pub(super) async fn send(&self, body: String) -> io::Result<()> {
        let Endpoint { host, port, .. } = &self.endpoint;
        let host_field = HeaderValue::from_str(&self.endpoint.authority);
        let json = HeaderValue::from_static("application/json");
        let mut headers = self.headers.clone();
        headers.insert(header::HOST, host_field.map_err(io::Error::other)?);
        headers.insert(header::CONTENT_TYPE, json);
        let request = Request::post(&self.endpoint.path).body(Full::new(Bytes::from(body)));
        let mut request = request.map_err(io::Error::other)?;
        *request.headers_mut() = headers;
        let stream = http_client::connect((host.as_str(), *port)).await?;
        let head = match &self.tls {
            None => http_client::send(stream, request).await?,
            Some(tls) => {
                let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                http_client::send(tls.connect(name, stream).await?, request).await?
            }
        };
        let status = head.status;
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
        let endpoint = |text: &str| text.parse::<Endpoint>().ok();
        let parts = |text: &str| {
            let endpoint = endpoint(text).unwrap();
            let Endpoint { host, port, .. } = endpoint;
            (endpoint.is_encrypted, host, port, endpoint.path)
        };
        let expected = |is_encrypted, host: &str, port, path: &str| {
            (is_encrypted, host.to_owned(), port, path.to_owned())
        };
        assert_eq!(
            parts("http://127.0.0.1:4318"),
            expected(false, "127.0.0.1", 4_318, "/v1/traces")
        );
        assert_eq!(
            parts("http://[::1]:4318/otel/"),
            expected(false, "::1", 4_318, "/otel/v1/traces")
        );
        assert_eq!(
            parts("https://otel.example.com/"),
            expected(true, "otel.example.com", 443, "/v1/traces")
        );
        assert_eq!(
            parts("http://collector"),
            expected(false, "collector", 80, "/v1/traces")
        );
        for invalid in [
            "",
            "127.0.0.1:4318",
            "grpc://collector:4318",
            "http://user:password@collector",
            "http://collector/?a=b",
            "http://collector:99999",
            "http://collector:",
        ] {
            assert!(endpoint(invalid).is_none(), "{invalid}");
        }
    }
}
