//! `unblock`

use clap::Args;

use crate::admin::command::Unblock;
use crate::cli::format::lock_table;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

const EXAMPLES: &str = "Examples:
  keyguard unblock 192.0.2.7
  keyguard unblock 2001:db8::/64 --path /login";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    /// The IP address, or a network as `list-blocks` shows it
    ip: String,
    /// Only locks of this path and of the routes that match it [default: all locks]
    #[arg(long)]
    path: Option<String>,
}

pub(crate) fn run(cli: &Cli, Opts { ip, path }: Opts) -> Result<Exit, CliError> {
    cli.execute(Unblock { ip, path }, |locks, style| {
        let count = locks.len();
        let s = if count == 1 { "" } else { "s" };
        format!("Ended {count} lock{s}:\n{}", lock_table(locks, style))
    })
}
