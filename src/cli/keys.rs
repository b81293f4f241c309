//! `create-key`, `list-keys`, `update-key`, `rotate-key`, `revoke-key`

use clap::Args;

use super::failure::{CliError, hint, quoted};
use super::orgs::{self, day, seconds};
use super::render::{Look, Panel, Table};
use super::{Cli, Exit};
use crate::admin::answer::{Command, Failure, FailureCode, ListedKey, NewKeyReply, PAGE, Rotation};
use crate::admin::{CreateKey, ListKeys, UpdateKey};
use crate::limit::Limit;
use crate::model::{Key, KeyId};
use crate::time::Timestamp;

#[derive(Args)]
pub(super) struct Create {
    /// The organization that will own the key
    #[arg(long, value_name = "NAME")]
    org: String,
    /// What its owner calls it
    #[arg(long)]
    label: String,
    /// Requests admitted in any 60 seconds [default: 60]
    #[arg(long, value_name = "N")]
    rate_limit: Option<u32>,
    /// A further limit, such as 10/s, "500000 monthly", "5000 credits" or "8 concurrent"; as often as
    /// there are limits
    #[arg(long = "limit", value_name = "LIMIT")]
    limits: Vec<String>,
    /// From where it is accepted: addresses and networks [default: from everywhere]
    #[arg(long = "allow-ip", value_delimiter = ',', value_name = "A,B")]
    allowed_ips: Vec<String>,
    /// What it may do
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    scopes: Vec<String>,
    /// The start of its text [default: kg_live_]
    #[arg(long)]
    prefix: Option<String>,
    /// From when on it is refused, such as 2030-12-31T23:59:59Z [default: never]
    #[arg(long, value_name = "TIME")]
    expires_at: Option<Timestamp>,
}

#[derive(Args)]
pub(super) struct List {
    /// Only keys of this organization
    #[arg(long, value_name = "NAME")]
    org: Option<String>,
}

#[derive(Args)]
pub(super) struct Which {
    /// The id of the key, or its whole prefix, as list-keys shows them
    #[arg(value_name = "ID|PREFIX")]
    key: String,
}

#[derive(Args)]
pub(super) struct Rotate {
    #[command(flatten)]
    which: Which,
    /// How long the old text is accepted, such as "1 hour", or 0; that of a key that has expired is not
    #[arg(long, default_value = "1 hour", value_name = "DURATION")]
    grace: String,
    /// A new time of expiry, or `none`. A key that has expired needs one
    #[arg(long, value_name = "TIME|none", value_parser = or_none::<Timestamp>)]
    expires_at: Option<OrNone<Timestamp>>,
}

#[derive(Args)]
pub(super) struct Update {
    #[command(flatten)]
    which: Which,
    /// A new label
    #[arg(long)]
    label: Option<String>,
    /// A new limit in any 60 seconds
    #[arg(long, value_name = "N")]
    rate_limit: Option<u32>,
    /// A new further limit, as often as there are limits, in place of all it has; or `none`
    #[arg(long = "limit", value_name = "LIMIT|none")]
    limits: Vec<String>,
    /// From where it is accepted from now on, or `any`
    #[arg(long = "allow-ip", value_delimiter = ',', value_name = "A,B|any")]
    allowed_ips: Vec<String>,
    /// New scopes, in place of all it has; "" for none
    #[arg(long, value_name = "A,B")]
    scopes: Option<String>,
    /// A new time of expiry, or `none`
    #[arg(long, value_name = "TIME|none", value_parser = or_none::<Timestamp>)]
    expires_at: Option<OrNone<Timestamp>>,
    /// Accept a key again that has expired, though its text may have leaked since; `rotate-key` gives
    /// it a new one
    #[arg(long, requires = "expires_at")]
    reactivate: bool,
}

/// A value, or the word `none`.
#[derive(Clone)]
struct OrNone<T>(Option<T>);

fn or_none<T: std::str::FromStr>(text: &str) -> Result<OrNone<T>, T::Err> {
    match text {
        // As panels and lists show it.
        "none" | "never" => Ok(OrNone(None)),
        text => text.parse().map(|value| OrNone(Some(value))),
    }
}

