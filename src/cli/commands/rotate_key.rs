//! `rotate-key`

use clap::Args;

use crate::admin::FailureCode;
use crate::admin::command::{FinishRotation, PrepareRotation, RotateKeyCommand};
use crate::cli::args::{KeyArg, OrNone};
use crate::cli::new_key::NewKey;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::time::Timestamp;

const EXAMPLES: &str = "Examples:
  keyguard rotate-key 7                        # the old text works for an hour
  keyguard rotate-key 7 --grace \"7 days\"
  keyguard rotate-key kg_live_xvC3 --grace 0   # the text has leaked
  KEY=$(keyguard rotate-key 7 --quiet)";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
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
    /// Print the text of the key alone, for scripts
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
}

/// Prints the new text before it takes effect: a text that nobody has seen never replaces the old one.
pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    let mut connection = cli.connect()?;
    let rotation = RotateKeyCommand {
        id: connection.key_id(opts.key.key)?,
        grace: opts.duration,
        expires_at: opts.expires_at.map(|time| time.0),
    };
    cli.put_off_signals();
    let prepared = connection.execute(PrepareRotation(rotation.clone()))?;
    drop(connection);
    let new = NewKey {
        title: "API key rotated",
        quiet: opts.quiet,
        reply: prepared,
        init: None,
    };
    let new = new.print(cli, |_| "the key keeps its old text".to_owned())?;
    let command = FinishRotation {
        rotation,
        raw_key: new.raw_key,
    };
    match finish(cli, command) {
        Ok(()) => Ok(Exit::Done),
        Err(error) => Err(CliError::Rotation {
            outcome: match error.failure().map(|failure| failure.code) {
                Some(FailureCode::Unavailable) => {
                    "it is unknown whether the printed key is in force; verify it with `keyguard check`"
                }
                _ => "the printed key is not in force",
            },
            source: Box::new(error),
        }),
    }
}

fn finish(cli: &Cli, command: FinishRotation) -> Result<(), CliError> {
    cli.connect()?.execute(command)?;
    Ok(())
}
