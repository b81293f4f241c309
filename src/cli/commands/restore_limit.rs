//! `restore-limit`

use clap::Args;

use crate::admin::command::RestoreLimit;
use crate::cli::args::KeyArg;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

const EXAMPLES: &str = "Examples:
  keyguard restore-limit 7 --rule default";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    #[command(flatten)]
    key: KeyArg,
    /// The limit: its name in the column `rule` of `limits`
    #[arg(long = "rule", value_name = "NAME")]
    limit: String,
}

pub(crate) fn run(cli: &Cli, Opts { key, limit }: Opts) -> Result<Exit, CliError> {
    key.change(cli, "Limit restored", |id| RestoreLimit { id, limit })
}
