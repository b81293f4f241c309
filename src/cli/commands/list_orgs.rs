//! `list-orgs`

use crate::admin::command::OrgReply;
use crate::cli::format::{limits, seconds, total};
use crate::cli::render::Table;
use crate::cli::{error::CliError, exit::Exit, pages, settings::Cli};

pub(crate) const EXAMPLES: &str = "Examples:
  keyguard list-orgs
  keyguard list-orgs --json | jq -r '.[].name'";

pub(crate) fn run(cli: &Cli) -> Result<Exit, CliError> {
    let orgs = cli.list(|connection| pages::orgs(connection).collect())?;
    cli.print(&orgs, |style| {
        let table = table(&orgs).render_or("No organizations yet: keyguard create-org NAME", style);
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
