//! `create-key`

use clap::Args;

use crate::admin::command::RevokeKey;
use crate::admin::{CreateKey, FailureCode};
use crate::cli::new_key::print_new_key;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::input::Given;
use crate::model::KeyId;
use crate::time::Timestamp;

const EXAMPLES: &str = "Examples:
  keyguard create-key --org acme --label \"web shop\"
  keyguard create-key --org acme --label api --scopes read,write --rate-limit 9
  keyguard create-key --org acme --label batch --limit \"500000 monthly\"
  keyguard create-key --org acme --label ci --expires-at 2030-12-31T23:59:59Z
  KEY=$(keyguard create-key --org acme --label ci --quiet)";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    /// The organization that the key belongs to
    #[arg(long = "org", value_name = "NAME")]
    org_name: String,
    /// A name for the key
    #[arg(long)]
    label: String,
    /// Requests admitted in any 60 seconds [default: 60]
    #[arg(long = "rate-limit", value_name = "N")]
    rate_limit_per_minute: Option<u32>,
    /// A further limit, such as 10/s, "500000 monthly", "5000 credits" or "8 concurrent"; may be
    /// repeated
    #[arg(long = "limit", value_name = "LIMIT")]
    limits: Vec<String>,
    /// IP addresses and networks from which the key is accepted [default: all]
    #[arg(long = "allow-ip", value_delimiter = ',', value_name = "A,B")]
    allowed_ips: Vec<String>,
    /// Scopes that the key has
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    scopes: Vec<String>,
    /// The prefix of the key, such as acme_live_ [default: kg_live_]
    #[arg(long)]
    prefix: Option<String>,
    /// The time from which the key is refused, such as 2030-12-31T23:59:59Z [default: never]
    #[arg(long, value_name = "TIME")]
    expires_at: Option<Timestamp>,
    /// Print the text of the key alone, for scripts
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
}

/// Creates a key, and revokes it again if its text could not be printed.
pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    let (name, quiet) = (opts.org_name.clone(), opts.quiet);
    let command = CreateKey {
        org_name: opts.org_name,
        label: opts.label,
        scopes: Given::list(opts.scopes),
        rate_limit_per_minute: opts.rate_limit_per_minute,
        limits: Given::list(opts.limits),
        allowed_ips: Given::new(opts.allowed_ips),
        expires_at: opts.expires_at,
        prefix: opts.prefix.map(Given::new),
    };
    let created = cli
        .connect()?
        .execute(command)
        .map_err(|failure| match failure.code {
            FailureCode::NotFound => CliError::NoOrg { failure, name },
            _ => failure.into(),
        })?;
    print_new_key(cli, "API key created", quiet, created, |new| {
        revoke(cli, new.reply.key.id)
    })?;
    Ok(Exit::Done)
}

/// Revokes a key and returns what came of it.
fn revoke(cli: &Cli, id: KeyId) -> String {
    let revoked = cli
        .connect()
        .and_then(|mut connection| Ok(connection.execute(RevokeKey { id })?));
    match revoked {
        Ok(_) => format!("key {id} was revoked"),
        Err(error) => format!("key {id} is active and could not be revoked: {error}"),
    }
}
