//! `reset`

use clap::Args;

use crate::admin::command::{ResetAddress, ResetKey};
use crate::cli::args::KeyOrIp;
use crate::cli::format::rule_table;
use crate::cli::render::Look;
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
    let view = |states: &Vec<RuleState>, look: Look| rule_table(states).render(look);
    match opts.subject.key {
        Some(key) => {
            let mut session = cli.session()?;
            let command = ResetKey {
                id: session.key_id(key)?,
                rule: opts.limit,
            };
            cli.execute_in(session, command, view)
        }
        None => {
            let ip = opts.subject.ip.unwrap_or_default();
            cli.execute(ResetAddress { ip }, view)
        }
    }
}
