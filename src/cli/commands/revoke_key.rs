//! `revoke-key`

use crate::admin::command::RevokeKey;
use crate::cli::args::KeyArg;
use crate::cli::format::key_panel;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

pub(crate) type Opts = KeyArg;

pub(crate) fn run(cli: &Cli, KeyArg { key }: Opts) -> Result<Exit, CliError> {
    let mut session = cli.session()?;
    let id = session.key_id(key)?;
    cli.execute_in(session, RevokeKey { id }, |reply, look| {
        key_panel("API key revoked", &reply.key, look)
    })
}
