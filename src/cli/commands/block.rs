//! `block`

use std::slice;

use clap::Args;

use crate::admin::command::Block;
use crate::cli::format::lock_table;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

const EXAMPLES: &str = "Examples:
  keyguard block 192.0.2.7 --for \"1 hour\"
  keyguard block 2001:db8::/64 --for \"4:00 PM\"
  keyguard block 192.0.2.7 --for 1d --path /login";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    /// The IP address, or a network as `list-blocks` shows it
    ip: String,
    /// How long the lock lasts, such as "1 hour", "90s" or "1 day", or until when, such as "4:00 PM"
    #[arg(long = "for", value_name = "DURATION")]
    duration: String,
    /// Lock only this path [default: all paths]
    #[arg(long)]
    path: Option<String>,
}

pub(crate) fn run(cli: &Cli, Opts { ip, duration, path }: Opts) -> Result<Exit, CliError> {
    cli.execute(Block { ip, path, duration }, |lock, style| {
        lock_table(slice::from_ref(lock), style)
    })
}
