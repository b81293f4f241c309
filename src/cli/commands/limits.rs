//! `limits`

use crate::admin::command::{GetIpLimits, GetKeyLimits};
use crate::cli::args::KeyOrIp;
use crate::cli::format::limit_table;
use crate::cli::render::OutputStyle;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::guard::LimitStatus;

pub(crate) type Opts = KeyOrIp;

pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    let view = |states: &Vec<LimitStatus>, style: OutputStyle| limit_table(states).render(style);
    match opts.key {
        Some(key) => {
            let mut connection = cli.connect()?;
            let id = connection.key_id(key)?;
            cli.execute_in(connection, GetKeyLimits { id }, view)
        }
        None => {
            let ip = opts.ip.unwrap_or_default();
            cli.execute(GetIpLimits { ip }, view)
        }
    }
}
