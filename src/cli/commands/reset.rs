//! `reset`

use clap::Args;

use crate::admin::answer::Command;
use crate::cli::args::KeyOrIp;
use crate::cli::format::rule_table;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::guard::RuleState;

#[derive(Args)]
pub(crate) struct Opts {
    #[command(flatten)]
    subject: KeyOrIp,
    /// Only the limit of this name, as `limits` shows it
    #[arg(long, value_name = "NAME", conflicts_with = "ip")]
    limit: Option<String>,
}

pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    let command = Command::Reset {
        whose: opts.subject.into(),
        rule: opts.limit,
    };
    cli.execute(command, |states: &Vec<RuleState>, look| {
        rule_table(states).render(look)
    })
}