pub(super) fn create(cli: &Cli, create: Create) -> Result<Exit, CliError> {
    let org = create.org.clone();
    let command = Command::CreateKey(CreateKey {
        org_name: create.org,
        label: create.label,
        scopes: create.scopes,
        rate_limit_per_minute: create.rate_limit,
        limits: create.limits,
        allowed_ips: create.allowed_ips,
        expires_at: create.expires_at,
        prefix: create.prefix,
    });
    let created = cli.session()?.ask(command);
    let created = hint(created.map_err(CliError::from), |failure| {
        match failure.code {
            FailureCode::NotFound => format!("create-org {}", quoted(&org)),
            _ => "create-key --help".into(),
        }
    })?;
    let reply: NewKeyReply = serde_json::from_value(created.clone())?;
    let shown = cli.show_key(&created, || new_key("API key created", &reply, cli.look));
    shown.map_err(|error| {
        let id = reply.key.id;
        unseen(error, || {
            let key = id.to_string();
            match cli.session()?.ask(Command::RevokeKey { key }) {
                Ok(_) => Ok(format!("key {id} was revoked")),
                Err(failure) => Ok(format!(
                    "key {id} is active and could not be revoked: {}",
                    failure.message
                )),
            }
        })
    })?;
    Ok(Exit::Done)
}

/// Writes the new text first: the old one is given up only for one that its owner has.
pub(super) fn rotate(cli: &Cli, rotate: Rotate) -> Result<Exit, CliError> {
    let mut rotation = Rotation {
        key: rotate.which.key,
        grace: rotate.grace,
        expires_at: rotate.expires_at.map(|time| time.0),
        raw_key: None,
    };
    let prepared = cli
        .session()?
        .ask(Command::PrepareRotation(rotation.clone()));
    let prepared = hint(prepared.map_err(CliError::from), |failure| {
        next(failure, "rotate-key")
    })?;
    let reply: NewKeyReply = serde_json::from_value(prepared.clone())?;
    let shown = cli.show_key(&prepared, || new_key("API key rotated", &reply, cli.look));
    shown.map_err(|error| unseen(error, || Ok("the key keeps its old text".to_owned())))?;
    rotation.key = reply.key.id.to_string();
    rotation.raw_key = Some(reply.raw_key);
    let rotated = cli.session().and_then(|mut session| {
        let rotated = session.ask(Command::RotateKey(rotation));
        hint(rotated.map_err(CliError::from), |failure| {
            next(failure, "rotate-key")
        })
    });
    match rotated {
        Ok(_) => Ok(Exit::Done),
        Err(error) => Err(CliError::Rotation {
            outcome: match error.failure().map(|failure| failure.code) {
                Some(FailureCode::Unavailable) => {
                    "it is not known whether the text shown is in force; `keyguard check` tells"
                }
                _ => "the text shown is not in force",
            },
            source: Box::new(error),
        }),
    }
}

/// The error for the text of a key that could not be written, after `undo`, which says what it did.
fn unseen(error: CliError, undo: impl FnOnce() -> Result<String, CliError>) -> CliError {
    match error {
        CliError::Output(source) => CliError::Unseen {
            source,
            outcome: undo().unwrap_or_else(|error| error.to_string()),
        },
        error => error,
    }
}

pub(super) fn revoke(cli: &Cli, Which { key }: Which) -> Result<Exit, CliError> {
    let revoked = cli.ask(Command::RevokeKey { key }, |key, look| {
        panel("API key revoked", key, look)
    });
    hint(revoked, |failure| next(failure, "revoke-key"))?;
    Ok(Exit::Done)
}

