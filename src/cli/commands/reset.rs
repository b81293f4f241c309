//! `reset`

use clap::Args;

use crate::admin::command::{ResetIp, ResetKey};
use crate::cli::args::KeyOrIp;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

const EXAMPLES: &str = "Examples:
  keyguard reset 7
  keyguard reset 7 --rule monthly
  keyguard reset --ip 192.0.2.7";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    #[command(flatten)]
    subject: KeyOrIp,
    /// Only this limit: its name in the column `rule` of `limits`
    #[arg(long = "rule", value_name = "NAME", conflicts_with = "ip")]
    limit: Option<String>,
}

pub(crate) fn run(cli: &Cli, Opts { subject, limit }: Opts) -> Result<Exit, CliError> {
    subject.print_limits(cli, |id| ResetKey { id, limit }, |ip| ResetIp { ip })
}
