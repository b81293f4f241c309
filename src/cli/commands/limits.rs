//! `limits`

use crate::admin::answer::Command;
use crate::cli::args::KeyOrIp;
use crate::cli::format::rule_table;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::guard::RuleState;

pub(crate) type Opts = KeyOrIp;

pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    cli.execute(
        Command::Limits(opts.into()),
        |states: &Vec<RuleState>, look| rule_table(states).render(look),
    )
}
