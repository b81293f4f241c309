//! `resume-key`

use crate::admin::command::ResumeKey;
use crate::cli::args::KeyArg;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

pub(crate) const EXAMPLES: &str = "Examples:
  keyguard resume-key 7
  keyguard resume-key kg_live_xvC3";

pub(crate) type Opts = KeyArg;

pub(crate) fn run(cli: &Cli, key: Opts) -> Result<Exit, CliError> {
    key.change(cli, "API key resumed", |id| ResumeKey { id })
}
