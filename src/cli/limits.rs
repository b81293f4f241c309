//! `limits`, `reset`, `lift`, `reload`

use clap::Args;

use super::failure::{CliError, hint};
use super::keys;
use super::render::{Look, Panel, Table};
use super::{Cli, Exit};
use crate::admin::answer::{Command, FailureCode, Whose};
use crate::guard::RuleState;

#[derive(Args)]
#[group(required = true, multiple = false)]
pub(super) struct Who {
    /// The id of a key, or its whole prefix, as list-keys shows them
    #[arg(value_name = "ID|PREFIX")]
    key: Option<String>,
    /// An address, instead of a key
    #[arg(long)]
    ip: Option<String>,
}

impl From<Who> for Whose {
    fn from(Who { key, ip }: Who) -> Self {
        match (key, ip) {
            (Some(key), _) => Self::Key(key),
            (None, ip) => Self::Ip(ip.unwrap_or_default()),
        }
    }
}

#[derive(Args)]
pub(super) struct Reset {
    #[command(flatten)]
    who: Who,
    /// Only the limit of this name, as `limits` shows it
    #[arg(long, value_name = "NAME", conflicts_with = "ip")]
    limit: Option<String>,
}

#[derive(Args)]
pub(super) struct LimitOverride {
    /// The id of the key, or its whole prefix, as list-keys shows them
    #[arg(value_name = "ID|PREFIX")]
    key: String,
    /// The name of the limit, as `limits` shows it
    #[arg(long, value_name = "NAME")]
    limit: String,
    /// For how long, such as "1 hour", or until when, such as "4:00 PM"
    #[arg(long = "for", value_name = "DURATION", required_unless_present = "end")]
    duration: Option<String>,
    /// End the lift now
    #[arg(long, conflicts_with = "duration")]
    end: bool,
}

pub(super) fn show(cli: &Cli, who: Who) -> Result<Exit, CliError> {
    let shown = cli.ask(
        Command::Limits(who.into()),
        |states: &Vec<RuleState>, look| table(states, look),
    );
    hint(shown, |failure| keys::next(failure, "limits"))?;
    Ok(Exit::Done)
}

pub(super) fn reset(cli: &Cli, Reset { who, limit }: Reset) -> Result<Exit, CliError> {
    let command = Command::Reset {
        whose: who.into(),
        rule: limit,
    };
    let reset = cli.ask(command, |states: &Vec<RuleState>, look| table(states, look));
    hint(reset, |failure| keys::next(failure, "reset"))?;
    Ok(Exit::Done)
}

pub(super) fn lift(cli: &Cli, lift: LimitOverride) -> Result<Exit, CliError> {
    let command = Command::LimitOverride {
        key: lift.key,
        rule: lift.limit,
        duration: lift.duration,
    };
    let title = if lift.end {
        "Lift ended"
    } else {
        "Limit lifted"
    };
    let lifted = cli.ask(command, |key, look| keys::panel(title, key, look));
    hint(lifted, |failure| keys::next(failure, "lift"))?;
    Ok(Exit::Done)
}

pub(super) fn reload(cli: &Cli) -> Result<Exit, CliError> {
    if cli.is_on_server() {
        return Err(CliError::ReloadOfMany);
    }
    let reloaded = cli.ask(Command::Reload, |_: &serde_json::Value, look| {
        Panel::new("Policy reloaded")
            .line("in force", "yes")
            .render(look)
    });
    hint(reloaded, |failure| match failure.code {
        FailureCode::Invalid => "reload    # once the file is mended".into(),
        _ => "serve --policy FILE".into(),
    })?;
    Ok(Exit::Done)
}

pub(super) fn table(states: &[RuleState], look: Look) -> String {
    let mut table = Table::new(&["~rule", ">limit", ">remaining", ">reset"]);
    for state in states {
        table.row([
            state.name.clone(),
            state.limit.to_string(),
            state.remaining.to_string(),
            state
                .reset
                .map_or("-".to_owned(), |seconds| format!("{seconds} s")),
        ]);
    }
    table.render(look)
}
