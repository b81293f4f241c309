//! `audit`

use clap::Args;
use serde_json::Value;

use super::failure::CliError;
use super::orgs::shown;
use super::render::{Look, Table};
use super::{Cli, Exit};
use crate::admin::answer::Command;
use crate::model::AuditEntry;

#[derive(Args)]
pub(super) struct Audit {
    /// Only changes before the one of this number
    #[arg(long, value_name = "NUMBER")]
    before: Option<u64>,
    /// How many at most
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

pub(super) fn list(cli: &Cli, Audit { before, limit }: Audit) -> Result<Exit, CliError> {
    let (mut session, mut before) = (cli.session()?, before);
    let mut entries: Vec<AuditEntry> = Vec::new();
    // A page may end early: it goes by bytes too.
    while entries.len() < limit {
        let limit = limit - entries.len();
        let page: Vec<AuditEntry> = session.get(Command::Audit { before, limit })?;
        let Some(last) = page.last() else { break };
        before = Some(last.id);
        entries.extend(page);
    }
    cli.show(&serde_json::to_value(&entries)?, || {
        match entries.is_empty() {
            true => "Nothing was changed.\n".to_owned(),
            false => table(&entries, cli.look),
        }
    })?;
    Ok(Exit::Done)
}

fn table(entries: &[AuditEntry], look: Look) -> String {
    let mut table = Table::new(&[">no", "at", "by", "from", "change", ">id", "~details"]);
    for entry in entries {
        table.row([
            entry.id.to_string(),
            shown(entry.at, look),
            entry.actor.clone(),
            entry.ip.to_string(),
            entry.action.clone(),
            entry.subject.map_or_else(String::new, |id| id.to_string()),
            details(&entry.details),
        ]);
    }
    table.render(look)
}

/// What was asked for, a field behind the other; texts without quotes.
fn details(details: &Value) -> String {
    let Value::Object(fields) = details else {
        return details.to_string();
    };
    let says_something = |value: &Value| !matches!(value, Value::Array(items) if items.is_empty());
    let fields = fields.iter().filter(|(_, value)| says_something(value));
    let pairs = fields.map(|(name, value)| match value {
        Value::String(text) => format!("{name}: {text}"),
        value => format!("{name}: {value}"),
    });
    pairs.collect::<Vec<_>>().join(", ")
}
