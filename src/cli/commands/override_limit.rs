//! `override-limit`

use clap::Args;

use crate::admin::command::OverrideLimit;
use crate::cli::args::KeyArg;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

const EXAMPLES: &str = "Examples:
  keyguard override-limit 7 --rule default --for \"1 hour\"
  keyguard override-limit 7 --rule 10/s --for \"4:00 PM\"";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    #[command(flatten)]
    key: KeyArg,
    /// The limit: its name in the column `rule` of `limits`
    #[arg(long = "rule", value_name = "NAME")]
    limit: String,
    /// How long the limit is overridden, such as "1 hour", or until when, such as "4:00 PM"
    #[arg(long = "for", value_name = "DURATION")]
    duration: String,
}

pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    opts.key
        .change(cli, "Limit overridden", |id| OverrideLimit {
            id,
            limit: opts.limit,
            duration: opts.duration,
        })
}
