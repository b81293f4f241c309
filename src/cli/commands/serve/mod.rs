//! `serve`

mod usage_log;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use clap::builder::RangedU64ValueParser;

use self::usage_log::UsageLog;
use crate::cli::output::complain_of_warning;
use crate::cli::session::open_in_turn;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::guard::Config;
use crate::limiter::Fallback;
use crate::net::CidrSet;
use crate::serve::{self, ListenAddr, ServeError, Settings, Tls};
use crate::sink::JsonLines;
#[cfg(feature = "redis")]
use crate::sink::RedisStream;
use crate::time::duration;

#[derive(Args)]
pub(crate) struct Opts {
    /// The address to listen on: IP:PORT (port 0 for any free port) or `unix:PATH`; may be repeated
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8700")]
    listen: Vec<ListenAddr>,
    /// The mode of Unix sockets, in octal digits
    #[arg(long, value_name = "MODE", default_value = "600", value_parser = mode)]
    socket_mode: u32,
    /// The TLS certificate, followed by its intermediate certificates, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of the certificate, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Peers that may request checks and metrics, and whose forwarding headers are trusted
    #[arg(long, value_name = "NETWORKS", default_value = "127.0.0.0/8,::1,local")]
    trust: CidrSet,
    /// A host name of the server, in addition to IP addresses and localhost; may be repeated
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
    /// The policy, as TOML. SIGHUP and `keyguard reload` reload it; an invalid policy changes nothing,
    /// and the error is printed to standard error and by `keyguard stats`
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Write each request as a line of JSON to this file, or to standard output for `-`; refusals
    /// without a known key, too. SIGHUP reopens the file, for log rotation
    #[arg(long, value_name = "FILE", group = "sink")]
    usage_log: Option<PathBuf>,
    /// Add each request to this stream of the Redis server; refusals without a known key, too
    #[cfg(feature = "redis")]
    #[arg(long, value_name = "STREAM", group = "sink", requires = "redis")]
    usage_stream: Option<String>,
    /// Store only totals in the data file or database: requests go to --usage-log or --usage-stream
    /// alone
    #[arg(long, requires = "sink")]
    usage_sink_only: bool,
    #[command(flatten)]
    backends: BackendOpts,
    /// A file that holds the admin key [default: the variable KEYGUARD_ADMIN_KEY, or the key that
    /// `keyguard admin-key` prints]
    #[arg(long, value_name = "FILE")]
    admin_key_file: Option<PathBuf>,
    /// The greatest number of open connections; more wait
    #[arg(long, value_name = "NUMBER", default_value = "16384", value_parser = positive())]
    max_connections: usize,
    /// The greatest size of the head of a request in bytes, at least 8,192
    #[arg(long, value_name = "BYTES", default_value_t = 16_384)]
    max_head: usize,
    /// The greatest size of the body of a request in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 65_536)]
    max_body: usize,
    /// The time a client has to send the head of a request, to send its body, to send the next request,
    /// and to read a part of the response
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    timeout: Duration,
    /// The time that requests have to finish when the server stops
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    grace: Duration,
}

/// Settings for outages of PostgreSQL and Redis.
#[derive(Args)]
struct BackendOpts {
    /// How long a decision waits for PostgreSQL and Redis
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 50)]
    backend_deadline: u64,
    /// How limits are decided while Redis is unavailable: by each process alone (local), by refusing
    /// requests with 503 (deny) or by admitting them (allow)
    #[arg(long, value_name = "POLICY", default_value = "local", value_parser = fallback)]
    limits_fallback: Fallback,
    /// How long known keys are accepted while PostgreSQL is unavailable
    #[arg(long, value_name = "DURATION", default_value = "1min", value_parser = duration)]
    keys_stale_for: Duration,
    /// The number of connections to PostgreSQL
    #[arg(long, value_name = "NUMBER", default_value = "8", value_parser = positive())]
    database_connections: usize,
}

impl BackendOpts {
    fn apply(&self, config: Config) -> Config {
        config
            .backend_deadline(Duration::from_millis(self.backend_deadline))
            .limits_fallback(self.limits_fallback)
            .keys_stale_for(self.keys_stale_for)
            .database_connections(self.database_connections)
    }
}

fn fallback(text: &str) -> Result<Fallback, String> {
    match text {
        "local" => Ok(Fallback::Local),
        "deny" => Ok(Fallback::Deny),
        "allow" => Ok(Fallback::Allow),
        _ => Err("expected local, deny or allow".into()),
    }
}

pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    // Registered first, since an unhandled SIGHUP ends the process.
    let hangup = hangup().map_err(ServeError::Start)?;
    cli.require_data()?;
    let mut config = cli.config()?.on_warning(complain_of_warning);
    let admin_key = opts.admin_key_file.as_deref();
    if let Some(key) = cli.secret_from(admin_key, "KEYGUARD_ADMIN_KEY")? {
        config = config.admin_key(key);
    }
    if let Some(policy) = opts.policy {
        config = config.policy_file(policy).reload_on_hangup(true);
    }
    config = opts
        .backends
        .apply(config)
        .usage_sink_only(opts.usage_sink_only);
    #[cfg(feature = "redis")]
    if let Some((stream, url)) = opts.usage_stream.zip(cli.redis.as_deref()) {
        let stream = RedisStream::new(url, stream).map_err(CliError::Stream)?;
        config = config.usage_sink(stream);
    }
    if let Some(file) = opts.usage_log {
        config = match file.as_os_str() == "-" {
            true => config.usage_sink(JsonLines::stdout()),
            false => {
                let log = UsageLog::open(file.clone(), hangup);
                config.usage_sink(log.map_err(|source| CliError::Log {
                    argument: "--usage-log",
                    file,
                    source,
                })?)
            }
        };
    }
    let guard = open_in_turn(&cli.db, &config)?;
    let tls = opts.tls_cert.zip(opts.tls_key);
    let settings = Settings {
        places: opts.listen,
        socket_mode: opts.socket_mode,
        tls: tls.map(|(certificate, key)| Tls { certificate, key }),
        trusted: opts.trust,
        hosts: opts.hosts,
        most_connections: opts.max_connections,
        most_head_bytes: opts.max_head,
        most_body_bytes: opts.max_body,
        deadline: opts.timeout,
        grace: opts.grace,
    };
    serve::serve(guard, &settings)?;
    Ok(Exit::Done)
}

/// Returns a flag that SIGHUP sets.
fn hangup() -> std::io::Result<Arc<AtomicBool>> {
    let raised = Arc::new(AtomicBool::new(false));
    #[cfg(unix)]
    signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&raised))?;
    Ok(raised)
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("expected up to three octal digits, such as 660".into()),
    }
}

fn positive() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

fn duration(text: &str) -> Result<Duration, String> {
    duration::span_of("duration", text).map_err(|error| error.to_string())
}
