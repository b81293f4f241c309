//! Settings of the server, which are arguments of `keyguard serve`.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::backups::BackupSettings;
use super::leaks::LeakSettings;
use super::listen::ListenAddr;
use super::otlp::OtlpOpts;
use super::tls::Tls;
use super::webhooks::WebhookSettings;
use crate::net::CidrSet;
use crate::time::duration::duration_argument;

#[derive(Clone, Debug, Args)]
pub(crate) struct Settings {
    /// The address to listen on: IP:PORT (port 0 for any free port) or `unix:PATH`; may be repeated
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8700")]
    pub(super) listen: Vec<ListenAddr>,
    /// The mode of Unix sockets, in octal digits
    #[arg(long, value_name = "MODE", default_value = "600", value_parser = mode)]
    pub(super) socket_mode: u32,
    #[command(flatten)]
    pub(super) tls: Option<Tls>,
    /// Peers that may request checks and metrics, and whose forwarding headers are trusted; replaces the
    /// default
    #[arg(long, value_name = "NETWORKS", default_value = "127.0.0.0/8,::1,local")]
    pub(super) trust: CidrSet,
    /// A host name of the server, in addition to IP addresses and localhost; may be repeated
    #[arg(long = "host", value_name = "NAME")]
    pub(super) hosts: Vec<String>,
    /// The maximum number of open connections; more wait
    #[arg(long, value_name = "NUMBER", default_value = "16384")]
    pub(super) max_connections: NonZeroUsize,
    /// The maximum size of the head of a request in bytes, at least 8,192
    // The minimum is that of hyper.
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 16_384,
        value_parser = RangedU64ValueParser::<usize>::new().range(8_192..)
    )]
    pub(super) max_head: usize,
    /// The maximum size of the body of a request in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 65_536)]
    pub(super) max_body: usize,
    /// The time a client has to send the head of a request, to send its body, to send the next request,
    /// and to read a part of the response
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration_argument)]
    pub(super) timeout: Duration,
    /// The time that requests have to finish when the server stops
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration_argument)]
    pub(super) grace: Duration,
    /// Log each HTTP request to this server, without its query, at the level info
    #[arg(long)]
    pub(super) log_requests: bool,
    #[command(flatten)]
    pub(super) otlp: OtlpOpts,
    #[command(flatten)]
    pub(super) backups: BackupSettings,
    #[command(flatten)]
    pub(super) leaks: LeakSettings,
    #[command(flatten)]
    pub(crate) webhooks: WebhookSettings,
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("expected up to three octal digits, such as 660".into()),
    }
}
