//! Commands of a feature that this build lacks.

use std::ffi::OsString;

use clap::Args;

use crate::cli::{error::CliError, exit::Exit};

#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Opts {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Refuses the command, whatever its arguments are.
pub(crate) fn run(command: &'static str, _: Opts) -> Result<Exit, CliError> {
    Err(CliError::AbsentCommand(command))
}
