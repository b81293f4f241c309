//! `block`, `unblock`, `list-blocks`

use clap::Args;

use super::failure::{CliError, hint};
use super::orgs::seconds;
use super::render::{Look, Table};
use super::{Cli, Exit};
use crate::admin::answer::{self, Command, FailureCode};
use crate::lockout::Lock;

#[derive(Args)]
pub(super) struct Block {
    /// The address, or a network as list-blocks shows it
    ip: String,
    /// For how long, such as "1 hour", "90s" or "1 day", or until when, such as "4:00 PM"
    #[arg(long = "for", value_name = "DURATION")]
    duration: String,
    /// Only out of this path [default: of everything]
    #[arg(long)]
    path: Option<String>,
}

#[derive(Args)]
pub(super) struct Unblock {
    /// The address, or a network as list-blocks shows it
    ip: String,
    /// Only the locks of this path and of the routes that match it [default: all locks]
    #[arg(long)]
    path: Option<String>,
}

pub(super) fn block(cli: &Cli, Block { ip, duration, path }: Block) -> Result<Exit, CliError> {
    let command = Command::Block(answer::Block { ip, path, duration });
    let blocked = cli.ask(command, |lock: &Lock, look| {
        table(std::slice::from_ref(lock), look)
    });
    hint(blocked, |failure| match failure.code {
        FailureCode::Invalid => "block 192.0.2.7 --for \"1 hour\"".into(),
        _ => "list-blocks".into(),
    })?;
    Ok(Exit::Done)
}

pub(super) fn unblock(cli: &Cli, Unblock { ip, path }: Unblock) -> Result<Exit, CliError> {
    let command = Command::Unblock { ip, path };
    let ended = cli.ask(command, |locks: &Vec<Lock>, look| {
        let count = locks.len();
        let s = if count == 1 { "" } else { "s" };
        format!("Ended {count} lock{s}:\n{}", table(locks, look))
    });
    hint(ended, |_| "list-blocks".into())?;
    Ok(Exit::Done)
}

pub(super) fn list(cli: &Cli) -> Result<Exit, CliError> {
    cli.ask(Command::ListBlocks, |locks: &Vec<Lock>, look| {
        if locks.is_empty() {
            "Nobody is locked out.\n".to_owned()
        } else {
            table(locks, look)
        }
    })?;
    Ok(Exit::Done)
}

fn table(locks: &[Lock], look: Look) -> String {
    let mut table = Table::new(&["address", "~refuses", "~cause", "since", "until"]);
    for lock in locks {
        table.row([
            lock.network.to_string(),
            lock.refuses.to_string(),
            lock.cause.to_string(),
            seconds(lock.since),
            seconds(lock.until),
        ]);
    }
    table.render(look)
}
