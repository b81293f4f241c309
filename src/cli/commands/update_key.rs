//! `update-key`

use clap::Args;

use crate::admin::UpdateKey;
use crate::admin::command::FindKey;
use crate::cli::args::{KeyArg, OrNone, replacement};
use crate::cli::format::key_panel;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::input::Given;
use crate::time::Timestamp;

const EXAMPLES: &str = "Examples:
  keyguard update-key 7 --rate-limit 600 --limit 10/s --limit \"50000 daily\"
  keyguard update-key 7 --scopes read --allow-ip 10.0.0.0/8
  keyguard update-key 7 --limit none --allow-ip any --expires-at none";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    #[command(flatten)]
    key: KeyArg,
    /// A new label
    #[arg(long)]
    label: Option<String>,
    /// A new limit of requests in any 60 seconds
    #[arg(long = "rate-limit", value_name = "N")]
    rate_limit_per_minute: Option<u32>,
    /// A new further limit; may be repeated. Replaces all further limits; `none` removes them
    #[arg(long = "limit", value_name = "LIMIT|none")]
    limits: Vec<String>,
    /// IP addresses and networks from which the key is accepted from now on, or `any`
    #[arg(long = "allow-ip", value_delimiter = ',', value_name = "A,B|any")]
    allowed_ips: Vec<String>,
    /// New scopes. Replace all scopes; "" removes them
    #[arg(long, value_name = "A,B")]
    scopes: Option<String>,
    /// A new expiry time, or `none`
    #[arg(long, value_name = "TIME|none")]
    expires_at: Option<OrNone<Timestamp>>,
    /// Accept an expired key again, although its text may have leaked since; `rotate-key` gives it a
    /// new text
    #[arg(long, requires = "expires_at")]
    reactivate: bool,
}

pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    let mut connection = cli.connect()?;
    // An absent key is reported before invalid changes.
    let id = connection.execute(FindKey { key: opts.key.key })?.key.id;
    let scopes = |text: String| Given::list(text.split(',').filter(|scope| !scope.is_empty()));
    let command = UpdateKey {
        label: opts.label,
        scopes: opts.scopes.map(scopes),
        rate_limit_per_minute: opts.rate_limit_per_minute,
        limits: replacement(opts.limits, "none").map(Given::list),
        allowed_ips: replacement(opts.allowed_ips, "any").map(Given::new),
        expires_at: opts.expires_at.map(|time| time.0),
        reactivate: opts.reactivate,
        ..UpdateKey::new(id)
    };
    cli.execute_in(connection, command, |reply, style| {
        key_panel("API key updated", &reply.key, style)
    })
}
