//! `override-limit`

use clap::Args;

use crate::admin::answer::Command;
use crate::cli::args::KeyArg;
use crate::cli::format::key_panel;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

#[derive(Args)]
pub(crate) struct Opts {
    #[command(flatten)]
    key: KeyArg,
    /// The name of the limit, as `limits` shows it
    #[arg(long, value_name = "NAME")]
    limit: String,
    /// How long the limit is waived, such as "1 hour", or until when, such as "4:00 PM"
    #[arg(long = "for", value_name = "DURATION", required_unless_present = "end")]
    duration: Option<String>,
    /// Enforce the limit again now
    #[arg(long, conflicts_with = "duration")]
    end: bool,
}

pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    let command = Command::LimitOverride {
        key: opts.key.key,
        rule: opts.limit,
        duration: opts.duration,
    };
    let title = match opts.end {
        true => "Override ended",
        false => "Limit overridden",
    };
    cli.execute(command, |key, look| key_panel(title, key, look))
}
