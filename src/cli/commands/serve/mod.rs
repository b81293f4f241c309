//! `serve`

mod log_opts;
mod usage_log;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;

use self::log_opts::LogOpts;
use self::usage_log::UsageLog;
use crate::cli::connection::open_in_turn;
use crate::cli::next::next_command;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::guard::{Config, RateLimitHeaders, followed};
use crate::limiter::Fallback;
use crate::log::Event;
use crate::serve::{self, ServeError, Settings};
use crate::sink::JsonLines;
#[cfg(feature = "redis")]
use crate::sink::RedisStream;
use crate::time::duration::duration_argument;

const EXAMPLES: &str = "Examples:
  keyguard serve
  keyguard serve --policy /etc/keyguard.toml --listen unix:/run/keyguard.sock
  keyguard serve --listen 10.0.0.5:8700 --trust 10.0.0.0/8 --host keys.example
  keyguard serve --webhook https://example.com/events";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    #[command(flatten)]
    settings: Settings,
    /// The policy, as TOML. SIGHUP and `keyguard reload` reload it; an invalid policy changes nothing,
    /// and the error is in the log and printed by `keyguard stats`
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Write each request as a line of JSON to this file, or to standard output for `-`; refusals
    /// without a known key, too. SIGHUP reopens the file, for log rotation. A named pipe needs a
    /// process that reads it
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
    log: LogOpts,
    #[command(flatten)]
    backends: BackendOpts,
    /// The header fields that tell clients about limits: X-RateLimit-* (x-ratelimit), RateLimit and
    /// RateLimit-Policy (ietf), both or none
    #[arg(long, value_name = "SET", default_value = "both", value_parser = rate_limit_headers)]
    rate_limit_headers: RateLimitHeaders,
    /// A file that holds the admin key [default: the variable KEYGUARD_ADMIN_KEY, or the key that
    /// `keyguard admin-key` prints]
    #[arg(long, value_name = "FILE")]
    admin_key_file: Option<PathBuf>,
}

/// Settings for outages of PostgreSQL and Redis.
#[derive(Args)]
struct BackendOpts {
    /// How long a decision waits for PostgreSQL and Redis
    #[arg(long, value_name = "DURATION", default_value = "50ms", value_parser = deadline)]
    backend_deadline: Duration,
    /// How limits are decided while Redis is unavailable: by each process alone (local), by refusing
    /// requests with 503 (deny) or by admitting them (allow)
    #[arg(long, value_name = "POLICY", default_value = "local", value_parser = fallback)]
    limiter_fallback: Fallback,
    /// How long known keys are accepted while PostgreSQL is unavailable
    #[arg(long, value_name = "DURATION", default_value = "1min", value_parser = duration_argument)]
    max_key_staleness: Duration,
    /// The number of connections to PostgreSQL
    #[arg(long, value_name = "NUMBER", default_value = "8")]
    max_database_connections: NonZeroUsize,
}

impl BackendOpts {
    fn apply(&self, config: Config) -> Config {
        config
            .backend_deadline(self.backend_deadline)
            .limiter_fallback(self.limiter_fallback)
            .max_key_staleness(self.max_key_staleness)
            .max_database_connections(self.max_database_connections.get())
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

fn rate_limit_headers(text: &str) -> Result<RateLimitHeaders, String> {
    match text {
        "both" => Ok(RateLimitHeaders::Both),
        "x-ratelimit" => Ok(RateLimitHeaders::XRateLimit),
        "ietf" => Ok(RateLimitHeaders::Ietf),
        "none" => Ok(RateLimitHeaders::None),
        _ => Err("expected both, x-ratelimit, ietf or none".into()),
    }
}

pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    let log = opts.log;
    match serve(cli, opts) {
        // For programs that read each line of standard error as JSON.
        Err(error) if log.is_json() => {
            match log.fail(&error.message(cli), &next_command(&error, cli)) {
                Ok(()) => Ok(Exit::Refused),
                Err(_) => Err(error),
            }
        }
        outcome => outcome,
    }
}

fn serve(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    // Registered first, since an unhandled SIGHUP ends the process.
    let hangup = hangup().map_err(ServeError::Start)?;
    cli.require_data()?;
    let file = (!cli.is_on_server() && cli.redis.is_none()).then(|| followed(&cli.db));
    let webhooks = opts
        .settings
        .webhooks
        .prepare(file.transpose()?.as_deref())?;
    let lines = opts.log.start().map_err(ServeError::Start)?;
    let log = lines.log();
    let mut config = cli.config()?.log(log.clone());
    let admin_key = opts.admin_key_file.as_deref();
    if let Some(key) = cli.secret_from(admin_key, "KEYGUARD_ADMIN_KEY")? {
        config = config.admin_key(key);
    }
    if let Some(policy) = &opts.policy {
        config = config.policy_file(policy).reload_on_hangup(true);
    }
    config = opts
        .backends
        .apply(config)
        .rate_limit_headers(opts.rate_limit_headers)
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
    if let Some(webhooks) = &webhooks {
        config = config.webhooks(webhooks.urls());
    }
    let guard = open_in_turn(&cli.db, &config)?;
    let policy = opts.policy.as_deref().map(Path::to_string_lossy);
    log.emit(&Event::Started {
        version: env!("CARGO_PKG_VERSION"),
        storage: &cli.storage(),
        limits: cli.redis.as_ref().map_or("memory", |_| "redis"),
        policy: policy.as_deref(),
    });
    serve::serve(guard, &opts.settings, webhooks, &cli.db)?;
    Ok(Exit::Done)
}

/// Returns a flag that SIGHUP sets.
fn hangup() -> std::io::Result<Arc<AtomicBool>> {
    let raised = Arc::new(AtomicBool::new(false));
    #[cfg(unix)]
    signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&raised))?;
    Ok(raised)
}

/// Parses a duration in milliseconds, or a longer one. A number without a unit could be either.
fn deadline(text: &str) -> Result<Duration, String> {
    let expected = || "expected a duration such as `50ms` or `1s`".to_owned();
    match text.strip_suffix("ms") {
        Some(millis) => {
            let millis = millis.trim_ascii_end().parse();
            millis.map(Duration::from_millis).map_err(|_| expected())
        }
        None if text.ends_with(|c: char| c.is_ascii_digit()) => Err(expected()),
        None => duration_argument(text).map_err(|_| expected()),
    }
}
