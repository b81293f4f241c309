//! `limits`

use crate::admin::command::{GetAddressLimits, GetKeyLimits};
use crate::cli::args::KeyOrIp;
use crate::cli::format::rule_table;
use crate::cli::render::Look;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::guard::RuleState;

pub(crate) type Opts = KeyOrIp;

pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    let view = |states: &Vec<RuleState>, look: Look| rule_table(states).render(look);
    match opts.key {
        Some(key) => {
            let mut session = cli.session()?;
            let id = session.key_id(key)?;
            cli.execute_in(session, GetKeyLimits { id }, view)
        }
        None => {
            let ip = opts.ip.unwrap_or_default();
            cli.execute(GetAddressLimits { ip }, view)
        }
    }
}
