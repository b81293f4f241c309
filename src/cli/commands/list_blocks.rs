//! `list-blocks`

use crate::admin::answer::Command;
use crate::cli::format::lock_table;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::lockout::Lock;

pub(crate) fn run(cli: &Cli) -> Result<Exit, CliError> {
    cli.execute(Command::ListBlocks, |locks: &Vec<Lock>, look| {
        match locks.is_empty() {
            true => "Nobody is locked out.\n".to_owned(),
            false => lock_table(locks, look),
        }
    })
}
