//! `rotate-key`

use clap::Args;

use crate::admin::answer::{Command, FailureCode, NewKeyReply, Rotation};
use crate::cli::args::{KeyArg, OrNone};
use crate::cli::format::new_key_panel;
use crate::cli::output::require_stdout;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::time::Timestamp;

#[derive(Args)]
pub(crate) struct Opts {
    #[command(flatten)]
    key: KeyArg,
    /// How long the old text is accepted, such as "1 hour", or 0. The old text of an expired key is
    /// always refused
    #[arg(long = "grace", default_value = "1 hour", value_name = "DURATION")]
    duration: String,
    /// A new expiry time, or `none`. Required for an expired key
    #[arg(long, value_name = "TIME|none")]
    expires_at: Option<OrNone<Timestamp>>,
}

/// Prints the new text before it takes effect: a text that nobody has seen never replaces the old one.
pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    let mut rotation = Rotation {
        key: opts.key.key,
        grace: opts.duration,
        expires_at: opts.expires_at.map(|time| time.0),
        raw_key: None,
    };
    let prepared = cli
        .session()?
        .ask(Command::PrepareRotation(rotation.clone()))?;
    let reply: NewKeyReply = serde_json::from_value(prepared.clone())?;
    let printed = require_stdout().and_then(|()| {
        cli.print(&prepared, |look| {
            new_key_panel("API key rotated", &reply, look)
        })
    });
    printed.map_err(|error| match error {
        CliError::Output(source) => CliError::Unseen {
            source,
            outcome: "the key keeps its old text".to_owned(),
        },
        error => error,
    })?;
    rotation.key = reply.key.id.to_string();
    rotation.raw_key = Some(reply.raw_key);
    match rotate(cli, rotation) {
        Ok(()) => Ok(Exit::Done),
        Err(error) => Err(CliError::Rotation {
            outcome: match error.failure().map(|failure| failure.code) {
                Some(FailureCode::Unavailable) => {
                    "it is not known whether the printed key is in force; `keyguard check` tells"
                }
                _ => "the printed key is not in force",
            },
            source: Box::new(error),
        }),
    }
}

fn rotate(cli: &Cli, rotation: Rotation) -> Result<(), CliError> {
    cli.session()?.ask(Command::RotateKey(rotation))?;
    Ok(())
}
