//! `restore-limit`

use clap::Args;

use crate::admin::command::RestoreLimit;
use crate::cli::args::KeyArg;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

#[derive(Args)]
pub(crate) struct Opts {
    #[command(flatten)]
    key: KeyArg,
    /// The name of the limit, as `limits` shows it
    #[arg(long, value_name = "NAME")]
    limit: String,
}

pub(crate) fn run(cli: &Cli, Opts { key, limit }: Opts) -> Result<Exit, CliError> {
    key.change(cli, "Limit restored", |id| RestoreLimit { id, limit })
}
