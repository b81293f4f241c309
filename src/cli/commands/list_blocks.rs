//! `list-blocks`

use crate::admin::command::ListBlocks;
use crate::cli::format::lock_table;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

pub(crate) fn run(cli: &Cli) -> Result<Exit, CliError> {
    cli.execute(ListBlocks {}, |locks, style| match locks.is_empty() {
        true => "No locks.\n".to_owned(),
        false => lock_table(locks, style),
    })
}
