//! `reset`

use clap::Args;

use crate::admin::command::{ResetIp, ResetKey};
use crate::cli::args::KeyOrIp;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

#[derive(Args)]
pub(crate) struct Opts {
    #[command(flatten)]
    subject: KeyOrIp,
    /// Only the limit of this name, as `limits` shows it
    #[arg(long, value_name = "NAME", conflicts_with = "ip")]
    limit: Option<String>,
}

pub(crate) fn run(cli: &Cli, Opts { subject, limit }: Opts) -> Result<Exit, CliError> {
    subject.print_limits(cli, |id| ResetKey { id, limit }, |ip| ResetIp { ip })
}
