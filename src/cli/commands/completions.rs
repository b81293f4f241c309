//! `completions`

use clap::Args;
use clap_complete::Shell;

use crate::cli::output::write_out;
use crate::cli::{error::CliError, exit::Exit};

#[derive(Args)]
pub(crate) struct Opts {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(opts: &Opts, mut definition: clap::Command) -> Result<Exit, CliError> {
    // `generate` panics if it cannot write, which a vector always accepts.
    let mut script = Vec::new();
    clap_complete::generate(opts.shell, &mut definition, "keyguard", &mut script);
    write_out(&script)?;
    Ok(Exit::Done)
}
