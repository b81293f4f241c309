//! `list-orgs`

use clap::Args;

use crate::admin::command::OrgReply;
use crate::cli::format::{limits, seconds, total};
use crate::cli::render::Table;
use crate::cli::{error::CliError, exit::Exit, pages, settings::Cli};

const EXAMPLES: &str = "Examples:
  keyguard list-orgs
  keyguard list-orgs --search acme
  keyguard list-orgs --json | jq -r '.[].name'";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    /// Only organizations whose name contains this text, or whose id it is. The case of the letters A to Z does
    /// not matter
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
}

pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    let none = match opts.search {
        Some(_) => "No organization is found.",
        None => "No organizations yet: keyguard create-org NAME",
    };
    let orgs = cli.list(|connection| pages::orgs(connection, opts.search).collect())?;
    cli.print(&orgs, |style| {
        let table = table(&orgs).render_or(none, style);
        table + &total(orgs.len(), "organization", style)
    })?;
    Ok(Exit::Done)
}

fn table(orgs: &[OrgReply]) -> Table {
    let mut table = Table::new(&[">id", "~name", "status", "~limits", "created"]);
    for OrgReply { org, .. } in orgs {
        table.row([
            org.id.to_string(),
            org.name.clone(),
            org.status.as_str().to_owned(),
            limits(&org.limits),
            seconds(org.created_at),
        ]);
    }
    table
}
