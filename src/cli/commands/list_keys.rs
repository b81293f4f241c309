//! `list-keys`

use clap::Args;

use crate::admin::answer::{Failure, FailureCode, ListedKey};
use crate::cli::format::{day, scopes};
use crate::cli::pages;
use crate::cli::render::Table;
use crate::cli::session::Session;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::model::OrgId;

#[derive(Args)]
pub(crate) struct Opts {
    /// Only keys of this organization
    #[arg(long, value_name = "NAME")]
    org: Option<String>,
}

pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    let mut session = cli.session()?;
    let org_id = match opts.org {
        Some(name) => Some(find_org(&mut session, &name)?),
        None => None,
    };
    let keys = pages::items(pages::keys(&mut session, org_id));
    let keys: Vec<ListedKey> = keys.collect::<Result<_, _>>()?;
    cli.print(&keys, |look| {
        table(&keys).render_or(
            "No keys yet: keyguard create-key --org NAME --label LABEL",
            look,
        )
    })?;
    Ok(Exit::Done)
}

fn find_org(session: &mut Session, name: &str) -> Result<OrgId, CliError> {
    for listed in pages::orgs(session) {
        let org = listed?.org;
        if org.name == name {
            return Ok(org.id);
        }
    }
    let message = format!("there is no organization named `{name}`");
    Err(Failure::new(FailureCode::NotFound, message).into())
}

fn table(keys: &[ListedKey]) -> Table {
    let mut table = Table::new(&[
        ">id",
        "prefix",
        "~label",
        "~org",
        ">/min",
        "~scopes",
        "status",
        "last used",
    ]);
    for ListedKey { key, org_name, .. } in keys {
        table.row([
            key.id.to_string(),
            key.prefix.clone(),
            key.label.clone(),
            org_name.clone(),
            key.rate_limit_per_minute.to_string(),
            scopes(key),
            key.status.as_str().to_owned(),
            key.last_used_at.map_or("never".into(), day),
        ]);
    }
    table
}
