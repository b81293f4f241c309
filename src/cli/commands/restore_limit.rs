//! `restore-limit`

use clap::Args;

use crate::admin::command::RestoreLimit;
use crate::cli::args::KeyArg;
use crate::cli::format::key_panel;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

#[derive(Args)]
pub(crate) struct Opts {
    #[command(flatten)]
    key: KeyArg,
    /// The name of the limit, as `limits` shows it
    #[arg(long, value_name = "NAME")]
    limit: String,
}

pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    let mut session = cli.session()?;
    let command = RestoreLimit {
        id: session.key_id(opts.key.key)?,
        rule: opts.limit,
    };
    cli.execute_in(session, command, |reply, look| {
        key_panel("Limit restored", &reply.key, look)
    })
}
