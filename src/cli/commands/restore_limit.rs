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
    let mut connection = cli.connect()?;
    let command = RestoreLimit {
        id: connection.key_id(opts.key.key)?,
        limit: opts.limit,
    };
    cli.execute_in(connection, command, |reply, style| {
        key_panel("Limit restored", &reply.key, style)
    })
}
