//! `revoke-key`

use crate::admin::answer::Command;
use crate::cli::args::KeyArg;
use crate::cli::format::key_panel;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

pub(crate) type Opts = KeyArg;

pub(crate) fn run(cli: &Cli, KeyArg { key }: Opts) -> Result<Exit, CliError> {
    cli.execute(Command::RevokeKey { key }, |key, look| {
        key_panel("API key revoked", key, look)
    })
}
