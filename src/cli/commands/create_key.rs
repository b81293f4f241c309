//! `create-key`

use clap::Args;

use crate::cli::new_key::{NewKey, NewKeyArgs, create_key};
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

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
    #[command(flatten)]
    key: NewKeyArgs,
}

/// Creates a key, and revokes it again if its text could not be printed.
pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    let quiet = opts.key.quiet;
    let mut connection = cli.connect()?;
    cli.put_off_signals();
    let request = opts.key.request(opts.org_name, opts.label);
    let reply = create_key(&mut connection, request)?;
    // Standard output may block; other commands must not wait for it.
    drop(connection);
    let new = NewKey {
        title: "API key created",
        quiet,
        reply,
        init: None,
    };
    new.print_or_revoke(cli)?;
    Ok(Exit::Done)
}
