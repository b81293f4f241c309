//! `create-key`

use clap::Args;

use crate::admin::CreateKey;
use crate::admin::answer::{Command, Failure, FailureCode, NewKeyReply};
use crate::cli::format::new_key_panel;
use crate::cli::output::require_stdout;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::time::Timestamp;

#[derive(Args)]
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
    /// Scopes that the key grants
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    scopes: Vec<String>,
    /// The start of its text [default: kg_live_]
    #[arg(long)]
    prefix: Option<String>,
    /// The time from which the key is refused, such as 2030-12-31T23:59:59Z [default: never]
    #[arg(long, value_name = "TIME")]
    expires_at: Option<Timestamp>,
}

/// Creates a key, and revokes it again if its text could not be printed.
pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    let name = opts.org_name.clone();
    let command = Command::CreateKey(CreateKey {
        org_name: opts.org_name,
        label: opts.label,
        scopes: opts.scopes,
        rate_limit_per_minute: opts.rate_limit_per_minute,
        limits: opts.limits,
        allowed_ips: opts.allowed_ips,
        expires_at: opts.expires_at,
        prefix: opts.prefix,
    });
    let created = cli
        .session()?
        .ask(command)
        .map_err(|failure| match failure.code {
            FailureCode::NotFound => CliError::NoOrg { failure, name },
            _ => failure.into(),
        })?;
    let reply: NewKeyReply = serde_json::from_value(created.clone())?;
    let printed = require_stdout().and_then(|()| {
        cli.print(&created, |look| {
            new_key_panel("API key created", &reply, look)
        })
    });
    match printed {
        Err(CliError::Output(source)) => Err(CliError::Unseen {
            source,
            outcome: revoke(cli, &reply)?,
        }),
        printed => printed.map(|()| Exit::Done),
    }
}

fn revoke(cli: &Cli, reply: &NewKeyReply) -> Result<String, CliError> {
    let id = reply.key.id;
    let key = id.to_string();
    Ok(match cli.session()?.ask(Command::RevokeKey { key }) {
        Ok(_) => format!("key {id} was revoked"),
        Err(Failure { message, .. }) => {
            format!("key {id} is active and could not be revoked: {message}")
        }
    })
}
