//! `create-org`, `list-orgs`, `suspend-org`, `resume-org`

use clap::Args;

use super::failure::{CliError, hint};
use super::keys;
use super::render::{Look, Panel, Table};
use super::{Cli, Exit};
use crate::admin::answer::{Command, FailureCode, OrgReply, PAGE};
use crate::model::{Org, OrgStatus};
use crate::time::Timestamp;

#[derive(Args)]
pub(super) struct Name {
    /// The name of the organization
    name: String,
}

#[derive(Args)]
pub(super) struct Update {
    #[command(flatten)]
    org: Name,
    /// A limit that all of its keys share, such as 1000/s, as often as there are limits, in place of
    /// all it has; or `none`
    #[arg(long = "limit", value_name = "LIMIT|none", required = true)]
    limits: Vec<String>,
}

pub(super) fn update(cli: &Cli, Update { org, limits }: Update) -> Result<Exit, CliError> {
    let command = Command::UpdateOrg {
        org_name: org.name,
        limits: keys::replaced(limits, "none").unwrap_or_default(),
    };
    change(cli, command, "Organization updated")
}

pub(super) fn create(cli: &Cli, Name { name }: Name) -> Result<Exit, CliError> {
    let command = Command::CreateOrg { org_name: name };
    let created = cli.ask(command, |org, look| {
        panel("Organization created", org, look)
    });
    hint(created, |failure| match failure.code {
        FailureCode::Conflict => "list-orgs".into(),
        _ => "create-org NAME".into(),
    })?;
    Ok(Exit::Done)
}

pub(super) fn suspend(cli: &Cli, Name { name }: Name) -> Result<Exit, CliError> {
    let command = Command::SuspendOrg { org_name: name };
    change(cli, command, "Organization suspended")
}

pub(super) fn resume(cli: &Cli, Name { name }: Name) -> Result<Exit, CliError> {
    let command = Command::ResumeOrg { org_name: name };
    change(cli, command, "Organization resumed")
}

fn change(cli: &Cli, command: Command, title: &'static str) -> Result<Exit, CliError> {
    let changed = cli.ask(command, |org, look| panel(title, org, look));
    hint(changed, |failure| match failure.code {
        FailureCode::Invalid => "update-org --help".into(),
        _ => "list-orgs".into(),
    })?;
    Ok(Exit::Done)
}

pub(super) fn list(cli: &Cli) -> Result<Exit, CliError> {
    let mut session = cli.session()?;
    let mut orgs: Vec<OrgReply> = Vec::new();
    loop {
        let after = orgs.last().map(|listed| listed.org.id);
        let page: Vec<OrgReply> = session.get(Command::ListOrgs { after, limit: PAGE })?;
        // A page may end early: it goes by bytes too.
        let is_last = page.is_empty();
        orgs.extend(page);
        if is_last {
            break;
        }
    }
    if cli.json {
        cli.print_json(&serde_json::to_value(&orgs)?)?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&[">id", "~name", "status", "~limits", "created"]);
    for OrgReply { org, .. } in &orgs {
        let (id, created) = (org.id.to_string(), seconds(org.created_at));
        let (status, limits) = (status(org.status).to_owned(), keys::limits(&org.limits));
        table.row([id, org.name.clone(), status, limits, created]);
    }
    super::print(&if table.is_empty() {
        "No organizations yet: keyguard create-org NAME\n".to_owned()
    } else {
        table.render(cli.look)
    })?;
    Ok(Exit::Done)
}

/// The organization of this name.
pub(super) fn named(cli: &Cli, name: &str) -> Result<Option<Org>, CliError> {
    let mut session = cli.session()?;
    let mut after = None;
    loop {
        let page: Vec<Org> = session.get(Command::ListOrgs { after, limit: PAGE })?;
        let Some(last) = page.last() else {
            return Ok(None);
        };
        after = Some(last.id);
        if let Some(found) = page.into_iter().find(|org| org.name == name) {
            return Ok(Some(found));
        }
    }
}

fn panel(title: &'static str, org: &Org, look: Look) -> String {
    Panel::new(title)
        .line("id", org.id)
        .line("name", &org.name)
        .line("status", status(org.status))
        .line("limits", keys::limits(&org.limits))
        .line("created", seconds(org.created_at))
        .render(look)
}

fn status(status: OrgStatus) -> &'static str {
    match status {
        OrgStatus::Active => "active",
        OrgStatus::Suspended => "suspended",
    }
}

/// A time to the second.
pub(super) fn seconds(at: Timestamp) -> String {
    Timestamp::from_unix_millis(at.unix_millis() / 1_000 * 1_000).to_string()
}

/// A time to the day, for tables.
pub(super) fn day(at: Timestamp) -> String {
    let mut text = at.to_string();
    text.truncate("2026-11-24".len());
    text
}

/// A time to the second; in a terminal, where room is short, without the year.
pub(super) fn shown(time: Timestamp, look: Look) -> String {
    let text = super::orgs::seconds(time);
    match (look.is_terminal, text.get(5..19)) {
        (true, Some(short)) => short.replace('T', " "),
        _ => text,
    }
}
