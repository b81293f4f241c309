//! `reset`

use clap::Args;

use crate::admin::command::{ResetIp, ResetKey};
use crate::cli::args::KeyOrIp;
use crate::cli::format::limit_table;
use crate::cli::render::OutputStyle;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::guard::LimitStatus;

#[derive(Args)]
pub(crate) struct Opts {
    #[command(flatten)]
    subject: KeyOrIp,
    /// Only the limit of this name, as `limits` shows it
    #[arg(long, value_name = "NAME", conflicts_with = "ip")]
    limit: Option<String>,
}

pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    let view = |states: &Vec<LimitStatus>, style: OutputStyle| limit_table(states).render(style);
    match opts.subject.key {
        Some(key) => {
            let mut connection = cli.connect()?;
            let command = ResetKey {
                id: connection.key_id(key)?,
                limit: opts.limit,
            };
            cli.execute_in(connection, command, view)
        }
        None => {
            let ip = opts.subject.ip.unwrap_or_default();
            cli.execute(ResetIp { ip }, view)
        }
    }
}
