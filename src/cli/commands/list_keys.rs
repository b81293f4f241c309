//! `list-keys`

use clap::Args;

use crate::admin::command::KeyReply;
use crate::cli::format::{day, scopes};
use crate::cli::render::Table;
use crate::cli::{error::CliError, exit::Exit, pages, settings::Cli};

#[derive(Args)]
pub(crate) struct Opts {
    /// Only keys of this organization
    #[arg(long, value_name = "NAME")]
    org: Option<String>,
}

pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    let keys = cli.list(|connection| pages::items(pages::keys(connection, opts.org)).collect())?;
    cli.print(&keys, |style| {
        table(&keys).render_or(
            "No keys yet: keyguard create-key --org NAME --label LABEL",
            style,
        )
    })?;
    Ok(Exit::Done)
}

fn table(keys: &[KeyReply]) -> Table {
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
    for KeyReply { key, org_name, .. } in keys {
        table.row([
            key.id.to_string(),
            key.shown_prefix.clone(),
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
