//! One webhook: connections to its receiver, and requests on them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header, response};
use http_body_util::Full;
use tokio::net::lookup_host;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::signature::SigningSecrets;
use super::url::WebhookUrl;
use crate::net::{Nat64Prefixes, is_public};
use crate::serve::http_client::{self, Stream};
use crate::time::Timestamp;

/// The longest time from the look-up of the host to the head of the response.
const TIMEOUT: Duration = Duration::from_secs(15);

/// How events are sent to one webhook.
#[derive(Clone)]
pub(super) struct Receiver {
    pub(super) url: WebhookUrl,
    pub(super) secrets: SigningSecrets,
    pub(super) tls: TlsConnector,
    /// Whether it may have a private address.
    pub(super) allow_private: bool,
}

/// The response to an attempt, or why there is none.
pub(super) struct Answer {
    /// `None` without a response.
    pub(super) status: Option<StatusCode>,
    pub(super) retry_after: Option<String>,
    /// For the log of deliveries.
    pub(super) text: String,
}

impl Receiver {
    /// Sends an event once.
    pub(super) async fn send(
        self: Arc<Self>,
        id: &str,
        body: &str,
        now: Timestamp,
        nat64: Nat64Prefixes,
    ) -> Answer {
        let exchange = timeout(TIMEOUT, self.exchange(id, body, now, &nat64));
        let head = exchange.await.unwrap_or_else(|_| {
            let problem = format!("no response within {} s", TIMEOUT.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, problem))
        });
        match head {
            Ok(head) => Answer {
                status: Some(head.status),
                retry_after: head
                    .headers
                    .get(header::RETRY_AFTER)
                    .and_then(|value| value.to_str().ok())
                    .map(str::to_owned),
                text: head.status.to_string(),
            },
            Err(error) => Answer {
                status: None,
                retry_after: None,
                text: error.to_string(),
            },
        }
    }

    async fn exchange(
        &self,
        id: &str,
        body: &str,
        now: Timestamp,
        nat64: &Nat64Prefixes,
    ) -> io::Result<response::Parts> {
        let seconds = now.unix_millis() / 1_000;
        let request = Request::post(&self.url.target)
            .header(header::HOST, &self.url.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(
                header::USER_AGENT,
                concat!("keyguard/", env!("CARGO_PKG_VERSION")),
            )
            .header("webhook-id", id)
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", self.secrets.sign(id, seconds, body))
            .body(Full::new(Bytes::from(body.to_owned())))
            .map_err(io::Error::other)?;
        let stream = self.connect(nat64).await?;
        if !self.url.is_encrypted {
            return http_client::send(stream, request).await;
        }
        let name = ServerName::try_from(self.url.host.clone()).map_err(io::Error::other)?;
        let stream = self.tls.connect(name, stream).await?;
        http_client::send(stream, request).await
    }

    /// Connects to an address of the host that was checked itself: a second look-up could give another one.
    async fn connect(&self, nat64: &Nat64Prefixes) -> io::Result<Stream> {
        let (host, port) = (self.url.host.as_str(), self.url.port);
        let is_allowed = |ip: IpAddr| self.allow_private || is_public(ip, nat64);
        let found = lookup_host((host, port)).await?;
        let allowed: Vec<SocketAddr> = found.filter(|address| is_allowed(address.ip())).collect();
        match allowed.is_empty() {
            true => Err(io::Error::other(
                "the host has no public address; `--webhook-allow-private` allows private ones",
            )),
            false => http_client::connect(allowed.as_slice()).await,
        }
    }
}