pub(super) fn update(cli: &Cli, update: Update) -> Result<Exit, CliError> {
    let found = cli.session()?.get(Command::FindKey {
        key: update.which.key,
    });
    let found: Key = hint(found.map_err(CliError::from), |failure| {
        next(failure, "update-key")
    })?;
    let list = |text: String| -> Vec<String> {
        let scopes = text.split(',').map(str::to_owned);
        scopes.filter(|scope| !scope.is_empty()).collect()
    };
    let command = Command::UpdateKey(UpdateKey {
        label: update.label,
        scopes: update.scopes.map(list),
        rate_limit_per_minute: update.rate_limit,
        limits: replaced(update.limits, "none"),
        allowed_ips: replaced(update.allowed_ips, "any"),
        expires_at: update.expires_at.map(|time| time.0),
        reactivate: update.reactivate,
        ..UpdateKey::new(found.id)
    });
    let updated = cli.ask(command, |key, look| panel("API key updated", key, look));
    hint(updated, |failure| next(failure, "update-key"))?;
    Ok(Exit::Done)
}

/// What to type after a key was not found, or was not the only one.
pub(super) fn next(failure: &Failure, command: &str) -> String {
    match failure.code {
        FailureCode::Ambiguous => format!("{command} ID"),
        FailureCode::Invalid => format!("{command} --help"),
        _ => "list-keys".into(),
    }
}

pub(super) fn list(cli: &Cli, list: &List) -> Result<Exit, CliError> {
    let org_id = match &list.org {
        None => None,
        Some(name) => match orgs::named(cli, name)? {
            Some(org) => Some(org.id),
            None => {
                let message = format!("there is no organization named `{name}`");
                let failure = Failure::new(FailureCode::NotFound, message);
                return Err(CliError::Hinted(failure, "list-orgs".into()));
            }
        },
    };
    let mut session = cli.session()?;
    let mut keys: Vec<ListedKey> = Vec::new();
    loop {
        let after: Option<KeyId> = keys.last().map(|listed| listed.key.id);
        let limit = PAGE;
        let request = ListKeys {
            org_id,
            after,
            limit,
        };
        let page: Vec<ListedKey> = session.get(Command::ListKeys(request))?;
        // A page may end early: it goes by bytes too.
        let is_last = page.is_empty();
        keys.extend(page);
        if is_last {
            break;
        }
    }
    if cli.json {
        cli.print_json(&serde_json::to_value(&keys)?)?;
        return Ok(Exit::Done);
    }
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
    for ListedKey { key, org_name } in &keys {
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
    super::print(&if table.is_empty() {
        "No keys yet: keyguard create-key --org NAME --label LABEL\n".to_owned()
    } else {
        table.render(cli.look)
    })?;
    Ok(Exit::Done)
}

fn new_key(title: &'static str, reply: &NewKeyReply, look: Look) -> String {
    let about = lines(Panel::new(title).copied("key", &reply.raw_key), &reply.key);
    about
        .line(
            "note",
            "the key is shown this once; only its hash is stored",
        )
        .render(look)
}

pub(super) fn panel(title: &'static str, key: &Key, look: Look) -> String {
    lines(Panel::new(title), key).render(look)
}

fn lines(panel: Panel, key: &Key) -> Panel {
    let mut panel = panel
        .line("id", key.id)
        .line("label", &key.label)
        .line("prefix", &key.prefix)
        .line("status", key.status.as_str())
        .line("per minute", key.rate_limit_per_minute)
        .line("limits", limits(&key.limits))
        .line("scopes", scopes(key))
        .line("expires", key.expires_at.map_or("never".into(), seconds));
    if !key.allowed_ips.is_empty() {
        panel = panel.line("accepted from", key.allowed_ips.texts().join(", "));
    }
    for lift in &key.lifts {
        panel = panel.line(
            "lifted",
            format!("{} until {}", lift.rule, seconds(lift.until)),
        );
    }
    panel
}

pub(super) fn limits(limits: &[Limit]) -> String {
    let limits: Vec<String> = limits.iter().map(Limit::to_string).collect();
    if limits.is_empty() {
        "-".to_owned()
    } else {
        limits.join(", ")
    }
}

/// What is to be in place of a list: nothing given leaves it, and one word empties it.
pub(super) fn replaced(list: Vec<String>, nothing: &str) -> Option<Vec<String>> {
    match list.as_slice() {
        [] => None,
        [only] if only == nothing => Some(Vec::new()),
        _ => Some(list),
    }
}

fn scopes(key: &Key) -> String {
    let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.as_str()).collect();
    if scopes.is_empty() {
        "-".to_owned()
    } else {
        scopes.join(",")
    }
}
