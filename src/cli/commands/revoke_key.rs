//! `revoke-key`

use crate::admin::command::RevokeKey;
use crate::cli::args::KeyArg;
use crate::cli::format::key_panel;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

pub(crate) type Opts = KeyArg;

pub(crate) fn run(cli: &Cli, KeyArg { key }: Opts) -> Result<Exit, CliError> {
    let mut connection = cli.connect()?;
    let id = connection.key_id(key)?;
    cli.execute_in(connection, RevokeKey { id }, |reply, style| {
        key_panel("API key revoked", &reply.key, style)
    })
}
