//! `completions`

use clap::Args;
use clap_complete::Shell;

use crate::cli::output::write_out;
use crate::cli::{error::CliError, exit::Exit};

const EXAMPLES: &str = "Examples:
  source <(keyguard completions bash)
  keyguard completions zsh > ~/.zfunc/_keyguard
  keyguard completions fish > ~/.config/fish/completions/keyguard.fish

`keyguard install-docs` installs the scripts for bash, zsh and fish, and the manual pages.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(opts: &Opts, definition: clap::Command) -> Result<Exit, CliError> {
    write_out(&script(opts.shell, definition))?;
    Ok(Exit::Done)
}

/// Returns the completion script for a shell.
pub(crate) fn script(shell: Shell, mut definition: clap::Command) -> Vec<u8> {
    // `generate` panics if it cannot write, which a vector always accepts.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut definition, "keyguard", &mut script);
    script
}
