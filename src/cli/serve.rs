//! `serve`

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;

use super::failure::CliError;
use super::session::open_in_turn;
use super::usage_log::UsageLog;
use super::{Cli, Exit};
use crate::guard::Config;
use crate::limiter::Fallback;
use crate::model::Secret;
use crate::net::CidrSet;
use crate::serve::{self, ListenAddr, ServeError, Settings, Tls};
use crate::sink::JsonLines;
#[cfg(feature = "redis")]
use crate::sink::RedisStream;
use crate::time::duration;

#[derive(Args)]
pub(super) struct Serve {
    /// Where to listen: an address with a port (0 for any), or `unix:PATH`. May be repeated
    #[arg(long, value_name = "PLACE", default_value = "127.0.0.1:8700")]
    listen: Vec<ListenAddr>,
    /// The mode of Unix sockets, in octal digits
    #[arg(long, value_name = "MODE", default_value = "600", value_parser = mode)]
    socket_mode: u32,
    /// The certificate to serve TLS with, and those that lead up from it, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of the certificate, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Who may ask for verdicts and metrics, and whose word about a client counts
    #[arg(long, value_name = "NETWORKS", default_value = "127.0.0.0/8,::1,local")]
    trust: CidrSet,
    /// A name by which the server is reached, beside addresses and localhost. May be repeated
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
    /// The policy, as TOML; read again upon SIGHUP and by `keyguard reload`. One that cannot be
    /// accepted changes nothing; why is on standard error and in `keyguard stats`
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Also write single requests as lines of JSON to this file, `-` for standard output; refusals
    /// without a known key too. SIGHUP has the file opened again, for tools that rotate logs
    #[arg(long, value_name = "FILE", group = "sink")]
    usage_log: Option<PathBuf>,
    /// Also add single requests to this stream of the Redis server; refusals without a known key too
    #[cfg(feature = "redis")]
    #[arg(long, value_name = "STREAM", group = "sink", requires = "redis")]
    usage_stream: Option<String>,
    /// Keep single requests out of the data file or database: they go to --usage-log or
    /// --usage-stream alone. Totals stay
    #[arg(long, requires = "sink")]
    usage_sink_only: bool,
    #[command(flatten)]
    backends: Backends,
    /// A file that holds the admin key [default: the variable KEYGUARD_ADMIN_KEY, or one derived from
    /// the secret, which `keyguard admin-key` prints]
    #[arg(long, value_name = "FILE")]
    admin_key_file: Option<PathBuf>,
    /// Connections at a time; more wait
    #[arg(long, value_name = "NUMBER", default_value_t = 16_384, value_parser = at_least_one)]
    max_connections: usize,
    /// The longest head of a request, in bytes, at least 8,192
    #[arg(long, value_name = "BYTES", default_value_t = 16_384)]
    max_head: usize,
    /// The longest body of a request, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 65_536)]
    max_body: usize,
    /// How long the head of a request may take, its body, the pause before the next one, and a client
    /// that reads nothing of its answer
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    timeout: Duration,
    /// How long requests may go on once the server is told to stop
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    grace: Duration,
}

/// What holds while PostgreSQL or Redis does not answer.
#[derive(Args)]
struct Backends {
    /// How long a decision waits for PostgreSQL and Redis
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 50)]
    backend_deadline: u64,
    /// What decides about limits without Redis: each process for itself (local), nobody, so that
    /// requests are refused with 503 (deny), or nobody, so that they are let through (allow)
    #[arg(long, value_name = "POLICY", default_value = "local", value_parser = fallback)]
    limits_fallback: Fallback,
    /// For how long known keys are accepted while nothing is heard from PostgreSQL
    #[arg(long, value_name = "DURATION", default_value = "1min", value_parser = duration)]
    keys_stale_for: Duration,
    /// Connections to PostgreSQL
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = at_least_one)]
    database_connections: usize,
}

impl Backends {
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

pub(super) fn run(cli: &Cli, opts: Serve) -> Result<Exit, CliError> {
    // First, for SIGHUP ends a process that does not handle it.
    let hangup = hangup().map_err(ServeError::Start)?;
    cli.needs_data()?;
    let mut config = cli.config()?.on_warning(log);
    if let Some(key) = admin_key(cli, opts.admin_key_file)? {
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
    if let Some((stream, url)) = opts.usage_stream.zip(cli.connection.redis.as_deref()) {
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
    let guard = open_in_turn(&cli.connection.db, &config)?;
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

/// Set whenever the process receives SIGHUP.
fn hangup() -> std::io::Result<Arc<AtomicBool>> {
    let raised = Arc::new(AtomicBool::new(false));
    #[cfg(unix)]
    signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&raised))?;
    Ok(raised)
}

/// Writes a warning to standard error.
fn log(text: &str) {
    let lines: Vec<String> = text.lines().map(super::render::escaped).collect();
    super::complain(&format!("warning: {}\n", lines.join("\n")));
}

fn admin_key(cli: &Cli, file: Option<PathBuf>) -> Result<Option<Secret>, CliError> {
    if let Some(file) = file {
        return cli.secret_in(&file).map(Some);
    }
    let key = std::env::var_os("KEYGUARD_ADMIN_KEY");
    Ok(key.map(|key| Secret::from(key.into_encoded_bytes())))
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("expected up to three octal digits, such as 660".into()),
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number: Result<usize, _> = text.parse();
    let number = number.ok().filter(|number| *number > 0);
    number.ok_or_else(|| "expected a number of at least 1".into())
}

fn duration(text: &str) -> Result<Duration, String> {
    duration::span_of("duration", text).map_err(|error| error.to_string())
}
